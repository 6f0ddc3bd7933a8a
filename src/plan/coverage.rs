//! Behaviour policies that cover an optimal policy to a chosen degree.

use ndarray::Array2;

use super::{DataLaw, check_policy, pair_coverage, soft_value_iteration, visitation};
use crate::mdp::{ActionIx, Problem, StateIx, TabularMdp, TabularPolicy};
use crate::reward::{RewardFunction, TabularReward};
use crate::{Error, Result};

/// Theorem 4.2, partial coverage: max_{s,a} d^π(s, a)/d^μ(s, a), the concentrability coefficient of single-policy coverage:
/// by how much
/// data from μ under-represent what π does. 0/0 is left out; +∞ where π goes and μ never does.
///
/// # Errors
/// [`Error::Shape`] when a policy does not fit the table.
pub fn concentrability(
    mdp: &TabularMdp,
    target: &TabularPolicy,
    behaviour: &TabularPolicy,
) -> Result<f64> {
    Ok(pair_coverage(mdp, target, DataLaw::Policy(behaviour))?.value)
}

/// Theorem 4.2, partial coverage: The Markov policy μ with d^μ = c·d^p + (1 − c)·d^q, for policies (p, q) and c in \[0, 1\].
///
/// μ(a|s) = d^μ(s, a)/d^μ(s), which exists for stochastic tables too, as occupancy measures of a
/// finite-horizon table are convex. Where neither policy goes, μ = c·p + (1 − c)·q, which no occupancy sees.
///
/// # Errors
/// [`Error::Shape`] when a policy does not fit the table, [`Error::Config`] for c outside \[0, 1\].
pub fn mix_occupancies(
    mdp: &TabularMdp,
    policies: (&TabularPolicy, &TabularPolicy),
    weight: f64,
) -> Result<TabularPolicy> {
    if !(0.0..=1.0).contains(&weight) {
        return Err(Error::config("coverage", weight, "in [0, 1]"));
    }
    check_policy(mdp, "first policy of the mixture", policies.0)?;
    check_policy(mdp, "second policy of the mixture", policies.1)?;
    let first = visitation(mdp, policies.0)?.state;
    let second = visitation(mdp, policies.1)?.state;
    // The posterior probability of each policy, given that s is met; 1 − the other's would lose the small ones,
    // and with them all that only this policy does later.
    let posterior: Vec<(f64, f64)> = first
        .iter()
        .zip(&second)
        .map(|(p, q)| (weight * p, (1.0 - weight) * q))
        .map(|(p, q)| match p + q {
            0.0 => (weight, 1.0 - weight),
            total => (p / total, q / total),
        })
        .collect();
    let mixed = Array2::from_shape_fn((mdp.n_states(), mdp.n_actions()), |(s, a)| {
        let (state, action) = (StateIx(s as u32), ActionIx(a as u32));
        let (p, q) = posterior[s];
        (p * policies.0.prob(state, action) + q * policies.1.prob(state, action)).ln()
    });
    TabularPolicy::from_log_probs(mixed)
}

/// Theorem 4.2, partial coverage: A behaviour policy μ with *controlled coverage* of π*_β: d^μ = c·d^{π*_β} + (1 −
/// c)·d^{adversary}, the
/// adversary being soft-optimal for −r at the same β and π_ref. Hence d^{π*}(s, a)/d^μ(s, a) ≤ 1/c
/// everywhere, and the smaller c, the more of the data is about responses nobody wants: c = 1 is data from
/// the optimum, c = 0 from the adversary alone.
///
/// # Errors
/// [`Error::Shape`] when reward or reference do not fit, [`Error::Config`] for c outside \[0, 1\].
pub fn covering_behaviour(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    coverage: f64,
) -> Result<TabularPolicy> {
    let mdp = problem.mdp;
    let (n_states, n_actions) = reward.shape();
    let negated = Array2::from_shape_fn((n_states, n_actions), |(s, a)| {
        -reward.reward(StateIx(s as u32), ActionIx(a as u32))
    });
    let optimal = soft_value_iteration(problem, reward)?.policy;
    let negated = TabularReward::try_new(negated)?;
    let adversary = soft_value_iteration(problem, &negated)?.policy;
    mix_occupancies(mdp, (&optimal, &adversary), coverage)
}
