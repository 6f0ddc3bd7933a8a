//! Networks on a device behind the seam of [`rto::seq`], so that Algorithm 2 runs on the kernels of `rto-device` unchanged: what
//! [`crate::learner`] is for networks on the host. A learner comes from one of the host and goes back there, where checkpoints are written and read.
//!
//! | type | role |
//! |---|---|
//! | [`DeviceScorer`] | a network on a device and the channels it gives per response token |
//! | [`DevicePolicy`] | a scorer with a language-model head that samples from its own distribution |
//! | [`DeviceLearner`] | a policy in training |
//! | [`DeviceRegressor`] | a network with a scalar head in training: a critic, or a reward model |
//!
//! ```
//! use candle_core::Device;
//! use rto::seed::SeedTree;
//! use rto::seq::{Policy, StreamKey};
//! use rto_bridge::device_learner::{DeviceOptions, DevicePolicy, DeviceScorer};
//! use rto_bridge::family::GptNeoXConfig;
//! use rto_bridge::learner::NeuralScorer;
//! use rto_bridge::model::{Heads, Model};
//! use rto_bridge::params::{Init, Params};
//! use rto_device::{Emulated, Error, Kernels, Order, Real};
//!
//! let config = GptNeoXConfig::tiny(11, 0); // eleven tokens, of which 0 ends a response
//! let heads = Heads { language_model: true, ..Heads::default() };
//! let model = Model::random(&config, heads, Init::Small, &SeedTree::new(1), &Device::Cpu)?;
//! let here = NeuralScorer::try_new(&config, Params::new(model.params().tensors())?)?;
//! let device = match Emulated::new(Order::Forward) {
//!     Err(Error::NoCompiler(_)) => return Ok(()), // the emulator needs the machine's C++ compiler
//!     device => device?,
//! };
//! let there = DeviceScorer::try_new(Kernels::new(&device, Real::F32), &here, DeviceOptions::default())?;
//! let policy = DevicePolicy::try_new(there, 4)?;
//! let written = policy.sample(&[[5, 6].into()], &StreamKey::batch(&SeedTree::new(2), 1))?;
//! assert!(written[0].response.len() <= 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod exchange;
mod policy;
mod scorer;
mod train;

pub use policy::DevicePolicy;
pub use scorer::{DeviceOptions, DeviceScorer};
pub use train::{DeviceLearner, DeviceRegressor};
