//! What a network is, in the words of a device: sizes, names of weights, and what each block computes.

use crate::kernels::{Activation, Heads, Scoring};
use std::collections::BTreeMap;

/// A decoder-only transformer. A block maps the stream x to y, with `n₁ … n₄` the norms that it has (the others are the identity):
///
/// ```text
/// a = n₂(attention(n₁(x)))
/// y = x + a + n₄(mlp(n₃(x)))               where `parallel`
/// y = m + n₄(mlp(n₃(m))),  m = x + a       else
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the stream.
    pub width: usize,
    /// Width inside the MLP.
    pub inner: usize,
    /// Longest text.
    pub positions: usize,
    /// The embedding `[vocabulary, width]`.
    pub embedding: String,
    /// Factor on the embedding.
    pub embedding_scale: f32,
    /// Learned positions `[positions, width]`, added to it.
    pub places: Option<String>,
    /// Where heads lie in a row of queries, keys and values; a block's rotation says how many dimensions turn.
    pub heads: Heads,
    /// Kind of every norm.
    pub norm: NormKind,
    /// ε under its root.
    pub epsilon: f32,
    /// Angles per position of each pair of turned dimensions, for every rotation that blocks name.
    pub rotations: Vec<Vec<f32>>,
    /// Whether attention and MLP read the same stream.
    pub parallel: bool,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// `down(act(gate) ∘ up)` instead of `down(act(up))`.
    pub gated: bool,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The last norm.
    pub last_norm: Norm,
    /// The output head `[vocabulary, width]`, the embedding itself where they are tied.
    pub head: Option<String>,
    /// Factor on logits, before their cap.
    pub logit_scale: f32,
    /// c in `c tanh(l/c)` of logits.
    pub logit_cap: Option<f32>,
    /// The value head's weight `[width]` and bias `[1]`.
    pub value: Option<[String; 2]>,
    /// The reward head's weight `[width]`.
    pub reward: Option<String>,
}

/// What a norm divides out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormKind {
    /// `(x − μ)/√(σ² + ε) γ + β`.
    Layer,
    /// `x/√(mean(x²) + ε) (offset + γ)`.
    Rms {
        /// 1 where gains are stored as w and applied as 1 + w.
        offset: f32,
    },
}

/// One block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// n₁.
    pub attention_norm: Option<Norm>,
    /// n₂.
    pub attention_out_norm: Option<Norm>,
    /// n₃.
    pub mlp_norm: Option<Norm>,
    /// n₄.
    pub mlp_out_norm: Option<Norm>,
    /// Norms of queries and keys before they turn: over a head where that wide, else over all heads together.
    pub qk_norms: Option<[Norm; 2]>,
    /// The projection to queries, keys and values, or three of them.
    pub qkv: Vec<Linear>,
    /// The attention's output.
    pub out: Linear,
    /// The projection to the inner width (with a gate: gate's rows first), or gate and up.
    pub up: Vec<Linear>,
    /// The MLP's output.
    pub down: Linear,
    /// Which rotation turns queries and keys.
    pub rotation: Option<usize>,
    /// From products to scores.
    pub scoring: Scoring,
}

/// A norm: `name.weight`, and `name.bias` of a layer norm.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Its module.
    pub name: String,
    /// Elements of a row.
    pub width: usize,
}

/// A linear layer `y = x Wᵀ + b`: `name.weight [outputs, inputs]`, `name.bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Its module.
    pub name: String,
    /// Width of y.
    pub outputs: usize,
    /// Width of x.
    pub inputs: usize,
    /// Whether there is b.
    pub bias: bool,
    /// What is added to it.
    pub adapter: Option<Adapter>,
}

/// A low-rank adapter: `y += s (x Aᵀ) Bᵀ` with `name.lora_A.weight [rank, inputs]` and `name.lora_B.weight [outputs, rank]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapter {
    /// Rows of A.
    pub rank: usize,
    /// s, the factor on BA.
    pub scale: f32,
}

impl Linear {
    pub(crate) fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    pub(crate) fn bias(&self) -> String {
        format!("{}.bias", self.name)
    }

    pub(crate) fn a(&self) -> String {
        format!("{}.lora_A.weight", self.name)
    }

    pub(crate) fn b(&self) -> String {
        format!("{}.lora_B.weight", self.name)
    }

    fn tensors(&self, all: &mut BTreeMap<String, usize>) {
        all.insert(self.weight(), self.outputs * self.inputs);
        if self.bias {
            all.insert(self.bias(), self.outputs);
        }
        if let Some(adapter) = self.adapter {
            all.insert(self.a(), adapter.rank * self.inputs);
            all.insert(self.b(), self.outputs * adapter.rank);
        }
    }
}

impl Block {
    /// The linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let (qkv, up) = (self.qkv.iter(), self.up.iter());
        qkv.chain([&self.out]).chain(up).chain([&self.down])
    }

    /// The linear layers, to change them.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let (qkv, up) = (self.qkv.iter_mut(), self.up.iter_mut());
        let out = std::iter::once(&mut self.out);
        let down = std::iter::once(&mut self.down);
        qkv.chain(out).chain(up).chain(down)
    }

    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm> {
        let stream = [
            &self.attention_norm,
            &self.attention_out_norm,
            &self.mlp_norm,
            &self.mlp_out_norm,
        ];
        let heads = self.qk_norms.iter().flatten();
        stream.into_iter().flatten().chain(heads)
    }

    /// Names of its weights.
    pub(crate) fn tensors_of(&self, kind: NormKind) -> impl Iterator<Item = String> {
        let mut all = BTreeMap::new();
        self.tensors(kind, &mut all);
        all.into_keys()
    }

    fn tensors(&self, kind: NormKind, all: &mut BTreeMap<String, usize>) {
        self.norms().for_each(|norm| norm.tensors(kind, all));
        self.linears().for_each(|linear| linear.tensors(all));
    }
}

impl Norm {
    fn tensors(&self, kind: NormKind, all: &mut BTreeMap<String, usize>) {
        all.insert(format!("{}.weight", self.name), self.width);
        if kind == NormKind::Layer {
            all.insert(format!("{}.bias", self.name), self.width);
        }
    }
}

impl Network {
    /// Names of all weights, and how many numbers each has.
    pub fn tensors(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::from([(self.embedding.clone(), self.vocabulary * self.width)]);
        if let Some(places) = &self.places {
            all.insert(places.clone(), self.positions * self.width);
        }
        self.last_norm.tensors(self.norm, &mut all);
        for block in &self.blocks {
            block.tensors(self.norm, &mut all);
        }
        if let Some(head) = &self.head {
            all.insert(head.clone(), self.vocabulary * self.width);
        }
        if let Some([weight, bias]) = &self.value {
            all.insert(weight.clone(), self.width);
            all.insert(bias.clone(), 1);
        }
        if let Some(reward) = &self.reward {
            all.insert(reward.clone(), self.width);
        }
        all
    }

    /// The same network without its adapters, which may share its weights.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        let mut network = self.clone();
        for linear in network.blocks.iter_mut().flat_map(Block::linears_mut) {
            linear.adapter = None;
        }
        network
    }

    /// The heads of a block, with the dimensions that turn.
    pub(crate) fn heads_of(&self, block: &Block) -> Heads {
        let dims = block.rotation.map_or(0, |r| 2 * self.rotations[r].len());
        Heads { dims, ..self.heads }
    }
}
