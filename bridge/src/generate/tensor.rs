//! The same network in candle tensors, for devices that [`super::Engine`] does not reach.

use super::engine::rotary_tables;
use super::run::{Sampled, Sampling, check_tokens, joined};
use super::weights::check_names;
use crate::config::{Activation, GptNeoXConfig, Head};
use crate::decoder::Truncated;
use crate::sampler;
use crate::{Error, Result};
use candle_core::{D, DType, Device, Tensor};
use rto::Token;
use rto::seq::{Episode, Finish, StreamKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A causal GPT-NeoX network on any device, in the float type of its weights; norms, softmax and logits are f32.
#[derive(Debug)]
pub struct TensorEngine {
    config: GptNeoXConfig,
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
    /// From weights under their Hugging Face names, all on one device and of one float type. They are shared, not copied.
    ///
    /// # Errors
    /// [`Error::Request`] naming a tensor that is missing or misshapen.
    pub fn new(config: &GptNeoXConfig, weights: &BTreeMap<String, Tensor>) -> Result<Self> {
        check_names(config, Head::CausalLm, weights)?;
        let embedding = &weights["gpt_neox.embed_in.weight"];
        let (device, dtype) = (embedding.device().clone(), embedding.dtype());
        let (cos, sin) = rotary_tables(config);
        let shape = (config.max_positions, config.rotary_dims / 2);
        Ok(Self {
            cos: Tensor::from_vec(cos, shape, &device)?,
            sin: Tensor::from_vec(sin, shape, &device)?,
            weights: weights
                .iter()
                .map(|(n, t)| (n.clone(), t.detach()))
                .collect(),
            config: config.clone(),
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
            self.config.vocab_size,
            self.config.max_positions,
        )?;
        let ids = Tensor::from_slice(text, (1, text.len()), &self.device)?;
        let hidden = self.forward(&ids, 0, &mut vec![None; self.config.n_layers])?;
        Ok(self.head(&hidden)?.squeeze(0)?.to_vec2()?)
    }

    /// Shape of the network.
    pub fn config(&self) -> &GptNeoXConfig {
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
            let hidden = self.forward(&ids, 0, &mut vec![None; self.config.n_layers])?;
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
                self.config.vocab_size,
                self.config.max_positions,
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
            .min(self.config.max_positions + 1 - length);
        let mut rngs: Vec<_> = group.iter().map(|&i| keys.map(|k| k[i].rng())).collect();
        let mut texts = vec![(Vec::new(), Vec::new()); group.len()];
        let mut truncated = Truncated::default();
        let mut cache = vec![None; self.config.n_layers];
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
                    let finish = if Some(token) == sampling.eos {
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
            .weight("gpt_neox.embed_in.weight")
            .index_select(&ids.flatten_all()?, 0)?;
        x = x.reshape((batch, time, self.config.hidden_size))?;
        for (layer, cache) in cache.iter_mut().enumerate() {
            let at = |name: &str| format!("gpt_neox.layers.{layer}.{name}");
            let normed = self.norm(&x, &at("input_layernorm"))?;
            let attention = self.attention(&normed, &at("attention"), start, cache)?;
            let middle = (&x + &attention)?;
            let source = if self.config.parallel_residual {
                &x
            } else {
                &middle
            };
            let normed = self.norm(source, &at("post_attention_layernorm"))?;
            let inner = self.linear(&normed, &at("mlp.dense_h_to_4h"), true)?;
            let inner = match self.config.activation {
                Activation::Gelu => inner.gelu_erf()?,
                Activation::GeluTanh => inner.gelu()?,
            };
            x = (middle + self.linear(&inner, &at("mlp.dense_4h_to_h"), true)?)?;
        }
        self.norm(&x, "gpt_neox.final_layer_norm")
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let name = if self.config.tied_embeddings {
            "gpt_neox.embed_in"
        } else {
            "embed_out"
        };
        Ok(self.linear(hidden, name, false)?.to_dtype(DType::F32)?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let gain = self
            .weight(&format!("{name}.weight"))
            .to_dtype(DType::F32)?;
        let shift = self.weight(&format!("{name}.bias")).to_dtype(DType::F32)?;
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale =
            (centred.sqr()?.mean_keepdim(D::Minus1)? + self.config.layer_norm_eps)?.sqrt()?;
        let normed = centred
            .broadcast_div(&scale)?
            .broadcast_mul(&gain)?
            .broadcast_add(&shift)?;
        Ok(normed.to_dtype(self.dtype)?)
    }

    fn linear(&self, x: &Tensor, name: &str, bias: bool) -> Result<Tensor> {
        let (batch, time, width) = x.dims3()?;
        let y = x
            .reshape((batch * time, width))?
            .matmul(&self.weight(&format!("{name}.weight")).t()?)?;
        let y = y.reshape((batch, time, ()))?;
        Ok(if bias {
            y.broadcast_add(self.weight(&format!("{name}.bias")))?
        } else {
            y
        })
    }

    fn attention(
        &self,
        x: &Tensor,
        name: &str,
        start: usize,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let (batch, time, _) = x.dims3()?;
        let (heads, head_dim) = (self.config.n_heads, self.config.head_dim());
        let qkv = self.linear(
            x,
            &format!("{name}.query_key_value"),
            self.config.attention_bias,
        )?;
        let qkv = qkv
            .reshape((batch, time, heads, 3 * head_dim))?
            .transpose(1, 2)?;
        let part = |i: usize| qkv.narrow(3, i * head_dim, head_dim);
        let q = self.rotate(&part(0)?, start)?;
        let mut k = self.rotate(&part(1)?, start)?;
        let mut v = part(2)?.contiguous()?;
        if let Some((keys, values)) = cache.take() {
            k = Tensor::cat(&[&keys, &k], 2)?;
            v = Tensor::cat(&[&values, &v], 2)?;
        }
        *cache = Some((k.clone(), v.clone()));
        let scores = (q
            .contiguous()?
            .matmul(&k.t()?.contiguous()?)?
            .to_dtype(DType::F32)?
            / (head_dim as f64).sqrt())?;
        let scores = if time > 1 {
            scores.broadcast_add(&self.mask(time, start)?)?
        } else {
            scores
        };
        let shifted = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let weights = shifted
            .broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?
            .to_dtype(self.dtype)?;
        let mixed =
            weights
                .matmul(&v)?
                .transpose(1, 2)?
                .reshape((batch, time, self.config.hidden_size))?;
        self.linear(&mixed, &format!("{name}.dense"), self.config.attention_bias)
    }

    /// −∞ where a key lies after the query.
    fn mask(&self, time: usize, start: usize) -> Result<Tensor> {
        let total = start + time;
        let value = |q: usize, k: usize| {
            if k > start + q {
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

    /// Half-split rotation of the first `rotary_dims` dimensions.
    fn rotate(&self, x: &Tensor, start: usize) -> Result<Tensor> {
        let (time, head_dim) = (x.dim(2)?, x.dim(3)?);
        let half = self.config.rotary_dims / 2;
        if half == 0 {
            return Ok(x.contiguous()?);
        }
        let table = |t: &Tensor| t.narrow(0, start, time)?.to_dtype(self.dtype);
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rest = head_dim - 2 * half;
        Ok(if rest == 0 {
            Tensor::cat(&[first, second], 3)?
        } else {
            Tensor::cat(&[first, second, x.narrow(3, 2 * half, rest)?], 3)?
        })
    }
}
