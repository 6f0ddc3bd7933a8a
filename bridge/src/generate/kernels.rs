//! The inner loops. Sixteen rows travel side by side ("a panel", `[features][16]`), so every row's numbers come from
//! the same operations in the same order whatever stands beside it: logits do not depend on the batch, on the number
//! of threads, or on whether keys and values came from the cache.

use crate::ops::attention::softmax;
use crate::ops::simd::tanh;
use crate::ops::{layer_norm, rms_norm};
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Rows of a panel.
pub(super) const LANES: usize = 16;
/// Output features computed together.
pub(super) const TILE: usize = 16;

/// A linear map, its rows interleaved by sixteen so that the inner loop reads one stream.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// `[⌈outputs/16⌉ · inputs][16]`.
    weight: Vec<[f32; TILE]>,
    /// `[⌈outputs/16⌉ · 16]`.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// A layer from its weight `[outputs, inputs]` and a bias (empty for none).
    pub(super) fn new(weight: &[f32], bias: &[f32], outputs: usize, inputs: usize) -> Self {
        let tiles = outputs.div_ceil(TILE);
        let mut packed = vec![[0.0; TILE]; tiles * inputs];
        for (row, values) in weight.chunks_exact(inputs).enumerate() {
            let tile = &mut packed[row / TILE * inputs..][..inputs];
            for (column, value) in tile.iter_mut().zip(values) {
                column[row % TILE] = *value;
            }
        }
        let mut padded = vec![0.0; tiles * TILE];
        padded[..bias.len()].copy_from_slice(bias);
        Self {
            weight: packed,
            bias: padded,
            inputs,
            outputs,
        }
    }

    /// Features it gives.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Tiles of sixteen outputs.
    pub(super) fn tiles(&self) -> usize {
        self.bias.len() / TILE
    }

    /// Tiles `first..` of W x + b for one panel, of which the first `rows` are read: `input` `[inputs][16]`, `output` a whole number of tiles. Of a few
    /// rows the sums are the same, number by number, with sixteen features side by side in place of sixteen rows.
    pub(super) fn apply(&self, first: usize, rows: usize, input: &[f32], output: &mut [f32]) {
        let tiles = output.len() / (TILE * LANES);
        let work = Apply {
            weight: &self.weight[first * self.inputs..][..tiles * self.inputs],
            bias: &self.bias[first * TILE..][..tiles * TILE],
            input: &input[..self.inputs * LANES],
            output,
        };
        match rows {
            1 => Arch::new().dispatch(Few::<1>(work)),
            2 => Arch::new().dispatch(Few::<2>(work)),
            3 | 4 => Arch::new().dispatch(Few::<4>(work)),
            _ => Arch::new().dispatch(work),
        }
    }
}

struct Apply<'a> {
    weight: &'a [[f32; TILE]],
    bias: &'a [f32],
    input: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // A panel is one vector of AVX-512, two of AVX2, four of NEON; the accumulators fill the registers.
        match S::F32_LANES {
            16 => self.tiles::<S, 1, 16>(simd),
            8 => self.tiles::<S, 2, 4>(simd),
            4 => self.tiles::<S, 4, 4>(simd),
            _ => self.tiles::<S, 16, 1>(simd),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize, const COLUMNS: usize>(self, simd: S) {
        let (inputs, _) = S::as_simd_f32s(self.input);
        let (inputs, _) = inputs.as_chunks::<VECTORS>();
        let tiles = self.weight.chunks_exact(inputs.len());
        for ((weight, bias), output) in tiles
            .zip(self.bias.chunks_exact(TILE))
            .zip(self.output.chunks_exact_mut(TILE * LANES))
        {
            for part in 0..TILE / COLUMNS {
                let mut sums = [[simd.splat_f32s(0.0); VECTORS]; COLUMNS];
                for (w, x) in weight.iter().zip(inputs) {
                    let (w, _) = w.as_chunks::<COLUMNS>();
                    for (sums, w) in sums.iter_mut().zip(&w[part]) {
                        let w = simd.splat_f32s(*w);
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = simd.mul_add_e_f32s(w, *x, *sum);
                        }
                    }
                }
                let start = part * COLUMNS;
                let (out, _) = S::as_mut_simd_f32s(&mut output[start * LANES..][..COLUMNS * LANES]);
                let (out, _) = out.as_chunks_mut::<VECTORS>();
                for ((out, sums), bias) in out.iter_mut().zip(&sums).zip(&bias[start..]) {
                    let bias = simd.splat_f32s(*bias);
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = simd.add_f32s(*sum, bias);
                    }
                }
            }
        }
    }
}

