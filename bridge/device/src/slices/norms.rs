//! Norms over the last dimension, and sums over rows.

use super::args::{Args, Number, at, put};

fn mean(width: usize, f: impl Fn(usize) -> f32) -> f32 {
    ((0..width).map(|j| f64::from(f(j))).sum::<f64>() / width as f64) as f32
}

/// y = (x − μ) r γ + β
pub(super) fn layer_norm<R: Number>(a: &Args<'_>) {
    let (x, gain, bias) = (a.cells::<R>(0), a.cells::<R>(1), a.cells::<R>(2));
    let (y, stats) = (a.cells::<R>(3), a.cells::<f32>(4));
    let (width, epsilon) = (a.size(5), a.single(6));
    for row in 0..a.grid()[0] {
        let x = &x[row * width..][..width];
        let middle = mean(width, |j| at(x, j));
        let variance = mean(width, |j| (at(x, j) - middle) * (at(x, j) - middle));
        let scale = 1.0 / (variance + epsilon).sqrt();
        for j in 0..width {
            let unit = (at(x, j) - middle) * scale;
            put(y, row * width + j, unit * at(gain, j) + at(bias, j));
        }
        put(stats, 2 * row, middle);
        put(stats, 2 * row + 1, scale);
    }
}

/// dx = r (g − mean(g) − x̂ mean(g x̂))
pub(super) fn layer_norm_backward<R: Number>(a: &Args<'_>) {
    let (x, stats, gain) = (a.cells::<R>(0), a.cells::<f32>(1), a.cells::<R>(2));
    let (dy, dx) = (a.cells::<R>(3), a.cells::<R>(4));
    let (width, more) = (a.size(5), a.flag(6));
    for row in 0..a.grid()[0] {
        let [x, dy, dx] = [x, dy, dx].map(|m| &m[row * width..][..width]);
        let (middle, scale) = (at(stats, 2 * row), at(stats, 2 * row + 1));
        let g = |j: usize| at(dy, j) * at(gain, j);
        let unit = |j: usize| (at(x, j) - middle) * scale;
        let (g_mean, gx_mean) = (mean(width, g), mean(width, |j| g(j) * unit(j)));
        for j in 0..width {
            let d = scale * (g(j) - g_mean - unit(j) * gx_mean);
            put(dx, j, if more { at(dx, j) + d } else { d });
        }
    }
}

/// y = x r (offset + γ)
pub(super) fn rms_norm<R: Number>(a: &Args<'_>) {
    let (x, gain) = (a.cells::<R>(0), a.cells::<R>(1));
    let (y, stats) = (a.cells::<R>(2), a.cells::<f32>(3));
    let (width, epsilon, offset) = (a.size(4), a.single(5), a.single(6));
    for row in 0..a.grid()[0] {
        let x = &x[row * width..][..width];
        let square = mean(width, |j| at(x, j) * at(x, j));
        let scale = 1.0 / (square + epsilon).sqrt();
        for j in 0..width {
            put(
                y,
                row * width + j,
                at(x, j) * scale * (offset + at(gain, j)),
            );
        }
        put(stats, row, scale);
    }
}

/// dx = r (g − x̂ mean(g x̂))
pub(super) fn rms_norm_backward<R: Number>(a: &Args<'_>) {
    let (x, stats, gain) = (a.cells::<R>(0), a.cells::<f32>(1), a.cells::<R>(2));
    let (dy, dx) = (a.cells::<R>(3), a.cells::<R>(4));
    let (width, offset, more) = (a.size(5), a.single(6), a.flag(7));
    for row in 0..a.grid()[0] {
        let [x, dy, dx] = [x, dy, dx].map(|m| &m[row * width..][..width]);
        let scale = at(stats, row);
        let g = |j: usize| at(dy, j) * (offset + at(gain, j));
        let unit = |j: usize| at(x, j) * scale;
        let middle = mean(width, |j| g(j) * unit(j));
        for j in 0..width {
            let d = scale * (g(j) - unit(j) * middle);
            put(dx, j, if more { at(dx, j) + d } else { d });
        }
    }
}

/// Σ over `chunk` rows of what a column has in each.
fn column_sums(
    a: &Args<'_>,
    out: usize,
    [rows, width, chunk]: [usize; 3],
    f: impl Fn(usize, usize) -> f32,
) {
    let out = a.cells::<f32>(out);
    for part in 0..a.grid()[1] {
        let (from, to) = (part * chunk, rows.min((part + 1) * chunk));
        for j in 0..width {
            let sum: f64 = (from..to).map(|i| f64::from(f(i, j))).sum();
            put(out, part * width + j, sum as f32);
        }
    }
}

/// The sums of dy x̂
pub(super) fn norm_gain_partial<R: Number>(a: &Args<'_>) {
    let (x, stats, dy) = (a.cells::<R>(0), a.cells::<f32>(1), a.cells::<R>(2));
    let [rows, width, chunk] = [4, 5, 6].map(|i| a.size(i));
    let centred = a.flag(7);
    column_sums(a, 3, [rows, width, chunk], |i, j| {
        let x = at(x, i * width + j);
        let unit = match centred {
            true => (x - at(stats, 2 * i)) * at(stats, 2 * i + 1),
            false => x * at(stats, i),
        };
        at(dy, i * width + j) * unit
    });
}

/// The sums of dy
pub(super) fn column_sums_partial<R: Number>(a: &Args<'_>) {
    let dy = a.cells::<R>(0);
    let [rows, width, chunk, stride] = [2, 3, 4, 5].map(|i| a.size(i));
    column_sums(a, 1, [rows, width, chunk], |i, j| at(dy, i * stride + j));
}

/// total += the sums of all chunks
pub(super) fn column_sums_finish(a: &Args<'_>) {
    let (sums, total) = (a.cells::<f32>(0), a.cells::<f32>(1));
    let (chunks, width) = (a.size(2), a.size(3));
    for j in 0..width {
        let sum: f64 = (0..chunks)
            .map(|c| f64::from(at(sums, c * width + j)))
            .sum();
        put(total, j, at(total, j) + sum as f32);
    }
}
