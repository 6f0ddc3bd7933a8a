//! Coverage of additive rewards: by how much data from one law can mislead about another.

use nalgebra::{DMatrix, SymmetricEigen};

use crate::check;
use crate::{Error, Result};

/// Directions with less than this share of the largest second moment are outside the data's span.
const SPAN: f64 = 1e-12;

/// C_add = max over f of E_π[(ψᵀf)²]/E_μ[(ψᵀf)²], the change-of-trajectory-measure coefficient of rewards that are linear in
/// the features ψ(τ) (`[n, d]`, row by row) of n trajectories; π and μ are laws on them. Directions that μ never moves in are
/// left out, as a reward along them is identified by neither.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NonFinite`] should a feature not be finite; [`Error::NotADistribution`] for the laws;
/// [`Error::Config`] should no feature move under the data.
pub fn additive_coverage(
    features: &[f64],
    dim: usize,
    target: &[f64],
    data: &[f64],
) -> Result<f64> {
    check::at_least_one("features", dim)?;
    let n = target.len();
    check::len("data law", n, data.len())?;
    check::len("features", n * dim, features.len())?;
    check::finite(
        |i| format!("feature {} of trajectory {}", i % dim, i / dim),
        features,
    )?;
    check::distribution(|| "target law".into(), target)?;
    check::distribution(|| "data law".into(), data)?;
    let moment = |law: &[f64]| -> DMatrix<f64> {
        let mut m = DMatrix::<f64>::zeros(dim, dim);
        for (row, p) in features.chunks(dim).zip(law) {
            for (i, x) in row.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                for (j, y) in row.iter().enumerate() {
                    m[(i, j)] += p * x * y;
                }
            }
        }
        m
    };
    let eigen = SymmetricEigen::new(moment(data));
    let largest = eigen.eigenvalues.iter().copied().fold(0.0, f64::max);
    if largest == 0.0 {
        let must = "a feature that is not 0 on some trajectory of the data";
        return Err(Error::config("features", dim, must));
    }
    let kept: Vec<usize> = (0..dim)
        .filter(|&k| eigen.eigenvalues[k] > SPAN * largest)
        .collect();
    let whitened = DMatrix::from_fn(dim, kept.len(), |i, k| {
        eigen.eigenvectors[(i, kept[k])] / eigen.eigenvalues[kept[k]].sqrt()
    });
    Ok((whitened.transpose() * moment(target) * &whitened)
        .symmetric_eigenvalues()
        .max())
}
