//! A learner taken apart, for one that trains the same network elsewhere.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::train::Core;
use super::{NeuralLearner, NeuralRegressor, NeuralScorer};
use crate::Result;
use crate::optimizer::{AdamWConfig, Arrays};

/// What changes as a network trains.
pub(crate) struct Moved {
    /// Trained weights by name.
    pub weights: BTreeMap<String, Tensor>,
    /// Moments, as files have them.
    pub moments: Arrays,
    /// Steps taken.
    pub steps: u64,
    /// η of the next step.
    pub learning_rate: f64,
}

fn moved(scorer: &NeuralScorer, core: &Core) -> Result<Moved> {
    let params = scorer.model.params();
    let weight = |(name, var): (&str, &candle_core::Var)| (name.to_string(), var.detach());
    Ok(Moved {
        weights: params.trained().map(weight).collect(),
        moments: core.optimizer.arrays()?,
        steps: core.optimizer.steps(),
        learning_rate: core.learning_rate,
    })
}

fn put(scorer: &mut NeuralScorer, core: &mut Core, moved: &Moved) -> Result<()> {
    for (name, tensor) in &moved.weights {
        scorer.model.params_mut().insert(name, tensor)?;
    }
    let params = scorer.model.params();
    core.optimizer
        .take_up(params, &moved.moments, moved.steps)?;
    core.learning_rate = moved.learning_rate;
    Ok(())
}

impl NeuralLearner {
    pub(crate) fn moved(&self) -> Result<Moved> {
        moved(&self.policy.scorer, &self.core)
    }

    /// The settings of its optimiser.
    pub(crate) fn optimizer(&self) -> &AdamWConfig {
        self.core.optimizer.config()
    }

    pub(crate) fn put(&mut self, moved: &Moved) -> Result<()> {
        put(&mut self.policy.scorer, &mut self.core, moved)?;
        self.policy.forget_engine();
        Ok(())
    }
}

impl NeuralRegressor {
    pub(crate) fn moved(&self) -> Result<Moved> {
        moved(&self.scorer, &self.core)
    }

    /// The settings of its optimiser.
    pub(crate) fn optimizer(&self) -> &AdamWConfig {
        self.core.optimizer.config()
    }

    pub(crate) fn put(&mut self, moved: &Moved) -> Result<()> {
        put(&mut self.scorer, &mut self.core, moved)
    }
}
