//! The row space of X and its rank, whatever the features are measured in.

use nalgebra::{DMatrix, DVector};

use super::design::Design;
use super::kernels::{self, Weights};
use crate::Result;

/// Errata, B5: The row space of X: the parameter directions that preference data can see.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSpace {
    basis: DMatrix<f64>,
}

/// A pivot below this share of the largest counts as 0, once every column has length 1.
const NEGLIGIBLE: f64 = 1e-11;
/// Where every pivot of the scaled Gram matrix is above this, the columns are independent beyond doubt.
const CLEAR: f64 = 1e-6;

impl RowSpace {
    /// By an orthogonal factorisation with column pivoting of X, its columns scaled to length 1: a change of the
    /// features' units changes no rank. Pivots below 1e-11 of the largest count as 0, and so do those that rounding
    /// of the features may have made.
    ///
    /// # Errors
    /// None at present; the type leaves room for one.
    pub fn of(design: &Design) -> Result<Self> {
        Ok(Self {
            basis: basis(design.rows(), design.dim(), design.rounding()),
        })
    }

    /// rank X.
    pub fn rank(&self) -> usize {
        self.basis.ncols()
    }

    /// The orthogonal projection of v on the row space.
    pub fn project(&self, v: &[f64]) -> Vec<f64> {
        let v = DVector::from_column_slice(v);
        let projected = &self.basis * self.basis.tr_mul(&v);
        projected.as_slice().to_vec()
    }

    /// Orthonormal columns that span it, `[d, rank]`.
    pub(super) fn basis(&self) -> &DMatrix<f64> {
        &self.basis
    }
}

/// Orthonormal columns that span the rows, `[d, rank]`.
pub(super) fn basis(rows: &[f64], d: usize, rounding: &[f64]) -> DMatrix<f64> {
    let scales = column_scales(rows, d);
    let seen: Vec<usize> = (0..d).filter(|&k| scales[k] > 0.0).collect();
    if seen.len() == d && clearly_independent(rows, d, &scales) {
        return DMatrix::identity(d, d);
    }
    if seen.is_empty() {
        return DMatrix::zeros(d, 0);
    }
    let n = rows.len() / d;
    let noise = seen.iter().map(|&k| rounding[k] / scales[k]);
    let noise = noise.fold(0.0, f64::max) * (n as f64).sqrt();
    let unit = scaled_triangle(rows, d, &scales, &seen).col_piv_qr();
    let pivots = unit.r().diagonal();
    let least = NEGLIGIBLE.max(4.0 * noise) * pivots[0].abs();
    let rank = pivots.iter().take_while(|p| p.abs() > least).count();
    // The rows of T Pᵀ span the scaled rows: column k of X is scales[k] times as long.
    let mut span = unit.r().rows(0, rank).into_owned();
    unit.p().inv_permute_columns(&mut span);
    let mut graded = DMatrix::zeros(d, rank);
    let inner = span.transpose().qr().q();
    for (i, &k) in seen.iter().enumerate() {
        for j in 0..rank {
            graded[(k, j)] = inner[(i, j)] * scales[k];
        }
    }
    orthonormal(&graded)
}

/// ‖X_k‖₂ of every column, safe from overflow, `[d]`.
pub(super) fn column_scales(rows: &[f64], d: usize) -> Vec<f64> {
    let mut top = vec![0.0f64; d];
    for x in rows.chunks_exact(d) {
        for (t, x) in top.iter_mut().zip(x) {
            *t = t.max(x.abs());
        }
    }
    let mut squares = vec![0.0; d];
    for x in rows.chunks_exact(d) {
        for ((s, t), x) in squares.iter_mut().zip(&top).zip(x) {
            if *t > 0.0 {
                *s += (x / t) * (x / t);
            }
        }
    }
    top.iter()
        .zip(&squares)
        .map(|(t, s)| t * s.sqrt())
        .collect()
}

/// A cheap proof of full rank: the Cholesky factor of the Gram matrix of the scaled columns.
fn clearly_independent(rows: &[f64], d: usize, scales: &[f64]) -> bool {
    if rows.len() / d < d {
        return false;
    }
    let flat = kernels::gram(rows, d, Weights::One);
    let gram = DMatrix::from_fn(d, d, |i, j| flat[i * d + j] / scales[i] / scales[j]);
    gram.iter().all(|x| x.is_finite())
        && gram
            .cholesky()
            .is_some_and(|c| c.l_dirty().diagonal().iter().all(|x| x * x > CLEAR))
}

/// R of the QR factorisation of the scaled columns `seen`, read in chunks.
fn scaled_triangle(rows: &[f64], d: usize, scales: &[f64], seen: &[usize]) -> DMatrix<f64> {
    let k = seen.len();
    let mut triangle = DMatrix::zeros(0, k);
    for chunk in rows.chunks(4 * d.max(16) * d) {
        let (top, more) = (triangle.nrows(), chunk.len() / d);
        let mut stacked = triangle.insert_rows(top, more, 0.0);
        for (i, x) in chunk.chunks_exact(d).enumerate() {
            for (j, &column) in seen.iter().enumerate() {
                stacked[(top + i, j)] = x[column] / scales[column];
            }
        }
        triangle = stacked.qr().r();
    }
    // Square, so that pivoting sees every column.
    let have = triangle.nrows();
    triangle.insert_rows(have, k - have.min(k), 0.0)
}

/// An orthonormal basis of the columns. Householder's method keeps every row as exact as its own size where the
/// largest rows come first and columns are pivoted, so that a coordinate in tiny units is not lost beside others.
fn orthonormal(columns: &DMatrix<f64>) -> DMatrix<f64> {
    let (d, rank) = columns.shape();
    let size: Vec<f64> = (0..d).map(|i| columns.row(i).amax()).collect();
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|a, b| size[*b].total_cmp(&size[*a]));
    let sorted = DMatrix::from_fn(d, rank, |i, j| columns[(order[i], j)]);
    let q = sorted.col_piv_qr().q();
    let mut out = DMatrix::zeros(d, rank);
    for (i, &k) in order.iter().enumerate() {
        out.set_row(k, &q.row(i));
    }
    out
}
