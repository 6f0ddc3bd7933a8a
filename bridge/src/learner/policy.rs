//! A policy that samples from the distribution it scores.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use rto::seq::{Channel, Decoder, Episode, PerToken, Policy, Ragged, StreamKey, TokenScorer};
use rto::{Error, Result, Token};

use super::{NeuralScorer, backend};
use crate::family::Head;
use crate::generate::{Engine, Sampled, Sampling, Stored, TensorEngine};
use crate::model::Products;

/// π(·|s) = softmax(logits/T) of a network, over responses that end with its end-of-sentence token or at a longest length.
///
/// Text is written with a key–value cache by the engines of [`crate::generate`], whose log-probabilities agree with
/// [`TokenScorer::scores`] to the rounding of `f32`, unless scores are of rounded products or text is written with rounded weights
/// ([`NeuralPolicy::with_sampling_weights`]); training compares scores with scores only.
#[derive(Debug)]
pub struct NeuralPolicy {
    pub(super) scorer: NeuralScorer,
    max_new_tokens: usize,
    side_by_side: usize,
    threads: usize,
    stored: Stored,
    /// Holds a copy of the weights in another layout, so it lives as long as the weights stay.
    engine: Mutex<Option<Arc<Writer>>>,
}

/// An engine for the device the weights are on.
#[derive(Debug)]
enum Writer {
    Slices(Box<Engine>),
    Tensors(Box<TensorEngine>),
}

impl NeuralPolicy {
    /// A policy whose responses have at most `max_new_tokens` tokens, the end-of-sentence token included.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] without a language-model head or for `max_new_tokens` = 0.
    pub fn try_new(scorer: NeuralScorer, max_new_tokens: usize) -> crate::Result<Self> {
        let refused = |field, found: &str, expected: &str| crate::Error::Setting {
            field,
            found: found.into(),
            expected: expected.into(),
        };
        if !scorer.channels.contains(&Channel::LogProb) {
            let expected = "a language-model head (embed_out.weight or lm_head.weight)";
            return Err(refused("head", "none for text", expected));
        }
        if max_new_tokens == 0 {
            return Err(refused("max_new_tokens", "0", "at least 1"));
        }
        Ok(Self {
            scorer,
            max_new_tokens,
            side_by_side: 64,
            threads: 1,
            stored: Stored::F32,
            engine: Mutex::new(None),
        })
    }

    /// Writes that many responses side by side, on that many threads. Neither changes a response.
    pub fn with_generation(mut self, side_by_side: usize, threads: usize) -> Self {
        (self.side_by_side, self.threads) = (side_by_side.max(1), threads);
        self.forget_engine();
        self
    }

    /// Writes with the weights of products stored like that: text then comes from another distribution q, near the π of [`TokenScorer::scores`], and
    /// [`Policy::draw`] tells log q. Weights in `f32` on a processor alone are stored otherwise; writing others is refused.
    pub fn with_sampling_weights(mut self, stored: Stored) -> Self {
        self.stored = stored;
        self.forget_engine();
        self
    }

    /// The network.
    pub fn scorer(&self) -> &NeuralScorer {
        &self.scorer
    }

    /// The longest response.
    pub fn max_new_tokens(&self) -> usize {
        self.max_new_tokens
    }

    /// The policy as it is now, frozen; trained weights are copied, frozen ones are shared.
    ///
    /// # Errors
    /// What candle reports.
    pub fn snapshot(&self) -> crate::Result<Self> {
        Ok(Self {
            scorer: self.scorer.snapshot()?,
            max_new_tokens: self.max_new_tokens,
            side_by_side: self.side_by_side,
            threads: self.threads,
            stored: self.stored,
            engine: Mutex::new(None),
        })
    }

