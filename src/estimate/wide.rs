//! (4.1) for many parameters and many more pairs, without a matrix of the whole data: L-BFGS steps from the diagonal of the
//! information, one reading of X each.
//!
//! Where features are not strongly correlated, a diagonal in their own units is nearly the Hessian, and half a dozen steps do what
//! forming n·d² products would. A small part of the data says beforehand whether they are: data on which these steps do not get on
//! quickly are left to the dense method. So are those whose maximiser lies on the ball, that separate, or that do not fix every
//! direction well.
//!
//! Where there are few pairs for each parameter the steps start from 0, as the maximiser of a part of the data is no nearer; where
//! there are many they start from that.

use nalgebra::DVector;

use super::bradley_terry::FitOptions;
use super::kernels::Pass;
use super::newton::two_loops;
use super::panels::{Triangle, Upper};
use super::sweep::{self, Direction};

/// From this many parameters on …
const PARAMETERS: usize = 48;
/// … and this many pairs for each.
const PAIRS: usize = 64;
/// From this many pairs for each parameter on, the steps start from the maximiser of 1/PART of the data …
const MANY: usize = 512;
const PART: usize = 16;
/// … whose decrement, relative to that of the part's own uncertainty √d, may be this.
const FITTED: f64 = 0.02;
/// Pairs per parameter of the part that is tried otherwise, and the share of its gradient that a few steps may leave.
const TRIED: usize = 8;
const LEFT: f64 = 0.1;
/// Readings that either part is given.
const TRIAL_PASSES: usize = 9;
/// Pairs per parameter of which the certificate forms the information.
const CERTIFIED: usize = 2;
/// Readings after which the data are left to the dense method.
const PASSES: usize = 25;
/// The certificate is made once the decrement in the diagonal is at most this many times what it should be.
const NEAR: f64 = 4.0;
/// Halvings of a step.
const HALVINGS: i32 = 8;
/// Rows taken together into a part of the data.
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
    if d < PARAMETERS || n < PAIRS * d {
        return None;
    }
    let many = n >= MANY * d;
    let part = strided(rows, d, if many { n / PART } else { TRIED * d });
    let share = (part.len() / d) as f64 / n as f64;
    let trial = FitOptions {
        penalty: options.penalty * share,
        ..*options
    };
    let trial = Descent::from_origin(&part, d, &trial)?;
    let enough = if many {
        FITTED * (d as f64).sqrt()
    } else {
        LEFT * trial.0.size(&trial.1.gradient)
    };
    let trial = trial.0.run(trial.1, TRIAL_PASSES, |descent, at| {
        Some(descent.size(&at.gradient) <= enough)
    })?;
    let (descent, start) = if many {
        let scale = Upper::diagonal(&part, d, trial.theta.as_slice());
        let scale = scale.iter().map(|s| s / share + options.penalty);
        let scale = DVector::from_iterator(d, scale);
        let mut descent = Descent::new(rows, d, options, scale)?;
        let start = descent.evaluate(trial.theta);
        (descent, start)
    } else {
        Descent::from_origin(rows, d, options)?
    };
    let target = 2.0 * options.tolerance * ((n * d) as f64).sqrt();
    let mut certificate: Option<Certificate> = None;
    let limit = PASSES.min(options.max_passes);
    descent.run(start, limit, |descent, at| {
        if descent.size(&at.gradient) > NEAR * target {
            return Some(false);
        }
        if certificate.is_none() {
            certificate = Some(Certificate::at(&at.theta, descent)?);
        }
        let certificate = certificate.as_ref()?;
        Some(certificate.decrement(&at.gradient) <= target)
    })
}

/// About `count` of the rows, spread evenly.
fn strided(rows: &[f64], d: usize, count: usize) -> Vec<f64> {
    let step = (rows.len() / d / count).max(1);
    let mut out = Vec::with_capacity((count + 2 * STRIDE_ROWS) * d);
    for chunk in rows.chunks(STRIDE_ROWS * d).step_by(step) {
        out.extend_from_slice(chunk);
    }
    out
}

/// What says how far a gradient is from 0 in units of the estimate's own uncertainty: the information of a few pairs, in factors,
/// scaled to that of all.
struct Certificate {
    /// R with S = RᵀR, S the information of the pairs taken in the units of their features.
    factor: Triangle,
    /// u: H ≈ times · diag(u) S diag(u).
    unit: Vec<f64>,
    times: f64,
}

impl Certificate {
    /// None where the pairs taken leave a direction nearly open: the information of all is at least theirs, so where theirs is
    /// well conditioned the maximiser is unique.
    fn at(theta: &DVector<f64>, descent: &Descent) -> Option<Self> {
        let (rows, d) = (descent.rows, descent.d);
        let few = strided(rows, d, CERTIFIED * d);
        let times = rows.len() as f64 / few.len() as f64;
        let squares = sweep::origin(&few, d).1;
        let unit: Vec<f64> = squares.iter().map(|s| s.sqrt()).collect();
        let mut scaled = Upper::information(&few, d, theta.as_slice());
        scaled.divide(&unit);
        let penalty = squares.iter().map(|s| descent.penalty / (times * s));
        scaled.add_to_diagonal(&penalty.collect::<Vec<f64>>());
        Some(Self {
            factor: scaled.factorise(WELL_CONDITIONED)?,
            unit,
            times,
        })
    }

