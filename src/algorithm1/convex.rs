//! A smooth convex function over ellipsoid ∩ ball: a primal–dual barrier path in the coordinates of [`Frame`], along
//! which β falls to the one wanted too, and Newton's method on the KKT equations of the active constraints at its end.

use nalgebra::{DMatrix, DVector};

use super::ConfidenceSet;
use super::active::active;
use super::frame::Frame;
use crate::{Error, Result};

/// A convex function of θ that is smooth on the scale of β, its derivatives in the coordinates v of the [`Frame`].
pub(super) trait Objective {
    /// Mean and covariance of the features under the reference policy: how large gradients are before they cancel.
    fn features(&self) -> Result<(DVector<f64>, DMatrix<f64>)>;
    /// The β wanted.
    fn beta(&self) -> f64;
    /// How large the terms are that add up to the objective at θ.
    fn size(&self, theta: &DVector<f64>) -> Result<f64>;
    fn gradient(&self, theta: &DVector<f64>, beta: f64) -> Result<DVector<f64>>;
    fn hessian(&self, theta: &DVector<f64>, beta: f64) -> Result<DMatrix<f64>>;
}

/// A KKT point.
pub(super) struct Solution {
    pub theta: Vec<f64>,
    /// Of ‖θ−θ_MLE‖²_M − ϱ² and ‖θ‖² − B², where they are determined.
    pub multipliers: (Option<f64>, Option<f64>),
    /// As [`active()`] says.
    pub active: (Option<bool>, Option<bool>),
    /// An upper bound on gᵀθ − min_Θ gᵀ·, g the gradient there.
    pub gap: f64,
    pub iterations: usize,
}

/// Newton steps at most.
const MAX_STEPS: usize = 1000;
/// The last barrier weight, relative to the scale of the objective: how much it may change within Θ. Features in large units
/// make that far more than the objective itself is where it is least; the weight then falls further, at most this many times.
const LAST_WEIGHT: f64 = 1e-13;
const MORE_WEIGHTS: usize = 8;
/// A gap, relative to the size of the objective's terms at the solution, at which the weight falls no further.
const SOLVED: f64 = 1e-11;
/// Rounding of a gradient, relative to the scale of the objective.
const ROUNDING: f64 = 4e-16;
/// How far β falls from one barrier weight to the next; the second for an objective on which the first fails.
const SHARPEN: [f64; 2] = [0.25, 0.6];
/// A squared Newton decrement that rounding explains.
const STALLED: f64 = 1e-12;
/// A gap, relative to the scale of the objective, that rounding explains.
const ROUNDED: f64 = 1e-8;

/// What is added to the diagonal of the last Newton equations, as shares of its mean and of each entry: little; more, for an
/// objective that is flat in some direction; and next to nothing where entries are of different orders, as in a set that
/// features of different units leave long in some directions.
const DAMPINGS: [[f64; 2]; 3] = [[1e-14, 0.0], [1e-9, 0.0], [1e-26, 1e-14]];
/// A gap, relative to the scale of the objective, at which no other set of active constraints is tried.
const POLISHED: f64 = 1e-13;
/// How far outside a constraint a point may be and still be moved inside.
const NEARLY_FEASIBLE: f64 = 1e-9;

struct State<'a, O> {
    objective: &'a O,
    frame: Frame,
    /// What the objective is divided by.
    scale: f64,
    v: DVector<f64>,
    /// Multipliers of the constraints.
    m: Vec<f64>,
    iterations: usize,
}

/// A point, in both coordinates, with its multipliers and gap.
struct Candidate {
    theta: DVector<f64>,
    v: DVector<f64>,
    m: Vec<f64>,
    gap: f64,
}

