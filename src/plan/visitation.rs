//! d^π of (A.1) and expectations under it.

use ndarray::Array2;

use super::check_policy;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use crate::reward::{RewardFunction, check_reward};
use crate::{Error, Result};

/// d^π(s) and d^π(s, a) of (A.1). Their sums are the expected number of actions, up to H and not 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Visitation {
    /// d^π(s), `[n_states]`.
    pub state: Vec<f64>,
    /// d^π(s, a), `[n_states, n_actions]`.
    pub pair: Array2<f64>,
}

/// d^π of (A.1) by one forward pass.
///
/// # Errors
/// [`Error::Shape`] when the policy does not fit the table.
pub fn visitation(mdp: &TabularMdp, policy: &TabularPolicy) -> Result<Visitation> {
    check_policy(mdp, "policy", policy)?;
    let (n, na) = (mdp.n_states(), mdp.n_actions());
    let mut state = mdp.initial().to_vec();
    let mut pair = Array2::zeros((n, na));
    for s in 0..n {
        if state[s] == 0.0 {
            continue;
        }
        for (a, log_pi) in policy.row(s).iter().enumerate() {
            let mass = state[s] * log_pi.exp();
            pair[[s, a]] = mass;
            let (next, prob) = mdp.transition().row(s * na + a);
            for (to, p) in next.iter().zip(prob) {
                if *to != StateIx::END {
                    state[to.ix()] += mass * p;
                }
            }
        }
    }
    Ok(Visitation { state, pair })
}

impl Visitation {
    /// E_{(s,a)∼d^π}\[f(s, a)\], skipping pairs that are never met.
    pub fn expect(&self, mut f: impl FnMut(StateIx, ActionIx) -> f64) -> f64 {
        let met = self.pair.indexed_iter().filter(|(_, d)| **d > 0.0);
        met.map(|((s, a), d)| d * f(StateIx(s as u32), ActionIx(a as u32)))
            .sum()
    }

    /// E_{(s,a)∼d^π}\[r(s, a)\].
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn reward(&self, mdp: &TabularMdp, reward: &impl RewardFunction) -> Result<f64> {
        check_reward(mdp, reward)?;
        Ok(self.expect(|s, a| reward.reward(s, a)))
    }

    /// E_{(s,a)∼d^π}\[φ(s, a)\], `[d]`, as in (B.1).
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn features(&self, features: &impl FeatureMap) -> Result<Vec<f64>> {
        self.check_shape(features)?;
        let mut out = vec![0.0; features.dim()];
        for ((s, a), d) in self.pair.indexed_iter() {
            if *d > 0.0 {
                features.add(StateIx(s as u32), ActionIx(a as u32), *d, &mut out);
            }
        }
        Ok(out)
    }

    /// E_{(s,a)∼d^π}\[|φ(s, a)|\], entry by entry, `[d]`: the size of the terms of [`Self::features`], beside which its rounding
    /// counts.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn feature_sizes(&self, features: &impl FeatureMap) -> Result<Vec<f64>> {
        self.check_shape(features)?;
        let mut out = vec![0.0; features.dim()];
        let mut phi = out.clone();
        for ((s, a), d) in self.pair.indexed_iter() {
            if *d > 0.0 {
                features.write(StateIx(s as u32), ActionIx(a as u32), &mut phi);
                out.iter_mut()
                    .zip(&phi)
                    .for_each(|(o, x)| *o += d * x.abs());
            }
        }
        Ok(out)
    }

    fn check_shape(&self, features: &impl FeatureMap) -> Result<()> {
        let (n, na) = features.shape();
        if (n, na) != self.pair.dim() {
            return Err(Error::Shape {
                what: format!("features ({n} x {na} pairs)"),
                expected: self.pair.len(),
                got: n * na,
            });
        }
        Ok(())
    }

    /// E_{s∼d^π}\[KL(p(·|s) ‖ q(·|s))\] in nats. With π = p it is the KL of the response distributions
    /// on a deterministic table; the KL term of Theorem 4.2 has d = d*, p = π*_β, q = π̂.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn kl(&self, mdp: &TabularMdp, p: &TabularPolicy, q: &TabularPolicy) -> Result<f64> {
        check_policy(mdp, "first policy of the KL", p)?;
        check_policy(mdp, "second policy of the KL", q)?;
        let met = self.state.iter().enumerate().filter(|(_, d)| **d > 0.0);
        Ok(met.map(|(s, d)| d * p.kl_at(q, StateIx(s as u32))).sum())
    }
}
