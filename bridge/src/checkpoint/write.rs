//! Saving a folder.

use super::ends::renewed;
use super::{CONFIG, GENERATION_CONFIG, INDEX, TOKENIZER_FILES, WEIGHTS, atomic};
use crate::family::{Activation, Head, ModelConfig};
use crate::files::{check_finite, type_name, write_tensors};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What a folder will hold.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// Shape of the network.
    pub config: &'a ModelConfig,
    /// What stands on the trunk.
    pub head: Head,
    /// Every weight under its Hugging Face name, exactly those of [`ModelConfig::tensors`].
    pub weights: &'a BTreeMap<String, Tensor>,
    /// Type to store: F32, F16 or BF16.
    pub dtype: DType,
    /// Largest file of weights in bytes; more than that is sharded. 5 GB is usual.
    pub shard_bytes: u64,
    /// A folder whose tokenizer, generation settings and name of the activation are carried along.
    pub carry: Option<&'a Path>,
}

/// Replaces a Hugging Face folder, in one step.
///
/// # Errors
/// [`Error::File`] for a tensor that is missing, left over, misshapen or not finite in the stored type, a folder that
/// is there and is no checkpoint, or a failed write; what was there is then as it was.
pub fn save(folder: &Path, contents: &Contents) -> Result<()> {
    save_with(folder, contents, |_| Ok(()))
}

/// [`save`], with files of the caller's own (an optimiser's state, say) that `extra` writes into the same folder.
///
/// # Errors
/// As [`save`], and what `extra` returns.
pub fn save_with(
    folder: &Path,
    contents: &Contents,
    extra: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    check_weights(folder, contents)?;
    check_place(folder)?;
    let carried = carried_files(contents)?;
    let config = described(contents);
    let ours = |name: &str| {
        name == CONFIG
            || name == GENERATION_CONFIG
            || name == INDEX
            || name.starts_with("model") && name.ends_with(".safetensors")
    };
    atomic::replace_folder(folder, ours, |new| {
        for (name, bytes) in &carried {
            write(&new.join(name), bytes)?;
        }
        write(&new.join(CONFIG), pretty(&config).as_bytes())?;
        write_weights(new, contents)?;
        extra(new)
    })
}

/// `config.json`. Of several names for one activation it keeps the carried folder's: `transformers` rounds them differently.
fn described(contents: &Contents) -> Value {
    let mut config = contents
        .config
        .to_json(contents.head, dtype_name(contents.dtype));
    let key = contents.config.description().keys.activation.0;
    if let Some(name) = carried_config(contents).and_then(|c| c[key].as_str().map(String::from))
        && Activation::named(&name) == Some(contents.config.plan().activation)
    {
        config[key] = name.into();
    }
    config
}

/// The `config.json` of the carried folder, where it has one that can be read.
fn carried_config(contents: &Contents) -> Option<Value> {
    let bytes = std::fs::read(contents.carry?.join(CONFIG)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What `config.json` calls a type.
pub fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

fn check_weights(folder: &Path, contents: &Contents) -> Result<()> {
    let expected = contents.config.tensors(contents.head);
    for (name, shape) in &expected {
        let tensor = contents.weights.get(name).ok_or_else(|| {
            Error::file(
                folder,
                format!("tensor {name}: not given, expected shape {shape:?}"),
            )
        })?;
        if tensor.dims() != shape {
            let found = tensor.dims();
            return Err(Error::file(
                folder,
                format!("tensor {name}: given shape {found:?}, expected {shape:?}"),
            ));
        }
        type_name(contents.dtype)?;
        check_finite(folder, name, tensor, contents.dtype)?;
    }
    match contents
        .weights
        .keys()
        .find(|name| !expected.contains_key(*name))
    {
        Some(name) => Err(Error::file(
            folder,
            format!("tensor {name}: does not belong to this network"),
        )),
        None => Ok(()),
    }
}

/// A folder full of other things is not replaced.
fn check_place(folder: &Path) -> Result<()> {
    if !folder.exists() || folder.join(CONFIG).is_file() {
        return Ok(());
    }
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::file(
            folder,
            format!("is not empty and holds no {CONFIG}; nothing was replaced"),
        )),
        Err(e) => Err(Error::file(folder, format!("cannot read: {e}"))),
    }
}

/// Tokenizer and generation settings, read before anything is replaced: the folder they are in may be the same one.
fn carried_files(contents: &Contents) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if let Some(from) = contents.carry {
        for name in TOKENIZER_FILES.into_iter().chain([GENERATION_CONFIG]) {
            let path = from.join(name);
            if path.is_file() {
                let mut bytes = std::fs::read(&path)
                    .map_err(|e| Error::file(&path, format!("cannot read: {e}")))?;
                if name == GENERATION_CONFIG
                    && let Ok(generation) = serde_json::from_slice(&bytes)
                    && let Some(new) = renewed(
                        generation,
                        carried_config(contents).as_ref(),
                        contents.config.end_tokens(),
                    )
                {
                    bytes = pretty(&new).into_bytes();
                }
                files.insert(name, bytes);
            }
        }
    }
    if contents.head == Head::CausalLm {
        let config = contents.config;
        files.entry(GENERATION_CONFIG).or_insert_with(|| {
            pretty(&json!({
                "_from_model_config": true,
                "bos_token_id": config.bos_token(),
                "eos_token_id": config.end_tokens().to_json(),
                "pad_token_id": config.pad_token(),
            }))
            .into_bytes()
        });
    }
    Ok(files)
}

fn write_weights(folder: &Path, contents: &Contents) -> Result<()> {
    let shards = shards(contents)?;
    if let [whole] = &shards[..] {
        return write_tensors(&folder.join(WEIGHTS), whole, contents.dtype);
    }
    let (mut map, mut total) = (Map::new(), 0);
    let size = type_name(contents.dtype)?.1;
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        for (name, tensor) in shard {
            map.insert(name.clone(), json!(file));
            total += tensor.elem_count() * size;
        }
        write_tensors(&folder.join(&file), shard, contents.dtype)?;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write(&folder.join(INDEX), pretty(&index).as_bytes())
}

/// The weights in sorted order, cut where a file would grow past the limit.
fn shards(contents: &Contents) -> Result<Vec<BTreeMap<String, Tensor>>> {
    let size = type_name(contents.dtype)?.1;
    let mut shards = vec![BTreeMap::new()];
    let mut used = 0;
    for (name, tensor) in contents.weights {
        let bytes = (tensor.elem_count() * size) as u64;
        if used > 0 && used + bytes > contents.shard_bytes {
            shards.push(BTreeMap::new());
            used = 0;
        }
        used += bytes;
        let last = shards.last_mut().expect("never empty");
        let stored = match contents.config.stored_transposed(name) {
            true => tensor.t()?.contiguous()?,
            false => tensor.clone(),
        };
        last.insert(name.clone(), stored);
    }
    Ok(shards)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::file(path, format!("cannot write: {e}")))
}
