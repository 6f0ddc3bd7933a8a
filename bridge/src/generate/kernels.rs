//! The inner loops. Sixteen rows travel side by side ("a panel", `[features][16]`), so every row's numbers come from
//! the same operations in the same order whatever stands beside it: logits do not depend on the batch, on the number
//! of threads, or on whether keys and values came from the cache.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over indices are compiled whole for the instructions at hand; what an iterator calls may be left out of them"
)]

use crate::ops::attention::softmax;
use crate::ops::simd::tanh;
use crate::ops::{layer_norm, rms_norm};
use pulp::{Arch, Simd, WithSimd};
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

/// Rows for which a key or a value is read once.
pub(super) const NEIGHBOURS: usize = 4;

/// What one head attends to: its part of the key–value cache, and what is done to the scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention<'a> {
    /// `[head_dim][capacity]`.
    pub(super) keys: &'a [f32],
    /// `[capacity][head_dim]`.
    pub(super) values: &'a [f32],
    /// A multiple of 16.
    pub(super) capacity: usize,
    pub(super) scale: f32,
    /// c of c tanh(score/c).
    pub(super) bound: Option<f32>,
}

impl Attention<'_> {
    /// softmax(scale q·K) V of a row, or of [`NEIGHBOURS`] of them, each over the positions `seen` by it, in the order of training: the product, its factor and
    /// its cap, the weights divided by their sum, the values. A row has the numbers that it has alone. `scores` has room for
    /// `[rows][capacity]`, `out` is `[rows][head_dim]`.
    pub(super) fn attend(
        self,
        queries: &[&[f32]],
        seen: &[Range<usize>],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        match *queries {
            [query] => self.rows([query], seen, scores, out),
            [a, b, c, d] => self.rows([a, b, c, d], seen, scores, out),
            _ => unreachable!("one row or {NEIGHBOURS}"),
        }
    }

    fn rows<const R: usize>(
        self,
        queries: [&[f32]; R],
        seen: &[Range<usize>],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        // Side by side, so that one line of memory has a feature of all rows.
        let features = queries.first().map_or(0, |q| q.len());
        let queries: Vec<[f32; R]> = (0..features).map(|d| queries.map(|q| q[d])).collect();
        let (attention, queries) = (self, &*queries);
        Arch::new().dispatch(Rows {
            attention,
            queries,
            seen,
            scores,
            out,
        });
    }
}

/// R rows of one head.
struct Rows<'a, const R: usize> {
    attention: Attention<'a>,
    /// `[head_dim][R]`.
    queries: &'a [[f32; R]],
    seen: &'a [Range<usize>],
    /// `[R][capacity]`.
    scores: &'a mut [f32],
    /// `[R][head_dim]`.
    out: &'a mut [f32],
}

impl<const R: usize> WithSimd for Rows<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Sums that stay in registers, enough of them that one product need not wait for the last.
        match (R, S::F32_LANES) {
            (NEIGHBOURS, 8) => self.attend::<S, 2>(simd),
            _ => self.attend::<S, 4>(simd),
        }
    }
}

impl<const R: usize> Rows<'_, R> {
    #[inline(always)]
    fn attend<S: Simd, const N: usize>(self, simd: S) {
        let Self {
            attention,
            queries,
            seen,
            scores,
            out,
        } = self;
        let (capacity, width) = (attention.capacity, queries.len());
        // Whole blocks before the first key that is seen are left out of everything.
        let first = seen.iter().map(|s| s.start).min().unwrap_or(0) / LANES * LANES;
        let last = seen.iter().map(|s| s.end).max().unwrap_or(0);
        let (mut at, end) = (first, last.next_multiple_of(LANES));
        while at + N * S::F32_LANES <= end {
            attention.products::<S, R, N>(simd, queries, at, scores);
            at += N * S::F32_LANES;
        }
        while at < end {
            attention.products::<S, R, 1>(simd, queries, at, scores);
            at += S::F32_LANES;
        }
        for (scores, seen) in scores.chunks_exact_mut(capacity).zip(seen) {
            let weights = &mut scores[seen.clone()];
            if let Some(bound) = attention.bound {
                weights
                    .iter_mut()
                    .for_each(|s| *s = bound * tanh(*s / bound));
            }
            softmax(weights);
        }
        // What all rows see is read for all at once, between what each of them sees alone, so that every sum keeps its order.
        let from = seen.iter().map(|s| s.start).max().unwrap_or(0);
        let to = seen.iter().map(|s| s.end).min().unwrap_or(0).max(from);
        out.fill(0.0);
        for ((seen, weights), out) in seen
            .iter()
            .zip(scores.chunks_exact(capacity))
            .zip(out.chunks_exact_mut(width))
        {
            attention.mixtures::<S, 1, N>(simd, [weights], seen.start..seen.end.min(from), out);
        }
        let weights: [&[f32]; R] = std::array::from_fn(|r| &scores[r * capacity..][..capacity]);
        attention.mixtures::<S, R, N>(simd, weights, from..to, out);
        for ((seen, weights), out) in seen.iter().zip(weights).zip(out.chunks_exact_mut(width)) {
            attention.mixtures::<S, 1, N>(simd, [weights], seen.start.max(to)..seen.end, out);
        }
    }
}

