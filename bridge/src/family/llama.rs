//! Llama and Mistral: RMS norms, a gated MLP, grouped queries, rotary embeddings over whole heads. The two compute alike; Mistral's may
//! have an attention window.

use super::{
    Biases, BlockPlan, ConfigKeys, EndTokens, Family, Gguf, Keys, LLAMA_NAMES, Layers, ModelConfig,
    RopeScaling, Rotary, Window,
};
use crate::Result;
use serde_json::{Map, Value, json};

/// Ends of the linear layers' names in the Llama family.
pub(super) const TARGETS: &[&str] = &[
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

const KEYS: ConfigKeys = ConfigKeys {
    vocab_size: ("vocab_size", 32_000),
    hidden_size: ("hidden_size", 4_096),
    n_layers: ("num_hidden_layers", 32),
    n_heads: ("num_attention_heads", 32),
    n_kv_heads: Some(("num_key_value_heads", None)),
    head_dim: Some(("head_dim", None)),
    intermediate_size: ("intermediate_size", 11_008),
    max_positions: ("max_position_embeddings", 2_048),
    epsilon: ("rms_norm_eps", 1e-6),
    activation: ("hidden_act", &["silu"]),
    tied: false,
    tokens: [Some(1), Some(2)],
};

pub(super) static LLAMA: Family = Family {
    name: "Llama",
    model_type: "llama",
    classes: ["LlamaForCausalLM", "LlamaForSequenceClassification"],
    names: LLAMA_NAMES,
    lora_targets: TARGETS,
    keys: KEYS,
    read,
    write,
    gguf: Some(&GGUF),
};

pub(super) static MISTRAL: Family = Family {
    name: "Mistral",
    model_type: "mistral",
    classes: ["MistralForCausalLM", "MistralForSequenceClassification"],
    names: LLAMA_NAMES,
    lora_targets: TARGETS,
    keys: ConfigKeys {
        // Where the heads do not allow 8, the weights of the keys say how many there are.
        n_kv_heads: Some(("num_key_value_heads", Some(8))),
        intermediate_size: ("intermediate_size", 14_336),
        max_positions: ("max_position_embeddings", 131_072),
        ..KEYS
    },
    read: |keys, config| {
        read(keys, config)?;
        let size = keys.size_or_null("sliding_window", 4_096)?;
        config.plan.window = size.map(everywhere);
        Ok(())
    },
    write: |config, map| {
        write(config, map);
        map.insert("sliding_window".into(), json!(config.window(0)));
    },
    // Its files say that they are Llama's; a window tells them apart.
    gguf: None,
};

static GGUF: Gguf = Gguf {
    architecture: "llama",
    interleaved: true,
    gains_added: false,
    read: |file, config| {
        for key in ["rope.dimension_count", "attention.value_length"] {
            if file.size(key)?.is_some_and(|n| n != config.head_dim) {
                let expected = format!("the width of a head ({})", config.head_dim);
                return Err(file.wrong(key, &expected));
            }
        }
        config.plan.biases = Biases::of(file.has_bias("attn_q"), file.has_bias("ffn_up"));
        if let Some(size) = file.size("attention.sliding_window")?.filter(|w| *w > 0) {
            config.family = &MISTRAL;
            config.plan.window = Some(everywhere(size));
        }
        Ok(())
    },
};

fn everywhere(size: usize) -> Window {
    Window::new(size, Layers::All)
}

fn read(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.plan.rotary = Some(keys.rotary(config.head_dim, config.max_positions)?);
    config.plan.biases = Biases::of(
        keys.flag("attention_bias", false)?,
        keys.flag("mlp_bias", false)?,
    );
    Ok(())
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    write_rotary(config, map);
    map.extend([
        ("attention_bias".into(), json!(config.plan.biases.qkv)),
        ("mlp_bias".into(), json!(config.plan.biases.up)),
    ]);
}

/// One rotation under the key names of both styles, so that old and new versions of `transformers` read it.
pub(super) fn write_rotary(config: &ModelConfig, map: &mut Map<String, Value>) {
    let rotary = config.rotaries()[0];
    map.extend([
        ("rope_theta".into(), json!(rotary.base)),
        ("rope_scaling".into(), rotary.scaling_json()),
        ("rope_parameters".into(), rotary.parameters_json()),
        ("attention_dropout".into(), json!(0.0)),
    ]);
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
                LlamaFamily::Llama => &LLAMA,
                LlamaFamily::Mistral => &MISTRAL,
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
                window: c.window.map(everywhere),
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
