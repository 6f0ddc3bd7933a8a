//! Σ_𝒟 of (4.2) and its kin: a positive definite metric with its Cholesky factor.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::design::Design;
use super::kernels::{self, Weights};
use super::sparse::{self, SparseDesign};
use crate::check;
use crate::{Error, Result};

/// (4.2) and errata, B3: Which matrix measures distance between parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Σ_𝒟 = XᵀX + λI of (4.2).
    SigmaD,
    /// Observed information at θ_MLE + λI. Used alike in the bonus, the ellipsoid and the bound.
    Fisher,
}

/// Columns of the widest matrix that is formed of sparse rows.
const WIDEST: usize = 1 << 14;

/// (4.2): A metric M ≻ 0 on ℝᵈ with ‖v‖_M = √(vᵀMv) and ‖v‖_{M⁻¹} by a triangular solve.
#[derive(Debug, Clone)]
pub struct Metric {
    kind: MetricKind,
    ridge: f64,
    matrix: DMatrix<f64>,
    factor: Cholesky<f64, Dyn>,
}

impl Metric {
    /// Σ_𝒟 = Σ_i x_i x_iᵀ + λI of (4.2), `[d, d]`.
    ///
    /// # Errors
    /// [`Error::Config`] unless λ > 0 is finite.
    pub fn sigma_d(design: &Design, ridge: f64) -> Result<Self> {
        Self::new(MetricKind::SigmaD, design, None, ridge)
    }

    /// Σ_i σ′(x_iᵀθ) x_i x_iᵀ + λI.
    ///
    /// # Errors
    /// [`Error::Config`] unless λ > 0 is finite; [`Error::Shape`].
    pub fn fisher(design: &Design, theta: &[f64], ridge: f64) -> Result<Self> {
        check::len("theta", design.dim(), theta.len())?;
        Self::new(MetricKind::Fisher, design, Some(theta), ridge)
    }

    /// Σ w_i x_i x_iᵀ + λI, w_i = σ′(x_iᵀθ), or 1 without a θ.
    fn new(kind: MetricKind, design: &Design, theta: Option<&[f64]>, ridge: f64) -> Result<Self> {
        let d = design.dim();
        let weights = theta.map_or(Weights::One, Weights::Slope);
        let flat = kernels::gram(design.rows(), d, weights);
        Self::of(kind, flat, d, ridge, || from_rows(design, theta, ridge))
    }

    /// M from its part without λ, or by its factor where that part has lost λ.
    fn of(
        kind: MetricKind,
        flat: Vec<f64>,
        d: usize,
        ridge: f64,
        from_rows: impl FnOnce() -> Option<Cholesky<f64, Dyn>>,
    ) -> Result<Self> {
        if !(ridge > 0.0 && ridge.is_finite()) {
            return Err(Error::config("ridge (lambda)", ridge, "> 0 and finite"));
        }
        let mut matrix = DMatrix::from_vec(d, d, flat);
        for i in 0..d {
            matrix[(i, i)] += ridge;
        }
        let factor = factorise(&matrix).filter(|factor| well_conditioned(&matrix, factor));
        let factor = factor.or_else(from_rows).ok_or_else(|| Error::NonFinite {
            what: format!("Cholesky factor with ridge {ridge}"),
            value: f64::NAN,
        })?;
        Ok(Self {
            kind,
            ridge,
            matrix,
            factor,
        })
    }

    /// Σ_i w_i x_i x_iᵀ + λI of sparse rows, w_i = σ′(x_iᵀθ), or 1 (Σ_𝒟) without a θ. Beside the entries that are not 0 this takes
    /// 16·d² bytes; [`SparseMetric`](super::SparseMetric) needs none of them.
    ///
    /// # Errors
    /// [`Error::Config`] unless λ > 0 is finite, and where d is above 16384, where two matrices would have more than 4 GB;
    /// [`Error::Shape`].
    pub fn sparse(design: &SparseDesign, theta: Option<&[f64]>, ridge: f64) -> Result<Self> {
        let d = design.dim();
        if d > WIDEST {
            let must = format!("at most {WIDEST} to form Sigma_D (use SparseMetric)");
            return Err(Error::config("feature dimension", d, must));
        }
        let weights = match theta {
            None => None,
            Some(theta) => Some(design.margins(theta)?),
        };
        let weights: Option<Vec<f64>> =
            weights.map(|z| z.into_iter().map(kernels::sigmoid_slope).collect());
        let flat = sparse::gram(design.rows(), weights.as_deref());
        let kind = theta.map_or(MetricKind::SigmaD, |_| MetricKind::Fisher);
        Self::of(kind, flat, d, ridge, || {
            from_rows(&design.to_dense(), theta, ridge)
        })
    }

    /// Which matrix this is.
    pub fn kind(&self) -> MetricKind {
        self.kind
    }

    /// λ.
    pub fn ridge(&self) -> f64 {
        self.ridge
    }

    /// d.
    pub fn dim(&self) -> usize {
        self.matrix.nrows()
    }

    /// M.
    pub fn matrix(&self) -> &DMatrix<f64> {
        &self.matrix
    }

    /// L of M = LLᵀ.
    pub(crate) fn lower(&self) -> DMatrix<f64> {
        self.factor.l()
    }

