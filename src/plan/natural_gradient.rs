//! Remark A.3: KL-regularised natural policy gradient in place of the exact optimum.

use ndarray::Array2;

use super::{evaluate, mean_value, soft_value_iteration};
use crate::mdp::{Problem, Reachable, StateIx, TabularMdp, TabularPolicy};
use crate::numerics::log_sum_exp;
use crate::reward::RewardFunction;
use crate::{Error, Result};

/// Remark A.3 (errata, B8): What a run of natural policy gradient did.
#[derive(Debug, Clone, PartialEq)]
pub struct NpgRun {
    /// π_T.
    pub policy: TabularPolicy,
    /// SubOpt(π_t) for t = 0..=T.
    pub gap: Vec<f64>,
    /// max |log π_t(a|s) − log π*(a|s)| over the pairs that an episode can meet, for t = 0..=T.
    pub max_log_error: Vec<f64>,
}

/// One step of Remark A.3 with c = ηβ ∈ (0, 1]: log π ← (1 − c) log π + (c/β) Q^π, normalised.
/// Q^π contains β log π_ref, as in (3.3). c = 1 is soft policy iteration.
///
/// # Errors
/// [`Error::Config`] unless β > 0 and 0 < c ≤ 1; as [`evaluate`].
pub fn npg_step(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    policy: &TabularPolicy,
    c: f64,
) -> Result<TabularPolicy> {
    let beta = problem.beta;
    let b = beta.positive()?;
    if !(c > 0.0 && c <= 1.0) {
        return Err(Error::config("eta * beta", c, "in (0, 1]"));
    }
    let value = evaluate(problem, reward, policy)?;
    let mut log_pi = Array2::zeros(policy.log_probs().dim());
    for (s, mut row) in log_pi.rows_mut().into_iter().enumerate() {
        for (a, l) in row.iter_mut().enumerate() {
            let (old, q) = (policy.row(s)[a], value.q[[s, a]]);
            let kept = if c == 1.0 { 0.0 } else { (1.0 - c) * old };
            *l = kept + c / b * (q - value.v[s]);
        }
        let norm = log_sum_exp(row.as_slice().expect("a fresh table is in row order"));
        if norm.is_finite() {
            row -= norm;
        } else {
            // Q is infinite where no episode goes; nothing depends on the policy there.
            row.assign(&policy.log_probs().row(s));
        }
    }
    Ok(TabularPolicy::trusted(log_pi))
}

/// Remark A.3 (errata, B8): Runs [`npg_step`] and measures every iterate against the exact optimum.
///
/// # Errors
/// As [`npg_step`].
pub fn natural_policy_gradient(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    start: &TabularPolicy,
    c: f64,
    steps: usize,
) -> Result<NpgRun> {
    let (mdp, reference) = (problem.mdp, problem.reference);
    let optimum = soft_value_iteration(problem, reward)?;
    let met = Reachable::new(mdp, reference)?;
    let mut run = NpgRun {
        policy: start.clone(),
        gap: Vec::new(),
        max_log_error: Vec::new(),
    };
    for t in 0..=steps {
        if t > 0 {
            run.policy = npg_step(problem, reward, &run.policy, c)?;
        }
        let value = evaluate(problem, reward, &run.policy)?;
        let lost: Vec<f64> = optimum.v.iter().zip(&value.v).map(|(a, b)| a - b).collect();
        run.gap.push(mean_value(mdp, &lost));
        let pairs = met.pairs().map(|(s, a)| {
            let star = optimum.policy.log_prob(s, a);
            (run.policy.log_prob(s, a), star)
        });
        let errors = pairs.filter(|(_, star)| star.is_finite());
        let largest = errors.map(|(l, star)| (l - star).abs()).fold(0.0, f64::max);
        run.max_log_error.push(largest);
    }
    Ok(run)
}

/// The proved contraction of Remark A.3 for finite horizons.
#[derive(Debug, Clone, PartialEq)]
pub struct NpgBound {
    /// D of the states with k + 1 actions to go, `[H]` (index 0: the last action).
    pub constants: Vec<f64>,
    c: f64,
    beta: f64,
}

impl NpgBound {
    /// A bound on the span of β log(π_t/π*) over the states with `to_go` + 1 actions to go: D(1−c)^t.
    pub fn span(&self, to_go: usize, t: usize) -> f64 {
        self.constants[to_go] * (1.0 - self.c).powi(t as i32)
    }

    /// A bound on SubOpt(π_t): Σ D² (1−c)^{2t}/(8β).
    pub fn gap(&self, t: usize) -> f64 {
        let squares: f64 = self.constants.iter().map(|d| d * d).sum();
        squares * (1.0 - self.c).powi(2 * t as i32) / (8.0 * self.beta)
    }
}

/// Remark A.3 (errata, B8): The constants D_h = δ_h(0) + Σ_{k later} D_k²/(8β(1−c)) of the finite-horizon rate, where δ_h(0) is
/// the largest span of β log(π₀/π*) over the reachable states of a stage. Stages count actions to go (longest
/// path that an episode can take), so that a transition always leads to a later stage. Needs 0 < c < 1.
///
/// The tempting bound gap_t ≤ (1−c)^t gap_0 is false in general and is not offered.
///
/// # Errors
/// [`Error::Config`] unless β > 0 and 0 < c < 1; as [`soft_value_iteration`].
pub fn npg_bound(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    start: &TabularPolicy,
    c: f64,
) -> Result<NpgBound> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    let b = beta.positive()?;
    if !(c > 0.0 && c < 1.0) {
        return Err(Error::config("eta * beta", c, "in (0, 1)"));
    }
    let optimum = soft_value_iteration(problem, reward)?;
    let met = Reachable::new(mdp, reference)?;
    let stages = stages(mdp, &met);
    let n_stages = met.states().map(|s| stages[s.ix()] + 1).max().unwrap_or(0);
    let mut spread = vec![0.0f64; n_stages];
    for s in met.states() {
        let largest = &mut spread[stages[s.ix()]];
        *largest = largest.max(b * span(start, &optimum.policy, s.ix()));
    }
    let mut squares = 0.0;
    let constants = spread
        .iter()
        .map(|delta| {
            let constant = delta + squares / (8.0 * b * (1.0 - c));
            squares += constant * constant;
            constant
        })
        .collect();
    Ok(NpgBound {
        constants,
        c,
        beta: b,
    })
}

/// max − min over the support of log(π/π*).
fn span(policy: &TabularPolicy, star: &TabularPolicy, s: usize) -> f64 {
    let pairs = policy
        .row(s)
        .iter()
        .zip(star.row(s))
        .filter(|(_, q)| q.is_finite());
    let (lo, hi) = pairs
        .map(|(p, q)| p - q)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| {
            (lo.min(x), hi.max(x))
        });
    hi - lo
}

/// Actions to go after the current one, along the longest path that an episode can take, `[n_states]`.
fn stages(mdp: &TabularMdp, met: &Reachable) -> Vec<usize> {
    let mut stage = vec![0; mdp.n_states()];
    let pairs: Vec<_> = met.pairs().collect();
    for (s, a) in pairs.into_iter().rev() {
        let (next, prob) = mdp.successors(s, a);
        for (to, p) in next.iter().zip(prob) {
            if *to != StateIx::END && *p > 0.0 {
                stage[s.ix()] = stage[s.ix()].max(1 + stage[to.ix()]);
            }
        }
    }
    stage
}