    /// Drops the copy of the weights that generation reads, once they have moved.
    pub(super) fn forget_engine(&mut self) {
        *self
            .engine
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn engine(&self) -> crate::Result<Arc<Writer>> {
        let mut slot = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*slot {
            return Ok(engine.clone());
        }
        let config = self.scorer.config();
        let mut weights = self.scorer.model.merged_weights()?;
        let expected = config.tensors(Head::CausalLm);
        weights.retain(|name, _| expected.contains_key(name));
        // In a short type only the same roundings draw from what is scored.
        let wide = |t: &Tensor| matches!(t.dtype(), DType::F32 | DType::F64);
        let on_slices = weights.values().all(|t| t.device().is_cpu() && wide(t));
        let writer = match on_slices && !crate::device::tensors_asked() {
            true => {
                let engine = Engine::stored(config, Head::CausalLm, &weights, self.stored)?;
                Writer::Slices(Box::new(engine.with_threads(self.threads)?))
            }
            false if self.stored != Stored::F32 => {
                let found = format!("{:?} where candle's tensors write", self.stored);
                let expected = "f32, or a network in f32 on the processor";
                return Err(crate::Error::unexpected(
                    "sampling weights",
                    found,
                    expected,
                ));
            }
            false => Writer::Tensors(Box::new(TensorEngine::new(config, &weights)?)),
        };
        let writer = Arc::new(writer);
        *slot = Some(writer.clone());
        Ok(writer)
    }

    fn sampling(&self, decoder: Option<Decoder>) -> Sampling {
        Sampling {
            max_new_tokens: self.max_new_tokens,
            temperature: self.scorer.model.temperature(),
            decoder,
            ends: self.scorer.config().end_tokens().clone(),
            batch: self.side_by_side,
        }
    }

    /// A text one past the context could be written (its last token is never fed) but not scored.
    fn check_room(&self, prompts: &[Arc<[Token]>]) -> Result<()> {
        let context = self.scorer.config().max_positions();
        let room = context.saturating_sub(self.max_new_tokens);
        match prompts.iter().position(|p| p.len() > room) {
            None => Ok(()),
            Some(i) => Err(Error::config(
                format!("prompt {i}"),
                format!("{} tokens", prompts[i].len()),
                format!(
                    "at most {room}: {} more must fit into the context of {context}",
                    self.max_new_tokens
                ),
            )),
        }
    }

    /// Responses for evaluation, through a decoder (on top of the policy's temperature), with the log-probabilities of the
    /// truncated distribution. Never for training.
    ///
    /// # Errors
    /// As [`Policy::sample`]; those of [`Decoder::check`].
    pub fn decode(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
        decoder: Decoder,
    ) -> Result<Vec<Sampled>> {
        StreamKey::check_one_per_prompt(prompts, keys)?;
        self.check_room(prompts)?;
        self.write(prompts, Some(keys), Some(decoder))
    }

    /// The most likely token at every step.
    ///
    /// # Errors
    /// As [`Policy::sample`].
    pub fn greedy(&self, prompts: &[Arc<[Token]>]) -> Result<Vec<Sampled>> {
        self.check_room(prompts)?;
        self.write(prompts, None, None)
    }

    fn write(
        &self,
        prompts: &[Arc<[Token]>],
        keys: Option<&[StreamKey]>,
        decoder: Option<Decoder>,
    ) -> Result<Vec<Sampled>> {
        let sampling = self.sampling(decoder);
        let own = self.scorer.ranks.own_prompts(prompts.len());
        let (mine, keys) = (&prompts[own.clone()], keys.map(|keys| &keys[own]));
        let written = self.engine().and_then(|engine| match (&*engine, keys) {
            (Writer::Slices(engine), Some(keys)) => engine.sample(mine, keys, &sampling),
            (Writer::Slices(engine), None) => engine.greedy(mine, &sampling),
            (Writer::Tensors(engine), keys) => engine.sample(mine, keys, &sampling),
        });
        let all = written.and_then(|mine| self.scorer.ranks.gather_responses(prompts, mine));
        all.map_err(backend)
    }
}

impl TokenScorer for NeuralPolicy {
    fn channels(&self) -> &[Channel] {
        self.scorer.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scorer.scores(batch)
    }
}

impl Policy for NeuralPolicy {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        Ok(self.draw(prompts, keys)?.0)
    }

    fn draw(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
    ) -> Result<(Vec<Episode>, Option<Ragged>)> {
        StreamKey::check_one_per_prompt(prompts, keys)?;
        self.check_room(prompts)?;
        let written = self.write(prompts, Some(keys), None)?;
        let products = self.scorer.model.options().products;
        let other = self.stored != Stored::F32 || products != Products::F32;
        let sampler = other.then(|| Ragged::from_rows(written.iter().map(|s| &s.log_probs)));
        Ok((written.into_iter().map(|s| s.episode).collect(), sampler))
    }

    fn greedy(&self, prompts: &[Arc<[Token]>]) -> Result<Vec<Episode>> {
        let written = NeuralPolicy::greedy(self, prompts)?;
        Ok(written.into_iter().map(|s| s.episode).collect())
    }
}
