//! The pairs as a matrix, and the likelihood (4.1) over it.

use nalgebra::DMatrix;

use super::kernels::{self, Weights};
use crate::Result;
use crate::check;
use crate::features::FeatureMap;
use crate::mdp::{PreferencePair, Trajectory};
use crate::{Error, mdp::TabularMdp};

/// X with rows x_i = ψ(τ^w_i) − ψ(τ^l_i), ψ(τ) = Σ_h φ(s_h, a_h); shape `[n, d]`, row-major.
///
/// All that preference data say about a linear reward is in X: (4.1) is L(θ) = Σ_i log σ(x_iᵀθ).
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    dim: usize,
    rows: Vec<f64>,
    /// What rounding of the features may have put into an entry of each column, `[d]`; 0 for rows that were given.
    rounding: Vec<f64>,
}

impl Design {
    /// From rows, `[n, d]`. n = 0 is allowed.
    ///
    /// # Errors
    /// [`Error::Config`] when d = 0, [`Error::Shape`], [`Error::NonFinite`] naming the entry.
    pub fn try_new(dim: usize, rows: Vec<f64>) -> Result<Self> {
        if dim == 0 {
            return Err(Error::config("feature dimension", 0, "at least 1"));
        }
        check::len("design matrix", rows.len() / dim * dim, rows.len())?;
        let name = |i: usize| format!("design[{}][{}]", i / dim, i % dim);
        check::finite(name, &rows)?;
        Ok(Self {
            dim,
            rows,
            rounding: vec![0.0; dim],
        })
    }

    /// From preference pairs. An entry no larger than what rounding of the features leaves of a difference
    /// that is 0 (0.1 + 0.2 − 0.3) is 0.
    ///
    /// # Errors
    /// [`Error::Shape`] when a pair names states or actions the features do not have.
    pub fn from_pairs(
        mdp: &TabularMdp,
        features: &impl FeatureMap,
        pairs: &[PreferencePair],
    ) -> Result<Self> {
        let dim = features.dim();
        let (n, na) = features.shape();
        check::len(
            "features (state-action pairs)",
            mdp.n_states() * mdp.n_actions(),
            n * na,
        )?;
        let mut rows = Vec::with_capacity(pairs.len() * dim);
        let mut rounding = vec![0.0f64; dim];
        for (i, pair) in pairs.iter().enumerate() {
            for trajectory in [pair.winner(), pair.loser()] {
                let outside = trajectory
                    .steps()
                    .iter()
                    .find(|(s, a)| s.ix() >= n || a.ix() >= na);
                if let Some((s, a)) = outside {
                    return Err(Error::config(
                        format!("preference {i}"),
                        format!("state {}, action {}", s.0, a.0),
                        format!("a state below {n} and an action below {na}"),
                    ));
                }
            }
            let (winner, largest) = summed(features, pair.winner());
            let (loser, other) = summed(features, pair.loser());
            let terms = pair.winner().steps().len() + pair.loser().steps().len();
            for k in 0..dim {
                // Half a unit in the last place for each feature as it was read, and for each addition.
                let lost = 0.5 * f64::EPSILON * (terms + 1) as f64 * (largest[k] + other[k]);
                let difference = winner[k] - loser[k];
                rounding[k] = rounding[k].max(lost);
                rows.push(if difference.abs() <= lost {
                    0.0
                } else {
                    difference
                });
            }
        }
        let design = Self::try_new(dim, rows)?;
        Ok(Self { rounding, ..design })
    }

    /// Rows that are known to be finite, with what rounding may have put into an entry of each column.
    pub(super) fn with_rounding(dim: usize, rows: Vec<f64>, rounding: Vec<f64>) -> Self {
        Self {
            dim,
            rows,
            rounding,
        }
    }

    /// What rounding of the features may have put into an entry of each column, `[d]`.
    pub(super) fn rounding(&self) -> &[f64] {
        &self.rounding
    }

    /// n = |𝒟|.
    pub fn n(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// d.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All rows, `[n, d]`.
    pub fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// x_i.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * self.dim..(i + 1) * self.dim]
    }

    /// ‖x_i‖₂ of every pair, `[n]`.
    pub fn norms(&self) -> Vec<f64> {
        let rows = self.rows.chunks_exact(self.dim);
        rows.map(|x| x.iter().map(|v| v * v).sum::<f64>().sqrt())
            .collect()
    }

    /// Xθ, the margins z_i of (3.1), `[n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless θ is `[d]`.
    pub fn margins(&self, theta: &[f64]) -> Result<Vec<f64>> {
        check::len("theta", self.dim, theta.len())?;
        Ok(kernels::margins(&self.rows, self.dim, theta))
    }

    /// XᵀX, `[d, d]`.
    pub fn gram(&self) -> DMatrix<f64> {
        DMatrix::from_vec(
            self.dim,
            self.dim,
            kernels::gram(&self.rows, self.dim, Weights::One),
        )
    }
}

/// ψ(τ) and Σ_h |φ(s_h, a_h)| entry by entry, `[d]` each.
fn summed(features: &impl FeatureMap, trajectory: &Trajectory) -> (Vec<f64>, Vec<f64>) {
    let mut phi = vec![0.0; features.dim()];
    let (mut psi, mut size) = (phi.clone(), phi.clone());
    for &(s, a) in trajectory.steps() {
        features.write(s, a, &mut phi);
        for (k, x) in phi.iter().enumerate() {
            psi[k] += x;
            size[k] += x.abs();
        }
    }
    (psi, size)
}

/// L_𝒟(θ) = Σ_i log σ(x_iᵀθ) of (4.1), natural logarithm, ≤ 0.
///
/// # Errors
/// [`Error::Shape`] unless θ is `[d]`.
pub fn log_likelihood(design: &Design, theta: &[f64]) -> Result<f64> {
    check::len("theta", design.dim, theta.len())?;
    Ok(-kernels::pass(&design.rows, design.dim, theta).loss)
}

/// (4.1): ∇L_𝒟(θ) = Σ_i σ(−x_iᵀθ) x_i, `[d]`.
///
/// # Errors
/// [`Error::Shape`] unless θ is `[d]`.
pub fn gradient(design: &Design, theta: &[f64]) -> Result<Vec<f64>> {
    check::len("theta", design.dim, theta.len())?;
    let mut g = kernels::pass(&design.rows, design.dim, theta).gradient;
    g.iter_mut().for_each(|g| *g = -*g);
    Ok(g)
}

/// (4.1): The observed information −∇²L_𝒟(θ) = Σ_i σ′(x_iᵀθ) x_i x_iᵀ, `[d, d]`.
///
/// # Errors
/// [`Error::Shape`] unless θ is `[d]`.
pub fn information(design: &Design, theta: &[f64]) -> Result<DMatrix<f64>> {
    check::len("theta", design.dim, theta.len())?;
    let flat = kernels::gram(&design.rows, design.dim, Weights::Slope(theta));
    Ok(DMatrix::from_vec(design.dim, design.dim, flat))
}
