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

/// Keys and values of each layer so far, `[batch, heads, time, head_dim]`.
type Cache = Vec<Option<(Tensor, Tensor)>>;

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
        let ids = Tensor::from_slice(text, (1, text.len()), &self.device)?;
        let hidden = self.forward(&ids, 0, &mut vec![None; self.config.n_layers()])?;
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
            let ids = Tensor::from_slice(fed, (1, fed.len()), &self.device)?;
            let hidden = self.forward(&ids, 0, &mut vec![None; self.config.n_layers()])?;
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

    /// One response per prompt, drawn as [`super::Engine::sample`] draws; greedy where no keys are given. Prompts of one
    /// length are written side by side, so there is no padding here either.
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
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate() {
            check_tokens(
                &format!("prompt {i}"),
                prompt,
                self.config.vocab_size(),
                self.config.max_positions(),
            )?;
            by_length.entry(prompt.len()).or_default().push(i);
        }
        let mut done: Vec<Option<Sampled>> = vec![None; prompts.len()];
        for group in by_length.values().flat_map(|g| g.chunks(sampling.batch)) {
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
        let length = prompts[group[0]].len();
        let limit = sampling
            .max_new_tokens
            .min(self.config.max_positions() + 1 - length);
        let mut rngs: Vec<_> = group.iter().map(|&i| keys.map(|k| k[i].rng())).collect();
        let mut texts = vec![(Vec::new(), Vec::new()); group.len()];
        let mut truncated = Truncated::default();
        let mut cache = vec![None; self.config.n_layers()];
        let mut fed: Vec<Token> = group
            .iter()
            .flat_map(|&i| prompts[i].iter().copied())
            .collect();
        let mut position = 0;
        while group.iter().any(|&i| done[i].is_none()) {
            let width = fed.len() / group.len();
            let ids = Tensor::from_slice(&fed, (group.len(), width), &self.device)?;
            let hidden = self
                .forward(&ids, position, &mut cache)?
                .narrow(1, width - 1, 1)?;
            let logits: Vec<Vec<f32>> = self.head(&hidden)?.squeeze(1)?.to_vec2()?;
            position += width;
            fed.clear();
            for (row, &i) in group.iter().enumerate() {
                let (response, log_probs) = &mut texts[row];
                // A finished row is fed its last token again; nothing reads what comes out.
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
                        (response.len() == limit).then_some(Finish::Length)
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
        }
        Ok(())
    }

    /// Hidden states `[batch, time, hidden]` after the last norm of tokens that stand at `start` and after it.
    fn forward(&self, ids: &Tensor, start: usize, cache: &mut Cache) -> Result<Tensor> {
        let (batch, time) = ids.dims2()?;
        let rows = |table: &Tensor| -> Result<Tensor> {
            let part = table.narrow(0, start, time)?.unsqueeze(0)?;
            let dims = part.dims();
            let all = part.broadcast_as((batch, time, 1, dims[3]))?.contiguous()?;
            Ok(all.reshape((batch * time, 1, ()))?)
        };
        let turned = |(cos, sin): &(Tensor, Tensor)| Ok((rows(cos)?, rows(sin)?));
        let blocks = TensorBlocks {
            config: &self.config,
            weights: &self.weights,
            rotary: self.rotary.iter().map(turned).collect::<Result<_>>()?,
        };
        let positions: Vec<u32> = (0..batch)
            .flat_map(|_| (start..start + time).map(|p| p as u32))
            .collect();
        let mut x = embed(&self.config, &self.weights, &ids.flatten_all()?, &positions)?;
        for (layer, cache) in cache.iter_mut().enumerate() {
            x = blocks.block(layer, &x, |qkv| {
                self.attention(layer, &qkv, (batch, time), start, cache)
            })?;
        }
        let hidden = final_norm(&self.config, &self.weights, &x)?;
        Ok(hidden.reshape((batch, time, self.config.hidden_size()))?)
    }

    /// Logits of hidden states `[batch, time, hidden]`, in f32.
    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = TensorBlocks::logits(&self.config, &self.weights, hidden)?;
        Ok(logits.to_dtype(DType::F32)?)
    }

    /// Attended values `[batch · time, heads · head_dim]`; keys and values go to the cache.
    fn attention(
        &self,
        layer: usize,
        Qkv { q, k, v }: &Qkv,
        (batch, time): (usize, usize),
        start: usize,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let texts_of = |x: &Tensor| -> Result<Tensor> {
            let (_, heads, d) = x.dims3()?;
            let x = x.reshape((batch, time, heads, d))?;
            Ok(x.transpose(1, 2)?.contiguous()?)
        };
        let (mut k, mut v) = (texts_of(k)?, texts_of(v)?);
        if let Some((keys, values)) = cache.take() {
            k = Tensor::cat(&[&keys, &k], 2)?;
            v = Tensor::cat(&[&values, &v], 2)?;
        }
        *cache = Some((k.clone(), v.clone()));
        let config = &self.config;
        let share = config.n_heads() / config.n_kv_heads();
        let k = composite::repeat_heads(&k, share)?;
        let v = composite::repeat_heads(&v, share)?;
        let window = config.window(layer);
        let mask = match time == 1 && window.is_none_or(|w| start < w) {
            true => None,
            false => {
                let (wide, device) = (DType::F32, &self.device);
                Some(composite::causal_mask(time, start, window, wide, device)?)
            }
        };
        let (scale, cap) = (config.attention_scale(), config.plan().score_cap);
        let mixed = composite::attention(&texts_of(q)?, &k, &v, mask.as_ref(), scale, cap)?;
        Ok(mixed.transpose(1, 2)?.reshape((batch * time, ()))?)
    }
}
