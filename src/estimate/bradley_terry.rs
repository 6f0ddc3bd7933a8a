//! θ_MLE of (4.1): maximum likelihood inside the ball ‖θ‖₂ ≤ B.

use nalgebra::{DMatrix, DVector};

use super::careful::{self, Careful};
use super::design::Design;
use super::kernels::{self, Pass, Weights};
use super::newton::{Inverse, minimise_in_ball, secant_update};
use super::wide;
use crate::{Error, Result};

/// How to fit (4.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// B of Assumption 4.1; +∞ drops the constraint.
    pub param_bound: f64,
    /// Large data: stop when the Newton decrement √(rᵀH⁻¹r) is at most 2·tolerance·√(nd), where r = ∇L − μθ is the KKT
    /// residual and H = −∇²L + μI: the same in any units of the features. Others are solved to the accuracy of
    /// floating point.
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

impl FitOptions {
    pub(super) fn check(&self) -> Result<()> {
        if self.param_bound.is_nan() || self.param_bound <= 0.0 {
            return Err(Error::config("param_bound", self.param_bound, "> 0"));
        }
        if !(self.tolerance > 0.0 && self.tolerance.is_finite()) {
            return Err(Error::config("tolerance", self.tolerance, "> 0"));
        }
        if !(self.penalty >= 0.0 && self.penalty.is_finite()) {
            return Err(Error::config("penalty", self.penalty, ">= 0"));
        }
        Ok(())
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
    /// μ ≥ 0 with ∇L(θ_MLE) = μ θ_MLE; 0 inside the ball. Separable data in a ball of norm above about 700 units of
    /// the margin leave a μ below the smallest number, which is then 0 too.
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
/// From this many parameters on, factoring a Hessian anew for each step, and forming those of a subset as large as others have,
/// would take longer than reading the data.
const WIDE: usize = 96;
/// Pairs per parameter of the subset that a wide subset starts from.
const PER_WIDE_PARAMETER: usize = 12;
/// Where n·d² is at most this, or after this many steps without an end, every step is a Newton step.
pub(super) const CHEAP: usize = 20_000_000;
const PATIENCE: usize = 25;
/// Rows taken together into the subset.
const STRIDE_ROWS: usize = 32;
/// Least pivot of the information per pair, in units of the features' mean squares, below which a fit by secant
/// steps is not trusted.
const WELL_CONDITIONED: f64 = 1e-7;

/// θ_MLE = argmax_{‖θ‖≤B} Σ log σ(x_iᵀθ) of (4.1), with its multiplier.
///
/// Newton steps inside the ball until a step changes no margin, which is the same in any units of the features; where
/// the data separate, in balls that grow to the one wanted, with the weights of separated pairs in relation to each other
/// so that they do not vanish. Large data: BFGS steps from the scaled Hessian of a strided subset, one reading of X per
/// step, unless the information turns out to be nearly singular; with many parameters that are not strongly correlated, L-BFGS
/// steps from the diagonal of the information (no matrix of the whole data is formed). Where the maximiser is not unique (rank-deficient X,
/// d > n) the one of least norm is returned. No data: θ = 0.
///
/// # Errors
/// [`Error::Config`] on options; [`Error::Assumption`] when B = ∞, there is no penalty, and the data are
/// separable or quasi-separable (no finite maximiser); [`Error::NotConverged`] otherwise.
pub fn fit_bradley_terry(design: &Design, options: &FitOptions) -> Result<BtFit> {
    options.check()?;
    let (n, d) = (design.n(), design.dim());
    let start = DVector::zeros(d);
    let subset = subset_of(n, d);
    if subset.is_none() && n * d * d <= CHEAP {
        let found = careful::solve(design, options, &start)?;
        return Ok(finish(design, found));
    }
    if let Some(found) = wide::solve(design.rows(), d, options) {
        let careful = Careful {
            at_bound: false,
            multiplier: 0.0,
            residual: found.residual,
            passes: found.passes,
            theta: found.theta,
        };
        return Ok(report(design, careful, &found.pass));
    }
    let mut solver = Solver::new(
        InMemory {
            rows: design.rows(),
            d,
        },
        options,
    );
    let from = match solver.run(start) {
        Ok(point) if solver.trusted() => {
            let found = Careful {
                at_bound: point.multiplier > 0.0,
                multiplier: point.multiplier,
                residual: point.residual,
                passes: solver.passes,
                theta: point.theta,
            };
            return Ok(report(design, found, &point.pass));
        }
        Ok(point) => point.theta,
        Err(_) => DVector::zeros(d),
    };
    let mut found = careful::solve(design, options, &from)?;
    found.passes += solver.passes;
    Ok(finish(design, found))
}

fn finish(design: &Design, found: Careful) -> BtFit {
    let pass = kernels::pass(design.rows(), design.dim(), found.theta.as_slice());
    report(design, found, &pass)
}

fn report(design: &Design, found: Careful, pass: &Pass) -> BtFit {
    let theta = found.theta.as_slice();
    let separable = design.n() > 0 && pass.min_margin > 0.0 && explains_all(design, theta);
    BtFit {
        separable,
        norm: found.theta.norm(),
        log_likelihood: -pass.loss,
        at_bound: found.at_bound,
        multiplier: found.multiplier,
        residual: found.residual,
        passes: found.passes,
        theta: found.theta.as_slice().to_vec(),
    }
}

/// Whether every margin is positive beyond rounding of its sum.
fn explains_all(design: &Design, theta: &[f64]) -> bool {
    (0..design.n()).all(|i| {
        let terms = || design.row(i).iter().zip(theta).map(|(x, t)| x * t);
        terms().sum::<f64>() > 1e-13 * terms().map(f64::abs).sum::<f64>()
    })
}

/// How many pairs the subset of a warm start has; `None` where the data are too few for one.
fn subset_of(n: usize, d: usize) -> Option<usize> {
    let subset = (n / SUBSET).max(PER_PARAMETER * d);
    if n >= SUBSET_FROM && 2 * subset <= n {
        return Some(subset);
    }
    let small = PER_WIDE_PARAMETER * d;
    (d >= WIDE && 2 * small <= n).then_some(small)
}

/// What [`Solver::run`] ends with.
pub(super) struct Point {
    pub theta: DVector<f64>,
    pub pass: Pass,
    gradient: DVector<f64>,
    pub multiplier: f64,
    pub residual: f64,
}

/// What the solver reads of the pairs.
pub(super) trait Readings {
    /// n.
    fn n(&self) -> usize;

    /// d.
    fn dim(&self) -> usize;

    /// −L with its gradient and the least margin.
    fn pass(&mut self, theta: &[f64]) -> Result<Pass>;

    /// The observed information, `[d, d]`.
    fn information(&mut self, theta: &[f64]) -> Result<Vec<f64>>;

    /// Mean of x_ik² for each k, `[d]`.
    fn mean_squares(&mut self) -> Result<Vec<f64>>;

    /// The strided subset of a warm start; none where the data are too few for one.
    fn subset(&mut self) -> Result<Option<Vec<f64>>>;
}

/// Rows `[n, d]` in memory.
pub(super) struct InMemory<'a> {
    pub rows: &'a [f64],
    pub d: usize,
}

impl Readings for InMemory<'_> {
    fn n(&self) -> usize {
        self.rows.len() / self.d
    }

