//! The point of a cone's translate that is nearest to 0.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::ZERO;
use crate::estimate::design::Design;
use crate::{Error, Result};

/// min ‖b + Σ q_i x_i‖ over q ≥ 0 by the active-set method of Lawson and Hanson, with the Cholesky factor
/// of the active rows' Gram matrix kept up to date.
pub(super) struct Nearest<'a> {
    rows: &'a Design,
    base: DVector<f64>,
    active: Vec<usize>,
    weights: DVector<f64>,
    factor: Option<Cholesky<f64, Dyn>>,
}

impl<'a> Nearest<'a> {
    pub(super) fn new(rows: &'a Design, base: DVector<f64>) -> Self {
        Self {
            rows,
            base,
            active: Vec::new(),
            weights: DVector::zeros(0),
            factor: None,
        }
    }

    /// The direction of the point nearest to 0, or `None` when that is 0 (‖u‖ ≤ `nothing`).
    pub(super) fn solve(mut self, nothing: f64) -> Result<Option<DVector<f64>>> {
        let limit = 20 * (self.rows.dim() + 10);
        let mut length = f64::NAN;
        for _ in 0..limit {
            let u = self.point();
            length = u.norm();
            if length <= nothing {
                return Ok(None);
            }
            let direction = u / length;
            let margins = self.rows.margins(direction.as_slice())?;
            let worst = (0..margins.len()).min_by(|a, b| margins[*a].total_cmp(&margins[*b]));
            match worst.filter(|i| margins[*i] < -ZERO) {
                None => return Ok(Some(direction)),
                // u ⊥ every active row, so what is left of u is rounding.
                Some(i) if self.active.contains(&i) => return Ok(None),
                Some(i) => self.enter(i)?,
            }
        }
        Err(not_converged(limit, length))
    }

    fn row(&self, i: usize) -> DVector<f64> {
        DVector::from_column_slice(self.rows.row(i))
    }

    /// u = b + Σ q_i x_i.
    fn point(&self) -> DVector<f64> {
        let mut u = self.base.clone();
        for (i, q) in self.active.iter().zip(self.weights.iter()) {
            u.axpy(*q, &self.row(*i), 1.0);
        }
        u
    }

    /// Row i becomes active.
    fn enter(&mut self, i: usize) -> Result<()> {
        let k = self.active.len();
        let column = DVector::from_iterator(
            k + 1,
            self.active
                .iter()
                .chain([&i])
                .map(|j| self.row(*j).dot(&self.row(i))),
        );
        self.factor = match self.factor.take() {
            None => Cholesky::new(DMatrix::from_element(1, 1, column[0])),
            Some(factor) => Some(factor.insert_column(k, column)),
        };
        self.active.push(i);
        self.weights = self.weights.clone().insert_row(k, 0.0);
        self.settle()
    }

    /// Moves to the weights of least ‖u‖ on the active rows; rows whose weight would turn negative leave.
    fn settle(&mut self) -> Result<()> {
        loop {
            let target = self.unconstrained()?;
            let negative = |j: &usize| target[*j] <= 0.0;
            if !(0..target.len()).any(|j| negative(&j)) {
                self.weights = target;
                return Ok(());
            }
            // As far towards the target as all weights stay non-negative.
            let step = (0..target.len())
                .filter(negative)
                .map(|j| self.weights[j] / (self.weights[j] - target[j]))
                .fold(1.0, f64::min);
            let step = if step.is_finite() { step } else { 0.0 };
            self.weights += (&target - &self.weights) * step;
            let leaves: Vec<usize> = (0..target.len())
                .filter(|j| negative(j) && self.weights[*j] <= 1e-14)
                .collect();
            for &j in leaves.iter().rev() {
                self.leave(j);
            }
            if leaves.is_empty() || self.active.is_empty() {
                return Ok(());
            }
        }
    }

    fn leave(&mut self, j: usize) {
        self.active.remove(j);
        self.weights = self.weights.clone().remove_row(j);
        self.factor = match self.factor.take() {
            Some(factor) if !self.active.is_empty() => Some(factor.remove_column(j)),
            _ => None,
        };
    }

    /// The weights of least ‖u‖ without the signs: u ⊥ every active row. Refined once, as normal equations
    /// lose half of the digits.
    fn unconstrained(&self) -> Result<DVector<f64>> {
        let factor = self.factor.as_ref();
        let factor = factor.ok_or_else(|| not_converged(self.active.len(), f64::NAN))?;
        let against = |u: &DVector<f64>| {
            let dots = self.active.iter().map(|i| self.row(*i).dot(u));
            DVector::from_iterator(self.active.len(), dots)
        };
        let mut weights = -factor.solve(&against(&self.base));
        let mut u = self.base.clone();
        for (i, q) in self.active.iter().zip(weights.iter()) {
            u.axpy(*q, &self.row(*i), 1.0);
        }
        weights -= factor.solve(&against(&u));
        if weights.iter().all(|w| w.is_finite()) {
            Ok(weights)
        } else {
            Err(not_converged(self.active.len(), f64::NAN))
        }
    }
}

fn not_converged(iterations: usize, residual: f64) -> Error {
    Error::NotConverged {
        what: "search for a separating direction".into(),
        iterations,
        residual,
    }
}
