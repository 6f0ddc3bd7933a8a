//! Coordinates in which Θ = ellipsoid ∩ ball of (B.1) has the same size in every direction, whatever the features are
//! measured in, and in which both constraints are diagonal.

use nalgebra::{DMatrix, DVector};

use super::ConfidenceSet;
use crate::features::{DenseFeatures, FeatureMap};
use crate::mdp::Reachable;
use crate::{Error, Result};

/// θ = θ_MLE + U(v/s): U holds the eigenvectors of M, m its eigenvalues, s_j² = m_j/ϱ² + 1/B². Then
///
/// c₁(v) = Σ λ_j v_j² − 1 ≤ 0, λ_j = m_j/(ϱ s_j)², is the ellipsoid, and
/// c₂(v) = (2bᵀv + Σ (1−λ_j) v_j² − γ)/q ≤ 0 the ball, with γ = 1 − ‖θ_MLE‖²/B² ≥ 0 and q such that no coefficient
/// exceeds 1. No v in Θ is longer than √5.
pub(super) struct Frame {
    center: DVector<f64>,
    axes: DMatrix<f64>,
    stretch: DVector<f64>,
    lambda: DVector<f64>,
    rest: DVector<f64>,
    slope: DVector<f64>,
    gap: f64,
    unit: f64,
    /// Whether there is a ball.
    pub bounded: bool,
}

impl Frame {
    /// For ϱ > 0.
    pub fn of(set: &ConfidenceSet<'_>) -> Self {
        let (axes, roots) = principal_axes(set.metric.lower());
        let center = DVector::from_column_slice(set.center);
        let bounded = set.param_bound.is_finite();
        let inverse = if bounded { 1.0 / set.param_bound } else { 0.0 };
        let narrow = roots / set.radius;
        let stretch = narrow.map(|a| a.hypot(inverse));
        let lambda = narrow.component_div(&stretch).map(|x| x * x);
        let rest = stretch.map(|s| (inverse / s) * (inverse / s));
        let inside = axes.tr_mul(&center) * inverse;
        let slope = inside.zip_map(&stretch, |c, s| c * (inverse / s));
        let norm = inside.norm();
        let gap = ((1.0 - norm) * (1.0 + norm)).max(0.0);
        let unit = gap.max(2.0 * slope.norm()).max(rest.max());
        Self {
            center,
            axes,
            stretch,
            lambda,
            rest,
            slope,
            gap,
            unit: if unit > 0.0 { unit } else { 1.0 },
            bounded,
        }
    }

    pub fn dim(&self) -> usize {
        self.center.len()
    }

    pub fn theta(&self, v: &DVector<f64>) -> DVector<f64> {
        &self.center + self.displacement(v)
    }

    /// A step in v as one in θ.
    pub fn displacement(&self, v: &DVector<f64>) -> DVector<f64> {
        &self.axes * v.component_div(&self.stretch)
    }

    /// φ(s, a) in the coordinates of v, where φᵀθ is the reward: a difference of features that is small beside them is taken of
    /// numbers of its own size, and a covariance has no negative eigenvalue in a direction that features do not differ in. Pairs
    /// that no episode meets have 0.
    pub fn features(&self, map: &impl FeatureMap, met: &Reachable) -> Result<DenseFeatures> {
        let (dim, (states, actions)) = (self.dim(), map.shape());
        let mut values = vec![0.0; states * actions * dim];
        let mut phi = DVector::zeros(dim);
        for (s, a) in met.pairs() {
            map.write(s, a, phi.as_mut_slice());
            let row = (s.ix() * actions + a.ix()) * dim;
            let v = self.axes.tr_mul(&phi).component_div(&self.stretch);
            if let Some(x) = v.iter().find(|x| !x.is_finite()) {
                return Err(Error::NonFinite {
                    what: "a feature times the radius of the confidence set".into(),
                    value: *x,
                });
            }
            values[row..row + dim].copy_from_slice(v.as_slice());
        }
        DenseFeatures::try_new(states, actions, dim, values)
    }

    /// A point well inside both constraints.
    pub fn interior(&self) -> DVector<f64> {
        let mut v = DVector::zeros(self.dim());
        let slope = self.slope.norm();
        if self.bounded && self.gap < 0.1 * self.unit && slope > 0.0 {
            // Towards the middle of the ball.
            let direction = &self.slope / slope;
            let bend = direction.component_mul(&direction).dot(&self.rest);
            v = direction * -(0.5f64).min(0.5 * slope / bend.max(f64::MIN_POSITIVE));
        }
        v
    }

    /// c₁ and, where there is a ball, c₂.
    pub fn constraints(&self, v: &DVector<f64>) -> Vec<f64> {
        let squares = v.component_mul(v);
        let mut out = vec![self.lambda.dot(&squares) - 1.0];
        if self.bounded {
            out.push((2.0 * self.slope.dot(v) + self.rest.dot(&squares) - self.gap) / self.unit);
        }
        out
    }

