//! The weights as the kernels read them, made from a map of named tensors.

use super::kernels::Linear;
use crate::config::{GptNeoXConfig, Head, LlamaConfig, ModelConfig};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) gain: Vec<f32>,
    /// Empty where the norm is by root mean square.
    pub(super) shift: Vec<f32>,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) input_norm: Norm,
    pub(super) post_norm: Norm,
    pub(super) query_key_value: Linear,
    pub(super) dense: Linear,
    /// The gate of the Llama family's MLP.
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) embedding: Vec<f32>,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Norm,
    pub(super) head: Linear,
}

impl Weights {
    pub(super) fn new(
        config: &ModelConfig,
        head: Head,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        check_names(config, head, tensors)?;
        let source = Source { tensors };
        let embedding = source.values(config.embedding())?;
        let (hidden, vocabulary) = (config.hidden_size(), config.vocab_size());
        let layer = |i: usize| match config {
            ModelConfig::GptNeoX(config) => source.gpt_neox_layer(config, i),
            ModelConfig::Llama(config) => source.llama_layer(config, i),
        };
        let final_norm = match config {
            ModelConfig::GptNeoX(_) => "gpt_neox.final_layer_norm",
            ModelConfig::Llama(_) => "model.norm",
        };
        let head = match head {
            Head::CausalLm if config.tied_embeddings() => {
                Linear::new(&embedding, &[], vocabulary, hidden)
            }
            Head::CausalLm => {
                let name = config.head_weight().trim_end_matches(".weight");
                source.linear(&[name], vocabulary, hidden)?
            }
            Head::Classification { labels } => source.linear(&["score"], labels, hidden)?,
        };
        Ok(Self {
            layers: (0..config.n_layers()).map(layer).collect::<Result<_>>()?,
            final_norm: source.norm(final_norm)?,
            embedding,
            head,
        })
    }
}

/// Names and shapes, before anything is copied.
pub(super) fn check_names(
    config: &ModelConfig,
    head: Head,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    for (name, shape) in config.tensors(head) {
        match tensors.get(&name) {
            Some(tensor) if tensor.dims() == shape => {}
            Some(tensor) => {
                let found = tensor.dims();
                return Err(Error::request(
                    format!("tensor {name}"),
                    format!("found shape {found:?}, expected {shape:?}"),
                ));
            }
            None => {
                return Err(Error::request(
                    format!("tensor {name}"),
                    format!("not there, expected shape {shape:?}"),
                ));
            }
        }
    }
    Ok(())
}

struct Source<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
}

impl Source<'_> {
    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = &self.tensors[name];
        let values: Vec<f32> = tensor
            .detach()
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(Error::request(
                format!("tensor {name}"),
                format!("value {index} is NaN or infinite"),
            )),
            None => Ok(values),
        }
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm {
            gain: self.values(&format!("{name}.weight"))?,
            shift: match self.tensors.contains_key(&format!("{name}.bias")) {
                true => self.values(&format!("{name}.bias"))?,
                false => Vec::new(),
            },
        })
    }

    fn gpt_neox_layer(&self, config: &GptNeoXConfig, i: usize) -> Result<Layer> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let at = |name: &str| format!("gpt_neox.layers.{i}.{name}");
        Ok(Layer {
            input_norm: self.norm(&at("input_layernorm"))?,
            post_norm: self.norm(&at("post_attention_layernorm"))?,
            query_key_value: self.linear(
                &[&at("attention.query_key_value")],
                3 * hidden,
                hidden,
            )?,
            dense: self.linear(&[&at("attention.dense")], hidden, hidden)?,
            gate: None,
            up: self.linear(&[&at("mlp.dense_h_to_4h")], inner, hidden)?,
            down: self.linear(&[&at("mlp.dense_4h_to_h")], hidden, inner)?,
        })
    }

    /// Queries, keys and values are one map here.
    fn llama_layer(&self, config: &LlamaConfig, i: usize) -> Result<Layer> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.n_heads * config.head_dim;
        let keys = config.n_kv_heads * config.head_dim;
        let at = |name: &str| format!("model.layers.{i}.{name}");
        let [q, k, v] = ["q", "k", "v"].map(|part| at(&format!("self_attn.{part}_proj")));
        Ok(Layer {
            input_norm: self.norm(&at("input_layernorm"))?,
            post_norm: self.norm(&at("post_attention_layernorm"))?,
            query_key_value: self.linear(&[&q, &k, &v], queries + 2 * keys, hidden)?,
            dense: self.linear(&[&at("self_attn.o_proj")], hidden, queries)?,
            gate: Some(self.linear(&[&at("mlp.gate_proj")], inner, hidden)?),
            up: self.linear(&[&at("mlp.up_proj")], inner, hidden)?,
            down: self.linear(&[&at("mlp.down_proj")], hidden, inner)?,
        })
    }

    /// Maps of one input, one below the other; biases where they have some.
    fn linear(&self, names: &[&str], outputs: usize, inputs: usize) -> Result<Linear> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            let part = self.values(&format!("{name}.weight"))?;
            // One map, the usual case, is not copied.
            match weight.is_empty() {
                true => weight = part,
                false => weight.extend(part),
            }
            let name = format!("{name}.bias");
            if self.tensors.contains_key(&name) {
                bias.extend(self.values(&name)?);
            }
        }
        Ok(Linear::new(&weight, &bias, outputs, inputs))
    }
}
