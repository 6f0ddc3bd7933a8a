//! What is printed: every key is always there, and null where the instance does not determine it, with the reason
//! in `notes`.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

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
    /// How the law of the data covers π*_β.
    pub coverage: Option<Coverage>,
    /// Remark B.2.
    pub robust: Option<Robust>,
    /// (4.4), (4.5).
    pub dpo: Option<Dpo>,
    /// (4.6), exactly optimised.
    pub rto: Option<RtoReport>,
    /// What a reader of the numbers should know about the data.
    pub warnings: Vec<String>,
    /// The reason of every null, by key path: unknown, undefined, infinite, not computed, failed or not asked for.
    pub notes: BTreeMap<String, String>,
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
    /// Whether a direction separates the pairs, so that without the ball there would be no finite maximiser.
    pub separable: bool,
    /// `none`, `quasi` or `complete` (Albert and Anderson): with either of the last two (4.1) has no finite
    /// maximiser without the ball. Null where rounding leaves it undecided.
    pub separation: Option<&'static str>,
    /// Rank of the matrix of trajectory differences.
    pub rank: Option<usize>,
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

/// Whether the worst parameter would move without the constraint; null where floating point does not tell.
#[derive(Debug, Serialize)]
pub struct Active {
    pub ellipsoid: Option<bool>,
    pub ball: Option<bool>,
}

/// C_sa, C_τ and χ² of the data's law μ, C_lin of its pairs, and Theorems 4.2 and B.1 restated through C_lin:
/// ‖v‖ ≤ √(C_lin(v)/n) in the dual of Σ_𝒟, and in that of the observed information with σ′(xᵀθ_MLE) xxᵀ in place of xxᵀ.
#[derive(Debug, Serialize)]
#[allow(non_snake_case)]
pub struct Coverage {
    /// `behaviour`, the policy that is given, or `preferences`, the empirical law of their responses.
    pub law: &'static str,
    /// max d*(s, a)/d^μ(s, a).
    pub C_sa: Option<f64>,
    /// The state and action that attain it.
    pub C_sa_at: Value,
    /// max P*(τ)/P^μ(τ).
    pub C_tau: Option<f64>,
    /// The response that attains it; when that is infinite, the most probable one under π* that the data lack.
    pub C_tau_at: Value,
    /// E_{π*}\[P*/P^μ\] − 1.
    pub chi2: Option<f64>,
    /// C_lin of E_{d*}\[φ\].
    pub C_lin: Option<f64>,
    /// The v that attains it, of length 1; when it is infinite, one that no pair differs in.
    pub C_lin_direction: Vec<f64>,
    /// C_lin of E_{d*}\[φ\] − E_{π_ref}\[φ\].
    pub C_lin_baselined: Option<f64>,
    pub C_lin_baselined_direction: Vec<f64>,
    /// E_{d*}\[√C_lin(φ(s, a))\], summed over steps.
    pub C_lin_steps: Option<f64>,
    /// The state and action of the largest C_lin(φ(s, a)) that π* visits.
    pub C_lin_steps_at: Value,
    /// Theorem 4.2 through coverage: 2ϱ E_{d*}\[√(C_lin(φ)/n)\].
    pub theorem_4_2: Option<f64>,
    /// Theorem B.1 through coverage: 2ϱ √(C_lin/n).
    pub theorem_b1: Option<f64>,
    /// The same of the baselined form of (B.1).
    pub baselined: Option<f64>,
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
    /// different responses of positive probability under π_ref (on a stochastic table: of trajectories).
    pub population_loss: Option<f64>,
    pub suboptimality: Option<f64>,
    /// β of DPO.
    pub beta: f64,
    /// `preferences`, or `population`: what infinitely many preferences would give.
    pub source: &'static str,
    /// Which pairs: `preferences`; of infinitely many, `any` that connect all responses (deterministic transitions),
    /// or drawn from `reference`, or `uniform`.
    pub pairs: &'static str,
    /// Whether (4.4) determines the policy: false where the preferences do not span the differences of responses.
    /// Null after a minimisation.
    pub unique: Option<bool>,
    /// The numerical minimisation, where no closed form holds.
    pub minimisation: Option<Minimisation>,
}

/// (4.4) minimised over policies in expectation over `pairs`.
#[derive(Debug, Serialize)]
pub struct Minimisation {
    pub loss: f64,
    /// Largest entry of the gradient in token logits.
    pub gradient: f64,
    pub starts: usize,
    /// Starts that ended in the lowest loss; others end in local minima.
    pub starts_that_agree: usize,
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