    /// ∇c_i.
    pub fn normal(&self, i: usize, v: &DVector<f64>) -> DVector<f64> {
        match i {
            0 => self.lambda.component_mul(v) * 2.0,
            _ => (&self.slope + self.rest.component_mul(v)) * (2.0 / self.unit),
        }
    }

    /// The diagonal of ∇²c_i.
    pub fn bend(&self, i: usize) -> DVector<f64> {
        match i {
            0 => &self.lambda * 2.0,
            _ => &self.rest * (2.0 / self.unit),
        }
    }

    /// Multipliers of c₁, c₂ as those of ‖θ−θ_MLE‖²_M − ϱ² and ‖θ‖² − B².
    pub fn multipliers(&self, set: &ConfidenceSet<'_>, m: &[f64]) -> (f64, f64) {
        let ball = m
            .get(1)
            .map_or(0.0, |m| m / set.param_bound / set.param_bound / self.unit);
        (m[0] / set.radius / set.radius, ball)
    }

    /// A lower bound on min gᵀv over Θ by weak duality: the best of the ellipsoid alone, the ball alone, and the
    /// Lagrangian near the multipliers given.
    pub fn linear_lower_bound(&self, g: &DVector<f64>, start: &[f64]) -> f64 {
        let ratio = |weights: &DVector<f64>| -> f64 {
            let terms = g.iter().zip(weights.iter());
            terms
                .map(|(g, w)| if *g == 0.0 { 0.0 } else { g * g / w })
                .sum::<f64>()
                .sqrt()
        };
        let mut best = -ratio(&self.lambda);
        if !self.bounded {
            return best;
        }
        // v + k runs over the ball of the norm √Σ(1−λ)v², k = b/(1−λ).
        let k = self.slope.component_div(&self.rest);
        let ball = -g.dot(&k) - ratio(&self.rest);
        if ball.is_finite() {
            best = best.max(ball);
        }
        let mut m = [
            start[0].max(0.0),
            start.get(1).copied().unwrap_or(0.0).max(0.0),
        ];
        for _ in 0..12 {
            let Some((value, slope, bend)) = self.lagrangian(g, m) else {
                break;
            };
            best = best.max(value);
            let determinant = bend[0] * bend[2] - bend[1] * bend[1];
            let step = [
                (bend[1] * slope[1] - bend[2] * slope[0]) / determinant,
                (bend[1] * slope[0] - bend[0] * slope[1]) / determinant,
            ];
            let next = [m[0] + step[0], m[1] + step[1]];
            if next.iter().any(|m| !m.is_finite() || *m < 0.0) || next == m {
                break;
            }
            m = next;
        }
        best
    }

    /// min_v gᵀv + m₁c₁ + m₂c₂ with its gradient and Hessian (three entries) in m.
    fn lagrangian(&self, g: &DVector<f64>, m: [f64; 2]) -> Option<(f64, [f64; 2], [f64; 3])> {
        let m2 = m[1] / self.unit;
        let (mut value, mut bend) = (-m[0] - m2 * self.gap, [0.0; 3]);
        let mut v = DVector::zeros(self.dim());
        for j in 0..self.dim() {
            let pull = g[j] + 2.0 * m2 * self.slope[j];
            let weight = m[0] * self.lambda[j] + m2 * self.rest[j];
            if pull == 0.0 {
                continue;
            }
            if weight <= 0.0 {
                return None;
            }
            v[j] = -pull / (2.0 * weight);
            value += 0.5 * pull * v[j];
            let first = self.lambda[j] * v[j];
            let second = (self.slope[j] + self.rest[j] * v[j]) / self.unit;
            bend[0] -= 2.0 * first * first / weight;
            bend[1] -= 2.0 * first * second / weight;
            bend[2] -= 2.0 * second * second / weight;
        }
        let c = self.constraints(&v);
        value.is_finite().then_some((value, [c[0], c[1]], bend))
    }
}

/// U and √m of LLᵀ = U diag(m) Uᵀ, by Jacobi's one-sided rotations of the columns of L, which keep small eigenvalues as
/// exact as large ones.
fn principal_axes(mut l: DMatrix<f64>) -> (DMatrix<f64>, DVector<f64>) {
    let d = l.ncols();
    for _ in 0..60 {
        let mut turned = false;
        for p in 0..d {
            for q in p + 1..d {
                let (a, b) = (l.column(p).norm(), l.column(q).norm());
                let cross = l.column(p).dot(&l.column(q));
                if a == 0.0 || b == 0.0 || (cross / a / b).abs() <= 1e-15 {
                    continue;
                }
                turned = true;
                let zeta = 0.5 * (b / a - a / b) / (cross / a / b);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = c * t;
                for i in 0..d {
                    let (x, y) = (l[(i, p)], l[(i, q)]);
                    (l[(i, p)], l[(i, q)]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
        if !turned {
            break;
        }
    }
    let roots = DVector::from_iterator(d, l.column_iter().map(|c| c.norm()));
    for (j, mut column) in l.column_iter_mut().enumerate() {
        column /= roots[j];
    }
    (l, roots)
}
