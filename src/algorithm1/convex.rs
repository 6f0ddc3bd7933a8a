//! A smooth convex function over ellipsoid ∩ ball: a log-barrier path, followed until Newton's method
//! on the KKT equations of the constraints it shows to be active converges.
//!
//! (An infeasible primal–dual interior point jams here: it reaches the ellipsoid long before the dual
//! residual is small.)

use nalgebra::{DMatrix, DVector};

use super::ConfidenceSet;
use crate::{Error, Result};

/// A smooth convex function of θ.
pub(super) trait Objective {
    fn value(&self, theta: &[f64]) -> Result<f64>;
    fn gradient_hessian(&self, theta: &[f64]) -> Result<(DVector<f64>, DMatrix<f64>)>;
}

/// The objective as a function of u = θ/unit.
struct Scaled<'a, O> {
    objective: &'a O,
    unit: f64,
}

impl<O: Objective> Objective for Scaled<'_, O> {
    fn value(&self, u: &[f64]) -> Result<f64> {
        self.objective.value(&self.theta(u))
    }

    fn gradient_hessian(&self, u: &[f64]) -> Result<(DVector<f64>, DMatrix<f64>)> {
        let (gradient, hessian) = self.objective.gradient_hessian(&self.theta(u))?;
        Ok((gradient * self.unit, hessian * self.unit.powi(2)))
    }
}

impl<O> Scaled<'_, O> {
    fn theta(&self, u: &[f64]) -> Vec<f64> {
        u.iter().map(|u| u * self.unit).collect()
    }
}

/// The unit of θ in which features of norm up to `bound` have norms near 1, so that the tolerances below mean
/// the same whatever the features are measured in. A power of two, which rounds nothing.
pub(super) fn unit_of(bound: f64) -> f64 {
    match bound {
        0.0 => 1.0,
        bound => 2f64.powi(-bound.log2().round() as i32),
    }
}

/// A KKT point.
pub(super) struct Solution {
    pub theta: Vec<f64>,
    /// Of ‖θ−θ_MLE‖²_M − ϱ² and ‖θ‖² − B².
    pub multipliers: (f64, f64),
    pub active: (bool, bool),
    pub iterations: usize,
}

/// Newton steps at most.
const MAX_STEPS: usize = 500;
/// Factor between barrier weights.
const SHRINK: f64 = 0.05;
/// The smallest barrier weight, relative to the scale of the objective.
const LAST_WEIGHT: f64 = 1e-11;
/// KKT residual, relative to 1 + ‖∇F‖, that counts as solved.
const RESIDUAL: f64 = 1e-12;

/// One constraint c(θ) = (θ−o)ᵀQ(θ−o)/r² − 1 ≤ 0.
struct Constraint {
    quadratic: DMatrix<f64>,
    origin: DVector<f64>,
    square: f64,
}

impl Constraint {
    fn value(&self, theta: &DVector<f64>) -> f64 {
        let delta = theta - &self.origin;
        delta.dot(&(&self.quadratic * &delta)) - 1.0
    }

    fn gradient(&self, theta: &DVector<f64>) -> DVector<f64> {
        &self.quadratic * (theta - &self.origin) * 2.0
    }
}

/// The two constraints on u = θ/unit.
fn constraints(set: &ConfidenceSet<'_>, unit: f64) -> Vec<Constraint> {
    let d = set.center.len();
    let ellipsoid = set.radius * set.radius;
    let ball = set.param_bound * set.param_bound;
    let mut out = vec![Constraint {
        quadratic: set.metric.matrix() / ellipsoid * unit.powi(2),
        origin: DVector::from_column_slice(set.center) / unit,
        square: ellipsoid,
    }];
    if set.param_bound.is_finite() {
        out.push(Constraint {
            quadratic: DMatrix::identity(d, d) / ball * unit.powi(2),
            origin: DVector::zeros(d),
            square: ball,
        });
    }
    out
}

/// A strictly feasible start: the centre, pulled off the sphere when it lies on it.
fn interior_start(set: &ConfidenceSet<'_>) -> DVector<f64> {
    let center = DVector::from_column_slice(set.center);
    let norm = center.norm();
    let slack = set.param_bound - norm;
    if !set.param_bound.is_finite() || slack > 0.05 * set.param_bound {
        return center;
    }
    // Moving towards 0 by a share t costs t‖θ_MLE‖_M of the ellipsoid's radius.
    let reach = set.metric.norm(set.center).max(f64::MIN_POSITIVE);
    let share = (0.5 * set.radius / reach).min(0.1);
    let on_sphere = center * (set.param_bound / norm).min(1.0);
    on_sphere * (1.0 - share)
}

struct State<'a, O> {
    objective: &'a O,
    constraints: Vec<Constraint>,
    theta: DVector<f64>,
    lambda: Vec<f64>,
    iterations: usize,
}

