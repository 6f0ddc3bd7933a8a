//! Networks as every stage wants them: made, loaded and kept in one way.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{Device, Tensor};
use rto::seed::SeedTree;
use rto_bridge::learner::{NeuralPolicy, NeuralScorer, Ranks};
use rto_bridge::lora::LoraConfig;
use rto_bridge::model::{Heads, Model};
use rto_bridge::params::{Init, Params};

use crate::run::config::Config;
use crate::run::data::Data;
use crate::run::stage::Stage;

/// The networks of a run.
pub struct Models<'r> {
    pub config: &'r Config,
    pub data: &'r Data,
    /// The streams of the run.
    pub seeds: &'r SeedTree,
    /// Where networks run.
    pub device: Device,
    /// Who trains and scores them together.
    pub ranks: Ranks,
    /// The folder of the run.
    root: &'r Path,
    /// Tokenizer files that every saved policy carries.
    tokenizer: PathBuf,
}

impl<'r> Models<'r> {
    /// The networks of the run in `root`, into which the tokenizer's files are written where they are the run's own.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn try_new(
        config: &'r Config,
        data: &'r Data,
        seeds: &'r SeedTree,
        (device, ranks): (Device, Ranks),
        root: &'r Path,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer: data.tokenizer.folder(root)?,
            config,
            data,
            seeds,
            device,
            ranks,
            root,
        })
    }

    /// The model that was named, or new weights from a stream of this name.
    pub fn first(&self, stream: &str) -> Result<NeuralScorer> {
        if let Some(folder) = &self.data.base {
            return self.load(folder, true);
        }
        let (shape, seeds) = (&self.data.network, self.seeds.child(stream));
        let heads = Heads {
            language_model: true,
            ..Heads::default()
        };
        let model = Model::random(shape, heads, Init::Small, &seeds, &self.device)?;
        let dtype = self.config.host_dtype();
        let turned = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
        let weights = model.params().tensors().into_iter().map(turned);
        let params = Params::new(weights.collect::<Result<_>>()?)?;
        Ok(NeuralScorer::try_new(shape, params)?)
    }

    /// A folder's network in the float type of the run.
    pub(super) fn load(&self, folder: &Path, trained: bool) -> Result<NeuralScorer> {
        let dtype = self.config.host_dtype();
        Ok(NeuralScorer::load_as(
            folder,
            trained,
            Some(dtype),
            &self.device,
        )?)
    }

    /// A finished stage's network, to train on from.
    pub fn trained(&self, stage: Stage) -> Result<NeuralScorer> {
        self.load(&self.saved(stage), true)
    }

    /// A finished stage's network, as it is.
    pub fn frozen(&self, stage: Stage) -> Result<NeuralScorer> {
        let scorer = self.load(&self.saved(stage), false)?;
        Ok(self
            .computed(scorer)
            .with_micro_batch(self.config.micro_batch)?
            .with_temperature(self.config.temperature)?)
    }

    /// The folder of a stage's network.
    pub fn saved(&self, stage: Stage) -> PathBuf {
        self.root.join("policies").join(stage.name())
    }

    /// Saves a network as a Hugging Face folder, an adapter merged into its base and beside it; returns on every rank once it stands.
    pub fn keep(&self, stage: Stage, scorer: &NeuralScorer) -> Result<()> {
        let engine = self.ranks.engine();
        if engine.rank() == 0 {
            self.save(stage, scorer)?;
        }
        Ok(engine.barrier()?)
    }

    fn save(&self, stage: Stage, scorer: &NeuralScorer) -> Result<()> {
        if scorer.model().adapter().is_some() {
            scorer.save_adapter(&self.adapter(stage), self.base_of(stage))?;
        }
        Ok(scorer.save_hugging_face(&self.saved(stage), Some(&self.tokenizer))?)
    }

    /// A network that computes as all of the run do, but the oracle.
    pub(super) fn computed(&self, scorer: NeuralScorer) -> NeuralScorer {
        let products = self.config.products.of();
        scorer
            .with_ranks(self.ranks.clone())
            .with_products(products)
    }

    /// A policy with what every stage wants of it.
    pub fn policy(&self, scorer: NeuralScorer) -> Result<NeuralPolicy> {
        let mut scorer = self
            .computed(scorer)
            .with_temperature(self.config.temperature)?
            .with_entropy()
            .with_micro_batch(self.config.micro_batch)?;
        scorer.model_mut().options_mut().checkpointing = self.config.checkpoint_activations;
        let policy = NeuralPolicy::try_new(scorer, self.config.max_new_tokens)?;
        Ok(policy.with_generation(64, rayon::current_num_threads()))
    }

    /// The adapter of a stage, unless it trains every weight: from scratch there is no base worth keeping.
    pub fn lora(&self, stage: Stage) -> Option<LoraConfig> {
        let first = matches!(
            stage,
            Stage::Pretrain | Stage::Sft | Stage::OraclePretrain | Stage::Oracle
        );
        match self.data.base.is_none() && first {
            true => None,
            false => self.config.lora(&self.data.network),
        }
    }

    /// The folder of a stage's adapter.
    pub fn adapter(&self, stage: Stage) -> PathBuf {
        self.root.join("adapters").join(stage.name())
    }

    /// What a stage's adapter is an adapter of: the model by the name it was given, or a folder of the run, so that the file is
    /// the same wherever the run is.
    fn base_of(&self, stage: Stage) -> &str {
        match stage {
            Stage::Sft | Stage::Oracle => &self.config.model,
            _ => "policies/sft",
        }
    }
}
