//! Losses that read a pair through the log-probabilities of its two responses.

use std::ops::Range;

use crate::Result;
use crate::check;
use crate::objective::pairs;
use crate::seq::{Channel, Episode, PerToken, TokenObjective};

/// What a loss of sequences reads of a pair, [winner, loser].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairSums {
    /// log π(y|x), in nats.
    pub log_prob: [f64; 2],
    /// log π_ref(y|x), in nats.
    pub reference: [f64; 2],
    /// |y|, in tokens.
    pub length: [f64; 2],
}

impl PairSums {
    /// log π(y|x) − log π_ref(y|x).
    pub fn log_ratio(&self) -> [f64; 2] {
        [0, 1].map(|i| self.log_prob[i] - self.reference[i])
    }
}

/// The loss of a pair and its derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairSlopes {
    /// ℓ.
    pub loss: f64,
    /// ∂ℓ/∂ log π(y|x) of [winner, loser].
    pub slope: [f64; 2],
}

type Loss = dyn Fn(&PairSums) -> PairSlopes;

/// ℒ = (1/K) Σ_k ℓ(log π(y_w|x), log π(y_l|x)) over pairs of consecutive rows (winner, loser), for any ℓ.
pub struct SequencePairs {
    groups: Vec<Range<usize>>,
    reference: Vec<f64>,
    loss: Box<Loss>,
}

impl SequencePairs {
    /// Any loss; `reference` holds log π_ref(y|x) of every row, `[2K]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] on an odd number of rows or a pair with two prompts; [`crate::Error::Shape`] or [`crate::Error::NonFinite`] of the reference.
    pub fn new(
        batch: &[Episode],
        reference: &[f64],
        loss: impl Fn(&PairSums) -> PairSlopes + 'static,
    ) -> Result<Self> {
        check::rows("log_prob of the reference", batch.len(), reference)?;
        Ok(Self {
            groups: pairs(batch)?,
            reference: reference.to_vec(),
            loss: Box::new(loss),
        })
    }

    /// [`SequencePairs::new`] as [`PairLoss::objective`](super::PairLoss::objective) returns it, for a loss that has β.
    ///
    /// # Errors
    /// Those of [`SequencePairs::new`]; β ≤ 0.
    pub fn boxed(
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
        loss: impl Fn(&PairSums) -> PairSlopes + 'static,
    ) -> Result<Box<dyn TokenObjective>> {
        check::positive("beta", beta)?;
        Ok(Box::new(Self::new(batch, reference, loss)?))
    }
}

impl TokenObjective for SequencePairs {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let start = self.groups[group].start;
        let row = |i: usize| scores.row(Channel::LogProb, start + i);
        let PairSlopes { loss, slope } = (self.loss)(&PairSums {
            log_prob: [0, 1].map(|i| row(i).iter().sum()),
            reference: [0, 1].map(|i| self.reference[start + i]),
            length: [0, 1].map(|i| row(i).len() as f64),
        });
        let n = self.groups.len() as f64;
        for (i, g) in slope.into_iter().enumerate() {
            let row = grad.row_mut(Channel::LogProb, start + i);
            row.iter_mut().for_each(|v| *v += g / n);
        }
        loss / n
    }
}