/// argmin of the objective over Θ, with numbers measured in `unit` ([`unit_of`]).
pub(super) fn minimise(
    objective: &impl Objective,
    set: &ConfidenceSet<'_>,
    unit: f64,
) -> Result<Solution> {
    if set.radius == 0.0 {
        return Ok(Solution {
            theta: set.center.to_vec(),
            multipliers: (0.0, 0.0),
            active: (true, false),
            iterations: 0,
        });
    }
    let objective = &Scaled { objective, unit };
    let theta = interior_start(set) / unit;
    let constraints = constraints(set, unit);
    let (grad, _) = objective.gradient_hessian(theta.as_slice())?;
    let scale = grad.norm().max(1e-8);
    let mut state = State {
        objective,
        lambda: vec![0.0; constraints.len()],
        constraints,
        theta,
        iterations: 0,
    };
    let mut weight = 0.1 * scale;
    let active = loop {
        state.centre(weight)?;
        let (active, residual, taken) = state.polish(weight)?;
        // A point that was taken over lies on the constraints, where the barrier is infinite.
        if taken || residual <= RESIDUAL * (1.0 + scale) || weight <= LAST_WEIGHT * scale {
            break active;
        }
        weight *= SHRINK;
    };
    let multiplier = |i: usize| match state.constraints.get(i) {
        Some(c) if active[i] => state.lambda[i] / c.square,
        _ => 0.0,
    };
    Ok(Solution {
        multipliers: (multiplier(0), multiplier(1)),
        active: (active[0], active.get(1).copied().unwrap_or(false)),
        iterations: state.iterations,
        theta: objective.theta(state.theta.as_slice()),
    })
}

