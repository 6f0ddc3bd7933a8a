//! Whether (4.1) has a finite maximiser without the ball: separation in the sense of Albert and
//! Anderson (1984), decided with a certificate either way.

mod nearest;

use nalgebra::DVector;

use self::nearest::Nearest;
use super::design::Design;
use crate::Result;
use crate::mdp::check_len;
use crate::numerics::sigmoid;

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
/// strictly. Rows are scaled to length 1, and numbers below 1e-9 count as 0.
///
/// # Errors
/// [`crate::Error::Shape`] unless θ is `[d]`; [`crate::Error::NotConverged`].
pub fn separation(design: &Design, theta: &[f64]) -> Result<Separation> {
    check_len("theta", design.dim(), theta.len())?;
    let (mut rest, mut weights) = scaled(design, theta)?;
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

/// The rows other than 0, scaled to length 1, and for each the weight ℓσ(−z) it has in the gradient of the
/// likelihood at `theta`, ℓ its length.
fn scaled(design: &Design, theta: &[f64]) -> Result<(Design, Vec<f64>)> {
    let margins = design.margins(theta)?;
    let norms = design.norms();
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    for i in (0..design.n()).filter(|&i| norms[i] > 0.0) {
        rows.extend(design.row(i).iter().map(|x| x / norms[i]));
        weights.push(norms[i] * sigmoid(-margins[i]));
    }
    Ok((Design::try_new(design.dim(), rows)?, weights))
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
