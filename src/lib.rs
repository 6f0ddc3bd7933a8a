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
//! | [`mdp`], [`features`], [`reward`] | Sections 3.1, 4.1: token MDPs as integer tables, linear rewards |
//! | [`plan`] | Section 3.2, Lemma A.2, Remark A.3, Proposition C.2: exact planning and evaluation |
//! | [`estimate`] | Section 4.1, Lemma A.1: Bradley–Terry estimation and confidence radii |
//! | [`algorithm1`] | Algorithm 1, Theorem 4.2, Theorem B.1, Remark B.2 |
//! | [`search`] | Section 3.3, Proposition 3.2: token feedback against sentence feedback |
//! | [`seq`] | Section 4.2, Algorithm 2: the per-token seam between objectives and models |
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
pub mod seq;
mod simd;
mod token;

pub use error::{Error, Result};
pub use token::Token;

/// The README's example is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
