//! A fault to order. `RTO_LLM_NAN=STAGE:STEP` makes that step see NaN, so that tests (and doubters) can watch a run stop with
//! its last good checkpoint kept, and go on once the fault is gone.

use std::ops::Range;

use rto::seq::{
    Channel, Episode, PerToken, Ragged, StepReport, TokenObjective, TokenReward, Trainable,
};

use crate::run::stage::Stage;

/// Whether this step is the one.
pub fn nan_at(stage: Stage, step: u64) -> bool {
    let named = || format!("{}:{step}", stage.name());
    std::env::var("RTO_LLM_NAN").is_ok_and(|at| at == named())
}

/// A reward that is no number.
pub struct NoReward;

impl TokenReward for NoReward {
    fn rewards(&self, batch: &[Episode]) -> rto::Result<Ragged> {
        Ok(Ragged::from_rows(
            batch.iter().map(|e| vec![f64::NAN; e.len()]),
        ))
    }
}

/// A learner whose loss is no number.
pub struct NoLoss<'a>(pub &'a mut dyn Trainable);

impl Trainable for NoLoss<'_> {
    fn step(
        &mut self,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> rto::Result<StepReport> {
        self.0.step(batch, &Poisoned(objective))
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.0.set_learning_rate(learning_rate);
    }
}

struct Poisoned<'a>(&'a dyn TokenObjective);

impl TokenObjective for Poisoned<'_> {
    fn groups(&self) -> &[Range<usize>] {
        self.0.groups()
    }

    fn channels(&self) -> &[Channel] {
        self.0.channels()
    }

    fn loss_grad(&self, _: usize, _: &PerToken, _: &mut PerToken) -> f64 {
        f64::NAN
    }
}