    fn dim(&self) -> usize {
        self.d
    }

    fn pass(&mut self, theta: &[f64]) -> Result<Pass> {
        Ok(kernels::pass(self.rows, self.d, theta))
    }

    fn information(&mut self, theta: &[f64]) -> Result<Vec<f64>> {
        Ok(kernels::gram(self.rows, self.d, Weights::Slope(theta)))
    }

    fn mean_squares(&mut self) -> Result<Vec<f64>> {
        Ok(mean_squares(self.rows, self.d))
    }

    fn subset(&mut self) -> Result<Option<Vec<f64>>> {
        let Some(subset) = subset_of(self.n(), self.d) else {
            return Ok(None);
        };
        let step = (self.n() / subset).max(1);
        let mut picked = Vec::with_capacity((subset + 2 * STRIDE_ROWS) * self.d);
        for chunk in self.rows.chunks(STRIDE_ROWS * self.d).step_by(step) {
            picked.extend_from_slice(chunk);
        }
        Ok(Some(picked))
    }
}

pub(super) struct Solver<'a, R> {
    data: R,
    d: usize,
    n: usize,
    options: &'a FitOptions,
    pub passes: usize,
    hessian: DMatrix<f64>,
    /// Its inverse where there are many parameters and the data fix them without the ball.
    inverse: Option<Inverse>,
    /// Mean of x_ik² for each k, over the pairs that the iteration started from, `[d]`.
    squares: Vec<f64>,
}

