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
