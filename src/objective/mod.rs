//! Losses of per-token scores, with their gradients: pure `f64`, for any backend.
//!
//! Every objective is built from the whole batch it will be evaluated on, so its normalisers do not know of micro-batches.
//!
//! | objective | loss |
//! |---|---|
//! | [`Nll`] | supervised fine-tuning; REINFORCE and RLOO |
//! | [`BradleyTerry`] | DPO (4.4)/(C.4), reward fitting (2.2), cDPO, R-DPO, SimPO, IPO |
//! | [`Tdpo`] | TDPO1 and TDPO2 |
//! | [`Unpaired`] | KTO; outcome cross-entropy of an implicit reward |
//! | [`PpoClip`] | PPO, RTO, REINFORCE++ and GRPO, by their [advantages](crate::advantage) |
//! | [`ValueLoss`] | the critic |
//! | [`Sum`] | policy and critic on one trunk |

mod aggregation;
mod nll;
mod ppo;
mod preference;
mod sum;
mod tdpo;
#[cfg(test)]
mod tests;
mod unpaired;
mod value;

use std::ops::Range;

pub use aggregation::Aggregation;
pub use nll::Nll;
pub use ppo::{PpoClip, PpoDiagnostics, ppo_diagnostics};
pub(crate) use preference::check_rows;
pub use preference::{BradleyTerry, Readout};
pub use sum::Sum;
pub use tdpo::Tdpo;
pub use unpaired::{Unpaired, kto_reference_point};
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