    /// √(gᵀH⁻¹g).
    fn decrement(&self, g: &DVector<f64>) -> f64 {
        let scaled: Vec<f64> = g.iter().zip(&self.unit).map(|(g, u)| g / u).collect();
        self.factor.inverse_norm(&scaled) / self.times.sqrt()
    }
}

/// A point with what a reading of the data at it says.
struct Point {
    theta: DVector<f64>,
    gradient: DVector<f64>,
    /// Xθ, `[n]`.
    margins: Vec<f64>,
}

struct Descent<'a> {
    rows: &'a [f64],
    d: usize,
    penalty: f64,
    bound: f64,
    /// About the diagonal of the Hessian, `[d]`.
    scale: DVector<f64>,
    passes: usize,
    direction: Direction,
    /// Memory of margins that are no longer needed.
    spare: Vec<f64>,
}

impl<'a> Descent<'a> {
    /// None where a feature is 0 throughout.
    fn new(rows: &'a [f64], d: usize, options: &FitOptions, scale: DVector<f64>) -> Option<Self> {
        let seen = |s: &f64| *s > 0.0 && s.is_finite();
        scale.iter().all(seen).then(|| Self {
            rows,
            d,
            penalty: options.penalty,
            bound: options.param_bound,
            scale,
            passes: 0,
            direction: Direction::Backwards,
            spare: vec![0.0; rows.len() / d],
        })
    }

    /// At θ = 0, where the diagonal of the Hessian is ¼ Σ x_ik² + penalty.
    fn from_origin(rows: &'a [f64], d: usize, options: &FitOptions) -> Option<(Self, Point)> {
        let (gradient, squares) = sweep::origin(rows, d);
        let scale = squares.iter().map(|s| 0.25 * s + options.penalty);
        let mut out = Self::new(rows, d, options, DVector::from_iterator(d, scale))?;
        out.passes = 1;
        out.direction = Direction::Forwards;
        let at = Point {
            theta: DVector::zeros(d),
            gradient: DVector::from_vec(gradient),
            margins: vec![0.0; rows.len() / d],
        };
        Some((out, at))
    }

    /// √(gᵀD⁻¹g), D = diag(scale).
    fn size(&self, g: &DVector<f64>) -> f64 {
        g.component_div(&self.scale).dot(g).sqrt()
    }

    fn evaluate(&mut self, theta: DVector<f64>) -> Point {
        self.passes += 1;
        self.direction = self.direction.turned();
        let mut margins = std::mem::take(&mut self.spare);
        margins.resize(self.rows.len() / self.d, 0.0);
        let gradient = sweep::gradient(
            self.rows,
            self.d,
            theta.as_slice(),
            self.direction,
            &mut margins,
        );
        Point {
            gradient: DVector::from_vec(gradient) + &theta * self.penalty,
            theta,
            margins,
        }
    }

    fn value(&self, at: &Point) -> f64 {
        let loss = sweep::summary(&at.margins, Vec::new()).loss;
        loss + 0.5 * self.penalty * at.theta.norm_squared()
    }

    /// L-BFGS steps that keep every pair, from the Hessian diag(scale), until `enough` says so; none where it says none, or the
    /// steps do not end.
    fn run(
        mut self,
        mut at: Point,
        limit: usize,
        mut enough: impl FnMut(&Self, &Point) -> Option<bool>,
    ) -> Option<Found> {
        let mut pairs: Vec<(DVector<f64>, DVector<f64>)> = Vec::new();
        loop {
            let separates = self.penalty == 0.0 && at.margins.iter().all(|z| *z > 0.0);
            let finite = at.gradient.iter().all(|g| g.is_finite());
            if !finite || separates || at.theta.norm() > self.bound {
                return None;
            }
            if enough(&self, &at)? {
                let pass = sweep::summary(&at.margins, at.gradient.as_slice().to_vec());
                return pass.loss.is_finite().then(|| Found {
                    residual: at.gradient.norm(),
                    theta: at.theta,
                    pass,
                    passes: self.passes,
                });
            }
            // The diagonal times what the last step found the curvature to be of it.
            let times = pairs
                .last()
                .map_or(1.0, |(s, y)| y.dot(s) / y.component_div(&self.scale).dot(y));
            let direction = -two_loops(&pairs, &at.gradient, |q| {
                q.component_div(&self.scale) * times
            });
            let next = self.descend(&at, &direction, limit)?;
            let (s, y) = (&next.theta - &at.theta, &next.gradient - &at.gradient);
            if y.dot(&s) > 1e-10 * self.size(&y) * s.component_mul(&self.scale).dot(&s).sqrt() {
                pairs.push((s, y));
            }
            self.spare = std::mem::replace(&mut at, next).margins;
        }
    }

