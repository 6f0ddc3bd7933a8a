//! From a map of named tensors to what the kernels read.

use super::kernels::Linear;
use crate::checkpoint::expected_tensors;
use crate::config::{GptNeoXConfig, Head};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) gain: Vec<f32>,
    pub(super) shift: Vec<f32>,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) input_norm: Norm,
    pub(super) post_norm: Norm,
    pub(super) query_key_value: Linear,
    pub(super) dense: Linear,
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
        config: &GptNeoXConfig,
        head: Head,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        check_names(config, head, tensors)?;
        let source = Source { tensors };
        let (hidden, inner, bias) = (
            config.hidden_size,
            config.intermediate_size,
            config.attention_bias,
        );
        let embedding = source.values("gpt_neox.embed_in.weight")?;
        let layer = |i: usize| -> Result<Layer> {
            let at = |name: &str| format!("gpt_neox.layers.{i}.{name}");
            Ok(Layer {
                input_norm: source.norm(&at("input_layernorm"))?,
                post_norm: source.norm(&at("post_attention_layernorm"))?,
                query_key_value: source.linear(
                    &at("attention.query_key_value"),
                    3 * hidden,
                    hidden,
                    bias,
                )?,
                dense: source.linear(&at("attention.dense"), hidden, hidden, bias)?,
                up: source.linear(&at("mlp.dense_h_to_4h"), inner, hidden, true)?,
                down: source.linear(&at("mlp.dense_4h_to_h"), hidden, inner, true)?,
            })
        };
        let head = match head {
            Head::CausalLm if config.tied_embeddings => {
                Linear::new(&embedding, &[], config.vocab_size, hidden)
            }
            Head::CausalLm => source.linear("embed_out", config.vocab_size, hidden, false)?,
            Head::Classification { labels } => source.linear("score", labels, hidden, false)?,
        };
        Ok(Self {
            layers: (0..config.n_layers).map(layer).collect::<Result<_>>()?,
            final_norm: source.norm("gpt_neox.final_layer_norm")?,
            embedding,
            head,
        })
    }
}

/// Names and shapes, before anything is copied.
pub(super) fn check_names(
    config: &GptNeoXConfig,
    head: Head,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    for (name, shape) in expected_tensors(config, head) {
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
            shift: self.values(&format!("{name}.bias"))?,
        })
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let weight = self.values(&format!("{name}.weight"))?;
        let bias = if bias {
            self.values(&format!("{name}.bias"))?
        } else {
            Vec::new()
        };
        Ok(Linear::new(&weight, &bias, outputs, inputs))
    }
}
