//! What needs no training of PPO where all is exact: SFT sharpened, greedy decoding, best-of-n, DPO, the exact optimum and its frontier.

use std::sync::Arc;

use anyhow::Result;
use rto::mdp::{ActionIx, Beta, StateIx, TabularPolicy, for_each_trajectory};
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::{RewardFunction, TabularReward};

/// Reward, KL in nats per response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// E Σ r*.
    pub reward: f64,
    /// KL(π‖π_ref).
    pub kl: f64,
}

/// Exact measures under the true reward.
pub struct Truth(ExactEvaluator);

impl Truth {
    /// Of the objective at β₂.
    ///
    /// # Errors
    /// β₂ ≤ 0.
    pub fn new(
        map: &Arc<StateMap>,
        reward: &TabularReward,
        reference: &TabularPolicy,
        beta2: f64,
    ) -> Result<Self> {
        let (map, reference) = (map.clone(), reference.clone());
        let beta2 = Beta::try_new(beta2)?;
        Ok(Self(ExactEvaluator::try_new(
            map, reward, reference, beta2,
        )?))
    }

    /// J of the best policy.
    pub fn optimum(&self) -> f64 {
        self.0.optimum()
    }

    /// Of the best policy.
    ///
    /// # Errors
    /// None in practice.
    pub fn best(&self) -> Result<Measured> {
        self.measure(self.0.optimal())
    }

    /// Of a policy.
    ///
    /// # Errors
    /// Another shape; an infinite KL.
    pub fn measure(&self, policy: &TabularPolicy) -> Result<Measured> {
        let report = self.0.report(policy)?;
        Ok(Measured {
            reward: report.reward,
            kl: report.kl,
        })
    }

    /// E Σ r* of greedy decoding.
    ///
    /// # Errors
    /// As [`Truth::measure`].
    pub fn greedy(&self, policy: &TabularPolicy) -> Result<f64> {
        Ok(self.measure(&greedy(policy)?)?.reward)
    }
}

/// A world, and what was learnt in it before PPO.
pub struct Untrained<'a> {
    /// The tree.
    pub map: &'a Arc<StateMap>,
    /// r.
    pub reward: &'a TabularReward,
    /// π_ref.
    pub reference: &'a TabularPolicy,
    /// π_dpo.
    pub dpo: &'a TabularPolicy,
    /// r_φ and the DPO reward of a response, as rewards of its tokens.
    pub learnt: [(&'static str, &'a TabularReward); 2],
    /// Temperatures of the sharpening curve.
    pub temperatures: &'a [f64],
    /// n of best-of-n.
    pub best_of: &'a [u32],
    /// β₂ of the objective.
    pub beta2: f64,
}

/// Points of the frontier, from β = 20 down to 0.02.
const FRONTIER: i32 = 36;

impl Untrained<'_> {
    /// Name, parameter (temperature, n or β) and measures of each policy.
    ///
    /// # Errors
    /// A temperature or β out of range.
    pub fn rows(&self) -> Result<Vec<(&'static str, f64, Measured)>> {
        let at = |beta: f64| Truth::new(self.map, self.reward, self.reference, beta);
        let truth = at(self.beta2)?;
        let mut found = vec![
            ("sft", 1.0, truth.measure(self.reference)?),
            ("greedy", 0.0, truth.measure(&greedy(self.reference)?)?),
            ("dpo", 1.0, truth.measure(self.dpo)?),
            ("dpo_greedy", 0.0, truth.measure(&greedy(self.dpo)?)?),
            ("optimum", self.beta2, truth.best()?),
        ];
        for &t in self.temperatures {
            let policy = TabularPolicy::from_logits(self.reference.log_probs() / t)?;
            found.push(("sharpened", t, truth.measure(&policy)?));
        }
        for (name, score) in &self.learnt {
            for &n in self.best_of {
                found.push((name, f64::from(n), self.best_of_n(score, n)?));
            }
        }
        for i in 0..=FRONTIER {
            let beta = 20.0 * 0.001f64.powf(f64::from(i) / f64::from(FRONTIER));
            found.push(("frontier", beta, at(beta)?.best()?));
        }
        Ok(found)
    }

    /// The best of n responses of π_ref by a score Σ r(s, a), exactly: with F the distribution function of the score under π_ref, a response y is it with
    /// probability (F(s)ⁿ − F(s−)ⁿ) π_ref(y) / P(score = s), s its score; equal scores share as π_ref has them.
    ///
    /// # Errors
    /// A map that is no tree.
    pub fn best_of_n(&self, score: &TabularReward, n: u32) -> Result<Measured> {
        let mdp = self.map.mdp();
        let sum = |of: &TabularReward, steps: &[(StateIx, ActionIx)]| -> f64 {
            steps.iter().map(|(s, a)| of.reward(*s, *a)).sum()
        };
        let (mut reward, mut kl) = (0.0, 0.0);
        for (root, mass) in mdp.roots() {
            // Score, π_ref and true reward of each response.
            let mut all: Vec<(f64, f64, f64)> = Vec::new();
            for_each_trajectory(mdp, root, |steps| {
                let logs = steps.iter().map(|(s, a)| self.reference.log_prob(*s, *a));
                let prob = logs.sum::<f64>().exp();
                all.push((sum(score, steps), prob, sum(self.reward, steps)));
            })?;
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            let total: f64 = all.iter().map(|r| r.1).sum();
            let mut below = 0.0;
            for level in all.chunk_by(|a, b| a.0 == b.0) {
                let here: f64 = level.iter().map(|r| r.1).sum::<f64>() / total;
                let power = |x: f64| x.min(1.0).powi(n as i32);
                // How much likelier each response of this score becomes.
                let ratio = (power(below + here) - power(below)) / here;
                for (_, prob, r) in level {
                    let prob = prob / total * ratio;
                    reward += mass * prob * r;
                    if prob > 0.0 {
                        kl += mass * prob * ratio.ln();
                    }
                }
                below += here;
            }
        }
        Ok(Measured { reward, kl })
    }
}

/// Eight digits: what a table needs, and the same on processors that add in vectors of other widths.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.7e}")
        .parse()
        .expect("a number that was one")
}

/// The most probable token of every state, the first of several.
///
/// # Errors
/// None in practice.
pub fn greedy(policy: &TabularPolicy) -> Result<TabularPolicy> {
    let mut logs = policy.log_probs().clone();
    for mut row in logs.rows_mut() {
        let mut best = 0;
        for (a, l) in row.iter().enumerate() {
            if *l > row[best] {
                best = a;
            }
        }
        for (a, l) in row.iter_mut().enumerate() {
            *l = if a == best { 0.0 } else { f64::NEG_INFINITY };
        }
    }
    Ok(TabularPolicy::from_log_probs(logs)?)
}
