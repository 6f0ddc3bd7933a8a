//! The inner loops. Sixteen rows travel side by side ("a panel", `[features][16]`), so every row's numbers come from
//! the same operations in the same order whatever stands beside it: logits do not depend on the batch, on the number
//! of threads, or on whether keys and values came from the cache.

use crate::ops::attention::softmax;
use crate::ops::simd::tanh;
use crate::ops::{layer_norm, rms_norm};
use pulp::Arch;
use std::ops::Range;

/// Rows of a panel.
pub(super) const LANES: usize = 16;
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

/// Vectors of sums that stay in registers, so that one product need not wait for the last.
const TOGETHER: usize = 4;

/// scale q·K of N blocks of positions from `block` on; `keys` is `[head_dim][capacity]`.
#[inline(always)]
fn products<const N: usize>(
    q: &[f32],
    keys: &[f32],
    (capacity, block): (usize, usize),
    scale: f32,
    scores: &mut [[f32; LANES]],
) {
    let mut sums = [[0.0_f32; LANES]; N];
    for (q, keys) in q.iter().zip(keys.chunks_exact(capacity)) {
        let keys = &keys[block * LANES..(block + N) * LANES];
        let (keys, _) = keys.as_chunks::<LANES>();
        for (sum, key) in sums.iter_mut().zip(keys) {
            for (sum, key) in sum.iter_mut().zip(key) {
                *sum = q.mul_add(*key, *sum);
            }
        }
    }
    for (score, sum) in scores.iter_mut().zip(sums) {
        for (score, sum) in score.iter_mut().zip(sum) {
            *score = scale * sum;
        }
    }
}

/// Σ weight·value over the positions for N vectors of features from `first` on; `values` is `[capacity][width]`.
#[inline(always)]
fn mixture<const N: usize>(
    weights: &[f32],
    values: &[f32],
    (width, first): (usize, usize),
    out: &mut [[f32; LANES]],
) {
    let mut sums = [[0.0_f32; LANES]; N];
    for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
        let (value, _) = value[first..first + N * LANES].as_chunks::<LANES>();
        for (sum, value) in sums.iter_mut().zip(value) {
            for (sum, value) in sum.iter_mut().zip(value) {
                *sum = weight.mul_add(*value, *sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum;
    }
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
            let scores_of = chunks[skipped..blocks].chunks_mut(TOGETHER);
            for (block, scores) in (skipped..blocks).step_by(TOGETHER).zip(scores_of) {
                if scores.len() == TOGETHER {
                    products::<TOGETHER>(q, keys, (capacity, block), scale, scores);
                    continue;
                }
                for (i, scores) in scores.chunks_exact_mut(1).enumerate() {
                    products::<1>(q, keys, (capacity, block + i), scale, scores);
                }
            }
            let weights = &mut scores[seen.clone()];
            if let Some(bound) = bound {
                weights
                    .iter_mut()
                    .for_each(|s| *s = bound * tanh(*s / bound));
            }
            softmax(weights);
            let values = &values[seen.start * out.len()..];
            let width = out.len();
            let (vectors, rest) = out.as_chunks_mut::<LANES>();
            let first_of_rest = width - rest.len();
            for (i, out) in vectors.chunks_mut(TOGETHER).enumerate() {
                let first = i * TOGETHER * LANES;
                if out.len() == TOGETHER {
                    mixture::<TOGETHER>(weights, values, (width, first), out);
                    continue;
                }
                for (j, out) in out.chunks_exact_mut(1).enumerate() {
                    mixture::<1>(weights, values, (width, first + j * LANES), out);
                }
            }
            rest.fill(0.0);
            for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                for (out, value) in rest.iter_mut().zip(&value[first_of_rest..]) {
                    *out = weight.mul_add(*value, *out);
                }
            }
        },
    );
}
