//! The same network in candle tensors, for devices that [`super::Engine`] does not reach.

use super::engine::rotary_tables;
use super::run::{Sampled, Sampling, check_tokens, joined};
use super::weights::check_names;
use crate::config::{Activation, GptNeoXConfig, Head, LlamaConfig, ModelConfig};
use crate::decoder::Truncated;
use crate::ops::composite;
use crate::sampler;
use crate::{Error, Result};
use candle_core::{D, DType, Device, Tensor};
use rto::Token;
use rto::seq::{Episode, Finish, StreamKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A causal network on any device, in the float type of its weights; norms, softmax and logits are f32.
#[derive(Debug)]
pub struct TensorEngine {
    config: ModelConfig,
    weights: BTreeMap<String, Tensor>,
    cos: Tensor,
    sin: Tensor,
    device: Device,
    dtype: DType,
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
        let frequencies = config.rotary_frequencies();
        let (cos, sin) = rotary_tables(&frequencies, config.max_positions());
        let shape = (config.max_positions(), frequencies.len());
        Ok(Self {
            cos: Tensor::from_vec(cos, shape, &device)?,
            sin: Tensor::from_vec(sin, shape, &device)?,
            weights: weights
                .iter()
                .map(|(n, t)| (n.clone(), t.detach()))
                .collect(),
            config,
            device,
            dtype,
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

    fn weight(&self, name: &str) -> &Tensor {
        &self.weights[name]
    }

    fn forward(&self, ids: &Tensor, start: usize, cache: &mut Cache) -> Result<Tensor> {
        let (batch, time) = ids.dims2()?;
        let mut x = self
            .weight(self.config.embedding())
            .index_select(&ids.flatten_all()?, 0)?;
        x = x.reshape((batch, time, self.config.hidden_size()))?;
        for (layer, cache) in cache.iter_mut().enumerate() {
            x = match &self.config {
                ModelConfig::GptNeoX(config) => {
                    self.gpt_neox_block(config, layer, &x, start, cache)?
                }
                ModelConfig::Llama(config) => self.llama_block(config, layer, &x, start, cache)?,
            };
        }
        match &self.config {
            ModelConfig::GptNeoX(c) => {
                self.layer_norm(&x, "gpt_neox.final_layer_norm", c.layer_norm_eps)
            }
            ModelConfig::Llama(c) => self.rms_norm(&x, "model.norm", c.rms_norm_eps),
        }
    }

    fn gpt_neox_block(
        &self,
        config: &GptNeoXConfig,
        layer: usize,
        x: &Tensor,
        start: usize,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let at = |name: &str| format!("gpt_neox.layers.{layer}.{name}");
        let norm = |x: &Tensor, name: &str| self.layer_norm(x, &at(name), config.layer_norm_eps);
        let (batch, time, _) = x.dims3()?;
        let (heads, head_dim) = (config.n_heads, config.head_dim());
        let normed = norm(x, "input_layernorm")?;
        let qkv = self.linear(&normed, &at("attention.query_key_value"))?;
        let qkv = qkv
            .reshape((batch, time, heads, 3 * head_dim))?
            .transpose(1, 2)?;
        let part = |i: usize| qkv.narrow(3, i * head_dim, head_dim);
        let mixed = self.attention([part(0)?, part(1)?, part(2)?], start, cache)?;
        let middle = (x + self.linear(&mixed, &at("attention.dense"))?)?;
        let source = if config.parallel_residual { x } else { &middle };
        let normed = norm(source, "post_attention_layernorm")?;
        let inner = self.linear(&normed, &at("mlp.dense_h_to_4h"))?;
        let inner = match config.activation {
            Activation::Gelu => inner.gelu_erf()?,
            Activation::GeluTanh => inner.gelu()?,
        };
        Ok((middle + self.linear(&inner, &at("mlp.dense_4h_to_h"))?)?)
    }

    fn llama_block(
        &self,
        config: &LlamaConfig,
        layer: usize,
        x: &Tensor,
        start: usize,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let norm = |x: &Tensor, name: &str| self.rms_norm(x, &at(name), config.rms_norm_eps);
        let (batch, time, _) = x.dims3()?;
        let normed = norm(x, "input_layernorm")?;
        let part = |name: &str, heads: usize| -> Result<Tensor> {
            let y = self.linear(&normed, &at(name))?;
            Ok(y.reshape((batch, time, heads, config.head_dim))?
                .transpose(1, 2)?)
        };
        let parts = [
            part("self_attn.q_proj", config.n_heads)?,
            part("self_attn.k_proj", config.n_kv_heads)?,
            part("self_attn.v_proj", config.n_kv_heads)?,
        ];
        let mixed = self.attention(parts, start, cache)?;
        let middle = (x + self.linear(&mixed, &at("self_attn.o_proj"))?)?;
        let normed = norm(&middle, "post_attention_layernorm")?;
        let gate = self.linear(&normed, &at("mlp.gate_proj"))?;
        let up = self.linear(&normed, &at("mlp.up_proj"))?;
        let gated = composite::swiglu(&gate, &up)?;
        Ok((middle + self.linear(&gated, &at("mlp.down_proj"))?)?)
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let name = self.config.head_weight().trim_end_matches(".weight");
        Ok(self.linear(hidden, name)?.to_dtype(DType::F32)?)
    }

    fn layer_norm(&self, x: &Tensor, name: &str, eps: f64) -> Result<Tensor> {
        let gain = self
            .weight(&format!("{name}.weight"))
            .to_dtype(DType::F32)?;
        let shift = self.weight(&format!("{name}.bias")).to_dtype(DType::F32)?;
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        let normed = centred
            .broadcast_div(&scale)?
            .broadcast_mul(&gain)?
            .broadcast_add(&shift)?;
        Ok(normed.to_dtype(self.dtype)?)
    }

    fn rms_norm(&self, x: &Tensor, name: &str, eps: f64) -> Result<Tensor> {
        let gain = self.weight(&format!("{name}.weight"));
        Ok(composite::rms_norm(x, gain, eps)?)
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let bias = self.weights.get(&format!("{name}.bias"));
        let weight = self.weight(&format!("{name}.weight"));
        Ok(composite::linear(x, weight, bias)?)
    }

    /// Attended values `[batch, time, heads · head_dim]` of queries, keys and values `[batch, heads, time, head_dim]`.
    fn attention(
        &self,
        [q, k, v]: [Tensor; 3],
        start: usize,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let (batch, heads, time, head_dim) = q.dims4()?;
        let group = heads / k.dim(1)?;
        let q = self.rotate(&q, start)?;
        let (mut k, mut v) = (self.rotate(&k, start)?, v.contiguous()?);
        if let Some((keys, values)) = cache.take() {
            k = Tensor::cat(&[&keys, &k], 2)?;
            v = Tensor::cat(&[&values, &v], 2)?;
        }
        *cache = Some((k.clone(), v.clone()));
        let k = composite::repeat_heads(&k, group)?;
        let v = composite::repeat_heads(&v, group)?;
        let scores = (q
            .contiguous()?
            .matmul(&k.t()?.contiguous()?)?
            .to_dtype(DType::F32)?
            / (head_dim as f64).sqrt())?;
        let unmasked = time == 1 && self.config.window().is_none_or(|w| start < w);
        let scores = match unmasked {
            true => scores,
            false => scores.broadcast_add(&self.mask(time, start)?)?,
        };
        let shifted = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let weights = shifted
            .broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?
            .to_dtype(self.dtype)?;
        let mixed = weights.matmul(&v)?.transpose(1, 2)?;
        Ok(mixed.reshape((batch, time, heads * head_dim))?)
    }

    /// −∞ where a key lies after the query or out of its window.
    fn mask(&self, time: usize, start: usize) -> Result<Tensor> {
        let total = start + time;
        let window = self.config.window().unwrap_or(usize::MAX);
        let value = |q: usize, k: usize| {
            if k > start + q || start + q - k >= window {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        };
        let values: Vec<f32> = (0..time)
            .flat_map(|q| (0..total).map(move |k| value(q, k)))
            .collect();
        Ok(Tensor::from_vec(values, (time, total), &self.device)?)
    }

    /// Half-split rotation of the first dimensions, as many as the tables have.
    fn rotate(&self, x: &Tensor, start: usize) -> Result<Tensor> {
        let time = x.dim(2)?;
        let table = |t: &Tensor| t.narrow(0, start, time)?.to_dtype(self.dtype);
        let turned = composite::rotate(x, &table(&self.cos)?, &table(&self.sin)?)?;
        Ok(turned.contiguous()?)
    }
}
