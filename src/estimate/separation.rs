//! Whether (4.1) has a finite maximiser without the ball: separation in the sense of Albert and
//! Anderson (1984), decided with a certificate either way.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::design::Design;
use crate::mdp::check_len;
use crate::numerics::sigmoid;
use crate::{Error, Result};

/// How preference data separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// No θ has Xθ ≥ 0 and Xθ ≠ 0: (4.1) has a finite maximiser.
    None,
    /// Some θ has Xθ ≥ 0 and Xθ ≠ 0, but none explains every pair strictly.
    Quasi {
        /// The largest number of pairs that one such θ explains strictly (x_iᵀθ > 0).
        explained: usize,
    },
    /// Some θ has x_iᵀθ > 0 for every pair.
    Complete,
}

/// Where a number counts as 0, relative to rows of length 1.
const ZERO: f64 = 1e-9;
/// Weights of the start are kept above this share of the largest: a certificate needs every weight positive.
const LEAST_WEIGHT: f64 = 1e-3;

/// Separates the data or proves that they overlap. `theta` is where the search starts, best the estimate
/// (4.1): where that lies inside the ball, one reading of the data is the proof.
///
/// By Stiemke's lemma either some p > 0 has Xᵀp = 0, or some u has Xu ≥ 0 and Xu ≠ 0. For a start p₀ > 0,
/// u = Xᵀ(p₀ + q) of least norm over q ≥ 0 decides: u = 0 gives the p, and otherwise u itself is the
/// direction, as Xu ≥ 0 is the optimality condition and p₀ᵀXu = ‖u‖² > 0. The rows with x_iᵀu = 0 are
/// then searched again; where nothing but overlap is left, the rest is the largest set explained
/// strictly. Rows are scaled to length 1, and numbers below 1e-9 count as 0.
///
/// # Errors
/// [`Error::Shape`] unless θ is `[d]`; [`Error::NotConverged`].
pub fn separation(design: &Design, theta: &[f64]) -> Result<Separation> {
    check_len("theta", design.dim(), theta.len())?;
    let margins = design.margins(theta)?;
    let norms = design.norms();
    let scaled: Vec<f64> = (0..design.n())
        .filter(|&i| norms[i] > 0.0)
        .flat_map(|i| design.row(i).iter().map(move |x| (i, x)))
        .map(|(i, x)| x / norms[i])
        .collect();
    // Xᵀp = 0 holds for the likelihood's own rows; a row of length ℓ has weight ℓσ(−z).
    let pull = |i: usize| norms[i] * sigmoid(-margins[i]);
    let mut weights: Vec<f64> = (0..design.n())
        .filter(|&i| norms[i] > 0.0)
        .map(pull)
        .collect();
    let mut rest = Design::try_new(design.dim(), scaled)?;
    let mut explained = 0;
    while rest.n() > 0 {
        let Some(direction) = separating_direction(&rest, &weights)? else {
            break;
        };
        let margins = rest.margins(direction.as_slice())?;
        let kept: Vec<usize> = (0..rest.n()).filter(|&i| margins[i] <= ZERO).collect();
        explained += rest.n() - kept.len();
        let rows = kept.iter().flat_map(|&i| rest.row(i)).copied().collect();
        weights = kept.iter().map(|&i| weights[i]).collect();
        rest = Design::try_new(design.dim(), rows)?;
    }
    Ok(match explained {
        0 => Separation::None,
        all if all == design.n() => Separation::Complete,
        explained => Separation::Quasi { explained },
    })
}

/// A unit u with Xu ≥ 0 and Xu ≠ 0, or `None` when there is none. Rows have length 1.
fn separating_direction(rows: &Design, weights: &[f64]) -> Result<Option<DVector<f64>>> {
    let top = weights.iter().copied().fold(0.0, f64::max);
    let start: Vec<f64> = weights
        .iter()
        .map(|w| {
            if top > 0.0 {
                (w / top).max(LEAST_WEIGHT)
            } else {
                1.0
            }
        })
        .collect();
    let mut pull = DVector::zeros(rows.dim());
    for (i, p) in start.iter().enumerate() {
        for (u, x) in pull.iter_mut().zip(rows.row(i)) {
            *u += p * x;
        }
    }
    // What rounding leaves of a sum of so many terms, far below what a separated row contributes.
    let nothing = 1e-12 * start.iter().sum::<f64>().max(1.0);
    Nearest::new(rows, pull).solve(nothing)
}

/// min ‖b + Σ q_i x_i‖ over q ≥ 0 by the active-set method of Lawson and Hanson, with the Cholesky factor
/// of the active rows' Gram matrix kept up to date.
struct Nearest<'a> {
    rows: &'a Design,
    base: DVector<f64>,
    active: Vec<usize>,
    weights: DVector<f64>,
    factor: Option<Cholesky<f64, Dyn>>,
}

impl<'a> Nearest<'a> {
    fn new(rows: &'a Design, base: DVector<f64>) -> Self {
        Self {
            rows,
            base,
            active: Vec::new(),
            weights: DVector::zeros(0),
            factor: None,
        }
    }

    /// The direction of the point nearest to 0, or `None` when that is 0 (‖u‖ ≤ `nothing`).
    fn solve(mut self, nothing: f64) -> Result<Option<DVector<f64>>> {
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

    /// Row i becomes active, and rows whose weight would turn negative leave.
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
        loop {
            let target = self.unconstrained()?;
            let negative = |t: &f64| *t <= 0.0;
            if !target.iter().any(negative) {
                self.weights = target;
                return Ok(());
            }
            // As far towards the target as all weights stay non-negative.
            let step = (0..target.len())
                .filter(|&j| target[j] <= 0.0)
                .map(|j| self.weights[j] / (self.weights[j] - target[j]))
                .fold(1.0, f64::min);
            let step = if step.is_finite() { step } else { 0.0 };
            self.weights += (target.clone() - &self.weights) * step;
            let leaves: Vec<usize> = (0..target.len())
                .filter(|&j| target[j] <= 0.0 && self.weights[j] <= 1e-14)
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
