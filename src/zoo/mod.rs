//! Instances with known answers, and random families.

mod golden;
mod grammar;
mod random;
mod regimes;

pub use golden::{g0, g1, g1_other_policy, g1_preferences};
pub use grammar::{Grammar, GrammarSpec, Placement, grammar};
pub use random::{Kind, RandomSpec, random_instance, random_policy};
pub use regimes::{
    Comparison, pessimism_hurts, pessimism_is_neutral, pessimism_wins, predetermined_gap,
    telescoping, token_chain, uncompared_arm,
};

use crate::features::DenseFeatures;
use crate::mdp::{Beta, Problem, TabularMdp, TabularPolicy};
use crate::plan::Truth;
use crate::reward::LinearReward;

/// An instance under Assumption 4.1 with a known truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// 𝒮, 𝒜, 𝒫, ρ, H.
    pub mdp: TabularMdp,
    /// π_ref.
    pub reference: TabularPolicy,
    /// β.
    pub beta: Beta,
    /// φ.
    pub features: DenseFeatures,
    /// θ*.
    pub theta_star: Vec<f64>,
}

impl Instance {
    /// What a reward is maximised in.
    pub fn problem(&self) -> Problem<'_> {
        Problem::new(&self.mdp, &self.reference, self.beta)
    }

    /// The truth with what it determines.
    ///
    /// # Errors
    /// As [`soft_value_iteration`](crate::plan::soft_value_iteration).
    pub fn truth(&self) -> crate::Result<Truth<'_, LinearReward<'_, DenseFeatures>>> {
        Truth::linear(self.problem(), &self.features, &self.theta_star)
    }

    /// r = φᵀθ*.
    pub fn reward(&self) -> LinearReward<'_, DenseFeatures> {
        LinearReward::try_new(&self.features, &self.theta_star).expect("instances are consistent")
    }
}
