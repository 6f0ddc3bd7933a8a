//! The algorithms of `rto` on neural autoregressive models, through candle.
//!
//! | module | what |
//! |---|---|
//! | [`device`], [`error`] | a device by name; errors that name file, tensor or request |
//! | [`config`], [`checkpoint`], [`tokenizer`], [`memory_plan`] | Hugging Face folders, and what a model will need |
//! | [`gguf`] | weights and tokenizers of GGUF files |
//! | [`ops`], [`params`], [`model`], [`batch`] | GPT-NeoX and the Llama family with a backward pass of their own, on packed rows |
//! | [`lora`] | low-rank adapters: training with one copy of the base, PEFT's files |
//! | [`optimizer`] | AdamW that can be resumed; its rates come from [`rto::algorithm2::Schedule`] |
//! | [`generate`], [`sampler`], [`decoder`] | text from a KV cache; truncated decoding for evaluation |
//! | [`learner`] | networks as policy, learner, critic and reward model of Algorithm 2 |
//! | [`embedding_policy`] | the candle backend of the per-token seam, which takes the exact backend's steps |
//! | [`data`], [`world`], [`tokenizer_training`] | preference data, a world whose token reward is known, a tokenizer from a user's texts |
//! | [`win_rate`], `judge` (feature) | paired win rates with what they are worth; a language model that decides pairs over HTTP |
//! | [`model_card`] | the README of a saved policy |
//! | [`evaluator`] | any candle function as the evaluator of Proposition 3.2 |
#![deny(missing_docs)]
#![deny(unsafe_code)]
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod decoder;
pub mod device;
pub mod embedding_policy;
pub mod error;
pub mod evaluator;
pub mod generate;
pub mod gguf;
mod guard;
mod json;
#[cfg(feature = "judge")]
pub mod judge;
pub mod learner;
pub mod lora;
pub mod memory_plan;
pub mod model;
pub mod model_card;
#[allow(
    clippy::excessive_precision,
    clippy::too_many_arguments,
    reason = "kernels keep the digits of published constants and take their shapes one by one"
)]
pub mod ops;
#[allow(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "`!(x > 0.0)` refuses NaN too"
)]
pub mod optimizer;
pub mod params;
pub mod sampler;
pub mod tokenizer;
pub mod tokenizer_training;
pub mod win_rate;
pub mod world;

pub use error::{Error, Result};
