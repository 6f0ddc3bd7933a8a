//! The quadratic model of the estimator: its minimiser inside a ball, and the secant update of its Hessian and of its inverse.

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
    let solve = |mu: f64, damping: f64| -> Option<(DVector<f64>, Cholesky<f64, Dyn>)> {
        let chol = factor(hessian, mu, damping)?;
        let u = theta - chol.solve(&(gradient + theta * mu));
        u.iter().all(|x| x.is_finite()).then_some((u, chol))
    };
    let (mut u, mut chol, damping) =
        damped(|damping| solve(0.0, damping)).map(|((u, chol), damping)| (u, chol, damping))?;
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

/// H + μI, each diagonal entry damped in its own scale, as factors.
fn factor(hessian: &DMatrix<f64>, mu: f64, damping: f64) -> Option<Cholesky<f64, Dyn>> {
    let floor = (1e-20 * hessian.diagonal().max()).max(f64::MIN_POSITIVE / DAMPING);
    let mut shifted = hessian.clone();
    for i in 0..hessian.nrows() {
        // Relative to each coordinate's own scale, and next to nothing where no curvature is left: a
        // coordinate on the sphere must still be free to turn.
        shifted[(i, i)] += mu + damping * hessian[(i, i)].max(floor);
    }
    Cholesky::new(shifted)
}

/// The first answer at a damping that is raised until there is one, and the damping.
fn damped<T>(mut attempt: impl FnMut(f64) -> Option<T>) -> Result<(T, f64)> {
    let mut damping = DAMPING;
    loop {
        match attempt(damping) {
            Some(found) => return Ok((found, damping)),
            None if damping < 1.0 => damping *= 100.0,
            None => {
                return Err(Error::NotConverged {
                    what: "factorisation of the information matrix".into(),
                    iterations: 0,
                    residual: damping,
                });
            }
        }
    }
}

/// The inverse of a Hessian after secant updates: one factorisation of d³ and d numbers for each update, where factoring what
/// [`secant_update`] leaves would take d³ at every step.
pub(crate) struct Inverse {
    factors: Cholesky<f64, Dyn>,
    /// (s, y) of every update.
    pairs: Vec<(DVector<f64>, DVector<f64>)>,
}

impl Inverse {
    /// Of a Hessian without updates.
    pub fn of(hessian: &DMatrix<f64>) -> Result<Self> {
        let (factors, _) = damped(|damping| factor(hessian, 0.0, damping))?;
        Ok(Self {
            factors,
            pairs: Vec::new(),
        })
    }

    /// The update that [`secant_update`] made.
    pub fn update(&mut self, s: DVector<f64>, y: DVector<f64>) {
        self.pairs.push((s, y));
    }

    /// H⁻¹g.
    pub fn solve(&self, g: &DVector<f64>) -> DVector<f64> {
        two_loops(&self.pairs, g, |q| self.factors.solve(q))
    }
}

/// H⁻¹g for the Hessian that secant updates (s, y) leave of one whose inverse is `first`.
pub(crate) fn two_loops(
    pairs: &[(DVector<f64>, DVector<f64>)],
    g: &DVector<f64>,
    first: impl Fn(&DVector<f64>) -> DVector<f64>,
) -> DVector<f64> {
    let mut q = g.clone();
    let mut shares = Vec::with_capacity(pairs.len());
    for (s, y) in pairs.iter().rev() {
        let share = s.dot(&q) / y.dot(s);
        q.axpy(-share, y, 1.0);
        shares.push(share);
    }
    let mut out = first(&q);
    for ((s, y), share) in pairs.iter().zip(shares.iter().rev()) {
        out.axpy(share - y.dot(&out) / y.dot(s), s, 1.0);
    }
    out
}

/// BFGS: the symmetric update of H with Hs = y afterwards. Skipped, and false, when the pair carries no positive
/// curvature above rounding.
pub(crate) fn secant_update(
    hessian: &mut DMatrix<f64>,
    s: &DVector<f64>,
    y: &DVector<f64>,
) -> bool {
    let ys = y.dot(s);
    let hs = &*hessian * s;
    let shs = s.dot(&hs);
    if !(ys > 1e-10 * y.norm() * s.norm() && shs > 0.0) {
        return false;
    }
    hessian.ger(1.0 / ys, y, y, 1.0);
    hessian.ger(-1.0 / shs, &hs, &hs, 1.0);
    true
}
