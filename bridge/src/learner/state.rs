//! Everything a network in training is, in a folder.

use std::path::Path;

use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::train::Core;
use super::{LearnerOptions, NeoxLearner, NeoxPolicy, NeoxRegressor, NeoxScorer};
use crate::checkpoint::{self, load_tensors, write_tensors};
use crate::optimizer::AdamW;
use crate::params::Params;
use crate::{Error, Result};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const LEARNER: &str = "learner.json";

/// Replaces `folder` by weights, moments, master weights, step count and learning rate, in one step.
fn save(scorer: &NeoxScorer, core: &Core, folder: &Path) -> Result<()> {
    let ours = |name: &str| [WEIGHTS, OPTIMIZER, LEARNER].contains(&name);
    checkpoint::atomic::replace_folder(folder, ours, |new| {
        let weights = scorer.model.params().tensors();
        let dtype = weights.values().next().map_or(DType::F32, |t| t.dtype());
        write_tensors(&new.join(WEIGHTS), &weights, dtype)?;
        core.optimizer.save(&new.join(OPTIMIZER))?;
        let learner = json!({"format": "rto-learner-1", "steps": core.optimizer.steps(), "learning_rate": core.learning_rate});
        checkpoint::atomic::replace_file(&new.join(LEARNER), format!("{learner}\n").as_bytes())
    })
}

/// Takes up what [`save`] wrote.
fn load(scorer: &mut NeoxScorer, options: LearnerOptions, folder: &Path) -> Result<Core> {
    let params = scorer.model.params();
    let frozen: Vec<String> = params
        .names()
        .filter(|name| !params.is_trained(name))
        .map(String::from)
        .collect();
    let device = match params.tensors().into_values().next() {
        Some(tensor) => tensor.device().clone(),
        None => Device::Cpu,
    };
    let mut read = Params::new(load_tensors(&folder.join(WEIGHTS), None, &device)?)?;
    read.freeze(&frozen.iter().map(String::as_str).collect::<Vec<_>>());
    let shapes = params.tensors();
    let shapes = shapes.iter().map(|(n, t)| (n.clone(), t.dims().to_vec()));
    read.check(&shapes.collect())
        .map_err(|e| Error::file(folder.join(WEIGHTS), e))?;
    *scorer.model.params_mut() = read;
    let mut core = Core::try_new(scorer, options)?;
    let path = folder.join(OPTIMIZER);
    let settings = core.options.optimizer.clone();
    core.optimizer = AdamW::load(settings, scorer.model.params(), &path)?;
    core.learning_rate = learning_rate(&folder.join(LEARNER))?;
    Ok(core)
}

fn learning_rate(path: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::file(path, e))?;
    value["learning_rate"]
        .as_f64()
        .filter(|r| r.is_finite())
        .ok_or_else(|| Error::file(path, "learning_rate: not there, expected a number"))
}

impl NeoxLearner {
    /// Writes weights, moments, step count and learning rate, whole or not at all.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        save(&self.policy.scorer, &self.core, folder)
    }

    /// A learner as [`NeoxLearner::save`] left it; shape, channels and temperature are those of `policy`.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is damaged or belongs to another network.
    pub fn load(mut policy: NeoxPolicy, options: LearnerOptions, folder: &Path) -> Result<Self> {
        let core = load(&mut policy.scorer, options, folder)?;
        policy.forget_engine();
        Ok(Self { policy, core })
    }
}

impl NeoxRegressor {
    /// As [`NeoxLearner::save`].
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        save(&self.scorer, &self.core, folder)
    }

    /// As [`NeoxLearner::load`].
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn load(mut scorer: NeoxScorer, options: LearnerOptions, folder: &Path) -> Result<Self> {
        let core = load(&mut scorer, options, folder)?;
        Ok(Self { scorer, core })
    }
}
