//! min f(θ) = −L(θ) + (penalty/2)‖θ‖² by readings of the rows alone.
//!
//! L-BFGS steps from the diagonal of the information, one reading each. Near the end, or where they do not get on, Newton steps by
//! conjugate gradients, which take what the steps before have learned as their preconditioner. The same solve is the certificate: it
//! gives the decrement √(gᵀH⁻¹g) from below, to a hundredth.

use nalgebra::DVector;

use super::conjugate::{self, Solution};
use super::passes;
use crate::estimate::kernels::{Pass, sigmoid_slope};
use crate::estimate::newton::two_loops;
use crate::features::SparseRows;

/// Steps kept for the inverse of the Hessian.
const KEPT: usize = 30;
/// L-BFGS steps before the Newton steps.
const QUICK: usize = 60;
/// The certificate is made once the decrement by the steps kept is at most this many times what it should be.
const NEAR: f64 = 2.0;
/// Products in one solve at most.
const PRODUCTS: usize = 500;
/// What a solve may leave of its right-hand side, in the norm of the preconditioner.
const LEFT: f64 = 1e-2;
/// Halvings of a step.
const HALVINGS: i32 = 12;

/// A point with what a reading of the data at it says.
#[derive(Clone)]
pub struct Point {
    pub theta: DVector<f64>,
    pub pass: Pass,
    pub margins: Vec<f64>,
    /// ∇f.
    pub gradient: DVector<f64>,
}

/// How a minimisation ended.
pub enum End {
    /// The decrement is small enough.
    Found(Point),
    /// θ is longer than it may be.
    Outside(Point),
    /// Every pair is explained, and nothing keeps θ from growing.
    Separates,
    /// The readings are used up, or rounding left no step that makes f smaller.
    Stuck(Point),
}

pub struct Minimiser<'a> {
    pub rows: &'a SparseRows,
    pub penalty: f64,
    /// About the diagonal of the Hessian, `[d]`.
    scale: DVector<f64>,
    pairs: Vec<(DVector<f64>, DVector<f64>)>,
    pub passes: usize,
    pub max_passes: usize,
}

impl<'a> Minimiser<'a> {
    /// Every column has an entry that is not 0.
    pub fn new(rows: &'a SparseRows, penalty: f64, max_passes: usize) -> Self {
        let squares = passes::diagonal(rows, None);
        let scale = squares.iter().map(|s| 0.25 * s + penalty);
        Self {
            scale: DVector::from_iterator(rows.dim(), scale),
            rows,
            penalty,
            pairs: Vec::new(),
            passes: 1,
            max_passes,
        }
    }

    /// Another penalty, with what is known of the Hessian.
    pub fn set_penalty(&mut self, penalty: f64, at: &mut Point) {
        let change = penalty - self.penalty;
        self.scale.iter_mut().for_each(|s| *s += change);
        self.pairs
            .iter_mut()
            .for_each(|(s, y)| y.axpy(change, s, 1.0));
        // A penalty that became smaller may leave a pair without curvature.
        self.pairs.retain(|(s, y)| y.dot(s) > 0.0);
        at.gradient.axpy(change, &at.theta, 1.0);
        self.penalty = penalty;
    }

    pub fn evaluate(&mut self, theta: DVector<f64>) -> Point {
        self.passes += 1;
        let (pass, margins) = passes::pass(self.rows, theta.as_slice());
        Point {
            gradient: DVector::from_column_slice(&pass.gradient) + &theta * self.penalty,
            theta,
            pass,
            margins,
        }
    }

    fn value(&self, at: &Point) -> f64 {
        at.pass.loss + 0.5 * self.penalty * at.theta.norm_squared()
    }

    /// √(gᵀD⁻¹g), D = diag(scale).
    fn size(&self, g: &DVector<f64>) -> f64 {
        g.component_div(&self.scale).dot(g).sqrt()
    }

