//! What the true reward determines.

use super::{SoftOptimum, Visitation, evaluate, soft_value_iteration, visitation};
use crate::Result;
use crate::features::FeatureMap;
use crate::mdp::{Problem, TabularPolicy};
use crate::reward::{LinearReward, RewardFunction};

/// Section 3.2: The true reward of a problem with its optimum π*_β and where that goes: everything that both sides of Theorems 4.2
/// and B.1 read of the truth, whatever kind of reward it is.
#[derive(Debug, Clone)]
pub struct Truth<'a, R> {
    /// 𝒮, 𝒜, 𝒫, ρ, H, π_ref and β.
    pub problem: Problem<'a>,
    /// r.
    pub reward: R,
    /// θ*, `[d]`, where r = φᵀθ*: what the premises of the theorems are about.
    pub theta: Option<Vec<f64>>,
    /// π*_β with its values.
    pub star: SoftOptimum,
    /// d* of π*_β.
    pub visits: Visitation,
}

impl<'a, R: RewardFunction> Truth<'a, R> {
    /// The truth of any reward; `theta` where it is φᵀθ*.
    ///
    /// # Errors
    /// As [`soft_value_iteration`].
    pub fn new(problem: Problem<'a>, reward: R, theta: Option<Vec<f64>>) -> Result<Self> {
        let star = soft_value_iteration(problem, &reward)?;
        Ok(Self {
            visits: visitation(problem.mdp, &star.policy)?,
            problem,
            reward,
            theta,
            star,
        })
    }

    /// V^π_β at every state, `[n_states]`.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn values(&self, policy: &TabularPolicy) -> Result<Vec<f64>> {
        Ok(evaluate(self.problem, &self.reward, policy)?.v)
    }

    /// SubOpt(π) = V*_β(ρ) − V^π_β(ρ) of (3.5).
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn suboptimality(&self, policy: &TabularPolicy) -> Result<f64> {
        let mdp = self.problem.mdp;
        let value = super::mean_value(mdp, &self.values(policy)?);
        Ok(self.star.mean_value(mdp) - value)
    }
}

impl<'a, F: FeatureMap> Truth<'a, LinearReward<'a, F>> {
    /// The truth of Assumption 4.1, r = φᵀθ*.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] or [`crate::Error::NonFinite`] on θ*.
    pub fn linear(problem: Problem<'a>, features: &'a F, theta_star: &[f64]) -> Result<Self> {
        let reward = LinearReward::try_new(features, theta_star)?;
        Self::new(problem, reward, Some(theta_star.to_vec()))
    }
}
