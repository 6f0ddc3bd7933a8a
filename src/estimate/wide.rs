//! (4.1) for many parameters and many more pairs, without a matrix of the whole data: L-BFGS steps from the diagonal of the
//! information, one reading of X each.
//!
//! Where features are not strongly correlated, a diagonal in their own units is nearly the Hessian, and a dozen steps do what
//! forming n·d² products would. A strided subset says beforehand whether they are: it is fitted by the same steps, and data on
//! which these do not end quickly are left to the dense method. So are those whose maximiser lies on the ball, that separate, or
//! that do not fix every direction well.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::bradley_terry::FitOptions;
use super::kernels::{self, Pass, Weights};
use super::newton::two_loops;

/// From this many parameters on …
const PARAMETERS: usize = 48;
/// … and this many pairs for each.
const PAIRS: usize = 64;
/// The subset has a share of 1/SUBSET of the pairs, and at least this many for each parameter.
const SUBSET: usize = 16;
const PER_PARAMETER: usize = 8;
/// Pairs per parameter of which the certificate forms the information.
const CERTIFIED: usize = 3;
/// Readings after which the subset, and then the data, are left to the dense method.
const SUBSET_PASSES: usize = 9;
const PASSES: usize = 25;
/// The decrement, relative to that of the data's own uncertainty √d, at which the subset is fitted well enough.
const FITTED: f64 = 0.02;
/// Halvings of a step.
const HALVINGS: usize = 8;
/// Rows taken together into a subset.
const STRIDE_ROWS: usize = 32;
/// Least pivot of the information per pair, in units of the features' mean squares.
const WELL_CONDITIONED: f64 = 1e-5;

/// A maximiser inside the ball.
pub(super) struct Found {
    pub theta: DVector<f64>,
    pub pass: Pass,
    /// ‖∇f‖, f = −L + (penalty/2)‖·‖².
    pub residual: f64,
    /// Readings of the whole data.
    pub passes: usize,
}

/// θ_MLE where these steps find it.
pub(super) fn solve(rows: &[f64], d: usize, options: &FitOptions) -> Option<Found> {
    let n = rows.len() / d;
    let most = (n / SUBSET).max(PER_PARAMETER * d);
    if d < PARAMETERS || n < PAIRS * d || 4 * most > n {
        return None;
    }
    let subset = strided(rows, d, most);
    let share = (subset.len() / d) as f64 / n as f64;
    // σ′(0) = ¼ for every pair.
    let quarter = diagonal(&subset, d, None)?;
    let inner = Descent {
        rows: &subset,
        d,
        penalty: options.penalty * share,
        bound: options.param_bound,
    };
    let enough = FITTED * (d as f64).sqrt();
    let start = inner.run(DVector::zeros(d), &quarter, SUBSET_PASSES, |g| {
        g.component_div(&quarter).dot(g).sqrt() <= enough
    })?;
    let theta = start.theta;
    let scale = diagonal(&subset, d, Some(&theta))? / share;
    let certificate = Certificate::at(&theta, rows, d, options.penalty)?;
    let target = 2.0 * options.tolerance * ((n * d) as f64).sqrt();
    let outer = Descent {
        rows,
        d,
        penalty: options.penalty,
        bound: options.param_bound,
    };
    outer.run(theta, &scale, PASSES.min(options.max_passes), |g| {
        certificate.decrement(g) <= target
    })
}

/// About `rows` of the rows, spread evenly.
fn strided(rows: &[f64], d: usize, count: usize) -> Vec<f64> {
    let step = (rows.len() / d / count).max(1);
    let chunks = rows.chunks(STRIDE_ROWS * d).step_by(step);
    chunks.flatten().copied().collect()
}

/// Σ σ′(x_iᵀθ) x_ik², ¼ Σ x_ik² without θ, `[d]`; none where a feature is 0 throughout.
fn diagonal(rows: &[f64], d: usize, theta: Option<&DVector<f64>>) -> Option<DVector<f64>> {
    let margins = theta.map(|theta| kernels::margins(rows, d, theta.as_slice()));
    let mut out = DVector::<f64>::zeros(d);
    for (i, x) in rows.chunks_exact(d).enumerate() {
        let weight = margins
            .as_ref()
            .map_or(0.25, |z| kernels::sigmoid_slope(z[i]));
        for (o, x) in out.iter_mut().zip(x) {
            *o += weight * x * x;
        }
    }
    out.iter().all(|x| *x > 0.0 && x.is_finite()).then_some(out)
}

/// What says how far a gradient is from 0 in units of the estimate's own uncertainty: the information of a few pairs, in factors,
/// scaled to that of all.
struct Certificate(Cholesky<f64, Dyn>);

