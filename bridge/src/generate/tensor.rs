//! The same network in candle tensors, for devices that [`super::Engine`] does not reach.

use super::engine::rotary_tables;
use super::run::{Sampled, Sampling, check_tokens, joined};
use super::weights::check_names;
use crate::decoder::Truncated;
use crate::family::{Head, ModelConfig, Rotary};
use crate::model::tensor_block::{Qkv, TensorBlocks, Weights, embed, final_norm};
use crate::ops::composite;
use crate::sampler;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rto::Token;
use rto::seq::{Episode, Finish, StreamKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A causal network on any device, in the float type of its weights; norms, softmax and logits are f32.
#[derive(Debug)]
pub struct TensorEngine {
    config: ModelConfig,
    weights: Named,
    /// Cosines and sines `[positions, 1, r/2]` of each rotation.
    rotary: Vec<(Tensor, Tensor)>,
    device: Device,
}

#[derive(Debug)]
struct Named(BTreeMap<String, Tensor>);

impl Weights for Named {
    fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        Ok(&self.0[name])
    }
}

/// Positions whose logits exist at once when a text is scored.
const ROWS: usize = 256;

/// Keys and values of each block, `[batch, heads, capacity, head_dim]`, in the places of their tokens.
type Cache = Vec<(Tensor, Tensor)>;

impl TensorEngine {
    /// An engine from weights under their Hugging Face names, all on one device and of one float type. They are shared, not copied.
    ///
    /// # Errors
    /// [`Error::Request`] naming a tensor that is missing or misshapen.
    pub fn new(config: impl Into<ModelConfig>, weights: &BTreeMap<String, Tensor>) -> Result<Self> {
        let config = config.into();
        check_names(&config, Head::CausalLm, weights)?;
        let embedding = &weights[config.embedding()];
        let (device, dtype) = (embedding.device().clone(), embedding.dtype());
        let table = |rotary: &Rotary| -> Result<(Tensor, Tensor)> {
            let frequencies = rotary.frequencies();
            let (cos, sin) = rotary_tables(&frequencies, config.max_positions());
            let shaped = |v: Vec<f32>| {
                let shape = (config.max_positions(), 1, frequencies.len());
                Tensor::from_vec(v, shape, &device)?.to_dtype(dtype)
            };
            Ok((shaped(cos)?, shaped(sin)?))
        };
        let shared = weights.iter().map(|(n, t)| (n.clone(), t.detach()));
        Ok(Self {
            rotary: config.rotaries().iter().map(table).collect::<Result<_>>()?,
            weights: Named(shared.collect()),
            config,
            device,
        })
    }

    /// Logits `[tokens][vocab]` after every token of a text.
    ///
    /// # Errors
    /// As [`super::Engine::logits`].
    pub fn logits(&self, text: &[Token]) -> Result<Vec<Vec<f32>>> {
        check_tokens(
            "text",
            text,
            self.config.vocab_size(),
            self.config.max_positions(),
        )?;
        let hidden = self.read(text)?;
        Ok(self.head(&hidden)?.squeeze(0)?.to_vec2()?)
    }

    /// Shape of the network.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// log π of every token of each response, as [`super::Engine::log_probs`].
    ///
    /// # Errors
    /// As there.
    pub fn log_probs(
        &self,
        pairs: &[(&[Token], &[Token])],
        temperature: f64,
    ) -> Result<Vec<Vec<f64>>> {
        let sampling = Sampling {
            temperature,
            ..Sampling::default()
        };
        sampling.check()?;
        let texts = joined(&self.config, pairs)?;
        let one = |(text, (prompt, response)): (&Vec<Token>, &(&[Token], &[Token]))| {
            if response.is_empty() {
                return Ok(Vec::new());
            }
            let fed = &text[..text.len() - 1];
            let hidden = self.read(fed)?;
            let mut row = Vec::with_capacity(response.len());
            // Logits of a few positions at a time.
            for (piece, targets) in response.chunks(ROWS).enumerate() {
                let start = prompt.len() - 1 + piece * ROWS;
                let logits = self.head(&hidden.narrow(1, start, targets.len())?)?;
                let logits: Vec<Vec<f32>> = logits.squeeze(0)?.to_vec2()?;
                for (logits, &target) in logits.iter().zip(targets) {
                    let normaliser = sampler::normaliser(logits, temperature)?;
                    row.push(normaliser.log_prob(logits[target as usize], temperature));
                }
            }
            Ok(row)
        };
        texts.iter().zip(pairs).map(one).collect()
    }

