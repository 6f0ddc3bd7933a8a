//! A network and the channels it gives.

use std::sync::Arc;

use candle_core::Tensor;
use rto::Result;
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, PerToken, TokenScorer};

use super::backend;
use super::channels::{append, pack_for, per_token, request};
use super::ranks::Ranks;
use crate::family::{Head, ModelConfig};
use crate::lora::LoraConfig;
use crate::model::{Keep, Model, Products, REWARD_WEIGHT, Request, Scores, VALUE_WEIGHT};
use crate::params::Params;

/// A network that gives every response token its numbers.
///
/// [`Channel::LogProb`] with a language-model head, [`Channel::Value`] and [`Channel::FinalValue`] with a value head (on the
/// same trunk or alone), [`Channel::Reward`] with a reward head, r(x, y) at the last token and 0 elsewhere; the head
/// reads the last token that is not the padding token of the configuration, as sequence classification in `transformers` does.
#[derive(Debug)]
pub struct NeuralScorer {
    pub(super) model: Model,
    pub(super) channels: Vec<Channel>,
    pub(super) reference: Option<Arc<NeuralScorer>>,
    pub(super) micro_batch: usize,
    pub(super) ranks: Ranks,
}

/// Responses scored side by side unless told otherwise.
const MICRO_BATCH: usize = 64;

impl NeuralScorer {
    /// A network with the channels of the heads whose weights are there.
    ///
    /// # Errors
    /// As [`Model::try_new`].
    pub fn try_new(config: impl Into<ModelConfig>, params: Params) -> crate::Result<Self> {
        let model = Model::try_new(config, params)?;
        let has = |name: &str| model.params().contains(name);
        let mut channels = Vec::new();
        let tied = model.config().tied_embeddings();
        if tied && !has(VALUE_WEIGHT) && !has(REWARD_WEIGHT)
            || !tied && has(model.config().head_weight())
        {
            channels.push(Channel::LogProb);
        }
        if has(VALUE_WEIGHT) {
            channels.extend([Channel::Value, Channel::FinalValue]);
        }
        if has(REWARD_WEIGHT) {
            channels.push(Channel::Reward);
        }
        Ok(Self {
            model,
            channels,
            reference: None,
            micro_batch: MICRO_BATCH,
            ranks: Ranks::default(),
        })
    }

    /// A Hugging Face folder, every weight trainable or every weight frozen.
    ///
    /// # Errors
    /// As [`crate::checkpoint::load`] and [`Model::try_new`].
    pub fn load(
        folder: &std::path::Path,
        trained: bool,
        device: &candle_core::Device,
    ) -> crate::Result<Self> {
        Self::load_as(folder, trained, None, device)
    }

    /// [`NeuralScorer::load`] with every weight in one float type, whatever the folder has.
    ///
    /// # Errors
    /// As there.
    pub fn load_as(
        folder: &std::path::Path,
        trained: bool,
        dtype: Option<candle_core::DType>,
        device: &candle_core::Device,
    ) -> crate::Result<Self> {
        let found = crate::checkpoint::load(folder, dtype, device)?;
        let params = match trained {
            true => Params::new(found.weights)?,
            false => Params::frozen(found.weights)?,
        };
        Self::try_new(found.config, params)
    }

    /// The same network at temperature T; T is then part of π in scores and samples.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] unless T is finite and positive.
    pub fn with_temperature(mut self, temperature: f64) -> crate::Result<Self> {
        self.model.set_temperature(temperature)?;
        Ok(self)
    }

    /// Adds [`Channel::LogProb`]: a policy with a value head on its trunk. Needed where the output head is the embedding, which
    /// every network has; a network with another head and tied embeddings is otherwise taken for a critic or a reward model.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] without a language-model head.
    pub fn with_log_probs(mut self) -> crate::Result<Self> {
        let head = self.config().head_weight();
        if !self.model.params().contains(head) {
            return Err(crate::Error::Setting {
                field: "head",
                found: format!("no weight {head}"),
                expected: "a network with a language-model head".into(),
            });
        }
        if !self.channels.contains(&Channel::LogProb) {
            self.channels.insert(0, Channel::LogProb);
        }
        Ok(self)
    }