impl<O: Objective> State<'_, O> {
    fn values(&self, theta: &DVector<f64>) -> Vec<f64> {
        self.constraints.iter().map(|c| c.value(theta)).collect()
    }

    /// ∇F + Σ λ∇c.
    fn dual_residual(
        &self,
        theta: &DVector<f64>,
        lambda: &[f64],
        grad: &DVector<f64>,
    ) -> DVector<f64> {
        let terms = self.constraints.iter().zip(lambda);
        terms.fold(grad.clone(), |sum, (c, l)| sum + c.gradient(theta) * *l)
    }

    /// F − w Σ log(−c) at a strictly feasible point, `None` outside.
    fn barrier(&self, theta: &DVector<f64>, weight: f64) -> Result<Option<f64>> {
        let c = self.values(theta);
        if c.iter().any(|c| c.is_nan() || *c >= 0.0) {
            return Ok(None);
        }
        let logs: f64 = c.iter().map(|c| (-c).ln()).sum();
        Ok(Some(
            self.objective.value(theta.as_slice())? - weight * logs,
        ))
    }

    /// Damped Newton on the barrier function; leaves λ_i = w/(−c_i).
    fn centre(&mut self, weight: f64) -> Result<()> {
        let mut current =
            self.barrier(&self.theta, weight)?
                .ok_or_else(|| Error::NotConverged {
                    what: "strictly feasible point for (B.1)".into(),
                    iterations: self.iterations,
                    residual: f64::NAN,
                })?;
        loop {
            let (grad, hess) = self.objective.gradient_hessian(self.theta.as_slice())?;
            let c = self.values(&self.theta);
            let (mut matrix, mut slope) = (hess, grad);
            for (con, c) in self.constraints.iter().zip(&c) {
                let g = con.gradient(&self.theta);
                matrix += &con.quadratic * (2.0 * weight / -c);
                matrix.ger(weight / (c * c), &g, &g, 1.0);
                slope += &g * (weight / -c);
            }
            self.lambda = c.iter().map(|c| weight / -c).collect();
            let step = solve_damped(matrix, &-&slope).ok_or_else(|| self.stuck(slope.norm()))?;
            let decrement = -slope.dot(&step);
            // Close enough to the path: an error of this size in F is far below the barrier's own.
            if decrement <= 1e-3 * weight {
                return Ok(());
            }
            self.iterations += 1;
            if self.iterations > MAX_STEPS {
                return Err(self.stuck(slope.norm()));
            }
            let Some((theta, value)) = self.descend(&step, decrement, current, weight)? else {
                return Ok(());
            };
            (self.theta, current) = (theta, value);
        }
    }

    /// Backtracking along a Newton step; `None` when no step decreases the value in floating point.
    fn descend(
        &self,
        step: &DVector<f64>,
        decrement: f64,
        current: f64,
        weight: f64,
    ) -> Result<Option<(DVector<f64>, f64)>> {
        let mut t = 1.0;
        for _ in 0..60 {
            let theta = &self.theta + step * t;
            if let Some(value) = self.barrier(&theta, weight)?
                && value <= current - 0.1 * t * decrement
                && value < current
            {
                return Ok(Some((theta, value)));
            }
            t *= 0.5;
        }
        Ok(None)
    }

    fn stuck(&self, residual: f64) -> Error {
        Error::NotConverged {
            what: "barrier method for (B.1)".into(),
            iterations: self.iterations,
            residual,
        }
    }

    /// Newton on the KKT equations of the constraints whose multiplier exceeds their slack, from the
    /// point on the path. Taken over when it ends feasible, with non-negative multipliers and a small
    /// residual; returns the active set, the KKT residual reached, and whether it was taken over.
    fn polish(&mut self, weight: f64) -> Result<(Vec<bool>, f64, bool)> {
        let c = self.values(&self.theta);
        let active: Vec<bool> = c.iter().zip(&self.lambda).map(|(c, l)| *l > -c).collect();
        let which: Vec<usize> = (0..active.len()).filter(|&i| active[i]).collect();
        let start: Vec<f64> = (0..active.len())
            .map(|i| if active[i] { self.lambda[i] } else { 0.0 })
            .collect();
        let (mut theta, mut lambda) = (self.theta.clone(), start);
        let mut best: Option<(f64, DVector<f64>, Vec<f64>)> = None;
        for _ in 0..10 {
            let (grad, hess) = self.objective.gradient_hessian(theta.as_slice())?;
            let dual = self.dual_residual(&theta, &lambda, &grad);
            let c = self.values(&theta);
            let slack: f64 = which.iter().map(|&i| c[i].abs()).sum();
            let residual = dual.norm() + slack;
            let broken = (0..c.len()).any(|i| c[i] > 1e-13 && !active[i]);
            let worse = best.as_ref().is_some_and(|(b, _, _)| residual >= *b);
            if broken || worse || lambda.iter().any(|l| *l < 0.0) {
                break;
            }
            best = Some((residual, theta.clone(), lambda.clone()));
            let Some((step, change)) = self.kkt_step(&theta, &lambda, hess, &dual, &c, &which)
            else {
                break;
            };
            theta += step;
            for (&i, change) in which.iter().zip(&change) {
                lambda[i] += change;
            }
            self.iterations += 1;
        }
        let (residual, theta, lambda) = match best {
            Some(best) => best,
            None => return Ok((active, f64::INFINITY, false)),
        };
        // Far from the solution the path stays the better point; at its end, take what is best.
        let scale = 1.0 + self.objective.gradient_hessian(theta.as_slice())?.0.norm();
        let taken = residual <= RESIDUAL * scale || weight <= 1e-10 * scale;
        if taken {
            (self.theta, self.lambda) = (theta, lambda);
        }
        Ok((active, residual, taken))
    }

    fn kkt_step(
        &self,
        theta: &DVector<f64>,
        lambda: &[f64],
        hess: DMatrix<f64>,
        dual: &DVector<f64>,
        c: &[f64],
        which: &[usize],
    ) -> Option<(DVector<f64>, Vec<f64>)> {
        let (d, k) = (theta.len(), which.len());
        let mut matrix = DMatrix::zeros(d + k, d + k);
        let mut right = DVector::zeros(d + k);
        let mut top = hess;
        for (con, l) in self.constraints.iter().zip(lambda) {
            top += &con.quadratic * (2.0 * l);
        }
        let damping = 1e-13 * (top.trace() / d as f64).abs();
        for i in 0..d {
            top[(i, i)] += damping;
        }
        matrix.view_mut((0, 0), (d, d)).copy_from(&top);
        right.rows_mut(0, d).copy_from(&-dual);
        for (j, &i) in which.iter().enumerate() {
            let g = self.constraints[i].gradient(theta);
            matrix.view_mut((0, d + j), (d, 1)).copy_from(&g);
            matrix
                .view_mut((d + j, 0), (1, d))
                .copy_from(&g.transpose());
            right[d + j] = -c[i];
            // Where both constraints have one gradient, this shares the multiplier between them.
            matrix[(d + j, d + j)] =
                -1e-10 * g.norm_squared() / (top.trace() / d as f64).abs().max(1e-300);
        }
        let solved = matrix.lu().solve(&right)?;
        if solved.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let change = (0..k).map(|j| solved[d + j]).collect();
        Some((solved.rows(0, d).into_owned(), change))
    }
}

fn solve_damped(mut matrix: DMatrix<f64>, right: &DVector<f64>) -> Option<DVector<f64>> {
    let d = right.len();
    let mut damping = 1e-14 * (matrix.trace() / d as f64).abs().max(f64::MIN_POSITIVE);
    for _ in 0..12 {
        for i in 0..d {
            matrix[(i, i)] += damping;
        }
        if let Some(chol) = matrix.clone().cholesky() {
            return Some(chol.solve(right));
        }
        damping *= 100.0;
    }
    None
}