    /// One response per prompt, drawn as [`super::Engine::sample`] draws; greedy where no keys are given. Prompts of any lengths are written
    /// side by side, those of nearly one length together.
    ///
    /// # Errors
    /// As [`super::Engine::sample`].
    pub fn sample(
        &self,
        prompts: &[Arc<[Token]>],
        keys: Option<&[StreamKey]>,
        sampling: &Sampling,
    ) -> Result<Vec<Sampled>> {
        sampling.check()?;
        if keys.is_some_and(|keys| keys.len() != prompts.len()) {
            return Err(Error::request(
                "keys",
                format!("expected one per prompt ({})", prompts.len()),
            ));
        }
        for (i, prompt) in prompts.iter().enumerate() {
            check_tokens(
                &format!("prompt {i}"),
                prompt,
                self.config.vocab_size(),
                self.config.max_positions(),
            )?;
        }
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&i| prompts[i].len());
        let mut done: Vec<Option<Sampled>> = vec![None; prompts.len()];
        for group in order.chunks(sampling.batch) {
            self.write(group, prompts, keys, sampling, &mut done)?;
        }
        Ok(done
            .into_iter()
            .map(|d| d.expect("every prompt was written"))
            .collect())
    }

    fn write(
        &self,
        group: &[usize],
        prompts: &[Arc<[Token]>],
        keys: Option<&[StreamKey]>,
        sampling: &Sampling,
        done: &mut [Option<Sampled>],
    ) -> Result<()> {
        let longest = group.iter().map(|&i| prompts[i].len()).max().unwrap_or(0);
        let limit = |i: usize| {
            let room = self.config.max_positions() + 1 - prompts[i].len();
            sampling.max_new_tokens.min(room)
        };
        let mut rngs: Vec<_> = group.iter().map(|&i| keys.map(|k| k[i].rng())).collect();
        let mut texts = vec![(Vec::new(), Vec::new()); group.len()];
        let mut truncated = Truncated::default();
        // What is written last is never fed.
        let fed = group.iter().map(|&i| prompts[i].len() + limit(i) - 1);
        let capacity = fed.max().unwrap_or(longest);
        let mut cache = self.cache(group.len(), capacity)?;
        // Shorter prompts are filled up after their end, where no token of theirs looks, and what they write takes those places.
        let filled = group.iter().flat_map(|&i| {
            let last = prompts[i].last().copied().unwrap_or(0);
            let fill = std::iter::repeat_n(last, longest - prompts[i].len());
            prompts[i].iter().copied().chain(fill)
        });
        let ids = Tensor::from_iter(filled, &self.device)?.reshape((group.len(), longest))?;
        let ends = group.iter().zip(0u32..);
        let ends = ends.map(|(&i, row)| row * longest as u32 + prompts[i].len() as u32 - 1);
        let ends = Tensor::from_iter(ends, &self.device)?;
        let hidden = self.forward(&ids, &Places::Whole(longest), &mut cache)?;
        let mut hidden = hidden.flatten(0, 1)?.index_select(&ends, 0)?;
        let mut positions: Vec<usize> = group.iter().map(|&i| prompts[i].len()).collect();
        loop {
            let logits: Vec<Vec<f32>> = self.head(&hidden)?.to_vec2()?;
            let mut fed = Vec::with_capacity(group.len());
            for (row, &i) in group.iter().enumerate() {
                let (response, log_probs) = &mut texts[row];
                // A finished row is fed its last token again, in one place; nothing reads what comes out.
                if done[i].is_none() {
                    let (token, log_prob) = sampling.choose(
                        &logits[row],
                        response.len(),
                        rngs[row].as_mut(),
                        &mut truncated,
                    )?;
                    response.push(token);
                    log_probs.push(log_prob);
                    let finish = if sampling.ends.contains(token) {
                        Some(Finish::Eos)
                    } else {
                        (response.len() == limit(i)).then_some(Finish::Length)
                    };
                    if let Some(finish) = finish {
                        let episode =
                            Episode::try_new(prompts[i].clone(), response.clone(), finish)?;
                        done[i] = Some(Sampled {
                            episode,
                            log_probs: log_probs.clone(),
                        });
                    }
                }
                fed.push(*response.last().expect("just written"));
            }
            if group.iter().all(|&i| done[i].is_some()) {
                return Ok(());
            }
            let places: Vec<usize> = positions.iter().map(|p| (*p).min(capacity - 1)).collect();
            let ids = Tensor::from_vec(fed, (group.len(), 1), &self.device)?;
            hidden = self
                .forward(&ids, &Places::OneEach(places), &mut cache)?
                .squeeze(1)?;
            for (position, &i) in positions.iter_mut().zip(group) {
                *position += usize::from(done[i].is_none());
            }
        }
    }

    /// Room for keys and values of every block.
    fn cache(&self, batch: usize, capacity: usize) -> Result<Cache> {
        let (heads, d) = (self.config.n_kv_heads(), self.config.head_dim());
        let dtype = self.weights.weight(self.config.embedding())?.dtype();
        let zeros = || Tensor::zeros((batch, heads, capacity, d), dtype, &self.device);
        let blocks = 0..self.config.n_layers();
        blocks.map(|_| Ok((zeros()?, zeros()?))).collect()
    }

    /// Hidden states of one text after the last norm, `[1, tokens, hidden]`.
    fn read(&self, text: &[Token]) -> Result<Tensor> {
        let ids = Tensor::from_slice(text, (1, text.len()), &self.device)?;
        let mut cache = self.cache(1, text.len())?;
        self.forward(&ids, &Places::Whole(text.len()), &mut cache)
    }

    /// Hidden states `[batch, time, hidden]` after the last norm of tokens at their places.
    fn forward(&self, ids: &Tensor, places: &Places, cache: &mut Cache) -> Result<Tensor> {
        let (batch, time) = ids.dims2()?;
        let positions: Vec<u32> = match places {
            Places::Whole(n) => (0..batch).flat_map(|_| 0..*n as u32).collect(),
            Places::OneEach(places) => places.iter().map(|p| *p as u32).collect(),
        };
        let at = Tensor::from_slice(&positions, positions.len(), &self.device)?;
        let rows = |table: &Tensor| -> Result<Tensor> { Ok(table.index_select(&at, 0)?) };
        let turned = |(cos, sin): &(Tensor, Tensor)| Ok((rows(cos)?, rows(sin)?));
        let blocks = TensorBlocks {
            config: &self.config,
            weights: &self.weights,
            rotary: self.rotary.iter().map(turned).collect::<Result<_>>()?,
        };
        // Of blocks without a window, and of those with it.
        let layers = 0..self.config.n_layers();
        let windows: Vec<Option<usize>> = layers.map(|l| self.config.window(l)).collect();
        let mask = |windowed: bool| {
            let window = windows.iter().find(|w| w.is_some() == windowed);
            window.map(|w| places.mask(*w, &self.device)).transpose()
        };
        let masks = [mask(false)?, mask(true)?];
        let mut x = embed(&self.config, &self.weights, &ids.flatten_all()?, &positions)?;
        for (layer, cache) in cache.iter_mut().enumerate() {
            let mask = masks[usize::from(windows[layer].is_some())].as_ref();
            x = blocks.block(layer, &x, |qkv| {
                self.attention(&qkv, (batch, time), places, mask, cache)
            })?;
        }
        let hidden = final_norm(&self.config, &self.weights, &x)?;
        Ok(hidden.reshape((batch, time, self.config.hidden_size()))?)
    }

    /// Logits of hidden states `[.., hidden]`, in f32.
    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = TensorBlocks::logits(&self.config, &self.weights, hidden)?;
        Ok(logits.to_dtype(DType::F32)?)
    }

    /// Attended values `[batch · time, heads · head_dim]`; keys and values go to the cache.
    fn attention(
        &self,
        Qkv { q, k, v }: &Qkv,
        (batch, time): (usize, usize),
        places: &Places,
        mask: Option<&Tensor>,
        (keys, values): &mut (Tensor, Tensor),
    ) -> Result<Tensor> {
        let texts_of = |x: &Tensor| -> Result<Tensor> {
            let (_, heads, d) = x.dims3()?;
            let x = x.reshape((batch, time, heads, d))?;
            Ok(x.transpose(1, 2)?.contiguous()?)
        };
        let seen = places.seen();
        let put = |cache: &Tensor, new: &Tensor| -> Result<Tensor> {
            match places {
                Places::Whole(_) => cache.slice_set(new, 2, 0)?,
                Places::OneEach(places) => {
                    let places = Tensor::from_iter(places.iter().map(|p| *p as u32), &self.device)?;
                    let places = places
                        .reshape((batch, 1, 1, 1))?
                        .broadcast_as(new.shape())?;
                    cache.scatter_set(&places.contiguous()?, new, 2)?;
                }
            }
            Ok(cache.narrow(2, 0, seen)?)
        };
        let config = &self.config;
        let share = config.n_heads() / config.n_kv_heads();
        let k = composite::repeat_heads(&put(keys, &texts_of(k)?)?, share)?;
        let v = composite::repeat_heads(&put(values, &texts_of(v)?)?, share)?;
        let (scale, cap) = (config.attention_scale(), config.plan().score_cap);
        let mixed = composite::attention(&texts_of(q)?, &k, &v, mask, scale, cap)?;
        Ok(mixed.transpose(1, 2)?.reshape((batch * time, ()))?)
    }
}

