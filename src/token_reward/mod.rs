//! Rewards per response token: what tells RTO, DPPO and PPO apart, and the −β₂ term they share.
//!
//! | reward | definition |
//! |---|---|
//! | [`DpoReward`] | (4.5), the dense reward of RTO |
//! | [`PaidAtEnd`] | (5.1) of a [`DpoReward`] |
//! | [`SentenceReward`] | (2.3): a reward model at the last token |
//! | [`released`] | both, clipped, as in the authors' later code |
//! | [`Redistributed`] | the return spread by attention (ABC), evenly or at random |
//! | [`OnlineImplicitReward`] | (4.5) with a π_φ that goes on learning (PRIME) |
//!
//! [`KlEstimator`] and [`add_kl_penalty`] give −β₂ log(π/π_ref), which the PPO driver adds to any of them.
//!
//! The same DPO policy as the reward of RTO and of DPPO: paid token by token, or all at the end.
//!
//! ```
//! use ndarray::array;
//! use rto::mdp::TokenTree;
//! use rto::policy::{StateMap, TabularSoftmax};
//! use rto::seq::{Episode, Finish, TokenReward};
//! use rto::token_reward::{DpoReward, PaidAtEnd};
//!
//! let map = StateMap::tree(&TokenTree::try_new(1, 2, 2, None)?, &[1.0])?; // states: the prompt, 0, 1
//! let reference = TabularSoftmax::try_new(map.clone(), &array![[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])?;
//! let dpo = TabularSoftmax::try_new(map, &array![[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])?;
//! let batch = [Episode::try_new(StateMap::prompt(0), vec![0, 1], Finish::Length)?];
//! let rto = DpoReward::try_new(&dpo, &reference, 0.5)?; // (4.5)
//! let dense = rto.rewards(&batch)?;
//! let log_ratio = |z: f64| -(1.0 + (-z).exp()).ln() + 2f64.ln(); // log σ(z) − log ½
//! assert!((dense.row(0)[0] - 0.5 * log_ratio(1.0)).abs() < 1e-12);
//! assert!((dense.row(0)[1] - 0.5 * log_ratio(2.0)).abs() < 1e-12);
//! let at_end = PaidAtEnd(rto).rewards(&batch)?; // (5.1)
//! assert_eq!(at_end.row(0)[0], 0.0);
//! assert!((at_end.row_sums()[0] - dense.row_sums()[0]).abs() < 1e-12);
//! # Ok::<(), rto::Error>(())
//! ```

mod implicit;
mod kl;
mod redistribute;
mod sentence;
#[cfg(test)]
mod tests;

pub use implicit::{DpoReward, OnlineImplicitReward, log_probs};
pub use kl::{AdaptiveKl, KlEstimator, add_kl_penalty};
pub use redistribute::{AttentionReadout, Random, Redistributed, Uniform};
pub use sentence::{Both, DenseReward, PaidAtEnd, Scaled, SentenceReward, released};
