//! Σ_𝒟 of (4.2) without forming it.

use nalgebra::DVector;

use super::{SparseDesign, conjugate, passes};
use crate::check;
use crate::estimate::covariance::MetricKind;
use crate::estimate::kernels::sigmoid_slope;
use crate::{Error, Result};

/// Products in one solve at most.
const PRODUCTS: usize = 5000;
/// What a solve may leave of its right-hand side, in the norm of the preconditioner.
const LEFT: f64 = 1e-14;

/// (4.2): M = Σ w_i x_i x_iᵀ + λI of sparse rows, w_i = 1 (Σ_𝒟) or σ′(x_iᵀθ) (the observed information), of which only products are
/// ever taken: the [`Metric`](super::super::Metric) for any width d, at one solve by conjugate gradients for each bonus ‖v‖_{M⁻¹}.
///
/// [`Metric::sparse`](super::super::Metric::sparse) forms the same matrix, `[d, d]`, where it fits the memory, and is the faster one
/// for many bonuses.
#[derive(Debug, Clone)]
pub struct SparseMetric<'a> {
    kind: MetricKind,
    design: &'a SparseDesign,
    weights: Option<Vec<f64>>,
    ridge: f64,
    diagonal: DVector<f64>,
}

impl<'a> SparseMetric<'a> {
    /// Σ_𝒟 = Σ_i x_i x_iᵀ + λI of (4.2).
    ///
    /// # Errors
    /// [`Error::Config`] unless λ > 0 is finite.
    pub fn sigma_d(design: &'a SparseDesign, ridge: f64) -> Result<Self> {
        Self::new(MetricKind::SigmaD, design, None, ridge)
    }

    /// Σ_i σ′(x_iᵀθ) x_i x_iᵀ + λI.
    ///
    /// # Errors
    /// [`Error::Config`] unless λ > 0 is finite; [`Error::Shape`].
    pub fn fisher(design: &'a SparseDesign, theta: &[f64], ridge: f64) -> Result<Self> {
        let margins = design.margins(theta)?;
        let weights = margins.into_iter().map(sigmoid_slope).collect();
        Self::new(MetricKind::Fisher, design, Some(weights), ridge)
    }

    fn new(
        kind: MetricKind,
        design: &'a SparseDesign,
        weights: Option<Vec<f64>>,
        ridge: f64,
    ) -> Result<Self> {
        if !(ridge > 0.0 && ridge.is_finite()) {
            return Err(Error::config("ridge (lambda)", ridge, "> 0 and finite"));
        }
        let diagonal = passes::diagonal(&design.rows, weights.as_deref());
        let diagonal = diagonal.iter().map(|s| s + ridge);
        Ok(Self {
            diagonal: DVector::from_iterator(design.dim(), diagonal),
            kind,
            design,
            weights,
            ridge,
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
        self.design.dim()
    }

    /// Mv, `[d]`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn product(&self, v: &[f64]) -> Result<Vec<f64>> {
        check::len("vector", self.dim(), v.len())?;
        Ok(self.times(v))
    }

    fn times(&self, v: &[f64]) -> Vec<f64> {
        let mut out = passes::product(&self.design.rows, self.weights.as_deref(), v);
        out.iter_mut()
            .zip(v)
            .for_each(|(o, v)| *o += self.ridge * v);
        out
    }

    /// ‖v‖_M.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn norm(&self, v: &[f64]) -> Result<f64> {
        let image = self.product(v)?;
        let square: f64 = image.iter().zip(v).map(|(a, b)| a * b).sum();
        Ok(square.max(0.0).sqrt())
    }

    /// M⁻¹v, `[d]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`]; [`Error::NotConverged`] where λ is so small beside the pairs that the solve does not end.
    pub fn solve(&self, v: &[f64]) -> Result<Vec<f64>> {
        Ok(self.solved(v)?.x.as_slice().to_vec())
    }

    /// ‖v‖_{M⁻¹}: with v = φ(s, a) the norm that line 3 of Algorithm 1 scales by ϱ.
    ///
    /// # Errors
    /// As [`Self::solve`].
    pub fn inverse_norm(&self, v: &[f64]) -> Result<f64> {
        Ok(self.solved(v)?.energy.sqrt())
    }

    fn solved(&self, v: &[f64]) -> Result<conjugate::Solution> {
        check::len("vector", self.dim(), v.len())?;
        check::finite(|i| format!("vector[{i}]"), v)?;
        let found = conjugate::solve(
            |v| DVector::from_vec(self.times(v.as_slice())),
            |r| r.component_div(&self.diagonal),
            &DVector::from_column_slice(v),
            LEFT,
            PRODUCTS,
        );
        if found.left > 1e4 * LEFT {
            return Err(Error::NotConverged {
                what: "solve with the metric of the pairs by conjugate gradients".into(),
                iterations: PRODUCTS,
                residual: found.left,
            });
        }
        Ok(found)
    }
}