/// argmin of the objective over Θ.
pub(super) fn minimise(
    objective: &impl Objective,
    frame: Frame,
    set: &ConfidenceSet<'_>,
) -> Result<Solution> {
    let alone = |multipliers, active| Solution {
        theta: set.center.to_vec(),
        multipliers,
        active,
        gap: 0.0,
        iterations: 0,
    };
    if set.radius == 0.0 {
        // A set of one point has no multiplier of its ellipsoid.
        return Ok(alone((None, Some(0.0)), (Some(true), Some(false))));
    }
    let v = frame.interior();
    let beta = objective.beta();
    let theta = frame.theta(&v);
    let slope = objective.gradient(&theta, beta)?.norm();
    let spread = variance(objective, &theta, beta)?;
    // How much the gradient is, or may become within Θ; not so little that it is all rounding.
    let (mean, covariance) = objective.features()?;
    let size = covariance.trace().sqrt() + mean.norm();
    let scale = slope
        .max((spread / beta).min(spread.sqrt()))
        .max(1e-3 * size);
    if scale == 0.0 {
        return Ok(alone((Some(0.0), Some(0.0)), (Some(false), Some(false))));
    }
    let constraints = frame.constraints(&v);
    let multipliers: Vec<f64> = constraints.iter().map(|c| 0.1 / -c).collect();
    let mut state = State {
        objective,
        frame,
        scale,
        m: multipliers.clone(),
        v: v.clone(),
        iterations: 0,
    };
    let best = match state.follow(beta, SHARPEN[0]) {
        Ok(best) => best,
        Err(_) => {
            (state.v, state.m, state.iterations) = (v, multipliers, 0);
            state.follow(beta, SHARPEN[1])?
        }
    };
    let gradient = state.gradient(&best.v, beta)?;
    let found: Vec<f64> = best.m.iter().map(|m| m * scale).collect();
    // A change of the value that is below its rounding is none either.
    let noise = (f64::EPSILON * objective.size(&best.theta)?)
        .max(ROUNDING * scale)
        .max(best.gap);
    let active = active(&state.frame, &best.v, &gradient, &found, noise);
    let multipliers = state.frame.multipliers(set, &found);
    let used = |i: usize, m: f64| match active.get(i).copied().unwrap_or(Some(false)) {
        Some(true) => Some(m),
        Some(false) => Some(0.0),
        None => None,
    };
    Ok(Solution {
        multipliers: (used(0, multipliers.0), used(1, multipliers.1)),
        active: (active[0], active.get(1).copied().unwrap_or(Some(false))),
        gap: best.gap,
        iterations: state.iterations,
        theta: best.theta.as_slice().to_vec(),
    })
}

/// β times the trace of the Hessian in v.
fn variance(objective: &impl Objective, theta: &DVector<f64>, beta: f64) -> Result<f64> {
    // At a β so small that the quotient is infinite, take it at one that is not.
    let safe = beta.max(1e-150);
    Ok(objective.hessian(theta, safe)?.trace() * safe)
}

