//! Language models behind the seam of [`rto::seq`]: what Algorithm 2 of the root package runs on.
//!
//! | type | role |
//! |---|---|
//! | [`NeuralScorer`] | a network and the channels it gives per response token |
//! | [`NeuralPolicy`] | a scorer with a language-model head that samples from its own distribution |
//! | [`NeuralLearner`] | a policy in training |
//! | [`NeuralRegressor`] | a network with a scalar head in training: a critic, or a reward model |
//! | [`Restricted`] | a policy on a few words of its vocabulary, for exact evaluation on an enumerable tree |
//! | [`Ranks`] | processes that train one network together, each on its share of every batch |
//!
//! A step has two phases, so that groups of an objective may span micro-batches: a forward pass of every row without
//! tape, ∂ℒ/∂score, and then a pass with tape and its pull-back per micro-batch. Where one micro-batch holds all rows,
//! the first pass keeps its tape and is the only one.
//!
//! A step of DPO (4.4) on a network drawn at random, through the objective that tables use:
//!
//! ```
//! use candle_core::Device;
//! use rto::objective::BradleyTerry;
//! use rto::seed::SeedTree;
//! use rto::seq::{Episode, Finish, PolicyLearner, Trainable};
//! use rto::token_reward::log_probs;
//! use rto_bridge::family::GptNeoXConfig;
//! use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer};
//! use rto_bridge::model::{Heads, Model};
//! use rto_bridge::params::{Init, Params};
//!
//! let config = GptNeoXConfig::tiny(11, 0); // eleven tokens, of which 0 ends a response
//! let heads = Heads { language_model: true, ..Heads::default() };
//! let model = Model::random(&config, heads, Init::Small, &SeedTree::new(1), &Device::Cpu)?;
//! let scorer = NeuralScorer::try_new(&config, Params::new(model.params().tensors())?)?;
//! let policy = NeuralPolicy::try_new(scorer, 4)?;
//! let mut learner = NeuralLearner::try_new(policy, LearnerOptions { learning_rate: 1e-2, ..LearnerOptions::default() })?;
//! let prompt: std::sync::Arc<[u32]> = [5, 6].into();
//! let answer = |y: &[u32]| Episode::try_new(prompt.clone(), y.to_vec(), Finish::Eos);
//! let batch = [answer(&[1, 0])?, answer(&[2, 3, 0])?]; // winner, loser
//! let reference = log_probs(learner.policy(), &batch)?.row_sums();
//! let loss = BradleyTerry::dpo(&batch, &reference, 0.1)?;
//! let first = learner.step(&batch, &loss)?.loss;
//! assert!((first - 2f64.ln()).abs() < 1e-6); // π = π_ref
//! assert!(learner.step(&batch, &loss)?.loss < first);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod channels;
pub(crate) mod parts;
mod policy;
mod ranks;
mod regressor;
mod restricted;
mod scorer;
mod state;
mod train;

pub use policy::NeuralPolicy;
pub use ranks::Ranks;
pub use regressor::NeuralRegressor;
pub use restricted::Restricted;
pub use scorer::NeuralScorer;
pub use state::LearnerState;
pub use train::{LearnerOptions, NeuralLearner};

/// An error of the bridge as the seam carries it: one line, and the error itself as its cause.
pub(crate) fn backend(error: crate::Error) -> rto::Error {
    match error {
        crate::Error::Theory(error) => error,
        other => rto::Error::backend_because(other),
    }
}
