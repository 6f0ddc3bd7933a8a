//! A fault to order. `RTO_LLM_NAN=STAGE:STEP` makes that step see NaN, so that tests (and doubters) can watch a run stop with
//! its last good checkpoint kept, and go on once the fault is gone.

use rto::seq::{Episode, Ragged, TokenReward};

/// Whether this step is the one.
pub fn nan_at(stage: &str, step: u64) -> bool {
    std::env::var("RTO_LLM_NAN").is_ok_and(|at| at == format!("{stage}:{step}"))
}

/// A reward that is no number.
pub struct NotANumber;

impl TokenReward for NotANumber {
    fn rewards(&self, batch: &[Episode]) -> rto::Result<Ragged> {
        Ok(Ragged::from_rows(
            batch.iter().map(|e| vec![f64::NAN; e.len()]),
        ))
    }
}
