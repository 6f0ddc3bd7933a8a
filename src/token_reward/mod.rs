//! Rewards per response token.

mod kl;

pub use kl::{AdaptiveKl, KlEstimator, add_kl_penalty};
