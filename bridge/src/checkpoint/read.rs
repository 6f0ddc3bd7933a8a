//! Loading a folder.

use super::ends::with_all_ends;
use super::safetensors_file::{tensor, with_file};
use super::{CONFIG, INDEX, WEIGHTS, atomic, is_published_buffer};
use crate::config::{Head, ModelConfig};
use crate::{Error, Result, gguf};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A loaded folder.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder, or GGUF file, it was read from.
    pub folder: PathBuf,
    /// Shape of the network.
    pub config: ModelConfig,
    /// What stands on the trunk.
    pub head: Head,
    /// Type the weights are stored in (of the first by name, where they differ).
    pub stored_dtype: DType,
    /// Every weight under its Hugging Face name.
    pub weights: BTreeMap<String, Tensor>,
    /// What a user should know about the load: buffers that were skipped, a previous checkpoint that was taken.
    pub notes: Vec<String>,
}

/// The shape of the network in a folder or GGUF file, without its weights.
///
/// # Errors
/// As [`load`], where they concern the shape.
pub fn read_config(path: &Path) -> Result<(ModelConfig, Head)> {
    read_shape(path, &mut Vec::new())
}

/// [`read_config`], with what a user should know of the folder's files.
///
/// # Errors
/// As [`read_config`].
pub fn read_shape(path: &Path, notes: &mut Vec<String>) -> Result<(ModelConfig, Head)> {
    if gguf::is_gguf(path) {
        return Ok((gguf::config(path)?.into(), Head::CausalLm));
    }
    let folder = present(path, notes)?;
    let (mut config, head) = shape(&folder, notes)?;
    // A folder whose weights cannot be opened says so where they are loaded.
    if let Ok(files) = Files::open(&folder) {
        config = files.untied(config, head, notes)?;
    }
    Ok((config, head))
}

/// `config.json` with the end tokens of the files beside it.
fn shape(folder: &Path, notes: &mut Vec<String>) -> Result<(ModelConfig, Head)> {
    let (config, head) = ModelConfig::read(&folder.join(CONFIG))?;
    Ok((with_all_ends(folder, config, notes)?, head))
}

/// Reads a Hugging Face folder, or a GGUF file, onto a device, as `dtype` or as stored (`f32` from a GGUF file).
///
/// # Errors
/// [`Error::File`] naming the file and the key or tensor: something missing, left over, of another shape or type, not
/// finite, or a damaged file.
pub fn load(folder: &Path, dtype: Option<DType>, device: &Device) -> Result<Checkpoint> {
    if gguf::is_gguf(folder) {
        let dtype = dtype.unwrap_or(DType::F32);
        let (config, weights) = gguf::load(folder, dtype, device)?;
        return Ok(Checkpoint {
            folder: folder.into(),
            config: config.into(),
            head: Head::CausalLm,
            stored_dtype: dtype,
            weights,
            notes: Vec::new(),
        });
    }
    let mut notes = Vec::new();
    let folder = present(folder, &mut notes)?;
    let (config, head) = shape(&folder, &mut notes)?;
    let files = Files::open(&folder)?;
    let config = files.untied(config, head, &mut notes)?;
    let expected = config.tensors(head);
    let mut stored_dtype = None;
    let mut weights = BTreeMap::new();
    let mut skipped = BTreeSet::new();
    for (file, listed) in &files.contents {
        with_file(file, |tensors| {
            for name in names_of(file, tensors, listed.as_ref())? {
                let Some(shape) = expected.get(&name) else {
                    skipped.insert(unexpected(file, &name, &config, head)?);
                    continue;
                };
                check_shape(file, tensors, &name, shape)?;
                if stored_dtype.is_none() {
                    stored_dtype = Some(tensor(file, tensors, &name, None, &Device::Cpu)?.dtype());
                }
                let loaded = tensor(file, tensors, &name, dtype, device)?;
                if weights.insert(name.clone(), loaded).is_some() {
                    return Err(Error::file(file, format!("tensor {name}: is in two files")));
                }
            }
            Ok(())
        })?;
    }
    if let Some(missing) = expected.keys().find(|name| !weights.contains_key(*name)) {
        let shape = &expected[missing];
        return Err(Error::file(
            files.named,
            format!("tensor {missing}: not there, expected shape {shape:?}"),
        ));
    }
    if !skipped.is_empty() {
        let names: Vec<_> = skipped.into_iter().collect();
        notes.push(format!(
            "skipped {}, which the network computes itself",
            names.join(", ")
        ));
    }
    let stored_dtype = stored_dtype.unwrap_or(DType::F32);
    Ok(Checkpoint {
        folder,
        config,
        head,
        stored_dtype,
        weights,
        notes,
    })
}

