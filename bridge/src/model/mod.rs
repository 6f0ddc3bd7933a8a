//! Transformers that score texts and pull gradients of scores back to their weights.
//!
//! A forward pass gives one number per response token ([`Scores`]); [`Model::backward`] takes the gradient of any function of
//! those numbers and adds to [`Gradients`]. On a CPU in `f32` both run on slices with hand-written derivatives; on other devices
//! and in other float types they are candle expressions. Either way the backward pass goes block by block.
//!
//! Scores of two responses of different lengths in one pass, without padding:
//!
//! ```
//! use candle_core::Device;
//! use rto::seed::SeedTree;
//! use rto_bridge::batch::Batch;
//! use rto_bridge::family::GptNeoXConfig;
//! use rto_bridge::model::{Heads, Model, Request};
//! use rto_bridge::params::Init;
//!
//! let config = GptNeoXConfig::tiny(11, 0); // eleven tokens, of which 0 ends a response
//! let heads = Heads { language_model: true, ..Heads::default() };
//! let model = Model::random(&config, heads, Init::Small, &SeedTree::new(1), &Device::Cpu)?;
//! let batch = Batch::new(&[(&[5, 6][..], &[1, 0][..]), (&[5][..], &[2, 3, 0][..])])?;
//! let log_probs = model.scores(&batch, &Request::log_probs())?.log_probs.expect("asked for");
//! assert_eq!(log_probs.len(), 5); // one per response token
//! assert!(log_probs.iter().all(|p| *p < 0.0));
//! # Ok::<(), rto_bridge::Error>(())
//! ```

mod adapter;
mod block;
mod pass;
mod scores;
mod slices;
pub(crate) mod tensor_block;
mod tensors;
#[cfg(test)]
mod tests;

pub use crate::family::{REWARD_WEIGHT, VALUE_BIAS, VALUE_WEIGHT};
pub use scores::{Forward, Keep, Request, Scores};

use crate::batch::Batch;
use crate::family::{Head, ModelConfig, Rotary};
use crate::lora::LoraConfig;
use crate::ops::buffer::Pool;
pub use crate::ops::gemm::Products;
use crate::ops::rotary::RotaryTable;
use crate::ops::simd::among_threads;
use crate::params::{Gradients, Init, Params};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use rto::seed::SeedTree;
use scores::Tape;
use std::collections::BTreeMap;

/// Choices that change memory and time, and results by no more than rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// Keep the blocks' inputs only and run each block again in the backward pass.
    pub checkpointing: bool,
    /// Keep a forward pass's logits for its backward pass where they take at most this many floats.
    pub keep_logits: usize,
    /// To what the factors of products with `f32` weights on the processor are rounded, forward and backward; weights, gradients and all else stay
    /// `f32`. With [`Products::Bf16`] results move by more than rounding in `f32`: scores by less than 10⁻² of a nat a token on a fresh network of width 520.
    pub products: Products,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            checkpointing: false,
            keep_logits: 1 << 24,
            products: Products::F32,
        }
    }
}

/// A decoder-only transformer with the heads whose weights it was given.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    params: Params,
    pool: Pool,
    options: ModelOptions,
    temperature: f64,
    adapter: Option<LoraConfig>,
    /// What [`Model::unmerge`] goes back to.
    unmerged: Option<Box<(Params, LoraConfig)>>,
}

/// Which heads a new model gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heads {
    /// Next-token distribution.
    pub language_model: bool,
    /// Value of a state.
    pub value: bool,
    /// Reward of a text.
    pub reward: bool,
}

impl Model {
    /// A model from weights under their Hugging Face names. The language-model head may be missing if another one is there.
    ///
    /// # Errors
    /// [`Error::Setting`] for an impossible configuration, [`Error::Weight`] for a missing, misshapen or unknown weight.
    pub fn try_new(config: impl Into<ModelConfig>, params: Params) -> Result<Self> {
        let config = config.into();
        config.check()?;
        params.check(&shapes(&config, heads(&config, &params)))?;
        Ok(Self {
            config,
            params,
            pool: Pool::default(),
            options: ModelOptions::default(),
            temperature: 1.0,
            adapter: None,
            unmerged: None,
        })
    }

    /// A model with freshly drawn weights.
    ///
    /// # Errors
    /// As [`Model::try_new`].
    pub fn random(
        config: impl Into<ModelConfig>,
        heads: Heads,
        init: Init,
        seeds: &SeedTree,
        device: &Device,
    ) -> Result<Self> {
        let config = config.into();
        config.check()?;
        let shapes = shapes(&config, heads);
        // Gains are drawn as they are stored, and applied as 1.
        let gain = 1.0 - config.plan().norm.offset as f32;
        let params = Params::random(&shapes, init, config.n_layers(), gain, seeds, device)?;
        Self::try_new(config, params)
    }

