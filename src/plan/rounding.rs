//! What rounding leaves open of an optimal policy, of expectations under it, and of what is made of these.

use super::{SoftOptimum, Visitation};
use crate::Result;
use crate::mdp::{ActionIx, Problem, StateIx, TabularMdp, TabularPolicy};

/// Bounds on how far rounding moves the optimal policy of a reward at β > 0. Where a rounding of the reward is no longer small
/// beside β, actions of nearly one value are told apart by rounding alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounding {
    /// Of log π(a|s), the largest over a, `[n_states]`.
    pub log_prob: Vec<f64>,
    /// Of π(a|s), the largest over a, `[n_states]`.
    pub prob: Vec<f64>,
    /// Whether π may come to s with a probability above [`Rounding::NEGLIGIBLE`] at every step, `[n_states]`.
    pub met: Vec<bool>,
}

impl Rounding {
    /// A probability, and a share of a number, that is no matter.
    pub const NEGLIGIBLE: f64 = 1e-6;

    /// For the optimum of a reward whose entries are off by at most `reward(s, a)`, by a bound that is carried through the backward
    /// induction.
    ///
    /// # Errors
    /// [`crate::Error::Config`] at β = 0, where a tie is one in whatever precision.
    pub fn of(
        problem: Problem<'_>,
        optimum: &SoftOptimum,
        reward: impl Fn(StateIx, ActionIx) -> f64,
    ) -> Result<Self> {
        let later = |s, a, v: &[f64]| problem.mdp.expect(s, a, v);
        Self::carried(problem, optimum, reward, later)
    }

    /// The same where an adversary chooses among the listed successors.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn of_worst_case(
        problem: Problem<'_>,
        optimum: &SoftOptimum,
        reward: impl Fn(StateIx, ActionIx) -> f64,
    ) -> Result<Self> {
        let later = |s, a, v: &[f64]| {
            let (next, _) = problem.mdp.successors(s, a);
            let inside = next.iter().filter(|to| **to != StateIx::END);
            inside.map(|to| v[to.ix()]).fold(0.0, f64::max)
        };
        Self::carried(problem, optimum, reward, later)
    }

    fn carried(
        problem: Problem<'_>,
        optimum: &SoftOptimum,
        reward: impl Fn(StateIx, ActionIx) -> f64,
        later: impl Fn(StateIx, ActionIx, &[f64]) -> f64,
    ) -> Result<Self> {
        let (mdp, beta) = (problem.mdp, problem.beta.positive()?);
        let (n, na) = (mdp.n_states(), mdp.n_actions());
        let q = &optimum.q;
        let mut out = Self {
            log_prob: vec![0.0; n],
            prob: vec![0.0; n],
            met: mdp.initial().iter().map(|p| *p > 0.0).collect(),
        };
        let mut of_value = vec![0.0; n];
        let mut upper = vec![0.0; n * na];
        for s in (0..n).rev() {
            let state = StateIx(s as u32);
            let taken: Vec<usize> = (0..na).filter(|a| q[[s, *a]].is_finite()).collect();
            let mut error = vec![0.0; na];
            for &a in &taken {
                let action = ActionIx(a as u32);
                error[a] = reward(state, action)
                    + later(state, action, &of_value)
                    + 4.0 * f64::EPSILON * q[[s, a]].abs();
            }
            of_value[s] = error.iter().copied().fold(0.0, f64::max);
            out.log_prob[s] = 2.0 * of_value[s] / beta;
            for &a in &taken {
                let others = || taken.iter().filter(|b| **b != a);
                let share = |sign: f64| {
                    let odds = others().map(|&b| {
                        let off = sign * (error[a] + error[b]);
                        ((q[[s, b]] - q[[s, a]] + off) / beta).exp()
                    });
                    1.0 / (1.0 + odds.sum::<f64>())
                };
                let (least, most) = (share(1.0), share(-1.0));
                upper[s * na + a] = most;
                out.prob[s] = out.prob[s].max(most - least);
            }
        }
        for s in 0..n {
            if !out.met[s] {
                continue;
            }
            for a in (0..na).filter(|a| upper[s * na + a] > Self::NEGLIGIBLE) {
                let (next, _) = mdp.successors(StateIx(s as u32), ActionIx(a as u32));
                for to in next.iter().filter(|to| **to != StateIx::END) {
                    out.met[to.ix()] = true;
                }
            }
        }
        Ok(out)
    }

    /// Whether π(·|s) is determined.
    pub fn decides(&self, s: StateIx) -> bool {
        self.prob[s.ix()] <= Self::NEGLIGIBLE
    }

    /// Whether π is determined in every state that it comes to.
    pub fn decides_all(&self) -> bool {
        let mut met = self.met.iter().zip(&self.prob);
        met.all(|(met, prob)| !met || *prob <= Self::NEGLIGIBLE)
    }

    /// A bound on the error of E_d\[KL(p ‖ π)\] for any p, where d are its visits.
    pub fn of_kl(&self, visits: &Visitation) -> f64 {
        let states = visits.state.iter().zip(&self.log_prob);
        states.filter(|(d, _)| **d > 0.0).map(|(d, e)| d * e).sum()
    }

    /// A bound on the error of φ(s, a)ᵀθ in floating point, where `size` is Σ_k |φ_k θ_k|.
    pub fn of_dot(dim: usize, size: f64) -> f64 {
        8.0 * (dim + 1) as f64 * f64::EPSILON * size
    }
}

/// Bounds on the relative error of d^π(s, a), `[n_states · n_actions]`, where log π(·|s) is off by at most `log_prob[s]` besides its
/// own rounding.
pub(super) fn of_visits(mdp: &TabularMdp, policy: &TabularPolicy, log_prob: &[f64]) -> Vec<f64> {
    let (n, na) = (mdp.n_states(), mdp.n_actions());
    let mut state = vec![0.0f64; n];
    let mut pair = vec![0.0; n * na];
    for s in 0..n {
        for (a, log_pi) in policy.row(s).iter().enumerate() {
            if *log_pi == f64::NEG_INFINITY {
                continue;
            }
            let here = state[s] + log_prob[s] + of_log(*log_pi);
            // Finite, so that 0 times it is 0.
            pair[s * na + a] = here.exp_m1().min(f64::MAX);
            let (next, _) = mdp.transition().row(s * na + a);
            for to in next.iter().filter(|to| **to != StateIx::END) {
                state[to.ix()] = state[to.ix()].max(here + 2.0 * f64::EPSILON);
            }
        }
    }
    pair
}

/// A bound on the relative error of exp(x) for a normalised log-probability x.
pub(super) fn of_log(x: f64) -> f64 {
    4.0 * f64::EPSILON * (2.0 + x.abs())
}
