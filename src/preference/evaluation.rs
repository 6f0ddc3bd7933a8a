//! What a policy is worth, exactly.

use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::log_sum_exp;
use crate::{Error, Result};

/// (3.2), (3.3): A policy over all responses, judged under the KL-regularised objective V(π) = E_π R − β KL(π‖π_ref).
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// π(y).
    pub policy: Vec<f64>,
    /// E_π R.
    pub reward: f64,
    /// KL(π‖π_ref), in nats.
    pub kl: f64,
    /// E_π R − β KL.
    pub value: f64,
    /// V* − V(π) = β KL(π‖π*).
    pub subopt: f64,
    /// max R − E_π R, without the KL term; some theorems speak of this one only.
    pub plain_regret: f64,
    /// Σ π²/π_ref − 1.
    pub chi2: f64,
    /// max π/π_ref.
    pub max_ratio: f64,
}

/// π ∝ exp(`log_weights`), as log-probabilities.
pub fn normalise(mut log_weights: Vec<f64>) -> Vec<f64> {
    let total = log_sum_exp(&log_weights);
    log_weights.iter_mut().for_each(|w| *w -= total);
    log_weights
}

/// (3.4): log π*(y) = log π_ref(y) + R(y)/β − log Z, and V* = β log Z.
pub fn soft_optimum(responses: &Responses, beta: Beta) -> (Vec<f64>, f64) {
    let weights: Vec<f64> = responses
        .log_reference()
        .iter()
        .zip(responses.rewards())
        .map(|(u, r)| u + r / beta.get())
        .collect();
    let total = log_sum_exp(&weights);
    (normalise(weights), beta.get() * total)
}

/// KL(p‖q) in nats of log-probabilities; 0 log 0 = 0, and +∞ where p goes and q never does.
pub fn kl(log_p: &[f64], log_q: &[f64]) -> f64 {
    let met = log_p
        .iter()
        .zip(log_q)
        .filter(|(p, _)| **p > f64::NEG_INFINITY);
    met.map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Judges log π(y) (−∞ for a response that is never written).
///
/// # Errors
/// [`Error::Shape`]; [`Error::NotADistribution`] unless Σ π = 1 to 1e-9.
pub fn evaluate(responses: &Responses, beta: Beta, log_policy: &[f64]) -> Result<Evaluation> {
    check::len("policy", responses.len(), log_policy.len())?;
    let policy: Vec<f64> = log_policy.iter().map(|u| u.exp()).collect();
    let sum: f64 = policy.iter().sum();
    if (sum - 1.0).abs() > 1e-9 || sum.is_nan() {
        return Err(Error::NotADistribution {
            what: "policy".into(),
            sum,
        });
    }
    let dot = |values: &[f64]| -> f64 { policy.iter().zip(values).map(|(p, v)| p * v).sum() };
    let (reward, kl_ref) = (
        dot(responses.rewards()),
        kl(log_policy, responses.log_reference()),
    );
    let (star, _) = soft_optimum(responses, beta);
    let ratios = || {
        policy
            .iter()
            .zip(responses.log_reference())
            .map(|(p, u)| p / u.exp())
    };
    let best = responses
        .rewards()
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    Ok(Evaluation {
        reward,
        kl: kl_ref,
        value: reward - beta.get() * kl_ref,
        subopt: beta.get() * kl(log_policy, &star),
        plain_regret: best - reward,
        chi2: policy.iter().zip(ratios()).map(|(p, r)| p * r).sum::<f64>() - 1.0,
        max_ratio: ratios().fold(0.0, f64::max),
        policy,
    })
}