impl Attention<'_> {
    /// scale q·K of R rows for N vectors of positions from `at` on; `queries` `[head_dim][R]`, `scores` `[R][capacity]`.
    #[inline(always)]
    fn products<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        queries: &[[f32; R]],
        at: usize,
        scores: &mut [f32],
    ) {
        let positions = at..at + N * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        for (q, keys) in queries.iter().zip(self.keys.chunks_exact(self.capacity)) {
            let keys = S::as_simd_f32s(&keys[positions.clone()]).0;
            for r in 0..R {
                let q = simd.splat_f32s(q[r]);
                for n in 0..N {
                    sums[r][n] = simd.mul_add_f32s(q, keys[n], sums[r][n]);
                }
            }
        }
        let scale = simd.splat_f32s(self.scale);
        for (scores, sums) in scores.chunks_exact_mut(self.capacity).zip(sums) {
            let scores = S::as_mut_simd_f32s(&mut scores[positions.clone()]).0;
            for (score, sum) in scores.iter_mut().zip(sums) {
                *score = simd.mul_f32s(scale, sum);
            }
        }
    }

    /// Adds Σ weight·value over some positions; `weights` `[R][capacity]`, `out` `[R][head_dim]`.
    #[inline(always)]
    fn mixtures<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        weights: [&[f32]; R],
        positions: Range<usize>,
        out: &mut [f32],
    ) {
        if positions.is_empty() {
            return;
        }
        let width = out.len() / R;
        let values = &self.values[positions.start * width..positions.end * width];
        let weights = weights.map(|w| &w[positions.clone()]);
        let mut first = 0;
        while first + N * S::F32_LANES <= width {
            mixture::<S, R, N>(simd, weights, values, first, out);
            first += N * S::F32_LANES;
        }
        while first + S::F32_LANES <= width {
            mixture::<S, R, 1>(simd, weights, values, first, out);
            first += S::F32_LANES;
        }
        for (weights, out) in weights.iter().zip(out.chunks_exact_mut(width)) {
            for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                for (out, value) in out[first..].iter_mut().zip(&value[first..]) {
                    *out = weight.mul_add(*value, *out);
                }
            }
        }
    }
}

/// Adds Σ weight·value for R rows and N vectors of features from `first` on; `values` `[positions][width]`, `out` `[R][width]`.
#[inline(always)]
fn mixture<S: Simd, const R: usize, const N: usize>(
    simd: S,
    weights: [&[f32]; R],
    values: &[f32],
    first: usize,
    out: &mut [f32],
) {
    let width = out.len() / R;
    let features = first..first + N * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); N]; R];
    for r in 0..R {
        let out = S::as_simd_f32s(&out[r * width..][features.clone()]).0;
        sums[r].copy_from_slice(out);
    }
    for (position, value) in values.chunks_exact(width).enumerate() {
        let value = S::as_simd_f32s(&value[features.clone()]).0;
        for r in 0..R {
            let weight = simd.splat_f32s(weights[r][position]);
            for n in 0..N {
                sums[r][n] = simd.mul_add_f32s(weight, value[n], sums[r][n]);
            }
        }
    }
    for r in 0..R {
        let out = S::as_mut_simd_f32s(&mut out[r * width..][features.clone()]).0;
        out.copy_from_slice(&sums[r]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 2_654_435_761 + seed * 97) as f32 * 1e-3).sin())
            .collect()
    }

    /// Rows together have the bits that they have alone, which are near sums in f64; whatever a row does not see is not there for it.
    #[test]
    fn rows_together_are_rows_alone() {
        const CAPACITY: usize = 96;
        for width in [5, 16, 24, 64, 72] {
            for (start, window) in [
                (0, 96),
                (13, 96),
                (60, 96),
                (40, 7),
                (90, 1),
                (50, 2),
                (30, 20),
            ] {
                for bound in [None, Some(0.7)] {
                    let seen: Vec<Range<usize>> = (start + 1..start + 1 + NEIGHBOURS)
                        .map(|end| end.saturating_sub(window)..end)
                        .collect();
                    let last = seen[NEIGHBOURS - 1].end;
                    let (mut keys, mut values) =
                        (numbers(width * CAPACITY, 1), numbers(CAPACITY * width, 2));
                    for keys in keys.chunks_exact_mut(CAPACITY) {
                        keys[last..].fill(f32::NAN);
                    }
                    values[last * width..].fill(f32::NAN);
                    let attention = Attention {
                        keys: &keys,
                        values: &values,
                        capacity: CAPACITY,
                        scale: 0.3,
                        bound,
                    };
                    let queries: Vec<Vec<f32>> =
                        (0..NEIGHBOURS).map(|r| numbers(width, 3 + r)).collect();
                    let all: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
                    let attend = |rows: Range<usize>| {
                        let mut scores = vec![f32::NAN; rows.len() * CAPACITY];
                        let mut out = vec![f32::NAN; rows.len() * width];
                        attention.attend(&all[rows.clone()], &seen[rows], &mut scores, &mut out);
                        out
                    };
                    let together = attend(0..NEIGHBOURS);
                    for (row, out) in together.chunks_exact(width).enumerate() {
                        let what = format!(
                            "{width} features from {start}, window {window}, {bound:?}, row {row}"
                        );
                        assert_eq!(out, attend(row..row + 1), "{what}");
                        let score = |position: usize| {
                            let terms = (0..width).map(|d| {
                                f64::from(queries[row][d])
                                    * f64::from(keys[d * CAPACITY + position])
                            });
                            let score = 0.3_f32 as f64 * terms.sum::<f64>();
                            bound
                                .map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
                                .exp()
                        };
                        let total: f64 = seen[row].clone().map(score).sum();
                        for (d, out) in out.iter().enumerate() {
                            let terms = seen[row]
                                .clone()
                                .map(|p| score(p) * f64::from(values[p * width + d]));
                            let want = terms.sum::<f64>() / total;
                            assert!(
                                (f64::from(*out) - want).abs() < 2e-6,
                                "{what}: {out} for {want}"
                            );
                        }
                    }
                }
            }
        }
    }
}
