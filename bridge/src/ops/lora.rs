//! The low-rank part of an adapted layer, `y += s (x Aᵀ) Bᵀ` with `A [r, in]` and `B [out, r]` (Hu et al. 2022, section 4.1).
//!
//! With `u = s x Aᵀ` and `v = s ∂y B`: `∂B += ∂yᵀ u`, `∂A += vᵀ x`, `∂x += v A`. `u` is computed again in the backward pass: it costs
//! `r/out` of the layer itself.

use super::buffer::{Buffer, Pool};
use super::gemm::{Products, Update};
use super::linear::{self, Linear};

/// Both factors of one layer's adapter.
#[derive(Debug, Clone, Copy)]
pub struct Lora<'a> {
    /// `A [rank, inputs]`, row-major.
    pub a: &'a [f32],
    /// `B [outputs, rank]`, row-major.
    pub b: &'a [f32],
    /// Inner width r.
    pub rank: usize,
    /// Width of `x`.
    pub inputs: usize,
    /// Width of `y`.
    pub outputs: usize,
    /// s.
    pub scale: f32,
}

impl<'a> Lora<'a> {
    fn down(&self) -> Linear<'a> {
        Linear {
            weight: self.a,
            bias: None,
            inputs: self.inputs,
            outputs: self.rank,
            products: Products::F32,
        }
    }

    fn up(&self) -> Linear<'a> {
        Linear {
            weight: self.b,
            bias: None,
            inputs: self.rank,
            outputs: self.outputs,
            products: Products::F32,
        }
    }
}

/// `y += s (x Aᵀ) Bᵀ`, each row bit for bit the same whatever the other rows are.
pub fn forward(lora: &Lora<'_>, x: &[f32], y: &mut [f32], pool: &Pool) {
    let u = reduced(lora, x, pool);
    linear::forward(&lora.up(), &u, y, Update::Add);
}

/// `u = s x Aᵀ`, `[rows, rank]`.
fn reduced(lora: &Lora<'_>, x: &[f32], pool: &Pool) -> Buffer {
    let mut u = pool.take(x.len() / lora.inputs * lora.rank);
    linear::forward(&lora.down(), x, &mut u, Update::Set);
    u.iter_mut().for_each(|u| *u *= lora.scale);
    u
}

/// `v = s ∂y B`, `[rows, rank]`: what the gradients of `A` and of the input are made of.
pub fn pulled(lora: &Lora<'_>, dy: &[f32], pool: &Pool) -> Buffer {
    let mut v = pool.take(dy.len() / lora.outputs * lora.rank);
    linear::backward_input(&lora.up(), dy, &mut v, Update::Set);
    v.iter_mut().for_each(|v| *v *= lora.scale);
    v
}

/// `∂A += vᵀ x`.
pub fn backward_a(lora: &Lora<'_>, x: &[f32], v: &[f32], da: &mut [f32]) {
    linear::backward_weight(Products::F32, x, v, da, lora.inputs, lora.rank);
}

/// `∂B += ∂yᵀ u`.
pub fn backward_b(lora: &Lora<'_>, x: &[f32], dy: &[f32], db: &mut [f32], pool: &Pool) {
    let u = reduced(lora, x, pool);
    linear::backward_weight(Products::F32, &u, dy, db, lora.rank, lora.outputs);
}

/// `∂x += v A`.
pub fn backward_input(lora: &Lora<'_>, v: &[f32], dx: &mut [f32]) {
    linear::backward_input(&lora.down(), v, dx, Update::Add);
}
