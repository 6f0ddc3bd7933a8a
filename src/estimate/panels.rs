//! Xᵀ·diag(w)·X and its Cholesky factor for many columns.
//!
//! Rows are packed a block at a time into panels of [`LANES`] columns, so that whatever a tile of the product reads lies in
//! one piece; the factorisation updates what is left of the matrix by the same tiles. One thread: the sums do not depend on their
//! number.

use pulp::Simd;

use super::kernels::{self, sigmoid_slope};
use crate::simd::{Kernel, LANES, dispatch};

/// Rows of a block.
const DEPTH: usize = 128;
/// Rows of the factor between two updates of the rest.
const STEP: usize = 32;

/// A symmetric matrix `[d, d]`, of which the upper triangle is there.
pub(super) struct Upper {
    d: usize,
    /// d, rounded up to whole panels.
    stride: usize,
    entries: Vec<f64>,
}

/// Two packings of the same rows, `[panels, rows, LANES]`: as they are, and times their weights.
struct Packed {
    plain: Vec<f64>,
    scaled: Vec<f64>,
    rows: usize,
    /// The first column.
    from: usize,
}

impl Packed {
    /// Of rows of `stride` entries, columns `from` on, a whole number of panels.
    fn fill(&mut self, rows: &[f64], stride: usize, width: usize, from: usize, w: &[f64]) {
        let n = rows.len() / stride;
        (self.rows, self.from) = (n, from);
        for (p, at) in (from..width).step_by(LANES).enumerate() {
            let to = LANES.min(width - at);
            let start = p * n * LANES;
            let (plain, scaled) = (
                &mut self.plain[start..start + n * LANES],
                &mut self.scaled[start..start + n * LANES],
            );
            let out = plain
                .chunks_exact_mut(LANES)
                .zip(scaled.chunks_exact_mut(LANES));
            for ((x, w), (p, q)) in rows.chunks_exact(stride).zip(w).zip(out) {
                p[to..].fill(0.0);
                q[to..].fill(0.0);
                for ((p, q), x) in p.iter_mut().zip(q).zip(&x[at..at + to]) {
                    (*p, *q) = (*x, w * x);
                }
            }
        }
    }

    fn of(rows: usize, stride: usize) -> Self {
        Self {
            plain: vec![0.0; rows * stride],
            scaled: vec![0.0; rows * stride],
            rows: 0,
            from: 0,
        }
    }

    fn panel<'a>(&self, of: &'a [f64], column: usize) -> &'a [f64] {
        let length = self.rows * LANES;
        &of[(column - self.from) / LANES * length..][..length]
    }
}

impl Upper {
    /// Σ σ′(x_iᵀθ) x_i x_iᵀ over rows `[n, d]`.
    pub fn information(rows: &[f64], d: usize, theta: &[f64]) -> Self {
        let stride = d.next_multiple_of(LANES);
        let mut out = Self {
            d,
            stride,
            entries: vec![0.0; stride * stride],
        };
        let mut packed = Packed::of(DEPTH, stride);
        for rows in rows.chunks(DEPTH * d) {
            let mut w = kernels::margins(rows, d, theta);
            w.iter_mut().for_each(|w| *w = sigmoid_slope(*w));
            packed.fill(rows, d, d, 0, &w);
            out.add(&packed);
        }
        out
    }

    /// The diagonal of the same, `[d]`.
    pub fn diagonal(rows: &[f64], d: usize, theta: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; d];
        for (x, z) in rows.chunks_exact(d).zip(kernels::margins(rows, d, theta)) {
            let weight = sigmoid_slope(z);
            out.iter_mut()
                .zip(x)
                .for_each(|(o, x)| *o += weight * x * x);
        }
        out
    }

    fn add(&mut self, packed: &Packed) {
        dispatch(Add { packed, to: self });
    }

    /// M_ij ← M_ij / (u_i u_j).
    pub fn divide(&mut self, unit: &[f64]) {
        for (row, ui) in self.entries.chunks_exact_mut(self.stride).zip(unit) {
            for (x, uj) in row.iter_mut().zip(unit) {
                *x /= ui * uj;
            }
        }
    }

    /// M_ii ← M_ii + a_i.
    pub fn add_to_diagonal(&mut self, a: &[f64]) {
        for (i, a) in a.iter().enumerate() {
            self.entries[i * self.stride + i] += a;
        }
    }

    /// M = RᵀR with R upper triangular; none where a pivot R_ii² is not above `least`.
    pub fn factorise(mut self, least: f64) -> Option<Triangle> {
        let (d, stride) = (self.d, self.stride);
        let mut packed = Packed::of(STEP, stride);
        for start in (0..d).step_by(STEP) {
            let end = (start + STEP).min(d);
            for i in start..end {
                let (above, row) = self.entries.split_at_mut(i * stride);
                let row = &mut row[i..stride];
                for k in start..i {
                    let of = &above[k * stride + i..(k + 1) * stride];
                    subtract(row, of[0], of);
                }
                let pivot = row[0];
                if !(pivot > least && pivot.is_finite()) {
                    return None;
                }
                let root = pivot.sqrt();
                row.iter_mut().for_each(|x| *x /= root);
            }
            if end < d {
                let rows = &self.entries[start * stride..end * stride];
                packed.fill(rows, stride, stride, end, &[-1.0; STEP]);
                self.add(&packed);
            }
        }
        Some(Triangle(self))
    }
}

