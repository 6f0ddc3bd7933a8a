//! One reading of X for rows that are long: while the margins of the next few rows are taken, the last few are added with their weights
//! to the gradient, so that memory never waits for arithmetic.
//!
//! Partial sums are taken over fixed runs of rows and added in order: neither the number of threads nor the direction of a reading
//! changes a result.

use pulp::Simd;
use rayon::prelude::*;

use super::kernels::{Pass, accumulate, logistic};
use crate::numerics::CompensatedSum;
use crate::simd::{self, Kernel, LANES, dispatch};

/// Entries of X summed by one parallel task.
const RUN_ENTRIES: usize = 1 << 20;
/// Margins summed by one parallel task.
const RUN_MARGINS: usize = 1 << 14;
/// Rows taken together: two such blocks of X, the parameters and the gradient should fit the first-level cache.
const BLOCK: usize = 8;
/// The same from `LONG` columns on.
const LONG_BLOCK: usize = 4;
const LONG: usize = 512;

/// Rows of a run.
fn run_rows(d: usize) -> usize {
    (RUN_ENTRIES / d).next_multiple_of(BLOCK)
}

/// Which end of X a reading starts from. In turn, each finds in the cache what the last one read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forwards,
    Backwards,
}

impl Direction {
    pub fn turned(self) -> Self {
        match self {
            Self::Forwards => Self::Backwards,
            Self::Backwards => Self::Forwards,
        }
    }

    /// What `work` makes of every run of rows and of what belongs to them in `z`, `[n]`, in the order of the rows.
    fn over<T: Send>(
        self,
        rows: &[f64],
        d: usize,
        z: &mut [f64],
        work: impl Fn(&[f64], &mut [f64]) -> T + Sync,
    ) -> Vec<T> {
        let run = run_rows(d);
        let runs = rows.par_chunks(run * d).zip(z.par_chunks_mut(run));
        let each = |(rows, z): (&[f64], &mut [f64])| work(rows, z);
        match self {
            Self::Forwards => runs.map(each).collect(),
            Self::Backwards => {
                let mut out: Vec<T> = runs.rev().map(each).collect();
                out.reverse();
                out
            }
        }
    }
}

fn add(runs: &[Vec<f64>], length: usize) -> Vec<f64> {
    let mut out = vec![0.0; length];
    for run in runs {
        out.iter_mut().zip(run).for_each(|(o, r)| *o += r);
    }
    out
}

/// −Σ σ(−z_i) x_i, `[d]`, and z = Xθ into `z`, `[n]`.
pub(super) fn gradient(
    rows: &[f64],
    d: usize,
    theta: &[f64],
    direction: Direction,
    z: &mut [f64],
) -> Vec<f64> {
    let runs = direction.over(rows, d, z, |rows, z| dispatch(Sweep { rows, d, theta, z }));
    add(&runs, d)
}

/// The gradient −½ Σ x_i at θ = 0, and Σ x_ik² for every k, `[d]` each.
pub(super) fn origin(rows: &[f64], d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut unused = vec![0.0; rows.len() / d];
    let runs = Direction::Forwards.over(rows, d, &mut unused, |rows, _| dispatch(Moments(rows, d)));
    let mut sums = add(&runs, 2 * d);
    let squares = sums.split_off(d);
    sums.iter_mut().for_each(|s| *s *= -0.5);
    (sums, squares)
}

/// −L and the smallest margin, from the margins.
pub(super) fn summary(z: &[f64], gradient: Vec<f64>) -> Pass {
    let mut loss = CompensatedSum::default();
    let mut min_margin = f64::INFINITY;
    let runs: Vec<(f64, f64)> = z
        .par_chunks(RUN_MARGINS)
        .map(|z| dispatch(Loss(z)))
        .collect();
    for (run, lowest) in runs {
        loss.add(run);
        min_margin = min_margin.min(lowest);
    }
    Pass {
        loss: loss.value(),
        gradient,
        min_margin,
    }
}

struct Loss<'a>(&'a [f64]);

