//! A network with a scalar head in training.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_distr::StandardNormal;
use rto::Result;
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, PerToken, StepReport, TokenObjective, TokenScorer, Trainable};

use super::train::Core;
use super::{LearnerOptions, NeuralScorer};
use crate::family::ModelConfig;
use crate::model::{REWARD_WEIGHT, VALUE_BIAS, VALUE_WEIGHT};
use crate::params::Params;

/// A network of its own with a value head (a critic, [`rto::algorithm2::CriticSlot::Separate`]) or a reward head
/// (fitted by [`rto::algorithm2::fit_reward`] with [`rto::objective::Readout::Last`], then read through
/// [`rto::token_reward::SentenceReward`]).
#[derive(Debug)]
pub struct NeuralRegressor {
    pub(super) scorer: NeuralScorer,
    pub(super) core: Core,
}

impl NeuralRegressor {
    /// A network that already has its head.
    ///
    /// # Errors
    /// As [`NeuralScorer::try_new`] and [`crate::optimizer::AdamW::new`].
    pub fn try_new(scorer: NeuralScorer, options: LearnerOptions) -> crate::Result<Self> {
        Ok(Self {
            core: Core::try_new(&scorer, options)?,
            scorer,
        })
    }

    /// A critic on the trunk of another network (a reward model or π_ref); its head starts at V ≡ 0.
    ///
    /// # Errors
    /// As [`NeuralRegressor::try_new`].
    pub fn critic(
        config: impl Into<ModelConfig>,
        trunk: BTreeMap<String, Tensor>,
        options: LearnerOptions,
    ) -> crate::Result<Self> {
        let scorer = NeuralScorer::with_value_head(config, trunk, Params::new)?;
        Self::try_new(scorer.with_micro_batch(options.micro_batch)?, options)
    }

    /// A reward model on the trunk of another network (π_ref); its head is drawn from N(0, 1/(hidden + 1)).
    ///
    /// # Errors
    /// As [`NeuralRegressor::try_new`].
    pub fn reward_model(
        config: impl Into<ModelConfig>,
        trunk: BTreeMap<String, Tensor>,
        seeds: &SeedTree,
        options: LearnerOptions,
    ) -> crate::Result<Self> {
        let scorer = NeuralScorer::with_reward_head(config, trunk, seeds, Params::new)?;
        Self::try_new(scorer.with_micro_batch(options.micro_batch)?, options)
    }

    /// The network.
    pub fn scorer(&self) -> &NeuralScorer {
        &self.scorer
    }

    /// The network alone.
    pub fn into_scorer(self) -> NeuralScorer {
        self.scorer
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.core.optimizer.steps()
    }
}

/// How weights become a network's: [`Params::new`] to train them, [`Params::frozen`] to share them.
type Take = fn(BTreeMap<String, Tensor>) -> crate::Result<Params>;

impl NeuralScorer {
    /// The trunk of another network with a value head V ≡ 0.
    ///
    /// # Errors
    /// As [`NeuralScorer::try_new`].
    pub fn with_value_head(
        config: impl Into<ModelConfig>,
        trunk: BTreeMap<String, Tensor>,
        take: Take,
    ) -> crate::Result<Self> {
        let config = config.into();
        let (device, dtype) = (device(&trunk), candle_core::DType::F32);
        let weight = Tensor::zeros((1, config.hidden_size()), dtype, &device)?;
        let bias = Tensor::zeros(1, dtype, &device)?;
        let head = [(VALUE_WEIGHT, weight), (VALUE_BIAS, bias)];
        headed(config, trunk, head, take)
    }

    /// The trunk of another network with a reward head drawn from N(0, 1/(hidden + 1)).
    ///
    /// # Errors
    /// As [`NeuralScorer::try_new`].
    pub fn with_reward_head(
        config: impl Into<ModelConfig>,
        trunk: BTreeMap<String, Tensor>,
        seeds: &SeedTree,
        take: Take,
    ) -> crate::Result<Self> {
        let config = config.into();
        let hidden = config.hidden_size();
        let mut rng = seeds.child(REWARD_WEIGHT).rng();
        let std = 1.0 / (hidden as f64 + 1.0).sqrt();
        let head: Vec<f32> = (0..hidden)
            .map(|_| (std * rng.sample::<f64, _>(StandardNormal)) as f32)
            .collect();
        let head = Tensor::from_vec(head, (1, hidden), &device(&trunk))?;
        headed(config, trunk, [(REWARD_WEIGHT, head)], take)
    }
}

fn headed<const N: usize>(
    config: ModelConfig,
    mut weights: BTreeMap<String, Tensor>,
    head: [(&str, Tensor); N],
    take: Take,
) -> crate::Result<NeuralScorer> {
    let trunk = config.trunk();
    weights.retain(|name, _| trunk.contains_key(name));
    let dtype = weights
        .values()
        .next()
        .map_or(candle_core::DType::F32, Tensor::dtype);
    for (name, tensor) in head {
        weights.insert(name.into(), tensor.to_dtype(dtype)?);
    }
    NeuralScorer::try_new(config, take(weights)?)
}

fn device(weights: &BTreeMap<String, Tensor>) -> Device {
    let first = weights.values().next();
    first.map_or(Device::Cpu, |t| t.device().clone())
}

impl TokenScorer for NeuralRegressor {
    fn channels(&self) -> &[Channel] {
        self.scorer.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scorer.scores(batch)
    }
}

impl Trainable for NeuralRegressor {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        self.core.step(&mut self.scorer, batch, objective)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.core.learning_rate = learning_rate;
    }
}
