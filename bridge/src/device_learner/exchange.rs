//! Learners that come from the host and go back there: what a checkpoint holds is the same on either side.

use std::collections::BTreeMap;

use rto_device::Kernels;
use rto_device::network::MomentValues;
use safetensors::Dtype;

use super::policy::DevicePolicy;
use super::scorer::{DeviceOptions, DeviceScorer};
use super::train::{Core, DeviceLearner, DeviceRegressor};
use crate::device::failed;
use crate::learner::parts::Moved;
use crate::learner::{NeuralLearner, NeuralRegressor, NeuralScorer};
use crate::optimizer::{AdamWConfig, Arrays};
use crate::{Error, Result};

/// The arrays of a weight's moments, as the files of the host name them, beside their order: first moment, second moment.
const WIDE: [&str; 2] = ["m", "v"];
const BYTES: [&str; 2] = ["m8", "v8"];

fn to_bytes(values: &[f32]) -> (Dtype, Vec<u8>) {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes());
    (Dtype::F32, bytes.collect())
}

fn to_floats((_, bytes): &(Dtype, Vec<u8>)) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|w| f32::from_le_bytes(*w)).collect()
}

fn to_arrays(moments: BTreeMap<String, MomentValues>) -> Arrays {
    let mut all = Arrays::new();
    for (name, values) in moments {
        match values {
            MomentValues::F32(both) => {
                for (kind, values) in WIDE.iter().zip(&both) {
                    all.insert(format!("{kind}.{name}"), to_bytes(values));
                }
            }
            MomentValues::Eight { codes, scales } => {
                for ((kind, codes), scales) in BYTES.iter().zip(codes).zip(&scales) {
                    all.insert(format!("{kind}.{name}"), (Dtype::U8, codes));
                    all.insert(format!("{kind}.scale.{name}"), to_bytes(scales));
                }
            }
        }
    }
    all
}

fn to_moments<'n>(
    names: impl Iterator<Item = &'n String>,
    arrays: &Arrays,
) -> Result<BTreeMap<String, MomentValues>> {
    let of = |name: &String| {
        let missing = |array: String| Error::Weight {
            name: array,
            what: "moments: missing".into(),
        };
        let array = |kind: &str| {
            let array = format!("{kind}.{name}");
            arrays.get(&array).ok_or_else(|| missing(array))
        };
        if !arrays.contains_key(&format!("{}.{name}", BYTES[0])) {
            let [m, v] = WIDE.map(|kind| array(kind).map(to_floats));
            return Ok((name.clone(), MomentValues::F32([m?, v?])));
        }
        let [m, v] = BYTES.map(|kind| array(kind).map(|(_, bytes)| bytes.clone()));
        let [m_scales, v_scales] = BYTES.map(|kind| array(&format!("{kind}.scale")).map(to_floats));
        let values = MomentValues::Eight {
            codes: [m?, v?],
            scales: [m_scales?, v_scales?],
        };
        Ok((name.clone(), values))
    };
    names.map(of).collect()
}

/// The optimiser of a network that has come from the host.
fn core(scorer: &DeviceScorer<'_>, config: &AdamWConfig, moved: &Moved) -> Result<Core> {
    let mut core = Core::try_new(scorer, config.clone(), moved.learning_rate)?;
    // Of no step all moments are 0, as they are here.
    if moved.steps > 0 {
        let steps = u32::try_from(moved.steps).map_err(|_| Error::Setting {
            field: "steps",
            found: moved.steps.to_string(),
            expected: format!("at most {}, on a device", u32::MAX),
        })?;
        let moments = to_moments(moved.weights.keys(), &moved.moments)?;
        let optimizer = &mut core.optimizer;
        let restored = optimizer.restore(scorer.kernels(), steps, &moments);
        restored.map_err(failed)?;
    }
    Ok(core)
}

fn place<'d>(
    kernels: Kernels<'d>,
    base: Option<&DeviceScorer<'d>>,
    scorer: &NeuralScorer,
    options: DeviceOptions,
) -> Result<DeviceScorer<'d>> {
    // A weight in a shorter type has its master in the optimiser's arrays, which do not come along.
    let params = scorer.model().params();
    let narrow = params
        .trained()
        .find(|(_, var)| var.dtype() != candle_core::DType::F32);
    if let Some((name, var)) = narrow {
        return Err(Error::Weight {
            name: name.into(),
            what: format!(
                "found {:?}, expected F32 to train it on a device",
                var.dtype()
            ),
        });
    }
    match base {
        Some(base) => DeviceScorer::beside(base, scorer, options),
        None => DeviceScorer::try_new(kernels, scorer, options),
    }
}

fn moved(scorer: &DeviceScorer<'_>, core: &Core) -> Result<Moved> {
    let trained = |name: &str| scorer.parameters().is_trained(name);
    let moments = core.optimizer.moments(scorer.kernels()).map_err(failed)?;
    Ok(Moved {
        weights: scorer.weights_where(trained)?,
        moments: to_arrays(moments),
        steps: core.optimizer.steps().into(),
        learning_rate: core.learning_rate,
    })
}

impl<'d> DeviceLearner<'d> {
    /// The learner `host`, which trains in `f32`, on the device of `kernels`: weights, moments, number of steps and learning rate. Beside
    /// `base` as [`DeviceScorer::beside`].
    ///
    /// # Errors
    /// As [`DeviceLearner::try_new`]; [`Error::Weight`] for trained weights in a shorter type.
    pub fn of_host(
        kernels: Kernels<'d>,
        base: Option<&DeviceScorer<'d>>,
        host: &NeuralLearner,
        options: DeviceOptions,
    ) -> Result<Self> {
        let policy = host.policy_ref();
        let scorer = place(kernels, base, policy.scorer(), options)?;
        let core = core(&scorer, host.optimizer(), &host.moved()?)?;
        let policy = DevicePolicy::try_new(scorer, policy.max_new_tokens())?;
        Ok(Self { policy, core })
    }

    /// Makes `host`, which this learner came from, what this learner is now: its checkpoints are then those of this learner.
    ///
    /// # Errors
    /// What the device reports; a learner that this one did not come from.
    pub fn to_host(&self, host: &mut NeuralLearner) -> Result<()> {
        host.put(&moved(self.policy.scorer(), &self.core)?)
    }
}

impl<'d> DeviceRegressor<'d> {
    /// As [`DeviceLearner::of_host`].
    ///
    /// # Errors
    /// As there.
    pub fn of_host(
        kernels: Kernels<'d>,
        base: Option<&DeviceScorer<'d>>,
        host: &NeuralRegressor,
        options: DeviceOptions,
    ) -> Result<Self> {
        let scorer = place(kernels, base, host.scorer(), options)?;
        let core = core(&scorer, host.optimizer(), &host.moved()?)?;
        Ok(Self { scorer, core })
    }

    /// As [`DeviceLearner::to_host`].
    ///
    /// # Errors
    /// As there.
    pub fn to_host(&self, host: &mut NeuralRegressor) -> Result<()> {
        host.put(&moved(&self.scorer, &self.core)?)
    }
}
