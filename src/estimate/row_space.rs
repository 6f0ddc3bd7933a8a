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

/// The row space of X, its columns scaled to length 1.
pub(crate) struct ScaledSpan {
    /// ‖X_k‖₂, 0 for a column of zeros, `[d]`.
    pub scales: Vec<f64>,
    /// Orthonormal columns that span the scaled rows, `[d, rank]`.
    pub basis: DMatrix<f64>,
    /// The smallest pivot as a share of the largest.
    pub least_pivot: f64,
}

/// What is left of a row outside a span, of the row's length, that counts as nothing.
const INSIDE: f64 = 1e-11;

impl ScaledSpan {
    /// Of rows `[n, d]`; pivots count as in [`RowSpace::of`].
    pub fn of(rows: &[f64], d: usize, rounding: &[f64]) -> Self {
        scaled_span(rows, d, rounding)
    }

    /// Whether the span holds x, `[d]`.
    pub fn holds(&self, x: &[f64]) -> bool {
        let beside = self
            .scales
            .iter()
            .zip(x)
            .any(|(s, x)| *s == 0.0 && *x != 0.0);
        if beside {
            return false;
        }
        let scaled = self.scales.iter().zip(x);
        let scaled = scaled.map(|(s, x)| if *s > 0.0 { x / s } else { 0.0 });
        let scaled = DVector::from_iterator(x.len(), scaled);
        let rest = &scaled - &self.basis * self.basis.tr_mul(&scaled);
        rest.norm() <= INSIDE * scaled.norm()
    }
}

impl Design {
    /// The row space in columns of length 1, by an orthogonal factorisation with column pivoting; pivots count as in
    /// [`RowSpace::of`].
    pub(crate) fn scaled_span(&self) -> ScaledSpan {
        scaled_span(self.rows(), self.dim(), self.rounding())
    }

    /// R of the rows √σ′(x_iᵀθ) x_i (x_i without θ), columns scaled as in `span`, in as many columns as its rank, and which
    /// they are.
    pub(crate) fn pivoted_triangle(
        &self,
        span: &ScaledSpan,
        theta: Option<&[f64]>,
    ) -> Result<(Vec<usize>, DMatrix<f64>)> {
        let d = self.dim();
        let margins = theta.map(|theta| self.margins(theta)).transpose()?;
        // √σ′(z) = 1/(2 cosh(z/2)), which is positive long after σ′(z) is 0.
        let root = |i: usize| margins.as_ref().map_or(1.0, |z| 0.5 / (0.5 * z[i]).cosh());
        // In units of the largest, so that lengths of rows do not leave floating point; where all weigh 0, so does the triangle.
        let most = (0..self.n()).map(root).fold(0.0, f64::max);
        let weigh = |i: usize| if most > 0.0 { root(i) / most } else { 1.0 };
        let rank = span.basis.ncols();
        let mut triangle = DMatrix::zeros(0, d);
        let mut pivots: Vec<usize> = Vec::new();
        for (c, chunk) in self.rows().chunks(4 * d.max(16) * d).enumerate() {
            let (top, first) = (triangle.nrows(), c * 4 * d.max(16));
            let mut stacked = std::mem::take(&mut triangle).insert_rows(top, chunk.len() / d, 0.0);
            for (i, x) in chunk.chunks_exact(d).enumerate() {
                let weight = weigh(first + i);
                for (k, (x, scale)) in x.iter().zip(&span.scales).enumerate() {
                    if *scale > 0.0 {
                        stacked[(top + i, k)] = weight * (x / scale);
                    }
                }
            }
            pivots = triangularise(&mut stacked);
            let kept = stacked.nrows().min(d);
            triangle = stacked.rows(0, kept).into_owned();
        }
        // Where the weighted rows end, the other pivots are those of the pairs whatever they weigh: a coordinate that no pair has is none.
        let heavy =
            (0..rank.min(triangle.nrows())).take_while(|&i| triangle[(i, pivots[i])] != 0.0);
        pivots.truncate(heavy.count());
        let heavy = pivots.len();
        if heavy < rank {
            let all = match theta {
                Some(_) => self.pivoted_triangle(span, None)?.0,
                None => (0..d).collect(),
            };
            let others: Vec<usize> = all.into_iter().filter(|k| !pivots.contains(k)).collect();
            pivots.extend(others.into_iter().take(rank - heavy));
        }
        let r = DMatrix::from_fn(rank, rank, |i, j| match i <= j && i < heavy {
            true => most * triangle[(i, pivots[j])],
            false => 0.0,
        });
        Ok((pivots, r))
    }
}

