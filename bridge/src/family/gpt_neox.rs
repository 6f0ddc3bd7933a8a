//! GPT-NeoX (Pythia): layer norms with biases, attention and MLP side by side or one after the other, the projections of a head beside each
//! other, a part of each head rotated. The key names of published Pythia files and those of newer `transformers` are read.

use super::{
    Activation, Biases, BlockPlan, ConfigKeys, Family, Keys, ModelConfig, Names, Norm, NormKind,
    Packing, Rotary,
};
use crate::Result;
use serde_json::{Map, Value, json};

pub(super) static GPT_NEOX: Family = Family {
    name: "GPT-NeoX",
    model_type: "gpt_neox",
    classes: ["GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification"],
    names: Names {
        embedding: "gpt_neox.embed_in.weight",
        positions: None,
        blocks: "gpt_neox.layers",
        attention_norm: Some("input_layernorm"),
        attention_out_norm: None,
        mlp_norm: Some("post_attention_layernorm"),
        mlp_out_norm: None,
        qk_norms: None,
        qkv: &["attention.query_key_value"],
        out: "attention.dense",
        up: &["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
        final_norm: "gpt_neox.final_layer_norm",
        head: "embed_out.weight",
        conv1d: false,
    },
    lora_targets: &[
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ],
    keys: ConfigKeys {
        vocab_size: ("vocab_size", 50_432),
        hidden_size: ("hidden_size", 6_144),
        n_layers: ("num_hidden_layers", 44),
        n_heads: ("num_attention_heads", 64),
        n_kv_heads: None,
        head_dim: None,
        intermediate_size: ("intermediate_size", 24_576),
        max_positions: ("max_position_embeddings", 2_048),
        epsilon: ("layer_norm_eps", 1e-5),
        activation: (
            "hidden_act",
            &["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"],
        ),
        tied: false,
        tokens: [Some(0), Some(2)],
    },
    read,
    write,
    gguf: None,
};

fn read(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    let (head_dim, context) = (config.head_dim, config.max_positions);
    let base = ("rotary_emb_base", 10_000.0);
    let rotary = keys.rotary_of(head_dim, context, base, Some(("rotary_pct", 0.25)))?;
    config.plan = plan(
        config.plan.norm.epsilon,
        config.plan.activation,
        rotary,
        keys.flag("use_parallel_residual", true)?,
        keys.flag("attention_bias", true)?,
    );
    Ok(())
}

pub(super) fn plan(
    epsilon: f64,
    activation: Activation,
    rotary: Rotary,
    parallel: bool,
    attention_bias: bool,
) -> BlockPlan {
    BlockPlan {
        norm: Norm {
            kind: NormKind::Layer,
            epsilon,
            offset: 0.0,
        },
        parallel,
        packing: Packing::Heads,
        biases: Biases::of(attention_bias, true),
        rotary: Some(rotary),
        activation,
        gated: false,
        ..BlockPlan::new(epsilon)
    }
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    let rotary = config.rotaries()[0];
    let fraction = rotary.fraction(config.head_dim);
    let mut parameters = rotary.parameters_json();
    parameters["partial_rotary_factor"] = json!(fraction);
    if rotary.scaling.is_some() {
        map.insert("rope_scaling".into(), rotary.scaling_json());
    }
    map.extend([
        ("rotary_pct".into(), json!(fraction)),
        ("rotary_emb_base".into(), json!(rotary.base)),
        ("rope_parameters".into(), parameters),
        ("use_parallel_residual".into(), json!(config.plan.parallel)),
        ("attention_bias".into(), json!(config.plan.biases.qkv)),
        ("attention_dropout".into(), json!(0.0)),
        ("hidden_dropout".into(), json!(0.0)),
    ]);
}
