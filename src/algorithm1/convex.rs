//! Primal–dual interior point and an active-set Newton polish for a smooth convex function over
//! ellipsoid ∩ ball.

use nalgebra::{DMatrix, DVector};

use super::ConfidenceSet;
use crate::{Error, Result};

/// A smooth convex function of θ.
pub(super) trait Objective {
    fn gradient(&self, theta: &[f64]) -> Result<DVector<f64>>;
    fn gradient_hessian(&self, theta: &[f64]) -> Result<(DVector<f64>, DMatrix<f64>)>;
}

/// A KKT point.
pub(super) struct Solution {
    pub theta: Vec<f64>,
    /// Of ‖θ−θ_MLE‖²_M − ϱ² and ‖θ‖² − B².
    pub multipliers: (f64, f64),
    pub active: (bool, bool),
    pub iterations: usize,
}

const MAX_STEPS: usize = 200;
/// Complementarity (in units of the objective) at which the interior point hands over.
const GAP: f64 = 1e-12;
/// KKT residual, relative to 1 + ‖∇F‖, that counts as solved.
const RESIDUAL: f64 = 1e-11;

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

fn constraints(set: &ConfidenceSet<'_>) -> Vec<Constraint> {
    let d = set.center.len();
    let ellipsoid = set.radius * set.radius;
    let ball = set.param_bound * set.param_bound;
    let mut out = vec![Constraint {
        quadratic: set.metric.matrix() / ellipsoid,
        origin: DVector::from_column_slice(set.center),
        square: ellipsoid,
    }];
    if set.param_bound.is_finite() {
        out.push(Constraint {
            quadratic: DMatrix::identity(d, d) / ball,
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

/// argmin of the objective over Θ.
pub(super) fn minimise(objective: &impl Objective, set: &ConfidenceSet<'_>) -> Result<Solution> {
    if set.radius == 0.0 {
        return Ok(Solution {
            theta: set.center.to_vec(),
            multipliers: (0.0, 0.0),
            active: (true, false),
            iterations: 0,
        });
    }
    let theta = interior_start(set);
    let constraints = constraints(set);
    let scale = objective.gradient(theta.as_slice())?.norm().max(1e-8);
    let mut state = State {
        objective,
        lambda: constraints
            .iter()
            .map(|c| 0.1 * scale / -c.value(&theta))
            .collect(),
        constraints,
        theta,
        iterations: 0,
    };
    state.interior_point()?;
    let active = state.polish()?;
    let multiplier = |i: usize| match state.constraints.get(i) {
        Some(c) if active[i] => state.lambda[i] / c.square,
        _ => 0.0,
    };
    Ok(Solution {
        multipliers: (multiplier(0), multiplier(1)),
        active: (active[0], active.get(1).copied().unwrap_or(false)),
        iterations: state.iterations,
        theta: state.theta.as_slice().to_vec(),
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

    fn interior_point(&mut self) -> Result<()> {
        loop {
            let (grad, hess) = self.objective.gradient_hessian(self.theta.as_slice())?;
            let c = self.values(&self.theta);
            let gap: f64 = c.iter().zip(&self.lambda).map(|(c, l)| -c * l).sum();
            let residual = self.dual_residual(&self.theta, &self.lambda, &grad).norm();
            let tolerance = RESIDUAL * (1.0 + grad.norm());
            if gap <= GAP * (1.0 + grad.norm()) && residual <= 10.0 * tolerance {
                return Ok(());
            }
            if self.iterations >= MAX_STEPS {
                return Err(Error::NotConverged {
                    what: "interior point for (B.1)".into(),
                    iterations: self.iterations,
                    residual: residual.max(gap),
                });
            }
            self.iterations += 1;
            let target = 0.1 * gap / c.len() as f64;
            let mut matrix = hess;
            let mut right = -&grad;
            for (i, con) in self.constraints.iter().enumerate() {
                let g = con.gradient(&self.theta);
                matrix += &con.quadratic * (2.0 * self.lambda[i]);
                matrix.ger(-self.lambda[i] / c[i], &g, &g, 1.0);
                right += &g * (target / c[i]);
            }
            let step = solve_damped(matrix, &right).ok_or_else(|| Error::NotConverged {
                what: "linear system of the interior point for (B.1)".into(),
                iterations: self.iterations,
                residual,
            })?;
            let dual: Vec<f64> = self
                .constraints
                .iter()
                .enumerate()
                .map(|(i, con)| {
                    let along = con.gradient(&self.theta).dot(&step);
                    -self.lambda[i] - target / c[i] - self.lambda[i] / c[i] * along
                })
                .collect();
            self.advance(&step, &dual, residual, gap, target)?;
        }
    }

    /// Backtracks to feasibility and to a smaller KKT residual.
    fn advance(
        &mut self,
        step: &DVector<f64>,
        dual: &[f64],
        residual: f64,
        gap: f64,
        target: f64,
    ) -> Result<()> {
        let mut t = 1.0f64;
        for (l, d) in self.lambda.iter().zip(dual) {
            if *d < 0.0 {
                t = t.min(-0.99 * l / d);
            }
        }
        let merit = residual.hypot(gap);
        for k in 0..60 {
            let theta = &self.theta + step * t;
            let lambda: Vec<f64> = self
                .lambda
                .iter()
                .zip(dual)
                .map(|(l, d)| l + t * d)
                .collect();
            let c = self.values(&theta);
            if c.iter().all(|c| *c < 0.0) {
                let grad = self.objective.gradient(theta.as_slice())?;
                let dual_res = self.dual_residual(&theta, &lambda, &grad).norm();
                let centring = c
                    .iter()
                    .zip(&lambda)
                    .map(|(c, l)| (-c * l - target).abs())
                    .sum::<f64>();
                if dual_res.hypot(centring) <= (1.0 - 0.01 * t) * merit || k > 40 {
                    (self.theta, self.lambda) = (theta, lambda);
                    return Ok(());
                }
            }
            t *= 0.5;
        }
        Ok(())
    }

    /// Newton on the KKT equations of the constraints whose multiplier exceeds their slack. Kept only
    /// while it lowers the residual.
    fn polish(&mut self) -> Result<Vec<bool>> {
        let c = self.values(&self.theta);
        let active: Vec<bool> = c.iter().zip(&self.lambda).map(|(c, l)| *l > -c).collect();
        let which: Vec<usize> = (0..active.len()).filter(|&i| active[i]).collect();
        let mut lambda: Vec<f64> = (0..active.len())
            .map(|i| if active[i] { self.lambda[i] } else { 0.0 })
            .collect();
        let mut theta = self.theta.clone();
        let mut best = f64::INFINITY;
        for _ in 0..12 {
            let (grad, hess) = self.objective.gradient_hessian(theta.as_slice())?;
            let dual = self.dual_residual(&theta, &lambda, &grad);
            let c = self.values(&theta);
            let slack: f64 = which.iter().map(|&i| c[i].abs()).sum();
            let broken = (0..c.len()).any(|i| c[i] > 1e-13 && !active[i]);
            let residual = dual.norm() + slack;
            if broken || residual >= best || lambda.iter().any(|l| *l < 0.0) {
                break;
            }
            best = residual;
            self.theta = theta.clone();
            self.lambda = lambda.clone();
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
        Ok(active)
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
