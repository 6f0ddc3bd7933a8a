//! X rounded to eight bits for all readings that need not be exact: an eighth of the bytes.
//!
//! Entries of one column in [`BLOCK`] rows are whole multiples of a unit of their own, the largest of them 127 units: neither the
//! units of the features nor a few long rows spoil the rest, and entries 0 and ±1 stay as they are. A reading of the rounded rows X̃ gives
//! what a step changes of the gradient of (4.1), from exact margins at its start: its error is a share of the change, however
//! small that is, so that rounds of such steps from exact gradients end at the accuracy of these.
//!
//! Partial sums are taken over fixed runs of rows and added in order: the number of threads does not change a result.

use pulp::Simd;
use rayon::prelude::*;

use super::sweep::{self, weights};
use crate::simd::{Kernel, dispatch};

/// Rows with units in common.
const BLOCK: usize = 64;
/// Rows looked at, and rounded, in turn.
const FEW: usize = 4;
/// Entries of a row are padded to a multiple of this.
const PAD: usize = 16;
/// Entries summed by one parallel task.
const RUN_ENTRIES: usize = 1 << 20;
/// Rows read together: those before them and they, as f32, should fit the first-level cache.
const ROWS: usize = 4;
/// The largest number of units of an entry.
const UNITS: f64 = 127.0;
/// 1.5·2⁵²: adding it leaves the nearest integer in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// What the reading that rounds says of the rows themselves, `[d]` each.
pub(super) struct Moments {
    /// Σ x_i.
    pub sums: Vec<f64>,
    /// Σ x_ik².
    pub squares: Vec<f64>,
}

pub(super) struct Rounded {
    d: usize,
    /// d, padded.
    stride: usize,
    /// Whole units, `[n, stride]`, 0 beyond d.
    entries: Vec<i8>,
    /// The unit of every column in every block, `[blocks, d]`.
    units: Vec<f64>,
}

/// Blocks of a run.
fn run_blocks(d: usize) -> usize {
    (RUN_ENTRIES / d / BLOCK).max(1)
}

/// As many zeros as asked for, where there is the memory.
fn zeros<T: Clone + Default>(count: usize) -> Option<Vec<T>> {
    // Memory that is not there would end the process; this asks before it is used.
    Vec::<T>::new().try_reserve_exact(count).ok()?;
    Some(vec![T::default(); count])
}

impl Rounded {
    /// None where there is no memory for it.
    pub fn of(rows: &[f64], d: usize) -> Option<(Self, Moments)> {
        let (n, stride) = (rows.len() / d, d.next_multiple_of(PAD));
        let mut entries: Vec<i8> = zeros(n * stride)?;
        let mut units: Vec<f64> = zeros(n.div_ceil(BLOCK) * d)?;
        let run = run_blocks(d);
        let runs: Vec<Vec<f64>> = rows
            .par_chunks(run * BLOCK * d)
            .zip(entries.par_chunks_mut(run * BLOCK * stride))
            .zip(units.par_chunks_mut(run * d))
            .map(|((rows, entries), units)| {
                dispatch(Round {
                    rows,
                    d,
                    entries,
                    units,
                })
            })
            .collect();
        let mut sums = sweep::add(&runs, 2 * d);
        let squares = sums.split_off(d);
        let moments = Moments { sums, squares };
        let copy = Self {
            d,
            stride,
            entries,
            units,
        };
        Some((copy, moments))
    }

    /// Σ (σ(−z_i) − σ(−z_i − x̃_iᵀδ)) x̃_i, `[d]`: what a step δ changes of the gradient of −L where the margins are z.
    pub fn change(&self, margins: &[f64], step: &[f64]) -> Vec<f64> {
        let (d, stride, run) = (self.d, self.stride, run_blocks(self.d));
        let runs: Vec<Vec<f64>> = self
            .entries
            .par_chunks(run * BLOCK * stride)
            .zip(self.units.par_chunks(run * d))
            .zip(margins.par_chunks(run * BLOCK))
            .map(|((entries, units), margins)| {
                dispatch(Reading {
                    entries,
                    units,
                    stride,
                    margins,
                    step,
                })
            })
            .collect();
        sweep::add(&runs, d)
    }
}

/// Rounds a run of rows; Σ x and Σ x² one after the other.
///
/// The units of a block are known once all of it has been seen: while it is rounded the next block is looked at, a few rows of each
/// in turn, so that memory never waits for arithmetic.
struct Round<'a> {
    rows: &'a [f64],
    d: usize,
    entries: &'a mut [i8],
    units: &'a mut [f64],
}

