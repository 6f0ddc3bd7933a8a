//! What does a recipe's gradient really climb? Exactly, on token trees that can be enumerated.
//!
//! A [`Recipe`] is everything that decides the gradient of a policy loss: reward, KL term, advantages, ratio and clip, aggregation, and
//! how many responses one loss sees. On a [`ResponseTree`] it is a vector field on logits,
//! E\[g\](θ) = Σ_u P_μ(u) g(u) with g = −∂ℒ/∂θ of a unit u of B prompts or of G responses to one, everything detached held fixed. The audit
//! sets it beside ∇J of the objective that is meant, J(θ) = Σ_p w_p E[Σ_h r] − β KL_seq(π ‖ π_ref):
//!
//! | question | answer |
//! |---|---|
//! | where does it point, how long is it, how noisy is a unit? | [`Summary`] |
//! | is it the gradient of anything? | [`Rotation`] |
//! | where does it end, and what is lost there? | [`FixedPoint`] |
//! | from how many responses on does bias outweigh variance? | [`Scaled::n_star`] |
//! | how noisy is a response of a batch, or of a group, too large to enumerate? | [`Summary::in_a_large_batch`] |
//! | and where groups are too large to enumerate? | [`Sampled`] |
//!
//! The formulas are those that train ([`objective`](crate::objective), [`advantage`](crate::advantage),
//! [`token_reward`](crate::token_reward)), evaluated on `f64` or on [`dual`](crate::dual) numbers. Definitions, claims and proofs are in
//! `paper-notes/estimators.md`.
//!
//! GRPO with k3 in the loss, on eight responses, climbs something else than REINFORCE with k1 in the reward:
//!
//! ```
//! use rto::audit::{FixedPoint, Problem, ResponseTree, Summary, named};
//!
//! let tree = ResponseTree::try_new(2, 3, None, &[1.0])?;
//! let reward: Vec<f64> = (0..14).map(|k| (1.7 * k as f64).sin()).collect();
//! let problem = Problem::try_new(tree, &reward, &[0.0; 14])?;
//! let recipes = named(0.3, 4, 4, 3);
//! let loss = |id: &str| -> rto::Result<(f64, f64)> {
//!     let recipe = &recipes.iter().find(|r| r.id == id).expect("a name").recipe;
//!     let here = Summary::at(&problem, recipe, &[0.0; 14], None, None)?;
//!     Ok((here.cosine, FixedPoint::find(&problem, recipe, None)?.suboptimality))
//! };
//! let (cosine, end) = loss("reinforce.k1")?;
//! assert!((cosine - 1.0).abs() < 1e-12 && end < 1e-12);
//! let (cosine, end) = loss("grpo")?;
//! assert!(cosine < 0.999 && end > 0.01);
//! # Ok::<(), rto::Error>(())
//! ```

mod field;
mod fixed_point;
mod jacobian;
mod large_batch;
mod named;
mod prepared;
mod problem;
mod recipe;
mod sampled;
mod summary;
mod tables;
mod tree;
mod units;
mod variance;

pub use field::MOST_DRAWN;
pub use fixed_point::{FixedPoint, Status};
pub use named::{Named, named};
pub use problem::Problem;
pub use recipe::{Critic, Estimator, Kl, Recipe, Reward};
pub use sampled::{Draws, Estimate, Sampled};
pub use summary::{Features, Rotation, Scaled, Summary, expected_gradient};
pub use tree::{MOST_RESPONSES, ResponseTree};
pub use units::n_multisets;
