//! GGUF files of models of the Llama family: weights dequantised to `f32` under their Hugging Face names, the shape of the network,
//! and the tokenizer, rebuilt from the file's metadata.
//!
//! [`crate::checkpoint::load`] and [`crate::tokenizer::Tokenizer::load`] take such a file where they take a folder. What is trained from
//! it is saved as an ordinary Hugging Face folder.

mod dequantise;
mod file;
mod tokenizer;

use crate::checkpoint::check_finite;
use crate::config::{EndTokens, LlamaConfig, LlamaFamily, ModelConfig, RopeScaling};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use dequantise::{KNOWN, Kind, name_of};
use file::{Entry, File};
use std::collections::BTreeMap;
use std::path::Path;

/// Whether a path names a GGUF file, by its ending.
pub fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        && !path.is_dir()
}

/// The shape of the network in a file, without its weights.
///
/// # Errors
/// [`Error::File`] naming the key: a damaged file, another family, a setting that is not supported.
pub fn config(path: &Path) -> Result<LlamaConfig> {
    let map = crate::checkpoint::map(path)?;
    shape(&File::parse(path, &map)?, path)
}

/// Shape and every weight of a file, as `dtype`.
///
/// # Errors
/// As [`config`]; [`Error::File`] naming a tensor that is missing, left over, misshapen, cut off, not finite, or of a type that is not
/// read.
pub fn load(
    path: &Path,
    dtype: DType,
    device: &Device,
) -> Result<(LlamaConfig, BTreeMap<String, Tensor>)> {
    let map = crate::checkpoint::map(path)?;
    let file = File::parse(path, &map)?;
    let config = shape(&file, path)?;
    let mut expected = ModelConfig::from(&config).tensors(crate::config::Head::CausalLm);
    let mut weights = BTreeMap::new();
    for (name, entry) in &file.tensors {
        // What it says was read into the shape.
        if name == ROPE_FACTORS {
            continue;
        }
        let ours = hugging_face_name(name);
        let Some(shape) = ours.as_ref().and_then(|ours| expected.remove(ours)) else {
            let why =
                format!("tensor {name}: does not belong to the network that the file describes");
            return Err(Error::file(path, why));
        };
        if entry.shape != shape {
            let found = &entry.shape;
            let why = format!("tensor {name}: found shape {found:?}, expected {shape:?}");
            return Err(Error::file(path, why));
        }
        let mut values = values(&file, path, name, entry)?;
        for (part, heads) in [("attn_q.", config.n_heads), ("attn_k.", config.n_kv_heads)] {
            if name.contains(part) {
                values = half_split(&values, heads, config.head_dim);
            }
        }
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        check_finite(path, name, &tensor, dtype)?;
        let tensor = tensor.to_dtype(dtype)?.to_device(device)?;
        weights.insert(ours.unwrap_or_default(), tensor);
    }
    if let Some((name, shape)) = expected.first_key_value() {
        let why =
            format!("tensor {name}: not there under its name in GGUF, expected shape {shape:?}");
        return Err(Error::file(path, why));
    }
    Ok((config, weights))
}

/// The tokenizer's files of a Hugging Face folder, by name: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`.
///
/// # Errors
/// [`Error::File`] naming the key: a damaged file, or a kind of tokenizer that is not supported.
pub fn tokenizer_files(path: &Path) -> Result<[(&'static str, String); 3]> {
    let map = crate::checkpoint::map(path)?;
    tokenizer::files(&File::parse(path, &map)?, path)
}

/// Factors by which rotary frequencies are divided, one a pair of dimensions.
const ROPE_FACTORS: &str = "rope_freqs.weight";

fn values(file: &File<'_>, path: &Path, name: &str, entry: &Entry) -> Result<Vec<f32>> {
    let Some(kind) = Kind::of(entry.kind) else {
        let why = format!(
            "tensor {name}: is of type {} (number {}), expected {KNOWN}; llama-quantize --allow-requantize makes one of these of it",
            name_of(entry.kind),
            entry.kind
        );
        return Err(Error::file(path, why));
    };
    let (size, width) = kind.block();
    let row = entry.shape.last().copied().unwrap_or(1);
    let elements: usize = entry.shape.iter().product();
    if !row.is_multiple_of(size) {
        let why = format!("tensor {name}: rows of {row} values, expected a multiple of {size}");
        return Err(Error::file(path, why));
    }
    Ok(kind.values(file.bytes(name, entry, elements / size * width)?))
}

/// Rows of queries and keys: the file has the two halves of a head's dimensions in turn, as the original code rotates them.
fn half_split(values: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let width = values.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for row in 0..head_dim {
            let (half, pair) = (row / (head_dim / 2), row % (head_dim / 2));
            let from = head * head_dim + 2 * pair + half;
            out.extend_from_slice(&values[from * width..][..width]);
        }
    }
    out
}

fn hugging_face_name(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let (part, end) = part.rsplit_once('.')?;
            let part = match part {
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                _ => return None,
            };
            return Some(format!("model.layers.{layer}.{part}.{end}"));
        }
    };
    Some(whole.into())
}

