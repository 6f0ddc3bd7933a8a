//! Layer normalisation: `y = (x − μ)/√(σ² + ε) ∘ γ + β` over the last dimension, in two passes over a row.
//!
//! The statistics are kept apart from the output, so that two norms of one input share them and a backward pass
//! makes the output again instead of storing it.

use super::simd::{Number, Panel, for_each_piece, lane_sum, vectorized};

const PIECE: usize = 128;

/// Mean and reciprocal standard deviation of every row of `x [rows, width]`, into `stats [rows, 2]`.
pub fn statistics(x: &[f32], width: usize, epsilon: f64, stats: &mut [f32]) {
    for_each_piece(stats, PIECE * 2, |i, stats| {
        vectorized(
            #[inline(always)]
            || {
                let x = x[i * PIECE * width..].chunks_exact(width);
                for (stats, x) in stats.chunks_exact_mut(2).zip(x) {
                    (stats[0], stats[1]) = moments(x, epsilon as f32);
                }
            },
        );
    });
}

/// μ and r of one row, or of each of a panel's.
#[inline(always)]
fn moments<T: Number>(x: &[T], epsilon: f32) -> (T, T) {
    let width = x.len();
    let mean = lane_sum(width, |j| x[j]).over(width as f32);
    let square = |x: T| x.minus(mean).times(x.minus(mean));
    let variance = lane_sum(width, |j| square(x[j])).over(width as f32);
    (mean, variance.plus(T::of(epsilon)).inverse_root())
}

#[inline(always)]
fn write<T: Number>(x: &[T], (mean, scale): (T, T), gain: &[f32], bias: &[f32], y: &mut [T]) {
    let width = gain.len();
    let (x, bias, y) = (&x[..width], &bias[..width], &mut y[..width]);
    for j in 0..width {
        let normal = x[j].minus(mean).times(scale);
        y[j] = normal.times_plus(T::of(gain[j]), T::of(bias[j]));
    }
}

/// `y = (x − μ) r ∘ γ + β` of sixteen rows side by side: each as [`statistics`] and [`apply`] have it, bit for bit.
pub(crate) fn panel(x: &[Panel], epsilon: f32, gain: &[f32], bias: &[f32], y: &mut [Panel]) {
    vectorized(
        #[inline(always)]
        || write(x, moments(x, epsilon), gain, bias, y),
    );
}

/// `y = (x − μ) r ∘ γ + β` with the statistics of [`statistics`].
pub fn apply(x: &[f32], stats: &[f32], gain: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = gain.len();
    for_each_piece(y, PIECE * width, |i, y| {
        vectorized(
            #[inline(always)]
            || {
                let rows = x[i * PIECE * width..]
                    .chunks_exact(width)
                    .zip(stats[i * PIECE * 2..].chunks_exact(2));
                for (y, (x, stats)) in y.chunks_exact_mut(width).zip(rows) {
                    write(x, (stats[0], stats[1]), gain, bias, y);
                }
            },
        );
    });
}

/// `∂x += r (g − mean(g) − x̂ mean(g x̂))` with `g = ∂y ∘ γ` and `x̂ = (x − μ) r`.
pub fn backward_input(x: &[f32], stats: &[f32], gain: &[f32], dy: &[f32], dx: &mut [f32]) {
    let width = gain.len();
    for_each_piece(dx, PIECE * width, |i, dx| {
        vectorized(
            #[inline(always)]
            || {
                let start = i * PIECE * width;
                let mut g = vec![0.0; width];
                let rows = x[start..]
                    .chunks_exact(width)
                    .zip(dy[start..].chunks_exact(width));
                let rows = rows.zip(stats[i * PIECE * 2..].chunks_exact(2));
                for (dx, ((x, dy), stats)) in dx.chunks_exact_mut(width).zip(rows) {
                    backward_row(x, (stats[0], stats[1]), gain, dy, &mut g, dx);
                }
            },
        );
    });
}

#[inline(always)]
fn backward_row(
    x: &[f32],
    stats: (f32, f32),
    gain: &[f32],
    dy: &[f32],
    g: &mut [f32],
    dx: &mut [f32],
) {
    let width = gain.len();
    let (x, dy, g, dx) = (&x[..width], &dy[..width], &mut g[..width], &mut dx[..width]);
    let (mean, scale) = stats;
    for j in 0..width {
        g[j] = dy[j] * gain[j];
    }
    let g_mean = lane_sum(width, |j| g[j]) / width as f32;
    // Σ g x̂ = r (Σ g x − μ Σ g) would cancel where the mean is large against the spread.
    let gx_mean = lane_sum(width, |j| g[j] * ((x[j] - mean) * scale)) / width as f32;
    for j in 0..width {
        dx[j] += scale * (g[j] - g_mean - (x[j] - mean) * scale * gx_mean);
    }
}

/// `∂γ += Σ_rows ∂y ∘ x̂`.
pub fn backward_gain(x: &[f32], stats: &[f32], dy: &[f32], dgain: &mut [f32]) {
    let width = dgain.len();
    for_each_piece(dgain, 512, |i, dgain| {
        vectorized(
            #[inline(always)]
            || {
                let rows = x
                    .chunks_exact(width)
                    .zip(dy.chunks_exact(width))
                    .zip(stats.chunks_exact(2));
                for ((x, dy), stats) in rows {
                    let (x, dy) = (&x[i * 512..][..dgain.len()], &dy[i * 512..][..dgain.len()]);
                    for (d, (x, dy)) in dgain.iter_mut().zip(x.iter().zip(dy)) {
                        *d += dy * ((x - stats[0]) * stats[1]);
                    }
                }
            },
        );
    });
}
