//! What a GPT-NeoX model looks like.

/// Which GELU the MLP uses: `gelu` is erf-exact, `gelu_new`/`gelu_fast`/`gelu_pytorch_tanh` the tanh form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`.
    Gelu,
    /// The approximation with `tanh`.
    GeluTanh,
}

/// Shape and options of a GPT-NeoX model.
#[derive(Debug, Clone, PartialEq)]
pub struct GptNeoXConfig {
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Attention heads per block.
    pub n_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Even; of a head's dimensions, the first `rotary_dims` are rotated (half-split).
    pub rotary_dims: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f64,
    /// Longest text.
    pub max_positions: usize,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Attention and MLP both read the block's input.
    pub parallel_residual: bool,
    /// Of the MLP.
    pub activation: Activation,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the output head is the embedding.
    pub tied_embeddings: bool,
    /// Beginning of text.
    pub bos_token: Option<u32>,
    /// End of text.
    pub eos_token: Option<u32>,
    /// Padding.
    pub pad_token: Option<u32>,
}
