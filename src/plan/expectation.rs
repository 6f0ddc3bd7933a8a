//! Expectations of features under π*_β, each with a bound on its rounding.

use super::rounding::of_visits;
use super::{Rounding, Truth, for_each_feature_advantage, visitation};
use crate::Result;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, Problem, StateIx};

/// E_{d*}\[φ\], or its difference to E_{d^{π_ref}}\[φ\], with what its terms are and how far off it may be: a norm of it times a large
/// radius may be rounding alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// The sum, `[d]`.
    pub value: Vec<f64>,
    /// The sum of the absolute values of its terms, entry by entry, `[d]`.
    pub size: Vec<f64>,
    /// A bound on the rounding of the sum, entry by entry, `[d]`.
    pub rounding: Vec<f64>,
}

impl<R> Truth<'_, R> {
    /// (B.1): E_{(s,a)∼d*}\[φ(s, a)\].
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn expectation(&self, features: &impl FeatureMap) -> Result<Expectation> {
        let na = self.problem.mdp.n_actions();
        let relative = self.relative(features)?;
        let size = self.visits.feature_sizes(features)?;
        let mut value = vec![0.0; features.dim()];
        let mut rounding = value.clone();
        let mut phi = value.clone();
        for ((s, a), d) in self.visits.pair.indexed_iter().filter(|(_, d)| **d > 0.0) {
            features.write(StateIx(s as u32), ActionIx(a as u32), &mut phi);
            for (k, x) in phi.iter().enumerate() {
                value[k] += d * x;
                rounding[k] += relative[s * na + a] * (d * x).abs() + f64::EPSILON * value[k].abs();
            }
        }
        Ok(Expectation {
            value,
            size,
            rounding,
        })
    }

    /// The baselined form of (B.1): E_{d*}\[φ\] − E_{d^{π_ref}}\[φ\] = E_{(s,a)∼d*}\[φ(s, a) + E_{s′}\[m(s′)\] − m(s)\] with
    /// m(s) = E_{π_ref}\[Σ φ | s\], the performance difference lemma entry by entry. What all responses to
    /// a prompt share is exactly 0, whatever its unit. `size` is that of the terms of both expectations.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn expectation_over_reference(&self, features: &impl FeatureMap) -> Result<Expectation> {
        let Problem { mdp, reference, .. } = self.problem;
        let na = mdp.n_actions();
        let relative = self.relative(features)?;
        let mut size = self.visits.feature_sizes(features)?;
        let of_reference = visitation(mdp, reference)?.feature_sizes(features)?;
        size.iter_mut()
            .zip(&of_reference)
            .for_each(|(a, b)| *a += b);
        let (mut value, mut rounding) = (vec![0.0; features.dim()], vec![0.0; features.dim()]);
        for_each_feature_advantage(mdp, reference, features, |s, a, row, off| {
            let d = self.visits.pair[[s.ix(), a.ix()]];
            if d == 0.0 {
                return;
            }
            let relative = relative[s.ix() * na + a.ix()];
            for (k, (x, off)) in row.iter().zip(off).enumerate() {
                value[k] += d * x;
                rounding[k] += d * off + relative * (d * x).abs() + f64::EPSILON * value[k].abs();
            }
        })?;
        Ok(Expectation {
            value,
            size,
            rounding,
        })
    }

    /// Bounds on the relative error of d*(s, a). A reward that is given is what it is; φᵀθ* has been rounded.
    fn relative(&self, features: &impl FeatureMap) -> Result<Vec<f64>> {
        let mdp = self.problem.mdp;
        let log_prob = match self.problem.beta.get() > 0.0 {
            // The optimum is greedy, and its probabilities are 0 and 1.
            false => vec![0.0; mdp.n_states()],
            true => {
                let dim = features.dim();
                let of_reward = |s, a| {
                    let Some(theta) = &self.theta else { return 0.0 };
                    let mut phi = vec![0.0; dim];
                    features.write(s, a, &mut phi);
                    let terms = phi.iter().zip(theta).map(|(x, t)| (x * t).abs());
                    Rounding::of_dot(dim, terms.sum())
                };
                Rounding::of(self.problem, &self.star, of_reward)?.log_prob
            }
        };
        Ok(of_visits(mdp, &self.star.policy, &log_prob))
    }
}
