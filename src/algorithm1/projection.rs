//! Errata, B5: which directions of θ policies can differ in, and whether a projected bonus measures them.

use crate::Result;
use crate::estimate::{Design, RowSpace};
use crate::features::FeatureMap;
use crate::mdp::{Reachable, TabularMdp, TabularPolicy};
use crate::plan::for_each_feature_advantage;

/// What rounding may leave of a coordinate of φ, relative to its largest value.
const ROUNDING: f64 = 1e-9;

/// Errata, B5: The rows φ(s, a) + E_{s′}\[m(s′)\] − m(s), m(s) = E_{π_ref}\[Σ_h φ | s\], of every pair that a policy with the
/// support of π_ref can meet.
///
/// Their span is that of E_{d^π}\[φ\] − E_{d^π′}\[φ\] over two policies: each difference is a sum of rows weighted by
/// d^π (the performance difference lemma, coordinate by coordinate), and each row is the gain of deviating
/// from π_ref once. On a deterministic table it is the span of ψ(τ) − ψ(τ′) over two responses to one prompt.
///
/// [`RowSpace::of`] these rows is the projection of the bonus (4.2) with which Theorem 4.2 holds whatever the
/// pairs. Pairs that span it make Algorithm 1 consistent; pairs that do not leave a bonus that stays.
///
/// # Errors
/// [`crate::Error::Shape`] when the parts do not fit.
pub fn policy_differences(
    mdp: &TabularMdp,
    features: &impl FeatureMap,
    reference: &TabularPolicy,
) -> Result<Design> {
    let mut rows = Vec::new();
    let met = Reachable::new(mdp, reference)?;
    for_each_feature_advantage(mdp, reference, features, |s, a, row, _| {
        if met.pair(s, a) {
            rows.extend_from_slice(row);
        }
    })?;
    Design::try_new(features.dim(), rows)
}

/// Errata, B5: Whether `space` holds every row of [`policy_differences`] up to rounding of each coordinate in its own unit: what
/// the projection takes from φ then adds the same to the value of every policy.
///
/// # Errors
/// [`crate::Error::Shape`] when the parts do not fit.
pub fn holds_differences(
    mdp: &TabularMdp,
    features: &impl FeatureMap,
    reference: &TabularPolicy,
    space: &RowSpace,
) -> Result<bool> {
    let differences = policy_differences(mdp, features, reference)?;
    let largest = largest_coordinates(&Reachable::new(mdp, reference)?, features);
    Ok((0..differences.n()).all(|i| {
        let row = differences.row(i);
        let kept = space.project(row);
        let dropped = row.iter().zip(&kept).map(|(x, k)| (x - k).abs());
        dropped.zip(&largest).all(|(d, l)| d <= ROUNDING * l)
    }))
}

/// max |φ_k(s, a)| over what can be met, for each k, `[d]`: rounding in a coordinate is relative to it.
fn largest_coordinates(met: &Reachable, features: &impl FeatureMap) -> Vec<f64> {
    let mut largest = vec![0.0f64; features.dim()];
    let mut phi = largest.clone();
    for (s, a) in met.pairs() {
        features.write(s, a, &mut phi);
        for (l, x) in largest.iter_mut().zip(&phi) {
            *l = l.max(x.abs());
        }
    }
    largest
}
