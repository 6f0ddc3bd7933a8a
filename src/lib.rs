//! Exact, theory-first RLHF on token MDPs.
//!
//! `rto` implements the formal content of "DPO Meets PPO: Reinforced Token Optimization for RLHF"
//! (Zhong et al., 2024) so that its claims can be computed rather than quoted, and says where a claim
//! does not hold (`paper-notes/errata.md`).
//!
//! This crate does no input or output: no files, no clock, no printing. The binaries under
//! `experiments/` add those.
//!
//! | module | paper |
//! |---|---|
//! | [`mdp`], [`features`], [`reward`] | Sections 3.1, 4.1: token MDPs as integer tables, linear rewards |
//! | [`plan`] | Section 3.2, Lemma A.2, Remark A.3, Proposition C.2: exact planning and evaluation |
//! | [`estimate`] | Section 4.1, Lemma A.1: Bradley–Terry estimation and confidence radii |
//! | [`algorithm1`] | Algorithm 1, Theorem 4.2, Theorem B.1, Remark B.2 |
//! | [`search`] | Section 3.3, Proposition 3.2: token feedback against sentence feedback |
//! | [`seq`] | Section 4.2, Algorithm 2: the per-token seam between objectives and models |
//! | [`objective`], [`token_reward`], [`advantage`] | (2.2), (2.3), (4.5), (5.1), (C.4): losses and rewards per token |
//! | [`algorithm2`] | Algorithm 2 and its baselines |
//! | [`audit`] | what the gradient of each recipe climbs, exactly |
//! | [`policy`] | Section 4.2: policies, critics and rewards on a table, exact evaluation of any policy |
//! | [`preference`] | preference optimisation at large: DPO, IPO, SimPO, χPO, KTO … to their exact minimisers |
//! | [`zoo`] | instances with known answers, and random families |
//! | [`numerics`], [`dual`], [`seed`], [`error`] | what everything else stands on |
//!
//! From a token MDP to the exact suboptimality of Algorithm 1 and its bound:
//!
//! ```
//! use rto::algorithm1::{ConfidenceSet, algorithm1, theorem_4_2};
//! use rto::estimate::{Design, FitOptions, Metric, fit_bradley_terry, sample_preferences};
//! use rto::features::DenseFeatures;
//! use rto::mdp::{Beta, Problem, TabularPolicy, TokenTree};
//! use rto::plan::Truth;
//! use rto::reward::LinearReward;
//! use rto::seed::SeedTree;
//!
//! // One prompt, two tokens, responses of two tokens; the features name the token and whether it repeats the last one.
//! let tree = TokenTree::try_new(1, 2, 2, None)?;
//! let mdp = tree.compile(&[1.0])?;
//! let phi = DenseFeatures::from_fn(tree.n_states(), 2, 2, |s, a, k| match k {
//!     0 => a as f64,
//!     _ => f64::from(u8::from(s == a + 1)),
//! })?;
//! let (reference, beta) = (TabularPolicy::uniform(tree.n_states(), 2), Beta::try_new(0.5)?);
//! let theta_star = [0.6, -0.4];
//! let truth = LinearReward::try_new(&phi, &theta_star)?;
//!
//! let pairs = sample_preferences(&mdp, &truth, (&reference, &reference), 500, &SeedTree::new(1))?; // (3.1)
//! let design = Design::from_pairs(&mdp, &phi, &pairs)?;
//! let options = FitOptions { param_bound: 1.0, ..FitOptions::default() };
//! let fit = fit_bradley_terry(&design, &options)?; // (4.1)
//! let sigma = Metric::sigma_d(&design, 1.0)?; // (4.2)
//! let set = ConfidenceSet::try_new(&fit.theta, &sigma, 8.0, 1.0)?;
//! let output = algorithm1(Problem::new(&mdp, &reference, beta), &phi, &set, None)?;
//! let theorem = theorem_4_2(&Truth::linear(Problem::new(&mdp, &reference, beta), &phi, &theta_star)?, &set, &output)?;
//! assert!(theorem.premise && theorem.suboptimality <= theorem.bound);
//! assert!(theorem.suboptimality < 0.05 && theorem.bound > 1.0); // what the bound leaves
//! # Ok::<(), rto::Error>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod advantage;
pub mod algorithm1;
pub mod algorithm2;
pub mod audit;
mod check;
pub mod dual;
pub mod error;
pub mod estimate;
pub mod features;
pub mod mdp;
pub mod numerics;
pub mod objective;
pub mod plan;
pub mod policy;
pub mod preference;
pub mod reward;
pub mod search;
pub mod seed;
pub mod seq;
mod simd;
mod token;
pub mod token_reward;
pub mod zoo;

pub use error::{BoxError, Cause, Error, Result};
pub use token::Token;

/// The README's example is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