impl<O: Objective> State<'_, O> {
    /// From a wide barrier and a smooth objective to the ones wanted.
    fn follow(&mut self, beta: f64, sharpen: f64) -> Result<Candidate> {
        let mut smooth = (0.3 * self.scale).max(beta);
        let mut weight = 0.1;
        loop {
            self.centre(weight, smooth)?;
            if smooth == beta && weight <= LAST_WEIGHT {
                break;
            }
            smooth = (sharpen * smooth).max(beta);
            // β leads where it falls, and the barrier follows quickly where it does not.
            let next = if smooth > beta {
                0.8 * sharpen * weight
            } else {
                (0.1 * weight).min(weight.powf(1.5))
            };
            weight = next.max(LAST_WEIGHT);
        }
        let gradient = self.gradient(&self.v, beta)?;
        let mut best = Candidate {
            gap: self.gap(&self.v, &self.m, &gradient),
            theta: self.frame.theta(&self.v),
            v: self.v.clone(),
            m: self.m.clone(),
        };
        self.finish(beta, &mut best)?;
        for _ in 0..MORE_WEIGHTS {
            let size = self.objective.size(&best.theta)?;
            if best.gap <= (SOLVED * size).max(ROUNDING * self.scale) {
                break;
            }
            weight *= 0.01;
            if self.centre(weight, beta).is_err() {
                break;
            }
            self.finish(beta, &mut best)?;
        }
        if best.gap <= ROUNDED * self.scale {
            Ok(best)
        } else {
            Err(self.stuck(beta, best.gap / self.scale))
        }
    }

    /// Newton's method on the KKT equations from the end of the path, for the active constraints that it shows first.
    fn finish(&mut self, beta: f64, best: &mut Candidate) -> Result<()> {
        let c = self.frame.constraints(&self.v);
        let mut sets = vec![
            (0..c.len())
                .filter(|&i| self.m[i] > -c[i])
                .collect::<Vec<_>>(),
        ];
        // Where a multiplier and its slack are about the same, the barrier cannot tell which constraints are active.
        for other in [vec![0], vec![1], vec![0, 1], vec![]] {
            if other.iter().all(|i| *i < c.len()) && !sets.contains(&other) {
                sets.push(other);
            }
        }
        for which in sets {
            for damping in DAMPINGS {
                self.polish(beta, damping, &which, best)?;
            }
            if best.gap <= POLISHED * self.scale {
                break;
            }
        }
        Ok(())
    }

    fn gradient(&self, v: &DVector<f64>, beta: f64) -> Result<DVector<f64>> {
        self.objective.gradient(&self.frame.theta(v), beta)
    }

    fn hessian(&self, v: &DVector<f64>, beta: f64) -> Result<DMatrix<f64>> {
        self.objective.hessian(&self.frame.theta(v), beta)
    }

    /// gᵀv − min_Θ gᵀ·, from above.
    fn gap(&self, v: &DVector<f64>, m: &[f64], gradient: &DVector<f64>) -> f64 {
        let m: Vec<f64> = m.iter().map(|m| m * self.scale).collect();
        gradient.dot(v) - self.frame.linear_lower_bound(gradient, &m)
    }

    /// Primal–dual Newton steps towards the minimiser of F/scale − w Σ log(−c_i).
    fn centre(&mut self, weight: f64, beta: f64) -> Result<()> {
        let mut gradient = self.gradient(&self.v, beta)? / self.scale;
        let (mut smallest, mut stalled) = (f64::INFINITY, 0);
        loop {
            let c = self.frame.constraints(&self.v);
            let mut matrix = self.hessian(&self.v, beta)? / self.scale;
            let mut slope = gradient.clone();
            for (i, c) in c.iter().enumerate() {
                let normal = self.frame.normal(i, &self.v);
                let bend = self.frame.bend(i) * self.m[i];
                for j in 0..bend.len() {
                    matrix[(j, j)] += bend[j];
                }
                matrix.ger(self.m[i] / -c, &normal, &normal, 1.0);
                slope.axpy(weight / -c, &normal, 1.0);
            }
            let step =
                solve_damped(matrix, &-&slope).ok_or_else(|| self.stuck(beta, slope.norm()))?;
            let decrement = -slope.dot(&step);
            self.dual_step(&c, &step, weight);
            // Close enough to the path: an error of this size in F is far below the barrier's own.
            if decrement <= 1e-3 * weight {
                return Ok(());
            }
            // Rounding keeps it from falling further.
            stalled = if decrement < 0.5 * smallest {
                0
            } else {
                stalled + 1
            };
            smallest = smallest.min(decrement);
            if stalled > 4 && smallest <= STALLED {
                return Ok(());
            }
            self.iterations += 1;
            if self.iterations > MAX_STEPS {
                return Err(self.stuck(beta, decrement));
            }
            match self.descend(&step, decrement, weight, beta)? {
                Some((v, g)) => (self.v, gradient) = (v, g),
                None => return Ok(()),
            }
        }
    }

    /// The multipliers' part of a step, held near w/(−c_i).
    fn dual_step(&mut self, c: &[f64], step: &DVector<f64>, weight: f64) {
        for (i, c) in c.iter().enumerate() {
            let slack = -c;
            let target = weight / slack;
            let m = target + self.m[i] / slack * self.frame.normal(i, &self.v).dot(step);
            self.m[i] = m.clamp(1e-2 * target, 1e2 * target);
        }
    }

    /// Backtracks along a step until it keeps a share of every slack and the barrier function does not rise steeply
    /// at its end; `None` when no step does. Judged by slopes, which rounding spoils much later than values.
    fn descend(
        &self,
        step: &DVector<f64>,
        decrement: f64,
        weight: f64,
        beta: f64,
    ) -> Result<Option<(DVector<f64>, DVector<f64>)>> {
        let before = self.frame.constraints(&self.v);
        let mut t = 1.0;
        for _ in 0..60 {
            let v = &self.v + step * t;
            let c = self.frame.constraints(&v);
            let kept = c.iter().zip(&before).all(|(c, b)| *c <= 0.01 * b);
            if kept {
                let gradient = self.gradient(&v, beta)? / self.scale;
                let mut slope = gradient.dot(step);
                for (i, c) in c.iter().enumerate() {
                    slope += weight / -c * self.frame.normal(i, &v).dot(step);
                }
                if slope <= 0.5 * decrement {
                    return Ok(Some((v, gradient)));
                }
            }
            t *= 0.5;
        }
        Ok(None)
    }

    fn stuck(&self, beta: f64, residual: f64) -> Error {
        Error::NotConverged {
            what: format!(
                "(B.1) at beta = {beta:e} (the smaller beta is beside the slope of V*, here {:.0e}, the sharper its kinks)",
                self.scale
            ),
            iterations: self.iterations,
            residual,
        }
    }

    /// Newton on the KKT equations of the constraints in `which`. The point of least gap is kept, moved inside Θ where
    /// rounding leaves it outside. Steps are added to θ itself: far from θ_MLE it is otherwise only as exact as θ_MLE is
    /// large.
    fn polish(
        &mut self,
        beta: f64,
        damping: [f64; 2],
        which: &[usize],
        best: &mut Candidate,
    ) -> Result<()> {
        let (mut v, mut m) = (
            self.v.clone(),
            vec![0.0; self.frame.constraints(&self.v).len()],
        );
        let mut theta = self.frame.theta(&v);
        let middle = self.frame.interior();
        let room = self.frame.constraints(&middle);
        which.iter().for_each(|&i| m[i] = self.m[i]);
        for _ in 0..6 {
            let gradient = self.objective.gradient(&theta, beta)?;
            let hessian = self.objective.hessian(&theta, beta)? / self.scale;
            let c = self.frame.constraints(&v);
            let outside = c.iter().fold(0.0f64, |most, c| most.max(*c));
            let signs = m.iter().all(|m| *m >= 0.0);
            if signs && outside <= 4e-16 * self.frame.dim() as f64 {
                let gap = self.gap(&v, &m, &gradient);
                if gap < best.gap {
                    *best = Candidate {
                        theta: theta.clone(),
                        v: v.clone(),
                        m: m.clone(),
                        gap,
                    };
                }
            } else if signs && outside <= NEARLY_FEASIBLE {
                // Constraints are convex: this share of the way to an inner point is enough.
                let share = |(c, r): (&f64, &f64)| if *c > 0.0 { c / (c - r) } else { 0.0 };
                let share = 2.0 * c.iter().zip(&room).map(share).fold(0.0, f64::max);
                let step = (&middle - &v) * share;
                let (inner, moved) = (&v + &step, &theta + self.frame.displacement(&step));
                let gradient = self.objective.gradient(&moved, beta)?;
                let gap = self.gap(&inner, &m, &gradient);
                let kept = self.frame.constraints(&inner).iter().all(|c| *c <= 0.0);
                if kept && gap < best.gap {
                    *best = Candidate {
                        theta: moved,
                        v: inner,
                        m: m.clone(),
                        gap,
                    };
                }
            }
            let Some((step, change)) =
                self.kkt_step(&v, &m, (gradient / self.scale, hessian), &c, which, damping)
            else {
                break;
            };
            // Θ is not that long: what is left of the equations is rounding.
            if step.norm() > 5.0 {
                break;
            }
            theta += self.frame.displacement(&step);
            v += step;
            for (&i, change) in which.iter().zip(&change) {
                m[i] += change;
            }
            self.iterations += 1;
        }
        Ok(())
    }

    fn kkt_step(
        &self,
        v: &DVector<f64>,
        m: &[f64],
        (mut dual, mut top): (DVector<f64>, DMatrix<f64>),
        c: &[f64],
        which: &[usize],
        damping: [f64; 2],
    ) -> Option<(DVector<f64>, Vec<f64>)> {
        let (d, k) = (v.len(), which.len());
        for (i, m) in m.iter().enumerate() {
            dual.axpy(*m, &self.frame.normal(i, v), 1.0);
            let bend = self.frame.bend(i) * *m;
            (0..d).for_each(|j| top[(j, j)] += bend[j]);
        }
        let size = (top.trace() / d as f64).abs().max(f64::MIN_POSITIVE);
        for i in 0..d {
            top[(i, i)] += damping[0] * size + damping[1] * top[(i, i)].abs();
        }
        let mut matrix = DMatrix::zeros(d + k, d + k);
        let mut right = DVector::zeros(d + k);
        matrix.view_mut((0, 0), (d, d)).copy_from(&top);
        right.rows_mut(0, d).copy_from(&-dual);
        for (j, &i) in which.iter().enumerate() {
            let g = self.frame.normal(i, v);
            matrix.view_mut((0, d + j), (d, 1)).copy_from(&g);
            matrix
                .view_mut((d + j, 0), (1, d))
                .copy_from(&g.transpose());
            right[d + j] = -c[i];
            // Where both constraints have one gradient, this shares the multiplier between them.
            matrix[(d + j, d + j)] = -1e-12 * g.norm_squared() / size;
        }
        // Each unknown in its own unit, so that pivots are compared in none.
        let unit = DVector::from_fn(d + k, |i, _| match i < d {
            true => top[(i, i)].abs(),
            false => (0..d)
                .map(|j| matrix[(j, i)].powi(2) / top[(j, j)].abs())
                .sum(),
        });
        let unit = unit.map(|x: f64| {
            if x > 0.0 && x.is_finite() {
                x.sqrt()
            } else {
                1.0
            }
        });
        for i in 0..d + k {
            for j in 0..d + k {
                matrix[(i, j)] /= unit[i] * unit[j];
            }
        }
        let solved = matrix.lu().solve(&right.component_div(&unit))?;
        let solved = solved.component_div(&unit);
        if solved.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let change = (0..k).map(|j| solved[d + j]).collect();
        Some((solved.rows(0, d).into_owned(), change))
    }
}

/// Cholesky of the matrix with a diagonal of 1, so that no unknown is damped in another's unit, with the least damping that lets
/// it succeed.
fn solve_damped(mut matrix: DMatrix<f64>, right: &DVector<f64>) -> Option<DVector<f64>> {
    let d = right.len();
    if matrix.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let least = f64::EPSILON * f64::EPSILON * matrix.diagonal().amax();
    let unit = matrix.diagonal().map(|x| x.max(least).sqrt());
    let unit = unit.map(|x| if x > 0.0 { x } else { 1.0 });
    for i in 0..d {
        for j in 0..d {
            matrix[(i, j)] /= unit[i] * unit[j];
        }
    }
    let right = right.component_div(&unit);
    let mut damping = 1e-16;
    for _ in 0..12 {
        for i in 0..d {
            matrix[(i, i)] += damping;
        }
        if let Some(chol) = matrix.clone().cholesky() {
            return Some(chol.solve(&right).component_div(&unit));
        }
        damping *= 100.0;
    }
    None
}
