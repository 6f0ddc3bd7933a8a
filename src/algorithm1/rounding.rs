//! What rounding of a large radius leaves open of the pessimistic policy.

use super::{Algorithm1, ConfidenceSet};
use crate::Result;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, Problem, StateIx};
use crate::plan::Visitation;

/// Bounds on how far rounding moves π̂ of Algorithm 1 at β > 0. Where ϱ‖φ‖ is so large that a rounding of it is no longer small
/// beside β, actions with bonuses of nearly one size are told apart by rounding alone, and φᵀθ_MLE is lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounding {
    /// Of log π̂(a|s), the largest over a, `[n_states]`.
    pub log_prob: Vec<f64>,
    /// Of π̂(a|s), the largest over a, `[n_states]`.
    pub prob: Vec<f64>,
    /// Whether π̂ may come to s with a probability above [`Rounding::NEGLIGIBLE`] at every step, `[n_states]`.
    pub met: Vec<bool>,
}

impl Rounding {
    /// A probability, and a share of a number, that is no matter.
    pub const NEGLIGIBLE: f64 = 1e-6;

    /// Whether π̂(·|s) is determined.
    pub fn decides(&self, s: StateIx) -> bool {
        self.prob[s.ix()] <= Self::NEGLIGIBLE
    }

    /// Whether π̂ is determined in every state that it comes to.
    pub fn decides_all(&self) -> bool {
        let mut met = self.met.iter().zip(&self.prob);
        met.all(|(met, prob)| !met || *prob <= Self::NEGLIGIBLE)
    }

    /// A bound on the error of E_d\[KL(π ‖ π̂)\] for any π, where d are its visits.
    pub fn of_kl(&self, visits: &Visitation) -> f64 {
        let states = visits.state.iter().zip(&self.log_prob);
        states.filter(|(d, _)| **d > 0.0).map(|(d, e)| d * e).sum()
    }
}

impl Algorithm1 {
    /// How far rounding moves π̂, by a bound on the error of r̂ that is carried through the backward induction: an entry of r̂ is
    /// off by at most 8(d + 1)ε of Σ_k |φ_k θ_k| + ϱ‖φ‖.
    ///
    /// # Errors
    /// [`crate::Error::Config`] at β = 0, where a tie is one in whatever precision.
    pub fn rounding(
        &self,
        problem: Problem<'_>,
        features: &impl FeatureMap,
        set: &ConfidenceSet<'_>,
    ) -> Result<Rounding> {
        let (mdp, beta) = (problem.mdp, problem.beta.positive()?);
        let (n, na, d) = (mdp.n_states(), mdp.n_actions(), features.dim());
        let unit = 8.0 * (d + 1) as f64 * f64::EPSILON;
        let (q, norms) = (&self.optimum.q, self.reward.norms());
        let mut out = Rounding {
            log_prob: vec![0.0; n],
            prob: vec![0.0; n],
            met: mdp.initial().iter().map(|p| *p > 0.0).collect(),
        };
        let mut of_value = vec![0.0; n];
        let mut upper = vec![0.0; n * na];
        let mut phi = vec![0.0; d];
        for s in (0..n).rev() {
            let state = StateIx(s as u32);
            let taken: Vec<usize> = (0..na).filter(|a| q[[s, *a]].is_finite()).collect();
            let mut error = vec![0.0; na];
            for &a in &taken {
                let action = ActionIx(a as u32);
                features.write(state, action, &mut phi);
                let terms = phi.iter().zip(set.center).map(|(x, t)| (x * t).abs());
                let size = terms.sum::<f64>() + set.radius * norms[[s, a]];
                let later = mdp.expect(state, action, &of_value);
                error[a] = unit * size + later + 4.0 * f64::EPSILON * q[[s, a]].abs();
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
            for a in (0..na).filter(|a| upper[s * na + a] > Rounding::NEGLIGIBLE) {
                let (next, _) = mdp.successors(StateIx(s as u32), ActionIx(a as u32));
                for to in next.iter().filter(|to| **to != StateIx::END) {
                    out.met[to.ix()] = true;
                }
            }
        }
        Ok(out)
    }
}
