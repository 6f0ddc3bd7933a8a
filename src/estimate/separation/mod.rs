//! Whether (4.1) has a finite maximiser without the ball: separation in the sense of Albert and
//! Anderson (1984), decided with a certificate either way.

mod nearest;
mod pairs;

use nalgebra::DVector;

use self::nearest::Nearest;
use self::pairs::Pairs;
use super::design::Design;
use super::sparse::SparseDesign;
use crate::check;
use crate::numerics::sigmoid;
use crate::{Error, Result};

/// (4.1), where its maximum is on the boundary: How preference data separate.
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
/// strictly. Columns and rows are scaled to one size, and numbers below 1e-9 count as 0.
///
/// # Errors
/// [`crate::Error::Shape`] unless θ is `[d]`; [`crate::Error::NotConverged`].
pub fn separation(design: &Design, theta: &[f64]) -> Result<Separation> {
    Ok(counted(&explained(design, theta)?))
}

/// (4.1): [`separation()`] of pairs whose features are mostly 0. The search keeps k ≤ d vectors of d numbers, k ≤ n.
///
/// # Errors
/// As [`separation()`].
pub fn sparse_separation(design: &SparseDesign, theta: &[f64]) -> Result<Separation> {
    Ok(counted(&explained(design, theta)?))
}

fn counted(explained: &[bool]) -> Separation {
    match explained.iter().filter(|e| **e).count() {
        0 => Separation::None,
        all if all == explained.len() => Separation::Complete,
        explained => Separation::Quasi { explained },
    }
}

/// For each pair, whether some direction u with Xu ≥ 0 explains it strictly, `[n]`.
pub(super) fn explained<P: Pairs>(design: &P, theta: &[f64]) -> Result<Vec<bool>> {
    check::len("theta", design.dim(), theta.len())?;
    let (mut rest, mut weights, mut origin) = scaled(design, theta)?;
    let mut out = vec![false; design.n()];
    while rest.n() > 0 {
        let Some(direction) = separating_direction(&rest, &weights)? else {
            break;
        };
        let margins = rest.margins(direction.as_slice());
        let kept: Vec<usize> = (0..rest.n()).filter(|&i| margins[i] <= ZERO).collect();
        if kept.len() == rest.n() {
            break;
        }
        for i in (0..rest.n()).filter(|&i| margins[i] > ZERO) {
            out[origin[i]] = true;
        }
        weights = kept.iter().map(|&i| weights[i]).collect();
        origin = kept.iter().map(|&i| origin[i]).collect();
        rest = rest.select(&kept);
    }
    Ok(out)
}

/// The rows other than 0, columns and rows scaled to one size; for each the weight ℓσ(−z) it has in the gradient of
/// the likelihood at `theta`, ℓ its length, and which pair it is. Scaling by positive numbers separates nothing and
/// joins nothing.
fn scaled<P: Pairs>(design: &P, theta: &[f64]) -> Result<(P, Vec<f64>, Vec<usize>)> {
    let margins = design.margins(theta);
    let origin: Vec<usize> = (0..design.n()).filter(|&i| !design.is_zero(i)).collect();
    let mut rows = design.select(&origin);
    let mut weights: Vec<f64> = origin.iter().map(|&i| sigmoid(-margins[i])).collect();
    // Twice, as scaling rows spoils the columns; rows last.
    for _ in 0..2 {
        for (i, length) in rows.equilibrate().into_iter().enumerate() {
            // Entries so far apart that the scaled ones vanish.
            if !(length > 0.0 && length.is_finite()) {
                return Err(Error::NonFinite {
                    what: format!("length of pair {} in scaled columns", origin[i]),
                    value: length,
                });
            }
            weights[i] *= length;
        }
    }
    Ok((rows, weights, origin))
}

/// A unit u with Xu ≥ 0 and Xu ≠ 0, or `None` when there is none. Rows have length 1.
fn separating_direction<P: Pairs>(rows: &P, weights: &[f64]) -> Result<Option<DVector<f64>>> {
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
        rows.add(i, *p, &mut pull);
    }
    // What rounding leaves of a sum of so many terms, far below what a separated row contributes.
    let nothing = 1e-12 * start.iter().sum::<f64>().max(1.0);
    Nearest::new(rows, pull).solve(nothing)
}
