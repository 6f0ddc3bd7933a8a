//! Remark B.2 for counted transitions: (s, a)-rectangular KL balls.

use ndarray::Array2;

use crate::check;
use crate::mdp::{ActionIx, Problem, Reachable, StateIx};
use crate::plan::{Rounding, SoftOptimum, soft_value_iteration};
use crate::reward::{RewardFunction, TabularReward};
use crate::{Error, Result};

/// The balls {P: KL(P̂(·|s,a) ‖ P) ≤ ζ_{sa}} around counted transitions.
///
/// The likelihood set Θ_𝒫 of Remark B.2 couples all pairs, which makes its robust MDP hard. It is
/// contained in the product of the balls with ζ_{sa} = ζ/N_{sa}, so pessimism over that product stays
/// valid. A pair never seen (N = 0) has ζ_{sa} = ∞: the worst listed successor.
#[derive(Debug, Clone, PartialEq)]
pub struct KlBalls {
    radius: Array2<f64>,
}

impl KlBalls {
    /// From N_{sa}, `[n_states, n_actions]`, and ζ.
    ///
    /// # Errors
    /// [`Error::Config`] unless ζ ≥ 0 is finite and the counts are non-negative.
    pub fn from_counts(visits: &Array2<f64>, zeta: f64) -> Result<Self> {
        if !(zeta >= 0.0 && zeta.is_finite()) {
            return Err(Error::config("zeta", zeta, ">= 0 and finite"));
        }
        if let Some(((s, a), n)) = visits
            .indexed_iter()
            .find(|(_, n)| !(**n >= 0.0 && n.is_finite()))
        {
            return Err(Error::config(
                format!("transition_counts[{s}][{a}]"),
                n,
                ">= 0 and finite",
            ));
        }
        let ball = |n: f64| if n > 0.0 { zeta / n } else { f64::INFINITY };
        Ok(Self {
            radius: visits.mapv(ball),
        })
    }

    /// ζ_{sa}, `[n_states, n_actions]`.
    pub fn radius(&self) -> &Array2<f64> {
        &self.radius
    }
}

/// Robust soft value iteration: G = r̂ + min_P P·V, V = β log Σ π_ref exp(G/β). `mdp` holds P̂; successors
/// listed with probability 0 are those nature may also choose. With r̂ from (4.2), V(ρ) is a lower
/// bound on the true value of the policy whenever θ* and the transitions lie in their sets.
///
/// # Errors
/// [`Error::Shape`]; as [`soft_value_iteration`].
pub fn robust_soft_value_iteration(
    problem: Problem<'_>,
    balls: &KlBalls,
    reward: &impl RewardFunction,
) -> Result<SoftOptimum> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    let (n, na) = (mdp.n_states(), mdp.n_actions());
    check::len("transition counts", n * na, balls.radius.len())?;
    let mut robust = Array2::<f64>::zeros((n, na));
    // Nature's choice at (s, a) depends on later values only: one pass fixes it, state by state.
    let mut v = vec![0.0; n];
    let mut log_pi = vec![0.0; na];
    let mut row = vec![0.0; na];
    let mut values = Vec::new();
    crate::reward::check_reward(mdp, reward)?;
    reference.check_shape("reference", n, na)?;
    for s in (0..n).rev() {
        reward.write_row(StateIx(s as u32), &mut row);
        for (a, q) in row.iter_mut().enumerate() {
            let (next, prob) = mdp.transition().row(s * na + a);
            values.clear();
            values.extend(
                next.iter()
                    .map(|t| if *t == StateIx::END { 0.0 } else { v[t.ix()] }),
            );
            let worst = worst_case_expectation(prob, &values, balls.radius[[s, a]]);
            // Moving the loss into the reward leaves every other planner as it is.
            let expected: f64 = prob.iter().zip(&values).map(|(p, v)| p * v).sum();
            robust[[s, a]] = *q + (worst - expected);
            *q += worst;
        }
        v[s] = crate::plan::solve_state(&mut row, reference.row(s), beta.get(), &mut log_pi);
    }
    // What nature cannot lead an episode to may add up to infinity, and stays out of the table.
    let met = Reachable::through_listed(mdp, reference)?;
    for ((s, a), r) in robust.indexed_iter_mut() {
        if !r.is_finite() && !met.pair(StateIx(s as u32), ActionIx(a as u32)) {
            *r = 0.0;
        }
    }
    soft_value_iteration(problem, &TabularReward::try_new(robust)?)
}

