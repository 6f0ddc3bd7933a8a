//! Which constraints of Θ hold the minimiser of (B.1), where floating point can tell.

use nalgebra::DVector;

use super::frame::Frame;

/// A residual above this many times the noise of the gradient is none of it.
const CLEAR: f64 = 1000.0;
/// A residual of at most this many times the noise is none.
const NONE: f64 = 10.0;
/// Slack, as a share of Θ, beyond which a point is not said to lie on a constraint.
const SLACK: f64 = 1e-6;

/// Whether each constraint is active: whether *every* multiplier of a KKT point is positive, so that the minimiser moves
/// without the constraint. A constraint that touches and holds nothing is not active.
///
/// g is the gradient of the objective at v and m the multipliers found, both in the coordinates of the [`Frame`], where Θ
/// has size 1 in every direction; so no unit of features or rewards has a part in this. What is left of the KKT equations
/// when one constraint must do without a multiplier, min over m_j ≥ 0 of ‖g + m_j∇c_j‖ + m_j|c_j|, is compared with the
/// `noise` of the gradient and with what is left of them in all:
///
/// * clear of the noise: the constraint is active;
/// * lost in it, and the other constraint is active or g itself is lost in it: not active;
/// * otherwise `None`. Either constraint alone would hold the point (the two coincide or are tangent there), or the
///   multiplier is hardly more than its rounding.
pub(super) fn active(
    frame: &Frame,
    v: &DVector<f64>,
    g: &DVector<f64>,
    m: &[f64],
    noise: f64,
) -> Vec<Option<bool>> {
    let c = frame.constraints(v);
    let normals: Vec<_> = (0..c.len()).map(|i| frame.normal(i, v)).collect();
    let residual = |m: &[f64]| -> f64 {
        let (mut left, mut slack) = (g.clone(), 0.0);
        for ((m, n), c) in m.iter().zip(&normals).zip(&c) {
            left.axpy(*m, n, 1.0);
            slack += m * c.abs();
        }
        left.norm() + slack
    };
    // What is left with one multiplier at most, its best.
    let alone = |i: usize| -> f64 {
        let mut only = vec![0.0; c.len()];
        let square = normals[i].norm_squared();
        if square > 0.0 {
            only[i] = (-g.dot(&normals[i]) / square).max(0.0);
        }
        residual(&only).min(g.norm())
    };
    let nothing = g.norm();
    let without: Vec<f64> = match c.len() {
        1 => vec![nothing],
        _ => vec![alone(1), alone(0)],
    };
    let all = without.iter().fold(residual(m), |least, x| least.min(*x));
    let noise = noise.max(all);
    let clear = |x: f64| x > CLEAR * noise;
    let none = |x: f64| x <= NONE * noise;
    (0..c.len())
        .map(|i| {
            let other_holds = without.iter().enumerate().any(|(j, x)| j != i && clear(*x));
            if clear(without[i]) {
                (c[i].abs() <= SLACK).then_some(true)
            } else if none(without[i]) && (other_holds || none(nothing)) {
                Some(false)
            } else {
                None
            }
        })
        .collect()
}
