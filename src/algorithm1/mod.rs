//! Section 4.1 and Appendix B: offline pessimism from preference data.
//!
//! | paper | function |
//! |---|---|
//! | Algorithm 1, (4.2) | [`algorithm1`], [`PessimisticReward`] |
//! | how far rounding moves π̂ | [`Algorithm1::rounding`] |
//! | Theorem 4.2, both sides; its bound alone | [`theorem_4_2`], [`bound_4_2`] |
//! | what a projected bonus must measure (errata, B5) | [`policy_differences`] |
//! | (B.1), Theorem B.1, and the baselined form | [`maxmin`], [`theorem_b1`], [`bound_b1`] |
//! | Remark B.2 for counted transitions | [`robust_soft_value_iteration`], [`robust_rounding`] |
//!
//! With a radius of zero Algorithm 1 trusts its estimate; with a large one it avoids what it has not seen:
//!
//! ```
//! use rto::algorithm1::{ConfidenceSet, algorithm1};
//! use rto::estimate::{Design, Metric};
//! use rto::features::DenseFeatures;
//! use rto::mdp::{ActionIx, Beta, Problem, StateIx, TabularPolicy, TokenTree};
//!
//! // One step, two tokens with a feature each; the comparisons are all about token 0.
//! let mdp = TokenTree::try_new(1, 2, 1, None)?.compile(&[1.0])?;
//! let phi = DenseFeatures::try_new(1, 2, 2, vec![1.0, 0.0, 0.0, 1.0])?;
//! let (reference, beta) = (TabularPolicy::uniform(1, 2), Beta::try_new(1.0)?);
//! let design = Design::try_new(2, [1.0, 0.0].repeat(99))?;
//! let (sigma, theta) = (Metric::sigma_d(&design, 1.0)?, [0.0, 0.0]);
//! let first = |radius| -> rto::Result<f64> {
//!     let set = ConfidenceSet::try_new(&theta, &sigma, radius, 1.0)?;
//!     let output = algorithm1(Problem::new(&mdp, &reference, beta), &phi, &set, None)?;
//!     Ok(output.optimum.policy.prob(StateIx(0), ActionIx(0)))
//! };
//! assert_eq!(first(0.0)?, 0.5);
//! // Σ_D = diag(100, 1): the bonuses are ϱ/10 and ϱ.
//! assert!((first(1.0)? - 1.0 / (1.0 + (-0.9f64).exp())).abs() < 1e-12);
//! # Ok::<(), rto::Error>(())
//! ```

mod active;
mod convex;
mod frame;
mod maxmin;
mod pessimistic;
mod projection;
mod robust;

pub use crate::estimate::ConfidenceSet;
pub use maxmin::{Baseline, BoundB1, MaxMin, TheoremB1, bound_b1, maxmin, theorem_b1};
pub use pessimistic::{
    Algorithm1, Bound42, PessimisticReward, Theorem42, algorithm1, bound_4_2, theorem_4_2,
};
pub use projection::{holds_differences, policy_differences};
pub use robust::{KlBalls, robust_rounding, robust_soft_value_iteration, worst_case_expectation};
