//! The two files of a PEFT adapter.

use super::{LoraConfig, is_factor, layers};
use crate::checkpoint::load_tensors;
use crate::family::REWARD_WEIGHT;
use crate::files::{atomic, write_tensors};
use crate::params::Params;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// File of an adapter's settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// File of an adapter's weights.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of `transformers`.
const PREFIX: &str = "base_model.model.";

fn task(reward: bool) -> &'static str {
    if reward { "SEQ_CLS" } else { "CAUSAL_LM" }
}

/// Writes adapter and, for a sequence classifier, reward head. `conv1d` where files hold the base's layers as `[in, out]`, which PEFT is told.
pub(crate) fn save(
    folder: &Path,
    config: &LoraConfig,
    (reward, conv1d): (bool, bool),
    base: &str,
    params: &Params,
) -> Result<()> {
    check_place(folder)?;
    let mut weights = params.tensors();
    weights.retain(|name, _| is_factor(name) || reward && name == REWARD_WEIGHT);
    let weights: BTreeMap<String, Tensor> = weights
        .into_iter()
        .map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor))
        .collect();
    let ours = |name: &str| name == ADAPTER_CONFIG || name == ADAPTER_WEIGHTS;
    atomic::replace_folder(folder, ours, |new| {
        let text = format!("{:#}\n", described(config, reward, conv1d, base));
        let path = new.join(ADAPTER_CONFIG);
        std::fs::write(&path, text)
            .map_err(|e| Error::file(&path, format!("cannot write: {e}")))?;
        write_tensors(&new.join(ADAPTER_WEIGHTS), &weights, DType::F32)
    })
}

/// A folder full of other things is not replaced.
fn check_place(folder: &Path) -> Result<()> {
    if !folder.exists() || folder.join(ADAPTER_CONFIG).is_file() {
        return Ok(());
    }
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::file(
            folder,
            format!("is not empty and holds no {ADAPTER_CONFIG}; nothing was replaced"),
        )),
        Err(e) => Err(Error::file(folder, format!("cannot read: {e}"))),
    }
}

fn described(config: &LoraConfig, reward: bool, conv1d: bool, base: &str) -> Value {
    let alpha = match config.alpha {
        whole if whole.fract() == 0.0 && whole < 2f64.powi(53) => json!(whole as u64),
        other => json!(other),
    };
    let modules_to_save = if reward {
        json!(["score"])
    } else {
        Value::Null
    };
    json!({
        "peft_type": "LORA",
        "task_type": task(reward),
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": alpha,
        "use_rslora": config.use_rslora,
        "target_modules": config.target_modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": conv1d,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": modules_to_save,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": null,
        "layers_pattern": null,
        "use_dora": false,
    })
}

/// Settings and weights, under the names of this crate, of an adapter for a network of the given weights (its head among them where
/// `reward`).
pub(crate) fn load(
    folder: &Path,
    network: &BTreeMap<String, Vec<usize>>,
    (reward, conv1d): (bool, bool),
    device: &Device,
) -> Result<(LoraConfig, BTreeMap<String, Tensor>)> {
    let path = folder.join(ADAPTER_CONFIG);
    let mut config = read_config(&path, reward, conv1d)?;
    // PEFT lets a target match nothing as long as another one does.
    let matches = |t: &String| layers(network).any(|(module, _)| super::ends_with(module, t));
    if config.target_modules.iter().any(matches) {
        config.target_modules.retain(matches);
    }
    let mut expected = config.shapes(network).map_err(|e| Error::file(&path, e))?;
    if reward && let Some(shape) = network.get(REWARD_WEIGHT) {
        expected.insert(REWARD_WEIGHT.into(), shape.clone());
    }
    let path = folder.join(ADAPTER_WEIGHTS);
    let found = load_tensors(&path, Some(DType::F32), device)?;
    let mut weights = BTreeMap::new();
    for (full, tensor) in found {
        let name = full.strip_prefix(PREFIX);
        let Some((name, shape)) = name.and_then(|name| expected.get_key_value(name)) else {
            let why = format!("tensor {full}: belongs to no layer that {ADAPTER_CONFIG} adapts");
            return Err(Error::file(path, why));
        };
        if tensor.dims() != shape {
            let why = format!(
                "tensor {full}: found shape {:?}, expected {shape:?}",
                tensor.dims()
            );
            return Err(Error::file(path, why));
        }
        weights.insert(name.clone(), tensor);
    }
    match expected
        .iter()
        .find(|(name, _)| !weights.contains_key(*name))
    {
        Some((name, shape)) => Err(Error::file(
            path,
            format!("tensor {PREFIX}{name}: not there, expected shape {shape:?}"),
        )),
        None => Ok((config, weights)),
    }
}