/// Where the tokens of a pass stand in their texts.
enum Places {
    /// So many, from the first on, in every text.
    Whole(usize),
    /// One a text.
    OneEach(Vec<usize>),
}

impl Places {
    /// Keys that some query of the pass may see.
    fn seen(&self) -> usize {
        match self {
            Self::Whole(length) => *length,
            Self::OneEach(places) => places.iter().max().map_or(0, |p| p + 1),
        }
    }

    /// What is added to scores: `[time, keys]`, or `[batch, 1, 1, keys]` for one token each.
    fn mask(&self, window: Option<usize>, device: &Device) -> Result<Tensor> {
        let places = match self {
            Self::Whole(length) => {
                return Ok(composite::causal_mask(
                    *length,
                    0,
                    window,
                    DType::F32,
                    device,
                )?);
            }
            Self::OneEach(places) => places,
        };
        let keys = self.seen();
        let entry = |place: usize, key: usize| {
            let hidden = key > place || window.is_some_and(|w| place - key >= w);
            if hidden { f32::NEG_INFINITY } else { 0.0 }
        };
        let rows = places
            .iter()
            .flat_map(|place| (0..keys).map(|key| entry(*place, key)));
        let mask = Tensor::from_iter(rows, device)?;
        Ok(mask.reshape((places.len(), 1, 1, keys))?)
    }
}