impl Kernel for Loss<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f64, f64) {
        let (mut loss, mut lowest) = ([0.0; LANES], [f64::INFINITY; LANES]);
        let (mut z, mut unused) = ([f64::INFINITY; LANES], [0.0; LANES]);
        for chunk in self.0.chunks(LANES) {
            // What is missing in the last chunk has no loss.
            z.fill(f64::INFINITY);
            z[..chunk.len()].copy_from_slice(chunk);
            logistic(simd, &z, &mut unused, &mut loss, &mut lowest);
        }
        let lowest = lowest.into_iter().fold(f64::INFINITY, f64::min);
        (simd::tree_sum(&loss), lowest)
    }
}

/// −σ(−z) for up to [`LANES`] margins.
#[inline(always)]
fn weights<S: Simd, const R: usize>(simd: S, z: &[f64; R]) -> [f64; R] {
    let mut lanes = [0.0; LANES];
    lanes[..R].copy_from_slice(z);
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    for z in S::as_mut_simd_f64s(&mut lanes).0 {
        let size = simd.abs_f64s(*z);
        let e = simd::exp_vector(simd, simd.sub_f64s(zero, size));
        let tail = simd.div_f64s(e, simd.add_f64s(one, e));
        let negative = simd.less_than_f64s(*z, zero);
        let (above, below) = (simd.sub_f64s(zero, tail), simd.sub_f64s(tail, one));
        *z = simd.select_f64s(negative, below, above);
    }
    let mut out = [0.0; R];
    out.copy_from_slice(&lanes[..R]);
    out
}

struct Sweep<'a> {
    rows: &'a [f64],
    d: usize,
    theta: &'a [f64],
    z: &'a mut [f64],
}

impl Kernel for Sweep<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        if self.d < LONG {
            self.by::<S, BLOCK>(simd)
        } else {
            self.by::<S, LONG_BLOCK>(simd)
        }
    }
}

impl Sweep<'_> {
    #[inline(always)]
    fn by<S: Simd, const R: usize>(self, simd: S) -> Vec<f64> {
        let mut out = vec![0.0; self.d];
        let blocks = self.rows.chunks_exact(R * self.d);
        let rest = blocks.remainder();
        let mut z = self.z.chunks_exact_mut(R);
        let (mut last, mut w) = (&self.rows[..0], [0.0; R]);
        for (next, z) in blocks.zip(&mut z) {
            let margins = match last.is_empty() {
                true => margins::<S, R>(simd, self.d, self.theta, next),
                false => step::<S, R>(simd, self.d, self.theta, next, (last, w), &mut out),
            };
            z.copy_from_slice(&margins);
            w = weights::<S, R>(simd, &margins);
            last = next;
        }
        accumulate(simd, last, self.d, &w, &mut out);
        for (x, z) in rest.chunks_exact(self.d).zip(z.into_remainder()) {
            *z = simd::dot(simd, x, self.theta);
            accumulate(simd, x, self.d, &weights::<S, 1>(simd, &[*z]), &mut out);
        }
        out
    }
}

/// The margins of R rows.
#[inline(always)]
fn margins<S: Simd, const R: usize>(simd: S, d: usize, theta: &[f64], rows: &[f64]) -> [f64; R] {
    let mut out = [0.0; R];
    for (z, x) in out.iter_mut().zip(rows.chunks_exact(d)) {
        *z = simd::dot(simd, x, theta);
    }
    out
}

/// The margins of R rows, and Σ w x over the R before them into `out`.
#[inline(always)]
fn step<S: Simd, const R: usize>(
    simd: S,
    d: usize,
    theta: &[f64],
    next: &[f64],
    (last, w): (&[f64], [f64; R]),
    out: &mut [f64],
) -> [f64; R] {
    let vectors = d / S::F64_LANES;
    let whole = vectors * S::F64_LANES;
    let mut acc = [simd.splat_f64s(0.0); R];
    let mut wide = acc;
    for k in 0..R {
        wide[k] = simd.splat_f64s(w[k]);
    }
    let (t, o) = (
        &S::as_simd_f64s(&theta[..whole]).0[..vectors],
        &mut S::as_mut_simd_f64s(&mut out[..whole]).0[..vectors],
    );
    let mut xs = [t; R];
    let mut ps = [t; R];
    for k in 0..R {
        xs[k] = &S::as_simd_f64s(&next[k * d..k * d + whole]).0[..vectors];
        ps[k] = &S::as_simd_f64s(&last[k * d..k * d + whole]).0[..vectors];
    }
    for v in 0..vectors {
        let mut sum = o[v];
        for k in 0..R {
            acc[k] = simd.mul_add_e_f64s(t[v], xs[k][v], acc[k]);
            sum = simd.mul_add_e_f64s(wide[k], ps[k][v], sum);
        }
        o[v] = sum;
    }
    let mut z = [0.0; R];
    for k in 0..R {
        z[k] = simd.reduce_sum_f64s(acc[k]);
    }
    if whole < d {
        let rows = next.chunks_exact(d).zip(last.chunks_exact(d));
        for (((x, p), z), w) in rows.zip(&mut z).zip(w) {
            for k in whole..d {
                *z += x[k] * theta[k];
                out[k] += w * p[k];
            }
        }
    }
    z
}