    /// log det M.
    pub fn log_det(&self) -> f64 {
        self.factor.ln_determinant()
    }

    /// M ← M + x xᵀ and its factor, in O(d²): one more pair.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn add_row(&mut self, x: &[f64]) -> Result<()> {
        check::len("row", self.dim(), x.len())?;
        let x = DVector::from_column_slice(x);
        self.matrix.ger(1.0, &x, &x, 1.0);
        self.factor.rank_one_update(&x, 1.0);
        Ok(())
    }

    /// ‖v‖_M.
    pub fn norm(&self, v: &[f64]) -> f64 {
        let lt = self.factor.l_dirty();
        let n = self.dim();
        let component = |j: usize| (j..n).map(|i| lt[(i, j)] * v[i]).sum::<f64>();
        (0..n).map(|j| component(j).powi(2)).sum::<f64>().sqrt()
    }

    /// ‖v‖_{M⁻¹} = ‖L⁻¹v‖₂, M = LLᵀ.
    pub fn inverse_norm(&self, v: &[f64]) -> f64 {
        self.forward(v).iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// A bound on how far off [`Self::inverse_norm`] of v is when each entry of v is off by at most `off`, `[d]`: errors are carried
    /// through the triangular solve, in which those of directions that M hardly measures grow.
    pub fn inverse_norm_rounding(&self, v: &[f64], off: &[f64]) -> f64 {
        let l = self.factor.l_dirty();
        let n = self.dim();
        let (mut y, mut off) = (v.to_vec(), off.to_vec());
        for j in 0..n {
            let column = &l.as_slice()[j * n..(j + 1) * n];
            y[j] /= column[j];
            off[j] = off[j] / column[j] + 4.0 * f64::EPSILON * y[j].abs();
            for i in j + 1..n {
                let term = column[i] * y[j];
                y[i] -= term;
                off[i] += column[i].abs() * off[j] + 4.0 * f64::EPSILON * term.abs();
            }
        }
        off.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// M⁻¹v.
    pub fn solve(&self, v: &[f64]) -> Vec<f64> {
        let solved = self.factor.solve(&DVector::from_column_slice(v));
        solved.as_slice().to_vec()
    }

    /// L⁻¹v by columns.
    fn forward(&self, v: &[f64]) -> Vec<f64> {
        let l = self.factor.l_dirty();
        let n = self.dim();
        let mut y = v.to_vec();
        for j in 0..n {
            let column = &l.as_slice()[j * n..(j + 1) * n];
            y[j] /= column[j];
            let (head, tail) = y.split_at_mut(j + 1);
            for (t, c) in tail.iter_mut().zip(&column[j + 1..]) {
                *t -= c * head[j];
            }
        }
        y
    }
}

/// Least share of a diagonal entry that its pivot may have for the sums of squares in M to be trusted with it. Where the
/// features are in large units and some direction was never compared, λ is lost beside them.
const TRUSTED_PIVOT: f64 = 1e-4;

/// Whether no pivot is a small difference of large numbers.
fn well_conditioned(matrix: &DMatrix<f64>, factor: &Cholesky<f64, Dyn>) -> bool {
    let l = factor.l_dirty();
    (0..matrix.nrows()).all(|i| l[(i, i)].powi(2) > TRUSTED_PIVOT * matrix[(i, i)])
}

/// Lᵀ as R of the QR factorisation of the rows √w_i x_i over √λ I: nothing is squared. Read in chunks.
fn from_rows(design: &Design, theta: Option<&[f64]>, ridge: f64) -> Option<Cholesky<f64, Dyn>> {
    let d = design.dim();
    let mut triangle = DMatrix::zeros(0, d);
    let mut stack = |rows: DMatrix<f64>| {
        let (top, more) = (triangle.nrows(), rows.nrows());
        let mut stacked = std::mem::take(&mut triangle).insert_rows(top, more, 0.0);
        stacked.rows_mut(top, more).copy_from(&rows);
        triangle = stacked.qr().r();
    };
    for chunk in design.rows().chunks(4 * d.max(16) * d) {
        let mut rows = DMatrix::from_row_slice(chunk.len() / d, d, chunk);
        if let Some(theta) = theta {
            for (i, z) in kernels::margins(chunk, d, theta).into_iter().enumerate() {
                rows.row_mut(i).scale_mut(kernels::sigmoid_slope(z).sqrt());
            }
        }
        stack(rows);
    }
    stack(DMatrix::identity(d, d) * ridge.sqrt());
    for i in 0..d {
        if triangle[(i, i)] < 0.0 {
            triangle.row_mut(i).neg_mut();
        }
    }
    let pivots = triangle.diagonal();
    pivots
        .iter()
        .all(|p| p.is_finite() && *p > 0.0)
        .then(|| Cholesky::pack_dirty(triangle.transpose()))
}

/// M = LLᵀ, by LAPACK where the feature is on and d is large.
fn factorise(matrix: &DMatrix<f64>) -> Option<Cholesky<f64, Dyn>> {
    #[cfg(feature = "lapack")]
    if matrix.nrows() >= super::lapack::FROM_DIM {
        return super::lapack::lapack_cholesky(matrix).ok();
    }
    Cholesky::new(matrix.clone())
}
