//! θ_MLE of (4.1) from sparse rows, inside the ball ‖θ‖₂ ≤ B.

use nalgebra::DVector;

use super::minimise::{End, Minimiser, Point};
use super::{SparseDesign, conjugate, passes};
use crate::estimate::bradley_terry::{BtFit, CHEAP, FitOptions, fit_bradley_terry};
use crate::estimate::careful::unbounded;
use crate::estimate::separation::explained;
use crate::features::SparseRows;
use crate::{Error, Result};

/// Where n·d² of the columns that are seen is at most CHEAP, or this many times as much where the steps here do not end, the dense
/// method takes over …
const TIMES_CHEAP: usize = 1000;
/// … unless the dense rows had more numbers than this (1 GB).
const DENSE: usize = 1 << 27;
/// Columns up to which it is searched how far data separate.
const SEARCHED: usize = 2048;
/// Readings before asking whether the data separate.
const PATIENCE: usize = 300;
/// The weights of pairs are lost beside others where all margins are larger.
const PLAIN_MARGIN: f64 = 12.0;
/// Margins of an estimate that are larger may be on their way to infinity.
const FAR_MARGIN: f64 = 1.5 * PLAIN_MARGIN;
/// How far ‖θ‖ may be from the ball's radius, as a share of it, before it is scaled to it.
const ON_SPHERE: f64 = 1e-13;
/// Steps towards the multiplier.
const MULTIPLIERS: usize = 60;
/// Rounds of the projection on the row space, and products in each.
const ROUNDS: usize = 80;
const PRODUCTS: usize = 2000;

/// θ_MLE = argmax_{‖θ‖≤B} Σ log σ(x_iᵀθ) of (4.1) for sparse rows: the same estimate, by the same stopping rule and with the same
/// errors, as [`fit_bradley_terry`] of the dense rows.
///
/// Where n·d² is small, d counting the columns in which some pair differs, that function is called. Otherwise L-BFGS steps read the
/// entries that are not 0 once each, and a solve by conjugate gradients is their certificate, so that memory is of the order of these
/// entries and of 60 vectors of d numbers, however large d is. The ball's multiplier is found by Newton's method on ‖θ(μ)‖ = B, and
/// what the pairs do not determine is projected away by the same solves: the estimate of least norm. A column in which no two responses
/// differ has θ_k = 0.
///
/// A feature that is never on the losing side (a token that occurs in a single pair) separates: without the ball or a penalty such
/// data have no estimate, as in [`fit_bradley_terry`].
///
/// # Errors
/// As [`fit_bradley_terry`]. Beyond what the dense method can take over (n·d² of 2·10¹⁰ or n·d of 1.3·10⁸), [`Error::NotConverged`]
/// where B is so large that the weights of separated pairs leave floating point, or the data nearly separate; with more than 2048
/// columns also where a margin of the estimate is above 18, as it is not searched there whether pairs separate.
pub fn fit_sparse(design: &SparseDesign, options: &FitOptions) -> Result<BtFit> {
    options.check()?;
    let (seen, columns) = seen(design);
    let (n, d) = (seen.n(), columns.len());
    let whole = |mut fit: BtFit| {
        let mut theta = vec![0.0; design.dim()];
        columns
            .iter()
            .zip(&fit.theta)
            .for_each(|(k, t)| theta[*k] = *t);
        fit.theta = theta;
        fit
    };
    if n.saturating_mul(d * d) <= CHEAP {
        return fit_bradley_terry(&seen.to_dense(), options).map(whole);
    }
    match Fit::new(&seen, options).run() {
        Ok(fit) => Ok(whole(fit)),
        Err(Error::Assumption { assumption, why }) => Err(Error::Assumption { assumption, why }),
        Err(_) if n * d <= DENSE && n.saturating_mul(d * d) <= TIMES_CHEAP * CHEAP => {
            fit_bradley_terry(&seen.to_dense(), options).map(whole)
        }
        Err(error) => Err(error),
    }
}

