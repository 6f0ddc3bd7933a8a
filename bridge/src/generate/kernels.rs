//! The inner loops. Sixteen rows travel side by side ("a panel", `[features][16]`), so every row's numbers come from
//! the same operations in the same order whatever stands beside it: logits do not depend on the batch, on the number
//! of threads, or on whether keys and values came from the cache.

use crate::ops::activation::Activation;
use crate::ops::portable::exp;
use crate::ops::simd::tanh;
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

    /// Tiles `first..` of W x + b for one panel: `input` `[inputs][16]`, `output` a whole number of tiles.
    pub(super) fn apply(&self, first: usize, input: &[f32], output: &mut [f32]) {
        let tiles = output.len() / (TILE * LANES);
        Arch::new().dispatch(Apply {
            weight: &self.weight[first * self.inputs..][..tiles * self.inputs],
            bias: &self.bias[first * TILE..][..tiles * TILE],
            input: &input[..self.inputs * LANES],
            output,
        });
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

/// Layer norm of one panel: (x − mean) / √(variance + ε) · gain + shift, per lane.
pub(super) fn layer_norm(x: &[f32], gain: &[f32], shift: &[f32], eps: f32, out: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let (x, _) = x[..gain.len() * LANES].as_chunks::<LANES>();
            let (out, _) = out.as_chunks_mut::<LANES>();
            let n = gain.len() as f32;
            let mean = mean_of(x, n, |v, _| v);
            let variance = mean_of(x, n, |v, lane| (v - mean[lane]) * (v - mean[lane]));
            let scale = variance.map(|v| 1.0 / (v + eps).sqrt());
            for (((x, gain), shift), out) in x.iter().zip(gain).zip(shift).zip(out) {
                for lane in 0..LANES {
                    out[lane] = (x[lane] - mean[lane]) * scale[lane] * gain + shift;
                }
            }
        },
    );
}

/// RMS norm of one panel: x / √(mean(x²) + ε) · gain, per lane.
pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let (x, _) = x[..gain.len() * LANES].as_chunks::<LANES>();
            let (out, _) = out.as_chunks_mut::<LANES>();
            let square = mean_of(x, gain.len() as f32, |v, _| v * v);
            let scale = square.map(|v| 1.0 / (v + eps).sqrt());
            for ((x, gain), out) in x.iter().zip(gain).zip(out) {
                for lane in 0..LANES {
                    out[lane] = x[lane] * scale[lane] * gain;
                }
            }
        },
    );
}

/// Mean over features per lane, in four interleaved sums to halve the rounding twice.
#[inline(always)]
fn mean_of(x: &[[f32; LANES]], n: f32, f: impl Fn(f32, usize) -> f32) -> [f32; LANES] {
    let mut sums = [[0.0_f32; LANES]; 4];
    for four in x.chunks(4) {
        for (sum, row) in sums.iter_mut().zip(four) {
            for lane in 0..LANES {
                sum[lane] += f(row[lane], lane);
            }
        }
    }
    std::array::from_fn(|lane| {
        ((sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane])) / n
    })
}

/// The non-linearity, in place.
pub(super) fn activate(x: &mut [f32], activation: Activation) {
    Arch::new().dispatch(
        #[inline(always)]
        || match activation {
            Activation::Gelu => x.iter_mut().for_each(|v| *v = gelu(*v)),
            Activation::GeluTanh => x.iter_mut().for_each(|v| *v = gelu_tanh(*v)),
            Activation::Silu => x.iter_mut().for_each(|v| *v = silu(*v)),
        },
    );
}

/// gate = act(gate) ∘ up.
pub(super) fn gated(gate: &mut [f32], up: &[f32], activation: Activation) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let all = gate.iter_mut().zip(up);
            match activation {
                Activation::Gelu => all.for_each(|(g, u)| *g = gelu(*g) * u),
                Activation::GeluTanh => all.for_each(|(g, u)| *g = gelu_tanh(*g) * u),
                Activation::Silu => all.for_each(|(g, u)| *g = silu(*g) * u),
            }
        },
    );
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
    match shift.is_empty() {
        true => rms_norm(&x, gain, eps, &mut out),
        false => layer_norm(&x, gain, shift, eps, &mut out),
    }
    for (out, start) in out.chunks_exact(size).zip(starts) {
        panel[start * LANES..][..size].copy_from_slice(out);
    }
}

/// a += b.
pub(super) fn add(a: &mut [f32], b: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || a.iter_mut().zip(b).for_each(|(a, b)| *a += b),
    );
}