impl Kernel for Round<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<f64> {
        let d = self.d;
        let stride = d.next_multiple_of(PAD);
        let (mut seen, mut grid) = (Seen::new(d), Grid(vec![0.0; d]));
        let mut last: &[f64] = &[];
        let blocks = self.rows.chunks(BLOCK * d);
        // The entries of the block before, which is whole.
        let mut outs = self.entries.chunks_mut(BLOCK * stride);
        for (rows, units) in blocks.zip(self.units.chunks_exact_mut(d)) {
            let mut out: &mut [i8] = match last.is_empty() {
                true => &mut [],
                false => outs.next().expect("as many blocks of entries as of rows"),
            };
            let (mut ahead, mut behind) = (rows, last);
            while ahead.len() >= FEW * d && behind.len() >= FEW * d {
                let (see, rest) = ahead.split_at(FEW * d);
                let (round, left) = behind.split_at(FEW * d);
                let (to, space) = std::mem::take(&mut out).split_at_mut(FEW * stride);
                few(see, round, d, &mut seen, &grid, to);
                (ahead, behind, out) = (rest, left, space);
            }
            ahead.chunks_exact(d).for_each(|x| seen.add(x));
            let outs = out.chunks_exact_mut(stride);
            behind
                .chunks_exact(d)
                .zip(outs)
                .for_each(|(x, to)| grid.round(x, to));
            grid.set(&mut seen, units);
            last = rows;
        }
        if let Some(out) = outs.next() {
            let outs = out.chunks_exact_mut(stride);
            last.chunks_exact(d)
                .zip(outs)
                .for_each(|(x, to)| grid.round(x, to));
        }
        [seen.sums, seen.squares].concat()
    }
}

/// What has been seen of the columns, `[d]` each.
struct Seen {
    /// The largest size of an entry of the block.
    top: Vec<f64>,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Seen {
    fn new(d: usize) -> Self {
        Self {
            top: vec![0.0; d],
            sums: vec![0.0; d],
            squares: vec![0.0; d],
        }
    }

    #[inline(always)]
    fn add(&mut self, x: &[f64]) {
        let all = self.top.iter_mut().zip(&mut self.sums);
        for (((top, sum), square), x) in all.zip(&mut self.squares).zip(x) {
            *top = larger(*top, x.abs());
            *sum += x;
            *square += x * x;
        }
    }
}

#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// 1/unit of the columns in the block that is rounded, `[d]`.
struct Grid(Vec<f64>);

impl Grid {
    #[inline(always)]
    fn round(&self, x: &[f64], to: &mut [i8]) {
        for ((inverse, x), to) in self.0.iter().zip(x).zip(to) {
            *to = (x * inverse + ROUND).to_bits() as i8;
        }
    }

    /// The units of a block that has been seen.
    fn set(&mut self, seen: &mut Seen, units: &mut [f64]) {
        let all = seen.top.iter_mut().zip(units).zip(&mut self.0);
        for ((top, unit), inverse) in all {
            *unit = *top / UNITS;
            *inverse = UNITS / *top;
            // Columns without an entry, or with none that floating point has the inverse of.
            if !inverse.is_finite() {
                (*inverse, *unit) = (0.0, 0.0);
            }
            *top = 0.0;
        }
    }
}

/// Looks at a few rows and rounds a few others.
#[inline(always)]
fn few(see: &[f64], round: &[f64], d: usize, seen: &mut Seen, grid: &Grid, to: &mut [i8]) {
    let stride = to.len() / FEW;
    let (a, rest) = see.split_at(d);
    let (b, rest) = rest.split_at(d);
    let (c, e) = rest.split_at(d);
    let (p, rest) = round.split_at(d);
    let (q, rest) = rest.split_at(d);
    let (r, s) = rest.split_at(d);
    let (t, rest) = to.split_at_mut(stride);
    let (u, rest) = rest.split_at_mut(stride);
    let (v, w) = rest.split_at_mut(stride);
    fused(
        d,
        a,
        b,
        c,
        e,
        p,
        q,
        r,
        s,
        t,
        u,
        v,
        w,
        &mut seen.top,
        &mut seen.sums,
        &mut seen.squares,
        &grid.0,
    );
}

/// One loop over the columns, every slice an argument of its own: what may not overlap can be read and written side by side.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn fused(
    d: usize,
    a: &[f64],
    b: &[f64],
    c: &[f64],
    e: &[f64],
    p: &[f64],
    q: &[f64],
    r: &[f64],
    s: &[f64],
    t: &mut [i8],
    u: &mut [i8],
    v: &mut [i8],
    w: &mut [i8],
    top: &mut [f64],
    sums: &mut [f64],
    squares: &mut [f64],
    inverse: &[f64],
) {
    let (a, b, c, e) = (&a[..d], &b[..d], &c[..d], &e[..d]);
    let (p, q, r, s) = (&p[..d], &q[..d], &r[..d], &s[..d]);
    let (t, u, v, w) = (&mut t[..d], &mut u[..d], &mut v[..d], &mut w[..d]);
    let (top, sums, squares) = (&mut top[..d], &mut sums[..d], &mut squares[..d]);
    let inverse = &inverse[..d];
    for k in 0..d {
        let (a, b, c, e) = (a[k], b[k], c[k], e[k]);
        let most = larger(larger(a.abs(), b.abs()), larger(c.abs(), e.abs()));
        top[k] = larger(top[k], most);
        sums[k] += (a + b) + (c + e);
        squares[k] += (a * a + b * b) + (c * c + e * e);
        let i = inverse[k];
        let (p, q) = (p[k] * i + ROUND, q[k] * i + ROUND);
        let (r, s) = (r[k] * i + ROUND, s[k] * i + ROUND);
        t[k] = p.to_bits() as i8;
        u[k] = q.to_bits() as i8;
        v[k] = r.to_bits() as i8;
        w[k] = s.to_bits() as i8;
    }
}