/// Σ x_i and Σ x_ik², one after the other.
struct Moments<'a>(&'a [f64], usize);

impl Kernel for Moments<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        let d = self.1;
        let mut out = vec![0.0; 2 * d];
        let vectors = d / S::F64_LANES;
        let whole = vectors * S::F64_LANES;
        let (sums, squares) = out.split_at_mut(d);
        let blocks = self.0.chunks_exact(LONG_BLOCK * d);
        let rest = blocks.remainder();
        for rows in blocks {
            let s = &mut S::as_mut_simd_f64s(&mut sums[..whole]).0[..vectors];
            let q = &mut S::as_mut_simd_f64s(&mut squares[..whole]).0[..vectors];
            let mut xs = [S::as_simd_f64s(&rows[..whole]).0; LONG_BLOCK];
            for (k, xs) in xs.iter_mut().enumerate() {
                *xs = &S::as_simd_f64s(&rows[k * d..k * d + whole]).0[..vectors];
            }
            for v in 0..vectors {
                let (mut sum, mut square) = (s[v], q[v]);
                for x in &xs {
                    let x = x[v];
                    sum = simd.add_f64s(sum, x);
                    square = simd.mul_add_e_f64s(x, x, square);
                }
                s[v] = sum;
                q[v] = square;
            }
            if whole < d {
                for x in rows.chunks_exact(d) {
                    for k in whole..d {
                        sums[k] += x[k];
                        squares[k] += x[k] * x[k];
                    }
                }
            }
        }
        for x in rest.chunks_exact(d) {
            for k in 0..d {
                sums[k] += x[k];
                squares[k] += x[k] * x[k];
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::kernels;
    use crate::seed::SeedTree;
    use rand::Rng;

    #[test]
    fn readings_agree_with_those_of_the_other_kernels_at_every_remainder() {
        let mut rng = SeedTree::new(2).rng();
        for (n, d) in [
            (1, 48),
            (3, 49),
            (8, 63),
            (67, 100),
            (30_001, 65),
            (41, 515),
            (2_050, 1_027),
        ] {
            let x: Vec<f64> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
            let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-0.5..0.5)).collect();
            let want = kernels::pass(&x, d, &theta);
            let mut z = vec![0.0; n];
            let got = gradient(&x, d, &theta, Direction::Forwards, &mut z);
            let all = summary(&z, got.clone());
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-13 * (n as f64).max(10.0);
            assert!(close(all.loss, want.loss), "{n} {d}");
            assert!(close(all.min_margin, want.min_margin), "{n} {d}");
            for (a, b) in got.iter().zip(&want.gradient) {
                assert!(close(*a, *b), "{n} {d}: {a} {b}");
            }
            for (a, b) in z.iter().zip(kernels::margins(&x, d, &theta)) {
                assert!(close(*a, b), "{n} {d}: {a} {b}");
            }
            // The other end first: the same bits.
            let mut again = vec![0.0; n];
            let back = gradient(&x, d, &theta, Direction::Backwards, &mut again);
            assert_eq!((back, again), (got, z), "{n} {d}");
            let (first, squares) = origin(&x, d);
            let at_zero = kernels::pass(&x, d, &vec![0.0; d]).gradient;
            for (a, b) in first.iter().zip(&at_zero) {
                assert!(close(*a, *b), "{n} {d}: {a} {b}");
            }
            for (k, square) in squares.iter().enumerate() {
                let plain: f64 = x.chunks_exact(d).map(|x| x[k] * x[k]).sum();
                assert!(close(*square, plain), "{n} {d}: {square} {plain}");
            }
        }
    }
}
