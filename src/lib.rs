//! Exact, theory-first RLHF on token MDPs.
//!
//! `rto` implements the formal content of "DPO Meets PPO: Reinforced Token Optimization for RLHF"
//! (Zhong et al., 2024) so that every claim can be computed rather than quoted, and says where a claim
//! does not hold (`paper-notes/errata.md`).
//!
//! This crate does no input or output: no files, no clock, no printing. The binaries under
//! `experiments/` add those.
//!
//! | module | paper |
//! |---|---|
//! | [`mdp`], [`features`], [`reward`] | Section 3.1: token MDPs as integer tables |
//! | [`plan`] | Section 3.2, Appendix A: exact planning, Lemma A.2, Remark A.3 |
//! | [`estimate`] | Section 4.1, Lemma A.1: Bradley–Terry estimate, Σ_𝒟, radii |
//! | [`algorithm1`] | Algorithm 1, Theorem 4.2, Theorem B.1, Remark B.2 |
//! | [`search`] | Section 3.3, Proposition 3.2: token feedback against sentence feedback |
//! | [`numerics`], [`seed`], [`error`] | what everything else stands on |
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod algorithm1;
pub mod error;
pub mod estimate;
pub mod features;
pub mod mdp;
pub mod numerics;
pub mod plan;
pub mod reward;
pub mod search;
pub mod seed;
mod simd;
mod token;

pub use error::{Error, Result};
pub use token::Token;