    /// The shape of the network.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The weights, to freeze some or to let the optimiser step.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Memory against time, as set.
    pub fn options(&self) -> ModelOptions {
        self.options
    }

    /// Memory against time.
    pub fn options_mut(&mut self) -> &mut ModelOptions {
        &mut self.options
    }

    /// T of π(·|s) = softmax(logits/T); part of every log-probability, entropy and divergence, not of [`Model::logits`].
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// Sets T.
    ///
    /// # Errors
    /// [`Error::Setting`] unless T is finite and positive.
    pub fn set_temperature(&mut self, temperature: f64) -> Result<()> {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Error::Setting {
                field: "temperature",
                found: temperature.to_string(),
                expected: "a finite number above 0".into(),
            });
        }
        self.temperature = temperature;
        Ok(())
    }

    /// Frees scratch memory that is kept for the next step.
    pub fn release_memory(&self) {
        self.pool.clear();
    }

    /// Scores of a batch; nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Batch`] for a token outside the vocabulary or a text longer than the context, [`Error::Request`] for a request of a
    /// head that the model lacks.
    pub fn scores(&self, batch: &Batch, request: &Request<'_>) -> Result<Scores> {
        Ok(self.forward(batch, request, Keep::Sums)?.scores)
    }

    /// Scores of a batch, with a view to a backward pass.
    ///
    /// # Errors
    /// As [`Model::scores`].
    pub fn forward(&self, batch: &Batch, request: &Request<'_>, keep: Keep) -> Result<Forward> {
        self.check(batch, request)?;
        if self.params.on_slices() && request.reference.is_none_or(|r| r.params.on_slices()) {
            let (scores, tape) = among_threads(|| self.forward_slices(batch, request, keep));
            return Ok(Forward {
                scores,
                tape: Tape::Slices(Box::new(tape)),
            });
        }
        let (scores, tape) = self.forward_tensors(batch, request, keep)?;
        Ok(Forward {
            scores,
            tape: Tape::Tensors(tape),
        })
    }

    /// Adds to `gradients` the gradient of a scalar whose gradient with respect to the scores is `grad`.
    ///
    /// `batch` and `request` must be those of the forward pass, and the weights the same. Frozen weights cost nothing, and nothing below
    /// the lowest trained block is computed.
    ///
    /// # Errors
    /// [`Error::Request`] where a part of `grad` was not requested or has another length than the scores.
    pub fn backward(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        forward: Forward,
        grad: &Scores,
        gradients: &mut Gradients,
    ) -> Result<()> {
        check_gradient(&forward.scores, grad)?;
        match forward.tape {
            Tape::Slices(tape) => {
                among_threads(|| self.backward_slices(batch, request, *tape, grad, gradients));
            }
            Tape::Tensors(tape) => self.backward_tensors(batch, request, tape, grad, gradients)?,
        }
        Ok(())
    }

    /// Next-token logits at every token, `[tokens, vocabulary]`, packed like the batch: for tests and small evaluations.
    ///
    /// # Errors
    /// As [`Model::scores`].
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        self.check(batch, &Request::log_probs())?;
        if self.params.on_slices() {
            self.logits_slices(batch)
        } else {
            self.logits_tensors(batch)
        }
    }

    fn check(&self, batch: &Batch, request: &Request<'_>) -> Result<()> {
        if !self.options.products.available() {
            return Err(Error::unexpected(
                "products",
                "bf16 on a processor without avx512_bf16",
                "f32",
            ));
        }
        for (row, r) in batch.rows().iter().enumerate() {
            let tokens = &batch.tokens()[r.start..r.start + r.len()];
            if let Some(token) = tokens
                .iter()
                .find(|&&t| t as usize >= self.config.vocab_size())
            {
                let what = format!(
                    "token {token}, expected one below the vocabulary size {}",
                    self.config.vocab_size()
                );
                return Err(Error::Batch { row, what });
            }
            let last = batch.positions()[r.start + r.len() - 1] as usize;
            if last >= self.config.max_positions() {
                let what = format!(
                    "position {last}, expected one below the context length {}",
                    self.config.max_positions()
                );
                return Err(Error::Batch { row, what });
            }
        }
        let lacks = |asked: bool, name: &str| asked && !self.params.contains(name);
        let missing = [
            (
                lacks(request.reads_vocabulary(), self.config.head_weight()),
                self.config.head_weight(),
            ),
            (lacks(request.values, VALUE_WEIGHT), VALUE_WEIGHT),
            (lacks(request.rewards, REWARD_WEIGHT), REWARD_WEIGHT),
        ];
        if let Some((_, name)) = missing.iter().find(|(missing, _)| *missing) {
            let found = format!("no weight {name}");
            return Err(Error::unexpected(
                "request",
                found,
                "a model with that head",
            ));
        }
        match request.reference {
            Some(reference) if reference.config.vocab_size() != self.config.vocab_size() => {
                let found = format!("a vocabulary of {}", reference.config.vocab_size());
                let expected = format!("{} as in the policy", self.config.vocab_size());
                Err(Error::unexpected("reference", found, expected))
            }
            Some(reference) => reference.check(batch, &Request::log_probs()),
            None => Ok(()),
        }
    }

    /// Cosines and sines of each of the network's rotations.
    fn rotary(&self, positions: &[u32]) -> Vec<RotaryTable> {
        let table = |r: &Rotary| RotaryTable::with_frequencies(positions, &r.frequencies());
        self.config.rotaries().iter().map(table).collect()
    }

    /// The lowest block that a gradient must reach; `layers` if only head and last norm are trained, `None` for the embedding.
    fn lowest_trained(&self) -> Option<usize> {
        let positions = self.config.positions();
        let tables = [Some(self.config.embedding()), positions];
        if tables
            .into_iter()
            .flatten()
            .any(|t| self.params.is_trained(t))
        {
            return None;
        }
        let layers = self.config.n_layers();
        let trained = |block: &usize| {
            let prefix = self.config.module(*block, "");
            self.params
                .trained()
                .any(|(name, _)| name.starts_with(&prefix))
        };
        Some((0..layers).find(trained).unwrap_or(layers))
    }
}

