//! PPO's clipped surrogate with its optional penalties.

use std::ops::Range;

use super::{Aggregation, single_rows};
use crate::seq::{Channel, Episode, PerToken, Ragged, TokenObjective};
use crate::{Error, Result};

/// Past this log-ratio e^d goes on along its tangent: a loss must stay a number however far a policy has run.
const TANGENT_FROM: f64 = 80.0;

/// e^d and its derivative, linear from [`TANGENT_FROM`] on.
fn exp(d: f64) -> (f64, f64) {
    let e = d.min(TANGENT_FROM).exp();
    (e * (1.0 + (d - TANGENT_FROM).max(0.0)), e)
}

/// A penalty on the divergence from π_ref inside the loss, with d = log π − log π_ref.
#[derive(Debug, Clone)]
enum KlLoss {
    Off,
    /// β·d²/2: on samples of π its gradient is that of the KL.
    K2 {
        beta: f64,
        reference: Ragged,
    },
    /// β·(e^{−d} − 1 + d), GRPO's: the value is an unbiased KL(π‖π_ref), but its gradient on samples of π is that of KL(π_ref‖π).
    K3 {
        beta: f64,
        reference: Ragged,
    },
    /// β·KL(π ‖ π_ref) from [`Channel::KlToReference`].
    Exact {
        beta: f64,
    },
}

/// PPO (Schulman et al., 2017), line 7 of Algorithm 2: ℒ = Σ_{i,h} w_{i,h} [max(−ρÂ, −clip(ρ, 1−ε, 1+ε)Â) − c_H ℋ + β·kl], ρ
/// = π(y_h|s_h)/π_old(y_h|s_h).
///
/// The behaviour π_old and the advantages Â are fixed. Where the clipped branch is the larger the surrogate has no gradient.
#[derive(Debug, Clone)]
pub struct PpoClip {
    groups: Vec<Range<usize>>,
    channels: Vec<Channel>,
    weights: Ragged,
    behaviour: Ragged,
    advantages: Ragged,
    clip: f64,
    dual_clip: f64,
    entropy_bonus: f64,
    kl: KlLoss,
}

impl PpoClip {
    /// Log-probabilities of the behaviour and advantages, `[B][H_i]`, and ε. `mask` is 0 on forced tokens, which the policy did
    /// not choose.
    ///
    /// # Errors
    /// Those of [`Aggregation::weights`]; [`Error::Shape`], [`Error::NonFinite`]; [`Error::Config`] of ε.
    pub fn new(
        batch: &[Episode],
        behaviour: Ragged,
        advantages: Ragged,
        clip: f64,
        aggregation: Aggregation,
        mask: Option<&Ragged>,
    ) -> Result<Self> {
        non_negative("clip", clip)?;
        check("log_prob of the behaviour", &behaviour, batch)?;
        check("advantage", &advantages, batch)?;
        Ok(Self {
            groups: single_rows(batch.len()),
            channels: vec![Channel::LogProb],
            weights: aggregation.weights(batch, mask)?,
            behaviour,
            advantages,
            clip,
            dual_clip: f64::INFINITY,
            entropy_bonus: 0.0,
            kl: KlLoss::Off,
        })
    }

    /// Bounds the loss of a token with Â < 0 by c|Â|, c > 1 (Ye et al., 2020).
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn with_dual_clip(mut self, c: f64) -> Result<Self> {
        if !(c.is_finite() && c > 1.0) {
            return Err(Error::config("dual_clip", c, "finite and > 1"));
        }
        self.dual_clip = c;
        Ok(self)
    }

    /// Subtracts c_H·ℋ, which reads [`Channel::Entropy`] unless c_H = 0.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn with_entropy_bonus(mut self, coefficient: f64) -> Result<Self> {
        non_negative("entropy_bonus", coefficient)?;
        self.entropy_bonus = coefficient;
        if coefficient > 0.0 {
            self.channels.push(Channel::Entropy);
        }
        Ok(self)
    }

    /// Adds β·KL(π ‖ π_ref), exact over the vocabulary, which reads [`Channel::KlToReference`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn with_exact_kl(mut self, beta: f64) -> Result<Self> {
        non_negative("beta2", beta)?;
        self.channels.retain(|c| *c != Channel::KlToReference);
        self.channels.push(Channel::KlToReference);
        self.kl = KlLoss::Exact { beta };
        Ok(self)
    }

    /// Adds β·d²/2 with log π_ref, `[B][H_i]`. On samples of π its gradient is that of KL(π ‖ π_ref).
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Shape`]; [`Error::NonFinite`].
    pub fn with_k2(mut self, beta: f64, reference: Ragged) -> Result<Self> {
        self.check_reference(beta, &reference)?;
        self.kl = KlLoss::K2 { beta, reference };
        Ok(self)
    }

    /// Adds β·(e^{−d} − 1 + d) with log π_ref, `[B][H_i]`, as GRPO does. On samples of π its gradient is that of
    /// KL(π_ref ‖ π).
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Shape`]; [`Error::NonFinite`].
    pub fn with_k3(mut self, beta: f64, reference: Ragged) -> Result<Self> {
        self.check_reference(beta, &reference)?;
        self.kl = KlLoss::K3 { beta, reference };
        Ok(self)
    }

    fn check_reference(&self, beta: f64, reference: &Ragged) -> Result<()> {
        non_negative("beta2", beta)?;
        let what = "log_prob of the reference";
        self.behaviour.check_same_shape(what, reference)?;
        reference.check_finite(what)
    }

    /// The surrogate of one token and its derivative in log π.
    fn surrogate(&self, log_ratio: f64, advantage: f64) -> (f64, f64) {
        let (ratio, slope) = exp(log_ratio);
        let plain = -ratio * advantage;
        let clipped = -ratio.clamp(1.0 - self.clip, 1.0 + self.clip) * advantage;
        if clipped > plain {
            return (clipped, 0.0);
        }
        if advantage < 0.0 && plain > -self.dual_clip * advantage {
            return (-self.dual_clip * advantage, 0.0);
        }
        (plain, -slope * advantage)
    }
}

