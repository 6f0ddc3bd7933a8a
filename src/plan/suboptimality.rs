//! (3.5), Lemma A.2 and the decomposition (A.3).

use super::{evaluate, soft_value_iteration, visitation};
use crate::Result;
use crate::mdp::{Problem, TabularPolicy};
use crate::reward::RewardFunction;

/// SubOpt(π) = V*_β(ρ) − V^π_β(ρ) of (3.5). Non-negative up to rounding.
///
/// It also equals β E_{s∼d^π}\[KL(π ‖ π*_β)\], which the tests hold against it.
///
/// # Errors
/// As [`evaluate`] and [`soft_value_iteration`].
pub fn suboptimality(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    policy: &TabularPolicy,
) -> Result<f64> {
    let mdp = problem.mdp;
    let optimum = soft_value_iteration(problem, reward)?;
    let value = evaluate(problem, reward, policy)?;
    Ok(optimum.mean_value(mdp) - value.mean_value(mdp))
}

/// The right side of Lemma A.2, equal to V^π_β(ρ) − V^{π′}_β(ρ):
/// E_{(s,a)∼d^π}\[Q^{π′}_β(s, a) − V^{π′}_β(s) − β log π(a|s)\].
///
/// # Errors
/// As [`evaluate`].
pub fn performance_difference(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    policy: &TabularPolicy,
    other: &TabularPolicy,
) -> Result<f64> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    super::evaluate::check_support(mdp, policy, reference)?;
    let value = evaluate(problem, reward, other)?;
    let d = visitation(mdp, policy)?;
    Ok(d.expect(|s, a| {
        value.q[[s.ix(), a.ix()]] - value.v[s.ix()] - beta.get() * policy.log_prob(s, a)
    }))
}

/// The three terms of (A.3), whose sum is SubOpt(π̂) whenever π* is optimal for the true reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decomposition {
    /// (i) E_{d*}\[r − r̂\].
    pub term_i: f64,
    /// (ii) E_{d^π̂}\[r̂ − r\].
    pub term_ii: f64,
    /// (iii) V^{π*}_β(ρ; r̂) − V^{π̂}_β(ρ; r̂); by (A.6) −β E_{d*}\[KL(π* ‖ π̂)\] when π̂ is optimal for r̂.
    pub term_iii: f64,
}

impl Decomposition {
    /// (i) + (ii) + (iii).
    pub fn total(&self) -> f64 {
        self.term_i + self.term_ii + self.term_iii
    }
}

/// The terms of (A.3) for a comparator `star` (π*_β in the paper) and an output `hat`.
///
/// # Errors
/// As [`evaluate`].
pub fn decompose(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    estimate: &impl RewardFunction,
    star: &TabularPolicy,
    hat: &TabularPolicy,
) -> Result<Decomposition> {
    let mdp = problem.mdp;
    let (d_star, d_hat) = (visitation(mdp, star)?, visitation(mdp, hat)?);
    let v_star = evaluate(problem, estimate, star)?.mean_value(mdp);
    let v_hat = evaluate(problem, estimate, hat)?.mean_value(mdp);
    let difference = |s, a| reward.reward(s, a) - estimate.reward(s, a);
    Ok(Decomposition {
        term_i: d_star.expect(difference),
        term_ii: -d_hat.expect(difference),
        term_iii: v_star - v_hat,
    })
}
