//! What a family of models must say of itself; the passes over the whole model are written once, on top of it.

use crate::Result;
use crate::ops::buffer::{Buffer, Pool};
use crate::ops::gemm::Update;
use crate::ops::linear::{self, Linear};
use crate::ops::rotary::RotaryTable;
use crate::params::{Gradients, Params, Slices};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Sizes that the passes need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub vocabulary: usize,
    pub hidden: usize,
    pub layers: usize,
    pub max_positions: usize,
}

/// What every kernel of one pass shares.
pub(crate) struct Pass<'a> {
    pub weights: &'a Slices<'a>,
    pub lengths: &'a [usize],
    pub rotary: &'a RotaryTable,
    pub pool: &'a Pool,
}

/// What a block keeps for its backward pass, in an order of its own.
pub(crate) struct BlockTape(pub Vec<Buffer>);

/// The same for candle's autograd: cosines and sines `[B, 1, T, r/2]` and the causal mask `[T, T]`.
pub(crate) struct TensorPass<'a> {
    pub params: &'a Params,
    pub cos: Tensor,
    pub sin: Tensor,
    pub mask: Tensor,
}

/// A family of decoder-only transformers. Another one (Llama) is another implementation, in another file.
pub(crate) trait Architecture: std::fmt::Debug + Send + Sync {
    fn dims(&self) -> Dims;
    /// Names and shapes of trunk and language-model head.
    fn shapes(&self) -> BTreeMap<String, Vec<usize>>;
    fn embedding(&self) -> &'static str;
    /// The output head; the embedding where they are tied.
    fn head(&self) -> &'static str;
    fn block_prefix(&self, block: usize) -> String;
    fn final_norm_prefix(&self) -> &'static str;
    fn rotary(&self, positions: &[u32]) -> RotaryTable;

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
    /// The layer `name.weight`, `name.bias`.
    pub fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Linear<'a> {
        Linear {
            weight: self.weights.get(&format!("{name}.weight")),
            bias: self.weights.find(&format!("{name}.bias")),
            inputs,
            outputs,
        }
    }

    /// Gradients of weight and bias (unless frozen) and of the input.
    pub fn linear_backward(
        &self,
        name: &str,
        layer: &Linear<'_>,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        grads: &mut Gradients,
    ) {
        linear_weights_backward(name, layer, x, dy, grads);
        linear::backward_input(layer, dy, dx, Update::Set);
    }
}

/// Gradients of weight and bias, unless frozen.
pub(crate) fn linear_weights_backward(
    name: &str,
    layer: &Linear<'_>,
    x: &[f32],
    dy: &[f32],
    grads: &mut Gradients,
) {
    if let Some(dw) = grads.slice_mut(&format!("{name}.weight")) {
        linear::backward_weight(x, dy, dw, layer.inputs, layer.outputs);
    }
    if let Some(db) = grads.slice_mut(&format!("{name}.bias")) {
        linear::backward_bias(dy, db);
    }
}
