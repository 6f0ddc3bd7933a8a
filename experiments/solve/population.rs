//! The DPO loss (4.4) in expectation over all pairs of responses.

use rto::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use rto::numerics::{log_sigmoid, sigmoid};
use rto::reward::{LogRatioReward, RewardFunction, TabularReward};

/// The most unordered pairs of responses that are gone through.
const MOST_PAIRS: f64 = 1e7;

/// E_{x∼ρ} of the mean over unordered pairs {y¹, y²} of different responses of
/// −p log σ(m) − (1 − p) log σ(−m), with p = P(y¹ ≻ y²) of (3.1) under the true reward and m the difference of
/// the implicit rewards. Responses that π_ref never gives are left out; on a stochastic table a response is a
/// trajectory, states included.
///
/// The error says why there is no such number: more than 10⁷ pairs, or a prompt with a single response.
pub fn population_loss(
    mdp: &TabularMdp,
    truth: &TabularReward,
    implicit: &LogRatioReward,
    reference: &TabularPolicy,
) -> Result<f64, String> {
    let counts = responses(mdp, reference);
    let pairs = |s: StateIx| 0.5 * counts[s.ix()] * (counts[s.ix()] - 1.0);
    // Written so that an infinite or undefined count is refused too.
    let few = mdp.roots().map(|(s, _)| pairs(s)).sum::<f64>() <= MOST_PAIRS;
    if !few {
        return Err("not computed: there are more than 1e7 pairs of responses".into());
    }
    let mut total = 0.0;
    for (root, rho) in mdp.roots() {
        let mut returns = Vec::new();
        let mut open = vec![(root, 0.0, 0.0)];
        while let Some((s, paid, implied)) = open.pop() {
            for a in (0..mdp.n_actions() as u32).map(ActionIx) {
                if reference.log_prob(s, a) == f64::NEG_INFINITY {
                    continue;
                }
                let sums = (paid + truth.reward(s, a), implied + implicit.reward(s, a));
                let (next, prob) = mdp.successors(s, a);
                for (to, _) in next.iter().zip(prob).filter(|(_, p)| **p > 0.0) {
                    match *to {
                        StateIx::END => returns.push(sums),
                        to => open.push((to, sums.0, sums.1)),
                    }
                }
            }
        }
        match mean_over_pairs(&returns) {
            Some(mean) => total += rho * mean,
            None => {
                return Err("undefined: a prompt has a single response of positive probability, so there is no pair".into());
            }
        }
    }
    Ok(total)
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

/// The number of responses in the support of π_ref from each state, possibly infinite in floating point.
fn responses(mdp: &TabularMdp, reference: &TabularPolicy) -> Vec<f64> {
    let mut counts = vec![0.0; mdp.n_states()];
    for s in (0..mdp.n_states()).rev() {
        for a in (0..mdp.n_actions() as u32).map(ActionIx) {
            let state = StateIx(s as u32);
            if reference.log_prob(state, a) == f64::NEG_INFINITY {
                continue;
            }
            let (next, prob) = mdp.successors(state, a);
            let possible = next.iter().zip(prob).filter(|(_, p)| **p > 0.0);
            counts[s] += possible
                .map(|(to, _)| match *to {
                    StateIx::END => 1.0,
                    to => counts[to.ix()],
                })
                .sum::<f64>();
        }
    }
    counts
}