struct Reading<'a> {
    entries: &'a [i8],
    units: &'a [f64],
    stride: usize,
    /// z, of the rows.
    margins: &'a [f64],
    /// δ, `[d]`.
    step: &'a [f64],
}

impl Kernel for Reading<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f64> {
        const R: usize = ROWS;
        let (d, stride) = (self.step.len(), self.stride);
        let mut out = vec![0.0; d];
        let (mut scaled, mut sums) = (vec![0f32; stride], vec![0f32; stride]);
        let (mut next, mut last) = (vec![0f32; R * stride], vec![0f32; R * stride]);
        let blocks = self
            .entries
            .chunks(BLOCK * stride)
            .zip(self.margins.chunks(BLOCK))
            .zip(self.units.chunks_exact(d));
        for ((entries, margins), units) in blocks {
            for ((s, t), u) in scaled.iter_mut().zip(self.step).zip(units) {
                *s = (t * u) as f32;
            }
            sums.fill(0.0);
            let mut w = [0f32; R];
            last.fill(0.0);
            for (rows, margins) in entries.chunks(R * stride).zip(margins.chunks(R)) {
                for (out, x) in next.iter_mut().zip(rows) {
                    *out = f32::from(*x);
                }
                // Rows beyond the data are rows of zeros.
                next[rows.len()..].fill(0.0);
                let change = step::<S, R>(simd, &scaled, &next, (&last, w), &mut sums);
                let mut z = [0.0; R];
                z[..margins.len()].copy_from_slice(margins);
                let before = weights::<S, R>(simd, &z);
                for k in 0..R {
                    z[k] += change[k];
                }
                let after = weights::<S, R>(simd, &z);
                for k in 0..R {
                    w[k] = (after[k] - before[k]) as f32;
                }
                std::mem::swap(&mut next, &mut last);
            }
            next.fill(0.0);
            step::<S, R>(simd, &scaled, &next, (&last, w), &mut sums);
            for ((o, s), u) in out.iter_mut().zip(&sums).zip(units) {
                *o += f64::from(*s) * u;
            }
        }
        out
    }
}

