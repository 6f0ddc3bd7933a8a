//! θ_MLE of (4.1): maximum likelihood inside the ball ‖θ‖₂ ≤ B.

use nalgebra::{DMatrix, DVector};

use super::covariance::RowSpace;
use super::design::Design;
use super::kernels::{self, Pass, Weights};
use super::newton::{minimise_in_ball, secant_update};
use crate::{Error, Result};

/// How to fit (4.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// B of Assumption 4.1; +∞ drops the constraint.
    pub param_bound: f64,
    /// Stop when the norm of the KKT residual ∇L − μθ is at most this times n.
    pub tolerance: f64,
    /// Readings of the whole data at most.
    pub max_passes: usize,
    /// Adds −(penalty/2)‖θ‖² to L. (4.1) has none; for comparison with regularised logistic regression.
    pub penalty: f64,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            param_bound: f64::INFINITY,
            tolerance: 1e-12,
            max_passes: 2000,
            penalty: 0.0,
        }
    }
}

/// The estimate (4.1).
#[derive(Debug, Clone, PartialEq)]
pub struct BtFit {
    /// θ_MLE, `[d]`. Where several maximise, the one of least norm.
    pub theta: Vec<f64>,
    /// ‖θ_MLE‖₂.
    pub norm: f64,
    /// L(θ_MLE), without the penalty.
    pub log_likelihood: f64,
    /// Whether ‖θ‖ ≤ B is active.
    pub at_bound: bool,
    /// μ ≥ 0 with ∇L(θ_MLE) = μ θ_MLE; 0 inside the ball.
    pub multiplier: f64,
    /// Whether x_iᵀθ > 0 for every pair at the estimate: without the ball there is no finite maximiser.
    /// [`separation`](super::separation()) decides in general, quasi-separation included.
    pub separable: bool,
    /// ‖∇L − μθ‖₂ at the estimate.
    pub residual: f64,
    /// Readings of the whole data.
    pub passes: usize,
}

/// Data of at least this many pairs are fitted from a warm start on a subset.
const SUBSET_FROM: usize = 8192;
/// The subset is 1/SUBSET of the data …
const SUBSET: usize = 16;
/// … and at least this many pairs per parameter.
const PER_PARAMETER: usize = 48;
/// A step should leave at most this share of the residual.
const SLOW: f64 = 0.3;
/// Where n·d² is at most this, or after this many steps without an end, every step is a Newton step.
const CHEAP: usize = 20_000_000;
const PATIENCE: usize = 25;
/// Rows taken together into the subset.
const STRIDE_ROWS: usize = 32;

/// θ_MLE = argmax_{‖θ‖≤B} Σ log σ(x_iᵀθ) of (4.1), with its multiplier.
///
/// BFGS steps from the exact Hessian, each minimising the quadratic model inside the ball, with a Newton
/// step whenever one was slow. Large data: the same on a strided subset first; its Hessian, scaled, then
/// starts the iteration over the whole data, one reading of X per step. Where the maximiser is not unique (rank-deficient X, d > n) the one
/// of least norm is returned. No data: θ = 0.
///
/// # Errors
/// [`Error::Config`] on options; [`Error::Assumption`] when B = ∞, there is no penalty, and the data are
/// separable (no finite maximiser); [`Error::NotConverged`] otherwise.
pub fn fit_bradley_terry(design: &Design, options: &FitOptions) -> Result<BtFit> {
    if options.param_bound.is_nan() || options.param_bound <= 0.0 {
        return Err(Error::config("param_bound", options.param_bound, "> 0"));
    }
    if !(options.tolerance > 0.0 && options.tolerance.is_finite()) {
        return Err(Error::config("tolerance", options.tolerance, "> 0"));
    }
    if !(options.penalty >= 0.0 && options.penalty.is_finite()) {
        return Err(Error::config("penalty", options.penalty, ">= 0"));
    }
    let start = DVector::zeros(design.dim());
    let mut solver = Solver::new(design.rows(), design.dim(), options);
    let fit = solver.run(start)?;
    finish(design, options, &solver, fit)
}

/// What [`Solver::run`] ends with.
struct Point {
    theta: DVector<f64>,
    pass: Pass,
    gradient: DVector<f64>,
    multiplier: f64,
    residual: f64,
}

struct Solver<'a> {
    rows: &'a [f64],
    d: usize,
    n: usize,
    options: &'a FitOptions,
    passes: usize,
    hessian: DMatrix<f64>,
}

