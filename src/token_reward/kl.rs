//! The −β₂ term: how the divergence from the reference is estimated per token, and how β₂ is controlled.

use crate::objective::SampledKl;
use crate::seq::{Channel, PerToken, Ragged};
use crate::{Error, Result};

/// Line 6 of Algorithm 2; k1, k2, k3 of Schulman (2020): An estimate of KL(π(·|s_h) ‖ π_ref(·|s_h)) in nats at a sampled
/// token, with d = log π(y_h|s_h) − log π_ref(y_h|s_h), y ~ π.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum KlEstimator {
    /// k1 = d: unbiased, of either sign. Line 6 of Algorithm 2 as printed; the only one whose row sum is the sequence's log-ratio.
    #[default]
    K1,
    /// k2 = d²/2: never negative, biased.
    K2,
    /// k3 = e^{−d} − 1 + d: never negative, unbiased.
    K3,
    /// The sum over the vocabulary, read from [`Channel::KlToReference`]: unbiased and without sampling noise.
    Exact,
    /// The value of k3 with the gradient of k2 (verl's k3+): in the loss only, in the reward it would be k3.
    K3Plus,
    /// k3 times the ratio π/π_old, which is not detached (TRL's `use_bias_correction_kl`): in the loss only, in the reward it would be k3.
    K3Corrected,
}

impl KlEstimator {
    /// The estimate at a sampled token; none for [`KlEstimator::Exact`].
    pub fn sampled(self) -> Option<SampledKl> {
        match self {
            Self::K1 => Some(SampledKl::K1),
            Self::K2 => Some(SampledKl::K2),
            Self::K3 => Some(SampledKl::K3),
            Self::K3Plus => Some(SampledKl::K3Plus),
            Self::K3Corrected => Some(SampledKl::K3Corrected),
            Self::Exact => None,
        }
    }

    /// The estimate of every token, `[B][H_i]`, from the scores of π and the log-probabilities of π_ref.
    ///
    /// # Errors
    /// A channel the policy does not provide; [`Error::Shape`]; [`Error::NonFinite`] where k2 or k3 overflow.
    pub fn per_token(self, policy: &PerToken, reference: &Ragged) -> Result<Ragged> {
        let Some(sampled) = self.sampled() else {
            return policy.get(Channel::KlToReference).cloned();
        };
        let log_prob = policy.get(Channel::LogProb)?;
        let kl = log_prob.zip("log_prob of the reference", reference, |p, q| {
            sampled.value(p - q)
        })?;
        kl.check_finite("KL estimate")?;
        Ok(kl)
    }
}

/// β₂ raised when the divergence is above a target and lowered when below (Ziegler et al., 2019, section 2.2).
///
/// After an iteration of n responses with mean sequence KL k: β₂ ← β₂ (1 + clip(k/target − 1, −0.2, 0.2) n/horizon).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct AdaptiveKl {
    /// The sequence KL aimed at, in nats, > 0.
    pub target: f64,
    /// Responses over which an error of one clip changes β₂ by 20%, > 0.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// β₂ of the next iteration. The controller has no other state.
    pub fn next(self, beta2: f64, sequence_kl: f64, responses: usize) -> f64 {
        let error = (sequence_kl / self.target - 1.0).clamp(-0.2, 0.2);
        // One batch larger than five horizons must not turn the penalty into a bonus.
        beta2 * (1.0 + error * responses as f64 / self.horizon).max(0.0)
    }

    /// The controller, checked.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(self) -> Result<Self> {
        for (field, value) in [("target", self.target), ("horizon", self.horizon)] {
            if !(value.is_finite() && value > 0.0) {
                let field = format!("adaptive_kl.{field}");
                return Err(Error::config(field, value, "finite and > 0"));
            }
        }
        Ok(self)
    }
}

/// Adds −β₂·kl to a reward, token by token: the second half of (2.3), (4.6) and (5.1).
///
/// # Errors
/// [`Error::Shape`] when a reward is shorter or longer than its response; [`Error::NonFinite`].
pub fn add_kl_penalty(reward: &Ragged, kl: &Ragged, beta2: f64) -> Result<Ragged> {
    let shaped = kl.zip("reward", reward, |k, r| r - beta2 * k)?;
    shaped.check_finite("reward with its KL term")?;
    Ok(shaped)
}
