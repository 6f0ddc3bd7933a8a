//! GPT-2: layer norms with biases, learned positions, one projection for queries, keys and values, linear layers stored `[in, out]`.

use super::{
    Activation, Biases, BlockPlan, ConfigKeys, Family, Gguf, Keys, ModelConfig, Names, Norm,
    NormKind,
};
use crate::Result;
use serde_json::{Value, json};

pub(super) static GPT2: Family = Family {
    name: "GPT-2",
    model_type: "gpt2",
    classes: ["GPT2LMHeadModel", "GPT2ForSequenceClassification"],
    names: Names {
        embedding: "transformer.wte.weight",
        positions: Some("transformer.wpe.weight"),
        blocks: "transformer.h",
        attention_norm: Some("ln_1"),
        attention_out_norm: None,
        mlp_norm: Some("ln_2"),
        mlp_out_norm: None,
        qk_norms: None,
        qkv: &["attn.c_attn"],
        out: "attn.c_proj",
        up: &["mlp.c_fc"],
        down: "mlp.c_proj",
        final_norm: "transformer.ln_f",
        head: "lm_head.weight",
        conv1d: true,
    },
    lora_targets: &["c_attn", "c_proj", "c_fc"],
    keys: ConfigKeys {
        vocab_size: ("vocab_size", 50_257),
        hidden_size: ("n_embd", 768),
        n_layers: ("n_layer", 12),
        n_heads: ("n_head", 12),
        n_kv_heads: None,
        head_dim: None,
        intermediate_size: ("n_inner", 0),
        max_positions: ("n_positions", 1_024),
        epsilon: ("layer_norm_epsilon", 1e-5),
        activation: (
            "activation_function",
            &["gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh"],
        ),
        tied: true,
        tokens: [Some(50_256), Some(50_256)],
    },
    gguf: Some(&Gguf {
        architecture: "gpt2",
        interleaved: false,
        gains_added: false,
        read: |_, config| {
            let epsilon = config.plan.norm.epsilon;
            config.plan = plan(epsilon, Activation::GeluTanh, None);
            Ok(())
        },
    }),
    read,
    write: |config, map| {
        let scaled = config.plan.attention_scale.is_none();
        map.extend([
            ("scale_attn_weights".into(), json!(scaled)),
            ("scale_attn_by_inverse_layer_idx".into(), json!(false)),
            ("attn_pdrop".into(), json!(0.0)),
            ("embd_pdrop".into(), json!(0.0)),
            ("resid_pdrop".into(), json!(0.0)),
        ]);
    },
};

fn read(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<()> {
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if keys.flag(key, false)? {
            return Err(keys.wrong(key, &Value::Bool(true), "false"));
        }
    }
    let scale = (!keys.flag("scale_attn_weights", true)?).then_some(1.0);
    config.plan = plan(config.plan.norm.epsilon, config.plan.activation, scale);
    Ok(())
}

fn plan(epsilon: f64, activation: Activation, attention_scale: Option<f64>) -> BlockPlan {
    BlockPlan {
        norm: Norm {
            kind: NormKind::Layer,
            epsilon,
            offset: 0.0,
        },
        biases: Biases::of(true, true),
        activation,
        gated: false,
        attention_scale,
        ..BlockPlan::new(epsilon)
    }
}
