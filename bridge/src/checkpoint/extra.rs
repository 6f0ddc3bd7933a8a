//! Tensors that a file holds beside those of the network, and biases that it does without.

use super::{CONFIG, is_published_buffer};
use crate::family::{Head, ModelConfig};
use crate::files::is_zero;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Why a tensor is passed over, and what it is called in the note; an error for one that may not be.
pub(super) fn passed_over(
    path: &Path,
    file: &SafeTensors,
    name: &str,
    config: &ModelConfig,
    head: Head,
) -> Result<(&'static str, String)> {
    if is_published_buffer(name) {
        return Ok(("which the network computes itself", of_every_layer(name)));
    }
    if ["v_head.", "value_head."]
        .iter()
        .any(|p| name.starts_with(p))
    {
        return Ok((
            "a value head, which only its trainer reads",
            "v_head".into(),
        ));
    }
    match (name, head) {
        ("embed_out.weight" | "lm_head.weight", Head::CausalLm) if config.tied_embeddings() => {
            return Ok(("tied to the embedding", name.into()));
        }
        ("lm_head.weight", Head::CausalLm) if config.head_weight() == "embed_out.weight" => {
            return Ok((
                "another head beside embed_out.weight, which transformers reads",
                name.into(),
            ));
        }
        ("embed_out.weight" | "lm_head.weight", Head::Classification { .. }) => {
            return Ok((
                "a head that writes text, beside one that gives scores",
                name.into(),
            ));
        }
        ("score.weight" | "score.bias", Head::CausalLm) => {
            return Ok((
                "a head that gives scores, beside one that writes text",
                name.into(),
            ));
        }
        _ => {}
    }
    let weight = name
        .strip_suffix(".bias")
        .map(|part| format!("{part}.weight"));
    if weight.is_some_and(|weight| config.tensors(head).contains_key(&weight)) {
        if is_zero(path, file, name)? {
            return Ok((
                "zeros that config.json has no place for",
                of_every_layer(name),
            ));
        }
        let key = match name.contains(".mlp.") {
            true => "mlp_bias",
            false => "attention_bias",
        };
        return Err(Error::file(
            path,
            format!(
                "tensor {name}: {CONFIG} says that there is no such bias ({key}), and it is not zero; without it the network is another"
            ),
        ));
    }
    Err(Error::file(
        path,
        format!("tensor {name}: {}", misplaced(name)),
    ))
}

/// Why a tensor has no place in the network.
fn misplaced(name: &str) -> String {
    let wrapped = ["module.", "_orig_mod.", "_fsdp_wrapped_module."];
    let quantised = [
        (".qweight", "GPTQ or AWQ"),
        (".qzeros", "GPTQ or AWQ"),
        (".scales", "GPTQ or AWQ"),
        (".g_idx", "GPTQ"),
        (".absmax", "bitsandbytes"),
        (".quant_map", "bitsandbytes"),
        (".SCB", "bitsandbytes"),
        (".weight_scale", "FP8"),
        (".weight_scale_inv", "FP8"),
        (".input_scale", "FP8"),
    ];
    if let Some((_, by)) = quantised
        .iter()
        .find(|(end, _)| name.ends_with(end) || name.contains(&format!("{end}.")))
    {
        return format!("the weights are quantised ({by}), expected f32, f16 or bf16");
    }
    if let Some(prefix) = wrapped.iter().find(|p| name.contains(*p)) {
        return format!(
            "the wrapper of a training library left {prefix:?} in the names; save the model that it wraps"
        );
    }
    if name.contains(".lora_") {
        return "an adapter, not a whole model; merge it with rto_llm convert, or train on with --lora".into();
    }
    format!("does not belong to the network that {CONFIG} describes")
}

/// A tensor's name without its layer's number.
fn of_every_layer(name: &str) -> String {
    let mut parts = name.split('.');
    match parts.any(|part| part.parse::<usize>().is_ok()) {
        true => parts.collect::<Vec<_>>().join("."),
        false => name.into(),
    }
}

/// Zeros for the biases that no layer of the file has, as `transformers` begins them; what they are called.
pub(super) fn missing_biases(
    expected: &BTreeMap<String, Vec<usize>>,
    weights: &mut BTreeMap<String, Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<BTreeSet<String>> {
    let there: BTreeSet<String> = weights.keys().map(|n| of_every_layer(n)).collect();
    let mut added = BTreeSet::new();
    for (name, shape) in expected {
        let part = of_every_layer(name);
        if name.ends_with(".bias") && !there.contains(&part) {
            weights.insert(
                name.clone(),
                Tensor::zeros(shape.as_slice(), dtype, device)?,
            );
            added.insert(part);
        }
    }
    Ok(added)
}
