//! Loading a folder.

use super::ends::with_all_ends;
use super::extra::{missing_biases, passed_over};
use super::{CONFIG, INDEX, WEIGHTS, atomic};
use crate::family::{ConfigFile, Head, ModelConfig};
use crate::files::{tensor, with_file};
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
        return Ok((gguf::config(path)?, Head::CausalLm));
    }
    let folder = present(path, notes)?;
    let mut read = shape(&folder, notes)?;
    // A folder whose weights cannot be opened says so where they are loaded.
    if let Ok(files) = Files::open(&folder) {
        settle(&mut read, &files, notes)?;
        // What is wrong with them is said where they are loaded, too.
        notes.extend(left_over(&files, &read).into_iter().flat_map(said));
    }
    Ok((read.config, read.head))
}

/// Tensors that a network has no place for, by why they are passed over.
type Skipped = BTreeMap<&'static str, BTreeSet<String>>;

fn left_over(files: &Files, read: &ConfigFile) -> Result<Skipped> {
    let expected = read.config.tensors(read.head);
    let mut skipped = Skipped::new();
    for (file, listed) in &files.contents {
        with_file(file, |tensors| {
            for name in names_of(file, tensors, listed.as_ref())? {
                let ours = files.called(&name, &read.config, &expected);
                if !expected.contains_key(&ours) {
                    let over = passed_over(file, tensors, &name, &read.config, read.head);
                    let (why, called) = over?;
                    skipped.entry(why).or_default().insert(called);
                }
            }
            Ok(())
        })?;
    }
    Ok(skipped)
}

fn said(skipped: Skipped) -> impl Iterator<Item = String> {
    skipped.into_iter().map(|(why, names)| {
        let names: Vec<_> = names.into_iter().collect();
        format!("skipped {} ({why})", names.join(", "))
    })
}

/// `config.json` with the end tokens of the files beside it.
fn shape(folder: &Path, notes: &mut Vec<String>) -> Result<ConfigFile> {
    let mut read = ConfigFile::read(&folder.join(CONFIG))?;
    notes.append(&mut read.notes);
    read.config = with_all_ends(folder, read.config, notes)?;
    Ok(read)
}

/// What `config.json` leaves to the weights: head counts that it does not have, a head that is tied and stored all the same.
fn settle(read: &mut ConfigFile, files: &Files, notes: &mut Vec<String>) -> Result<()> {
    if read.heads_open {
        count_heads(&mut read.config, files, notes)?;
    }
    read.config = files.untied(read.config.clone(), read.head, notes)?;
    Ok(())
}

/// Heads of keys and values, as the weights of the keys are wide, where those are tensors of their own.
fn count_heads(config: &mut ModelConfig, files: &Files, notes: &mut Vec<String>) -> Result<()> {
    let [_, keys, _] = config.qkv_layers()[..] else {
        return Ok(());
    };
    let keys = format!("{}.weight", config.module(0, keys.module));
    let Some(file) = files.holding(&keys) else {
        return Ok(());
    };
    let rows = with_file(file, |tensors| {
        let view = tensors.tensor(&keys).ok();
        Ok(view.and_then(|view| view.shape().first().copied()))
    })?;
    let rows = rows.filter(|rows| rows.is_multiple_of(config.head_dim));
    if let Some(heads @ 1..) = rows.map(|rows| rows / config.head_dim)
        && heads != config.n_kv_heads
        && config.n_heads.is_multiple_of(heads)
    {
        config.n_kv_heads = heads;
        notes.push(format!(
            "{CONFIG} has no num_key_value_heads: took {heads}, as the weights of the keys are so wide"
        ));
    }
    Ok(())
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
            config,
            head: Head::CausalLm,
            stored_dtype: dtype,
            weights,
            notes: Vec::new(),
        });
    }
    let mut notes = Vec::new();
    let folder = present(folder, &mut notes)?;
    let mut read = shape(&folder, &mut notes)?;
    let files = Files::open(&folder)?;
    settle(&mut read, &files, &mut notes)?;
    let ConfigFile { config, head, .. } = read;
    let expected = config.tensors(head);
    let mut stored_dtype = None;
    let mut weights = BTreeMap::new();
    let mut skipped = Skipped::new();
    for (file, listed) in &files.contents {
        with_file(file, |tensors| {
            for name in names_of(file, tensors, listed.as_ref())? {
                let (stored, name) = (name.clone(), files.called(&name, &config, &expected));
                let Some(shape) = expected.get(&name) else {
                    let (why, called) = passed_over(file, tensors, &name, &config, head)?;
                    skipped.entry(why).or_default().insert(called);
                    continue;
                };
                let turned = config.stored_transposed(&name);
                let mut shape = shape.clone();
                if turned {
                    shape.reverse();
                }
                check_shape(file, tensors, &stored, &shape)?;
                if stored_dtype.is_none() {
                    stored_dtype =
                        Some(tensor(file, tensors, &stored, None, &Device::Cpu)?.dtype());
                }
                let mut loaded = tensor(file, tensors, &stored, dtype, device)?;
                if turned {
                    loaded = loaded.t()?.contiguous()?;
                }
                if weights.insert(name.clone(), loaded).is_some() {
                    return Err(Error::file(file, format!("tensor {name}: is in two files")));
                }
            }
            Ok(())
        })?;
    }
    let stored_dtype = stored_dtype.unwrap_or(DType::F32);
    let zeros = missing_biases(
        &expected,
        &mut weights,
        dtype.unwrap_or(stored_dtype),
        device,
    )?;
    if !zeros.is_empty() {
        let names: Vec<_> = zeros.into_iter().collect();
        notes.push(format!(
            "took zeros for {}, which no layer of the files has",
            names.join(", ")
        ));
    }
    if let Some(missing) = expected.keys().find(|name| !weights.contains_key(*name)) {
        let shape = &expected[missing];
        return Err(Error::file(
            files.named,
            format!("tensor {missing}: not there, expected shape {shape:?}"),
        ));
    }
    notes.extend(said(skipped));
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

