//! Networks of the two oldest families described in Rust, without a `config.json`: sizes by name, which turn into a [`ModelConfig`].

use super::{
    Activation, Biases, BlockPlan, EndTokens, ModelConfig, RopeScaling, Rotary, gpt_neox, llama,
};

/// The shape of a GPT-NeoX network.
#[derive(Debug, Clone, PartialEq)]
pub struct GptNeoXConfig {
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads; they divide the width evenly.
    pub n_heads: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Even; of each head's dimensions the first `rotary_dims` are rotated (half-split).
    pub rotary_dims: usize,
    /// Base of the rotary frequencies, 10000 in every Pythia.
    pub rotary_base: f64,
    /// Longest sequence, prompt and response together.
    pub max_positions: usize,
    /// ε of every layer norm.
    pub layer_norm_eps: f64,
    /// x + attention(x) + mlp(x) where true, the MLP after the attention where false.
    pub parallel_residual: bool,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Whether the attention's two projections carry biases.
    pub attention_bias: bool,
    /// Whether the output head is the embedding itself.
    pub tied_embeddings: bool,
    /// Token that begins a text.
    pub bos_token: Option<u32>,
    /// Tokens that end a response.
    pub eos_tokens: EndTokens,
    /// Token that fills a batch up.
    pub pad_token: Option<u32>,
}

impl GptNeoXConfig {
    /// A network of one layer of width 8 for examples and tests, which change what matters to them with `..`.
    pub fn tiny(vocab_size: usize, eos: impl Into<EndTokens>) -> Self {
        Self {
            vocab_size,
            hidden_size: 8,
            n_layers: 1,
            n_heads: 2,
            intermediate_size: 16,
            rotary_dims: 2,
            rotary_base: 1e4,
            max_positions: 16,
            layer_norm_eps: 1e-5,
            parallel_residual: true,
            activation: Activation::Gelu,
            attention_bias: true,
            tied_embeddings: false,
            bos_token: None,
            eos_tokens: eos.into(),
            pad_token: None,
        }
    }
}

impl From<GptNeoXConfig> for ModelConfig {
    fn from(c: GptNeoXConfig) -> Self {
        let rotary = Rotary {
            dims: c.rotary_dims,
            base: c.rotary_base,
            scaling: None,
        };
        let (parallel, bias) = (c.parallel_residual, c.attention_bias);
        Self {
            family: &gpt_neox::GPT_NEOX,
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            n_layers: c.n_layers,
            n_heads: c.n_heads,
            n_kv_heads: c.n_heads,
            head_dim: c.hidden_size / c.n_heads.max(1),
            intermediate_size: c.intermediate_size,
            max_positions: c.max_positions,
            plan: gpt_neox::plan(c.layer_norm_eps, c.activation, rotary, parallel, bias),
            tied_embeddings: c.tied_embeddings,
            bos_token: c.bos_token,
            eos_tokens: c.eos_tokens,
            pad_token: c.pad_token,
        }
    }
}

impl From<&GptNeoXConfig> for ModelConfig {
    fn from(config: &GptNeoXConfig) -> Self {
        config.clone().into()
    }
}

/// Which classes of `transformers` a folder names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LlamaFamily {
    /// `LlamaForCausalLM`, `LlamaForSequenceClassification`.
    Llama,
    /// `MistralForCausalLM`, `MistralForSequenceClassification`.
    Mistral,
}

/// The shape of a network of the Llama family.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Llama or Mistral.
    pub family: LlamaFamily,
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys and values: query head i reads number i / (n_heads / n_kv_heads).
    pub n_kv_heads: usize,
    /// Width of a head, even; all of it is rotated (half-split).
    pub head_dim: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Change of the frequencies, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest sequence, prompt and response together.
    pub max_positions: usize,
    /// ε of every RMS norm.
    pub rms_norm_eps: f64,
    /// How many of the last keys a query sees, itself included; all where `None`.
    pub window: Option<usize>,
    /// Whether the attention's four projections carry biases.
    pub attention_bias: bool,
    /// Whether the MLP's three projections carry biases.
    pub mlp_bias: bool,
    /// Whether the output head is the embedding itself.
    pub tied_embeddings: bool,
    /// Token that begins a text.
    pub bos_token: Option<u32>,
    /// Tokens that end a response.
    pub eos_tokens: EndTokens,
    /// Token that fills a batch up.
    pub pad_token: Option<u32>,
}

impl From<LlamaConfig> for ModelConfig {
    fn from(c: LlamaConfig) -> Self {
        Self {
            family: match c.family {
                LlamaFamily::Llama => &llama::LLAMA,
                LlamaFamily::Mistral => &llama::MISTRAL,
            },
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            n_layers: c.n_layers,
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            intermediate_size: c.intermediate_size,
            max_positions: c.max_positions,
            plan: BlockPlan {
                biases: Biases::of(c.attention_bias, c.mlp_bias),
                rotary: Some(Rotary {
                    dims: c.head_dim,
                    base: c.rope_base,
                    scaling: c.rope_scaling,
                }),
                window: c.window.map(llama::everywhere),
                ..BlockPlan::new(c.rms_norm_eps)
            },
            tied_embeddings: c.tied_embeddings,
            bos_token: c.bos_token,
            eos_tokens: c.eos_tokens,
            pad_token: c.pad_token,
        }
    }
}

impl From<&LlamaConfig> for ModelConfig {
    fn from(config: &LlamaConfig) -> Self {
        config.clone().into()
    }
}
