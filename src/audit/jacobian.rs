//! D = ∂E\[g\]/∂θ by dual numbers, and what it says: is the field a gradient?

use super::field::field;
use super::prepared::Prepared;
use super::problem::Problem;
use super::recipe::Recipe;
use super::variance::pull_back;
use crate::Result;
use crate::dual::{Dual, Real};

/// Directions of one pass.
const LANES: usize = 8;

/// D[i][j] = ∂E\[g\]_i/∂θ_j, `[P][P]` row by row, where behaviour, advantages and critic move with θ unless `old` fixes them. With features
/// Φ, `[P][d]`, it is Φᵀ D Φ, `[d][d]`.
pub(super) fn jacobian(
    problem: &Problem,
    recipe: &Recipe,
    theta: &[f64],
    old: Option<&[f64]>,
    features: Option<(&[f64], usize)>,
) -> Result<Vec<f64>> {
    let width = features.map_or(theta.len(), |f| f.1);
    let mut out = vec![0.0; width * width];
    for first in (0..width).step_by(LANES) {
        let lift = |(i, v): (usize, &f64)| {
            let mut tangent = [0.0; LANES];
            for (k, t) in tangent.iter_mut().enumerate().take(width - first) {
                *t = match features {
                    None => f64::from(u8::from(i == first + k)),
                    Some((phi, d)) => phi[i * d + first + k],
                };
            }
            Dual::<LANES>::new(*v, tangent)
        };
        let theta: Vec<Dual<LANES>> = theta.iter().enumerate().map(lift).collect();
        let g = field(&Prepared::new(problem, recipe, &theta, old)?, &mut ());
        for k in 0..LANES.min(width - first) {
            let column: Vec<f64> = g.iter().map(|v| v.derivative(k)).collect();
            let column = match features {
                None => column,
                Some((phi, d)) => pull_back(phi, d, &column),
            };
            for (i, v) in column.iter().enumerate() {
                out[i * width + first + k] = *v;
            }
        }
    }
    Ok(out)
}

/// |D − Dᵀ|_F/2: zero on all of ℝ^P iff the field is the gradient of some function.
pub(super) fn curl(d: &[f64], n: usize) -> f64 {
    let mut square = 0.0;
    for i in 0..n {
        for j in 0..i {
            let gap = d[i * n + j] - d[j * n + i];
            square += 2.0 * gap * gap;
        }
    }
    square.sqrt() / 2.0
}

/// |x|₂.
pub(super) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest |x|, NaN if one is.
pub(super) fn largest<T: Real>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |m: f64, v| {
        let v = v.value().abs();
        if v.is_nan() { f64::NAN } else { m.max(v) }
    })
}
