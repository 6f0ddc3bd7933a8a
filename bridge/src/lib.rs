//! The algorithms of `rto` on neural autoregressive models, through candle.
//!
//! So far: choosing a device, and [`evaluator::CandleModel`], which plugs any candle function from a
//! prefix to next-token logits into the searches of Proposition 3.2.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod data;
pub mod device;
pub mod error;
pub mod evaluator;
pub mod world;

pub use error::{Error, Result};
