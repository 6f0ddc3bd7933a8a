//! GPT-NeoX behind the seam of [`rto::seq`]: what Algorithm 2 of the root package runs on.
//!
//! | type | role |
//! |---|---|
//! | [`NeoxScorer`] | a network and the channels it gives per response token |
//! | [`NeoxPolicy`] | a scorer with a language-model head that samples from its own distribution |
//! | [`NeoxLearner`] | a policy in training |
//! | [`NeoxRegressor`] | a network with a scalar head in training: a critic, or a reward model |
//! | [`Restricted`] | a policy on a few words of its vocabulary, for exact evaluation on an enumerable tree |
//!
//! A step has two phases, so that groups of an objective may span micro-batches: a forward pass of every row without
//! tape, ∂ℒ/∂score, and then a pass with tape and its pull-back per micro-batch. Where one micro-batch holds all rows,
//! the first pass keeps its tape and is the only one.

mod channels;
mod policy;
mod regressor;
mod restricted;
mod scorer;
mod state;
mod train;

pub use policy::NeoxPolicy;
pub use regressor::NeoxRegressor;
pub use restricted::Restricted;
pub use scorer::NeoxScorer;
pub use train::{LearnerOptions, NeoxLearner};

/// One line of a bridge error, as the seam carries it.
pub(crate) fn backend(error: crate::Error) -> rto::Error {
    match error {
        crate::Error::Theory(error) => error,
        other => rto::Error::Backend(other.to_string().lines().next().unwrap_or_default().into()),
    }
}
