//! Everything a network in training is, in a folder.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::train::Core;
use super::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer};
use crate::checkpoint::load_tensors;
use crate::files::{atomic, write_tensors};
use crate::optimizer::{AdamW, Arrays};
use crate::params::Params;
use crate::{Error, Result};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const LEARNER: &str = "learner.json";

/// What a learner is at the moment, as it is saved.
///
/// Where ranks share moments out ([`super::Ranks::with_sharded_moments`]), each of them makes it, and the first has all moments.
#[derive(Debug)]
pub struct LearnerState<'a> {
    scorer: &'a NeuralScorer,
    core: &'a Core,
    /// Of all ranks, where they share moments out.
    gathered: Option<Arrays>,
}

impl<'a> LearnerState<'a> {
    fn new(scorer: &'a NeuralScorer, core: &'a Core) -> Result<Self> {
        Ok(Self {
            scorer,
            core,
            gathered: scorer.ranks.gather_state(&core.optimizer)?,
        })
    }

    /// Replaces `folder` by weights (with an adapter, the trained ones), moments, master weights, step count and learning rate, whole or
    /// not at all. Of several ranks the first writes.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        save(self, folder)
    }
}

/// A network with an adapter has its trained weights written and a fingerprint of its base, which does not change.
fn save(state: &LearnerState<'_>, folder: &Path) -> Result<()> {
    let LearnerState {
        scorer,
        core,
        gathered,
    } = state;
    // What the others hold of shared moments was gathered on the first.
    if gathered.is_some() && scorer.ranks.engine().rank() > 0 {
        return Ok(());
    }
    let ours = |name: &str| [WEIGHTS, OPTIMIZER, LEARNER].contains(&name);
    atomic::replace_folder(folder, ours, |new| {
        let params = scorer.model.params();
        let mut weights = params.tensors();
        let mut learner = json!({"format": "rto-learner-1", "steps": core.optimizer.steps(), "learning_rate": core.learning_rate});
        let mut dtype = weights.values().next().map_or(DType::F32, |t| t.dtype());
        if scorer.model.adapter().is_some() {
            weights.retain(|name, _| params.is_trained(name));
            // Wide enough for all: an adapter in f32 beside a head in bf16. f64 has no place in the file and is refused, not rounded.
            dtype = match weights.values().any(|t| t.dtype() == DType::F64) {
                true => DType::F64,
                false => DType::F32,
            };
            learner["base"] = fingerprint(params, false)?.into();
        }
        write_tensors(&new.join(WEIGHTS), &weights, dtype)?;
        match gathered {
            Some(arrays) => core.optimizer.save_arrays(arrays, &new.join(OPTIMIZER))?,
            None => core.optimizer.save(&new.join(OPTIMIZER))?,
        }
        atomic::replace_file(&new.join(LEARNER), format!("{learner}\n").as_bytes())
    })
}

/// FNV-1a over names, shapes and up to 4096 evenly spaced values of every frozen, or every trained, weight: another base is noticed, a
/// few changed values may not be.
pub(super) fn fingerprint(params: &Params, trained: bool) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, tensor) in params.tensors() {
        if params.is_trained(&name) != trained {
            continue;
        }
        add(format!("{name} {:?} ", tensor.dims()).as_bytes());
        let count = tensor.elem_count();
        let places = (0..count).step_by(count.div_ceil(4096).max(1));
        let places: Vec<u32> = places.filter_map(|i| u32::try_from(i).ok()).collect();
        let places = Tensor::new(places, tensor.device())?;
        let values = tensor.flatten_all()?.index_select(&places, 0)?;
        for value in values.to_dtype(DType::F32)?.to_vec1::<f32>()? {
            add(&value.to_bits().to_le_bytes());
        }
    }
    Ok(format!("{hash:016x}"))
}

/// Takes up what [`save`] wrote.
fn load(scorer: &mut NeuralScorer, options: LearnerOptions, folder: &Path) -> Result<Core> {
    if scorer.model.adapter().is_some() {
        let read = adapter(scorer.model.params(), folder)?;
        *scorer.model.params_mut() = read;
        return rest(scorer, options, folder);
    }
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
        .map_err(|e| Error::file_because(folder.join(WEIGHTS), "", e))?;
    *scorer.model.params_mut() = read;
    rest(scorer, options, folder)
}

