//! Gemma 2: norms before and after attention and MLP with gains 1 + w, a scaled embedding, soft-capped scores and logits, a window on every
//! other block.

use super::llama::{TARGETS, write_rotary};
use super::{
    Activation, Biases, ConfigKeys, Family, Gguf, Keys, LLAMA_NAMES, Layers, ModelConfig, Names,
    Rotary, Window,
};
use crate::{Error, Result};
use serde_json::{Map, Value, json};

pub(super) const NAMES: Names = Names {
    attention_out_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_out_norm: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};

pub(super) const KEYS: ConfigKeys = ConfigKeys {
    vocab_size: ("vocab_size", 256_000),
    hidden_size: ("hidden_size", 2_304),
    n_layers: ("num_hidden_layers", 26),
    n_heads: ("num_attention_heads", 8),
    n_kv_heads: Some(("num_key_value_heads", Some(4))),
    head_dim: Some(("head_dim", Some(256))),
    intermediate_size: ("intermediate_size", 9_216),
    max_positions: ("max_position_embeddings", 8_192),
    epsilon: ("rms_norm_eps", 1e-6),
    activation: (
        "hidden_activation",
        &["gelu_pytorch_tanh", "gelu", "gelu_new", "silu"],
    ),
    tied: true,
    tokens: [Some(2), Some(1)],
};

pub(super) static GEMMA2: Family = Family {
    name: "Gemma 2",
    model_type: "gemma2",
    classes: ["Gemma2ForCausalLM", "Gemma2ForSequenceClassification"],
    names: NAMES,
    lora_targets: TARGETS,
    keys: KEYS,
    gguf: Some(&Gguf {
        architecture: "gemma2",
        interleaved: false,
        gains_added: true,
        read: |file, config| {
            let cap = |key, usual| Ok::<_, Error>(Some(file.number(key)?.unwrap_or(usual)));
            let caps = [
                cap("attn_logit_softcapping", 50.0)?,
                cap("final_logit_softcapping", 30.0)?,
            ];
            let scalar = scalar(config, 46);
            fill(config, scalar, caps);
            config.plan.activation = Activation::GeluTanh;
            let size = file.size("attention.sliding_window")?;
            let layers = alternating(config.n_layers, 2);
            config.plan.window = window(size, layers, None);
            Ok(())
        },
    }),
    read: |keys, config| {
        read(keys, config, [Some(50.0), Some(30.0)])?;
        config.plan.rotary = Some(keys.rotary(config.head_dim, config.max_positions)?);
        let size = keys.size_or_null("sliding_window", 4_096)?;
        let layers = keys.layers("sliding_attention", config.n_layers, |n| alternating(n, 2))?;
        config.plan.window = window(size, layers, None);
        Ok(())
    },
    write: |config, map| {
        write_rotary(config, map);
        write(config, map);
    },
};

pub(super) fn read(
    keys: &Keys<'_>,
    config: &mut ModelConfig,
    caps: [Option<f64>; 2],
) -> Result<()> {
    const BOTH_WAYS: &str = "use_bidirectional_attention";
    if keys.flag(BOTH_WAYS, false)? {
        return Err(keys.wrong(BOTH_WAYS, &Value::Bool(true), "false"));
    }
    let scalar = keys.size_or("query_pre_attn_scalar", 256)?;
    let caps = [
        keys.positive("attn_logit_softcapping", caps[0])?,
        keys.positive("final_logit_softcapping", caps[1])?,
    ];
    fill(config, scalar, caps);
    config.plan.biases = Biases::of(keys.flag("attention_bias", false)?, false);
    Ok(())
}

/// What the two families share: `scalar` stands under the root that scores are divided by, `caps` are those of scores and of logits.
pub(super) fn fill(config: &mut ModelConfig, scalar: usize, caps: [Option<f64>; 2]) {
    let plan = &mut config.plan;
    plan.norm.offset = 1.0;
    plan.attention_scale = Some((scalar as f64).powf(-0.5));
    [plan.score_cap, plan.logit_cap] = caps;
    plan.embedding_scale = Some((config.hidden_size as f64).sqrt());
}

/// All blocks but every `period`-th.
pub(super) fn alternating(n_layers: usize, period: usize) -> Option<Layers> {
    let has = |i: usize| !(i + 1).is_multiple_of(period);
    Layers::of((0..n_layers).map(has).collect())
}

/// The window of a size on some blocks, where there are both, with a rotation of its own where there is one.
pub(super) fn window(
    size: Option<usize>,
    layers: Option<Layers>,
    rotary: Option<Rotary>,
) -> Option<Window> {
    let (size, layers) = size.zip(layers)?;
    Some(Window {
        rotary,
        ..Window::new(size, layers)
    })
}

/// What llama.cpp takes for the scalar: a head's width, and in the deepest network of a family the stream's share of a head.
pub(super) fn scalar(config: &ModelConfig, deepest: usize) -> usize {
    match config.n_layers == deepest {
        true => config.hidden_size / config.n_heads.max(1),
        false => config.head_dim,
    }
}

pub(super) fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    let scalar = config.attention_scale().powi(-2).round() as u64;
    map.extend([
        ("query_pre_attn_scalar".into(), json!(scalar)),
        (
            "attn_logit_softcapping".into(),
            json!(config.plan.score_cap),
        ),
        (
            "final_logit_softcapping".into(),
            json!(config.plan.logit_cap),
        ),
        ("attention_bias".into(), json!(config.plan.biases.qkv)),
        ("attention_dropout".into(), json!(0.0)),
    ]);
    config.write_window(map);
}
