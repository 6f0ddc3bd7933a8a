//! Truncated decoding, for evaluation only.

use crate::check;
use crate::{Error, Result};

/// How evaluation text is drawn from a policy's next-token distribution: temperature, then top-k, then top-p.
///
/// The paper evaluates with top-p 0.99 and temperature 0.9 (Appendix D.3). None of this may shape training samples:
/// a nucleus moves between updates and log-probabilities outside it are −∞, so the ratio of PPO would not be the ratio
/// of the distributions sampled from. [`Decoder::check_on_policy`] is where that is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Decoder {
    /// T > 0: log-probabilities are divided by T and renormalised. On top of a temperature the policy owns.
    pub temperature: f64,
    /// The smallest set of most likely tokens whose mass reaches p; 1 keeps all.
    pub top_p: f64,
    /// At most this many tokens; 0 keeps all.
    pub top_k: usize,
    /// The end-of-sentence token is forbidden before this many tokens are written.
    pub min_new_tokens: usize,
}

impl Default for Decoder {
    /// The policy itself.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_new_tokens: 0,
        }
    }
}

impl Decoder {
    /// Appendix D.3: top-p 0.99, temperature 0.9.
    pub fn paper() -> Self {
        Self {
            temperature: 0.9,
            top_p: 0.99,
            ..Self::default()
        }
    }

    /// A checked decoder.
    ///
    /// # Errors
    /// [`Error::Config`] unless temperature is finite and positive and 0 < top_p ≤ 1.
    pub fn check(self) -> Result<Self> {
        check::positive("temperature", self.temperature)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::config("top_p", self.top_p, "in (0, 1]"));
        }
        Ok(self)
    }

    /// Refuses a decoder that is not the policy itself, before anything is trained on its samples.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting that truncates or reshapes the distribution.
    pub fn check_on_policy(self) -> Result<()> {
        let must = |field: &str, found: f64, value: &str| {
            Err(Error::config(
                field,
                found,
                format!(
                    "{value} in training: samples must follow the distribution whose log-probabilities are trained (a temperature belongs to the policy)"
                ),
            ))
        };
        if self.temperature != 1.0 {
            return must("temperature", self.temperature, "1");
        }
        if self.top_p != 1.0 {
            return must("top_p", self.top_p, "1");
        }
        if self.top_k != 0 {
            return must("top_k", self.top_k as f64, "0");
        }
        if self.min_new_tokens != 0 {
            return must("min_new_tokens", self.min_new_tokens as f64, "0");
        }
        Ok(())
    }
}