/// The columns in which some pair differs, and which they are; one column at least.
fn seen(design: &SparseDesign) -> (SparseDesign, Vec<usize>) {
    let mut place = vec![u32::MAX; design.dim()];
    for i in 0..design.n() {
        design.rows.row(i).for_each(|(k, _)| place[k as usize] = 0);
    }
    let mut columns: Vec<usize> = (0..design.dim()).filter(|k| place[*k] == 0).collect();
    if columns.len() == design.dim() {
        return (design.clone(), columns);
    }
    if columns.is_empty() {
        columns.push(0);
    }
    for (new, k) in columns.iter().enumerate() {
        place[*k] = new as u32;
    }
    let mut rows = SparseRows::empty(columns.len());
    for i in 0..design.n() {
        rows.push(design.rows.row(i).map(|(k, x)| (place[k as usize], x)));
    }
    let rounding = columns.iter().map(|k| design.rounding[*k]).collect();
    (SparseDesign::from_parts(rows, rounding), columns)
}

pub(super) struct Fit<'a> {
    design: &'a SparseDesign,
    options: &'a FitOptions,
    minimiser: Minimiser<'a>,
    target: f64,
}

impl<'a> Fit<'a> {
    /// Every column has an entry that is not 0.
    pub fn new(design: &'a SparseDesign, options: &'a FitOptions) -> Self {
        let (n, d) = (design.n(), design.dim());
        let asked = 2.0 * options.tolerance * ((n * d) as f64).sqrt();
        Self {
            minimiser: Minimiser::new(&design.rows, options.penalty, options.max_passes),
            // The decrement of a pair that is explained, with margin z, is about exp(−z/2). Without a penalty the steps do not end before
            // such a margin is told from others.
            target: match options.penalty > 0.0 {
                true => asked,
                false => asked.min((-0.5 * (FAR_MARGIN + 2.0)).exp()),
            },
            design,
            options,
        }
    }

    pub fn run(mut self) -> Result<BtFit> {
        let bound = self.options.param_bound;
        let free = bound.is_infinite() && self.options.penalty == 0.0;
        if free {
            self.refuse_one_sided()?;
            self.minimiser.max_passes = self.options.max_passes.min(PATIENCE);
        }
        let origin = self.minimiser.evaluate(DVector::zeros(self.design.dim()));
        let pull = origin.gradient.norm();
        let mut end = self.minimiser.run(origin, self.target, bound);
        if let (true, End::Stuck(at)) = (free, &end) {
            if self.design.dim() <= SEARCHED {
                self.refuse_separated(at)?;
            }
            self.minimiser.max_passes = self.options.max_passes;
            end = self.minimiser.run(at.clone(), self.target, bound);
        }
        match end {
            End::Found(at) => {
                self.refuse_far(&at)?;
                self.inside(at)
            }
            End::Outside(at) => self.on_the_sphere(at, pull),
            End::Separates => Err(unbounded(&vec![true; self.design.n()])),
            End::Stuck(at) => Err(self.not_converged(&at)),
        }
    }

    /// Where some direction explains pairs and contradicts none, nothing keeps θ from growing along it.
    fn refuse_separated(&self, at: &Point) -> Result<()> {
        let strict = explained(self.design, at.theta.as_slice())?;
        match strict.contains(&true) {
            true => Err(unbounded(&strict)),
            false => Ok(()),
        }
    }

    /// Refuses a point so far out that the weights of pairs which separate may be lost beside others: the gradient is small there although
    /// no maximiser is near.
    fn refuse_far(&self, at: &Point) -> Result<()> {
        let furthest = at.margins.iter().copied().fold(0.0, f64::max);
        if self.options.penalty > 0.0 || furthest <= FAR_MARGIN {
            return Ok(());
        }
        match self.design.dim() <= SEARCHED {
            true => self.refuse_separated(at).map_err(|error| {
                // In a ball there is an estimate; the steps here do not reach it.
                match self.options.param_bound.is_infinite() {
                    true => error,
                    false => self.not_converged(at),
                }
            }),
            false => Err(self.not_converged(at)),
        }
    }

