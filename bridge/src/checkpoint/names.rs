//! Which tensors a GPT-NeoX folder holds.

use crate::config::{GptNeoXConfig, Head};
use std::collections::BTreeMap;

/// Name and shape of every tensor of the network with this head, in sorted order.
pub fn expected_tensors(config: &GptNeoXConfig, head: Head) -> BTreeMap<String, Vec<usize>> {
    let (h, inner) = (config.hidden_size, config.intermediate_size);
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        tensors.insert(name, shape.to_vec());
    };
    add("gpt_neox.embed_in.weight".into(), &[config.vocab_size, h]);
    for layer in 0..config.n_layers {
        let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
            let name = format!("gpt_neox.layers.{layer}.{name}");
            if bias {
                add(format!("{name}.bias"), &[rows]);
            }
            add(format!("{name}.weight"), &[rows, columns]);
        };
        linear("attention.query_key_value", 3 * h, h, config.attention_bias);
        linear("attention.dense", h, h, config.attention_bias);
        linear("mlp.dense_h_to_4h", inner, h, true);
        linear("mlp.dense_4h_to_h", h, inner, true);
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("gpt_neox.layers.{layer}.{norm}.bias"), &[h]);
            add(format!("gpt_neox.layers.{layer}.{norm}.weight"), &[h]);
        }
    }
    add("gpt_neox.final_layer_norm.bias".into(), &[h]);
    add("gpt_neox.final_layer_norm.weight".into(), &[h]);
    match head {
        Head::CausalLm if config.tied_embeddings => {}
        Head::CausalLm => add("embed_out.weight".into(), &[config.vocab_size, h]),
        Head::Classification { labels } => add("score.weight".into(), &[labels, h]),
    }
    tensors
}

/// Whether a tensor is one of the constants that published Pythia files carry beside the weights: the causal mask,
/// the value that stands for −∞ in it, and the rotary frequencies.
pub fn is_published_buffer(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("gpt_neox.layers.") else {
        return false;
    };
    let Some((layer, rest)) = rest.split_once('.') else {
        return false;
    };
    layer.parse::<usize>().is_ok()
        && matches!(
            rest,
            "attention.bias" | "attention.masked_bias" | "attention.rotary_emb.inv_freq"
        )
}