/// The first `ROWS` rows of a panel; the others become zero.
struct Few<'a, const ROWS: usize>(Apply<'a>);

impl<const ROWS: usize> WithSimd for Few<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Sums of a few tiles at once, so that none waits for the one before.
        match S::F32_LANES {
            16 => self.tiles::<S, 1, 4>(simd),
            8 => self.tiles::<S, 2, 2>(simd),
            4 => self.tiles::<S, 4, 1>(simd),
            _ => self.tiles::<S, 16, 1>(simd),
        }
    }
}

impl<const ROWS: usize> Few<'_, ROWS> {
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize, const TOGETHER: usize>(self, simd: S) {
        let Apply {
            weight,
            bias,
            input,
            output,
        } = self.0;
        let (inputs, _) = input.as_chunks::<LANES>();
        let (bias, _) = bias.as_chunks::<TILE>();
        let (output, _) = output.as_chunks_mut::<LANES>();
        let whole = bias.len() / TOGETHER * TOGETHER;
        let (weights, rest) = weight.split_at(whole * inputs.len());
        let (outputs, outputs_rest) = output.split_at_mut(whole * TILE);
        let (biases, biases_rest) = bias.split_at(whole);
        for ((weight, bias), output) in weights
            .chunks_exact(TOGETHER * inputs.len())
            .zip(biases.chunks_exact(TOGETHER))
            .zip(outputs.chunks_exact_mut(TOGETHER * TILE))
        {
            few::<S, ROWS, VECTORS, TOGETHER>(simd, weight, bias, inputs, output);
        }
        for ((weight, bias), output) in rest
            .chunks_exact(inputs.len())
            .zip(biases_rest.chunks_exact(1))
            .zip(outputs_rest.chunks_exact_mut(TILE))
        {
            few::<S, ROWS, VECTORS, 1>(simd, weight, bias, inputs, output);
        }
    }
}

/// `TILES` tiles of the first `ROWS` rows.
#[inline(always)]
fn few<S: Simd, const ROWS: usize, const VECTORS: usize, const TILES: usize>(
    simd: S,
    weight: &[[f32; TILE]],
    bias: &[[f32; TILE]],
    inputs: &[[f32; LANES]],
    output: &mut [[f32; LANES]],
) {
    let n = inputs.len();
    let tiles: [&[[f32; TILE]]; TILES] = std::array::from_fn(|tile| &weight[tile * n..][..n]);
    let mut sums = [[[simd.splat_f32s(0.0); VECTORS]; TILES]; ROWS];
    for (i, x) in inputs.iter().enumerate() {
        for (tile, weight) in tiles.iter().enumerate() {
            let (w, _) = S::as_simd_f32s(&weight[i]);
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = simd.splat_f32s(*x);
                for (sum, w) in sums[tile].iter_mut().zip(w) {
                    *sum = simd.mul_add_e_f32s(*w, x, *sum);
                }
            }
        }
    }
    output.fill([0.0; LANES]);
    for (row, sums) in sums.iter_mut().enumerate() {
        for ((sums, bias), output) in sums.iter_mut().zip(bias).zip(output.chunks_exact_mut(TILE)) {
            let (bias, _) = S::as_simd_f32s(bias);
            let mut features = [0.0; TILE];
            let (out, _) = S::as_mut_simd_f32s(&mut features);
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                *out = simd.add_f32s(*sum, *bias);
            }
            for (output, feature) in output.iter_mut().zip(features) {
                output[row] = feature;
            }
        }
    }
}

/// The norm of one panel: with a shift (x − mean) / √(variance + ε) · gain + shift, without one x / √(mean(x²) + ε) · gain, per lane.
pub(super) fn norm(x: &[f32], gain: &[f32], shift: &[f32], eps: f32, out: &mut [f32]) {
    let (x, _) = x[..gain.len() * LANES].as_chunks::<LANES>();
    let (out, _) = out.as_chunks_mut::<LANES>();
    match shift.is_empty() {
        true => rms_norm::panel(x, eps, gain, out),
        false => layer_norm::panel(x, eps, gain, shift, out),
    }
}

/// l = c tanh(l/c).
pub(super) fn cap(logits: &mut [f32], bound: f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            logits
                .iter_mut()
                .for_each(|l| *l = bound * tanh(*l / bound))
        },
    );
}

