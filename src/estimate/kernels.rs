//! The three passes over the data that estimation needs, blocked for the cache and vectorised:
//! Xθ with the loss and Xᵀw in one reading of X, Xᵀ·diag(w)·X, and min/max margins.
//!
//! Partial sums are taken over fixed runs of rows and added in order, so the number of threads does not
//! change a result. Multiply–adds are fused where the machine can.

use pulp::Simd;
use rayon::prelude::*;

use crate::numerics::CompensatedSum;
use crate::simd::{self, Kernel, LANES, dispatch};

/// Rows summed by one parallel task.
const RUN: usize = 1 << 14;
/// Rows of a cache block.
const BLOCK: usize = 64;
/// Entries of X that fit the first-level cache beside everything else.
const L1_ENTRIES: usize = 3072;

/// −L(θ), its gradient, and the smallest margin x_iᵀθ.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pass {
    pub loss: f64,
    pub gradient: Vec<f64>,
    pub min_margin: f64,
}

/// One reading of X `[n, d]` (row-major): Σ log(1 + e^{−z_i}), −Σ σ(−z_i) x_i and min z_i, z = Xθ.
pub(crate) fn pass(rows: &[f64], d: usize, theta: &[f64]) -> Pass {
    let runs: Vec<Pass> = rows
        .par_chunks(RUN * d)
        .map(|rows| dispatch(PassKernel { rows, d, theta }))
        .collect();
    let mut loss = CompensatedSum::default();
    let mut out = Pass {
        loss: 0.0,
        gradient: vec![0.0; d],
        min_margin: f64::INFINITY,
    };
    for run in &runs {
        loss.add(run.loss);
        out.min_margin = out.min_margin.min(run.min_margin);
        for (g, r) in out.gradient.iter_mut().zip(&run.gradient) {
            *g += r;
        }
    }
    out.loss = loss.value();
    out
}

struct PassKernel<'a> {
    rows: &'a [f64],
    d: usize,
    theta: &'a [f64],
}

impl Kernel for PassKernel<'_> {
    type Output = Pass;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Pass {
        let d = self.d;
        let block = (L1_ENTRIES / d / LANES * LANES).clamp(LANES, BLOCK);
        let mut gradient = vec![0.0; d];
        let (mut loss, mut lowest) = ([0.0; LANES], [f64::INFINITY; LANES]);
        let (mut z, mut w) = ([0.0; BLOCK], [0.0; BLOCK]);
        for rows in self.rows.chunks(block * d) {
            let n = rows.len() / d;
            // Rows beyond the data get margin +∞: no loss, no gradient.
            z.fill(f64::INFINITY);
            for (z, x) in z.iter_mut().zip(rows.chunks_exact(d)) {
                *z = simd::dot(simd, x, self.theta);
            }
            let used = n.next_multiple_of(LANES);
            logistic(simd, &z[..used], &mut w[..used], &mut loss, &mut lowest);
            accumulate(simd, rows, d, &w[..n], &mut gradient);
        }
        Pass {
            loss: simd::tree_sum(&loss),
            gradient,
            min_margin: lowest.into_iter().fold(f64::INFINITY, f64::min),
        }
    }
}

/// w = −σ(−z) for a whole number of lanes of margins, with log(1 + e^{−z}) and the smallest margin added lane by lane.
#[inline(always)]
pub(super) fn logistic<S: Simd>(
    simd: S,
    z: &[f64],
    w: &mut [f64],
    loss: &mut [f64; LANES],
    lowest: &mut [f64; LANES],
) {
    let width = LANES / S::F64_LANES;
    let loss = S::as_mut_simd_f64s(loss).0;
    let lowest = S::as_mut_simd_f64s(lowest).0;
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let lanes = S::as_simd_f64s(z).0.chunks_exact(width);
    for (z, w) in lanes.zip(S::as_mut_simd_f64s(w).0.chunks_exact_mut(width)) {
        for i in 0..width {
            let (tail, log) = simd::logistic_tail(simd, z[i]);
            let negative = simd.less_than_f64s(z[i], zero);
            let (above, below) = (simd.sub_f64s(zero, tail), simd.sub_f64s(tail, one));
            w[i] = simd.select_f64s(negative, below, above);
            let linear = simd.select_f64s(negative, simd.sub_f64s(zero, z[i]), zero);
            loss[i] = simd.add_f64s(loss[i], simd.add_f64s(linear, log));
            lowest[i] = simd.min_f64s(z[i], lowest[i]);
        }
    }
}

