//! GGUF files of models of the families that say how they look there ([`Gguf`]): weights dequantised to `f32` under their Hugging Face names, the shape of the network,
//! and the tokenizer, rebuilt from the file's metadata.
//!
//! [`crate::checkpoint::load`] and [`crate::tokenizer::Tokenizer::load`] take such a file where they take a folder. What is trained from
//! it is saved as an ordinary Hugging Face folder.

mod dequantise;
mod file;
mod tokenizer;

use crate::family::{
    BlockPlan, EndTokens, FAMILIES, Family, Gguf, Metadata, ModelConfig, RopeScaling, Rotary,
};
use crate::files::check_finite;
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
pub fn config(path: &Path) -> Result<ModelConfig> {
    let map = crate::files::map(path)?;
    Ok(shape(&File::parse(path, &map)?, path)?.0)
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
) -> Result<(ModelConfig, BTreeMap<String, Tensor>)> {
    let map = crate::files::map(path)?;
    let file = File::parse(path, &map)?;
    let (config, gguf) = shape(&file, path)?;
    let mut expected = config.tensors(crate::family::Head::CausalLm);
    let mut weights = BTreeMap::new();
    for (name, entry) in &file.tensors {
        // What it says was read into the shape.
        if name == ROPE_FACTORS {
            continue;
        }
        let ours = hugging_face_name(config.description(), name);
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
            if gguf.interleaved && name.contains(part) {
                values = half_split(&values, heads, config.head_dim);
            }
        }
        if gguf.gains_added && name.ends_with("norm.weight") {
            let offset = config.plan().norm.offset as f32;
            values.iter_mut().for_each(|w| *w -= offset);
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
    let map = crate::files::map(path)?;
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

/// Hugging Face's name of a tensor, by the part of the network that it is.
fn hugging_face_name(family: &Family, name: &str) -> Option<String> {
    let names = &family.names;
    match name {
        "token_embd.weight" => return Some(names.embedding.into()),
        "position_embd.weight" => return names.positions.map(String::from),
        "output.weight" => return Some(names.head.into()),
        _ => {}
    }
    if let Some(end) = name.strip_prefix("output_norm.") {
        return Some(format!("{}.{end}", names.final_norm));
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, end) = part.rsplit_once('.')?;
    let module = match (part, names.qkv, names.up) {
        ("attn_norm", ..) => names.attention_norm?,
        ("post_attention_norm", ..) => names.attention_out_norm?,
        ("ffn_norm", ..) => names.mlp_norm?,
        ("post_ffw_norm", ..) => names.mlp_out_norm?,
        ("attn_q_norm", ..) => names.qk_norms?[0],
        ("attn_k_norm", ..) => names.qk_norms?[1],
        ("attn_qkv", [packed], _) => *packed,
        ("attn_q", [query, _, _], _) => *query,
        ("attn_k", [_, key, _], _) => *key,
        ("attn_v", [_, _, value], _) => *value,
        ("attn_output", ..) => names.out,
        ("ffn_gate", _, [gate, _]) => *gate,
        ("ffn_up", _, [up] | [_, up]) => *up,
        ("ffn_down", ..) => names.down,
        _ => return None,
    };
    Some(format!("{}.{layer}.{module}.{end}", names.blocks))
}

/// A file's metadata under the keys of one architecture.
struct Keys<'a> {
    file: &'a File<'a>,
    architecture: &'static str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn need(&self, key: &str) -> Result<usize> {
        self.file.size(&self.key(key))
    }
}

impl Metadata for Keys<'_> {
    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.file.find_size(&self.key(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.file.find_number(&self.key(key))
    }

    fn has_bias(&self, module: &str) -> bool {
        self.file
            .tensors
            .contains_key(&format!("blk.0.{module}.bias"))
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        self.file.wrong(&self.key(key), expected)
    }
}

fn family(file: &File<'_>) -> Result<(&'static Family, &'static Gguf)> {
    const FAMILY: &str = "general.architecture";
    let named = file.find_text(FAMILY)?;
    let known = || {
        FAMILIES
            .iter()
            .filter_map(|family| Some((*family, family.gguf?)))
    };
    if let Some(found) = known().find(|(_, gguf)| named == Some(gguf.architecture)) {
        return Ok(found);
    }
    let names: Vec<String> = known()
        .map(|(_, g)| format!("\"{}\"", g.architecture))
        .collect();
    let expected = crate::family::one_of(&names);
    Err(match named {
        Some(_) => file.wrong(FAMILY, &expected),
        None => file.missing(FAMILY, &expected),
    })
}

