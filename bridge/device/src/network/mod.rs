//! The program of a network over a [`Device`](crate::Device): scores, gradients, steps of the optimiser, text. One description of the
//! network drives it ([`Network`]), and every executor runs the same launches.
//!
//! ```
//! # fn main() -> rto_device::Result<()> {
//! use rto_device::{Counting, Device, Kernels, Real};
//! use rto_device::network::{AdamW, AdamWSettings, Batch, Gradients, Options, Parameters, Program, Rate, Request, Scores};
//!
//! // What a step on a network takes, without its weights.
//! fn peak(network: &rto_device::network::Network) -> rto_device::Result<u64> {
//!     let device = Counting::new();
//!     let kernels = Kernels::new(&device, Real::Bf16);
//!     let parameters = Parameters::alloc(&kernels, &network.tensors(), |_| true)?;
//!     let gradients = Gradients::zeros(&kernels, &parameters)?;
//!     let settings = AdamWSettings { decay1: 0.9, decay2: 0.95, epsilon: 1e-8, longest: Some(1.0), eight_bit_from: None };
//!     let mut optimizer = AdamW::new(&kernels, &parameters, settings)?;
//!     let program = Program::new(kernels, network, &parameters, Options { checkpointing: true, ..Options::default() })?;
//!     let batch = Batch::new(&[(&[1; 128], &[2; 384])])?;
//!     let request = Request::log_probs();
//!     let forward = program.forward(&batch, &request, true)?;
//!     let grad = Scores { log_probs: Some(vec![-1.0 / 384.0; 384]), ..Scores::default() };
//!     program.backward(&batch, &request, forward, &grad, &gradients)?;
//!     optimizer.step(&kernels, &parameters, &gradients, |_| Rate { rate: 1e-5, decay: 0.0 })?;
//!     Ok(device.peak())
//! }
//! # Ok(()) }
//! ```

mod backward;
mod batch;
mod block;
mod check;
mod description;
mod heads;
mod iteration;
mod layers;
mod optimizer;
mod parameters;
mod program;
mod scores;
mod turns;
mod write;

pub use batch::{Batch, Text};
pub use description::{Adapter, Block, Linear, Network, Norm, NormKind};
pub use iteration::{Judge, Learner, Schedule, iteration};
pub use optimizer::{AdamW, AdamWSettings, MomentValues, Rate};
pub use parameters::{Gradients, Parameters};
pub use program::{Forward, Options, Program};
pub use scores::{Request, Scores};
pub use turns::Rotations;
pub use write::{Writing, Written};
