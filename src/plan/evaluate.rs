//! Policy evaluation by (3.3).

use ndarray::Array2;

use super::{check_policy, check_values, mean_value};
use crate::mdp::{Problem, Reachable, StateIx, TabularMdp, TabularPolicy};
use crate::reward::{RewardFunction, check_reward};
use crate::{Error, Result};

/// (3.2), (3.3): The regularised value of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyValue {
    /// V^π_β(s), `[n_states]`.
    pub v: Vec<f64>,
    /// Q^π_β(s, a), β log π_ref included as in (3.3), `[n_states, n_actions]`; −∞ where π_ref = 0.
    pub q: Array2<f64>,
}

impl PolicyValue {
    /// V^π_β(ρ).
    pub fn mean_value(&self, mdp: &TabularMdp) -> f64 {
        mean_value(mdp, &self.v)
    }
}

/// V^π_β and Q^π_β of (3.3):
///
/// Q^π(s, a) = r(s, a) + β log π_ref(a|s) + E_{s′}\[V^π(s′)\],
/// V^π(s) = E_{a∼π}\[Q^π(s, a) − β log π(a|s)\].
///
/// # Errors
/// [`Error::Shape`]; [`Error::Config`] naming a reachable state and an action with π > 0 = π_ref, where (3.2) is −∞;
/// [`Error::NonFinite`] naming a reachable state from which rewards add up to infinity.
pub fn evaluate(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    policy: &TabularPolicy,
) -> Result<PolicyValue> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    check_reward(mdp, reward)?;
    check_support(mdp, policy, reference)?;
    let (n, na, beta) = (mdp.n_states(), mdp.n_actions(), beta.get());
    let mut v = vec![0.0; n];
    let mut q = Array2::<f64>::zeros((n, na));
    let q_all = q.as_slice_mut().expect("fresh tables are in row order");
    for s in (0..n).rev() {
        let row = &mut q_all[s * na..(s + 1) * na];
        reward.write_row(StateIx(s as u32), row);
        let mut value = 0.0;
        for (a, q) in row.iter_mut().enumerate() {
            let (log_pi, log_ref) = (policy.row(s)[a], reference.row(s)[a]);
            *q += mdp.expect_later(s * na + a, 0, &v);
            if log_pi > f64::NEG_INFINITY {
                value += log_pi.exp() * (*q - beta * (log_pi - log_ref));
            }
            if log_ref == f64::NEG_INFINITY {
                *q = f64::NEG_INFINITY;
            } else {
                *q += beta * log_ref;
            }
        }
        v[s] = value;
    }
    check_values(mdp, reference, &v)?;
    Ok(PolicyValue { v, q })
}

/// π ≪ π_ref at every state that an episode can meet.
pub(crate) fn check_support(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    reference: &TabularPolicy,
) -> Result<()> {
    check_policy(mdp, "policy", policy)?;
    check_policy(mdp, "reference", reference)?;
    let pairs = policy.log_probs().iter().zip(reference.log_probs());
    let mut outside = pairs
        .enumerate()
        .filter(|(_, (p, q))| **q == f64::NEG_INFINITY && **p > f64::NEG_INFINITY)
        .map(|(i, (p, _))| (i / mdp.n_actions(), i % mdp.n_actions(), *p))
        .peekable();
    if outside.peek().is_none() {
        return Ok(());
    }
    let met = Reachable::new(mdp, reference)?;
    match outside.find(|(s, ..)| met.state(StateIx(*s as u32))) {
        None => Ok(()),
        Some((s, a, p)) => Err(Error::config(
            format!("policy[{s}][{a}]"),
            p.exp(),
            "0, as the reference is 0 there",
        )),
    }
}