    /// The first point of at + t·direction, t = 1, ½, …, at which f is smaller.
    fn descend(&mut self, at: &Point, direction: &DVector<f64>, limit: usize) -> Option<Point> {
        let slope = at.gradient.dot(direction);
        let mut t = 1.0;
        while self.passes < limit && t >= 0.5f64.powi(HALVINGS) {
            let trial = self.evaluate(&at.theta + direction * t);
            // Values need not be compared where the gradient is half as long, and near the optimum they no longer differ in
            // floating point; a slope that still points down at the trial proves descent, f being convex.
            let accepted = self.size(&trial.gradient) < 0.5 * self.size(&at.gradient)
                || trial.gradient.dot(direction) <= 0.0
                || self.value(&trial) <= self.value(at) + 1e-4 * t * slope;
            if accepted {
                return Some(trial);
            }
            self.spare = trial.margins;
            t *= 0.5;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{Design, gradient, information};
    use crate::seed::SeedTree;
    use rand::Rng;

    const D: usize = 60;

    /// Few pairs for each parameter, and many.
    const SIZES: [usize; 2] = [7_000, 32_000];

    /// Rows with labels from a θ* of norm about 3, changed by `mix`.
    fn rows(n: usize, mix: impl Fn(&mut [f64])) -> Vec<f64> {
        let mut rng = SeedTree::new(9).rng();
        let theta: Vec<f64> = (0..D).map(|_| rng.random_range(-0.7..0.7)).collect();
        let mut out = Vec::with_capacity(n * D);
        for _ in 0..n {
            let x: Vec<f64> = (0..D).map(|_| rng.random_range(-1.0..1.0)).collect();
            let z: f64 = x.iter().zip(&theta).map(|(x, t)| x * t).sum();
            let sign = if rng.random::<f64>() < 1.0 / (1.0 + (-z).exp()) {
                1.0
            } else {
                -1.0
            };
            out.extend(x.iter().map(|x| sign * x));
        }
        out.chunks_exact_mut(D).for_each(mix);
        out
    }

    fn units(x: &mut [f64]) {
        for (k, x) in x.iter_mut().enumerate() {
            *x *= 10f64.powi(k as i32 % 9 - 4);
        }
    }

    #[test]
    fn features_in_units_of_their_own_take_a_few_readings() {
        for (n, tolerance) in SIZES.into_iter().flat_map(|n| [(n, 1e-8), (n, 1e-12)]) {
            let options = FitOptions {
                tolerance,
                ..FitOptions::default()
            };
            let plain = solve(&rows(n, |_| ()), D, &options).unwrap();
            let scaled = rows(n, units);
            let found = solve(&scaled, D, &options).unwrap();
            assert!(
                found.passes <= if tolerance > 1e-10 { 12 } else { 20 },
                "{}",
                found.passes
            );
            assert_eq!(found.passes, plain.passes);
            // Solved, in units of the estimate's own uncertainty, as the documentation of the tolerance has it.
            let design = Design::try_new(D, scaled.clone()).unwrap();
            let g = DVector::from_vec(gradient(&design, found.theta.as_slice()).unwrap());
            assert!((g.norm() - found.residual).abs() <= 1e-9 * n as f64);
            let h = information(&design, found.theta.as_slice()).unwrap();
            let unit = DVector::from_iterator(D, h.diagonal().iter().map(|x| x.sqrt()));
            let h = nalgebra::DMatrix::from_fn(D, D, |i, j| h[(i, j)] / unit[i] / unit[j]);
            let g = g.component_div(&unit);
            let decrement = h.cholesky().unwrap().solve(&g).dot(&g).sqrt();
            let target = 2.0 * tolerance * ((n * D) as f64).sqrt();
            assert!(decrement <= target.max(1e-11), "{decrement} {target}");
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let again = pool
                    .build()
                    .unwrap()
                    .install(|| solve(&scaled, D, &options));
                let again = again.unwrap();
                assert_eq!(again.theta, found.theta);
                assert_eq!(again.pass, found.pass);
            }
        }
    }

    #[test]
    fn what_these_steps_cannot_decide_is_left_to_others() {
        let options = FitOptions::default();
        let left = |rows: &[f64], options: &FitOptions| solve(rows, D, options).is_none();
        let n = SIZES[0];
        let plain = rows(n, |_| ());
        let norm = solve(&plain, D, &options).unwrap().theta.norm();
        let ball = FitOptions {
            param_bound: 0.9 * norm,
            ..options
        };
        assert!(left(&plain, &ball));
        assert!(left(&rows(n, |x| x[59] = x[0]), &options));
        assert!(left(&rows(n, |x| x[59] = 0.0), &options));
        assert!(left(&rows(n, |x| x[7] = 0.1 + x[7].abs()), &options));
        let correlated = rows(n, |x| {
            let mut sum = 0.0;
            for x in x.iter_mut() {
                sum += *x;
                *x = sum;
            }
        });
        assert!(left(&correlated, &options));
    }
}
