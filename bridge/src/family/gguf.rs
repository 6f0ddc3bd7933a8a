//! What a family calls things in a GGUF file.

use super::ModelConfig;
use crate::{Error, Result};

/// A family's networks in GGUF. Sizes and tokens have the same keys in every architecture and are read before.
#[derive(Debug)]
pub struct Gguf {
    /// `general.architecture`, and what its keys begin with.
    pub architecture: &'static str,
    /// A block's modules: in GGUF (after `blk.{number}.`), and in a Hugging Face folder.
    pub modules: &'static [(&'static str, &'static str)],
    /// Whether the rows of queries and keys hold the two halves of a head in turn, as Llama's first code rotated them.
    pub interleaved: bool,
    /// What norms add to the gains that a Hugging Face folder stores, and the file has added already.
    pub gains_added: bool,
    /// Fills in what is the family's own: biases, window, factors. The rotation over whole heads is there already.
    pub read: fn(&dyn Metadata, &mut ModelConfig) -> Result<()>,
}

/// A file's metadata and tensors, for [`Gguf::read`]. Keys are given without the architecture before them.
pub trait Metadata {
    /// A whole number.
    ///
    /// # Errors
    /// [`Error::File`] for another type.
    fn size(&self, key: &str) -> Result<Option<usize>>;
    /// A number.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    fn number(&self, key: &str) -> Result<Option<f64>>;
    /// Whether the first block has a module with a bias, by its name in GGUF.
    fn has_bias(&self, module: &str) -> bool;
    /// The key, what was found, and what was expected.
    fn wrong(&self, key: &str, expected: &str) -> Error;
}

/// Modules of a block under the names that most architectures share; what a family does not have is not looked for.
pub const GGUF_MODULES: &[(&str, &str)] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];
