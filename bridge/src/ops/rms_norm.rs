//! Root-mean-square normalisation: `y = x r ∘ γ` with `r = 1/√(mean(x²) + ε)` over the last dimension.
//!
//! As with [`super::layer_norm`], the one statistic of a row is kept and the output is made again where it is needed.

use super::simd::{Number, Panel, for_each_piece, lane_sum, vectorized};

const PIECE: usize = 128;

/// `r` of every row of `x [rows, width]`, into `stats [rows]`.
pub fn statistics(x: &[f32], width: usize, epsilon: f64, stats: &mut [f32]) {
    for_each_piece(stats, PIECE, |i, stats| {
        vectorized(
            #[inline(always)]
            || {
                let x = x[i * PIECE * width..].chunks_exact(width);
                for (stat, x) in stats.iter_mut().zip(x) {
                    *stat = root(x, epsilon as f32);
                }
            },
        );
    });
}

/// `r` of one row, or of each of a panel's.
#[inline(always)]
fn root<T: Number>(x: &[T], epsilon: f32) -> T {
    let width = x.len();
    let square = lane_sum(width, |j| x[j].times(x[j])).over(width as f32);
    square.plus(T::of(epsilon)).inverse_root()
}

#[inline(always)]
fn write<T: Number>(x: &[T], scale: T, gain: &[f32], y: &mut [T]) {
    let width = gain.len();
    let (x, y) = (&x[..width], &mut y[..width]);
    for j in 0..width {
        y[j] = x[j].times(scale).times(T::of(gain[j]));
    }
}

/// `y = x r ∘ γ` of sixteen rows side by side: each as [`statistics`] and [`apply`] have it, bit for bit.
pub(crate) fn panel(x: &[Panel], epsilon: f32, gain: &[f32], y: &mut [Panel]) {
    vectorized(
        #[inline(always)]
        || write(x, root(x, epsilon), gain, y),
    );
}

/// `y = x r ∘ γ` with the statistics of [`statistics`].
pub fn apply(x: &[f32], stats: &[f32], gain: &[f32], y: &mut [f32]) {
    let width = gain.len();
    for_each_piece(y, PIECE * width, |i, y| {
        vectorized(
            #[inline(always)]
            || {
                let rows = x[i * PIECE * width..].chunks_exact(width);
                let rows = rows.zip(&stats[i * PIECE..]);
                for (y, (x, &scale)) in y.chunks_exact_mut(width).zip(rows) {
                    write(x, scale, gain, y);
                }
            },
        );
    });
}

/// `∂x += r (g − x̂ mean(g x̂))` with `g = ∂y ∘ γ` and `x̂ = x r`.
pub fn backward_input(x: &[f32], stats: &[f32], gain: &[f32], dy: &[f32], dx: &mut [f32]) {
    let width = gain.len();
    for_each_piece(dx, PIECE * width, |i, dx| {
        vectorized(
            #[inline(always)]
            || {
                let start = i * PIECE * width;
                let rows = x[start..]
                    .chunks_exact(width)
                    .zip(dy[start..].chunks_exact(width))
                    .zip(&stats[i * PIECE..]);
                for (dx, ((x, dy), &scale)) in dx.chunks_exact_mut(width).zip(rows) {
                    let (x, dy, dx) = (&x[..width], &dy[..width], &mut dx[..width]);
                    let mean = lane_sum(width, |j| dy[j] * gain[j] * (x[j] * scale)) / width as f32;
                    for j in 0..width {
                        dx[j] += scale * (dy[j] * gain[j] - (x[j] * scale) * mean);
                    }
                }
            },
        );
    });
}

/// `∂γ += Σ_rows ∂y ∘ x̂`.
pub fn backward_gain(x: &[f32], stats: &[f32], dy: &[f32], dgain: &mut [f32]) {
    const COLUMNS: usize = 512;
    let width = dgain.len();
    for_each_piece(dgain, COLUMNS, |i, dgain| {
        vectorized(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(stats);
                for ((x, dy), &scale) in rows {
                    let at = i * COLUMNS;
                    let (x, dy) = (&x[at..][..dgain.len()], &dy[at..][..dgain.len()]);
                    for (d, (x, dy)) in dgain.iter_mut().zip(x.iter().zip(dy)) {
                        *d += dy * (x * scale);
                    }
                }
            },
        );
    });
}
