//! Section 4.1 and Appendix B: offline pessimism from preference data.
//!
//! | paper | function |
//! |---|---|
//! | Algorithm 1, (4.2) | [`algorithm1`], [`PessimisticReward`] |
//! | Theorem 4.2, both sides | [`theorem_4_2`] |
//! | (B.1), Theorem B.1, and the baselined form | [`maxmin`], [`theorem_b1`] |
//! | Remark B.2 for counted transitions | [`robust_soft_value_iteration`] |

mod convex;
mod maxmin;
mod pessimistic;
mod robust;

pub use maxmin::{Baseline, ConfidenceSet, MaxMin, TheoremB1, maxmin, theorem_b1};
pub use pessimistic::{Algorithm1, PessimisticReward, Theorem42, algorithm1, theorem_4_2};
pub use robust::{KlBalls, robust_soft_value_iteration, worst_case_expectation};
