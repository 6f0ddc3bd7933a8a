//! The algorithms of `rto` on neural autoregressive models, through candle.
//!
//! So far: choosing a device, and [`evaluator::CandleModel`], which plugs any candle function from a
//! prefix to next-token logits into the searches of Proposition 3.2.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod batch;
pub mod config;
pub mod device;
pub mod error;
pub mod evaluator;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod params;
pub mod schedule;

pub use error::{Error, Result};
