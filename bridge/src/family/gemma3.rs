//! Gemma 3 (text): Gemma 2 with a norm of every head's queries and keys in place of soft caps, and five blocks that have a window and a
//! rotation of their own to one that has neither.

use super::gemma2::{KEYS, NAMES, alternating, fill, read, scalar, window, write};
use super::llama::TARGETS;
use super::{Activation, ConfigKeys, Family, Gguf, Names, QkNorm, Rotary};
use serde_json::json;

pub(super) static GEMMA3: Family = Family {
    name: "Gemma 3",
    model_type: "gemma3_text",
    classes: ["Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"],
    names: Names {
        qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
        ..NAMES
    },
    lora_targets: TARGETS,
    keys: ConfigKeys {
        vocab_size: ("vocab_size", 262_208),
        max_positions: ("max_position_embeddings", 131_072),
        ..KEYS
    },
    gguf: Some(&Gguf {
        architecture: "gemma3",
        interleaved: false,
        gains_added: true,
        read: |file, config| {
            config.plan.qk_norm = Some(QkNorm::Head);
            let scalar = scalar(config, 62);
            fill(config, scalar, [None, None]);
            config.plan.activation = Activation::GeluTanh;
            let size = file.size("attention.sliding_window")?;
            let base = file.number("rope.freq_base_swa")?.unwrap_or(1e4);
            let dims = config.head_dim;
            let local = Rotary {
                dims,
                base,
                scaling: None,
            };
            let layers = alternating(config.n_layers, 6);
            config.plan.window = window(size, layers, Some(local));
            Ok(())
        },
    }),
    read: |keys, config| {
        config.plan.qk_norm = Some(QkNorm::Head);
        read(keys, config, [None, None])?;
        // Its class in transformers has the key of such a cap and applies none.
        config.plan.score_cap = None;
        let (width, context) = (config.head_dim, config.max_positions);
        let whole = keys.rotary_of_kind("full_attention", width, context, ("rope_theta", 1e6))?;
        let local = ("rope_local_base_freq", 1e4);
        let local = keys.rotary_of_kind("sliding_attention", width, context, local)?;
        config.plan.rotary = Some(whole);
        let size = keys.size_or_null("sliding_window", 4_096)?;
        let period = keys.size_or("sliding_window_pattern", 6)?;
        let layers = keys.layers("sliding_attention", config.n_layers, |n| {
            alternating(n, period)
        })?;
        config.plan.window = window(size, layers, Some(local));
        Ok(())
    },
    write: |config, map| {
        write(config, map);
        let rotaries = config.rotaries();
        let local = rotaries[rotaries.len() - 1];
        map.extend([
            ("rope_theta".into(), json!(rotaries[0].base)),
            ("rope_scaling".into(), rotaries[0].scaling_json()),
            ("rope_local_base_freq".into(), json!(local.base)),
            (
                "rope_parameters".into(),
                json!({"full_attention": rotaries[0].parameters_json(), "sliding_attention": local.parameters_json()}),
            ),
        ]);
    },
};
