//! One number a token: `v = w·h + b`, the value head and the reward head.

use super::simd::{dot, for_each_piece, vectorized};

/// `out[i] = w·h_i + b` for `h [rows, width]`.
pub fn forward(hidden: &[f32], weight: &[f32], bias: f32, out: &mut [f32]) {
    const PIECE: usize = 256;
    let width = weight.len();
    for_each_piece(out, PIECE, |i, out| {
        vectorized(
            #[inline(always)]
            || {
                let rows = hidden[i * PIECE * width..].chunks_exact(width);
                out.iter_mut()
                    .zip(rows)
                    .for_each(|(out, h)| *out = dot(h, weight) + bias);
            },
        );
    });
}

/// `∂h_i += g_i w`.
pub fn backward_input(weight: &[f32], grad: &[f32], dhidden: &mut [f32]) {
    let width = weight.len();
    vectorized(
        #[inline(always)]
        || {
            for (row, &g) in dhidden.chunks_exact_mut(width).zip(grad) {
                row.iter_mut()
                    .zip(weight)
                    .for_each(|(d, w)| *d = g.mul_add(*w, *d));
            }
        },
    );
}

/// `∂w += Σ_i g_i h_i`.
pub fn backward_weight(hidden: &[f32], grad: &[f32], dweight: &mut [f32]) {
    let width = dweight.len();
    vectorized(
        #[inline(always)]
        || {
            for (row, &g) in hidden.chunks_exact(width).zip(grad) {
                dweight
                    .iter_mut()
                    .zip(row)
                    .for_each(|(d, h)| *d = g.mul_add(*h, *d));
            }
        },
    );
}