fn scaled_span(rows: &[f64], d: usize, rounding: &[f64]) -> ScaledSpan {
    let scales = column_scales(rows, d);
    let seen: Vec<usize> = (0..d).filter(|&k| scales[k] > 0.0).collect();
    let nothing = |scales| ScaledSpan {
        scales,
        basis: DMatrix::zeros(d, 0),
        least_pivot: 1.0,
    };
    if seen.is_empty() {
        return nothing(scales);
    }
    let n = rows.len() / d;
    let noise = seen.iter().map(|&k| rounding[k] / scales[k]);
    let noise = noise.fold(0.0, f64::max) * (n as f64).sqrt();
    let unit = scaled_triangle(rows, d, &scales, &seen).col_piv_qr();
    let pivots = unit.r().diagonal();
    let least = NEGLIGIBLE.max(4.0 * noise) * pivots[0].abs();
    let rank = pivots.iter().take_while(|p| p.abs() > least).count();
    // Every difference may be rounding of what it is the difference of.
    if rank == 0 {
        return nothing(scales);
    }
    // The rows of T Pᵀ span the scaled rows: column k of X is scales[k] times as long.
    let mut span = unit.r().rows(0, rank).into_owned();
    unit.p().inv_permute_columns(&mut span);
    let inner = span.transpose().qr().q();
    let mut basis = DMatrix::zeros(d, rank);
    for (i, &k) in seen.iter().enumerate() {
        basis.set_row(k, &inner.row(i));
    }
    ScaledSpan {
        scales,
        basis,
        least_pivot: (pivots[rank - 1] / pivots[0]).abs(),
    }
}

/// Orthonormal columns that span the rows, `[d, rank]`.
pub(super) fn basis(rows: &[f64], d: usize, rounding: &[f64]) -> DMatrix<f64> {
    let scales = column_scales(rows, d);
    if scales.iter().all(|s| *s > 0.0) && clearly_independent(rows, d, &scales) {
        return DMatrix::identity(d, d);
    }
    let mut span = scaled_span(rows, d, rounding);
    let rank = span.basis.ncols();
    if rank == d {
        return DMatrix::identity(d, d);
    }
    if let Some(columns) = eliminated(rows, d, rounding, rank) {
        return orthonormal(&columns);
    }
    for (mut row, scale) in span.basis.row_iter_mut().zip(&span.scales) {
        row *= *scale;
    }
    orthonormal(&span.basis)
}

/// A row on its way through Gaussian elimination.
struct Residual {
    /// What is left of it, `[d]`.
    x: Vec<f64>,
    /// The largest of the terms that it is the difference of, `[d]`.
    size: Vec<f64>,
    /// A bound on the rounding of the elimination in it, `[d]`.
    noise: Vec<f64>,
    /// Its largest entry beyond doubt and the column of it; 0 without one.
    largest: (f64, usize),
}

impl Residual {
    fn of(x: &[f64], rounding: &[f64]) -> Self {
        let mut row = Self {
            x: x.to_vec(),
            size: x.iter().map(|x| x.abs()).collect(),
            noise: vec![0.0; x.len()],
            largest: (0.0, 0),
        };
        row.find_largest(rounding);
        row
    }

    fn find_largest(&mut self, rounding: &[f64]) {
        self.largest = (0.0, 0);
        for (k, x) in self.x.iter().enumerate() {
            let doubt = (NEGLIGIBLE * self.size[k]).max(4.0 * rounding[k]);
            if x.abs() > self.largest.0.max(doubt) {
                self.largest = (x.abs(), k);
            }
        }
    }