fn shape(file: &File<'_>, path: &Path) -> Result<LlamaConfig> {
    const FAMILY: &str = "general.architecture";
    match file.find_text(FAMILY)? {
        Some("llama") => {}
        Some(_) => return Err(file.wrong(FAMILY, "\"llama\"")),
        None => return Err(file.missing(FAMILY, "\"llama\"")),
    }
    let Some(embedding) = file.tensors.get("token_embd.weight") else {
        return Err(Error::file(path, "tensor token_embd.weight: not there"));
    };
    let has = |part: &str| file.tensors.contains_key(&format!("blk.0.{part}.bias"));
    let hidden_size = file.size("llama.embedding_length")?;
    let n_heads = file.size("llama.attention.head_count")?;
    let head_dim = match file.find_size("llama.attention.key_length")? {
        Some(width) => width,
        None => hidden_size / n_heads.max(1),
    };
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        if file.find_size(key)?.is_some_and(|n| n != head_dim) {
            return Err(file.wrong(key, &format!("the width of a head ({head_dim})")));
        }
    }
    if file.find_size("llama.expert_count")?.is_some_and(|n| n > 0) {
        return Err(file.wrong("llama.expert_count", "no experts, which are not supported"));
    }
    let window = file
        .find_size("llama.attention.sliding_window")?
        .filter(|w| *w > 0);
    let rope_base = file.find_number("llama.rope.freq_base")?.unwrap_or(1e4);
    let token = |name: &str| -> Result<Option<u32>> {
        Ok(file
            .find_size(&format!("tokenizer.ggml.{name}_token_id"))?
            .map(|t| t as u32))
    };
    // What ends a turn and what ends a message, where the file tells them from what ends a text.
    let more_ends: Vec<u32> = [token("eot")?, token("eom")?]
        .into_iter()
        .flatten()
        .collect();
    let mut config = LlamaConfig {
        family: match window {
            Some(_) => LlamaFamily::Mistral,
            None => LlamaFamily::Llama,
        },
        vocab_size: embedding.shape[0],
        hidden_size,
        n_layers: file.size("llama.block_count")?,
        n_heads,
        n_kv_heads: file
            .find_size("llama.attention.head_count_kv")?
            .unwrap_or(n_heads),
        head_dim,
        intermediate_size: file.size("llama.feed_forward_length")?,
        rope_base,
        rope_scaling: None,
        max_positions: file.size("llama.context_length")?,
        rms_norm_eps: file
            .find_number("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| {
                file.missing("llama.attention.layer_norm_rms_epsilon", "a finite number")
            })?,
        window,
        attention_bias: has("attn_q"),
        mlp_bias: has("ffn_up"),
        tied_embeddings: !file.tensors.contains_key("output.weight"),
        bos_token: token("bos")?,
        eos_tokens: EndTokens::from(token("eos")?).with(&more_ends),
        pad_token: token("padding")?,
    };
    if config.n_layers > file.tensors.len() {
        let why = format!(
            "llama.block_count: found {}, expected no more than its {} tensors",
            config.n_layers,
            file.tensors.len()
        );
        return Err(Error::file(path, why));
    }
    if let Err(Error::Setting {
        field,
        found,
        expected,
    }) = config.check()
    {
        let why = format!("{field} of the network: found {found}, expected {expected}");
        return Err(Error::file(path, why));
    }
    let tokens = [config.bos_token, config.pad_token].into_iter().flatten();
    if let Some(token) = tokens
        .chain(config.eos_tokens.all().iter().copied())
        .find(|t| *t as usize >= config.vocab_size)
    {
        let why = format!(
            "special token {token}: expected one below the vocabulary of {}",
            config.vocab_size
        );
        return Err(Error::file(path, why));
    }
    config.rope_scaling = rope_scaling(file, path, &config)?;
    Ok(config)
}

fn rope_scaling(file: &File<'_>, path: &Path, config: &LlamaConfig) -> Result<Option<RopeScaling>> {
    const KIND: &str = "llama.rope.scaling.type";
    if let Some(entry) = file.tensors.get(ROPE_FACTORS) {
        let factors = values(file, path, ROPE_FACTORS, entry)?;
        return llama3(config, &factors).map(Some).ok_or_else(|| {
            Error::file(
                path,
                format!("tensor {ROPE_FACTORS}: its factors are not those of Llama 3.1, 3.2 or 3.3, and no others are supported"),
            )
        });
    }
    match file.find_text(KIND)? {
        None | Some("none") => Ok(None),
        Some("linear") => {
            let factor = file
                .find_number("llama.rope.scaling.factor")?
                .filter(|f| *f > 0.0);
            match factor {
                Some(factor) => Ok(Some(RopeScaling::Linear { factor })),
                None => Err(file.missing("llama.rope.scaling.factor", "a number above 0")),
            }
        }
        Some(_) => Err(file.wrong(KIND, "\"none\" or \"linear\"")),
    }
}

/// The published settings whose factors these are: the file has frequencies' quotients only.
fn llama3(config: &LlamaConfig, factors: &[f32]) -> Option<RopeScaling> {
    [8.0, 32.0].into_iter().find_map(|factor| {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let scaled = LlamaConfig {
            rope_scaling: Some(scaling),
            ..config.clone()
        };
        let plain = crate::ops::rotary::frequencies(config.head_dim, config.rope_base);
        let wanted = plain.iter().zip(scaled.rotary_frequencies());
        let fits = factors.len() == plain.len()
            && wanted
                .zip(factors)
                .all(|((plain, scaled), factor)| (plain / scaled / factor - 1.0).abs() < 1e-4);
        fits.then_some(scaling)
    })
}
