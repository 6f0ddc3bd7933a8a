//! Section 4.1, Lemma A.1: preferences, the Bradley–Terry estimate, Σ_𝒟 and confidence radii.
//!
//! | paper | item |
//! |---|---|
//! | (3.1) | [`sample_preferences`] |
//! | x_i = ψ(τ^w) − ψ(τ^l) | [`Design`] |
//! | the same of sparse features, its θ_MLE and Σ_𝒟 | [`SparseDesign`], [`fit_sparse`], [`SparseMetric`] |
//! | θ_MLE of data larger than the memory | [`fit_stream`] |
//! | L_𝒟(θ), θ_MLE of (4.1) | [`fit_bradley_terry`], [`log_likelihood`], [`gradient`] |
//! | whether (4.1) has a finite maximiser | [`separation()`] |
//! | Σ_𝒟 of (4.2); observed information + λI | [`Metric`] |
//! | Θ of (B.1), the ellipsoid alone in Algorithm 1 | [`ConfidenceSet`] |
//! | all of these at once | [`Estimate`] |
//! | ϱ of (A.2) as printed, and its repairs | [`printed_radius`], [`radii`], [`RadiusKind`] |
//!
//! Three wins against one loss on a single feature: σ(θ) = ¾, unless the ball is smaller than log 3.
//!
//! ```
//! use rto::estimate::{Design, FitOptions, fit_bradley_terry};
//!
//! let design = Design::try_new(1, vec![1.0, 1.0, 1.0, -1.0])?; // rows: winner's features minus loser's
//! let wide = FitOptions { param_bound: 2.0, ..FitOptions::default() };
//! let fit = fit_bradley_terry(&design, &wide)?;
//! assert!((fit.theta[0] - 3f64.ln()).abs() < 1e-9 && !fit.at_bound);
//! let tight = FitOptions { param_bound: 0.5, ..FitOptions::default() };
//! let fit = fit_bradley_terry(&design, &tight)?;
//! assert!(fit.theta[0] == 0.5 && fit.at_bound && fit.multiplier > 0.0);
//! # Ok::<(), rto::Error>(())
//! ```

#[cfg(feature = "argmin")]
mod argmin;
mod bradley_terry;
mod careful;
mod confidence_set;
mod covariance;
mod design;
mod estimated;
mod graded;
mod kernels;
#[cfg(feature = "lapack")]
mod lapack;
mod newton;
mod panels;
mod preference;
mod radius;
mod row_space;
mod separation;
mod sparse;
mod stream;
mod sweep;
mod wide;

#[cfg(feature = "argmin")]
pub use argmin::BradleyTerryProblem;
pub use bradley_terry::{BtFit, FitOptions, fit_bradley_terry};
pub use confidence_set::ConfidenceSet;
pub use covariance::{Metric, MetricKind};
pub use design::{Design, gradient, information, log_likelihood};
pub use estimated::Estimate;
#[cfg(feature = "lapack")]
pub use lapack::lapack_cholesky;
pub use preference::{preference_probability, sample_preferences};
pub use radius::{
    Curvature, Radii, Radius, RadiusInputs, RadiusKind, curvature_bound, printed_radius, radii,
};
pub use row_space::RowSpace;
pub use separation::{Separation, separation, sparse_separation};
pub use sparse::{SparseDesign, SparseMetric, fit_sparse};
pub use stream::{RowSource, fit_stream};
