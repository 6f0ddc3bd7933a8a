//! Backward induction for (3.2)–(3.4).

use ndarray::Array2;
use rayon::prelude::*;

use super::{check_policy, check_values, mean_value};
use crate::Result;
use crate::mdp::{Problem, StateIx, TabularMdp, TabularPolicy};
use crate::reward::{RewardFunction, check_reward};

/// Rows handled by one parallel task.
const CHUNK: usize = 256;

/// (3.3), (3.4): The regularised optimum of an MDP.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftOptimum {
    /// V*_β(s), `[n_states]`.
    pub v: Vec<f64>,
    /// Q*_β(s, a) = r + β log π_ref + E\[V*_β(s′)\], `[n_states, n_actions]`; −∞ where π_ref = 0.
    pub q: Array2<f64>,
    /// π*_β.
    pub policy: TabularPolicy,
}

impl SoftOptimum {
    /// V*_β(ρ).
    pub fn mean_value(&self, mdp: &TabularMdp) -> f64 {
        mean_value(mdp, &self.v)
    }
}

/// V*_β, Q*_β and π*_β of (3.2)–(3.4) in one backward pass, parallel over states that do not reach
/// each other:
///
/// Q*(s, a) = r(s, a) + β log π_ref(a|s) + E_{s′}\[V*(s′)\], V*(s) = β log Σ_a exp(Q*(s, a)/β),
/// π*(a|s) = exp{(Q*(s, a) − V*(s))/β}.
///
/// For β = 0: V* = max over the support of π_ref, and π* puts all mass on the first maximiser.
/// Shapes: `v` `[n_states]`, `q` and `policy` `[n_states, n_actions]`; natural logarithms. In states that no
/// episode can meet ([`crate::mdp::Reachable`]) rewards may add up to infinity, and V with them; π* is π_ref there.
///
/// # Errors
/// [`crate::Error::Shape`] when reward or reference do not fit the table, [`crate::Error::NonFinite`] naming a
/// reachable state from which rewards add up to infinity.
pub fn soft_value_iteration(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
) -> Result<SoftOptimum> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    check_reward(mdp, reward)?;
    check_policy(mdp, "reference", reference)?;
    let (n, na) = (mdp.n_states(), mdp.n_actions());
    let mut v = vec![0.0; n];
    let mut q = Array2::<f64>::zeros((n, na));
    let mut log_pi = Array2::<f64>::zeros((n, na));
    let q_all = q.as_slice_mut().expect("fresh tables are in row order");
    let pi_all = log_pi
        .as_slice_mut()
        .expect("fresh tables are in row order");
    for block in mdp.blocks() {
        let (head, later) = v.split_at_mut(block.end);
        let v_block = &mut head[block.start..];
        let rows = block.start * na..block.end * na;
        let q_block = &mut q_all[rows.clone()];
        let pi_block = &mut pi_all[rows];
        let solve = |s: usize, v: &mut f64, q: &mut [f64], log_pi: &mut [f64]| {
            reward.write_row(StateIx(s as u32), q);
            for (a, q) in q.iter_mut().enumerate() {
                *q += mdp.expect_later(s * na + a, block.end, later);
            }
            *v = solve_state(q, reference.row(s), beta.get(), log_pi);
        };
        let one = |first: usize, v: &mut [f64], q: &mut [f64], pi: &mut [f64]| {
            let rows = q.chunks_exact_mut(na).zip(pi.chunks_exact_mut(na));
            for (i, (v, (q, pi))) in v.iter_mut().zip(rows).enumerate() {
                solve(first + i, v, q, pi);
            }
        };
        if v_block.len() <= CHUNK {
            one(block.start, v_block, q_block, pi_block);
            continue;
        }
        v_block
            .par_chunks_mut(CHUNK)
            .zip(q_block.par_chunks_mut(CHUNK * na))
            .zip(pi_block.par_chunks_mut(CHUNK * na))
            .enumerate()
            .for_each(|(i, ((v, q), pi))| one(block.start + i * CHUNK, v, q, pi));
    }
    check_values(mdp, reference, &v)?;
    for (s, _) in v.iter().enumerate().filter(|(_, v)| !v.is_finite()) {
        pi_all[s * na..(s + 1) * na].copy_from_slice(reference.row(s));
    }
    Ok(SoftOptimum {
        v,
        q,
        policy: TabularPolicy::trusted(log_pi),
    })
}

/// One state of (3.3)–(3.4): `q` holds G = r + E\[V′\] on entry and Q on return; returns V.
///
/// The largest G is subtracted before dividing by β, so that a small β does not amplify rounding.
pub(crate) fn solve_state(q: &mut [f64], log_ref: &[f64], beta: f64, log_pi: &mut [f64]) -> f64 {
    let supported = |p: f64| p > f64::NEG_INFINITY;
    let best = q
        .iter()
        .zip(log_ref)
        .filter(|(_, p)| supported(**p))
        .map(|(g, _)| *g)
        .fold(f64::NEG_INFINITY, f64::max);
    if beta == 0.0 {
        log_pi.fill(f64::NEG_INFINITY);
        let mut chosen = false;
        for ((q, p), l) in q.iter_mut().zip(log_ref).zip(log_pi) {
            if !supported(*p) {
                *q = f64::NEG_INFINITY;
            } else if *q == best && !chosen {
                *l = 0.0;
                chosen = true;
            }
        }
        return best;
    }
    for ((l, q), p) in log_pi.iter_mut().zip(q.iter_mut()).zip(log_ref) {
        if !supported(*p) {
            // What lies behind such an action may be infinite, and ∞ − ∞ is no probability.
            *q = f64::NEG_INFINITY;
        }
        *l = (*q - best) / beta + p;
    }
    let norm = crate::numerics::log_sum_exp(log_pi);
    for ((l, q), p) in log_pi.iter_mut().zip(q.iter_mut()).zip(log_ref) {
        *l -= norm;
        *q += beta * p;
    }
    best + beta * norm
}
