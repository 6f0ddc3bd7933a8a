//! What is asked of a network, and what it says.

use super::program::Program;
use crate::{Error, Result};

/// What to compute.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    /// `log π(y_h | s_h)` of every response token.
    pub log_probs: bool,
    /// The entropy of `π(· | s_h)`.
    pub entropy: bool,
    /// Both divergences from this reference over the same vocabulary, exactly.
    pub reference: Option<&'a Program<'a>>,
    /// The value head at every `s_h` and at the final state.
    pub values: bool,
    /// The reward head at the last token.
    pub rewards: bool,
}

impl Request<'_> {
    /// Log-probabilities alone.
    pub fn log_probs() -> Self {
        Self {
            log_probs: true,
            ..Self::default()
        }
    }

    pub(crate) fn reads_final(&self) -> bool {
        self.values || self.rewards
    }

    pub(crate) fn reads_vocabulary(&self) -> bool {
        self.log_probs || self.entropy || self.reference.is_some()
    }
}

/// Scores of a batch, natural logarithms, of the responses' tokens one after the other; the same shape serves as their gradient, where
/// `None` is zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// `log π(y_h | s_h)`.
    pub log_probs: Option<Vec<f32>>,
    /// Entropy of `π(· | s_h)`.
    pub entropy: Option<Vec<f32>>,
    /// `Σ_a π log(π/π_ref)`.
    pub kl: Option<Vec<f32>>,
    /// `Σ_a π_ref log(π_ref/π)`.
    pub kl_from: Option<Vec<f32>>,
    /// `V(s_h)`.
    pub values: Option<Vec<f32>>,
    /// `V` at the state after the last token, one a text.
    pub final_values: Option<Vec<f32>>,
    /// `r(x, y)`, one a text.
    pub rewards: Option<Vec<f32>>,
}

impl Scores {
    /// # Errors
    /// [`Error::Network`] unless every gradient that is there is finite and as long as its score.
    pub(crate) fn check(&self, scores: &Self) -> Result<()> {
        let pairs = [
            ("log_probs", &self.log_probs, &scores.log_probs),
            ("entropy", &self.entropy, &scores.entropy),
            ("kl", &self.kl, &scores.kl),
            ("kl_from", &self.kl_from, &scores.kl_from),
            ("values", &self.values, &scores.values),
            ("final_values", &self.final_values, &scores.final_values),
            ("rewards", &self.rewards, &scores.rewards),
        ];
        for (what, gradient, score) in pairs {
            let Some(gradient) = gradient else { continue };
            let expected = score.as_ref().map_or(0, Vec::len);
            if gradient.len() != expected || gradient.iter().any(|g| !g.is_finite()) {
                let found = gradient.len();
                return Err(Error::Network(format!(
                    "gradient of {what}: found {found} numbers, expected {expected}, all finite"
                )));
            }
        }
        Ok(())
    }
}
