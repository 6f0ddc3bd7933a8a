//! Penalties on the divergence from π_ref at a sampled token, inside the loss.

use crate::dual::Real;

use super::surrogate::exp;

/// A penalty k on d = log π(y_h|s_h) − log π_ref(y_h|s_h) of a sampled token, with its slope in log π (Schulman, 2020; the last two after
/// verl and TRL).
///
/// What the gradient of the loss climbs on samples of π is another matter than the value: `paper-notes/estimators.md`, claims 03a to 05d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum SampledKl {
    /// d, slope 1.
    K1,
    /// d²/2, slope d.
    K2,
    /// e^{−d} − 1 + d, slope 1 − e^{−d} (GRPO).
    K3,
    /// The value of k3 with the slope of k2 ("straight-through", verl's k3+).
    K3Plus,
    /// ρ·k3 with ρ = π/π_old not detached: slope ρd (TRL's `use_bias_correction_kl`).
    K3Corrected,
}

impl SampledKl {
    /// k and ∂k/∂ log π, from d and log ρ, which [`SampledKl::K3Corrected`] alone reads.
    pub fn value_slope<T: Real>(self, d: T, log_ratio: T) -> (T, T) {
        match self {
            Self::K1 => (d, T::constant(1.0)),
            Self::K2 => (d * d * 0.5, d),
            Self::K3 => {
                let (e, de) = exp_minus(d);
                (e + d, -de + 1.0)
            }
            Self::K3Plus => (exp_minus(d).0 + d, d),
            Self::K3Corrected => {
                let (k3, _) = Self::K3.value_slope(d, log_ratio);
                let (ratio, slope) = exp(log_ratio);
                (ratio * k3, slope * d)
            }
        }
    }

    /// k alone.
    pub fn value<T: Real>(self, d: T) -> T {
        self.value_slope(d, T::constant(0.0)).0
    }
}

/// e^{−d} − 1 and e^{−d}: expm1 keeps k3 ≥ 0 near d = 0, where e^{−d} − 1 + d cancels.
fn exp_minus<T: Real>(d: T) -> (T, T) {
    if d.value() > -1.0 {
        ((-d).exp_m1(), (-d).exp())
    } else {
        let (e, de) = exp(-d);
        (e - 1.0, de)
    }
}
