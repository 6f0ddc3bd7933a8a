//! What a family of models must say of itself; the passes over the whole model are written once, on top of it.

use crate::Result;
use crate::lora::{A_SUFFIX, B_SUFFIX};
use crate::ops::buffer::{Buffer, Pool};
use crate::ops::composite;
use crate::ops::gemm::Update;
use crate::ops::linear::{self, Linear};
use crate::ops::lora::{self, Lora};
use crate::ops::rotary::RotaryTable;
use crate::params::{Gradients, Params, Slices};
use candle_core::Tensor;

/// What every kernel of one pass shares.
pub(crate) struct Pass<'a> {
    pub weights: &'a Slices<'a>,
    pub lengths: &'a [usize],
    pub rotary: &'a RotaryTable,
    pub pool: &'a Pool,
    /// The adapter's factor s; `None` leaves the low-rank products out.
    pub adapter: Option<f64>,
}

/// What a block keeps for its backward pass, in an order of its own.
pub(crate) struct BlockTape(pub Vec<Buffer>);

/// The same for candle's autograd: cosines and sines `[B, 1, T, r/2]` and the causal mask `[T, T]`.
pub(crate) struct TensorPass<'a> {
    pub params: &'a Params,
    pub cos: Tensor,
    pub sin: Tensor,
    pub mask: Tensor,
    /// As in [`Pass`].
    pub adapter: Option<f64>,
}

/// A family of decoder-only transformers, one a file. What a configuration knows ([`crate::config::ModelConfig`]) is not asked here.
pub(crate) trait Architecture: std::fmt::Debug + Send + Sync {
    fn block_prefix(&self, block: usize) -> String;
    fn final_norm_prefix(&self) -> &'static str;

    /// `x` becomes the block's output.
    fn forward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        x: &mut [f32],
        keep: bool,
    ) -> Option<BlockTape>;
    /// `dx` comes in as the gradient of the output and leaves as that of the input.
    fn backward(
        &self,
        pass: &Pass<'_>,
        block: usize,
        tape: BlockTape,
        dx: &mut [f32],
        grads: &mut Gradients,
    );
    /// The last norm; returns what its backward pass needs.
    fn final_norm(&self, pass: &Pass<'_>, x: &[f32], y: &mut [f32]) -> Buffer;
    /// Adds the gradient of its input to `dx`.
    fn final_norm_backward(
        &self,
        pass: &Pass<'_>,
        x: &[f32],
        kept: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        grads: &mut Gradients,
    );

    /// One block on candle tensors, `x [B, T, hidden]`.
    fn block_tensor(&self, pass: &TensorPass<'_>, block: usize, x: &Tensor) -> Result<Tensor>;
    /// The last norm on candle tensors.
    fn final_norm_tensor(&self, params: &Params, x: &Tensor) -> Result<Tensor>;
}

impl<'a> Pass<'a> {
    /// The layer `name.weight`, `name.bias`, without an adapter.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Linear<'a> {
        Linear {
            weight: self.weights.get(&format!("{name}.weight")),
            bias: self.weights.find(&format!("{name}.bias")),
            inputs,
            outputs,
        }
    }

    /// What the adapter adds to that layer, if it adapts it.
    fn lora(&self, name: &str, inputs: usize, outputs: usize) -> Option<Lora<'a>> {
        let scale = self.adapter? as f32;
        let a = self.weights.find(&format!("{name}{A_SUFFIX}"))?;
        Some(Lora {
            a,
            b: self.weights.get(&format!("{name}{B_SUFFIX}")),
            rank: a.len() / inputs,
            inputs,
            outputs,
            scale,
        })
    }

    /// `y = x Wᵀ + b` (or `+=`), with `s (x Aᵀ) Bᵀ` where the layer is adapted.
    pub fn linear_forward(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        x: &[f32],
        y: &mut [f32],
        update: Update,
    ) {
        linear::forward(&self.linear(name, inputs, outputs), x, y, update);
        if let Some(lora) = self.lora(name, inputs, outputs) {
            lora::forward(&lora, x, y, self.pool);
        }
    }

    /// Gradients of the layer's weights (unless frozen) and of its input.
    #[allow(
        clippy::too_many_arguments,
        reason = "a layer, its input, and the three gradients"
    )]
    pub fn linear_backward(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        update: Update,
        grads: &mut Gradients,
    ) {
        base_weights_backward(name, inputs, outputs, x, dy, grads);
        linear::backward_input(&self.linear(name, inputs, outputs), dy, dx, update);
        if let Some(lora) = self.lora(name, inputs, outputs) {
            let v = lora::pulled(&lora, dy, self.pool);
            self.factors_backward(name, &lora, x, dy, &v, grads);
            lora::backward_input(&lora, &v, dx);
        }
    }

    /// Gradients of the layer's weights, unless frozen.
    pub fn linear_weights_backward(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        x: &[f32],
        dy: &[f32],
        grads: &mut Gradients,
    ) {
        base_weights_backward(name, inputs, outputs, x, dy, grads);
        if let Some(lora) = self.lora(name, inputs, outputs) {
            let v = lora::pulled(&lora, dy, self.pool);
            self.factors_backward(name, &lora, x, dy, &v, grads);
        }
    }

    /// The gradient of the layer's input alone.
    pub fn linear_input_backward(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        dy: &[f32],
        dx: &mut [f32],
        update: Update,
    ) {
        linear::backward_input(&self.linear(name, inputs, outputs), dy, dx, update);
        if let Some(lora) = self.lora(name, inputs, outputs) {
            lora::backward_input(&lora, &lora::pulled(&lora, dy, self.pool), dx);
        }
    }

    fn factors_backward(
        &self,
        name: &str,
        lora: &Lora<'_>,
        x: &[f32],
        dy: &[f32],
        v: &[f32],
        grads: &mut Gradients,
    ) {
        if let Some(da) = grads.slice_mut(&format!("{name}{A_SUFFIX}")) {
            lora::backward_a(lora, x, v, da);
        }
        if let Some(db) = grads.slice_mut(&format!("{name}{B_SUFFIX}")) {
            lora::backward_b(lora, x, dy, db, self.pool);
        }
    }
}

/// Gradients of weight and bias, unless frozen.
fn base_weights_backward(
    name: &str,
    inputs: usize,
    outputs: usize,
    x: &[f32],
    dy: &[f32],
    grads: &mut Gradients,
) {
    if let Some(dw) = grads.slice_mut(&format!("{name}.weight")) {
        linear::backward_weight(x, dy, dw, inputs, outputs);
    }
    if let Some(db) = grads.slice_mut(&format!("{name}.bias")) {
        linear::backward_bias(dy, db);
    }
}

impl TensorPass<'_> {
    /// The layer `name`, with its adapter; the low-rank part in the adapter's own type, which may be wider than the base's.
    pub fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let bias = self.params.get(&format!("{name}.bias")).ok();
        let weight = self.params.get(&format!("{name}.weight"))?;
        let y = composite::linear(x, weight, bias)?;
        let (Some(scale), Ok(a)) = (self.adapter, self.params.get(&format!("{name}{A_SUFFIX}")))
        else {
            return Ok(y);
        };
        let b = self.params.get(&format!("{name}{B_SUFFIX}"))?;
        let u = (composite::linear(&x.to_dtype(a.dtype())?, a, None)? * scale)?;
        Ok((&y + composite::linear(&u, b, None)?.to_dtype(y.dtype())?)?)
    }
}