/// How far rounding moves the policy of [`robust_soft_value_iteration`] for a reward whose entries are off by at most `reward(s, a)`.
/// Where ζ is small the worst case is as far below the mean as √(2ζ) standard deviations, and a rounding of the divergence counts by
/// 1/√(2ζ).
///
/// # Errors
/// [`Error::Config`] at β = 0.
pub fn robust_rounding(
    problem: Problem<'_>,
    balls: &KlBalls,
    optimum: &SoftOptimum,
    reward: impl Fn(StateIx, ActionIx) -> f64,
) -> Result<Rounding> {
    let of_worst = |s: StateIx, a: ActionIx| {
        let (next, _) = problem.mdp.successors(s, a);
        let zeta = balls.radius[[s.ix(), a.ix()]];
        if next.len() < 2 || zeta == 0.0 || zeta == f64::INFINITY {
            return 0.0;
        }
        let values = next.iter().map(|to| match *to {
            StateIx::END => 0.0,
            to => optimum.v[to.ix()],
        });
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = values.fold(ends, |(low, high), v| (low.min(v), high.max(v)));
        OF_DIVERGENCE * (high - low) * (1.0 + 1.0 / (2.0 * zeta).sqrt())
    };
    Rounding::of_worst_case(problem, optimum, |s, a| reward(s, a) + of_worst(s, a))
}

/// What the bisection of a divergence, a difference of two logarithms of up to some hundreds, may leave.
const OF_DIVERGENCE: f64 = 512.0 * f64::EPSILON;

/// Remark B.2 (errata, B7): min {Σ P_i V_i : KL(P̂ ‖ P) ≤ ζ} over distributions on the listed successors.
///
/// Where P̂ > 0 the minimiser is P_i ∝ P̂_i/(V_i − η) for some η below the smallest such V; when a
/// successor with P̂ = 0 has a smaller V still, what the ball allows is moved there.
pub fn worst_case_expectation(p_hat: &[f64], values: &[f64], zeta: f64) -> f64 {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    if zeta == f64::INFINITY {
        return lowest;
    }
    let seen: Vec<(f64, f64)> = p_hat
        .iter()
        .zip(values)
        .filter(|(p, _)| **p > 0.0)
        .map(|(p, v)| (*p, *v - lowest))
        .collect();
    let mean: f64 = seen.iter().map(|(p, v)| p * v).sum();
    let spread = seen.iter().map(|e| e.1).fold(0.0, f64::max);
    if zeta == 0.0 || spread == 0.0 {
        return lowest + mean;
    }
    // Shifted so that the smallest value is 0: η = −x with x > 0 (x = 0 needs an unseen lowest).
    let unseen_lowest = seen.iter().all(|e| e.1 > 0.0);
    if unseen_lowest {
        let log_mean: f64 = seen.iter().map(|(p, v)| p * v.ln()).sum();
        let inverse: f64 = seen.iter().map(|(p, v)| p / v).sum();
        if log_mean + inverse.ln() <= zeta {
            // P_i = c P̂_i/V_i, c = exp(Σ P̂ log V − ζ), the rest on the unseen lowest: Σ P_i V_i = c.
            return lowest + (log_mean - zeta).exp();
        }
    }
    lowest + tilted(&seen, zeta, spread)
}

/// The value Σ P_i V_i at the η where KL(P̂ ‖ P) = ζ, with V shifted to be ≥ 0.
fn tilted(seen: &[(f64, f64)], zeta: f64, spread: f64) -> f64 {
    let divergence = |x: f64| -> f64 {
        let log_mean: f64 = seen.iter().map(|(p, v)| p * (v + x).ln()).sum();
        let inverse: f64 = seen.iter().map(|(p, v)| p / (v + x)).sum();
        log_mean + inverse.ln()
    };
    // KL decreases in x from its value at 0 (infinite when a seen value is 0) to 0 at ∞. Bisection in log x.
    let (mut lo, mut hi) = (-745.0f64, (spread * 1e12).ln().max(1.0));
    for _ in 0..200 {
        let mid = 0.5 * (lo + hi);
        if mid == lo || mid == hi {
            break;
        }
        if divergence(mid.exp()) > zeta {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    let x = hi.exp();
    let inverse: f64 = seen.iter().map(|(p, v)| p / (v + x)).sum();
    seen.iter().map(|(p, v)| p * v / (v + x)).sum::<f64>() / inverse
}
