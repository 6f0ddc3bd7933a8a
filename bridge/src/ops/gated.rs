//! The gated unit: `y = act(g) ∘ u`.

use super::activation::{Activation, gelu, gelu_tanh, silu};
use super::simd::{for_each_piece, vectorized};

const PIECE: usize = 1 << 15;

/// `y = act(gate) ∘ up`.
pub fn forward(kind: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    for_each_piece(y, PIECE, |i, y| {
        let (gate, up) = (&gate[i * PIECE..][..y.len()], &up[i * PIECE..][..y.len()]);
        match kind {
            Activation::Silu => vectorized(
                #[inline(always)]
                || piece(|g| silu(g).0, gate, up, y),
            ),
            Activation::Gelu => vectorized(
                #[inline(always)]
                || piece(|g| gelu(g).0, gate, up, y),
            ),
            Activation::GeluTanh => vectorized(
                #[inline(always)]
                || piece(|g| gelu_tanh(g).0, gate, up, y),
            ),
        }
    });
}

/// `gate = act(gate) ∘ up` on the calling thread.
pub fn forward_alone(kind: Activation, gate: &mut [f32], up: &[f32]) {
    match kind {
        Activation::Silu => vectorized(
            #[inline(always)]
            || in_place(|g| silu(g).0, gate, up),
        ),
        Activation::Gelu => vectorized(
            #[inline(always)]
            || in_place(|g| gelu(g).0, gate, up),
        ),
        Activation::GeluTanh => vectorized(
            #[inline(always)]
            || in_place(|g| gelu_tanh(g).0, gate, up),
        ),
    }
}

#[inline(always)]
fn in_place(act: impl Fn(f32) -> f32, gate: &mut [f32], up: &[f32]) {
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = act(*g) * u;
    }
}

#[inline(always)]
fn piece(act: impl Fn(f32) -> f32, gate: &[f32], up: &[f32], y: &mut [f32]) {
    for (y, (&g, &u)) in y.iter_mut().zip(gate.iter().zip(up)) {
        *y = act(g) * u;
    }
}

/// The backward pass, from `dy` holding `∂y`: `dy` becomes `∂gate = ∂y ∘ u ∘ act′(g)`, `dup` becomes `∂up = ∂y ∘ act(g)`, and `y` is written
/// again (the next weight's gradient needs it).
pub fn backward(
    kind: Activation,
    gate: &[f32],
    up: &[f32],
    dy: &mut [f32],
    dup: &mut [f32],
    y: &mut [f32],
) {
    let mut pieces: Vec<_> = dy
        .chunks_mut(PIECE)
        .zip(dup.chunks_mut(PIECE))
        .zip(y.chunks_mut(PIECE))
        .collect();
    for_each_piece(&mut pieces, 1, |i, parts| {
        for ((dy, dup), y) in parts {
            let n = y.len();
            let (gate, up) = (&gate[i * PIECE..][..n], &up[i * PIECE..][..n]);
            let (dy, dup, y) = (&mut dy[..n], &mut dup[..n], &mut y[..n]);
            match kind {
                Activation::Silu => vectorized(
                    #[inline(always)]
                    || piece_backward(silu, gate, up, dy, dup, y),
                ),
                Activation::Gelu => vectorized(
                    #[inline(always)]
                    || piece_backward(gelu, gate, up, dy, dup, y),
                ),
                Activation::GeluTanh => vectorized(
                    #[inline(always)]
                    || piece_backward(gelu_tanh, gate, up, dy, dup, y),
                ),
            }
        }
    });
}

#[inline(always)]
fn piece_backward(
    act: impl Fn(f32) -> (f32, f32),
    gate: &[f32],
    up: &[f32],
    dy: &mut [f32],
    dup: &mut [f32],
    y: &mut [f32],
) {
    for j in 0..y.len() {
        let (g, u, d) = (gate[j], up[j], dy[j]);
        let (value, slope) = act(g);
        y[j] = value * u;
        dup[j] = d * value;
        dy[j] = d * u * slope;
    }
}
