//! Networks for the kernels of `rto-device`: the same descriptions of families, in the words of a device.
//!
//! ```
//! use rto_bridge::family::GptNeoXConfig;
//! use rto_bridge::model::Heads;
//! use rto_bridge::on_device;
//!
//! let heads = Heads { language_model: true, ..Heads::default() };
//! let network = on_device::network(&GptNeoXConfig::tiny(11, 0).into(), heads, None)?;
//! assert_eq!(network.blocks.len(), 1);
//! assert_eq!(network.tensors()["embed_out.weight"], 11 * 8);
//! # Ok::<(), rto_bridge::Error>(())
//! ```

use crate::device::failed;
use crate::family::{
    Activation, Head, Layer, ModelConfig, NormKind, REWARD_WEIGHT, VALUE_BIAS, VALUE_WEIGHT,
};
use crate::lora::{A_SUFFIX, LoraConfig};
use crate::model::Heads;
use crate::params::Params;
use crate::{Error, Result};
use candle_core::DType;
use rto_device::network::{Adapter, Block, Linear, Network, Norm, Parameters};
use rto_device::{Kernels, Scoring};
use std::collections::BTreeMap;

/// A network with these heads, and an adapter, as a device runs it.
///
/// # Errors
/// [`Error::Setting`] for what devices have no kernels for (a layer norm whose gain has an offset; heads of more than 256 dimensions) and
/// for an adapter's targets that are no linear layers of a block.
pub fn network(
    config: &ModelConfig,
    heads: Heads,
    adapter: Option<&LoraConfig>,
) -> Result<Network> {
    let plan = config.plan();
    let layout = config.head_layout();
    let refuse = |field, found: String, expected: &str| {
        Err(Error::Setting {
            field,
            found,
            expected: expected.into(),
        })
    };
    if plan.norm.kind == NormKind::Layer && plan.norm.offset != 0.0 {
        let found = format!("a layer norm with gain {} + w", plan.norm.offset);
        return refuse("norm", found, "one without an offset, on a device");
    }
    if layout.head_dim > 256 {
        let found = layout.head_dim.to_string();
        return refuse("head_dim", found, "at most 256, on a device");
    }
    let adapted = Adapted::new(config, adapter)?;
    Ok(Network {
        vocabulary: config.vocab_size(),
        width: config.hidden_size(),
        inner: config.intermediate_size(),
        positions: config.max_positions(),
        embedding: config.embedding().into(),
        embedding_scale: plan.embedding_scale.unwrap_or(1.0) as f32,
        places: config.positions().map(Into::into),
        heads: rto_device::Heads {
            row: layout.row,
            head_dim: layout.head_dim,
            heads: layout.heads,
            kv_heads: layout.kv_heads,
            step: layout.step,
            offsets: layout.offsets,
            dims: 0,
            neighbours: false,
        },
        norm: match plan.norm.kind {
            NormKind::Layer => rto_device::network::NormKind::Layer,
            NormKind::Rms => rto_device::network::NormKind::Rms {
                offset: plan.norm.offset as f32,
            },
        },
        epsilon: plan.norm.epsilon as f32,
        rotations: config
            .rotaries()
            .iter()
            .map(|rotary| rotary.frequencies())
            .collect(),
        parallel: plan.parallel,
        activation: match plan.activation {
            Activation::Gelu => rto_device::Activation::Gelu,
            Activation::GeluTanh => rto_device::Activation::GeluTanh,
            Activation::Silu => rto_device::Activation::Silu,
        },
        gated: plan.gated,
        blocks: (0..config.n_layers())
            .map(|layer| block(config, layer, &adapted))
            .collect(),
        last_norm: Norm {
            name: config.description().names.final_norm.into(),
            width: config.hidden_size(),
        },
        head: heads.language_model.then(|| config.head_weight().into()),
        logit_scale: plan.logit_scale.unwrap_or(1.0) as f32,
        logit_cap: plan.logit_cap.map(|cap| cap as f32),
        value: heads
            .value
            .then(|| [VALUE_WEIGHT.into(), VALUE_BIAS.into()]),
        reward: heads.reward.then(|| REWARD_WEIGHT.into()),
    })
}

/// The layers that an adapter takes.
struct Adapted {
    factors: BTreeMap<String, Vec<usize>>,
    adapter: Option<Adapter>,
}

impl Adapted {
    fn new(config: &ModelConfig, lora: Option<&LoraConfig>) -> Result<Self> {
        let tensors = config.tensors(Head::CausalLm);
        let factors = lora.map(|lora| lora.shapes(&tensors)).transpose()?;
        Ok(Self {
            factors: factors.unwrap_or_default(),
            adapter: lora.map(|lora| Adapter {
                rank: lora.rank,
                scale: lora.scale() as f32,
            }),
        })
    }

    fn of(&self, name: &str) -> Option<Adapter> {
        let taken = self.factors.contains_key(&format!("{name}{A_SUFFIX}"));
        self.adapter.filter(|_| taken)
    }
}

fn block(config: &ModelConfig, layer: usize, adapted: &Adapted) -> Block {
    let (plan, names) = (config.plan(), &config.description().names);
    let norm = |module: Option<&str>, width: usize| {
        module.map(|module| Norm {
            name: config.module(layer, module),
            width,
        })
    };
    let stream = |module| norm(module, config.hidden_size());
    let linear = |l: Layer| {
        let name = config.module(layer, l.module);
        Linear {
            adapter: adapted.of(&name),
            name,
            outputs: l.outputs,
            inputs: l.inputs,
            bias: l.bias,
        }
    };
    Block {
        attention_norm: stream(names.attention_norm),
        attention_out_norm: stream(names.attention_out_norm),
        mlp_norm: stream(names.mlp_norm),
        mlp_out_norm: stream(names.mlp_out_norm),
        qk_norms: config.qk_norms().map(|norms| {
            norms.map(|(module, width)| Norm {
                name: config.module(layer, module),
                width,
            })
        }),
        qkv: config.qkv_layers().into_iter().map(linear).collect(),
        out: linear(config.out_layer()),
        up: config.up_layers().into_iter().map(linear).collect(),
        down: linear(config.down_layer()),
        rotation: config.rotary_of(layer),
        scoring: Scoring {
            scale: config.attention_scale() as f32,
            cap: plan.score_cap.map(|cap| cap as f32),
            window: config.window(layer),
        },
    }
}

/// Weights on a device, trained and frozen as they are here; in bf16 those that are trained keep an exact `f32` master. What is frozen here
/// and there already, in `base`, is shared and not copied.
///
/// # Errors
/// [`Error::Weight`] for a weight of the network that is not there; [`Error::Device`] for what the device reports.
pub fn parameters(
    kernels: &Kernels<'_>,
    network: &Network,
    params: &Params,
    base: Option<&Parameters>,
) -> Result<Parameters> {
    let tensors = network.tensors();
    let trained = |name: &str| params.is_trained(name);
    let there = |name: &str| base.is_some_and(|base| base.contains(name)) && !trained(name);
    let on_device = match base {
        Some(base) => {
            // A trained weight that the base has too, as a head of its own, is not the base's.
            let base = base.only(there);
            Parameters::beside(&base, kernels, &tensors, trained)
        }
        None => Parameters::alloc(kernels, &tensors, trained),
    };
    let on_device = on_device.map_err(failed)?;
    for name in tensors.keys().filter(|name| !there(name)) {
        let tensor = params.get(name)?.detach().to_dtype(DType::F32)?;
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        on_device.set(kernels, name, &values).map_err(failed)?;
    }
    Ok(on_device)
}
