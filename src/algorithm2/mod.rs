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
//!
//! A long run is driven step by step, by [`Fit::next`] and [`PpoRun::next`] or by [`Rto::next`] for both in turn: between two calls the
//! caller holds the learners and a state of a few numbers, and saves what it wants.
//!
//! Algorithm 2 on a tree of eight responses, from π_ref to π_T, and its exact suboptimality:
//!
//! ```
//! use ndarray::Array2;
//! use rto::algorithm2::{CriticSlot, DpoConfig, FitConfig, Pair, PpoConfig, RtoConfig, RtoInput, rto};
//! use rto::mdp::{Beta, TabularPolicy, TokenTree};
//! use rto::policy::optimizer::OptimizerConfig;
//! use rto::policy::{ExactEvaluator, Regressor, StateMap, TabularLearner, TabularSoftmax};
//! use rto::reward::{RewardFunction, TabularReward};
//! use rto::seed::SeedTree;
//! use rto::seq::{Episode, Finish, PolicyLearner};
//!
//! let map = StateMap::tree(&TokenTree::try_new(1, 2, 3, None)?, &[1.0])?;
//! let zeros = Array2::zeros((7, 2));
//! let reward = TabularReward::try_new(Array2::from_shape_fn((7, 2), |(_, a)| a as f64))?; // a point for every 1
//! // Each of the eight responses beside each other; the one with more ones wins.
//! let all: Vec<Vec<u32>> = (0..8).map(|y| (0..3).map(|h| y >> h & 1).collect()).collect();
//! let ones = |y: &[u32]| y.iter().sum::<u32>();
//! let episode = |y: &Vec<u32>| Episode::try_new(StateMap::prompt(0), y.clone(), Finish::Length);
//! let mut pairs = Vec::new();
//! for w in &all {
//!     for l in all.iter().filter(|l| ones(w) > ones(l)) {
//!         pairs.push(Pair { winner: episode(w)?, loser: episode(l)? });
//!     }
//! }
//! let learner = || TabularLearner::try_new(TabularSoftmax::try_new(map.clone(), &zeros)?, OptimizerConfig::adam(0.05));
//! let (mut dpo, mut policy) = (learner()?, learner()?);
//! let mut critic = Regressor::critic(map.clone(), &[0.0; 7], OptimizerConfig::sgd(0.5))?;
//! let paper = RtoConfig::paper();
//! let config = RtoConfig {
//!     dpo: DpoConfig { beta: 0.5, fit: FitConfig { learning_rate: 0.05, epochs: 10, ..paper.dpo.fit }, ..paper.dpo },
//!     beta1: 0.5,
//!     ppo: PpoConfig { iterations: 30, prompts_per_iteration: 64, beta2: 0.25, learning_rate: 0.05, critic_learning_rate: 0.5, ..paper.ppo },
//!     ..paper
//! }
//! .check()?;
//! let input = RtoInput { pairs: &pairs, config: &config, seeds: &SeedTree::new(1), reward_model: None };
//! rto(&mut dpo, &mut policy, &mut CriticSlot::Separate(&mut critic), input, &mut |_, _| Ok(()))?;
//! let exact = ExactEvaluator::try_new(map.clone(), &reward, TabularPolicy::uniform(7, 2), Beta::try_new(0.5)?)?;
//! let start = exact.report(&TabularPolicy::uniform(7, 2))?.suboptimality;
//! let end = exact.report(&policy.policy().table()?)?.suboptimality;
//! assert!(end < start / 2.0, "{start} {end}");
//! # Ok::<(), rto::Error>(())
//! ```

mod config;
mod critic;
mod fit;
mod fit_config;
mod labelled;
#[cfg(feature = "serde")]
mod off;
mod ppo;
mod report;
mod rto;
mod step;
#[cfg(test)]
mod tests;
mod warnings;

pub use config::{Advantage, KlPlacement, PolicyLoss, PpoConfig, RtoConfig, Whitening};
pub use critic::{Critic, CriticSlot, NoCritic};
pub use fit::{Fit, OnStep, Pair, Step, dpo, fit_pairs, fit_reward, fit_steps, sft};
pub use fit_config::{Checked, DpoConfig, FitConfig, Schedule};
pub use labelled::{Labelled, fit_label_reward, fit_unpaired};
pub use ppo::{Iteration, PpoRun, PpoState};
pub use report::{IterationReport, SamplerGap};
pub use rto::{Rto, RtoInput, RtoOutput, RtoState, RtoStep, rto};
pub use warnings::Biased;
