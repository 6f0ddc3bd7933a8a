//! The algorithms of `rto` on neural autoregressive models, through candle.
//!
//! Where to begin: [`learner::NeuralScorer::load`] reads a Hugging Face folder. A [`learner::NeuralPolicy`] samples from it, a
//! [`learner::NeuralLearner`] trains it, a [`learner::NeuralRegressor`] is a critic or a reward model, and [`rto::algorithm2`] runs on
//! them as it runs on tables. `examples/algorithm2.rs` is all of that in one file: SFT, DPO and RTO on a small GPT-NeoX.
//! [`generate::Engine`] writes text, [`model::Model`] is the network itself.
//!
//! | to | modules |
//! |---|---|
//! | train and evaluate | [`learner`], [`lora`] (low-rank adapters), [`optimizer`] (AdamW that can be resumed), [`win_rate`] (paired, with what they are worth), `judge` (feature: a language model that decides pairs over HTTP) |
//! | read and write models | [`family`], [`checkpoint`], [`gguf`], [`files`], [`model_card`], [`memory_plan`] (what a model will need), [`on_device`] (for the kernels of a device) |
//! | read and write text | [`tokenizer`], [`tokenizer_training`], [`generate`], [`sampler`], [`decoder`] (truncated decoding) |
//! | have data | [`data`] (preferences of a user's), [`world`] (dialogues whose token reward is known) |
//! | go deeper | [`model`] and [`batch`] (the forward and backward pass on packed rows), [`params`], [`device`], [`error`], [`evaluator`] (any candle function as the evaluator of Proposition 3.2) |
//!
//! Modules stand in a line, and each imports from those before it alone (`tests/rooms.rs` holds them to that): [`files`], the kernels, then
//! [`family`] (what a network is, as data), then what reads and writes it ([`gguf`], [`tokenizer`], [`checkpoint`]), then what computes with
//! it ([`params`], [`optimizer`], [`lora`], [`batch`], [`model`], [`sampler`], [`decoder`], [`generate`]), then [`learner`] and
//! [`evaluator`]. A new family of models is one file of [`family`].
#![deny(missing_docs)]
#![deny(unsafe_code)]
pub mod batch;
pub mod checkpoint;
pub mod collective;
pub mod data;
pub mod decoder;
pub mod device;
pub mod device_learner;
pub mod error;
pub mod evaluator;
pub mod family;
pub mod files;
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
pub mod on_device;
#[allow(
    clippy::excessive_precision,
    clippy::too_many_arguments,
    reason = "kernels keep the digits of published constants and take their shapes one by one"
)]
mod ops;
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