    /// Takes away the multiple of `pivot` that leaves no entry in `column`.
    fn eliminate(&mut self, pivot: &Residual, rounding: &[f64]) {
        let column = pivot.largest.1;
        let (top, bottom) = (self.x[column], pivot.x[column]);
        if top == 0.0 {
            return;
        }
        let factor = top / bottom;
        let unsure = self.noise[column] / top.abs() + pivot.noise[column] / bottom.abs();
        let unsure = unsure + 2.0 * f64::EPSILON;
        for k in 0..self.x.len() {
            let term = factor * pivot.x[k];
            self.size[k] = self.size[k].max((factor * pivot.size[k]).abs());
            self.noise[k] += (factor * pivot.noise[k]).abs()
                + term.abs() * unsure
                + f64::EPSILON * self.x[k].abs();
            self.x[k] -= term;
            if self.x[k].abs() <= 4.0 * self.noise[k] {
                self.x[k] = 0.0;
            }
        }
        self.x[column] = 0.0;
        self.find_largest(rounding);
    }
}

/// `rank` columns that span the rows, what Gaussian elimination with complete pivoting leaves of as many of them: none where
/// fewer pivots are beyond doubt.
///
/// The elimination finds the span as exactly where some rows are a million times as long as others, or some columns, as where
/// all are alike (Demmel et al., Linear Algebra Appl. 299, 1999): it takes no sum of rows of different lengths before the
/// shorter one has lost what it shares with the longer.
fn eliminated(rows: &[f64], d: usize, rounding: &[f64], rank: usize) -> Option<DMatrix<f64>> {
    let mut kept: Vec<Residual> = Vec::new();
    for chunk in rows.chunks(4 * d.max(16) * d) {
        let mut left = std::mem::take(&mut kept);
        left.extend(chunk.chunks_exact(d).map(|x| Residual::of(x, rounding)));
        while kept.len() < rank {
            let mut top = (0.0, 0);
            for (i, row) in left.iter().enumerate() {
                if row.largest.0 > top.0 {
                    top = (row.largest.0, i);
                }
            }
            if top.0 == 0.0 {
                break;
            }
            let pivot = left.swap_remove(top.1);
            left.iter_mut()
                .for_each(|row| row.eliminate(&pivot, rounding));
            kept.push(pivot);
        }
    }
    (kept.len() == rank).then(|| DMatrix::from_fn(d, rank, |k, j| kept[j].x[k]))
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

/// Turns rows into R of their QR factorisation, its columns where they were, and returns the order in which they were pivots.
///
/// Householder's method keeps each row as exact as its own size, however small it is beside others, where the largest entry is
/// moved to the pivot's place at every step (Cox & Higham, BIT 38, 1998). Nothing is squared that was not scaled, so that rows
/// may be as small as floating point has them. What is left of a row that depends on larger ones is rounding, but may be more
/// than all of a smaller row: it is taken away.
fn triangularise(rows: &mut DMatrix<f64>) -> Vec<usize> {
    let (n, d) = rows.shape();
    let mut sizes: Vec<f64> = rows.row_iter().map(|row| row.amax()).collect();
    let mut order: Vec<usize> = (0..d).collect();
    for i in 0..n.min(d) {
        let mut largest = (0.0, i, i);
        for j in i..d {
            for row in i..n {
                let size = rows[(row, order[j])].abs();
                if size > largest.0 {
                    largest = (size, row, j);
                }
            }
        }
        let (top, row, j) = largest;
        if top == 0.0 {
            break;
        }
        rows.swap_rows(i, row);
        sizes.swap(i, row);
        order.swap(i, j);
        let pivot = order[i];
        let mut reflector: Vec<f64> = (i..n).map(|row| rows[(row, pivot)] / top).collect();
        let norm = reflector.iter().map(|x| x * x).sum::<f64>().sqrt();
        let image = -norm.copysign(reflector[0]);
        reflector[0] -= image;
        let square: f64 = reflector.iter().map(|x| x * x).sum();
        for &column in &order[i + 1..] {
            let terms = reflector.iter().enumerate();
            let along: f64 = terms.map(|(k, v)| v * rows[(i + k, column)]).sum();
            for (k, v) in reflector.iter().enumerate() {
                rows[(i + k, column)] -= 2.0 / square * along * v;
            }
        }
        rows.view_mut((i, pivot), (n - i, 1)).fill(0.0);
        rows[(i, pivot)] = image * top;
        for (row, size) in sizes.iter().enumerate().skip(i + 1) {
            if rows.row(row).amax() <= NEGLIGIBLE * size {
                rows.row_mut(row).fill(0.0);
            }
        }
    }
    order
}
