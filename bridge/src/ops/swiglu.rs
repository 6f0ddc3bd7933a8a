//! The gated unit of the Llama family: `y = silu(g) ∘ u` with `silu(g) = g σ(g)`.

use super::simd::{exp, for_each_piece, vectorized};

const PIECE: usize = 1 << 15;

/// `y = silu(gate) ∘ up`.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for_each_piece(y, PIECE, |i, y| {
        let (gate, up) = (&gate[i * PIECE..][..y.len()], &up[i * PIECE..][..y.len()]);
        vectorized(
            #[inline(always)]
            || {
                for (y, (&g, &u)) in y.iter_mut().zip(gate.iter().zip(up)) {
                    *y = g * sigmoid(g) * u;
                }
            },
        );
    });
}

/// The backward pass, from `dy` holding `∂y`: `dy` becomes `∂gate = ∂y ∘ u ∘ silu′(g)`, `dup` becomes `∂up = ∂y ∘ silu(g)`, and `y` is written
/// again (the next weight's gradient needs it). `silu′(g) = σ (1 + g (1 − σ))`.
pub fn backward(gate: &[f32], up: &[f32], dy: &mut [f32], dup: &mut [f32], y: &mut [f32]) {
    let mut pieces: Vec<_> = dy
        .chunks_mut(PIECE)
        .zip(dup.chunks_mut(PIECE))
        .zip(y.chunks_mut(PIECE))
        .collect();
    for_each_piece(&mut pieces, 1, |i, piece| {
        for ((dy, dup), y) in piece {
            let n = y.len();
            let (gate, up) = (&gate[i * PIECE..][..n], &up[i * PIECE..][..n]);
            let (dy, dup, y) = (&mut dy[..n], &mut dup[..n], &mut y[..n]);
            vectorized(
                #[inline(always)]
                || {
                    for j in 0..n {
                        let (g, u, d) = (gate[j], up[j], dy[j]);
                        let s = sigmoid(g);
                        let silu = g * s;
                        y[j] = silu * u;
                        dup[j] = d * silu;
                        dy[j] = d * u * (s * (g * (1.0 - s) + 1.0));
                    }
                },
            );
        }
    });
}

/// `1/(1 + e^{−x})`, without overflow on either side.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let large = 1.0 / (1.0 + e);
    if x < 0.0 { e * large } else { large }
}
