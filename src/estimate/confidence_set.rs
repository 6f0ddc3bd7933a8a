//! Where θ* is, up to the probability of a radius.

use super::Metric;
use crate::check;
use crate::{Error, Result};

/// Θ = {‖θ‖₂ ≤ B, ‖θ − θ_MLE‖_M ≤ ϱ} of (B.1), with M = Σ_𝒟 in the paper.
#[derive(Debug, Clone, Copy)]
pub struct ConfidenceSet<'a> {
    /// θ_MLE, `[d]`; inside the ball.
    pub center: &'a [f64],
    /// M.
    pub metric: &'a Metric,
    /// ϱ ≥ 0.
    pub radius: f64,
    /// B > 0; +∞ drops the ball.
    pub param_bound: f64,
}

impl<'a> ConfidenceSet<'a> {
    /// A checked set.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], and [`Error::Config`] on ϱ < 0, B ≤ 0 or a centre outside
    /// the ball.
    pub fn try_new(
        center: &'a [f64],
        metric: &'a Metric,
        radius: f64,
        param_bound: f64,
    ) -> Result<Self> {
        check::len("theta_mle", metric.dim(), center.len())?;
        check::finite(|i| format!("theta_mle[{i}]"), center)?;
        if !(radius >= 0.0 && radius.is_finite()) {
            return Err(Error::config("bonus_scale", radius, ">= 0 and finite"));
        }
        if param_bound.is_nan() || param_bound <= 0.0 {
            return Err(Error::config("param_bound", param_bound, "> 0"));
        }
        let norm = norm(center);
        if norm > param_bound * (1.0 + 1e-9) {
            return Err(Error::config(
                "norm of theta_mle",
                norm,
                format!("at most param_bound = {param_bound}"),
            ));
        }
        Ok(Self {
            center,
            metric,
            radius,
            param_bound,
        })
    }

    /// ‖θ − θ_MLE‖_M.
    pub fn distance(&self, theta: &[f64]) -> f64 {
        let delta: Vec<f64> = theta.iter().zip(self.center).map(|(a, b)| a - b).collect();
        self.metric.norm(&delta)
    }

    /// Whether θ ∈ Θ.
    pub fn contains(&self, theta: &[f64]) -> bool {
        norm(theta) <= self.param_bound && self.distance(theta) <= self.radius
    }
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}