    /// A column whose entries have one sign separates by itself.
    fn refuse_one_sided(&self) -> Result<()> {
        let rows = &self.design.rows;
        let (mut wins, mut losses) = (vec![0usize; rows.dim()], vec![0usize; rows.dim()]);
        for i in 0..rows.n() {
            for (k, x) in rows.row(i) {
                let side = if x > 0.0 { &mut wins } else { &mut losses };
                side[k as usize] += 1;
            }
        }
        let one_sided: Vec<usize> = (0..rows.dim())
            .filter(|k| (wins[*k] == 0) != (losses[*k] == 0))
            .collect();
        if one_sided.is_empty() {
            return Ok(());
        }
        // The largest number that one direction explains, where the search takes seconds.
        if rows.n().saturating_mul(rows.dim().pow(2)) <= TIMES_CHEAP * CHEAP {
            let strict = explained(self.design, &vec![0.0; rows.dim()])?;
            if strict.contains(&true) {
                return Err(unbounded(&strict));
            }
        }
        let mut strict = vec![false; rows.n()];
        for (i, strict) in strict.iter_mut().enumerate() {
            *strict = rows
                .row(i)
                .any(|(k, _)| one_sided.binary_search(&(k as usize)).is_ok());
        }
        Err(unbounded(&strict))
    }

    fn inside(&mut self, at: Point) -> Result<BtFit> {
        let theta = if self.minimiser.penalty == 0.0 {
            self.least_norm(&at.theta)?
        } else {
            at.theta.clone()
        };
        let at = match theta == at.theta {
            true => at,
            false => {
                // The projection is exact to rounding of θ, which the gradient may see: a last step from there is too short to matter
                // to the norm.
                let projected = self.minimiser.evaluate(theta);
                match self
                    .minimiser
                    .run(projected.clone(), self.target, f64::INFINITY)
                {
                    End::Found(at) => at,
                    _ => projected,
                }
            }
        };
        let residual = at.gradient.norm();
        Ok(self.report(at, 0.0, residual, false))
    }

    /// θ less its part in the null space of X: (λ(XᵀX + λI)⁻¹)ᵏθ for growing k, which leaves that part alone and takes the rest away.
    fn least_norm(&mut self, theta: &DVector<f64>) -> Result<DVector<f64>> {
        let rows = &self.design.rows;
        let squares = passes::diagonal(rows, None);
        let mut sorted = squares.clone();
        sorted.sort_by(f64::total_cmp);
        // Large enough that rounding of the sums, which a solve divides by it, does not reach θ; what few pairs see takes more rounds.
        let ridge = 1e-3 * sorted[sorted.len() / 2];
        let scale = DVector::from_iterator(squares.len(), squares.iter().map(|s| s + ridge));
        let size = |v: &DVector<f64>| v.component_div(&scale).dot(v).sqrt();
        let (mut null, mut first) = (theta.clone(), 0.0);
        for _ in 0..ROUNDS {
            let image = DVector::from_vec(passes::product(rows, None, null.as_slice()));
            let now = size(&image);
            first = f64::max(first, now);
            if now <= 1e-16 * first {
                break;
            }
            let mut products = 1;
            let solved = conjugate::solve(
                |v| {
                    products += 1;
                    let mut out = DVector::from_vec(passes::product(rows, None, v.as_slice()));
                    out.axpy(ridge, v, 1.0);
                    out
                },
                |r| r.component_div(&scale),
                &image,
                (1e-15 * first / now).min(1e-2),
                PRODUCTS,
            );
            self.minimiser.passes += products;
            if products >= PRODUCTS {
                return Err(Error::NotConverged {
                    what: "projection of the estimate on the row space of the pairs".into(),
                    iterations: products,
                    residual: solved.left,
                });
            }
            null -= &solved.x;
            if solved.x.norm() <= 1e-15 * theta.norm() {
                break;
            }
        }
        // Rounding of a projection that is 0 is no reason to move.
        if null.norm() <= 1e-13 * theta.norm() {
            return Ok(theta.clone());
        }
        Ok(theta - null)
    }