/// out += Xᵀw over the rows of a block.
#[inline(always)]
pub(super) fn accumulate<S: Simd>(simd: S, rows: &[f64], d: usize, w: &[f64], out: &mut [f64]) {
    let lanes = S::F64_LANES;
    let mut j = 0;
    while j + 8 * lanes <= d {
        simd::add_rows::<S, 8>(simd, rows, d, j, w, out);
        j += 8 * lanes;
    }
    while j + lanes <= d {
        simd::add_rows::<S, 1>(simd, rows, d, j, w, out);
        j += lanes;
    }
    if j < d {
        for (x, w) in rows.chunks_exact(d).zip(w) {
            for (o, x) in out[j..].iter_mut().zip(&x[j..]) {
                *o += w * x;
            }
        }
    }
}

/// z = Xθ, `[n]`.
pub(crate) fn margins(rows: &[f64], d: usize, theta: &[f64]) -> Vec<f64> {
    struct Margins<'a>(&'a [f64], usize, &'a [f64], &'a mut [f64]);
    impl Kernel for Margins<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for (z, x) in self.3.iter_mut().zip(self.0.chunks_exact(self.1)) {
                *z = simd::dot(simd, x, self.2);
            }
        }
    }
    let mut z = vec![0.0; rows.len() / d];
    z.par_chunks_mut(RUN)
        .zip(rows.par_chunks(RUN * d))
        .for_each(|(z, rows)| dispatch(Margins(rows, d, theta, z)));
    z
}

/// σ′(z) = σ(z)σ(−z).
#[inline(always)]
pub(crate) fn sigmoid_slope(z: f64) -> f64 {
    let e = simd::exp(-z.abs());
    e / ((1.0 + e) * (1.0 + e))
}

/// Which weights Xᵀ·diag(w)·X takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Weights<'a> {
    /// w = 1.
    One,
    /// w_i = σ′(x_iᵀθ): the observed information of (4.1).
    Slope(&'a [f64]),
    /// w, `[n]`.
    Given(&'a [f64]),
}

impl Weights<'_> {
    /// The weights of run `i`: those that are given row by row belong to its rows only.
    fn of_run(&self, i: usize, n: usize) -> Self {
        match self {
            Weights::Given(w) => Weights::Given(&w[i * RUN..i * RUN + n]),
            shared => *shared,
        }
    }
}

/// Xᵀw, `[d]`.
pub(crate) fn weighted_sum(rows: &[f64], d: usize, weights: &[f64]) -> Vec<f64> {
    struct Sum<'a>(&'a [f64], usize, &'a [f64]);
    impl Kernel for Sum<'_> {
        type Output = Vec<f64>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f64> {
            let mut out = vec![0.0; self.1];
            let blocks = self.0.chunks(BLOCK * self.1).zip(self.2.chunks(BLOCK));
            for (rows, w) in blocks {
                accumulate(simd, rows, self.1, w, &mut out);
            }
            out
        }
    }
    let runs: Vec<Vec<f64>> = rows
        .par_chunks(RUN * d)
        .zip(weights.par_chunks(RUN))
        .map(|(rows, w)| dispatch(Sum(rows, d, w)))
        .collect();
    let mut out = vec![0.0; d];
    for run in &runs {
        out.iter_mut().zip(run).for_each(|(o, r)| *o += r);
    }
    out
}

/// Xᵀ·diag(w)·X, `[d, d]`, symmetric.
pub(crate) fn gram(rows: &[f64], d: usize, weights: Weights<'_>) -> Vec<f64> {
    let padded = d.next_multiple_of(LANES);
    let runs: Vec<Vec<f64>> = rows
        .par_chunks(RUN * d)
        .enumerate()
        .map(|(i, rows)| {
            let weights = weights.of_run(i, rows.len() / d);
            dispatch(GramKernel { rows, d, weights })
        })
        .collect();
    let mut upper = vec![0.0; padded * padded];
    for run in &runs {
        for (u, r) in upper.iter_mut().zip(run) {
            *u += r;
        }
    }
    let mut out = vec![0.0; d * d];
    for i in 0..d {
        for j in i..d {
            out[i * d + j] = upper[i * padded + j];
            out[j * d + i] = upper[i * padded + j];
        }
    }
    out
}

struct GramKernel<'a> {
    rows: &'a [f64],
    d: usize,
    weights: Weights<'a>,
}

/// Output tile of the Gram kernel: TALL × LANES accumulators stay in registers.
const TALL: usize = LANES;

