//! The quadratic model of the estimator: its minimiser inside a ball, and the secant update.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use crate::{Error, Result};

/// Relative damping that makes a singular Hessian factorable.
const DAMPING: f64 = 1e-11;

/// argmin gᵀ(u−θ) + ½(u−θ)ᵀH(u−θ) over ‖u‖ ≤ bound, and the multiplier μ ≥ 0 of ½(‖u‖² − bound²):
/// (H + μI)(u − θ) = −(g + μθ).
pub(crate) fn minimise_in_ball(
    hessian: &DMatrix<f64>,
    gradient: &DVector<f64>,
    theta: &DVector<f64>,
    bound: f64,
) -> Result<(DVector<f64>, f64)> {
    let d = theta.len();
    let floor = (1e-20 * hessian.diagonal().max()).max(f64::MIN_POSITIVE / DAMPING);
    let mut damping = DAMPING;
    let solve = |mu: f64, damping: f64| -> Option<(DVector<f64>, Cholesky<f64, Dyn>)> {
        let mut shifted = hessian.clone();
        for i in 0..d {
            // Relative to each coordinate's own scale, and next to nothing where no curvature is left: a
            // coordinate on the sphere must still be free to turn.
            shifted[(i, i)] += mu + damping * hessian[(i, i)].max(floor);
        }
        let chol = Cholesky::new(shifted)?;
        let u = theta - chol.solve(&(gradient + theta * mu));
        u.iter().all(|x| x.is_finite()).then_some((u, chol))
    };
    let (mut u, mut chol) = loop {
        match solve(0.0, damping) {
            Some(found) => break found,
            None if damping < 1.0 => damping *= 100.0,
            None => {
                return Err(Error::NotConverged {
                    what: "factorisation of the information matrix".into(),
                    iterations: 0,
                    residual: damping,
                });
            }
        }
    };
    if u.norm() <= bound {
        return Ok((u, 0.0));
    }
    // Newton on 1/bound − 1/‖u(μ)‖, which is increasing and concave in μ: monotone from the left.
    let mut mu = 0.0f64;
    for _ in 0..100 {
        let norm = u.norm();
        if (norm - bound).abs() <= 1e-15 * bound {
            break;
        }
        let half = chol.l_dirty().solve_lower_triangular(&u);
        let Some(half) = half else { break };
        let next = mu + (norm / half.norm()).powi(2) * (norm - bound) / bound;
        if !(next.is_finite() && next > 0.0) || next == mu {
            break;
        }
        mu = next;
        match solve(mu, damping) {
            Some(found) => (u, chol) = found,
            None => break,
        }
    }
    let norm = u.norm();
    if norm > 0.0 {
        u *= bound / norm;
    }
    Ok((u, mu))
}

/// BFGS: the symmetric update of H with Hs = y afterwards. Skipped when the pair carries no positive
/// curvature above rounding.
pub(crate) fn secant_update(hessian: &mut DMatrix<f64>, s: &DVector<f64>, y: &DVector<f64>) {
    let ys = y.dot(s);
    let hs = &*hessian * s;
    let shs = s.dot(&hs);
    if !(ys > 1e-10 * y.norm() * s.norm() && shs > 0.0) {
        return;
    }
    hessian.ger(1.0 / ys, y, y, 1.0);
    hessian.ger(-1.0 / shs, &hs, &hs, 1.0);
}