fn shape(file: &File<'_>, path: &Path) -> Result<(ModelConfig, &'static Gguf)> {
    let (family, gguf) = family(file)?;
    let Some(embedding) = file.tensors.get("token_embd.weight") else {
        return Err(Error::file(path, "tensor token_embd.weight: not there"));
    };
    let keys = Keys {
        file,
        architecture: gguf.architecture,
    };
    let hidden_size = keys.need("embedding_length")?;
    let n_heads = keys.need("attention.head_count")?;
    let head_dim = match keys.size("attention.key_length")? {
        Some(width) => width,
        None => hidden_size / n_heads.max(1),
    };
    if keys.size("expert_count")?.is_some_and(|n| n > 0) {
        return Err(keys.wrong("expert_count", "no experts, which are not supported"));
    }
    let base = keys.number("rope.freq_base")?.unwrap_or(1e4);
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
    let epsilon_key = match keys.number("attention.layer_norm_epsilon")? {
        Some(_) => "attention.layer_norm_epsilon",
        None => "attention.layer_norm_rms_epsilon",
    };
    let epsilon = keys.number(epsilon_key)?;
    let epsilon = epsilon.ok_or_else(|| file.missing(&keys.key(epsilon_key), "a finite number"))?;
    let mut config = ModelConfig {
        family,
        vocab_size: embedding.shape[0],
        hidden_size,
        n_layers: keys.need("block_count")?,
        n_heads,
        n_kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        intermediate_size: keys.need("feed_forward_length")?,
        max_positions: keys.need("context_length")?,
        plan: BlockPlan {
            rotary: Some(Rotary {
                dims: head_dim,
                base,
                scaling: None,
            }),
            ..BlockPlan::new(epsilon)
        },
        tied_embeddings: !file.tensors.contains_key("output.weight"),
        bos_token: token("bos")?,
        eos_tokens: EndTokens::from(token("eos")?).with(&more_ends),
        pad_token: token("padding")?,
    };
    if config.n_layers > file.tensors.len() {
        let why = format!(
            "{}: found {}, expected no more than its {} tensors",
            keys.key("block_count"),
            config.n_layers,
            file.tensors.len()
        );
        return Err(Error::file(path, why));
    }
    (gguf.read)(&keys, &mut config)?;
    let (width, rotary) = (config.head_dim, config.plan.rotary);
    for (key, wanted) in [
        ("attention.value_length", Some(width)),
        ("rope.dimension_count", rotary.map(|rotary| rotary.dims)),
    ] {
        let found = keys.size(key)?;
        if let (Some(wanted), Some(_)) = (wanted, found)
            && found != Some(wanted)
        {
            return Err(keys.wrong(key, &wanted.to_string()));
        }
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
    if let Some(rotary) = &mut config.plan.rotary {
        rotary.scaling = rope_scaling(&keys, path, rotary)?;
    }
    Ok((config, gguf))
}

fn rope_scaling(keys: &Keys<'_>, path: &Path, rotary: &Rotary) -> Result<Option<RopeScaling>> {
    let (file, kind) = (keys.file, keys.key("rope.scaling.type"));
    if let Some(entry) = file.tensors.get(ROPE_FACTORS) {
        let factors = values(file, path, ROPE_FACTORS, entry)?;
        return llama3(rotary, &factors).map(Some).ok_or_else(|| {
            Error::file(
                path,
                format!("tensor {ROPE_FACTORS}: its factors are not those of Llama 3.1, 3.2 or 3.3, and no others are supported"),
            )
        });
    }
    match file.find_text(&kind)? {
        None | Some("none") => Ok(None),
        Some("linear") => {
            let factor = keys.number("rope.scaling.factor")?.filter(|f| *f > 0.0);
            match factor {
                Some(factor) => Ok(Some(RopeScaling::Linear { factor })),
                None => Err(file.missing(&keys.key("rope.scaling.factor"), "a number above 0")),
            }
        }
        Some(_) => Err(file.wrong(&kind, "\"none\" or \"linear\"")),
    }
}

/// The published settings whose factors these are: the file has frequencies' quotients only.
fn llama3(rotary: &Rotary, factors: &[f32]) -> Option<RopeScaling> {
    [8.0, 32.0].into_iter().find_map(|factor| {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let of = |scaling| Rotary { scaling, ..*rotary }.frequencies();
        let plain = of(None);
        let wanted = plain.iter().zip(of(Some(scaling)));
        let fits = factors.len() == plain.len()
            && wanted
                .zip(factors)
                .all(|((plain, scaled), factor)| (plain / scaled / factor - 1.0).abs() < 1e-4);
        fits.then_some(scaling)
    })
}
