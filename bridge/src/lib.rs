//! The algorithms of `rto` on neural autoregressive models, through candle.
//!
//! So far: choosing a device; [`evaluator::CandleModel`], which plugs any candle function from a prefix to
//! next-token logits into the searches of Proposition 3.2; and [`embedding_policy`], the candle backend of the
//! per-token seam that must agree with exact gradients step for step.
#![deny(missing_docs)]
#![deny(unsafe_code)]
// Kernels take their shapes one by one, keep the digits of published coefficients, and `!(x > 0.0)` refuses NaN too.
#![allow(
    clippy::excessive_precision,
    clippy::large_enum_variant,
    clippy::manual_is_multiple_of,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::too_many_arguments
)]

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod device;
pub mod embedding_policy;
pub mod error;
pub mod evaluator;
pub mod generate;
pub mod memory_plan;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod params;
pub mod sampler;
pub mod schedule;
pub mod tokenizer;

pub use error::{Error, Result};
