//! What the kernels of one pass on slices share, and linear layers with their adapters.

use crate::lora::{A_SUFFIX, B_SUFFIX};
use crate::ops::buffer::Pool;
use crate::ops::gemm::{Products, Update};
use crate::ops::linear::{self, Linear};
use crate::ops::lora::{self, Lora};
use crate::ops::rotary::RotaryTable;
use crate::params::{Gradients, Slices};

/// What every kernel of one pass shares.
pub(crate) struct Pass<'a> {
    pub weights: &'a Slices<'a>,
    pub lengths: &'a [usize],
    /// Cosines and sines of each rotation ([`crate::family::ModelConfig::rotaries`]).
    pub rotary: &'a [RotaryTable],
    pub pool: &'a Pool,
    /// What the products with weights round.
    pub products: Products,
    /// The adapter's factor s; `None` leaves the low-rank products out.
    pub adapter: Option<f64>,
}

impl<'a> Pass<'a> {
    /// The layer `name.weight`, `name.bias`, without an adapter.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Linear<'a> {
        Linear {
            weight: self.weights.get(&format!("{name}.weight")),
            bias: self.weights.find(&format!("{name}.bias")),
            inputs,
            outputs,
            products: self.products,
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
        base_weights_backward(self.products, name, inputs, outputs, x, dy, grads);
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
        base_weights_backward(self.products, name, inputs, outputs, x, dy, grads);
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
    products: Products,
    name: &str,
    inputs: usize,
    outputs: usize,
    x: &[f32],
    dy: &[f32],
    grads: &mut Gradients,
) {
    if let Some(dw) = grads.slice_mut(&format!("{name}.weight")) {
        linear::backward_weight(products, x, dy, dw, inputs, outputs);
    }
    if let Some(db) = grads.slice_mut(&format!("{name}.bias")) {
        linear::backward_bias(dy, db);
    }
}