    /// About H⁻¹g, by the steps kept.
    fn about(&self, g: &DVector<f64>) -> DVector<f64> {
        // The diagonal times what the last step found the curvature to be of it.
        let last = self.pairs.last();
        let times = last.map_or(1.0, |(s, y)| y.dot(s) / y.component_div(&self.scale).dot(y));
        two_loops(&self.pairs, g, |q| q.component_div(&self.scale) * times)
    }

    /// H⁻¹b at a point, by conjugate gradients until no more than the share `left` of b is left, or the products are used up: what is
    /// left then says so.
    pub fn solve(&mut self, at: &Point, b: &DVector<f64>, left: f64) -> Solution {
        let slopes: Vec<f64> = at.margins.iter().map(|z| sigmoid_slope(*z)).collect();
        let (rows, penalty) = (self.rows, self.penalty);
        let limit = PRODUCTS.min(self.max_passes.saturating_sub(self.passes));
        let mut products = 0;
        let product = |v: &DVector<f64>| {
            products += 1;
            let mut h = DVector::from_vec(passes::product(rows, Some(&slopes), v.as_slice()));
            h.axpy(penalty, v, 1.0);
            h
        };
        let found = conjugate::solve(product, |r| self.about(r), b, left, limit);
        self.passes += products;
        found
    }

    /// Steps until the decrement is at most `target`, from where the last ones ended; ends as well where θ leaves the ball of radius
    /// `bound`.
    pub fn run(&mut self, mut at: Point, target: f64, bound: f64) -> End {
        let mut steps = 0;
        loop {
            if !at.gradient.iter().all(|g| g.is_finite()) {
                return End::Stuck(at);
            }
            if self.penalty == 0.0 && bound.is_infinite() && at.pass.min_margin > 0.0 {
                return End::Separates;
            }
            if at.theta.norm() > bound {
                return End::Outside(at);
            }
            if self.passes >= self.max_passes {
                return End::Stuck(at);
            }
            let quick = self.about(&at.gradient);
            let near = at.gradient.dot(&quick).max(0.0).sqrt() <= NEAR * target;
            let direction = if near || steps >= QUICK {
                let gradient = at.gradient.clone();
                let solved = self.solve(&at, &gradient, LEFT);
                // The energy of a solve that was not ended is below the decrement by nobody knows how much.
                if solved.left <= LEFT && solved.energy.sqrt() <= target {
                    return End::Found(at);
                }
                match solved.energy > 0.0 {
                    true => -solved.x,
                    false => -quick,
                }
            } else {
                -quick
            };
            let Some(next) = self.descend(&at, &direction) else {
                return End::Stuck(at);
            };
            let (s, y) = (&next.theta - &at.theta, &next.gradient - &at.gradient);
            if y.dot(&s) > 1e-10 * self.size(&y) * s.component_mul(&self.scale).dot(&s).sqrt() {
                if self.pairs.len() == KEPT {
                    self.pairs.remove(0);
                }
                self.pairs.push((s, y));
            }
            steps += 1;
            at = next;
        }
    }

    /// The first point of at + t·direction, t = 1, ½, …, at which f is smaller.
    fn descend(&mut self, at: &Point, direction: &DVector<f64>) -> Option<Point> {
        let slope = at.gradient.dot(direction);
        let mut t = 1.0;
        while self.passes < self.max_passes && t >= 0.5f64.powi(HALVINGS) {
            let trial = self.evaluate(&at.theta + direction * t);
            // As in `wide`: f is convex, and values no longer differ near the optimum.
            let accepted = self.size(&trial.gradient) < 0.5 * self.size(&at.gradient)
                || trial.gradient.dot(direction) <= 0.0
                || self.value(&trial) <= self.value(at) + 1e-4 * t * slope;
            if accepted {
                return (trial.theta != at.theta).then_some(trial);
            }
            t *= 0.5;
        }
        None
    }
}