/// The trained weights of a network with an adapter, on the base that is there.
fn adapter(params: &Params, folder: &Path) -> Result<Params> {
    let path = folder.join(LEARNER);
    let (found, expected) = (
        read_json(&path)?["base"].clone(),
        fingerprint(params, false)?,
    );
    if found != expected.as_str() {
        let why = format!("base: found {found}, expected \"{expected}\" as of the network given");
        return Err(Error::file(path, why));
    }
    let path = folder.join(WEIGHTS);
    let device = params
        .trained()
        .next()
        .map_or(Device::Cpu, |(_, var)| var.device().clone());
    let weights = load_tensors(&path, None, &device)?;
    let mut read = params.snapshot()?;
    for (name, var) in params.trained() {
        let tensor = weights
            .get(name)
            .filter(|tensor| tensor.dims() == var.dims())
            .ok_or_else(|| {
                let found = weights.get(name).map(Tensor::dims);
                let why = format!(
                    "tensor {name}: found shape {found:?}, expected {:?}",
                    var.dims()
                );
                Error::file(&path, why)
            })?;
        read.insert(name, &tensor.to_dtype(var.dtype())?)?;
    }
    match weights.keys().find(|name| !params.is_trained(name)) {
        Some(name) => Err(Error::file(
            path,
            format!("tensor {name}: is not trained by this learner"),
        )),
        None => Ok(read),
    }
}

fn rest(scorer: &NeuralScorer, options: LearnerOptions, folder: &Path) -> Result<Core> {
    let mut core = Core::try_new(scorer, options)?;
    let path = folder.join(OPTIMIZER);
    let settings = core.options.optimizer.clone();
    let share = core.optimizer.share();
    core.optimizer = AdamW::load_share(settings, scorer.model.params(), &path, share)?;
    core.learning_rate = learning_rate(&folder.join(LEARNER))?;
    Ok(core)
}

fn learning_rate(path: &Path) -> Result<f64> {
    read_json(path)?["learning_rate"]
        .as_f64()
        .filter(|r| r.is_finite())
        .ok_or_else(|| Error::file(path, "learning_rate: not there, expected a number"))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file_because(path, "", e))?;
    serde_json::from_str(&text).map_err(|e| Error::file_because(path, "", e))
}

impl NeuralLearner {
    /// What is saved of this learner. Every rank calls it where they share moments out.
    ///
    /// # Errors
    /// [`Error::Request`] where another rank is lost.
    pub fn state(&self) -> Result<LearnerState<'_>> {
        LearnerState::new(&self.policy.scorer, &self.core)
    }

    /// [`LearnerState::save`] of [`NeuralLearner::state`].
    ///
    /// # Errors
    /// As they have.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.state()?.save(folder)
    }

    /// A learner as [`NeuralLearner::save`] left it; shape, channels, temperature and the base of an adapter are those of `policy`.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is damaged or belongs to another network.
    pub fn load(mut policy: NeuralPolicy, options: LearnerOptions, folder: &Path) -> Result<Self> {
        let core = load(&mut policy.scorer, options, folder)?;
        policy.forget_engine();
        Ok(Self { policy, core })
    }
}

impl NeuralRegressor {
    /// What is saved, as [`NeuralLearner::state`] has it.
    ///
    /// # Errors
    /// As there.
    pub fn state(&self) -> Result<LearnerState<'_>> {
        LearnerState::new(&self.scorer, &self.core)
    }

    /// Saves scorer and optimiser, as [`NeuralLearner::save`] does.
    ///
    /// # Errors
    /// As there.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.state()?.save(folder)
    }

    /// Reads scorer and optimiser, as [`NeuralLearner::load`] does.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn load(mut scorer: NeuralScorer, options: LearnerOptions, folder: &Path) -> Result<Self> {
        let core = load(&mut scorer, options, folder)?;
        Ok(Self { scorer, core })
    }
}
