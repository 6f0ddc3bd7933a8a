//! Low-rank adapters: one copy of a base serves the policy in training, π_ref, π_dpo, the reward model and the critic.
//!
//! SFT adapts the model that was named; what it gives, merged, is the base of everything after it. Each stage leaves its adapter in
//! `adapters/STAGE`, as PEFT reads it, beside the merged network in `policies/STAGE`. Its file names the base relative to the run's
//! folder: PEFT finds it when it is started there, or is given the base by its caller.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::Tensor;
use rto_bridge::family::Head;
use rto_bridge::learner::NeuralScorer;
use rto_bridge::model::Heads;
use rto_bridge::on_device;
use rto_bridge::params::Params;

use super::networks::Models;
use crate::run::config::Config;
use crate::run::data::Data;
use crate::run::stage::Stage;

/// Refuses adapters that do not fit the network, before anything is written.
pub fn check(config: &Config, data: &Data) -> Result<()> {
    if let Some(lora) = config.lora(&data.network) {
        let shapes = data.network.tensors(Head::CausalLm);
        lora.shapes(&shapes)
            .context("lora_rank, lora_alpha, lora_targets")?;
    }
    Ok(())
}

/// Refuses networks that the program of kernels cannot run, where the run asks for it.
pub fn check_executor(config: &Config, data: &Data) -> Result<()> {
    if config.executor()?.is_none() {
        return Ok(());
    }
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let lora = config.lora(&data.network);
    on_device::network(&data.network, heads, lora.as_ref())
        .with_context(|| format!("device {}", config.device))?;
    Ok(())
}

impl Models<'_> {
    /// The network of a stage before its first step: as it is, or frozen with a fresh adapter.
    pub fn adapted(&self, scorer: NeuralScorer, stage: Stage) -> Result<NeuralScorer> {
        // As everything else in them, the first adapters of all methods are equal: what differs is the reward.
        let stream = match stage {
            Stage::Rl(_) => "rl",
            stage => stage.name(),
        };
        let seeds = self.seeds.child(stream).child("adapter");
        Ok(match self.lora(stage) {
            Some(lora) => scorer.with_adapter(lora, &seeds)?,
            None => scorer,
        })
    }

    /// How a stage takes over the weights of a frozen network: a copy to train, or the same memory under an adapter.
    pub fn take(&self, stage: Stage) -> fn(BTreeMap<String, Tensor>) -> rto_bridge::Result<Params> {
        match self.lora(stage) {
            Some(_) => Params::frozen,
            None => Params::new,
        }
    }

    /// A network to train on from.
    pub fn start(&self, from: &NeuralScorer, stage: Stage) -> Result<NeuralScorer> {
        let params = self.take(stage)(from.model().params().tensors())?;
        Ok(NeuralScorer::try_new(from.config(), params)?)
    }

    /// A reward model before its first step.
    pub fn reward_start(&self, trunk: &NeuralScorer, stage: Stage) -> Result<NeuralScorer> {
        let (weights, seeds) = (
            trunk.model().params().tensors(),
            self.seeds.child(stage.name()),
        );
        let take = self.take(stage);
        let scorer = NeuralScorer::with_reward_head(trunk.config(), weights, &seeds, take)?;
        self.adapted(self.computed(scorer), stage)
    }

    /// The reward of every token before its first step: 0 everywhere.
    pub fn token_reward_start(&self, trunk: &NeuralScorer) -> Result<NeuralScorer> {
        let (stage, weights) = (Stage::TokenReward, trunk.model().params().tensors());
        let scorer = NeuralScorer::with_value_head(trunk.config(), weights, self.take(stage))?;
        self.adapted(self.computed(scorer), stage)
    }

    /// A critic before its first step: on the reward model, with its adapter where it has one.
    pub fn critic_start(&self, reward: &NeuralScorer) -> Result<NeuralScorer> {
        let weights = reward.model().params().tensors();
        let Some(adapter) = reward.model().adapter() else {
            let critic = NeuralScorer::with_value_head(reward.config(), weights, Params::new)?;
            return Ok(self.computed(critic));
        };
        let (factors, base): (BTreeMap<_, _>, BTreeMap<_, _>) = weights
            .into_iter()
            .partition(|(name, _)| name.contains(".lora_"));
        let critic = NeuralScorer::with_value_head(reward.config(), base, Params::frozen)?;
        let critic = self.computed(critic);
        Ok(critic.with_adapter_weights(adapter.clone(), &factors)?)
    }

    /// A finished stage's network, frozen, in the memory of π_ref where it is π_ref or an adapter of it.
    pub fn on_base(&self, sft: &NeuralScorer, stage: Stage) -> Result<NeuralScorer> {
        if stage == Stage::Sft {
            return Ok(sft.snapshot()?);
        }
        if self.lora(stage).is_none() {
            return self.frozen(stage);
        }
        let weights = sft.model().params().tensors();
        let scorer = match stage {
            Stage::Reward => {
                let seeds = self.seeds.child(stage.name());
                NeuralScorer::with_reward_head(sft.config(), weights, &seeds, Params::frozen)?
            }
            _ => NeuralScorer::try_new(sft.config(), Params::frozen(weights)?)?,
        };
        let scorer = scorer.load_adapter(&self.adapter(stage))?.snapshot()?;
        Ok(self
            .computed(scorer)
            .with_micro_batch(self.config.micro_batch)?
            .with_temperature(self.config.temperature)?)
    }
}
