//! (4.1) and (4.2) for pairs whose features are mostly 0, as differences of token counts are: nothing of size n·d is formed.

mod conjugate;
mod fit;
mod metric;
mod minimise;
mod passes;

pub use fit::fit_sparse;
pub use metric::SparseMetric;
pub(super) use passes::{gram, margins};

use super::design::Design;
use crate::check;
use crate::features::SparseRows;
use crate::{Error, Result};

/// X with rows x_i = ψ(τ^w_i) − ψ(τ^l_i) as in [`Design`], of which only the entries that are not 0 are kept.
///
/// ```
/// use rto::estimate::{FitOptions, SparseDesign, fit_sparse};
/// use rto::features::SparseRows;
///
/// let winners = SparseRows::counts(3, &[vec![0, 0], vec![0, 1], vec![0, 2], vec![1, 1]])?;
/// let losers = SparseRows::counts(3, &[vec![0, 1], vec![1, 1], vec![2, 1], vec![0, 1]])?;
/// let design = SparseDesign::between(&winners, &losers)?; // token 0 beats token 1 in three pairs of four, token 2 tells nothing
/// let fit = fit_sparse(&design, &FitOptions::default())?;
/// assert!((fit.theta[0] - 0.5 * 3f64.ln()).abs() < 1e-9 && (fit.theta[0] + fit.theta[1]).abs() < 1e-12 && fit.theta[2] == 0.0);
/// # Ok::<(), rto::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SparseDesign {
    rows: SparseRows,
    /// As in [`Design`].
    rounding: Vec<f64>,
}

impl SparseDesign {
    /// From the differences x_i themselves.
    pub fn new(rows: SparseRows) -> Self {
        let rounding = vec![0.0; rows.dim()];
        Self { rows, rounding }
    }

    /// From ψ of the winner and of the loser of each pair. An entry no larger than what rounding of the two leaves of a difference
    /// that is 0 is 0.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have as many rows and columns.
    pub fn between(winners: &SparseRows, losers: &SparseRows) -> Result<Self> {
        let d = winners.dim();
        check::len("columns of the losers' features", d, losers.dim())?;
        check::len("rows of the losers' features", winners.n(), losers.n())?;
        let (mut rows, mut rounding) = (SparseRows::empty(d), vec![0.0f64; d]);
        let mut merged: Vec<(u32, f64, f64)> = Vec::new();
        for i in 0..winners.n() {
            merged.clear();
            merged.extend(winners.row(i).map(|(k, x)| (k, x, 0.0)));
            merged.extend(losers.row(i).map(|(k, x)| (k, 0.0, x)));
            merged.sort_by_key(|entry| entry.0);
            merged.dedup_by(|later, first| {
                let same = later.0 == first.0;
                if same {
                    first.2 += later.2;
                }
                same
            });
            let row = merged.iter().map(|&(k, w, l)| {
                // Half a unit in the last place for each feature as it was read, and for the difference.
                let lost = 1.5 * f64::EPSILON * (w.abs() + l.abs());
                let difference = w - l;
                if w != 0.0 && l != 0.0 {
                    rounding[k as usize] = rounding[k as usize].max(lost);
                }
                (
                    k,
                    if difference.abs() <= lost {
                        0.0
                    } else {
                        difference
                    },
                )
            });
            rows.push(row);
        }
        if let Some(i) = (0..rows.n()).find(|&i| rows.slices(i).1.iter().any(|x| !x.is_finite())) {
            return Err(Error::NonFinite {
                what: format!("difference of the features of pair {i}"),
                value: f64::INFINITY,
            });
        }
        Ok(Self { rows, rounding })
    }

    /// n = |𝒟|.
    pub fn n(&self) -> usize {
        self.rows.n()
    }

    /// d.
    pub fn dim(&self) -> usize {
        self.rows.dim()
    }

    /// The differences.
    pub fn rows(&self) -> &SparseRows {
        &self.rows
    }

    /// Xθ, the margins z_i of (3.1), `[n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless θ is `[d]`.
    pub fn margins(&self, theta: &[f64]) -> Result<Vec<f64>> {
        check::len("theta", self.dim(), theta.len())?;
        Ok(passes::margins(&self.rows, theta))
    }

    /// L_𝒟(θ) of (4.1) and ∇L_𝒟(θ) = Σ_i σ(−x_iᵀθ) x_i, `[d]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless θ is `[d]`.
    pub fn likelihood(&self, theta: &[f64]) -> Result<(f64, Vec<f64>)> {
        check::len("theta", self.dim(), theta.len())?;
        let (pass, _) = passes::pass(&self.rows, theta);
        Ok((-pass.loss, pass.gradient.iter().map(|g| -g).collect()))
    }

    /// The same pairs with their zeros, n·d numbers.
    pub fn to_dense(&self) -> Design {
        Design::with_rounding(self.dim(), self.rows.to_dense(), self.rounding.clone())
    }

    pub(super) fn from_parts(rows: SparseRows, rounding: Vec<f64>) -> Self {
        Self { rows, rounding }
    }
}