/// row −= factor·of.
fn subtract(row: &mut [f64], factor: f64, of: &[f64]) {
    struct Subtract<'a>(&'a mut [f64], f64, &'a [f64]);
    impl Kernel for Subtract<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            for (x, y) in self.0.iter_mut().zip(self.2) {
                *x -= self.1 * y;
            }
        }
    }
    dispatch(Subtract(row, factor, of));
}

/// R of M = RᵀR.
pub(super) struct Triangle(Upper);

impl Triangle {
    /// ‖R⁻ᵀv‖ = √(vᵀM⁻¹v).
    pub fn inverse_norm(&self, v: &[f64]) -> f64 {
        let (mut rest, stride) = (v.to_vec(), self.0.stride);
        let mut square = 0.0;
        for i in 0..self.0.d {
            let row = &self.0.entries[i * stride + i..i * stride + self.0.d];
            let y = rest[i] / row[0];
            square += y * y;
            subtract(&mut rest[i..], y, row);
        }
        square.sqrt()
    }
}

struct Add<'a> {
    packed: &'a Packed,
    to: &'a mut Upper,
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (packed, stride) = (self.packed, self.to.stride);
        for i in (packed.from..stride).step_by(LANES) {
            let left = packed.panel(&packed.scaled, i);
            for j in (i..stride).step_by(LANES) {
                let right = packed.panel(&packed.plain, j);
                let width = LANES / S::F64_LANES;
                let mut acc = [[simd.splat_f64s(0.0); LANES]; LANES];
                for (a, b) in left.chunks_exact(LANES).zip(right.chunks_exact(LANES)) {
                    let a: &[f64; LANES] = a.try_into().expect("a panel has as many columns");
                    let b = S::as_simd_f64s(b).0;
                    for k in 0..LANES {
                        let wide = simd.splat_f64s(a[k]);
                        for l in 0..width {
                            acc[k][l] = simd.mul_add_e_f64s(wide, b[l], acc[k][l]);
                        }
                    }
                }
                for (k, acc) in acc.iter().enumerate() {
                    let start = (i + k) * stride + j;
                    let out = &mut self.to.entries[start..start + LANES];
                    let out = S::as_mut_simd_f64s(out).0;
                    for l in 0..width {
                        out[l] = simd.add_f64s(out[l], acc[l]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::kernels::Weights;
    use crate::seed::SeedTree;
    use nalgebra::{DMatrix, DVector};
    use rand::Rng;

    #[test]
    fn the_information_and_its_factor_are_those_of_the_plain_kernel() {
        let mut rng = SeedTree::new(3).rng();
        for (n, d) in [(20, 5), (300, 48), (129, 65), (400, 130)] {
            let x: Vec<f64> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
            let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-0.5..0.5)).collect();
            let v: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
            let flat = kernels::gram(&x, d, Weights::Slope(&theta));
            let unit: Vec<f64> = (0..d).map(|k| 1.0 + k as f64).collect();
            let added = vec![0.25; d];
            let mut upper = Upper::information(&x, d, &theta);
            for i in 0..d {
                for j in i..d {
                    let got = upper.entries[i * upper.stride + j];
                    assert!((got - flat[i * d + j]).abs() < 1e-13 * n as f64);
                }
            }
            for (k, got) in Upper::diagonal(&x, d, &theta).iter().enumerate() {
                assert!((got - flat[k * d + k]).abs() < 1e-13 * n as f64);
            }
            upper.divide(&unit);
            upper.add_to_diagonal(&added);
            let plain = DMatrix::from_fn(d, d, |i, j| {
                flat[i * d + j] / (unit[i] * unit[j]) + if i == j { 0.25 } else { 0.0 }
            });
            let solved = plain
                .cholesky()
                .unwrap()
                .solve(&DVector::from_vec(v.clone()));
            let want = solved.dot(&DVector::from_vec(v.clone())).sqrt();
            let got = upper.factorise(1e-9).unwrap().inverse_norm(&v);
            assert!((got - want).abs() < 1e-12 * want, "{n} {d}: {got} {want}");
        }
        // A column that is the sum of two others, and nothing added.
        let d = 50;
        let mut x: Vec<f64> = (0..200 * d).map(|_| rng.random_range(-1.0..1.0)).collect();
        x.chunks_exact_mut(d).for_each(|x| x[49] = x[3] + x[7]);
        let singular = Upper::information(&x, d, &vec![0.0; d]);
        assert!(singular.factorise(1e-9).is_none());
    }
}
