//! The seam between objectives and models: one real number per response token.
//!
//! Every learning step of the paper touches parameters only through numbers attached to response tokens:
//! log π(y_h | x, y_{1:h−1}) of a policy, V(s_h) of a critic, r_θ(s_h, y_h) of a reward model. An objective is
//! therefore a pure function from those scores to a loss and its gradient with respect to the scores
//! ([`TokenObjective`]), and a model only has to run forward ([`TokenScorer`]) and pull that gradient back
//! through its parameters ([`Trainable`]). The same DPO, PPO and RTO run on a table and on a transformer.
//!
//! Nothing here knows of padding, of a vocabulary larger than the tokens seen, or of how a model is stored.

mod decoder;
mod episode;
mod per_token;
mod traits;

pub use decoder::Decoder;
pub use episode::{Episode, Finish, StreamKey, check_batch, inverse_cdf};
pub use per_token::{Channel, PerToken, Ragged};
pub use traits::{
    Policy, PolicyLearner, StepReport, TokenObjective, TokenReward, TokenScorer, Trainable,
    loss_and_score_grad,
};
