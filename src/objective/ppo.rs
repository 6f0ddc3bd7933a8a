//! PPO's clipped surrogate with its optional penalties.

use std::ops::Range;

use super::kl::SampledKl;
use super::surrogate::{Ratio, Surrogate, exp};
use super::{Aggregation, single_rows};
use crate::Result;
use crate::check;
use crate::seq::{Channel, Episode, PerToken, Ragged, TokenObjective};

/// A penalty on the divergence from π_ref inside the loss, with d = log π − log π_ref.
#[derive(Debug, Clone)]
enum KlLoss {
    Off,
    /// β·k(d).
    Sampled {
        kind: SampledKl,
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
/// [`PpoClip::with_ratio`] puts another [`Ratio`] for ρ: that of the whole response (RLOO of TRL), its geometric mean (GSPO), a capped
/// weight (CISPO) or none (REINFORCE).
#[derive(Debug, Clone)]
pub struct PpoClip {
    groups: Vec<Range<usize>>,
    channels: Vec<Channel>,
    weights: Ragged,
    behaviour: Ragged,
    advantages: Ragged,
    surrogate: Surrogate,
    entropy_bonus: f64,
    kl: KlLoss,
}

impl PpoClip {
    /// Log-probabilities of the behaviour and advantages, `[B][H_i]`, and ε. `mask` is 0 on forced tokens, which the policy did
    /// not choose.
    ///
    /// # Errors
    /// Those of [`Aggregation::weights`]; [`crate::Error::Shape`], [`crate::Error::NonFinite`]; [`crate::Error::Config`] of ε.
    pub fn new(
        batch: &[Episode],
        behaviour: Ragged,
        advantages: Ragged,
        clip: f64,
        aggregation: Aggregation,
        mask: Option<&Ragged>,
    ) -> Result<Self> {
        check::not_negative("clip", clip)?;
        check("log_prob of the behaviour", &behaviour, batch)?;
        check("advantage", &advantages, batch)?;
        Ok(Self {
            groups: single_rows(batch.len()),
            channels: vec![Channel::LogProb],
            weights: aggregation.weights(batch, mask)?,
            behaviour,
            advantages,
            surrogate: Surrogate {
                clip_low: clip,
                clip_high: clip,
                ..Surrogate::default()
            },
            entropy_bonus: 0.0,
            kl: KlLoss::Off,
        })
    }

    /// Bounds the loss of a token with Â < 0 by c|Â|, c > 1 (Ye et al., 2020).
    ///
    /// # Errors
    /// [`crate::Error::Config`].
    pub fn with_dual_clip(mut self, c: f64) -> Result<Self> {
        self.surrogate.dual_clip = Some(c);
        self.surrogate = self.surrogate.check()?;
        Ok(self)
    }

    /// Another upper end 1 + ε_high of the clip (clip-higher of DAPO; Yu et al., 2025).
    ///
    /// # Errors
    /// [`crate::Error::Config`].
    pub fn with_clip_high(mut self, clip_high: f64) -> Result<Self> {
        self.surrogate.clip_high = clip_high;
        self.surrogate = self.surrogate.check()?;
        Ok(self)
    }

    /// Another ratio than a token's own.
    ///
    /// # Errors
    /// [`crate::Error::Config`] of its bounds, or of a row whose tokens have different advantages under a ratio of the whole response.
    pub fn with_ratio(mut self, ratio: Ratio) -> Result<Self> {
        self.surrogate.ratio = ratio;
        self.surrogate = self.surrogate.check()?;
        for i in 0..self.advantages.n_rows() {
            self.surrogate
                .check_row(i, self.advantages.row(i), self.weights.row(i))?;
        }
        Ok(self)
    }

    /// Subtracts c_H·ℋ, which reads [`Channel::Entropy`] unless c_H = 0.
    ///
    /// # Errors
    /// [`crate::Error::Config`].
    pub fn with_entropy_bonus(mut self, coefficient: f64) -> Result<Self> {
        check::not_negative("entropy_bonus", coefficient)?;
        self.entropy_bonus = coefficient;
        if coefficient > 0.0 {
            self.channels.push(Channel::Entropy);
        }
        Ok(self)
    }

    /// Adds β·KL(π ‖ π_ref), exact over the vocabulary, which reads [`Channel::KlToReference`].
    ///
    /// # Errors
    /// [`crate::Error::Config`].
    pub fn with_exact_kl(mut self, beta: f64) -> Result<Self> {
        check::not_negative("beta2", beta)?;
        self.channels.retain(|c| *c != Channel::KlToReference);
        self.channels.push(Channel::KlToReference);
        self.kl = KlLoss::Exact { beta };
        Ok(self)
    }

    /// Adds β·k with log π_ref, `[B][H_i]`: an estimate at the sampled token, weighed like the policy term.
    ///
    /// Not one of them has the gradient of the KL of whole responses when H > 1, since the KL of later states is missing. On samples of π,
    /// [`SampledKl::K2`], [`SampledKl::K3Plus`] and [`SampledKl::K3Corrected`] have that of KL(π ‖ π_ref) at each visited state,
    /// [`SampledKl::K3`] (GRPO) that of KL(π_ref ‖ π) there, and [`SampledKl::K1`] has mean 0.
    ///
    /// # Errors
    /// [`crate::Error::Config`]; [`crate::Error::Shape`]; [`crate::Error::NonFinite`].
    pub fn with_sampled_kl(
        mut self,
        kind: SampledKl,
        beta: f64,
        reference: Ragged,
    ) -> Result<Self> {
        self.check_reference(beta, &reference)?;
        self.kl = KlLoss::Sampled {
            kind,
            beta,
            reference,
        };
        Ok(self)
    }

    /// [`PpoClip::with_sampled_kl`] of [`SampledKl::K2`].
    ///
    /// # Errors
    /// Those of [`PpoClip::with_sampled_kl`].
    pub fn with_k2(self, beta: f64, reference: Ragged) -> Result<Self> {
        self.with_sampled_kl(SampledKl::K2, beta, reference)
    }

    /// [`PpoClip::with_sampled_kl`] of [`SampledKl::K3`], as GRPO does.
    ///
    /// # Errors
    /// Those of [`PpoClip::with_sampled_kl`].
    pub fn with_k3(self, beta: f64, reference: Ragged) -> Result<Self> {
        self.with_sampled_kl(SampledKl::K3, beta, reference)
    }

    fn check_reference(&self, beta: f64, reference: &Ragged) -> Result<()> {
        check::not_negative("beta2", beta)?;
        let what = "log_prob of the reference";
        self.behaviour.check_same_shape(what, reference)?;
        reference.check_finite(what)
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
        let slopes = grad.row_mut(Channel::LogProb, i);
        let mut loss = self.surrogate.row(log_prob, old, adv, w, slopes);
        if let KlLoss::Sampled {
            kind,
            beta,
            reference,
        } = &self.kl
        {
            let reference = reference.row(i);
            for (h, g) in slopes.iter_mut().enumerate() {
                let d = log_prob[h] - reference[h];
                let (value, slope) = kind.value_slope(d, log_prob[h] - old[h]);
                loss += w[h] * (beta * value);
                *g += w[h] * (beta * slope);
            }
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
/// [`crate::Error::Shape`]; [`crate::Error::NonFinite`].
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
