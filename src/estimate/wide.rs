//! (4.1) for many parameters and many more pairs, without a matrix of the whole data: L-BFGS steps from the diagonal of the
//! information on a copy of the rows in eight bits, corrected by exact gradients.
//!
//! Where features are not strongly correlated, a diagonal in their own units is nearly the Hessian, and half a dozen steps do what
//! forming n·d² products would. The steps read the rounded rows X̃ ([`Rounded`]), an eighth of the bytes: from a θ₀ where margins and
//! gradient are known exactly, a reading says what a step changes of the gradient. What a round of steps leaves is the difference
//! of the two Hessians times the way that it went, about a thousandth of ‖∇f(θ₀)‖; an exact reading measures it, and the next round starts from
//! there. The first exact reading makes the copy as well, so that three of X do what otherwise takes seven. Where rounding does
//! not let a round get on, where the steps do not end, and where there is no memory for the copy, the data are left to the dense
//! method. So are those whose maximiser lies on the ball, that separate, or that do not fix every direction well.

use nalgebra::DVector;

use super::bradley_terry::FitOptions;
use super::kernels::Pass;
use super::newton::two_loops;
use super::panels::{Triangle, Upper};
use super::rounded::Rounded;
use super::sweep::{self, Direction};

/// From this many parameters on …
const PARAMETERS: usize = 48;
/// … and this many pairs for each.
const PAIRS: usize = 64;
/// What a round leaves of the gradient by the design of it, for rounded rows, and what it may leave at most.
const ROUNDED: f64 = 1e-3;
const LEFT: f64 = 0.1;
/// Readings of the rounded rows in a round, and the share of the gradient that a few of them may leave.
const ROUND_STEPS: usize = 16;
const FEW_STEPS: usize = 6;
/// Pairs per parameter of which the certificate forms the information.
const CERTIFIED: usize = 2;
/// Readings of X after which the data are left to the dense method.
const PASSES: usize = 12;
/// The certificate is made once the decrement in the diagonal is at most this many times what it should be.
const NEAR: f64 = 4.0;
/// Rows taken together into a part of the data.
const STRIDE_ROWS: usize = 32;
/// Least pivot of the information per pair, in units of the features' mean squares: well above what single precision leaves of one
/// that is 0.
const WELL_CONDITIONED: f64 = 1e-4;

/// A maximiser inside the ball.
pub(super) struct Found {
    pub theta: DVector<f64>,
    pub pass: Pass,
    /// ‖∇f‖, f = −L + (penalty/2)‖·‖².
    pub residual: f64,
    /// Exact readings of the whole data.
    pub passes: usize,
}

/// θ_MLE where these steps find it.
pub(super) fn solve(rows: &[f64], d: usize, options: &FitOptions) -> Option<Found> {
    let n = rows.len() / d;
    if d < PARAMETERS || n < PAIRS * d {
        return None;
    }
    let (mut descent, mut at) = Descent::from_origin(rows, d, options)?;
    let target = 2.0 * options.tolerance * ((n * d) as f64).sqrt();
    let limit = PASSES.min(options.max_passes);
    let mut certificate: Option<Certificate> = None;
    loop {
        let separates = options.penalty == 0.0 && at.margins.iter().all(|z| *z > 0.0);
        if separates || !descent.inside(&at.theta, &at.gradient) {
            return None;
        }
        let size = descent.size(&at.gradient);
        if size <= NEAR * target {
            if certificate.is_none() {
                certificate = Some(Certificate::at(&at.theta, &descent)?);
            }
            if certificate.as_ref()?.decrement(&at.gradient) <= target {
                let pass = sweep::summary(&at.margins, at.gradient.as_slice().to_vec());
                return pass.loss.is_finite().then(|| Found {
                    residual: at.gradient.norm(),
                    theta: at.theta,
                    pass,
                    passes: descent.passes,
                });
            }
        }
        if descent.passes >= limit {
            return None;
        }
        let theta = descent.round(&at, target)?;
        at = descent.evaluate(theta, at.margins);
        if descent.size(&at.gradient) > LEFT * size {
            return None;
        }
    }
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
        let mut scaled = Upper::information(&few, d, theta.as_slice(), &unit);
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
    copy: Rounded,
    /// Steps and what they change of the gradient, all that there were.
    pairs: Vec<(DVector<f64>, DVector<f64>)>,
    passes: usize,
    direction: Direction,
}

impl<'a> Descent<'a> {
    /// At θ = 0, where the diagonal of the Hessian is ¼ Σ x_ik² + penalty; none where a feature is 0 throughout, or there is no
    /// memory for the rounded rows.
    fn from_origin(rows: &'a [f64], d: usize, options: &FitOptions) -> Option<(Self, Point)> {
        let (copy, moments) = Rounded::of(rows, d)?;
        let scale = moments.squares.iter().map(|s| 0.25 * s + options.penalty);
        let scale = DVector::from_iterator(d, scale);
        let seen = |s: &f64| *s > 0.0 && s.is_finite();
        let gradient = DVector::from_vec(moments.sums) * -0.5;
        let at = Point {
            theta: DVector::zeros(d),
            gradient,
            margins: vec![0.0; rows.len() / d],
        };
        scale.iter().all(seen).then(|| {
            let descent = Self {
                rows,
                d,
                penalty: options.penalty,
                bound: options.param_bound,
                scale,
                copy,
                pairs: Vec::new(),
                passes: 1,
                direction: Direction::Forwards,
            };
            (descent, at)
        })
    }

