//! Losses linear in log π: supervised fine-tuning and the plain policy gradient.

use std::ops::Range;

use super::{Aggregation, single_rows};
use crate::Result;
use crate::seq::{Channel, Episode, PerToken, Ragged, TokenObjective};

/// SFT (Table 2), REINFORCE: ℒ = −Σ_{i,h} c_{i,h} log π(y_{i,h}|s_{i,h}) with fixed coefficients c.
///
/// Supervised fine-tuning has the aggregation's weights for c; the policy gradient has them times the advantages.
#[derive(Debug, Clone)]
pub struct Nll {
    groups: Vec<Range<usize>>,
    coefficients: Ragged,
}

impl Nll {
    /// Negative log-likelihood, the loss of SFT.
    ///
    /// # Errors
    /// Those of [`Aggregation::weights`].
    pub fn new(batch: &[Episode], aggregation: Aggregation, mask: Option<&Ragged>) -> Result<Self> {
        Ok(Self {
            groups: single_rows(batch.len()),
            coefficients: aggregation.weights(batch, mask)?,
        })
    }

    /// −Σ w Â log π: the gradient of REINFORCE and RLOO, exact where the rows were drawn from the policy being stepped.
    ///
    /// # Errors
    /// Those of [`Aggregation::weights`]; advantages that do not fit or are not finite.
    pub fn policy_gradient(
        batch: &[Episode],
        advantages: &Ragged,
        aggregation: Aggregation,
        mask: Option<&Ragged>,
    ) -> Result<Self> {
        advantages.check_finite("advantage")?;
        let weights = aggregation.weights(batch, mask)?;
        Ok(Self {
            groups: single_rows(batch.len()),
            coefficients: weights.zip("advantage", advantages, |w, a| w * a)?,
        })
    }
}

impl TokenObjective for Nll {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let c = self.coefficients.row(group);
        let log_prob = scores.row(Channel::LogProb, group);
        for (g, c) in grad.row_mut(Channel::LogProb, group).iter_mut().zip(c) {
            *g -= c;
        }
        -c.iter().zip(log_prob).map(|(c, l)| c * l).sum::<f64>()
    }
}