impl<'a> Solver<'a> {
    fn new(rows: &'a [f64], d: usize, options: &'a FitOptions) -> Self {
        Self {
            rows,
            d,
            n: rows.len() / d,
            options,
            passes: 0,
            hessian: DMatrix::zeros(d, d),
        }
    }

    fn evaluate(&mut self, theta: DVector<f64>, multiplier: f64) -> Point {
        self.passes += 1;
        let pass = kernels::pass(self.rows, self.d, theta.as_slice());
        let gradient = DVector::from_column_slice(&pass.gradient) + &theta * self.options.penalty;
        let (multiplier, residual) = self.kkt(&theta, &gradient, multiplier);
        Point {
            theta,
            pass,
            gradient,
            multiplier,
            residual,
        }
    }

    /// μ and ‖∇f + μθ‖, f = −L.
    fn kkt(&self, theta: &DVector<f64>, gradient: &DVector<f64>, hint: f64) -> (f64, f64) {
        let square = theta.norm_squared();
        let bound = self.options.param_bound;
        if hint > 0.0 || square.sqrt() >= bound * (1.0 - 1e-14) && square > 0.0 {
            let multiplier = (-gradient.dot(theta) / square).max(0.0);
            return (multiplier, (gradient + theta * multiplier).norm());
        }
        (0.0, gradient.norm())
    }

    fn objective(&self, point: &Point) -> f64 {
        point.pass.loss + 0.5 * self.options.penalty * point.theta.norm_squared()
    }

    fn exact_hessian(&self, theta: &DVector<f64>) -> DMatrix<f64> {
        let flat = kernels::gram(self.rows, self.d, Weights::Slope(theta.as_slice()));
        let mut hessian = DMatrix::from_vec(self.d, self.d, flat);
        for i in 0..self.d {
            hessian[(i, i)] += self.options.penalty;
        }
        hessian
    }

    fn run(&mut self, start: DVector<f64>) -> Result<Point> {
        let subset = (self.n / SUBSET).max(PER_PARAMETER * self.d);
        if self.n >= SUBSET_FROM && 2 * subset <= self.n {
            let start = self.warm_start(subset, start)?;
            self.iterate(start, false)
        } else {
            self.iterate(start, true)
        }
    }

    /// Fits a strided subset and takes over its scaled Hessian.
    fn warm_start(&mut self, subset: usize, start: DVector<f64>) -> Result<DVector<f64>> {
        let chunk = STRIDE_ROWS * self.d;
        let step = (self.n / subset).max(1);
        let picked: Vec<f64> = self
            .rows
            .chunks(chunk)
            .step_by(step)
            .flatten()
            .copied()
            .collect();
        let share = (picked.len() / self.d) as f64 / self.n as f64;
        let options = FitOptions {
            tolerance: 1e-6,
            penalty: self.options.penalty * share,
            ..*self.options
        };
        let mut inner = Solver::new(&picked, self.d, &options);
        // A subset may be separable where the data are not: any point it reached is a start.
        let theta = match inner.run(start.clone()) {
            Ok(point) => point.theta,
            Err(_) => start,
        };
        self.hessian = inner.exact_hessian(&theta) / share;
        Ok(theta)
    }

    /// BFGS steps inside the ball from the Hessian at hand, or from the exact one at the start (`fresh`).
    /// A step that does not shrink the residual enough is followed by a Newton step.
    fn iterate(&mut self, start: DVector<f64>, fresh: bool) -> Result<Point> {
        let mut point = self.evaluate(start, 0.0);
        let target = self.options.tolerance * self.n as f64;
        // What rounding leaves of a gradient that is a sum of n terms.
        let floor =
            1e-15 * (self.n as f64).sqrt() * point.gradient.norm().max(self.n as f64 * 1e-3);
        let cheap = fresh && self.n * self.d * self.d <= CHEAP;
        let (mut stale, mut steps, mut shift) = (fresh, 0, 0.0);
        while point.residual > target {
            self.refuse_separable(&point)?;
            if self.passes >= self.options.max_passes {
                return Err(self.not_converged(&point));
            }
            if stale {
                self.hessian = self.exact_hessian(&point.theta);
            }
            let model = self.shifted(shift);
            let bound = self.options.param_bound;
            let (to, multiplier) = minimise_in_ball(&model, &point.gradient, &point.theta, bound)?;
            let Some(next) = self.line_search(&point, &to, multiplier) else {
                if point.residual <= floor.max(target) {
                    break;
                }
                if stale && shift > 1.0 {
                    return Err(self.not_converged(&point));
                }
                // Rounding spoiled the step: a Newton step next, then shorter and better conditioned ones.
                shift = if stale {
                    (shift * 100.0).max(1e-12)
                } else {
                    0.0
                };
                stale = true;
                continue;
            };
            shift *= 0.01;
            steps += 1;
            stale = cheap || steps > PATIENCE || next.residual > SLOW * point.residual;
            let step = &next.theta - &point.theta;
            secant_update(
                &mut self.hessian,
                &step,
                &(&next.gradient - &point.gradient),
            );
            point = next;
        }
        Ok(point)
    }

