//! Σ_𝒟 of (4.2) and its kin: a positive definite metric with its Cholesky factor.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::design::{Design, information};
use crate::mdp::check_len;
use crate::{Error, Result};

/// (4.2) and errata, B3: Which matrix measures distance between parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Σ_𝒟 = XᵀX + λI of (4.2).
    SigmaD,
    /// Observed information at θ_MLE + λI. Used alike in the bonus, the ellipsoid and the bound.
    Fisher,
}

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
        Self::from_gram(MetricKind::SigmaD, design.gram(), ridge)
    }

    /// Σ_i σ′(x_iᵀθ) x_i x_iᵀ + λI.
    ///
    /// # Errors
    /// [`Error::Config`] unless λ > 0 is finite; [`Error::Shape`].
    pub fn fisher(design: &Design, theta: &[f64], ridge: f64) -> Result<Self> {
        Self::from_gram(MetricKind::Fisher, information(design, theta)?, ridge)
    }

    fn from_gram(kind: MetricKind, gram: DMatrix<f64>, ridge: f64) -> Result<Self> {
        if !(ridge > 0.0 && ridge.is_finite()) {
            return Err(Error::config("ridge (lambda)", ridge, "> 0 and finite"));
        }
        let mut matrix = gram;
        for i in 0..matrix.nrows() {
            matrix[(i, i)] += ridge;
        }
        let factor = factorise(&matrix).ok_or_else(|| Error::NonFinite {
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
        check_len("row", self.dim(), x.len())?;
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

/// M = LLᵀ, by LAPACK where the feature is on and d is large.
fn factorise(matrix: &DMatrix<f64>) -> Option<Cholesky<f64, Dyn>> {
    #[cfg(feature = "lapack")]
    if matrix.nrows() >= super::lapack::FROM_DIM {
        return super::lapack::lapack_cholesky(matrix).ok();
    }
    Cholesky::new(matrix.clone())
}
