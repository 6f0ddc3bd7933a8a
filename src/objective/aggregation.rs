//! How the numbers of many tokens become one loss.

use crate::seq::{Episode, Ragged, check_batch};
use crate::{Error, Result};

/// The weight w_{i,h} of token h of row i in ℒ = Σ_{i,h} w_{i,h} ℓ_{i,h}.
///
/// With B rows and n_i tokens of row i that count (all H_i without a mask), the variants give w.
///
/// The choice decides a length bias. Under [`Aggregation::SequenceMean`] a token of a long response weighs less, so a long bad
/// response is punished more softly per token than a short one, and a short good response is pulled up harder. Under
/// [`Aggregation::TokenMean`] all tokens weigh the same and long responses dominate the gradient.
/// [`Aggregation::SequenceSum`] is the policy gradient without bias; it differs from the token mean by a
/// factor that depends on the batch only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Aggregation {
    /// w = 1 / Σ_i n_i.
    #[default]
    TokenMean,
    /// w = 1 / (B n_i): the mean of each response's mean.
    SequenceMean,
    /// w = 1 / B: the mean of each response's sum (Dr. GRPO up to its constant, REINFORCE, RLOO).
    SequenceSum,
    /// w = 1 / (B n) with a fixed n, such as the longest length allowed (Dr. GRPO; Liu et al., 2025): the sequence sum over n.
    Constant {
        /// n ≥ 1.
        length: usize,
    },
    /// w = 1 / n with a fixed n and no division by B: the step grows with the batch (verl before 0.7.1 named it
    /// `seq-mean-token-sum-norm`).
    PerBatch {
        /// n ≥ 1.
        length: usize,
    },
}

impl Aggregation {
    /// w, `[B][H_i]`. A row of which no token counts has weight 0 and still counts in B.
    ///
    /// # Errors
    /// Those of [`check_batch`]; [`Error::Shape`] when the mask does not fit; [`Error::Config`] on a mask that is not 0 or 1, or when
    /// no token counts.
    pub fn weights(self, batch: &[Episode], mask: Option<&Ragged>) -> Result<Ragged> {
        check_batch(batch)?;
        let mut w = match mask {
            None => Ragged::zeros(batch).map(|_| 1.0),
            Some(m) => {
                m.check_fits("mask", batch)?;
                if let Some(bad) = m.values().iter().find(|v| **v != 0.0 && **v != 1.0) {
                    return Err(Error::config("mask", bad, "0 or 1"));
                }
                m.clone()
            }
        };
        let (rows, counts) = (batch.len() as f64, w.row_sums());
        let total: f64 = counts.iter().sum();
        if total == 0.0 {
            return Err(Error::config(
                "batch",
                "no token",
                "at least one token that counts",
            ));
        }
        self.check()?;
        for (i, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0.0) {
            let scale = self.weight(rows, total, n);
            w.row_mut(i).iter_mut().for_each(|v| *v *= scale);
        }
        Ok(w)
    }

    /// w of the tokens of a row with n > 0 tokens that count, in a batch of so many rows and `total` such tokens.
    #[inline(always)]
    pub fn weight(self, rows: f64, total: f64, n: f64) -> f64 {
        match self {
            Self::TokenMean => 1.0 / total,
            Self::SequenceMean => 1.0 / (rows * n),
            Self::SequenceSum => 1.0 / rows,
            Self::Constant { length } => 1.0 / (rows * length as f64),
            Self::PerBatch { length } => 1.0 / length as f64,
        }
    }

    /// Refuses a length of 0.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(self) -> Result<()> {
        match self {
            Self::Constant { length: 0 } | Self::PerBatch { length: 0 } => {
                Err(Error::config("aggregation.length", 0, "at least 1"))
            }
            _ => Ok(()),
        }
    }
}