/// Reads every tensor of one safetensors file, of whatever names, as `dtype` or as stored.
///
/// # Errors
/// [`Error::File`] for a damaged file, a type that is not floating point, or a value that is not finite.
pub fn load_tensors(
    path: &Path,
    dtype: Option<DType>,
    device: &Device,
) -> Result<BTreeMap<String, Tensor>> {
    with_file(path, |file| {
        let mut names = file.names();
        names.sort_unstable();
        let read = |name: &str| Ok((name.to_string(), tensor(path, file, name, dtype, device)?));
        names.into_iter().map(read).collect()
    })
}

/// The folder, or the one a killed save left beside it.
fn present(folder: &Path, notes: &mut Vec<String>) -> Result<PathBuf> {
    if folder.is_dir() {
        return Ok(folder.into());
    }
    if folder.exists() {
        return Err(Error::file(folder, "is a file, expected a model folder"));
    }
    match atomic::previous(folder) {
        Some(previous) if previous.is_dir() => {
            notes.push(format!(
                "a save was interrupted: took {}",
                previous.display()
            ));
            Ok(previous)
        }
        _ => Err(Error::file(folder, "no such folder")),
    }
}

/// Which files hold the weights, and which tensors the index says are in each.
struct Files {
    /// The file to name when a tensor is nowhere.
    named: PathBuf,
    contents: Vec<(PathBuf, Option<BTreeSet<String>>)>,
}

impl Files {
    fn open(folder: &Path) -> Result<Self> {
        let whole = folder.join(WEIGHTS);
        if whole.exists() {
            return Ok(Self {
                named: whole.clone(),
                contents: vec![(whole, None)],
            });
        }
        let index = folder.join(INDEX);
        if !index.exists() {
            return Err(Error::file(
                folder,
                format!("holds neither {WEIGHTS} nor {INDEX}"),
            ));
        }
        let mut shards: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        for (name, file) in weight_map(&index)? {
            // A name with a path in it could leave the folder.
            if file.contains(['/', '\\']) || !file.ends_with(".safetensors") {
                return Err(Error::file(
                    index,
                    format!(
                        "tensor {name}: found {file:?}, expected the name of a .safetensors file"
                    ),
                ));
            }
            shards.entry(folder.join(file)).or_default().insert(name);
        }
        let contents = shards
            .into_iter()
            .map(|(file, names)| (file, Some(names)))
            .collect();
        Ok(Self {
            named: index,
            contents,
        })
    }

    /// The file that holds a tensor.
    fn holding(&self, name: &str) -> Option<&Path> {
        let holds = |(file, listed): &&(PathBuf, Option<BTreeSet<String>>)| match listed {
            Some(listed) => listed.contains(name),
            None => with_file(file, |tensors| Ok(tensors.tensor(name).is_ok())).unwrap_or(false),
        };
        self.contents.iter().find(holds).map(|(file, _)| &**file)
    }