impl TokenObjective for PpoClip {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn loss_grad(&self, i: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let (w, old, adv) = (
            self.weights.row(i),
            self.behaviour.row(i),
            self.advantages.row(i),
        );
        let log_prob = scores.row(Channel::LogProb, i);
        let mut loss = 0.0;
        for (h, g) in grad.row_mut(Channel::LogProb, i).iter_mut().enumerate() {
            let (mut value, mut slope) = self.surrogate(log_prob[h] - old[h], adv[h]);
            match &self.kl {
                KlLoss::K2 { beta, reference } => {
                    let d = log_prob[h] - reference.row(i)[h];
                    value += beta * 0.5 * d * d;
                    slope += beta * d;
                }
                KlLoss::K3 { beta, reference } => {
                    let d = log_prob[h] - reference.row(i)[h];
                    // expm1 keeps k3 ≥ 0 near d = 0, where e^{−d} − 1 + d cancels.
                    let (e, de) = if d > -1.0 {
                        ((-d).exp_m1(), (-d).exp())
                    } else {
                        let (e, de) = exp(-d);
                        (e - 1.0, de)
                    };
                    value += beta * (e + d);
                    slope += beta * (1.0 - de);
                }
                KlLoss::Off | KlLoss::Exact { .. } => {}
            }
            loss += w[h] * value;
            *g += w[h] * slope;
        }
        let mut linear = |channel, c: f64| {
            for (h, g) in grad.row_mut(channel, i).iter_mut().enumerate() {
                loss += w[h] * c * scores.row(channel, i)[h];
                *g += w[h] * c;
            }
        };
        if self.entropy_bonus > 0.0 {
            linear(Channel::Entropy, -self.entropy_bonus);
        }
        if let KlLoss::Exact { beta } = self.kl {
            linear(Channel::KlToReference, beta);
        }
        loss
    }
}

/// PPO (Schulman et al., 2017): What a set of steps did to the policy on the rows they were taken on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PpoDiagnostics {
    /// Fraction of tokens whose ratio is outside [1 − ε, 1 + ε].
    pub clip_fraction: f64,
    /// Token mean of ρ − 1 − log ρ, an estimate of KL(π_old ‖ π) in nats that is never negative.
    pub approx_kl: f64,
    /// Token mean of ρ; 1 in expectation.
    pub ratio_mean: f64,
    /// Largest |ρ − 1|.
    pub ratio_deviation: f64,
}

/// PPO (Schulman et al., 2017): Compares log-probabilities before and after, `[B][H_i]` each, over all tokens.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NonFinite`].
pub fn ppo_diagnostics(behaviour: &Ragged, now: &Ragged, clip: f64) -> Result<PpoDiagnostics> {
    let log_ratio = now.zip("log_prob of the behaviour", behaviour, |p, q| p - q)?;
    log_ratio.check_finite("log-ratio of the policy")?;
    let n = log_ratio.n_tokens().max(1) as f64;
    let mut d = PpoDiagnostics {
        clip_fraction: 0.0,
        approx_kl: 0.0,
        ratio_mean: 0.0,
        ratio_deviation: 0.0,
    };
    for &l in log_ratio.values() {
        let excess = exp(l).0 - 1.0;
        d.clip_fraction += f64::from(u8::from(excess.abs() > clip)) / n;
        let k3 = if l.abs() < 1.0 {
            l.exp_m1() - l
        } else {
            excess - l
        };
        d.approx_kl += k3 / n;
        d.ratio_mean += (1.0 + excess) / n;
        d.ratio_deviation = d.ratio_deviation.max(excess.abs());
    }
    Ok(d)
}

fn check(what: &str, values: &Ragged, batch: &[Episode]) -> Result<()> {
    values.check_fits(what, batch)?;
    values.check_finite(what)
}

fn non_negative(field: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::config(field, value, "finite and >= 0"))
}
