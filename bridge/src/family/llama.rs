//! Llama and Mistral: RMS norms, a gated MLP, grouped queries, rotary embeddings over whole heads. The two compute alike; Mistral's may
//! have an attention window.

use super::{Biases, ConfigKeys, Family, Gguf, Keys, LLAMA_NAMES, Layers, ModelConfig, Window};
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

pub(super) fn everywhere(size: usize) -> Window {
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