/// xᵀδ of R rows, and Σ w x over the R before them into `out`.
#[inline(always)]
fn step<S: Simd, const R: usize>(
    simd: S,
    delta: &[f32],
    next: &[f32],
    (last, w): (&[f32], [f32; R]),
    out: &mut [f32],
) -> [f64; R] {
    let stride = delta.len();
    let vectors = stride / S::F32_LANES;
    let mut acc = [simd.splat_f32s(0.0); R];
    let mut wide = acc;
    for k in 0..R {
        wide[k] = simd.splat_f32s(w[k]);
    }
    let (t, o) = (
        &S::as_simd_f32s(delta).0[..vectors],
        &mut S::as_mut_simd_f32s(out).0[..vectors],
    );
    let (mut xs, mut ps) = ([t; R], [t; R]);
    for k in 0..R {
        xs[k] = &S::as_simd_f32s(&next[k * stride..(k + 1) * stride]).0[..vectors];
        ps[k] = &S::as_simd_f32s(&last[k * stride..(k + 1) * stride]).0[..vectors];
    }
    for v in 0..vectors {
        let mut sum = o[v];
        for k in 0..R {
            acc[k] = simd.mul_add_e_f32s(t[v], xs[k][v], acc[k]);
            sum = simd.mul_add_e_f32s(wide[k], ps[k][v], sum);
        }
        o[v] = sum;
    }
    let mut z = [0.0; R];
    for k in 0..R {
        z[k] = f64::from(simd.reduce_sum_f32s(acc[k]));
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::kernels;
    use crate::seed::SeedTree;
    use rand::Rng;

    /// The rounded rows as numbers, `[n, d]`.
    fn decoded(copy: &Rounded) -> Vec<f64> {
        let rows = copy.entries.chunks_exact(copy.stride).enumerate();
        let row = |(i, q): (usize, &[i8])| {
            let units = &copy.units[i / BLOCK * copy.d..][..copy.d];
            let entries = q.iter().zip(units).map(|(q, u)| f64::from(*q) * u);
            entries.collect::<Vec<f64>>()
        };
        rows.flat_map(row).collect()
    }

    #[test]
    fn entries_are_within_half_a_unit_and_readings_are_of_what_was_rounded() {
        let mut rng = SeedTree::new(5).rng();
        for (n, d) in [
            (1, 3),
            (63, 48),
            (64, 49),
            (66, 17),
            (257, 100),
            (30_001, 65),
            (4_099, 515),
        ] {
            let size = |k: usize| 10f64.powi(k as i32 % 7 * 30 - 90);
            let x: Vec<f64> = (0..n * d)
                .map(|i| match i % d {
                    0 => 0.0,
                    // Whole numbers up to ±127, as counts are, stay as they are.
                    1 => f64::from(rng.random_range(-2i8..3)),
                    k => size(k) * rng.random_range(-1.0..1.0),
                })
                .collect();
            let (copy, moments) = Rounded::of(&x, d).unwrap();
            let back = decoded(&copy);
            for (i, (a, b)) in x.iter().zip(&back).enumerate() {
                let unit = copy.units[i / d / BLOCK * d + i % d];
                assert!(
                    (a - b).abs() <= 0.5 * unit * (1.0 + 1e-12),
                    "{n} {d}: {a} {b}"
                );
                let column = |j: usize| x[j * d + i % d].abs();
                let block = i / d / BLOCK * BLOCK..(i / d / BLOCK * BLOCK + BLOCK).min(n);
                assert!(
                    (unit * UNITS - block.map(column).fold(0.0, f64::max)).abs()
                        <= 1e-15 * unit * UNITS
                );
            }
            for k in 0..d {
                let close = |got: f64, of: &[f64], f: fn(f64) -> f64| {
                    let all = || of.iter().skip(k).step_by(d).map(|x| f(*x));
                    let size: f64 = all().map(f64::abs).sum();
                    assert!(
                        (got - all().sum::<f64>()).abs() <= 1e-12 * size,
                        "{n} {d} {k}"
                    );
                };
                close(moments.sums[k], &x, |x| x);
                close(moments.squares[k], &x, |x| x * x);
            }
            let mut draw = |size_of_step: f64| -> Vec<f64> {
                let each = (0..d).map(|k| {
                    let unit = if k > 1 { size(k) } else { 1.0 };
                    size_of_step * rng.random_range(-0.5..0.5) / unit
                });
                each.collect()
            };
            let z = kernels::margins(&back, d, &draw(1.0));
            let sigma = |z: f64| 1.0 / (1.0 + z.exp());
            // However small a step is, what it changes is known to single precision.
            let steps = [draw(1.0), draw(1e-10)];
            for step in &steps {
                let by = kernels::margins(&back, d, step);
                let weights = z.iter().zip(&by).map(|(z, by)| match by.abs() > 1e-4 {
                    true => sigma(*z) - sigma(z + by),
                    false => kernels::sigmoid_slope(*z) * by,
                });
                let weights: Vec<f64> = weights.collect();
                let (want, got) = (
                    kernels::weighted_sum(&back, d, &weights),
                    copy.change(&z, step),
                );
                for (k, (a, b)) in got.iter().zip(&want).enumerate() {
                    let column = back.iter().skip(k).step_by(d).zip(&by);
                    let size: f64 = column.map(|(x, by)| (x * by).abs()).sum();
                    assert!((a - b).abs() <= 1e-4 * size, "{n} {d} {k}: {a} {b}");
                }
            }
            let got = copy.change(&z, &steps[0]);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let (again, same) = pool.install(|| Rounded::of(&x, d)).unwrap();
                assert!(again.entries == copy.entries && again.units == copy.units);
                assert!(same.sums == moments.sums && same.squares == moments.squares);
                assert_eq!(pool.install(|| again.change(&z, &steps[0])), got);
            }
        }
    }

    #[test]
    fn columns_that_floating_point_cannot_take_the_inverse_of_are_zeros() {
        let x = [5e-324, 1e308, -1e-310, -1e308];
        let (copy, _) = Rounded::of(&x, 2).unwrap();
        assert_eq!(copy.units, [0.0, 1e308 / UNITS]);
        let at = |k: usize| [copy.entries[k], copy.entries[copy.stride + k]];
        assert_eq!((at(0), at(1)), ([0, 0], [127, -127]));
    }
}
