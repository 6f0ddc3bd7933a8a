//! Generation and scoring without gradients: a key–value cache, batches of ragged prompts, no padding anywhere.
//!
//! [`Engine`] is the fast path on a processor, on plain slices. [`TensorEngine`] is the same network in candle
//! tensors, for any device. Both draw with [`crate::sampler`] and [`crate::decoder`], so the text is a function of the
//! logits and of one stream key per prompt.

mod engine;
mod kernels;
mod linear;
mod run;
mod tensor;
mod weights;

pub use engine::Engine;
pub use linear::Stored;
pub use run::{Sampled, Sampling};
pub use tensor::TensorEngine;
