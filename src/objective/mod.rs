//! Losses of per-token scores, with their gradients: pure `f64`, for any backend.
//!
//! Every objective is built from the whole batch it will be evaluated on, so its normalisers do not know of micro-batches.
//!
//! | objective | loss |
//! |---|---|
//! | [`Nll`] | supervised fine-tuning; REINFORCE and RLOO |
//! | [`BradleyTerry`] | DPO (4.4)/(C.4), reward fitting (2.2), cDPO, R-DPO, SimPO, IPO |
//! | [`Tdpo`] | TDPO1 and TDPO2 |
//! | [`PairLoss`] | any loss of pairs; those that files can name are [`DpoLoss`] |
//! | [`UnpairedLoss`] | any loss of single responses with a label: KTO |
//! | [`Unpaired`] | KTO at a given reference point; cross-entropy of outcomes under an implicit reward, of labels under a reward model |
//! | [`PpoClip`] | PPO, RTO, REINFORCE++, GRPO and its kin, by their [advantages](crate::advantage) and their [`Ratio`] |
//! | [`ValueLoss`] | the critic |
//! | [`Sum`] | policy and critic on one trunk |
//!
//! PPO's clipped surrogate in numbers: a ratio of 1.5 gains nothing beyond 1.2, and loses in full:
//!
//! ```
//! use rto::objective::{Aggregation, PpoClip};
//! use rto::seq::{Channel, Episode, Finish, PerToken, Ragged, loss_and_score_grad};
//!
//! let batch = [Episode::try_new([7].into(), vec![1, 0], Finish::Eos)?];
//! let behaviour = Ragged::from_rows([[-1.0, -1.0]]);
//! let advantages = Ragged::from_rows([[2.0, -2.0]]);
//! let loss = PpoClip::new(&batch, behaviour, advantages, 0.2, Aggregation::TokenMean, None)?;
//! let now = Ragged::from_rows([[-1.0 + 1.5f64.ln(); 2]]); // both ratios are 1.5
//! let scores = PerToken::new(&batch).with(Channel::LogProb, now)?;
//! let (value, grad) = loss_and_score_grad(&loss, &scores)?;
//! assert!((value - (-2.0 * 1.2 + 2.0 * 1.5) / 2.0).abs() < 1e-12);
//! assert_eq!(grad.row(Channel::LogProb, 0)[0], 0.0); // clipped
//! assert!((grad.row(Channel::LogProb, 0)[1] - 1.5).abs() < 1e-12); // −Âρ/2
//! # Ok::<(), rto::Error>(())
//! ```

mod aggregation;
mod kl;
mod nll;
pub mod pair_loss;
mod ppo;
mod preference;
mod sum;
mod surrogate;
mod tdpo;
#[cfg(test)]
mod tests;
mod unpaired;
mod value;

use std::ops::Range;

pub use aggregation::Aggregation;
pub use kl::SampledKl;
pub use nll::Nll;
pub use pair_loss::{DpoLoss, PairLoss, PairSlopes, PairSums, SequencePairs};
pub use ppo::{PpoClip, PpoDiagnostics, ppo_diagnostics};
pub use preference::{BradleyTerry, Readout};
pub use sum::Sum;
pub use surrogate::{Ratio, Surrogate};
pub use tdpo::Tdpo;
pub use unpaired::{Unpaired, UnpairedLoss, kto_reference_point};
pub use value::ValueLoss;

use crate::seq::{Episode, check_batch};
use crate::{Error, Result};

/// Every row a group of its own.
fn single_rows(n: usize) -> Vec<Range<usize>> {
    (0..n).map(|i| i..i + 1).collect()
}

/// Consecutive rows two by two, (winner, loser) of one prompt.
fn pairs(batch: &[Episode]) -> Result<Vec<Range<usize>>> {
    if batch.is_empty() || !batch.len().is_multiple_of(2) {
        let must = "a positive even number: winner, loser, winner, loser, …";
        return Err(Error::config("rows of a batch of pairs", batch.len(), must));
    }
    check_batch(batch)?;
    if let Some(k) = batch
        .chunks_exact(2)
        .position(|p| p[0].prompt != p[1].prompt)
    {
        let must = "one prompt for winner and loser";
        return Err(Error::config(format!("pair {k}"), "two prompts", must));
    }
    Ok((0..batch.len() / 2).map(|k| 2 * k..2 * k + 2).collect())
}
