//! What an iteration of PPO reports.

use super::PpoState;
use crate::Result;
use crate::objective::{PpoDiagnostics, ppo_diagnostics};
use crate::seq::{Channel, Episode, Finish, PerToken, Ragged, StepReport};

/// Lines 4 to 7 of Algorithm 2: One iteration, measured on its rollout. Rewards and KL are those of π_{t−1}, before the steps.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct IterationReport {
    /// t, from 1.
    pub iteration: u64,
    /// Mean return of each component of the reward over responses, without the KL term.
    pub rewards: Vec<(String, f64)>,
    /// Their sum minus β₂ times `kl`: what is maximised.
    pub objective: f64,
    /// Mean over responses of the estimated KL(π_{t−1} ‖ π_ref) of the sequence, in nats.
    pub kl: f64,
    /// β₂ used.
    pub beta2: f64,
    /// Token mean of the entropy of π_{t−1}(·|s_h) in nats, where the policy provides the channel.
    pub entropy: Option<f64>,
    /// Token fraction with a ratio outside the clip range after the last step.
    pub clip_fraction: f64,
    /// KL(π_{t−1} ‖ π_t) per token in nats, k3, after the last step.
    pub approx_kl: f64,
    /// Mean over steps of the policy's loss (with the critic's on a shared trunk).
    pub policy_loss: f64,
    /// Mean over steps of the policy's gradient norm.
    pub grad_norm: f64,
    /// Mean over steps of the value loss ½(V − R)² of a separate critic.
    pub value_loss: Option<f64>,
    /// 1 − Var(R − V)/Var(R) over the tokens of the rollout; none when R does not vary.
    pub explained_variance: Option<f64>,
    /// Mean H_i.
    pub response_length: f64,
    /// Fraction of responses that end with the end-of-sentence token.
    pub eos_rate: f64,
    /// Responses cut at their longest length.
    pub truncated: usize,
    /// Response tokens sampled since the run began, this iteration's included.
    pub sampled_tokens: u64,
    /// What it costs that responses were drawn from another distribution than π_{t−1}, where they were ([`crate::seq::Policy::draw`]).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub sampler: Option<SamplerGap>,
}

/// How far the distribution q that responses were drawn from is off π_{t−1}, which line 7 takes for it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SamplerGap {
    /// Token mean of log q − log π_{t−1} over the rollout, an estimate of KL(q ‖ π_{t−1}) per token in nats.
    pub kl: f64,
    /// Token fraction with π_{t−1}/q outside [1 − ε, 1 + ε]: what the first step of the iteration would clip, were its ratio π/q. With the ratio
    /// π/π_{t−1}, which is 1 at that step, it clips nothing.
    pub clip_fraction: f64,
}

impl SamplerGap {
    /// From log q and log π_{t−1} of the rollout, `[B][H_i]` each, and ε of the clip range.
    ///
    /// # Errors
    /// Shapes that differ; numbers that are not finite.
    pub fn try_new(sampler: &Ragged, policy: &Ragged, clip: f64) -> Result<Self> {
        let off = sampler.zip("log_prob of the sampler", policy, |q, p| q - p)?;
        Ok(Self {
            clip_fraction: ppo_diagnostics(sampler, policy, clip)?.clip_fraction,
            kl: mean(off.values()),
        })
    }
}

/// Collects the numbers of a report.
pub(super) struct Measured {
    rewards: Vec<(String, f64)>,
    pub(super) beta2: f64,
    pub(super) sequence_kl: f64,
    entropy: Option<f64>,
    explained_variance: Option<f64>,
    pub(super) sampler: Option<SamplerGap>,
    pub(super) policy: Option<PpoDiagnostics>,
    policy_loss: Mean,
    grad_norm: Mean,
    value_loss: Mean,
}

#[derive(Default)]
struct Mean(f64, f64);

impl Mean {
    fn add(&mut self, v: f64) {
        self.0 += v;
        self.1 += 1.0;
    }

    fn get(&self) -> Option<f64> {
        (self.1 > 0.0).then(|| self.0 / self.1)
    }
}

impl Measured {
    pub(super) fn new(beta2: f64, kl: &Ragged, scores: &PerToken) -> Self {
        Self {
            rewards: Vec::new(),
            beta2,
            sequence_kl: row_mean(kl),
            entropy: scores.get(Channel::Entropy).ok().map(|e| mean(e.values())),
            explained_variance: None,
            sampler: None,
            policy: None,
            policy_loss: Mean::default(),
            grad_norm: Mean::default(),
            value_loss: Mean::default(),
        }
    }

    pub(super) fn component(&mut self, name: &str, reward: &Ragged) {
        self.rewards.push((name.into(), row_mean(reward)));
    }

    pub(super) fn policy_step(&mut self, step: &StepReport) {
        self.policy_loss.add(step.loss);
        self.grad_norm.add(step.grad_norm);
    }

    pub(super) fn value_step(&mut self, step: &StepReport, coefficient: f64) {
        self.value_loss.add(step.loss / coefficient);
    }

    pub(super) fn explained_variance(&mut self, values: &Ragged, returns: &Ragged) {
        let error: Vec<_> = returns
            .values()
            .iter()
            .zip(values.values())
            .map(|(r, v)| r - v)
            .collect();
        let total = variance(returns.values());
        self.explained_variance = (total > 0.0).then(|| 1.0 - variance(&error) / total);
    }

    pub(super) fn report(self, batch: &[Episode], state: &PpoState) -> IterationReport {
        let rows = batch.len().max(1) as f64;
        let truncated = batch.iter().filter(|e| e.finish == Finish::Length).count();
        let tokens: usize = batch.iter().map(Episode::len).sum();
        let reward: f64 = self.rewards.iter().map(|(_, r)| r).sum();
        IterationReport {
            iteration: state.iteration,
            objective: reward - self.beta2 * self.sequence_kl,
            rewards: self.rewards,
            kl: self.sequence_kl,
            beta2: self.beta2,
            entropy: self.entropy,
            clip_fraction: self.policy.map_or(0.0, |d| d.clip_fraction),
            approx_kl: self.policy.map_or(0.0, |d| d.approx_kl),
            policy_loss: self.policy_loss.get().unwrap_or(0.0),
            grad_norm: self.grad_norm.get().unwrap_or(0.0),
            value_loss: self.value_loss.get(),
            explained_variance: self.explained_variance,
            response_length: tokens as f64 / rows,
            eos_rate: 1.0 - truncated as f64 / rows,
            truncated,
            sampled_tokens: state.sampled_tokens,
            sampler: self.sampler,
        }
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

fn row_mean(x: &Ragged) -> f64 {
    mean(&x.row_sums())
}

fn variance(x: &[f64]) -> f64 {
    let m = mean(x);
    x.iter().map(|v| (v - m).powi(2)).sum::<f64>() / x.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_a_sampler_by_hand() {
        let q = Ragged::from_rows([vec![-1.0, -2.0], vec![-0.5]]);
        let p = Ragged::from_rows([vec![-1.3, -2.0], vec![-0.4]]);
        let gap = SamplerGap::try_new(&q, &p, 0.2).unwrap();
        // 0.3, 0 and −0.1; π/q is 0.74, 1 and 1.11.
        assert!((gap.kl - 0.2 / 3.0).abs() < 1e-15, "{}", gap.kl);
        assert!((gap.clip_fraction - 1.0 / 3.0).abs() < 1e-15);
        assert!(SamplerGap::try_new(&q, &Ragged::from_rows([vec![-1.0]]), 0.2).is_err());
    }
}