/// The heads whose weights are there.
fn heads(config: &ModelConfig, params: &Params) -> Heads {
    let heads = Heads {
        language_model: config.tied_embeddings() || params.contains(config.head_weight()),
        value: params.contains(VALUE_WEIGHT),
        reward: params.contains(REWARD_WEIGHT),
    };
    // Without any head, the complaint is about the one that is usually there.
    Heads {
        language_model: heads.language_model || heads == Heads::default(),
        ..heads
    }
}

fn shapes(config: &ModelConfig, heads: Heads) -> BTreeMap<String, Vec<usize>> {
    let hidden = config.hidden_size();
    let mut shapes = match heads.language_model {
        true => config.tensors(Head::CausalLm),
        false => config.trunk(),
    };
    if heads.value {
        shapes.insert(VALUE_WEIGHT.into(), vec![1, hidden]);
        shapes.insert(VALUE_BIAS.into(), vec![1]);
    }
    if heads.reward {
        shapes.insert(REWARD_WEIGHT.into(), vec![1, hidden]);
    }
    shapes
}

fn check_gradient(scores: &Scores, grad: &Scores) -> Result<()> {
    let pairs = [
        ("gradient of log_probs", &scores.log_probs, &grad.log_probs),
        ("gradient of entropy", &scores.entropy, &grad.entropy),
        ("gradient of kl", &scores.kl, &grad.kl),
        ("gradient of kl_from", &scores.kl_from, &grad.kl_from),
        ("gradient of values", &scores.values, &grad.values),
        (
            "gradient of final_values",
            &scores.final_values,
            &grad.final_values,
        ),
        ("gradient of rewards", &scores.rewards, &grad.rewards),
    ];
    for (field, score, grad) in pairs {
        let Some(grad) = grad else { continue };
        let expected = score.as_ref().map_or(0, Vec::len);
        if grad.len() != expected {
            let found = format!("{} numbers", grad.len());
            return Err(Error::unexpected(field, found, expected));
        }
        if let Some(bad) = grad.iter().find(|g| !g.is_finite()) {
            return Err(Error::unexpected(field, bad, "finite numbers"));
        }
    }
    Ok(())
}

/// Packed indices of the states that are read: every `s_h` of every text, then (if asked) every final state.
fn states(batch: &Batch, with_final: bool) -> Vec<usize> {
    let mut states: Vec<usize> = batch
        .rows()
        .iter()
        .flat_map(|r| (0..r.response).map(|h| r.state(h)))
        .collect();
    if with_final {
        states.extend(batch.rows().iter().map(|r| r.state(r.response)));
    }
    states
}