impl<'a, R: Readings> Solver<'a, R> {
    pub fn new(data: R, options: &'a FitOptions) -> Self {
        let (n, d) = (data.n(), data.dim());
        Self {
            data,
            d,
            n,
            options,
            passes: 0,
            hessian: DMatrix::zeros(d, d),
            inverse: None,
            squares: Vec::new(),
        }
    }

    fn evaluate(&mut self, theta: DVector<f64>, multiplier: f64) -> Result<Point> {
        self.passes += 1;
        let pass = self.data.pass(theta.as_slice())?;
        let gradient = DVector::from_column_slice(&pass.gradient) + &theta * self.options.penalty;
        let (multiplier, residual) = self.kkt(&theta, &gradient, multiplier);
        Ok(Point {
            theta,
            pass,
            gradient,
            multiplier,
            residual,
        })
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

    fn exact_hessian(&mut self, theta: &DVector<f64>) -> Result<DMatrix<f64>> {
        let flat = self.data.information(theta.as_slice())?;
        let mut hessian = DMatrix::from_vec(self.d, self.d, flat);
        for i in 0..self.d {
            hessian[(i, i)] += self.options.penalty;
        }
        Ok(hessian)
    }

    pub fn run(&mut self, start: DVector<f64>) -> Result<Point> {
        if let Some(picked) = self.data.subset()? {
            let start = self.warm_start(picked, start)?;
            self.iterate(start, false)
        } else {
            self.squares = self.data.mean_squares()?;
            self.iterate(start, true)
        }
    }

    /// Fits a subset and takes over its scaled Hessian.
    fn warm_start(&mut self, picked: Vec<f64>, start: DVector<f64>) -> Result<DVector<f64>> {
        let share = (picked.len() / self.d) as f64 / self.n as f64;
        let options = FitOptions {
            tolerance: 1e-6,
            penalty: self.options.penalty * share,
            ..*self.options
        };
        let (rows, d) = (picked.as_slice(), self.d);
        let mut inner = Solver::new(InMemory { rows, d }, &options);
        // A subset may be separable where the data are not: any point it reached is a start.
        let theta = match inner.run(start.clone()) {
            Ok(point) => point.theta,
            Err(_) => start,
        };
        // A wide subset had its Hessian formed near its own maximiser already.
        let hessian = if inner.inverse.is_some() && subset_of(inner.n, self.d).is_some() {
            std::mem::replace(&mut inner.hessian, DMatrix::zeros(0, 0))
        } else {
            inner.exact_hessian(&theta)?
        };
        self.hessian = hessian / share;
        self.squares = mean_squares(&picked, self.d);
        Ok(theta)
    }

    /// BFGS steps inside the ball from the Hessian at hand, or from the exact one at the start (`fresh`).
    /// A step that does not shrink the residual enough is followed by a Newton step.
    fn iterate(&mut self, start: DVector<f64>, fresh: bool) -> Result<Point> {
        let mut point = self.evaluate(start, 0.0)?;
        let target = 2.0 * self.options.tolerance * ((self.n * self.d) as f64).sqrt();
        let cheap = fresh && self.n * self.d * self.d <= CHEAP;
        let (mut stale, mut steps, mut shift) = (fresh, 0, 0.0);
        loop {
            self.refuse_separable(&point)?;
            if stale {
                self.hessian = self.exact_hessian(&point.theta)?;
                self.inverse = None;
            }
            let (to, multiplier) = self.step(&point, shift)?;
            let slope = (&point.gradient + &point.theta * multiplier).dot(&(&to - &point.theta));
            if shift == 0.0 && slope.abs().sqrt() <= target {
                return Ok(point);
            }
            if self.passes >= self.options.max_passes {
                return Err(self.not_converged(&point));
            }
            let Some(next) = self.line_search(&point, &to, multiplier)? else {
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
            let change = &next.gradient - &point.gradient;
            if secant_update(&mut self.hessian, &step, &change)
                && let Some(inverse) = &mut self.inverse
            {
                inverse.update(step, change);
            }
            point = next;
        }
    }

    /// The minimiser of the quadratic model inside the ball, and its multiplier.
    fn step(&mut self, point: &Point, shift: f64) -> Result<(DVector<f64>, f64)> {
        let bound = self.options.param_bound;
        if self.d >= WIDE && shift == 0.0 && point.multiplier == 0.0 {
            let inverse = match self.inverse.take() {
                Some(inverse) => inverse,
                None => Inverse::of(&self.hessian)?,
            };
            let to = &point.theta - inverse.solve(&point.gradient);
            if to.iter().all(|x| x.is_finite()) && to.norm() <= bound {
                self.inverse = Some(inverse);
                return Ok((to, 0.0));
            }
        }
        minimise_in_ball(&self.shifted(shift), &point.gradient, &point.theta, bound)
    }

    /// Whether every direction of the parameters is seen well: the information per pair, in units of the features'
    /// mean squares, has no small pivot. Otherwise the data may nearly separate, or be rank-deficient.
    pub fn trusted(&self) -> bool {
        let scale: Vec<f64> = self
            .squares
            .iter()
            .map(|s| (s * self.n as f64).sqrt())
            .collect();
        let scaled = DMatrix::from_fn(self.d, self.d, |i, j| {
            self.hessian[(i, j)] / (scale[i] * scale[j])
        });
        scaled.iter().all(|x| x.is_finite())
            && scaled.cholesky().is_some_and(|c| {
                let pivots = c.l_dirty().diagonal();
                pivots.iter().all(|x| x * x > WELL_CONDITIONED)
            })
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
    fn line_search(
        &mut self,
        from: &Point,
        to: &DVector<f64>,
        multiplier: f64,
    ) -> Result<Option<Point>> {
        let direction = to - &from.theta;
        let slope = from.gradient.dot(&direction);
        let value = self.objective(from);
        let mut t = 1.0;
        for _ in 0..40 {
            let theta = &from.theta + &direction * t;
            let trial = self.evaluate(theta, if t == 1.0 { multiplier } else { 0.0 })?;
            let descends = trial.gradient.dot(&direction) <= 0.0 && slope < 0.0;
            let enough = self.objective(&trial) <= value + 1e-4 * t * slope;
            if descends || enough || trial.residual < 0.5 * from.residual {
                return Ok((trial.theta != from.theta).then_some(trial));
            }
            t *= 0.5;
        }
        Ok(None)
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

/// Mean of x_ik² for each k, `[d]`.
fn mean_squares(rows: &[f64], d: usize) -> Vec<f64> {
    let mut out = vec![0.0; d];
    for x in rows.chunks_exact(d) {
        out.iter_mut().zip(x).for_each(|(o, x)| *o += x * x);
    }
    let n = (rows.len() / d).max(1) as f64;
    out.iter_mut().for_each(|o| *o /= n);
    out
}