    /// The multiplier μ with ‖θ(μ)‖ = B, θ(μ) = argmin f + (μ/2)‖·‖²: Newton's method on 1/‖θ(μ)‖ between bounds. `at` is outside.
    fn on_the_sphere(&mut self, at: Point, pull: f64) -> Result<BtFit> {
        let bound = self.options.param_bound;
        let base = self.options.penalty;
        let norm = at.theta.norm();
        let mut at = self.minimiser.evaluate(&at.theta * (bound / norm));
        let inward = -at.gradient.dot(&at.theta) / bound.powi(2);
        let mut mu = if inward > 0.0 {
            inward
        } else {
            1e-3 * pull / bound
        };
        let (mut low, mut high) = (0.0f64, f64::INFINITY);
        for _ in 0..MULTIPLIERS {
            self.minimiser.set_penalty(base + mu, &mut at);
            at = match self.minimiser.run(at, 0.25 * self.target, f64::INFINITY) {
                End::Found(at) => at,
                End::Stuck(at) => return Err(self.not_converged(&at)),
                End::Outside(_) | End::Separates => unreachable!("there is a penalty and no bound"),
            };
            let norm = at.theta.norm();
            if (norm - bound).abs() <= ON_SPHERE * bound
                || high.is_finite() && high - low <= 1e-15 * high
            {
                return self.scaled_to_the_sphere(&at, base);
            }
            match norm > bound {
                true => low = mu,
                false => high = mu,
            }
            let theta = at.theta.clone();
            let slope = self.minimiser.solve(&at, &theta, 1e-6).energy;
            let mut next = mu + norm * norm / slope * (norm - bound) / bound;
            // Where μ should be next to nothing the maximiser may be inside after all.
            if next <= low || next >= high {
                next = if high.is_finite() {
                    (low * high).sqrt().max(1e-3 * high)
                } else {
                    10.0 * mu
                };
                if low == 0.0 && high < 1e-12 * pull / bound {
                    self.minimiser.set_penalty(base, &mut at);
                    return match self.minimiser.run(at, self.target, f64::INFINITY) {
                        End::Found(at) if at.theta.norm() <= bound => self.inside(at),
                        End::Found(at) | End::Stuck(at) | End::Outside(at) => {
                            Err(self.not_converged(&at))
                        }
                        End::Separates => Err(unbounded(&vec![true; self.design.n()])),
                    };
                }
            }
            mu = next;
        }
        Err(self.not_converged(&at))
    }

    fn scaled_to_the_sphere(&mut self, at: &Point, base: f64) -> Result<BtFit> {
        let bound = self.options.param_bound;
        self.minimiser.penalty = base;
        let at = self
            .minimiser
            .evaluate(&at.theta * (bound / at.theta.norm()));
        if at.pass.min_margin > PLAIN_MARGIN {
            return Err(self.not_converged(&at));
        }
        let multiplier = (-at.gradient.dot(&at.theta) / at.theta.norm_squared()).max(0.0);
        let residual = (&at.gradient + &at.theta * multiplier).norm();
        Ok(self.report(at, multiplier, residual, true))
    }

    fn report(&self, at: Point, multiplier: f64, residual: f64, at_bound: bool) -> BtFit {
        let theta = at.theta.as_slice();
        let explains = |i: usize| {
            let terms = || self.design.rows.row(i).map(|(k, x)| x * theta[k as usize]);
            terms().sum::<f64>() > 1e-13 * terms().map(f64::abs).sum::<f64>()
        };
        let n = self.design.n();
        BtFit {
            norm: at.theta.norm(),
            log_likelihood: -at.pass.loss,
            at_bound,
            multiplier,
            separable: n > 0 && at.pass.min_margin > 0.0 && (0..n).all(explains),
            residual,
            passes: self.minimiser.passes,
            theta: theta.to_vec(),
        }
    }

    fn not_converged(&self, at: &Point) -> Error {
        Error::NotConverged {
            what: "Bradley-Terry estimate (4.1)".into(),
            iterations: self.minimiser.passes.min(self.options.max_passes),
            residual: at.gradient.norm(),
        }
    }
}