    /// √(gᵀD⁻¹g), D = diag(scale).
    fn size(&self, g: &DVector<f64>) -> f64 {
        g.component_div(&self.scale).dot(g).sqrt()
    }

    fn inside(&self, theta: &DVector<f64>, gradient: &DVector<f64>) -> bool {
        gradient.iter().all(|g| g.is_finite()) && theta.norm() <= self.bound
    }

    /// An exact reading; `margins` is memory of as many as there are pairs.
    fn evaluate(&mut self, theta: DVector<f64>, mut margins: Vec<f64>) -> Point {
        self.passes += 1;
        self.direction = self.direction.turned();
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

    /// About the maximiser, from the exact gradient at one point and as many readings of the rounded rows as the rounding is worth;
    /// none where steps on these do not get on.
    fn round(&mut self, from: &Point, target: f64) -> Option<DVector<f64>> {
        let (mut theta, mut gradient) = (from.theta.clone(), from.gradient.clone());
        let first = self.size(&gradient);
        let enough = (ROUNDED * first).max(0.5 * target);
        let (mut before, mut t) = (first, 1.0);
        let mut step = self.step(&gradient);
        for steps in 1.. {
            let size = self.size(&gradient);
            // A last step, of which the exact reading will say what it was worth: about what the one before it was.
            if size * (size / before).min(1.0) <= enough {
                return Some(theta + step);
            }
            if steps > ROUND_STEPS || steps > FEW_STEPS && size > LEFT * first {
                return None;
            }
            let to = &theta + &step * t;
            let way = &to - &from.theta;
            let change = self.copy.change(&from.margins, way.as_slice());
            let there = &from.gradient + DVector::from_vec(change) + way * self.penalty;
            if !self.inside(&to, &there) {
                return None;
            }
            let (slope, after) = (gradient.dot(&step), there.dot(&step));
            // f is convex: where it still falls at the end of the step, or hardly rises, it is smaller there.
            if after > 0.5 * slope.abs() && self.size(&there) > 0.5 * size {
                t *= 0.5;
                continue;
            }
            let (s, y) = (&to - &theta, &there - &gradient);
            if y.dot(&s) > 1e-10 * self.size(&y) * s.component_mul(&self.scale).dot(&s).sqrt() {
                self.pairs.push((s, y));
            }
            (theta, gradient, before, t) = (to, there, size, 1.0);
            step = self.step(&gradient);
        }
        None
    }

    /// The L-BFGS step from all pairs and the diagonal times what the last step found the curvature to be of it.
    fn step(&self, gradient: &DVector<f64>) -> DVector<f64> {
        let times = self
            .pairs
            .last()
            .map_or(1.0, |(s, y)| y.dot(s) / y.component_div(&self.scale).dot(y));
        -two_loops(&self.pairs, gradient, |q| {
            q.component_div(&self.scale) * times
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::bradley_terry::{InMemory, Solver};
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
                found.passes <= if tolerance > 1e-10 { 5 } else { 7 },
                "{}",
                found.passes
            );
            assert_eq!(found.passes, plain.passes);
            // The same maximiser, in units of the features.
            for (k, (a, b)) in found.theta.iter().zip(&plain.theta).enumerate() {
                let unit = 10f64.powi(k as i32 % 9 - 4);
                let apart = (a * unit - b).abs();
                assert!(apart <= 1e3 * tolerance.max(1e-11), "{k}: {apart}");
            }
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

    /// θ by BFGS steps on X itself from the Hessian of a part of the data.
    fn dense(rows: &[f64], options: &FitOptions) -> DVector<f64> {
        let mut solver = Solver::new(InMemory { rows, d: D }, options);
        solver.run(DVector::zeros(D)).unwrap().theta
    }

    #[test]
    fn the_maximiser_is_that_of_the_dense_method_whatever_rounding_does() {
        let options = FitOptions::default();
        let penalised = FitOptions {
            penalty: 3.0,
            ..options
        };
        let n = SIZES[1];
        let plain = rows(n, |_| ());
        // Every hundredth row is a thousand times as long as the rest of its block, whose entries are then all but lost to rounding.
        let mut long = plain.clone();
        for x in long.chunks_exact_mut(D).step_by(100) {
            x.iter_mut().for_each(|x| *x *= 1e3);
        }
        // Signs, which rounding leaves as they are.
        let signs = rows(n, |x| x.iter_mut().for_each(|x| *x = x.signum()));
        let mut found_any = 0;
        for (data, options) in [
            (&plain, &options),
            (&plain, &penalised),
            (&signs, &penalised),
            (&long, &penalised),
        ] {
            let Some(found) = solve(data, D, options) else {
                continue;
            };
            found_any += 1;
            let apart = (&found.theta - dense(data, options)).norm();
            assert!(apart <= 1e-9 * found.theta.norm(), "{apart}");
        }
        assert!(found_any >= 3, "{found_any}");
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
