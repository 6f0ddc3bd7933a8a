//! The DPO loss (4.4) in expectation over all pairs of responses.

use anyhow::Result;
use rto::mdp::{StateIx, TabularMdp, TabularPolicy, for_each_trajectory};
use rto::numerics::{log_sigmoid, sigmoid};
use rto::reward::{LogRatioReward, RewardModel, TabularReward};

/// The most unordered pairs of responses that are gone through.
const MOST_PAIRS: f64 = 1e7;

/// E_{x∼ρ} of the mean over unordered pairs {y¹, y²} of different responses of
/// −p log σ(m) − (1 − p) log σ(−m), with p = P(y¹ ≻ y²) of (3.1) under the true reward and m the difference of
/// the implicit rewards. Responses that π_ref never gives are left out.
///
/// `None` for stochastic tables, more than 10⁷ pairs, and prompts with a single response.
pub fn population_loss(
    mdp: &TabularMdp,
    truth: &TabularReward,
    implicit: &LogRatioReward,
    reference: &TabularPolicy,
) -> Result<Option<f64>> {
    if !mdp.is_deterministic() {
        return Ok(None);
    }
    let counts = responses(mdp);
    let pairs = |s: StateIx| 0.5 * counts[s.ix()] * (counts[s.ix()] - 1.0);
    // Written so that an infinite or undefined count is refused too.
    let few = mdp.roots().map(|(s, _)| pairs(s)).sum::<f64>() <= MOST_PAIRS;
    if !few {
        return Ok(None);
    }
    let mut total = 0.0;
    for (root, rho) in mdp.roots() {
        let mut returns: Vec<(f64, f64)> = Vec::new();
        for_each_trajectory(mdp, root, |steps| {
            let possible = steps
                .iter()
                .all(|&(s, a)| reference.log_prob(s, a) > f64::NEG_INFINITY);
            if possible {
                let sum =
                    |r: &dyn Fn(_, _) -> f64| steps.iter().map(|&(s, a)| r(s, a)).sum::<f64>();
                returns.push((
                    sum(&|s, a| truth.reward(s, a)),
                    sum(&|s, a| implicit.reward(s, a)),
                ));
            }
        })?;
        match mean_over_pairs(&returns) {
            Some(mean) => total += rho * mean,
            None => return Ok(None),
        }
    }
    Ok(Some(total))
}

/// The mean loss over the unordered pairs of (true return, implicit return).
fn mean_over_pairs(returns: &[(f64, f64)]) -> Option<f64> {
    let n = returns.len() as f64;
    let mut total = 0.0;
    for (i, first) in returns.iter().enumerate() {
        for second in &returns[..i] {
            let (gap, margin) = (first.0 - second.0, first.1 - second.1);
            total -= sigmoid(gap) * log_sigmoid(margin) + sigmoid(-gap) * log_sigmoid(-margin);
        }
    }
    (returns.len() > 1).then(|| total / (0.5 * n * (n - 1.0)))
}

/// The number of responses from each state, possibly infinite in floating point.
fn responses(mdp: &TabularMdp) -> Vec<f64> {
    let mut counts = vec![0.0; mdp.n_states()];
    for s in (0..mdp.n_states()).rev() {
        for a in 0..mdp.n_actions() {
            let state = StateIx(s as u32);
            counts[s] += match mdp.next_state(state, rto::mdp::ActionIx(a as u32)) {
                None | Some(StateIx::END) => 1.0,
                Some(next) => counts[next.ix()],
            };
        }
    }
    counts
}
