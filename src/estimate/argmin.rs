//! The Bradley–Terry problem (4.1) for the solvers of argmin, where a constraint or penalty is one's own.

use ::argmin::core::{CostFunction, Error as SolverError, Gradient, Hessian};
use nalgebra::{DMatrix, DVector};

use super::design::{Design, gradient, information, log_likelihood};
use crate::{Error, Result};

/// (4.1) as a minimisation: f(θ) = −L_𝒟(θ) + (penalty/2)‖θ‖², without a ball, over θ `[d]`.
///
/// f is convex. It has no minimiser where the penalty is 0 and the data separate ([`super::separation()`]); a constraint or penalty
/// of one's own must then keep θ from growing. Wrap it in a type that adds that to all three functions, as
/// `examples/constrained_estimate.rs` does. [`super::fit_bradley_terry`] solves it in the ball ‖θ‖ ≤ B.
#[derive(Debug, Clone, Copy)]
pub struct BradleyTerryProblem<'a> {
    design: &'a Design,
    penalty: f64,
}

impl<'a> BradleyTerryProblem<'a> {
    /// The problem of these pairs.
    ///
    /// # Errors
    /// [`Error::Config`] unless the penalty is finite and not negative.
    pub fn try_new(design: &'a Design, penalty: f64) -> Result<Self> {
        if !(penalty >= 0.0 && penalty.is_finite()) {
            return Err(Error::config("penalty", penalty, ">= 0"));
        }
        Ok(Self { design, penalty })
    }
}

impl CostFunction for BradleyTerryProblem<'_> {
    type Param = DVector<f64>;
    type Output = f64;

    /// f(θ), in nats.
    fn cost(&self, theta: &DVector<f64>) -> std::result::Result<f64, SolverError> {
        let likelihood = log_likelihood(self.design, theta.as_slice())?;
        Ok(0.5 * self.penalty * theta.norm_squared() - likelihood)
    }
}

impl Gradient for BradleyTerryProblem<'_> {
    type Param = DVector<f64>;
    type Gradient = DVector<f64>;

    /// ∇f(θ) = −∇L_𝒟(θ) + penalty·θ, `[d]`.
    fn gradient(&self, theta: &DVector<f64>) -> std::result::Result<DVector<f64>, SolverError> {
        let slope = DVector::from_vec(gradient(self.design, theta.as_slice())?);
        Ok(theta * self.penalty - slope)
    }
}

impl Hessian for BradleyTerryProblem<'_> {
    type Param = DVector<f64>;
    type Hessian = DMatrix<f64>;

    /// ∇²f(θ) = −∇²L_𝒟(θ) + penalty·I, `[d, d]`.
    fn hessian(&self, theta: &DVector<f64>) -> std::result::Result<DMatrix<f64>, SolverError> {
        let mut hessian = information(self.design, theta.as_slice())?;
        for k in 0..theta.len() {
            hessian[(k, k)] += self.penalty;
        }
        Ok(hessian)
    }
}
