//! What is printed: every key is always there, and null where the instance does not determine it.

use serde::Serialize;

/// One probability row for each prompt; null for a state in which no episode starts.
pub type Rows = Vec<Option<Vec<f64>>>;

/// The output.
#[derive(Debug, Serialize)]
pub struct Report {
    /// V*_β(s₁) for each prompt.
    pub soft_value: Option<Vec<f64>>,
    /// V*_β(ρ).
    pub soft_value_mean: Option<f64>,
    /// V^{π_ref}_β(s₁).
    pub reference_value: Option<Vec<f64>>,
    /// V^π_β(s₁) of `policy_logits`.
    pub policy_value: Option<Vec<f64>>,
    /// SubOpt (3.5).
    pub suboptimality: Suboptimality,
    /// π*_β(·|s₁).
    pub root_policy: Option<Rows>,
    /// E_{d*}\[φ\].
    pub feature_expectation: Option<Vec<f64>>,
    /// The best policy that fixes all tokens in advance, for each prompt, at β = 0 (Proposition C.2); null when A^H is
    /// too large, or when no such policy keeps to the support of π_ref.
    pub predetermined_value: Option<f64>,
    /// (4.1).
    pub mle: Option<Mle>,
    /// Σ_𝒟 of (4.2).
    pub sigma_d: Option<Vec<Vec<f64>>>,
    /// log det Σ_𝒟.
    pub log_det_sigma: Option<f64>,
    /// Lemma A.1 and its repairs.
    pub radii: Option<Radii>,
    /// Theorem 4.2.
    pub algorithm1: Option<Algorithm1>,
    /// (B.1).
    pub theorem_b1: Option<MaxMin>,
    /// (B.1) against E_{π_ref}\[φ\].
    pub baselined: Option<MaxMin>,
    /// Remark B.2.
    pub robust: Option<Robust>,
    /// (4.4), (4.5).
    pub dpo: Option<Dpo>,
    /// (4.6), exactly optimised.
    pub rto: Option<RtoReport>,
    /// What a reader of the numbers should know about the data.
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Suboptimality {
    pub reference: Option<f64>,
    pub policy: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Mle {
    pub theta: Vec<f64>,
    pub norm: f64,
    pub log_likelihood: f64,
    pub at_bound: bool,
    pub multiplier: f64,
    /// Without the ball there would be no finite maximiser.
    pub separable: bool,
    /// `none`, `quasi` or `complete` (Albert and Anderson): with either of the last two (4.1) has no finite
    /// maximiser without the ball. Null where rounding leaves it undecided.
    pub separation: Option<&'static str>,
    /// Rank of the matrix of trajectory differences.
    pub rank: usize,
}

/// Names as in the audit's tables. Null where `estimation.param_bound` is missing, and where a number is too large
/// for floating point.
#[derive(Debug, Serialize)]
#[allow(non_snake_case)]
pub struct Radii {
    pub G_noise: f64,
    pub Upsilon_2HLB: Option<f64>,
    pub rho_printed_Upsilon: Option<f64>,
    pub rho_theory_Upsilon: Option<f64>,
    pub kappa_data: Option<f64>,
    pub rho_theory_kappa: Option<f64>,
    pub c_LR_rigorous: Option<f64>,
    pub rho_LR_via_kappa: Option<f64>,
    pub rho_wald_Hmetric: f64,
    pub rho_selfconcordant_Hmetric: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Algorithm1 {
    /// ϱ.
    pub bonus_scale: f64,
    /// V^π̂_β(ρ; r̂).
    pub pessimistic_value: f64,
    pub suboptimality: Option<f64>,
    /// E_{d*}‖φ‖.
    pub expected_bonus_norm: Option<f64>,
    /// E_{d*} KL(π*‖π̂).
    pub kl: Option<f64>,
    /// 2ϱ E‖φ‖ − β E KL.
    pub bound: Option<f64>,
    /// The premise of the bound; where it is false the bound proves nothing.
    pub theta_star_in_set: Option<bool>,
    /// `sigma_d` or `fisher`.
    pub metric: &'static str,
    pub root_policy: Rows,
}

#[derive(Debug, Serialize)]
pub struct MaxMin {
    pub theta: Vec<f64>,
    pub value: f64,
    pub suboptimality: Option<f64>,
    pub norm_of_expectation: Option<f64>,
    pub bound: Option<f64>,
    /// The premise of the bound; where it is false the bound proves nothing.
    pub theta_star_in_set: Option<bool>,
    pub active: Active,
    pub duality_gap: f64,
    pub root_policy: Rows,
}

#[derive(Debug, Serialize)]
pub struct Active {
    pub ellipsoid: bool,
    pub ball: bool,
}

#[derive(Debug, Serialize)]
pub struct Robust {
    /// V(ρ) against the worst transitions in the balls.
    pub value: f64,
    /// `pessimistic` (r̂ of (4.2)) or `given`.
    pub reward: &'static str,
    pub root_policy: Rows,
}

#[derive(Debug, Serialize)]
pub struct Dpo {
    /// β log(π_dpo/π_ref) at s₁.
    pub token_reward_root: Rows,
    pub root_policy: Rows,
    /// Mean DPO loss (4.4) on the preferences; null where π_ref gives one of their responses probability 0.
    pub loss: Option<f64>,
    /// (4.4) in expectation: labels from (3.1), prompts from ρ, pairs uniform over the unordered pairs of
    /// different responses of positive probability under π_ref.
    pub population_loss: Option<f64>,
    pub suboptimality: Option<f64>,
    /// β of DPO.
    pub beta: f64,
    /// `preferences`, or `population`: what infinitely many preferences would give.
    pub source: &'static str,
}

#[derive(Debug, Serialize)]
pub struct RtoReport {
    pub root_policy: Rows,
    /// Value of the RTO objective for each prompt.
    pub value: Vec<f64>,
    /// The result is soft-optimal for the source's reward at this β.
    pub beta_effective: f64,
    pub suboptimality: Option<f64>,
    /// `dpo` or `optimal`.
    pub source: &'static str,
}
