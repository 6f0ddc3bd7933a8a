//! The weights as the kernels read them, made from a map of named tensors.

use super::linear::{Linear, Stored};
use crate::family::{Head, Layer, ModelConfig};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) gain: Vec<f32>,
    /// Empty where the norm is by root mean square.
    pub(super) shift: Vec<f32>,
}

/// What adds to the residual stream: x + W y, through a norm where there is one.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// Without its bias where there is no norm.
    pub(super) linear: Linear,
    /// Added to the stream before the product, as training does; empty where there is none, or a norm takes it.
    pub(super) bias: Vec<f32>,
    pub(super) norm: Option<Norm>,
}

/// One block. A norm that has no name is not there.
#[derive(Debug, Clone)]
pub(super) struct BlockWeights {
    pub(super) attention_norm: Option<Norm>,
    pub(super) mlp_norm: Option<Norm>,
    /// Norms of queries and keys.
    pub(super) qk_norms: Option<[Norm; 2]>,
    pub(super) query_key_value: Linear,
    pub(super) dense: Write,
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Write,
}

#[derive(Debug, Clone)]
pub(super) struct Weights {
    /// With its factor.
    pub(super) embedding: Vec<f32>,
    /// Learned positions, where there are some.
    pub(super) positions: Option<Vec<f32>>,
    pub(super) layers: Vec<BlockWeights>,
    pub(super) final_norm: Norm,
    pub(super) head: Linear,
}

impl Weights {
    pub(super) fn new(
        config: &ModelConfig,
        head: Head,
        tensors: &BTreeMap<String, Tensor>,
        stored: Stored,
    ) -> Result<Self> {
        check_names(config, head, tensors)?;
        let source = Source {
            config,
            tensors,
            stored,
        };
        let mut embedding = source.values(config.embedding())?;
        let (hidden, vocabulary) = (config.hidden_size(), config.vocab_size());
        let head = match head {
            Head::CausalLm if config.tied_embeddings() => {
                source.stored(&embedding, &[], vocabulary, hidden)
            }
            Head::CausalLm => {
                let weight = source.values(config.head_weight())?;
                source.stored(&weight, &[], vocabulary, hidden)
            }
            Head::Classification { labels } => {
                source.stored(&source.values("score.weight")?, &[], labels, hidden)
            }
        };
        if let Some(scale) = config.plan().embedding_scale {
            embedding.iter_mut().for_each(|x| *x *= scale as f32);
        }
        Ok(Self {
            layers: (0..config.n_layers())
                .map(|i| source.block(i))
                .collect::<Result<_>>()?,
            final_norm: source.norm(config.description().names.final_norm)?,
            positions: config
                .positions()
                .map(|name| source.values(name))
                .transpose()?,
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
    config: &'a ModelConfig,
    tensors: &'a BTreeMap<String, Tensor>,
    stored: Stored,
}

impl Source<'_> {
    fn stored(&self, weight: &[f32], bias: &[f32], outputs: usize, inputs: usize) -> Linear {
        Linear::new(weight, bias, outputs, inputs, self.stored)
    }

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

    /// The gain as it is applied.
    fn norm(&self, name: &str) -> Result<Norm> {
        let mut gain = self.values(&format!("{name}.weight"))?;
        let offset = self.config.plan().norm.offset as f32;
        if offset != 0.0 {
            gain.iter_mut().for_each(|w| *w += offset);
        }
        Ok(Norm {
            gain,
            shift: match self.tensors.contains_key(&format!("{name}.bias")) {
                true => self.values(&format!("{name}.bias"))?,
                false => Vec::new(),
            },
        })
    }

    fn block(&self, i: usize) -> Result<BlockWeights> {
        let (config, names) = (self.config, &self.config.description().names);
        let norm = |module: Option<&str>| {
            let norm = module.map(|module| self.norm(&config.module(i, module)));
            norm.transpose()
        };
        let qk_norms = match config.qk_norms() {
            None => None,
            Some([(q, _), (k, _)]) => Some([
                self.norm(&config.module(i, q))?,
                self.norm(&config.module(i, k))?,
            ]),
        };
        let [gate, up] = self.inner(i, &config.up_layers())?;
        Ok(BlockWeights {
            attention_norm: norm(names.attention_norm)?,
            mlp_norm: norm(names.mlp_norm)?,
            qk_norms,
            query_key_value: self.linear(i, &config.qkv_layers())?,
            dense: self.write(i, config.out_layer(), norm(names.attention_out_norm)?)?,
            gate,
            up: up.ok_or_else(|| Error::request("plan", "an MLP without an inner layer"))?,
            down: self.write(i, config.down_layer(), norm(names.mlp_out_norm)?)?,
        })
    }

    /// Gate, where there is one, and up: two layers, or one that holds both.
    fn inner(&self, i: usize, layers: &[Layer]) -> Result<[Option<Linear>; 2]> {
        let inner = self.config.intermediate_size();
        match layers {
            [packed] if self.config.plan().gated => {
                let (weight, bias) = self.stacked(i, layers)?;
                let part = |from: usize| {
                    let weight = &weight[from * packed.inputs..][..inner * packed.inputs];
                    let bias = if bias.is_empty() {
                        &[]
                    } else {
                        &bias[from..][..inner]
                    };
                    Some(self.stored(weight, bias, inner, packed.inputs))
                };
                Ok([part(0), part(inner)])
            }
            [gate, up] => Ok([
                Some(self.linear(i, &[*gate])?),
                Some(self.linear(i, &[*up])?),
            ]),
            layers => Ok([None, Some(self.linear(i, layers)?)]),
        }
    }

    fn write(&self, i: usize, layer: Layer, norm: Option<Norm>) -> Result<Write> {
        let (weight, bias) = self.stacked(i, &[layer])?;
        let (own, bias) = match norm {
            Some(_) => (bias, Vec::new()),
            None => (Vec::new(), bias),
        };
        let linear = self.stored(&weight, &own, layer.outputs, layer.inputs);
        Ok(Write { linear, bias, norm })
    }

    /// Maps of one input, one below the other; biases where they have some.
    fn linear(&self, i: usize, layers: &[Layer]) -> Result<Linear> {
        let (weight, bias) = self.stacked(i, layers)?;
        let outputs = layers.iter().map(|l| l.outputs).sum();
        Ok(self.stored(&weight, &bias, outputs, layers[0].inputs))
    }

    fn stacked(&self, i: usize, layers: &[Layer]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for layer in layers {
            let name = self.config.module(i, layer.module);
            let part = self.values(&format!("{name}.weight"))?;
            // One map, the usual case, is not copied.
            match weight.is_empty() {
                true => weight = part,
                false => weight.extend(part),
            }
            if layer.bias {
                bias.extend(self.values(&format!("{name}.bias"))?);
            }
        }
        Ok((weight, bias))
    }
}
