//! Phi-3: Llama's blocks with one matrix for queries, keys and values and one for gate and up; a part of each head may be rotated, and all
//! blocks may have a window. Frequencies that change with the length of the text (`longrope`) are refused.

use super::llama::write_rotary;
use super::{ConfigKeys, Family, Gguf, LLAMA_NAMES, Layers, Names, Window};
use serde_json::json;

pub(super) static PHI3: Family = Family {
    name: "Phi-3",
    model_type: "phi3",
    classes: ["Phi3ForCausalLM", "Phi3ForSequenceClassification"],
    names: Names {
        qkv: &["self_attn.qkv_proj"],
        up: &["mlp.gate_up_proj"],
        ..LLAMA_NAMES
    },
    lora_targets: &["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    keys: ConfigKeys {
        vocab_size: ("vocab_size", 32_064),
        hidden_size: ("hidden_size", 3_072),
        n_layers: ("num_hidden_layers", 32),
        n_heads: ("num_attention_heads", 32),
        n_kv_heads: Some(("num_key_value_heads", None)),
        head_dim: None,
        intermediate_size: ("intermediate_size", 8_192),
        max_positions: ("max_position_embeddings", 4_096),
        epsilon: ("rms_norm_eps", 1e-5),
        activation: ("hidden_act", &["silu"]),
        tied: false,
        tokens: [Some(1), Some(32_000)],
    },
    gguf: Some(&Gguf {
        architecture: "phi3",
        interleaved: false,
        gains_added: false,
        read: |file, config| {
            let dims = file.size("rope.dimension_count")?;
            if let (Some(dims), Some(rotary)) = (dims, &mut config.plan.rotary) {
                rotary.dims = dims;
            }
            let size = file.size("attention.sliding_window")?;
            let size = size.filter(|size| *size > 0);
            config.plan.window = size.map(|size| Window::new(size, Layers::All));
            Ok(())
        },
    }),
    read: |keys, config| {
        let (width, context) = (config.head_dim, config.max_positions);
        let part = Some(("partial_rotary_factor", 1.0));
        config.plan.rotary = Some(keys.rotary_of(width, context, ("rope_theta", 1e4), part)?);
        let size = keys.get("sliding_window");
        let size = size.map(|value| keys.size_of("sliding_window", value));
        config.plan.window = size.transpose()?.map(|size| Window::new(size, Layers::All));
        Ok(())
    },
    write: |config, map| {
        write_rotary(config, map);
        let fraction = config.rotaries()[0].fraction(config.head_dim);
        map["rope_parameters"]["partial_rotary_factor"] = json!(fraction);
        map.extend([
            ("partial_rotary_factor".into(), json!(fraction)),
            (
                "original_max_position_embeddings".into(),
                json!(config.max_positions),
            ),
            ("sliding_window".into(), json!(config.window(0))),
            ("embd_pdrop".into(), json!(0.0)),
            ("resid_pdrop".into(), json!(0.0)),
        ]);
    },
};