/// The norm over some heads of a panel, `[head_dim]` features from each of `starts`, in place.
pub(super) fn head_norm(
    panel: &mut [f32],
    starts: &[usize],
    head_dim: usize,
    gain: &[f32],
    shift: &[f32],
    eps: f32,
) {
    let size = head_dim * LANES;
    let mut x = vec![0.0; starts.len() * size];
    let mut out = x.clone();
    for (x, start) in x.chunks_exact_mut(size).zip(starts) {
        x.copy_from_slice(&panel[start * LANES..][..size]);
    }
    for (x, out) in x
        .chunks_exact(LANES * gain.len())
        .zip(out.chunks_exact_mut(LANES * gain.len()))
    {
        norm(x, gain, shift, eps, out);
    }
    for (out, start) in out.chunks_exact(size).zip(starts) {
        panel[start * LANES..][..size].copy_from_slice(out);
    }
}

/// x += y for a panel of the stream, with a bias (empty for none) x = (x + bias) + y.
pub(super) fn add(x: &mut [f32], bias: &[f32], y: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            if bias.is_empty() {
                return x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            }
            let rows = x.chunks_exact_mut(LANES).zip(y.chunks_exact(LANES));
            for ((x, y), bias) in rows.zip(bias) {
                for (x, y) in x.iter_mut().zip(y) {
                    *x = (*x + bias) + y;
                }
            }
        },
    );
}

/// softmax(scale q·K) V of one row and head over the positions `seen`, in the order of training: the product, its factor and its cap, the
/// weights divided by their sum, the values. `keys` is `[head_dim][capacity]`, `values` `[capacity][head_dim]`; `scores` has room for the
/// capacity, a multiple of 16.
pub(super) fn attend(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    seen: Range<usize>,
    (scale, bound): (f32, Option<f32>),
    scores: &mut [f32],
    out: &mut [f32],
) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            // Taken over, so that this body is what is dispatched: one that only borrows is called through another function, which is too long
            // to be put in its place and is compiled for the oldest processor.
            let (scores, out) = (scores, out);
            let capacity = scores.len();
            // Whole blocks before the first key are left out of everything.
            let (skipped, blocks) = (seen.start / LANES, seen.end.div_ceil(LANES));
            let (chunks, _) = scores.as_chunks_mut::<LANES>();
            for (block, score) in (skipped..blocks).zip(&mut chunks[skipped..]) {
                let mut sum = [0.0_f32; LANES];
                for (q, keys) in q.iter().zip(keys.chunks_exact(capacity)) {
                    let (keys, _) = keys.as_chunks::<LANES>();
                    for (sum, key) in sum.iter_mut().zip(&keys[block]) {
                        *sum = q.mul_add(*key, *sum);
                    }
                }
                for (score, sum) in score.iter_mut().zip(sum) {
                    *score = scale * sum;
                }
            }
            let weights = &mut scores[seen.clone()];
            if let Some(bound) = bound {
                weights
                    .iter_mut()
                    .for_each(|s| *s = bound * tanh(*s / bound));
            }
            softmax(weights);
            out.fill(0.0);
            let values = &values[seen.start * out.len()..];
            for (weight, value) in weights.iter().zip(values.chunks_exact(out.len())) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out = weight.mul_add(*value, *out);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_is_the_matrix_product_for_sizes_that_do_not_fill_a_tile() {
        for (outputs, inputs) in [(1, 1), (5, 3), (16, 8), (33, 17)] {
            let weight: Vec<f32> = (0..outputs * inputs)
                .map(|i| ((i * 7 % 11) as f32 - 5.0) / 4.0)
                .collect();
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 / 8.0).collect();
            let linear = Linear::new(&weight, &bias, outputs, inputs);
            let input: Vec<f32> = (0..inputs * LANES)
                .map(|i| ((i * 5 % 13) as f32 - 6.0) / 4.0)
                .collect();
            let mut out = vec![f32::NAN; linear.tiles() * TILE * LANES];
            linear.apply(0, LANES, &input, &mut out);
            for rows in 1..LANES {
                let mut few = vec![f32::NAN; out.len()];
                linear.apply(0, rows, &input, &mut few);
                for (few, out) in few.chunks_exact(LANES).zip(out.chunks_exact(LANES)) {
                    assert_eq!(few[..rows], out[..rows], "{rows} rows");
                }
            }
            for lane in 0..LANES {
                for o in 0..outputs {
                    let exact: f32 = (0..inputs)
                        .map(|i| weight[o * inputs + i] * input[i * LANES + lane])
                        .sum::<f32>()
                        + bias[o];
                    // Quarters multiply and add exactly.
                    assert_eq!(out[o * LANES + lane], exact);
                }
            }
        }
    }
}