fn read_config(path: &Path, reward: bool, conv1d: bool) -> Result<LoraConfig> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    let value = crate::json::of_file(path, &bytes)?;
    let Value::Object(object) = &value else {
        return Err(Error::file(path, "expected a JSON object"));
    };
    let keys = Keys { path, object };
    keys.check_supported(reward, conv1d)?;
    let rank = keys.get("r").as_u64().and_then(|r| usize::try_from(r).ok());
    let alpha = keys.get("lora_alpha").as_f64();
    let targets = keys.get("target_modules").as_array();
    let targets = targets.and_then(|list| list.iter().map(|t| Some(t.as_str()?.into())).collect());
    Ok(LoraConfig {
        rank: rank.ok_or_else(|| keys.wrong("r", "a number from 1 on"))?,
        alpha: alpha.ok_or_else(|| keys.wrong("lora_alpha", "a number above 0"))?,
        target_modules: targets.ok_or_else(|| {
            keys.wrong(
                "target_modules",
                "a list of names of layers (a pattern in one string is not supported)",
            )
        })?,
        use_rslora: keys.flag("use_rslora")?,
    })
}

struct Keys<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

/// Keys that say nothing about what the adapter computes.
const WITHOUT_EFFECT: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    // Of training alone.
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];
/// Keys that are read.
const READ: [&str; 4] = ["r", "lora_alpha", "target_modules", "use_rslora"];

impl Keys<'_> {
    fn get(&self, key: &str) -> &Value {
        self.object.get(key).unwrap_or(&Value::Null)
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.object.get(key);
        let found = found.map_or("nothing".into(), Value::to_string);
        Error::file(
            self.path,
            format!("{key}: found {found}, expected {expected}"),
        )
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.wrong(key, "true or false")),
        }
    }

    /// Refuses whatever would make the adapter compute something else, known or not.
    fn check_supported(&self, reward: bool, conv1d: bool) -> Result<()> {
        for (key, value) in self.object {
            let key = key.as_str();
            let (fine, expected) = match key {
                "peft_type" => (value == "LORA", "\"LORA\""),
                "task_type" => {
                    let expected = match reward {
                        true => "\"SEQ_CLS\", as the network has a reward head",
                        false => "\"CAUSAL_LM\", as the network has a language-model head",
                    };
                    (value.is_null() || value == task(reward), expected)
                }
                // PEFT takes either for such layers.
                "fan_in_fan_out" if conv1d => (value.is_boolean(), "true or false"),
                "bias" => (value == "none", "\"none\"; others are not supported"),
                // Others change the base as well.
                "init_lora_weights" => (
                    value.is_boolean() || value == "gaussian",
                    "true, false or \"gaussian\"; others are not supported",
                ),
                "modules_to_save" if reward => {
                    let heads = |v: &Value| v == "score" || v == "classifier";
                    let fine = value.as_array().is_some_and(|list| list.iter().all(heads));
                    (fine, "[\"score\"]; others are not supported")
                }
                _ if READ.contains(&key) || WITHOUT_EFFECT.contains(&key) => continue,
                _ => (says_nothing(value), "nothing: it is not supported"),
            };
            if !fine {
                return Err(self.wrong(key, expected));
            }
        }
        match self.object.contains_key("peft_type") {
            true => Ok(()),
            false => Err(self.wrong("peft_type", "\"LORA\"")),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
