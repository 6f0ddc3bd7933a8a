//! The seam between objectives and models: one real number per response token.
//!
//! Every learning step of the paper touches parameters only through numbers attached to response tokens:
//! log π(y_h | x, y_{1:h−1}) of a policy, V(s_h) of a critic, r_θ(s_h, y_h) of a reward model. An objective is
//! therefore a pure function from those scores to a loss and its gradient with respect to the scores
//! ([`TokenObjective`]), and a model only has to run forward ([`TokenScorer`]) and pull that gradient back
//! through its parameters ([`Trainable`]). The same DPO, PPO and RTO run on a table and on a transformer.
//!
//! Nothing here knows of padding, of a vocabulary larger than the tokens seen, or of how a model is stored.
//!
//! A loss sees scores and nothing else. Here the log-probabilities of two responses to one prompt, and DPO's gradient in them:
//!
//! ```
//! use rto::objective::BradleyTerry;
//! use rto::seq::{Channel, Episode, Finish, PerToken, Ragged, loss_and_score_grad};
//!
//! let prompt = [7u32].into();
//! let answer = |y: &[u32]| Episode::try_new(std::sync::Arc::clone(&prompt), y.to_vec(), Finish::Eos);
//! let batch = [answer(&[1, 0])?, answer(&[2, 2, 0])?]; // winner, loser
//! let log_pi = Ragged::from_rows([vec![-1.0, -0.5], vec![-1.0, -1.0, -0.5]]);
//! let scores = PerToken::new(&batch).with(Channel::LogProb, log_pi)?;
//! let loss = BradleyTerry::dpo(&batch, &[-1.5, -2.5], 0.1)?; // π = π_ref: the margin is 0
//! let (value, grad) = loss_and_score_grad(&loss, &scores)?;
//! assert!((value - 2f64.ln()).abs() < 1e-15);
//! // −βσ(−margin) on every token of the winner, the opposite on the loser's.
//! assert_eq!(grad.row(Channel::LogProb, 0), [-0.05; 2]);
//! assert_eq!(grad.row(Channel::LogProb, 1), [0.05; 3]);
//! # Ok::<(), rto::Error>(())
//! ```

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