    /// H + shift·max(diag H)·I.
    fn shifted(&self, shift: f64) -> DMatrix<f64> {
        let mut out = self.hessian.clone();
        let extra = shift * self.hessian.diagonal().max();
        (0..self.d).for_each(|i| out[(i, i)] += extra);
        out
    }

    /// The first of θ + t(u − θ), t = 1, ½, …, that decreases −L enough. Any slope still pointing down at
    /// the trial is proof of decrease, as −L is convex; near the optimum, where values no longer differ
    /// in floating point, a smaller residual is.
    fn line_search(&mut self, from: &Point, to: &DVector<f64>, multiplier: f64) -> Option<Point> {
        let direction = to - &from.theta;
        let slope = from.gradient.dot(&direction);
        let value = self.objective(from);
        let mut t = 1.0;
        for _ in 0..40 {
            let theta = &from.theta + &direction * t;
            let trial = self.evaluate(theta, if t == 1.0 { multiplier } else { 0.0 });
            let descends = trial.gradient.dot(&direction) <= 0.0 && slope < 0.0;
            let enough = self.objective(&trial) <= value + 1e-4 * t * slope;
            if descends || enough || trial.residual < 0.5 * from.residual {
                return (trial.theta != from.theta).then_some(trial);
            }
            t *= 0.5;
        }
        None
    }

    fn refuse_separable(&self, point: &Point) -> Result<()> {
        let free = self.options.param_bound.is_infinite() && self.options.penalty == 0.0;
        if free && self.n > 0 && point.pass.min_margin > 0.0 {
            return Err(Error::Assumption {
                assumption: "a finite maximiser of (4.1) without the ball".into(),
                why: format!(
                    "the data are separable: every one of the {} pairs is explained by one direction",
                    self.n
                ),
            });
        }
        Ok(())
    }

    fn not_converged(&self, point: &Point) -> Error {
        Error::NotConverged {
            what: "Bradley-Terry estimate (4.1)".into(),
            iterations: self.passes,
            residual: point.residual,
        }
    }
}

fn finish(
    design: &Design,
    options: &FitOptions,
    solver: &Solver<'_>,
    point: Point,
) -> Result<BtFit> {
    let mut theta = point.theta;
    // The maximiser of least norm: remove what rounding put into the unobserved directions.
    if options.penalty == 0.0 && design.n() > 0 && nearly_singular(&solver.hessian) {
        let space = RowSpace::of(design)?;
        if space.rank() < design.dim() {
            theta = DVector::from_vec(space.project(theta.as_slice()));
        }
    }
    Ok(BtFit {
        norm: theta.norm(),
        log_likelihood: -point.pass.loss,
        at_bound: point.multiplier > 0.0,
        multiplier: point.multiplier,
        separable: design.n() > 0 && point.pass.min_margin > 0.0,
        residual: point.residual,
        passes: solver.passes,
        theta: theta.as_slice().to_vec(),
    })
}

/// A cheap screen before the exact rank is computed.
fn nearly_singular(hessian: &DMatrix<f64>) -> bool {
    let scale: Vec<f64> = hessian
        .diagonal()
        .iter()
        .map(|x| x.max(0.0).sqrt())
        .collect();
    let mut scaled = hessian.clone();
    for i in 0..scaled.nrows() {
        for j in 0..scaled.ncols() {
            scaled[(i, j)] /= (scale[i] * scale[j]).max(f64::MIN_POSITIVE);
        }
    }
    match scaled.cholesky() {
        None => true,
        Some(chol) => chol.l_dirty().diagonal().iter().any(|x| x * x < 1e-8),
    }
}