    /// Adds [`Channel::Entropy`], in nats.
    pub fn with_entropy(mut self) -> Self {
        self.channels.push(Channel::Entropy);
        self
    }

    /// Adds [`Channel::KlToReference`], in nats, exact over the vocabulary.
    pub fn with_reference(mut self, reference: Arc<NeuralScorer>) -> Self {
        self.reference = Some(reference);
        self.channels.push(Channel::KlToReference);
        self
    }

    /// The same scorer, which also gives [`Channel::KlFromReference`], exact over the vocabulary (TDPO).
    pub fn with_kl_from(mut self, reference: Arc<NeuralScorer>) -> Self {
        self.reference = Some(reference);
        self.channels.push(Channel::KlFromReference);
        self
    }

    /// Scores that many responses side by side. Changes time and memory, no number by more than rounding.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for 0.
    pub fn with_micro_batch(mut self, rows: usize) -> crate::Result<Self> {
        if rows == 0 {
            return Err(crate::Error::Setting {
                field: "micro_batch",
                found: "0".into(),
                expected: "at least 1".into(),
            });
        }
        self.micro_batch = rows;
        Ok(self)
    }

    /// Rounds the factors of products with weights so, in scores and in training ([`crate::model::ModelOptions::products`]).
    pub fn with_products(mut self, products: Products) -> Self {
        self.model.options_mut().products = products;
        self
    }

    /// Shares the rows of every batch out among ranks, each of which must make the same calls. Changes no number by more than rounding,
    /// and none at all where the number of groups stays; [`super::NeuralPolicy`] and learners made of this network share their work too.
    pub fn with_ranks(mut self, ranks: Ranks) -> Self {
        self.ranks = ranks;
        self
    }

    /// The shape of the network.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The network.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What divergences are measured from.
    pub(crate) fn reference(&self) -> Option<&NeuralScorer> {
        self.reference.as_deref()
    }

    /// The network, to freeze weights or to trade memory against time.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// The network as it is now, frozen, with the same channels. Trained weights are copied, frozen ones are shared.
    ///
    /// # Errors
    /// What candle reports.
    pub fn snapshot(&self) -> crate::Result<Self> {
        Ok(self.with_model(self.model.snapshot()?))
    }

    fn with_model(&self, model: Model) -> Self {
        Self {
            model,
            channels: self.channels.clone(),
            reference: self.reference.clone(),
            micro_batch: self.micro_batch,
            ranks: self.ranks.clone(),
        }
    }

    /// The same network with a fresh adapter on its weights, which are frozen; see [`Model::with_adapter`]. Several policies on one
    /// base: call it on a [`NeuralScorer::snapshot`] each.
    ///
    /// # Errors
    /// As [`Model::with_adapter`].
    pub fn with_adapter(mut self, config: LoraConfig, seeds: &SeedTree) -> crate::Result<Self> {
        self.model = self.model.with_adapter(config, seeds)?;
        Ok(self)
    }

    /// The same network with an adapter of these weights; see [`Model::with_adapter_weights`].
    ///
    /// # Errors
    /// As [`NeuralScorer::with_adapter`].
    pub fn with_adapter_weights(
        mut self,
        config: LoraConfig,
        weights: &std::collections::BTreeMap<String, Tensor>,
    ) -> crate::Result<Self> {
        self.model = self.model.with_adapter_weights(config, weights)?;
        Ok(self)
    }

    /// The same network with an adapter of PEFT's or [`NeuralScorer::save_adapter`]'s.
    ///
    /// # Errors
    /// As [`Model::load_adapter`].
    pub fn load_adapter(mut self, folder: &std::path::Path) -> crate::Result<Self> {
        self.model = self.model.load_adapter(folder)?;
        Ok(self)
    }

