//! The readings of sparse rows that estimation needs: margins with the loss and its gradient, and products with the Hessian.
//!
//! Partial sums are taken over runs of rows that depend on the data alone and added in order, so the number of threads does not change
//! a result.

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use crate::estimate::kernels::{Pass, logistic};
use crate::features::SparseRows;
use crate::numerics::CompensatedSum;
use crate::simd::{self, Kernel, LANES, dispatch};

/// Rows whose weights are computed together.
const BLOCK: usize = 64;
/// Runs at most, and entries of X for each number of the sums that a run adds to the others.
const RUNS: usize = 64;
const ENTRIES: usize = 8;

/// Rows that one task sums.
fn runs(rows: &SparseRows) -> Vec<Range<usize>> {
    let n = rows.n();
    let count = (rows.entries() / (ENTRIES * rows.dim())).clamp(1, RUNS);
    let length = n.div_ceil(count).next_multiple_of(BLOCK).max(BLOCK);
    let starts = (0..n).step_by(length);
    starts.map(|s| s..(s + length).min(n)).collect()
}

/// Σ v_j θ_{k_j}.
#[inline(always)]
fn dot(indices: &[u32], values: &[f64], theta: &[f64]) -> f64 {
    let mut acc = [0.0; 4];
    let ((ks, k_rest), (vs, v_rest)) = (indices.as_chunks::<4>(), values.as_chunks::<4>());
    for (k, v) in ks.iter().zip(vs) {
        for l in 0..4 {
            acc[l] += v[l] * theta[k[l] as usize];
        }
    }
    let rest: f64 = k_rest
        .iter()
        .zip(v_rest)
        .map(|(k, v)| v * theta[*k as usize])
        .sum();
    (acc[0] + acc[1]) + (acc[2] + acc[3]) + rest
}

/// out_{k_j} += w v_j.
#[inline(always)]
fn add(indices: &[u32], values: &[f64], w: f64, out: &mut [f64]) {
    for (k, v) in indices.iter().zip(values) {
        out[*k as usize] += w * v;
    }
}

/// Xθ, `[n]`.
pub fn margins(rows: &SparseRows, theta: &[f64]) -> Vec<f64> {
    let row = |i| {
        let (indices, values) = rows.slices(i);
        dot(indices, values, theta)
    };
    (0..rows.n())
        .into_par_iter()
        .with_min_len(1 << 10)
        .map(row)
        .collect()
}

/// −L, its gradient and the least margin, and all margins.
pub fn pass(rows: &SparseRows, theta: &[f64]) -> (Pass, Vec<f64>) {
    let parts: Vec<(Pass, Vec<f64>)> = runs(rows)
        .into_par_iter()
        .map(|of| dispatch(PassKernel { rows, of, theta }))
        .collect();
    let mut loss = CompensatedSum::default();
    let mut out = Pass {
        loss: 0.0,
        gradient: vec![0.0; rows.dim()],
        min_margin: f64::INFINITY,
    };
    let mut z = Vec::with_capacity(rows.n());
    for (part, margins) in parts {
        loss.add(part.loss);
        out.min_margin = out.min_margin.min(part.min_margin);
        let sums = out.gradient.iter_mut().zip(&part.gradient);
        sums.for_each(|(g, p)| *g += p);
        z.extend(margins);
    }
    out.loss = loss.value();
    (out, z)
}

struct PassKernel<'a> {
    rows: &'a SparseRows,
    of: Range<usize>,
    theta: &'a [f64],
}

impl Kernel for PassKernel<'_> {
    type Output = (Pass, Vec<f64>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (Pass, Vec<f64>) {
        let mut gradient = vec![0.0; self.rows.dim()];
        let mut margins = Vec::with_capacity(self.of.len());
        let (mut loss, mut lowest) = ([0.0; LANES], [f64::INFINITY; LANES]);
        let (mut z, mut w) = ([0.0; BLOCK], [0.0; BLOCK]);
        for start in self.of.clone().step_by(BLOCK) {
            let n = BLOCK.min(self.of.end - start);
            // Rows beyond the data get margin +∞: no loss, no gradient.
            z.fill(f64::INFINITY);
            for (i, z) in z[..n].iter_mut().enumerate() {
                let (indices, values) = self.rows.slices(start + i);
                *z = dot(indices, values, self.theta);
            }
            margins.extend_from_slice(&z[..n]);
            logistic(simd, &z, &mut w, &mut loss, &mut lowest);
            for (i, w) in w[..n].iter().enumerate() {
                let (indices, values) = self.rows.slices(start + i);
                add(indices, values, *w, &mut gradient);
            }
        }
        let pass = Pass {
            loss: simd::tree_sum(&loss),
            gradient,
            min_margin: lowest.into_iter().fold(f64::INFINITY, f64::min),
        };
        (pass, margins)
    }
}

/// What `row` adds to a sum `[d]` for each row.
fn sum(rows: &SparseRows, row: impl Fn(usize, &mut [f64]) + Sync) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = runs(rows)
        .into_par_iter()
        .map(|of| {
            let mut out = vec![0.0; rows.dim()];
            of.for_each(|i| row(i, &mut out));
            out
        })
        .collect();
    let mut out = vec![0.0; rows.dim()];
    for part in &parts {
        out.iter_mut().zip(part).for_each(|(o, p)| *o += p);
    }
    out
}

/// Xᵀ·diag(w)·X·v, `[d]`; w = 1 where it is not given.
pub fn product(rows: &SparseRows, weights: Option<&[f64]>, v: &[f64]) -> Vec<f64> {
    sum(rows, |i, out| {
        let (indices, values) = rows.slices(i);
        let w = weights.map_or(1.0, |w| w[i]);
        add(indices, values, w * dot(indices, values, v), out);
    })
}

/// The diagonal of Xᵀ·diag(w)·X, `[d]`.
pub fn diagonal(rows: &SparseRows, weights: Option<&[f64]>) -> Vec<f64> {
    sum(rows, |i, out| {
        let (indices, values) = rows.slices(i);
        let w = weights.map_or(1.0, |w| w[i]);
        for (k, v) in indices.iter().zip(values) {
            out[*k as usize] += w * v * v;
        }
    })
}

/// Xᵀ·diag(w)·X, `[d, d]`.
pub fn gram(rows: &SparseRows, weights: Option<&[f64]>) -> Vec<f64> {
    let d = rows.dim();
    let mut out = vec![0.0; d * d];
    for i in 0..rows.n() {
        let (indices, values) = rows.slices(i);
        let w = weights.map_or(1.0, |w| w[i]);
        for (j, (k, v)) in indices.iter().zip(values).enumerate() {
            let to = &mut out[*k as usize * d..][..d];
            add(&indices[j..], &values[j..], w * v, to);
        }
    }
    for i in 0..d {
        for j in i + 1..d {
            out[j * d + i] = out[i * d + j];
        }
    }
    out
}
