//! OLMo-2: norms after attention and MLP instead of before, and of queries and keys over all heads together.

use super::llama::{TARGETS, write_rotary};
use super::{Biases, ConfigKeys, Family, Gguf, LLAMA_NAMES, Names, QkNorm};
use serde_json::json;

pub(super) static OLMO2: Family = Family {
    name: "OLMo-2",
    model_type: "olmo2",
    classes: ["Olmo2ForCausalLM", "Olmo2ForSequenceClassification"],
    names: Names {
        attention_norm: None,
        attention_out_norm: Some("post_attention_layernorm"),
        mlp_norm: None,
        mlp_out_norm: Some("post_feedforward_layernorm"),
        qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
        ..LLAMA_NAMES
    },
    lora_targets: TARGETS,
    keys: ConfigKeys {
        vocab_size: ("vocab_size", 50_304),
        hidden_size: ("hidden_size", 4_096),
        n_layers: ("num_hidden_layers", 32),
        n_heads: ("num_attention_heads", 32),
        n_kv_heads: Some(("num_key_value_heads", None)),
        head_dim: Some(("head_dim", None)),
        intermediate_size: ("intermediate_size", 11_008),
        max_positions: ("max_position_embeddings", 2_048),
        epsilon: ("rms_norm_eps", 1e-5),
        activation: ("hidden_act", &["silu"]),
        tied: false,
        tokens: [None, Some(50_279)],
    },
    gguf: Some(&Gguf {
        architecture: "olmo2",
        interleaved: false,
        gains_added: false,
        read: |file, config| {
            config.plan.qk_norm = Some(QkNorm::Row);
            config.plan.biases = Biases::of(file.has_bias("attn_q"), false);
            Ok(())
        },
    }),
    read: |keys, config| {
        config.plan.qk_norm = Some(QkNorm::Row);
        config.plan.biases = Biases::of(keys.flag("attention_bias", false)?, false);
        config.plan.rotary = Some(keys.rotary(config.head_dim, config.max_positions)?);
        Ok(())
    },
    write: |config, map| {
        write_rotary(config, map);
        map.insert("attention_bias".into(), json!(config.plan.biases.qkv));
    },
};
