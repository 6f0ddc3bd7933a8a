//! Section 4.1, Lemma A.1: preferences, the Bradley–Terry estimate, Σ_𝒟 and confidence radii.
//!
//! | paper | item |
//! |---|---|
//! | (3.1) | [`sample_preferences`] |
//! | x_i = ψ(τ^w) − ψ(τ^l) | [`Design`] |
//! | L_𝒟(θ), θ_MLE of (4.1) | [`fit_bradley_terry`], [`log_likelihood`], [`gradient`] |
//! | whether (4.1) has a finite maximiser | [`separation()`] |
//! | Σ_𝒟 of (4.2); observed information + λI | [`Metric`] |
//! | ϱ of Lemma A.1 and its repairs | [`radii`], [`RadiusKind`] |

mod bradley_terry;
mod covariance;
mod design;
mod kernels;
#[cfg(feature = "lapack")]
mod lapack;
mod newton;
mod preference;
mod radius;
mod separation;

pub use bradley_terry::{BtFit, FitOptions, fit_bradley_terry};
pub use covariance::{Metric, MetricKind, RowSpace};
pub use design::{Design, gradient, information, log_likelihood};
#[cfg(feature = "lapack")]
pub use lapack::lapack_cholesky;
pub use preference::{preference_probability, sample_preferences};
pub use radius::{Curvature, Radii, Radius, RadiusInputs, RadiusKind, curvature_bound, radii};
pub use separation::{Separation, separation};