impl Kernel for GramKernel<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        let d = self.d;
        let padded = d.next_multiple_of(LANES);
        let mut out = vec![0.0; padded * padded];
        let mut plain = vec![0.0; BLOCK * padded];
        let mut scaled = vec![0.0; BLOCK * padded];
        for (block, rows) in self.rows.chunks(BLOCK * d).enumerate() {
            let n = rows.len() / d;
            let mut w = [1.0; BLOCK];
            match self.weights {
                Weights::One => {}
                Weights::Slope(theta) => {
                    for (w, x) in w.iter_mut().zip(rows.chunks_exact(d)) {
                        *w = simd::dot(simd, x, theta);
                    }
                    for w in &mut w {
                        *w = sigmoid_slope(*w);
                    }
                }
                Weights::Given(given) => {
                    let given = &given[block * BLOCK..];
                    w[..n].copy_from_slice(&given[..n]);
                }
            }
            let packed = plain
                .chunks_exact_mut(padded)
                .zip(scaled.chunks_exact_mut(padded));
            for ((x, w), (p, q)) in rows.chunks_exact(d).zip(&w).zip(packed) {
                p[..d].copy_from_slice(x);
                for (q, x) in q.iter_mut().zip(x) {
                    *q = w * x;
                }
            }
            for i in (0..padded).step_by(TALL) {
                for j in (i / LANES * LANES..padded).step_by(LANES) {
                    tile(simd, (&scaled, &plain), padded, n, (i, j), &mut out);
                }
            }
        }
        out
    }
}

#[inline(always)]
fn tile<S: Simd>(
    simd: S,
    (left, right): (&[f64], &[f64]),
    padded: usize,
    n: usize,
    (i, j): (usize, usize),
    out: &mut [f64],
) {
    let width = LANES / S::F64_LANES;
    let mut acc = [[simd.splat_f64s(0.0); LANES]; TALL];
    let pairs = left.chunks_exact(padded).zip(right.chunks_exact(padded));
    for (a, b) in pairs.take(n) {
        let a: &[f64; TALL] = a[i..i + TALL].try_into().expect("the height is constant");
        let b = S::as_simd_f64s(&b[j..j + LANES]).0;
        for k in 0..TALL {
            let wide = simd.splat_f64s(a[k]);
            for l in 0..width {
                acc[k][l] = simd.mul_add_e_f64s(wide, b[l], acc[k][l]);
            }
        }
    }
    for (k, acc) in acc.iter().enumerate() {
        let start = (i + k) * padded + j;
        let out = S::as_mut_simd_f64s(&mut out[start..start + LANES]).0;
        for l in 0..width {
            out[l] = simd.add_f64s(out[l], acc[l]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::{log_sigmoid, sigmoid};
    use crate::seed::SeedTree;
    use rand::Rng;

    #[test]
    fn passes_agree_with_plain_loops_at_every_remainder() {
        let mut rng = SeedTree::new(1).rng();
        for (n, d) in [
            (1, 1),
            (7, 3),
            (64, 8),
            (65, 9),
            (130, 33),
            (100, 41),
            (20_000, 5),
        ] {
            let x: Vec<f64> = (0..n * d).map(|_| rng.random_range(-2.0..2.0)).collect();
            let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
            let got = pass(&x, d, &theta);
            let z = margins(&x, d, &theta);
            let (mut loss, mut g) = (0.0, vec![0.0; d]);
            let mut h = vec![0.0; d * d];
            for (x, z) in x.chunks_exact(d).zip(&z) {
                let plain: f64 = x.iter().zip(&theta).map(|(a, b)| a * b).sum();
                assert!((plain - z).abs() < 1e-12);
                loss -= log_sigmoid(*z);
                let w = sigmoid(-z);
                for i in 0..d {
                    g[i] -= w * x[i];
                    for j in 0..d {
                        h[i * d + j] += w * (1.0 - w) * x[i] * x[j];
                    }
                }
            }
            let scale = 1e-14 * n as f64;
            assert!((got.loss - loss).abs() < scale.max(1e-13));
            assert_eq!(
                got.min_margin,
                z.iter().copied().fold(f64::INFINITY, f64::min)
            );
            for (a, b) in got.gradient.iter().zip(&g) {
                assert!((a - b).abs() < scale.max(1e-13) * 10.0);
            }
            for (a, b) in gram(&x, d, Weights::Slope(&theta)).iter().zip(&h) {
                assert!((a - b).abs() < scale.max(1e-13) * 10.0);
            }
            let slopes: Vec<f64> = z.iter().map(|z| sigmoid_slope(*z)).collect();
            let given = gram(&x, d, Weights::Given(&slopes));
            assert_eq!(given, gram(&x, d, Weights::Slope(&theta)));
            let weights: Vec<f64> = z.iter().map(|z| -sigmoid(-z)).collect();
            for (a, b) in weighted_sum(&x, d, &weights).iter().zip(&g) {
                assert!((a - b).abs() < scale.max(1e-13) * 10.0);
            }
        }
    }
}