impl Certificate {
    /// None where the pairs taken leave a direction nearly open: the information of all is at least theirs, so where theirs is
    /// well conditioned the maximiser is unique.
    fn at(theta: &DVector<f64>, rows: &[f64], d: usize, penalty: f64) -> Option<Self> {
        let few = strided(rows, d, CERTIFIED * d);
        let times = rows.len() as f64 / few.len() as f64;
        let flat = kernels::gram(&few, d, Weights::Slope(theta.as_slice()));
        let squares = diagonal(&few, d, None)? * 4.0;
        let unit = squares.map(f64::sqrt);
        let mut scaled = DMatrix::from_fn(d, d, |i, j| flat[i * d + j] / (unit[i] * unit[j]));
        let pivots = |c: &Cholesky<f64, Dyn>| {
            c.l_dirty()
                .diagonal()
                .iter()
                .all(|x| x * x > WELL_CONDITIONED)
        };
        if !scaled.iter().all(|x| x.is_finite()) {
            return None;
        }
        for i in 0..d {
            scaled[(i, i)] += penalty / (times * squares[i]);
        }
        let factors = Cholesky::new(scaled).filter(pivots)?;
        // (times · U S U)⁻¹ = U⁻¹ S⁻¹ U⁻¹ / times, U = diag(unit).
        let mut l = factors.unpack();
        for (i, mut row) in l.row_iter_mut().enumerate() {
            row *= unit[i] * times.sqrt();
        }
        Some(Self(Cholesky::pack_dirty(l)))
    }

    /// √(gᵀH⁻¹g).
    fn decrement(&self, g: &DVector<f64>) -> f64 {
        let half = self.0.l_dirty().solve_lower_triangular(g);
        half.map_or(f64::INFINITY, |half| half.norm())
    }
}

struct Descent<'a> {
    rows: &'a [f64],
    d: usize,
    penalty: f64,
    bound: f64,
}

impl Descent<'_> {
    fn evaluate(&self, theta: &DVector<f64>) -> (Pass, DVector<f64>) {
        let pass = kernels::pass(self.rows, self.d, theta.as_slice());
        let gradient = DVector::from_column_slice(&pass.gradient) + theta * self.penalty;
        (pass, gradient)
    }

    fn value(&self, pass: &Pass, theta: &DVector<f64>) -> f64 {
        pass.loss + 0.5 * self.penalty * theta.norm_squared()
    }

    /// L-BFGS steps that keep every pair, from the Hessian diag(scale), until the gradient is small.
    fn run(
        &self,
        mut theta: DVector<f64>,
        scale: &DVector<f64>,
        limit: usize,
        small: impl Fn(&DVector<f64>) -> bool,
    ) -> Option<Found> {
        // In the units of the features.
        let size = |g: &DVector<f64>| g.component_div(scale).dot(g).sqrt();
        let mut pairs: Vec<(DVector<f64>, DVector<f64>)> = Vec::new();
        let (mut pass, mut gradient) = self.evaluate(&theta);
        let mut passes = 1;
        loop {
            let finite = pass.loss.is_finite() && gradient.iter().all(|g| g.is_finite());
            let separates = pass.min_margin > 0.0 && self.penalty == 0.0;
            if !finite || separates || theta.norm() > self.bound {
                return None;
            }
            if small(&gradient) {
                return Some(Found {
                    residual: gradient.norm(),
                    theta,
                    pass,
                    passes,
                });
            }
            let direction = -two_loops(&pairs, &gradient, |q| q.component_div(scale));
            let (slope, value) = (gradient.dot(&direction), self.value(&pass, &theta));
            let mut t = 1.0;
            let (next, next_pass, next_gradient) = loop {
                if passes >= limit || t < 0.5f64.powi(HALVINGS as i32) {
                    return None;
                }
                let next = &theta + &direction * t;
                let (trial, rise) = self.evaluate(&next);
                passes += 1;
                // A slope that still points down at the trial proves descent, f being convex.
                let descends = rise.dot(&direction) <= 0.0;
                if descends || self.value(&trial, &next) <= value + 1e-4 * t * slope {
                    break (next, trial, rise);
                }
                // Values no longer differ in floating point near the optimum.
                if size(&rise) < 0.5 * size(&gradient) {
                    break (next, trial, rise);
                }
                t *= 0.5;
            };
            let (s, y) = (&next - &theta, &next_gradient - &gradient);
            if y.dot(&s) > 1e-10 * size(&y) * s.component_mul(scale).dot(&s).sqrt() {
                pairs.push((s, y));
            }
            (theta, pass, gradient) = (next, next_pass, next_gradient);
        }
    }
}
