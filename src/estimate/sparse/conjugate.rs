//! Preconditioned conjugate gradients.

use nalgebra::DVector;

/// x ≈ M⁻¹b, and what the solve knows of it.
pub struct Solution {
    pub x: DVector<f64>,
    /// bᵀM⁻¹b, from below.
    pub energy: f64,
    /// ‖b − Mx‖ in the norm of the preconditioner, as a share of that of b or of √energy, whichever is less.
    pub left: f64,
}

/// Solves Mx = b for a symmetric M ≽ 0 with b in its range, by at most `limit` products, until no more than the share `left` is left.
pub fn solve(
    mut product: impl FnMut(&DVector<f64>) -> DVector<f64>,
    inverse: impl Fn(&DVector<f64>) -> DVector<f64>,
    b: &DVector<f64>,
    left: f64,
    limit: usize,
) -> Solution {
    let mut out = Solution {
        x: DVector::zeros(b.len()),
        energy: 0.0,
        left: 0.0,
    };
    let mut r = b.clone();
    let mut along = inverse(&r);
    let mut rz = r.dot(&along);
    let first = rz;
    if first <= 0.0 {
        return out;
    }
    out.left = 1.0;
    for _ in 0..limit {
        let image = product(&along);
        let curvature = along.dot(&image);
        if !(curvature > 0.0 && curvature.is_finite()) {
            break;
        }
        let step = rz / curvature;
        out.x.axpy(step, &along, 1.0);
        r.axpy(-step, &image, 1.0);
        out.energy += step * rz;
        let z = inverse(&r);
        let next = r.dot(&z).max(0.0);
        out.left = (next / first.min(out.energy)).sqrt();
        if out.left <= left {
            break;
        }
        along = z + along * (next / rz);
        rz = next;
    }
    out
}
