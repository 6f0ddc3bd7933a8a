//! Networks with a low-rank adapter on a base that several may share.

use super::{Model, REWARD_WEIGHT, VALUE_BIAS, VALUE_WEIGHT, heads, shapes};
use crate::family::Head;
use crate::lora::{self, A_SUFFIX, B_SUFFIX, LoraConfig, is_factor};
use crate::ops::buffer::Pool;
use crate::params::Params;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use rto::seed::SeedTree;
use std::collections::BTreeMap;
use std::path::Path;

impl Model {
    /// The adapter, `None` for a network without one.
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref()
    }

    pub(super) fn adapter_scale(&self) -> Option<f64> {
        self.adapter.as_ref().map(LoraConfig::scale)
    }

    /// The same network with a fresh adapter, which changes nothing yet: `B` = 0. Every weight of the base is frozen where it is; the
    /// adapter and copies of a value or reward head are trained. The adapter is `f32` on a base of a shorter type.
    ///
    /// # Errors
    /// [`Error::Setting`] for an impossible configuration, a target that is no linear layer of a block, or a network that already has an
    /// adapter.
    pub fn with_adapter(self, config: LoraConfig, seeds: &SeedTree) -> Result<Self> {
        let shapes = self.adapter_shapes(&config)?;
        let table = self.params.get(self.config.embedding())?;
        let dtype = at_least_f32(table.dtype());
        let weights = LoraConfig::draw(&shapes, seeds, dtype, table.device())?;
        self.adapted(config, &weights)
    }

    /// The same network with an adapter whose weights are given under `{module}.lora_A.weight` and `{module}.lora_B.weight`; a head
    /// among them replaces the network's own. Trained and frozen as by [`Model::with_adapter`].
    ///
    /// # Errors
    /// As [`Model::with_adapter`]; [`Error::Weight`] for a missing, misshapen or unknown weight.
    pub fn with_adapter_weights(
        self,
        config: LoraConfig,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        self.adapter_shapes(&config)?;
        self.adapted(config, weights)
    }

    fn adapter_shapes(&self, config: &LoraConfig) -> Result<BTreeMap<String, Vec<usize>>> {
        if self.adapter.is_some() {
            return Err(Error::Setting {
                field: "lora",
                found: "a network with an adapter".into(),
                expected: "one without: merge it or leave it out first".into(),
            });
        }
        config.shapes(&self.config.tensors(Head::CausalLm))
    }

    fn adapted(mut self, config: LoraConfig, weights: &BTreeMap<String, Tensor>) -> Result<Self> {
        let is_head = |name: &str| [REWARD_WEIGHT, VALUE_WEIGHT, VALUE_BIAS].contains(&name);
        for (name, tensor) in self.params.tensors() {
            if is_head(&name) && !weights.contains_key(&name) {
                self.params.insert(&name, &tensor)?;
            }
        }
        self.params.freeze_where(|name| !is_head(name));
        for (name, tensor) in weights {
            if self.params.contains(name) && !is_head(name) {
                return Err(Error::Weight {
                    name: name.clone(),
                    what: "belongs to the base, expected an adapter's weights only".into(),
                });
            }
            self.params.insert(name, tensor)?;
        }
        let mut expected = shapes(&self.config, heads(&self.config, &self.params));
        expected.extend(config.shapes(&self.config.tensors(Head::CausalLm))?);
        self.params.check(&expected)?;
        (self.adapter, self.unmerged) = (Some(config), None);
        Ok(self)
    }

    /// The weights as they are now, all frozen, those frozen before in shared memory, with the same adapter, temperature and options.
    ///
    /// # Errors
    /// What candle reports.
    pub fn snapshot(&self) -> Result<Self> {
        Ok(self.with_params(self.params.snapshot()?, self.adapter.clone()))
    }

    /// The base alone, frozen, in shared memory: the reference policy of a learner that trains an adapter.
    ///
    /// # Errors
    /// What candle reports.
    pub fn without_adapter(&self) -> Result<Self> {
        let params = self.params.snapshot_where(|name| !is_factor(name))?;
        Ok(self.with_params(params, None))
    }

    fn with_params(&self, params: Params, adapter: Option<LoraConfig>) -> Self {
        Self {
            config: self.config.clone(),
            params,
            pool: Pool::default(),
            options: self.options,
            temperature: self.temperature,
            adapter,
            unmerged: None,
        }
    }

    /// Weights of a network without adapter that computes the same: `W + s B A` (in `f32` or better, then as wide as `W`) under the
    /// names of the base. Weights that are not adapted share memory with this network: copy before the next step to keep them.
    ///
    /// # Errors
    /// What candle reports.
    pub fn merged_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut weights = self.params.tensors();
        let Some(scale) = self.adapter_scale() else {
            return Ok(weights);
        };
        weights.retain(|name, _| !is_factor(name));
        for (name, a) in self.params.tensors() {
            let Some(module) = name.strip_suffix(A_SUFFIX) else {
                continue;
            };
            let b = self.params.get(&format!("{module}{B_SUFFIX}"))?.detach();
            let name = format!("{module}.weight");
            let base = self.params.get(&name)?.detach();
            let wide = base.to_dtype(a.dtype())?;
            let merged = (wide + (b.matmul(&a)? * scale)?)?;
            weights.insert(name, merged.to_dtype(base.dtype())?.detach());
        }
        Ok(weights)
    }

    /// The network without adapter that computes the same, all frozen, for scoring and generation without the low-rank products. The base
    /// and the adapter are kept, for [`Model::unmerge`].
    ///
    /// # Errors
    /// [`Error::Setting`] without an adapter; what candle reports.
    pub fn merge(mut self) -> Result<Self> {
        let merged = self.merged_weights()?;
        let Some(config) = self.adapter.take() else {
            return Err(not_there("a network without an adapter"));
        };
        let mut params = self.params.snapshot_where(|name| !is_factor(name))?;
        for name in self.params.names() {
            if let Some(module) = name.strip_suffix(A_SUFFIX) {
                let name = format!("{module}.weight");
                params.insert_frozen(&name, merged[&name].clone());
            }
        }
        let unmerged = std::mem::replace(&mut self.params, params);
        self.unmerged = Some(Box::new((unmerged, config)));
        Ok(self)
    }

    /// The network that was merged: the base bit for bit, since nothing is subtracted, and its adapter, trained as before.
    ///
    /// # Errors
    /// [`Error::Setting`] for a network that was not merged.
    pub fn unmerge(mut self) -> Result<Self> {
        let Some(unmerged) = self.unmerged.take() else {
            return Err(not_there("a network that was not merged"));
        };
        let (params, config) = *unmerged;
        (self.params, self.adapter) = (params, Some(config));
        Ok(self)
    }

    /// Writes the adapter as PEFT does (`adapter_config.json`, `adapter_model.safetensors`), in `f32` and in one step; a reward head goes with it where
    /// it is the only head, a value head is left out. `base` is the name or folder of the base that PEFT will look for.
    ///
    /// # Errors
    /// [`Error::Setting`] without an adapter or for a value head alone; [`Error::File`].
    pub fn save_adapter(&self, folder: &Path, base: &str) -> Result<()> {
        let Some(config) = &self.adapter else {
            return Err(not_there("a network without an adapter"));
        };
        lora::save(
            folder,
            config,
            (
                self.sequence_classifier()?,
                self.config.description().names.conv1d,
            ),
            base,
            &self.params,
        )
    }

    /// The same network with an adapter that PEFT or [`Model::save_adapter`] wrote. Trained and frozen as by [`Model::with_adapter`].
    ///
    /// # Errors
    /// [`Error::File`] naming the key or tensor that is damaged, missing, left over, misshapen or asks for what is not supported.
    pub fn load_adapter(self, folder: &Path) -> Result<Self> {
        let table = self.params.get(self.config.embedding())?;
        let dtype = at_least_f32(table.dtype());
        let mut network = self.config.tensors(Head::CausalLm);
        let reward = self.sequence_classifier()?;
        let conv1d = self.config.description().names.conv1d;
        if reward {
            network.insert(REWARD_WEIGHT.into(), vec![1, self.config.hidden_size()]);
        }
        let (config, mut weights) = lora::load(folder, &network, (reward, conv1d), table.device())?;
        for (name, tensor) in &mut weights {
            let to = match self.params.get(name) {
                Ok(own) => own.dtype(),
                Err(_) => dtype,
            };
            *tensor = tensor.to_dtype(to)?;
        }
        self.with_adapter_weights(config, &weights)
    }

    /// Whether this is what PEFT calls a sequence classifier, as against a language model.
    fn sequence_classifier(&self) -> Result<bool> {
        let heads = heads(&self.config, &self.params);
        // Tied embeddings are there in every network: only a reward head says what it is for.
        if heads.language_model && !(self.config.tied_embeddings() && heads.reward) {
            return Ok(false);
        }
        match heads.reward {
            true => Ok(true),
            false => Err(Error::Setting {
                field: "head",
                found: "a value head alone".into(),
                expected: "a language-model or reward head, which the format has a place for"
                    .into(),
            }),
        }
    }
}

/// The type of an adapter's weights on a base of this type.
fn at_least_f32(base: DType) -> DType {
    match base {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

fn not_there(found: &str) -> Error {
    Error::Setting {
        field: "lora",
        found: found.into(),
        expected: "one with an adapter".into(),
    }
}
