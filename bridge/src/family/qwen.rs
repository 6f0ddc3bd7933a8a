//! Qwen2 (and 2.5) and Qwen3: Llama's blocks with biases on queries, keys and values, or with a norm of every head's queries and keys;
//! where it is switched on, the later blocks have a window.

use super::llama::{TARGETS, write_rotary};
use super::{
    Biases, ConfigKeys, Family, Gguf, Keys, LLAMA_NAMES, Layers, ModelConfig, Names, QkNorm, Window,
};
use crate::Result;
use serde_json::{Map, Value, json};

const KEYS: ConfigKeys = ConfigKeys {
    vocab_size: ("vocab_size", 151_936),
    hidden_size: ("hidden_size", 4_096),
    n_layers: ("num_hidden_layers", 32),
    n_heads: ("num_attention_heads", 32),
    n_kv_heads: Some(("num_key_value_heads", Some(32))),
    head_dim: Some(("head_dim", None)),
    intermediate_size: ("intermediate_size", 22_016),
    max_positions: ("max_position_embeddings", 32_768),
    epsilon: ("rms_norm_eps", 1e-6),
    activation: ("hidden_act", &["silu"]),
    tied: false,
    tokens: [None, None],
};

pub(super) static QWEN2: Family = Family {
    name: "Qwen2",
    model_type: "qwen2",
    classes: ["Qwen2ForCausalLM", "Qwen2ForSequenceClassification"],
    names: LLAMA_NAMES,
    lora_targets: TARGETS,
    keys: KEYS,
    gguf: Some(&Gguf {
        architecture: "qwen2",
        interleaved: false,
        gains_added: false,
        read: |_, config| {
            config.plan.biases.qkv = true;
            Ok(())
        },
    }),
    read: |keys, config| {
        config.plan.biases.qkv = true;
        read(keys, config)
    },
    write,
};

pub(super) static QWEN3: Family = Family {
    name: "Qwen3",
    model_type: "qwen3",
    classes: ["Qwen3ForCausalLM", "Qwen3ForSequenceClassification"],
    names: Names {
        qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
        ..LLAMA_NAMES
    },
    lora_targets: TARGETS,
    keys: ConfigKeys {
        head_dim: Some(("head_dim", Some(128))),
        ..KEYS
    },
    gguf: Some(&Gguf {
        architecture: "qwen3",
        interleaved: false,
        gains_added: false,
        read: |file, config| {
            config.plan.qk_norm = Some(QkNorm::Head);
            config.plan.biases = Biases::of(file.has_bias("attn_q"), false);
            Ok(())
        },
    }),
    read: |keys, config| {
        config.plan.qk_norm = Some(QkNorm::Head);
        config.plan.biases = Biases::of(keys.flag("attention_bias", false)?, false);
        read(keys, config)
    },
    write: |config, map| {
        write(config, map);
        map.insert("attention_bias".into(), json!(config.plan.biases.qkv));
    },
};

fn read(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    config.plan.rotary = Some(keys.rotary(config.head_dim, config.max_positions)?);
    config.plan.window = match keys.flag("use_sliding_window", false)? {
        false => None,
        true => {
            let first = match keys.get("max_window_layers") {
                Some(value) if value.as_u64() == Some(0) => 0,
                _ => keys.size_or("max_window_layers", 28)?,
            };
            let size = keys.size_or_null("sliding_window", 4_096)?;
            let layers = keys.layers("sliding_attention", config.n_layers, |n| {
                Layers::of((0..n).map(|i| i >= first).collect())
            })?;
            size.zip(layers)
                .map(|(size, layers)| Window::new(size, layers))
        }
    };
    Ok(())
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    write_rotary(config, map);
    let plain = (0..config.n_layers).take_while(|i| config.window(*i).is_none());
    map.insert(
        "use_sliding_window".into(),
        json!(config.plan.window.is_some()),
    );
    map.insert("max_window_layers".into(), json!(plain.count()));
    config.write_window(map);
}
