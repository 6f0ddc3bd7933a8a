//! One block as candle expressions, for every plan: training reads it through autograd, generation with a cache of keys and values.
//!
//! Rows are packed tokens, `x [N, hidden]`; only the attention knows which of them belong together.

use crate::Result;
use crate::family::{Layer, ModelConfig, NormKind, Packing};
use crate::ops::composite;
use candle_core::Tensor;

/// Named weights.
pub(crate) trait Weights {
    /// The weight, `None` where the network has none of that name.
    fn find(&self, name: &str) -> Option<&Tensor>;

    /// The weight of that name.
    fn weight(&self, name: &str) -> Result<&Tensor>;

    /// `x Wᵀ + b` of the layer `name`, with its adapter if it has one.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let bias = self.find(&format!("{name}.bias"));
        Ok(composite::linear(
            x,
            self.weight(&format!("{name}.weight"))?,
            bias,
        )?)
    }
}

/// Queries `[N, heads, d]`, keys and values `[N, kv heads, d]` of all rows, rotated.
pub(crate) struct Qkv {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
}

/// A network's blocks on one set of rows.
pub(crate) struct TensorBlocks<'a, W> {
    pub config: &'a ModelConfig,
    pub weights: &'a W,
    /// Cosines and sines `[N, 1, r/2]` of each rotation ([`ModelConfig::rotaries`]).
    pub rotary: Vec<(Tensor, Tensor)>,
}

impl<W: Weights> TensorBlocks<'_, W> {
    /// The output of a block. `attend` gives the attended values `[N, heads · d]`.
    pub fn block(
        &self,
        layer: usize,
        x: &Tensor,
        attend: impl FnOnce(Qkv) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (config, names) = (self.config, &self.config.family.names);
        let norm = |module: Option<&str>, x: &Tensor| match module {
            Some(module) => {
                let name = config.module(layer, module);
                norm(config, self.weights, &name, x)
            }
            None => Ok(x.clone()),
        };
        let normed = norm(names.attention_norm, x)?;
        let attended = attend(self.qkv(layer, &normed)?)?;
        let out = self.linear(layer, config.out_layer(), &attended)?;
        let middle = (x + norm(names.attention_out_norm, &out)?)?;
        let read = match (config.plan.parallel, names.mlp_norm) {
            (true, None) => normed,
            (true, second) => norm(second, x)?,
            (false, second) => norm(second, &middle)?,
        };
        let out = self.linear(layer, config.down_layer(), &self.inner(layer, &read)?)?;
        Ok((middle + norm(names.mlp_out_norm, &out)?)?)
    }

    fn linear(&self, layer: usize, l: Layer, x: &Tensor) -> Result<Tensor> {
        self.weights.linear(&self.config.module(layer, l.module), x)
    }

    /// What the MLP's last layer reads.
    fn inner(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let (plan, width) = (&self.config.plan, self.config.intermediate_size);
        let parts: Vec<Tensor> = self
            .config
            .up_layers()
            .into_iter()
            .map(|l| self.linear(layer, l, x))
            .collect::<Result<_>>()?;
        let act = |x: &Tensor| composite::activate(x, plan.activation);
        Ok(match &parts[..] {
            [packed] if plan.gated => {
                (act(&packed.narrow(1, 0, width)?)? * packed.narrow(1, width, width)?)?
            }
            [gate, up] => (act(gate)? * up)?,
            _ => act(&parts[0])?,
        })
    }

    fn qkv(&self, layer: usize, x: &Tensor) -> Result<Qkv> {
        let c = self.config;
        let (n, d) = (x.dim(0)?, c.head_dim);
        let heads = [c.n_heads, c.n_kv_heads, c.n_kv_heads];
        let parts: Vec<Tensor> = c
            .qkv_layers()
            .into_iter()
            .map(|l| self.linear(layer, l, x))
            .collect::<Result<_>>()?;
        let part = |which: usize| -> Result<Tensor> {
            Ok(match (&parts[..], c.plan.packing) {
                ([packed], Packing::Heads) => {
                    packed
                        .reshape((n, c.n_heads, 3 * d))?
                        .narrow(2, which * d, d)?
                }
                ([packed], Packing::Parts) => {
                    let before: usize = heads[..which].iter().sum();
                    packed
                        .narrow(1, before * d, heads[which] * d)?
                        .reshape((n, heads[which], d))?
                }
                _ => parts[which].reshape((n, heads[which], d))?,
            })
        };
        let (mut q, mut k) = (part(0)?, part(1)?);
        if let Some([(q_norm, width), (k_norm, k_width)]) = c.qk_norms() {
            let normed = |x: &Tensor, module: &str, width: usize| -> Result<Tensor> {
                let rows = x.reshape(((), width))?;
                let y = norm(c, self.weights, &c.module(layer, module), &rows)?;
                Ok(y.reshape(x.dims())?)
            };
            (q, k) = (normed(&q, q_norm, width)?, normed(&k, k_norm, k_width)?);
        }
        if let Some(rotary) = c.rotary_of(layer) {
            let (cos, sin) = &self.rotary[rotary];
            q = composite::rotate(&q, cos, sin)?;
            k = composite::rotate(&k, cos, sin)?;
        }
        Ok(Qkv { q, k, v: part(2)? })
    }

    /// Logits of hidden states after the last norm: with their factor and cap, in the type of the weights.
    pub fn logits(config: &ModelConfig, weights: &W, hidden: &Tensor) -> Result<Tensor> {
        let logits = composite::linear(hidden, weights.weight(config.head_weight())?, None)?;
        let logits = match config.plan.logit_scale {
            None => logits,
            Some(scale) => (logits * scale)?,
        };
        Ok(composite::capped(&logits, config.plan.logit_cap)?)
    }
}

/// The stream before the first block: `[N, hidden]` of tokens at their positions.
pub(crate) fn embed<W: Weights>(
    config: &ModelConfig,
    weights: &W,
    tokens: &Tensor,
    positions: &[u32],
) -> Result<Tensor> {
    let x = weights
        .weight(config.embedding())?
        .index_select(tokens, 0)?;
    let x = match config.plan.embedding_scale {
        None => x,
        Some(scale) => (x * scale)?,
    };
    let Some(table) = config.positions() else {
        return Ok(x);
    };
    let positions = Tensor::new(positions, x.device())?;
    Ok((x + weights.weight(table)?.index_select(&positions, 0)?)?)
}

/// The last norm.
pub(crate) fn final_norm<W: Weights>(
    config: &ModelConfig,
    weights: &W,
    x: &Tensor,
) -> Result<Tensor> {
    norm(config, weights, config.family.names.final_norm, x)
}

fn norm<W: Weights>(config: &ModelConfig, weights: &W, name: &str, x: &Tensor) -> Result<Tensor> {
    let plan = config.plan.norm;
    let stored = weights.weight(&format!("{name}.weight"))?;
    let shifted;
    let gain = match plan.offset {
        0.0 => stored,
        offset => {
            // 1 + w in a short type would lose w.
            shifted = (composite::widened(stored)? + offset)?;
            &shifted
        }
    };
    Ok(match plan.kind {
        NormKind::Layer => {
            let bias = weights.weight(&format!("{name}.bias"))?;
            composite::layer_norm(x, gain, bias, plan.epsilon)?
        }
        NormKind::Rms => composite::rms_norm(x, gain, plan.epsilon)?,
    })
}
