//! Algorithm 2, Reinforced Token Optimization in practice, and the baselines that differ from it in one value.
//!
//! RTO, the sentence-level DPO baseline of (5.1) ("DPPO" in the paper, not the later divergence PPO) and PPO of (2.3)
//! are one function, [`PpoRun::iterate`], with another [`TokenReward`](crate::seq::TokenReward):
//!
//! | method | reward |
//! |---|---|
//! | RTO (4.6) | [`DpoReward`](crate::token_reward::DpoReward) |
//! | DPPO (5.1) | [`PaidAtEnd`](crate::token_reward::PaidAtEnd) of it |
//! | PPO (2.3) | [`SentenceReward`](crate::token_reward::SentenceReward) |
//! | RTO as released by the authors | [`released`](crate::token_reward::released) |
//!
//! The −β₂ term of all four is added by the driver, so the table is all that separates them.

mod config;
mod critic;
mod fit;
mod fit_config;
mod ppo;
mod report;
mod rto;
mod step;
#[cfg(test)]
mod tests;

pub use config::{Advantage, KlPlacement, PolicyLoss, PpoConfig, RtoConfig, Whitening};
pub use critic::{Critic, CriticSlot, NoCritic};
pub use fit::{OnStep, Pair, dpo, fit_reward, fit_steps, sft};
pub use fit_config::{Checked, DpoConfig, FitConfig, Schedule};
pub use ppo::{PpoRun, PpoState};
pub use report::IterationReport;
pub use rto::{Observer, RtoInput, RtoOutput, rto};
