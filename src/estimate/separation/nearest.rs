//! The point of a cone's translate that is nearest to 0.

use nalgebra::{DMatrix, DVector};

use super::ZERO;
use super::pairs::Pairs;
use crate::{Error, Result};

/// A row whose part outside the span of the active rows is at most this, of length 1, lies in it.
const DEPENDENT: f64 = 1e-13;

/// min ‖b + Σ q_i x_i‖ over q ≥ 0 by the active-set method of Lawson and Hanson, with an orthogonal factorisation of
/// the active rows kept up to date: their Gram matrix would lose half of the digits.
pub(super) struct Nearest<'a, P> {
    rows: &'a P,
    base: DVector<f64>,
    active: Vec<usize>,
    weights: DVector<f64>,
    factor: Factor,
}

/// QR of the matrix whose columns are the active rows.
struct Factor {
    /// Orthonormal, `[d, k]`.
    q: DMatrix<f64>,
    /// Upper triangular, `[k, k]`.
    r: DMatrix<f64>,
}

impl Factor {
    /// Adds a column; `false` and no change where it lies in the span of the others.
    fn insert(&mut self, x: &DVector<f64>) -> bool {
        let k = self.q.ncols();
        let (mut rest, mut along) = (x.clone(), DVector::zeros(k));
        // Twice is enough for orthogonality to rounding.
        for _ in 0..2 {
            let c = self.q.tr_mul(&rest);
            rest -= &self.q * &c;
            along += c;
        }
        let length = rest.norm();
        if length <= DEPENDENT {
            return false;
        }
        let take = |m: &mut DMatrix<f64>| std::mem::replace(m, DMatrix::zeros(0, 0));
        self.q = take(&mut self.q).insert_column(k, 0.0);
        self.q.set_column(k, &(rest / length));
        self.r = take(&mut self.r).insert_row(k, 0.0).insert_column(k, 0.0);
        self.r.view_mut((0, k), (k, 1)).copy_from(&along);
        self.r[(k, k)] = length;
        true
    }

    /// Removes a column; Givens rotations make R triangular again.
    fn remove(&mut self, j: usize) {
        let take = |m: &mut DMatrix<f64>| std::mem::replace(m, DMatrix::zeros(0, 0));
        let mut r = take(&mut self.r).remove_column(j);
        let k = r.ncols();
        for i in j..k {
            let (a, b) = (r[(i, i)], r[(i + 1, i)]);
            let length = a.hypot(b);
            let (c, s) = (a / length, b / length);
            for m in i..k {
                let (x, y) = (r[(i, m)], r[(i + 1, m)]);
                (r[(i, m)], r[(i + 1, m)]) = (c * x + s * y, c * y - s * x);
            }
            for m in 0..self.q.nrows() {
                let (x, y) = (self.q[(m, i)], self.q[(m, i + 1)]);
                (self.q[(m, i)], self.q[(m, i + 1)]) = (c * x + s * y, c * y - s * x);
            }
        }
        self.r = r.remove_row(k);
        self.q = take(&mut self.q).remove_column(k);
    }

    /// The part of v orthogonal to every active row.
    fn outside(&self, v: &DVector<f64>) -> DVector<f64> {
        let once = v - &self.q * self.q.tr_mul(v);
        &once - &self.q * self.q.tr_mul(&once)
    }
}

impl<'a, P: Pairs> Nearest<'a, P> {
    pub(super) fn new(rows: &'a P, base: DVector<f64>) -> Self {
        Self {
            factor: Factor {
                q: DMatrix::zeros(base.len(), 0),
                r: DMatrix::zeros(0, 0),
            },
            rows,
            base,
            active: Vec::new(),
            weights: DVector::zeros(0),
        }
    }

    /// The direction of the point nearest to 0, or `None` when that is 0 (‖u‖ ≤ `nothing`).
    pub(super) fn solve(mut self, nothing: f64) -> Result<Option<DVector<f64>>> {
        let limit = 20 * (self.rows.dim() + 10);
        let mut length = f64::NAN;
        for _ in 0..limit {
            let u = self.factor.outside(&self.base);
            length = u.norm();
            if length <= nothing || self.active.len() == self.rows.dim() {
                return Ok(None);
            }
            let direction = u / length;
            let margins = self.rows.margins(direction.as_slice());
            let worst = (0..margins.len()).min_by(|a, b| margins[*a].total_cmp(&margins[*b]));
            match worst.filter(|i| margins[*i] < -ZERO) {
                None => return Ok(Some(direction)),
                // u ⊥ every active row, so what is left of u is rounding.
                Some(i) if self.active.contains(&i) => return Ok(None),
                Some(i) => {
                    if !self.enter(i)? {
                        return Ok(None);
                    }
                }
            }
        }
        Err(not_converged(limit, length))
    }

    /// Row i becomes active; `false` where it depends on those that are.
    fn enter(&mut self, i: usize) -> Result<bool> {
        let k = self.active.len();
        let mut x = DVector::zeros(self.rows.dim());
        self.rows.add(i, 1.0, &mut x);
        if !self.factor.insert(&x) {
            return Ok(false);
        }
        self.active.push(i);
        self.weights = self.weights.clone().insert_row(k, 0.0);
        self.settle()?;
        Ok(true)
    }

    /// Moves to the weights of least ‖u‖ on the active rows; rows whose weight would turn negative leave.
    fn settle(&mut self) -> Result<()> {
        while !self.active.is_empty() {
            let target = self.unconstrained()?;
            let negative = |j: &usize| target[*j] <= 0.0;
            if !(0..target.len()).any(|j| negative(&j)) {
                self.weights = target;
                return Ok(());
            }
            // As far towards the target as all weights stay non-negative; the row that stops it leaves.
            let ratio = |j: usize| self.weights[j] / (self.weights[j] - target[j]);
            let steps = (0..target.len()).filter(negative).map(|j| (j, ratio(j)));
            let first = steps.min_by(|a, b| a.1.total_cmp(&b.1));
            let (leaving, step) = first.expect("some weight is negative");
            let step = if step.is_finite() { step } else { 0.0 };
            self.weights += (&target - &self.weights) * step;
            self.weights[leaving] = 0.0;
            self.leave(leaving);
        }
        Ok(())
    }

    fn leave(&mut self, j: usize) {
        self.active.remove(j);
        self.weights = self.weights.clone().remove_row(j);
        self.factor.remove(j);
    }

    /// The weights of least ‖u‖ without the signs.
    fn unconstrained(&self) -> Result<DVector<f64>> {
        let right = -self.factor.q.tr_mul(&self.base);
        let weights = self.factor.r.solve_upper_triangular(&right);
        weights
            .filter(|w| w.iter().all(|w| w.is_finite()))
            .ok_or_else(|| not_converged(self.active.len(), f64::NAN))
    }
}

fn not_converged(iterations: usize, residual: f64) -> Error {
    Error::NotConverged {
        what: "search for a separating direction".into(),
        iterations,
        residual,
    }
}