    /// The network without the tie between head and embedding, where the files store a head of other values: `transformers` 5
    /// then reads both.
    fn untied(
        &self,
        config: ModelConfig,
        head: Head,
        notes: &mut Vec<String>,
    ) -> Result<ModelConfig> {
        if !config.tied_embeddings() || head != Head::CausalLm {
            return Ok(config);
        }
        let untied = config.clone().untied();
        let (name, embedding) = (untied.head_weight(), untied.embedding());
        let (Some(theirs), Some(ours)) = (self.holding(name), self.holding(embedding)) else {
            return Ok(config);
        };
        let equal = with_file(theirs, |a| {
            with_file(ours, |b| {
                let same = |a: &SafeTensors, b: &SafeTensors| {
                    let (a, b) = (a.tensor(name).ok()?, b.tensor(embedding).ok()?);
                    Some(a.dtype() == b.dtype() && a.shape() == b.shape() && a.data() == b.data())
                };
                if same(a, b) == Some(true) {
                    return Ok(true);
                }
                // Other bytes can still be equal numbers.
                let read = |path: &Path, file: &SafeTensors, name: &str| {
                    tensor(path, file, name, Some(DType::F32), &Device::Cpu)
                };
                let (a, b) = (read(theirs, a, name)?, read(ours, b, embedding)?);
                Ok(a.dims() == b.dims() && {
                    let differ = a.ne(&b)?.to_dtype(DType::F32)?.sum_all()?;
                    differ.to_vec0::<f32>()? == 0.0
                })
            })
        })?;
        if equal {
            return Ok(config);
        }
        notes.push(format!(
            "tie_word_embeddings is true, but {name} differs from {embedding}: both are read, as transformers 5 does"
        ));
        Ok(untied)
    }
}

fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let bytes =
        std::fs::read(index).map_err(|e| Error::file(index, format!("cannot read: {e}")))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::file(index, format!("not valid JSON: {e}")))?;
    let wrong = || {
        Error::file(
            index,
            "weight_map: expected an object from tensor names to file names",
        )
    };
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(wrong)?;
    map.iter()
        .map(|(name, file)| Ok((name.clone(), file.as_str().ok_or_else(wrong)?.to_string())))
        .collect()
}

/// The tensors of a file in sorted order; with an index, exactly those it lists.
fn names_of(
    path: &Path,
    file: &SafeTensors,
    listed: Option<&BTreeSet<String>>,
) -> Result<BTreeSet<String>> {
    let found: BTreeSet<String> = file.names().into_iter().map(String::from).collect();
    let Some(listed) = listed else {
        return Ok(found);
    };
    if let Some(name) = listed.difference(&found).next() {
        return Err(Error::file(
            path,
            format!("tensor {name}: not there, but {INDEX} says it is"),
        ));
    }
    if let Some(name) = found.difference(listed).next() {
        return Err(Error::file(
            path,
            format!("tensor {name}: is not in {INDEX}"),
        ));
    }
    Ok(found)
}

/// What a skipped tensor is called in the note, or the error for one that does not belong.
fn unexpected(path: &Path, name: &str, config: &ModelConfig, head: Head) -> Result<String> {
    if is_published_buffer(name) {
        // The same of every layer, once.
        let part = name.splitn(4, '.').last().unwrap_or(name);
        return Ok(part.into());
    }
    let head_weight = matches!(name, "embed_out.weight" | "lm_head.weight");
    if head_weight && config.tied_embeddings() && head == Head::CausalLm {
        return Ok(format!("{name} (tied to the embedding)"));
    }
    Err(Error::file(
        path,
        format!("tensor {name}: does not belong to the network that {CONFIG} describes"),
    ))
}

fn check_shape(path: &Path, file: &SafeTensors, name: &str, expected: &[usize]) -> Result<()> {
    let view = file.tensor(name).map_err(|e| Error::file(path, e))?;
    if view.shape() == expected {
        return Ok(());
    }
    let found = view.shape();
    Err(Error::file(
        path,
        format!("tensor {name}: found shape {found:?}, {CONFIG} says {expected:?}"),
    ))
}