    /// Writes the adapter for PEFT; `base` is the name or folder of the base.
    ///
    /// # Errors
    /// As [`Model::save_adapter`].
    pub fn save_adapter(&self, folder: &std::path::Path, base: &str) -> crate::Result<()> {
        self.model.save_adapter(folder, base)
    }

    /// The base alone, frozen, in shared memory: π_ref of a policy that trains an adapter.
    ///
    /// # Errors
    /// What candle reports.
    pub fn without_adapter(&self) -> crate::Result<Self> {
        Ok(self.with_model(self.model.without_adapter()?))
    }

    /// Every weight as an independent copy, an adapter merged into its base, to start another network from.
    ///
    /// # Errors
    /// What candle reports.
    pub fn weights(&self) -> crate::Result<std::collections::BTreeMap<String, Tensor>> {
        let copy = |(name, t): (String, Tensor)| Ok((name, t.copy()?));
        self.model.merged_weights()?.into_iter().map(copy).collect()
    }

    /// Writes a Hugging Face folder that `transformers` loads: a causal language model, or a sequence classifier with one
    /// label where there is a reward head only. A value head has no place in it and is left out; an adapter is merged into its base.
    ///
    /// # Errors
    /// As [`crate::checkpoint::save`]; [`crate::Error::Setting`] for a network with a value head alone.
    pub fn save_hugging_face(
        &self,
        folder: &std::path::Path,
        carry: Option<&std::path::Path>,
    ) -> crate::Result<()> {
        let head = if self.channels.contains(&Channel::LogProb) {
            Head::CausalLm
        } else if self.channels.contains(&Channel::Reward) {
            Head::Classification { labels: 1 }
        } else {
            return Err(crate::Error::Setting {
                field: "head",
                found: "a value head alone".into(),
                expected: "a language-model or reward head, which the format has a place for"
                    .into(),
            });
        };
        let expected = self.config().tensors(head);
        let mut weights = self.model.merged_weights()?;
        weights.retain(|name, _| expected.contains_key(name));
        let dtype = weights
            .values()
            .next()
            .map_or(candle_core::DType::F32, Tensor::dtype);
        let contents = crate::checkpoint::Contents {
            config: self.config(),
            head,
            weights: &weights,
            dtype,
            shard_bytes: 5_000_000_000,
            carry,
        };
        crate::checkpoint::save(folder, &contents)
    }

    pub(super) fn request(&self, channels: &[Channel]) -> Result<Request<'_>> {
        request(channels, self.reference.as_deref().map(NeuralScorer::model))
    }

    /// Some channels of a batch, in micro-batches; where it is cut, this rank scores its groups and is given the others.
    pub(super) fn score(&self, batch: &[Episode], channels: &[Channel]) -> Result<PerToken> {
        let mut all = Scores::default();
        if !self.ranks.cuts() {
            self.score_rows(batch, channels, &mut all)?;
            return per_token(batch, channels, &all);
        }
        for rows in self.ranks.own_rows(batch) {
            self.score_rows(&batch[rows], channels, &mut all)?;
        }
        let all = self.ranks.gather_scores(all).map_err(backend)?;
        per_token(batch, channels, &all)
    }

    fn score_rows(&self, rows: &[Episode], channels: &[Channel], all: &mut Scores) -> Result<()> {
        let request = self.request(channels)?;
        for rows in rows.chunks(self.micro_batch) {
            let packed = pack_for(rows, channels, self.config()).map_err(backend)?;
            let forward = self.model.forward(&packed, &request, Keep::Sums);
            append(all, forward.map_err(backend)?.scores);
        }
        Ok(())
    }
}

impl TokenScorer for NeuralScorer {
    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.score(batch, &self.channels)
    }
}
