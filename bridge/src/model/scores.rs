//! What a model says of a batch, and the gradients that come back.

use super::Model;
use super::slices::SliceTape;
use super::tensors::TensorTape;

/// What to compute.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// `log π(y_h | s_h)` of every response token.
    pub log_probs: bool,
    /// The entropy of `π(· | s_h)`.
    pub entropy: bool,
    /// `Σ_a π(a | s_h) log(π(a | s_h)/π_ref(a | s_h))`, exactly, from this reference over the same vocabulary.
    pub reference: Option<&'a Model>,
    /// `Σ_a π_ref(a | s_h) log(π_ref(a | s_h)/π(a | s_h))` too, from the same reference.
    pub kl_from: bool,
    /// The value head at every `s_h` and at the final state.
    pub values: bool,
    /// The reward head at the last token.
    pub rewards: bool,
}

impl Request<'_> {
    /// Log-probabilities alone.
    pub fn log_probs() -> Self {
        Self {
            log_probs: true,
            ..Self::default()
        }
    }

    /// Whether the final state of every text is read.
    pub(crate) fn reads_final(&self) -> bool {
        self.values || self.rewards
    }

    /// Whether the distribution over the vocabulary is needed.
    pub(crate) fn reads_vocabulary(&self) -> bool {
        self.log_probs || self.entropy || self.reference.is_some()
    }
}

/// Ragged scores of a batch, natural logarithms; the same shape serves as their gradient, where `None` is zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// `[B][H_i]` packed: `log π(y_h | s_h)`.
    pub log_probs: Option<Vec<f64>>,
    /// `[B][H_i]` packed: entropy of `π(· | s_h)`.
    pub entropy: Option<Vec<f64>>,
    /// `[B][H_i]` packed: divergence from the reference.
    pub kl: Option<Vec<f64>>,
    /// `[B][H_i]` packed: divergence of the reference from the policy.
    pub kl_from: Option<Vec<f64>>,
    /// `[B][H_i]` packed: `V(s_h)`.
    pub values: Option<Vec<f64>>,
    /// `[B]`: `V` at the state after the last token, where a truncated response is bootstrapped.
    pub final_values: Option<Vec<f64>>,
    /// `[B]`: `r_θ(x, y)`.
    pub rewards: Option<Vec<f64>>,
}

/// What stays of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// One number a token: [`Model::backward`] runs the trunk again.
    Sums,
    /// Everything the backward pass needs; with checkpointing, the inputs of the blocks.
    Activations,
}

/// Scores and what the backward pass needs of the pass that made them.
#[derive(Debug)]
pub struct Forward {
    /// What was asked for.
    pub scores: Scores,
    pub(crate) tape: Tape,
}

#[derive(Debug)]
pub(crate) enum Tape {
    Slices(Box<SliceTape>),
    Tensors(TensorTape),
}