/// The folder or GGUF file itself, or the folder that a killed save left beside it, with a note.
///
/// # Errors
/// [`Error::File`] where there is none.
pub fn present(folder: &Path, notes: &mut Vec<String>) -> Result<PathBuf> {
    if folder.is_dir() || gguf::is_gguf(folder) {
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
            let instead = instead(folder);
            return Err(Error::file(
                folder,
                format!("holds neither {WEIGHTS} nor {INDEX}{instead}"),
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

    /// What the network calls a stored tensor: transformers 5 writes GPT-NeoX's head under the name that other families use, and a network
    /// saved without its head has names without the trunk's.
    fn called(
        &self,
        name: &str,
        config: &ModelConfig,
        expected: &BTreeMap<String, Vec<usize>>,
    ) -> String {
        if expected.contains_key(name) {
            return name.into();
        }
        let trunk = config.embedding().split('.').next().unwrap_or_default();
        let head = (name == "lm_head.weight").then(|| config.head_weight().to_string());
        let others = [Some(format!("{trunk}.{name}")), head];
        let mut others = others.into_iter().flatten();
        let free = |n: &String| expected.contains_key(n) && self.holding(n).is_none();
        others.find(free).unwrap_or_else(|| name.into())
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

/// What a folder holds in place of safetensors files, and what to do with it.
fn instead(folder: &Path) -> String {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let convert = "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)";
    let found = names.iter().find_map(|name| {
        let advice = match name.as_str() {
            "pytorch_model.bin" | "pytorch_model.bin.index.json" => format!(
                "in Python, {convert} writes safetensors (AutoModelForSequenceClassification for a reward model)"
            ),
            "adapter_config.json" => {
                "an adapter alone; rto_llm convert merges it into its base".into()
            }
            name if name.ends_with(".gguf") => "name that file in place of the folder".into(),
            name if name.starts_with("consolidated.") => {
                "Meta's or Mistral's own format; take the Hugging Face version of the model".into()
            }
            "tf_model.h5" | "flax_model.msgpack" => {
                "in Python, from_tf or from_flax of transformers 4 reads it, and save_pretrained writes safetensors".into()
            }
            name if name.ends_with(".safetensors") => {
                format!("rename it to {WEIGHTS} if it is the whole model")
            }
            name if name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") => {
                "a file of PyTorch; load it in Python, and save_pretrained writes safetensors".into()
            }
            _ => return None,
        };
        Some(format!("; it holds {name}: {advice}"))
    });
    found.unwrap_or_default()
}

fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let bytes =
        std::fs::read(index).map_err(|e| Error::file(index, format!("cannot read: {e}")))?;
    let value = crate::json::of_file(index, &bytes)?;
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