/// softmax(q·K/√d) V of one row and head over the positions `seen`. `keys` is `[head_dim][capacity]`, `values`
/// `[capacity][head_dim]`; `q` is scaled already; `scores` has room for the capacity, a multiple of 16.
pub(super) fn attend(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    seen: Range<usize>,
    cap: Option<f32>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let capacity = scores.len();
            // Whole blocks before the first key are left out of everything.
            let (skipped, length) = (seen.start / LANES, seen.end);
            let blocks = length.div_ceil(LANES);
            let (scores, _) = scores.as_chunks_mut::<LANES>();
            let scores = &mut scores[skipped..blocks];
            for (block, score) in (skipped..).zip(scores.iter_mut()) {
                let mut sum = [0.0_f32; LANES];
                for (q, keys) in q.iter().zip(keys.chunks_exact(capacity)) {
                    let (keys, _) = keys.as_chunks::<LANES>();
                    for (sum, key) in sum.iter_mut().zip(&keys[block]) {
                        *sum += q * key;
                    }
                }
                *score = match cap {
                    None => sum,
                    Some(cap) => sum.map(|s| cap * tanh(s / cap)),
                };
            }
            let start = skipped * LANES;
            scores.as_flattened_mut()[length - start..].fill(f32::NEG_INFINITY);
            scores.as_flattened_mut()[..seen.start - start].fill(f32::NEG_INFINITY);
            let mut highest = [f32::NEG_INFINITY; LANES];
            for score in scores.iter() {
                for (high, s) in highest.iter_mut().zip(score) {
                    *high = if *s > *high { *s } else { *high };
                }
            }
            let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let mut sums = [0.0_f32; LANES];
            for score in scores.iter_mut() {
                for (sum, s) in sums.iter_mut().zip(score) {
                    *s = exp(*s - highest);
                    *sum += *s;
                }
            }
            let total: f32 = sums.iter().sum();
            out.fill(0.0);
            let weights = &scores.as_flattened()[seen.start - start..length - start];
            let values = &values[seen.start * out.len()..];
            for (weight, value) in weights.iter().zip(values.chunks_exact(out.len())) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
            out.iter_mut().for_each(|o| *o /= total);
        },
    );
}

/// x Φ(x) as max(x, 0) − |x|·½erfc(|x|/√2), which keeps its relative accuracy in the left tail. erfc is t·P(t)·e^(−z²)
/// with t = 1/(1 + 0.4 z); P is a least-squares fit to erfcx on 0 ≤ z ≤ 10 with relative error 7e-8.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let size = x.abs();
    let z = size * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.4 * z);
    let high = 0.080_683_574 + t * (0.090_559_445 + t * (-0.143_589_12 + t * 0.041_941_803));
    let p = 0.225_637_76
        + t * (0.226_379_13
            + t * (0.202_369_65 + t * (0.191_415_13 + t * (0.084_602_7 + t * high))));
    let tail = 0.5 * t * p * exp(-z * z);
    let positive = if x > 0.0 { x } else { 0.0 };
    // Past 13 the tail is zero and |x| may be infinite.
    if x.is_nan() {
        x
    } else if size > 14.0 {
        positive
    } else {
        positive - size * tail
    }
}

/// x/(1 + e^(−x)).
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// ½x(1 + tanh u) = x / (1 + e^(−2u)) with u = √(2/π)(x + 0.044715 x³).
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    let denominator = 1.0 + exp(-2.0 * u);
    x / denominator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_accurate() {
        // 0.5 erfc(z/√2) of the standard normal, from tables of 15 digits.
        for (x, cdf) in [
            (-4.0_f32, 3.167_124_183_311_998e-5),
            (-2.0, 0.022_750_131_948_179_2),
            (-1.0, 0.158_655_253_931_457),
            (-0.1, 0.460_172_162_722_971),
            (0.5, 0.691_462_461_274_013),
            (3.0, 0.998_650_101_968_37),
        ] {
            let exact = f64::from(x) * cdf;
            assert!(
                (f64::from(gelu(x)) / exact - 1.0).abs() < 6e-7,
                "gelu({x}) = {}",
                gelu(x)
            );
        }
        for i in -80..=80 {
            let x = f64::from(i) / 10.0;
            let exact = 0.5
                * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            assert!((f64::from(gelu_tanh(x as f32)) - exact).abs() < 1e-6, "{x}");
        }
        assert_eq!((gelu(0.0), gelu(20.0), gelu(-20.0)), (0.0, 20.0, 0.0));
    }

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
            linear.apply(0, &input, &mut out);
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
