//! A network with a scalar head in training.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_distr::StandardNormal;
use rto::Result;
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, PerToken, StepReport, TokenObjective, TokenScorer, Trainable};

use super::train::Core;
use super::{LearnerOptions, NeoxScorer};
use crate::config::ModelConfig;
use crate::model::{REWARD_WEIGHT, VALUE_BIAS, VALUE_WEIGHT};
use crate::params::Params;

/// A network of its own with a value head (a critic, [`rto::algorithm2::CriticSlot::Separate`]) or a reward head
/// (fitted by [`rto::algorithm2::fit_reward`] with [`rto::objective::Readout::Last`], then read through
/// [`rto::token_reward::SentenceReward`]).
#[derive(Debug)]
pub struct NeoxRegressor {
    pub(super) scorer: NeoxScorer,
    pub(super) core: Core,
}

impl NeoxRegressor {
    /// A network that already has its head.
    ///
    /// # Errors
    /// As [`NeoxScorer::try_new`] and [`crate::optimizer::AdamW::new`].
    pub fn try_new(scorer: NeoxScorer, options: LearnerOptions) -> crate::Result<Self> {
        Ok(Self {
            core: Core::try_new(&scorer, options)?,
            scorer,
        })
    }

    /// A critic on the trunk of another network (a reward model or π_ref); its head starts at V ≡ 0.
    ///
    /// # Errors
    /// As [`NeoxRegressor::try_new`].
    pub fn critic(
        config: impl Into<ModelConfig>,
        trunk: BTreeMap<String, Tensor>,
        options: LearnerOptions,
    ) -> crate::Result<Self> {
        let config = config.into();
        let mut weights = only_trunk(&config, trunk);
        let device = device(&weights);
        let dtype = candle_core::DType::F32;
        weights.insert(
            VALUE_WEIGHT.into(),
            Tensor::zeros((1, config.hidden_size()), dtype, &device)?,
        );
        weights.insert(VALUE_BIAS.into(), Tensor::zeros(1, dtype, &device)?);
        Self::headed(config, weights, options)
    }

    /// A reward model on the trunk of another network (π_ref); its head is drawn from N(0, 1/(hidden + 1)).
    ///
    /// # Errors
    /// As [`NeoxRegressor::try_new`].
    pub fn reward_model(
        config: impl Into<ModelConfig>,
        trunk: BTreeMap<String, Tensor>,
        seeds: &SeedTree,
        options: LearnerOptions,
    ) -> crate::Result<Self> {
        let config = config.into();
        let mut weights = only_trunk(&config, trunk);
        let (mut rng, std) = (
            seeds.child(REWARD_WEIGHT).rng(),
            1.0 / (config.hidden_size() as f64 + 1.0).sqrt(),
        );
        let head: Vec<f32> = (0..config.hidden_size())
            .map(|_| (std * rng.sample::<f64, _>(StandardNormal)) as f32)
            .collect();
        let head = Tensor::from_vec(head, (1, config.hidden_size()), &device(&weights))?;
        weights.insert(REWARD_WEIGHT.into(), head);
        Self::headed(config, weights, options)
    }

    fn headed(
        config: ModelConfig,
        weights: BTreeMap<String, Tensor>,
        options: LearnerOptions,
    ) -> crate::Result<Self> {
        let dtype = weights.values().next().map(Tensor::dtype);
        let cast = |(name, t): (String, Tensor)| -> crate::Result<_> {
            Ok((name, dtype.map_or(Ok(t.clone()), |d| t.to_dtype(d))?))
        };
        let weights = weights
            .into_iter()
            .map(cast)
            .collect::<crate::Result<_>>()?;
        let scorer = NeoxScorer::try_new(config, Params::new(weights)?)?;
        Self::try_new(scorer.with_micro_batch(options.micro_batch)?, options)
    }

    /// The network.
    pub fn scorer(&self) -> &NeoxScorer {
        &self.scorer
    }

    /// The network alone.
    pub fn into_scorer(self) -> NeoxScorer {
        self.scorer
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.core.optimizer.steps()
    }
}

/// Without the heads.
fn only_trunk(
    config: &ModelConfig,
    mut weights: BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let trunk = config.trunk();
    weights.retain(|name, _| trunk.contains_key(name));
    weights
}

fn device(weights: &BTreeMap<String, Tensor>) -> Device {
    let first = weights.values().next();
    first.map_or(Device::Cpu, |t| t.device().clone())
}

impl TokenScorer for NeoxRegressor {
    fn channels(&self) -> &[Channel] {
        self.scorer.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scorer.scores(batch)
    }
}

impl Trainable for NeoxRegressor {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        self.core.step(&mut self.scorer, batch, objective)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.core.learning_rate = learning_rate;
    }
}
