//! What a block computes, as data.

use super::Rotary;
pub use crate::ops::activation::Activation;

/// The choices of a network's blocks. One description drives every pass: training on slices and on tensors, writing on slices and on
/// tensors. What stands where is said by [`super::Names`]: a norm is there if it has a name.
///
/// A block maps the residual stream x to y, with `n₁ … n₄` the norms that have a name (the others are the identity):
///
/// ```text
/// a = n₂(attention(n₁(x)))
/// y = x + a + n₄(mlp(n₃(x)))               where `parallel`
/// y = m + n₄(mlp(n₃(m))),  m = x + a       else
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPlan {
    /// Kind of every norm.
    pub norm: Norm,
    /// Whether attention and MLP read the same stream.
    pub parallel: bool,
    /// Norm of queries and keys before they are rotated; named by [`super::Names::qk_norms`].
    pub qk_norm: Option<QkNorm>,
    /// Where queries, keys and values lie in the rows of their projection.
    pub packing: Packing,
    /// Which linear layers carry biases.
    pub biases: Biases,
    /// Rotation of queries and keys; `None` where positions are learned ([`super::Names::positions`]) or not told at all.
    pub rotary: Option<Rotary>,
    /// Attention window of all or some blocks.
    pub window: Option<Window>,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// `down(act(gate(x)) ∘ up(x))` instead of `down(act(up(x)))`.
    pub gated: bool,
    /// Factor on q·k; `1/√head_dim` where `None`.
    pub attention_scale: Option<f64>,
    /// c in `c tanh(s/c)` of scaled attention scores s, before the mask.
    pub score_cap: Option<f64>,
    /// c in `c tanh(l/c)` of logits l, before the policy's temperature.
    pub logit_cap: Option<f64>,
    /// Factor on the embedding of a token.
    pub embedding_scale: Option<f64>,
    /// Factor on logits, before their cap.
    pub logit_scale: Option<f64>,
}

impl BlockPlan {
    /// Pre-norm blocks one after the other: RMS norms, a gated MLP with SiLU, no biases, no positions. A family changes what differs.
    pub fn new(epsilon: f64) -> Self {
        Self {
            norm: Norm {
                kind: NormKind::Rms,
                epsilon,
                offset: 0.0,
            },
            parallel: false,
            qk_norm: None,
            packing: Packing::Parts,
            biases: Biases::default(),
            rotary: None,
            window: None,
            activation: Activation::Silu,
            gated: true,
            attention_scale: None,
            score_cap: None,
            logit_cap: None,
            embedding_scale: None,
            logit_scale: None,
        }
    }
}

/// A norm over the last dimension. The statistics, the gain and the bias are computed in `f32` or better and rounded once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// What is divided out.
    pub kind: NormKind,
    /// ε under the root.
    pub epsilon: f64,
    /// Added to the stored gain: 1 where it is stored as w and applied as 1 + w.
    pub offset: f64,
}

/// What a norm divides out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `(x − μ)/√(σ² + ε) ∘ γ + β`.
    Layer,
    /// `x/√(mean(x²) + ε) ∘ γ`.
    Rms,
}

/// Over what queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Every head by itself, with one gain `[head_dim]` for all.
    Head,
    /// All heads together, with gains `[heads · head_dim]`.
    Row,
}

/// Where queries, keys and values lie in a row of their projection, in one tensor or three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Query, key and value of a head beside each other, head by head.
    Heads,
    /// Queries of all heads, then keys, then values.
    Parts,
}

/// Which linear layers carry biases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention's output.
    pub out: bool,
    /// Both inner widths of the MLP.
    pub up: bool,
    /// The MLP's output.
    pub down: bool,
}

impl Biases {
    /// Attention's and MLP's apart.
    pub fn of(attention: bool, mlp: bool) -> Self {
        Self {
            qkv: attention,
            out: attention,
            up: mlp,
            down: mlp,
        }
    }
}

/// An attention window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// How many of the last keys a query sees, itself included.
    pub size: usize,
    /// Blocks that have it.
    pub layers: Layers,
    /// Rotation of those blocks, where it is another than [`BlockPlan::rotary`].
    pub rotary: Option<Rotary>,
}

impl Window {
    /// A window on blocks that are turned as the others.
    pub fn new(size: usize, layers: Layers) -> Self {
        Self {
            size,
            layers,
            rotary: None,
        }
    }
}

/// Some of a network's blocks, numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Every block.
    All,
    /// This one and those after it.
    From(usize),
    /// All but every n-th: those with (i + 1) mod n ≠ 0.
    ExceptEvery(usize),
    /// Those with `true`.
    Listed(Vec<bool>),
}

impl Layers {
    /// The blocks with `true`, by the shortest rule that says them; `None` where no block has it.
    pub fn of(list: Vec<bool>) -> Option<Self> {
        if !list.contains(&true) {
            return None;
        }
        let first = list.iter().take_while(|has| !**has).count();
        let from = (0..list.len()).map(Self::From).nth(first);
        let periods = (2..=list.len()).map(Self::ExceptEvery);
        let mut rules = std::iter::once(Self::All).chain(from).chain(periods);
        let rule = rules.find(|rule| (0..list.len()).all(|i| rule.contains(i) == list[i]));
        Some(rule.unwrap_or(Self::Listed(list)))
    }

    /// Whether a block is among them.
    pub fn contains(&self, layer: usize) -> bool {
        match self {
            Self::All => true,
            Self::From(first) => layer >= *first,
            Self::ExceptEvery(n) => !(layer + 1).is_multiple_of(*n),
            Self::Listed(list) => list.get(layer).copied().unwrap_or(false),
        }
    }
}
