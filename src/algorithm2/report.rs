//! What an iteration of PPO reports.

use super::PpoState;
use crate::objective::PpoDiagnostics;
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
}

/// Collects the numbers of a report.
pub(super) struct Measured {
    rewards: Vec<(String, f64)>,
    pub(super) beta2: f64,
    pub(super) sequence_kl: f64,
    entropy: Option<f64>,
    explained_variance: Option<f64>,
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
