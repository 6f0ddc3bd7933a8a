//! C_lin: how well pair differences cover a direction of the features.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::data_law::Attained;
use super::{DataLaw, action_covariance, check_policy, visitation};
use crate::estimate::Design;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy, check_len};
use crate::{Error, Result};

/// Theorem B.1, partial coverage: E\[xxᵀ\], x = ψ(τ¹) − ψ(τ²), of the data, ready to be held against directions.
///
/// C_lin(v) = max_w (wᵀv)²/(wᵀE\[xxᵀ\]w) = vᵀE\[xxᵀ\]⁺v, +∞ off the range. With N pairs Σ_𝒟 ⪰ N·E\[xxᵀ\], so
/// ‖v‖_{Σ_𝒟⁻¹} ≤ √(C_lin(v)/N).
#[derive(Debug, Clone)]
pub struct LinearCoverage {
    second_moment: DMatrix<f64>,
    /// √ of the diagonal: the unit of each coordinate.
    unit: DVector<f64>,
    /// Eigenvectors of positive eigenvalue of the matrix in these units, and those eigenvalues.
    basis: DMatrix<f64>,
    values: Vec<f64>,
    /// The largest Σ_h |φ_k| of a response of the data, beside which rounding of a coordinate counts; empty where it is
    /// not known.
    sizes: Vec<f64>,
}

/// Eigenvalues of the scaled matrix (diagonal 1) up to this times d count as 0.
const RANK_TOLERANCE: f64 = 1e-12;
/// A direction leaves the range when more than this share of it does.
const RANGE_TOLERANCE: f64 = 1e-9;
/// A coordinate up to this share of the features' size is rounding.
const ROUNDING: f64 = 1e-12;

impl LinearCoverage {
    /// Of the data: for a policy μ, pairs drawn independently from it at a prompt from ρ, so that
    /// E\[xxᵀ\] = 2 E_x\[Cov_μ(ψ|x)\]; for given pairs the mean over them.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Config`] without pairs; [`Error::NotConverged`] when the eigensolver fails.
    pub fn of(mdp: &TabularMdp, law: DataLaw<'_>, features: &impl FeatureMap) -> Result<Self> {
        match law {
            DataLaw::Policy(mu) => {
                let mut moment = 2.0 * response_covariance(mdp, mu, features)?;
                let (constant, sizes) = constant_features(mdp, mu, features);
                // What rounding left of a feature whose sum is the same for every response is no variance.
                for k in constant {
                    moment.row_mut(k).fill(0.0);
                    moment.column_mut(k).fill(0.0);
                }
                Ok(Self {
                    sizes,
                    ..Self::new(moment)?
                })
            }
            DataLaw::Pairs([]) => Err(Error::config("preferences", "none", "at least one pair")),
            DataLaw::Pairs(pairs) => {
                // A design has no differences that are rounding of the features.
                let design = Design::from_pairs(mdp, features, pairs)?;
                let mut sizes = vec![0.0f64; features.dim()];
                let mut phi = sizes.clone();
                for response in pairs.iter().flat_map(|p| [p.winner(), p.loser()]) {
                    let mut sum = vec![0.0; phi.len()];
                    for &(s, a) in response.steps() {
                        features.write(s, a, &mut phi);
                        sum.iter_mut().zip(&phi).for_each(|(t, x)| *t += x.abs());
                    }
                    sizes.iter_mut().zip(&sum).for_each(|(m, x)| *m = m.max(*x));
                }
                Ok(Self {
                    sizes,
                    ..Self::new(design.gram() / pairs.len() as f64)?
                })
            }
        }
    }

    /// From E\[xxᵀ\], `[d, d]`, symmetric and positive semidefinite.
    ///
    /// # Errors
    /// [`Error::NotConverged`] when the eigensolver fails.
    pub fn new(second_moment: DMatrix<f64>) -> Result<Self> {
        let d = second_moment.nrows();
        let unit = second_moment.diagonal().map(|x| x.max(0.0).sqrt());
        // A coordinate that never differs is out of the range, whatever its unit is.
        let scaled = DMatrix::from_fn(d, d, |i, j| match unit[i] * unit[j] {
            0.0 => 0.0,
            _ => second_moment[(i, j)] / unit[i] / unit[j],
        });
        let eigen = SymmetricEigen::try_new(scaled, f64::EPSILON, 10_000).ok_or_else(|| {
            Error::NotConverged {
                what: "eigenvalues of E[xx^T]".into(),
                iterations: 10_000,
                residual: f64::NAN,
            }
        })?;
        let kept: Vec<usize> = (0..d)
            .filter(|k| eigen.eigenvalues[*k] > RANK_TOLERANCE * d as f64)
            .collect();
        Ok(Self {
            basis: DMatrix::from_fn(d, kept.len(), |i, k| eigen.eigenvectors[(i, kept[k])]),
            values: kept.iter().map(|k| eigen.eigenvalues[*k]).collect(),
            second_moment,
            unit,
            sizes: Vec::new(),
        })
    }

    /// The same data with another E\[xxᵀ\], as when pairs are weighted.
    ///
    /// # Errors
    /// [`Error::NotConverged`] when the eigensolver fails.
    pub fn with_second_moment(self, second_moment: DMatrix<f64>) -> Result<Self> {
        Ok(Self {
            sizes: self.sizes,
            ..Self::new(second_moment)?
        })
    }

    /// E\[xxᵀ\], `[d, d]`.
    pub fn second_moment(&self) -> &DMatrix<f64> {
        &self.second_moment
    }

    /// C_lin(v) with the w that attains the maximum, of length 1: E\[xxᵀ\]⁺v, or where that is +∞ a w with
    /// E\[xxᵀ\]w = 0 and wᵀv > 0. For v = 0 the value is 0 and w = 0.
    ///
    /// # Errors
    /// [`Error::Shape`] unless v is `[d]`.
    pub fn at(&self, v: &[f64]) -> Result<Attained<Vec<f64>>> {
        let d = self.unit.len();
        check_len("direction", d, v.len())?;
        let top = v.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // A coordinate of v in which no pair differs.
        let rounding = |k: usize| match self.sizes.get(k) {
            Some(size) => ROUNDING * size,
            None => RANGE_TOLERANCE * top,
        };
        if let Some(k) = (0..d).find(|k| self.unit[*k] == 0.0 && v[*k].abs() > rounding(*k)) {
            let mut at = vec![0.0; d];
            at[k] = v[k].signum();
            let value = f64::INFINITY;
            return Ok(Attained { value, at });
        }
        let in_units = |k: usize| {
            if self.unit[k] == 0.0 {
                0.0
            } else {
                v[k] / self.unit[k]
            }
        };
        let u = DVector::from_fn(d, |k, _| in_units(k));
        let coordinates = self.basis.tr_mul(&u);
        let rest = &u - &self.basis * &coordinates;
        if rest.norm() > RANGE_TOLERANCE * u.norm() {
            return Ok(Attained {
                value: f64::INFINITY,
                at: self.direction(&rest),
            });
        }
        let weights = coordinates.iter().zip(&self.values);
        let value = weights.clone().map(|(c, l)| c * c / l).sum();
        let inverse = DVector::from_iterator(self.values.len(), weights.map(|(c, l)| c / l));
        Ok(Attained {
            value,
            at: self.direction(&(&self.basis * inverse)),
        })
    }

    /// A direction of the scaled problem in the units of the features, of length 1.
    fn direction(&self, scaled: &DVector<f64>) -> Vec<f64> {
        let in_features = |(w, unit): (&f64, &f64)| if *unit == 0.0 { 0.0 } else { w / unit };
        let w: Vec<f64> = scaled
            .iter()
            .zip(self.unit.iter())
            .map(in_features)
            .collect();
        let top = w.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        if top == 0.0 {
            return w;
        }
        let length = top * w.iter().map(|x| (x / top).powi(2)).sum::<f64>().sqrt();
        w.iter().map(|x| x / length).collect()
    }

    /// Theorem 4.2 restated: Σ_h E_π\[√C_lin(φ(s_h, a_h))\], and the pair of the largest C_lin among those that π
    /// visits. +∞ as soon as one of their features leaves the range, as one-hot tokens do.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn along(
        &self,
        mdp: &TabularMdp,
        policy: &TabularPolicy,
        features: &impl FeatureMap,
    ) -> Result<Attained<(StateIx, ActionIx)>> {
        let d = visitation(mdp, policy)?;
        let mut phi = vec![0.0; features.dim()];
        let mut total = 0.0;
        let mut worst = (-1.0, (StateIx(0), ActionIx(0)));
        for ((s, a), mass) in d.pair.indexed_iter().filter(|(_, d)| **d > 0.0) {
            let at = (StateIx(s as u32), ActionIx(a as u32));
            features.write(at.0, at.1, &mut phi);
            let value = self.at(&phi)?.value;
            total += mass * value.sqrt();
            if value > worst.0 {
                worst = (value, at);
            }
        }
        Ok(Attained {
            value: total,
            at: worst.1,
        })
    }
}

/// The coordinates of ψ that are the same for every response of positive probability to a prompt, up to rounding; and the
/// largest Σ_h |φ| of a response, `[d]`.
fn constant_features(
    mdp: &TabularMdp,
    mu: &TabularPolicy,
    features: &impl FeatureMap,
) -> (Vec<usize>, Vec<f64>) {
    let (n, na, dim) = (mdp.n_states(), mdp.n_actions(), features.dim());
    let mut phi = vec![0.0; dim];
    // Least and largest sum still to come from each state, and the largest sum of absolute values.
    let none = [f64::INFINITY, f64::NEG_INFINITY, 0.0];
    let mut ahead = vec![none; n * dim];
    for s in (0..n).rev() {
        for a in (0..na).filter(|a| mu.prob(StateIx(s as u32), ActionIx(*a as u32)) > 0.0) {
            features.write(StateIx(s as u32), ActionIx(a as u32), &mut phi);
            let (next, prob) = mdp.transition().row(s * na + a);
            for (to, _) in next.iter().zip(prob).filter(|(_, p)| **p > 0.0) {
                for (k, x) in phi.iter().enumerate() {
                    let rest = match *to {
                        StateIx::END => [0.0; 3],
                        to => ahead[to.ix() * dim + k],
                    };
                    let here = &mut ahead[s * dim + k];
                    here[0] = here[0].min(x + rest[0]);
                    here[1] = here[1].max(x + rest[1]);
                    here[2] = here[2].max(x.abs() + rest[2]);
                }
            }
        }
    }
    let rounding = 4.0 * f64::EPSILON * (mdp.horizon() + 1) as f64;
    let constant = |k: usize| {
        mdp.roots().all(|(root, _)| {
            let [low, high, size] = ahead[root.ix() * dim + k];
            high - low <= rounding * size
        })
    };
    let largest = |k: usize| {
        let sizes = mdp.roots().map(|(root, _)| ahead[root.ix() * dim + k][2]);
        sizes.fold(0.0, f64::max)
    };
    let sizes = (0..dim).map(largest).collect();
    ((0..dim).filter(|k| constant(*k)).collect(), sizes)
}

/// Theorem B.1, partial coverage: E_{x∼ρ}\[Cov_π(ψ | x)\], `[d, d]`: [`action_covariance`] and what the environment's own randomness adds,
/// E_{(s,a)∼d^π}\[Cov_{s′}(m(s′))\] with m(s) = E_π\[Σ φ | s\].
///
/// # Errors
/// [`Error::Shape`].
pub fn response_covariance(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    features: &impl FeatureMap,
) -> Result<DMatrix<f64>> {
    let mut out = action_covariance(mdp, policy, features)?;
    if mdp.is_deterministic() {
        return Ok(out);
    }
    check_policy(mdp, "policy", policy)?;
    let (n, na, dim) = (mdp.n_states(), mdp.n_actions(), features.dim());
    let mut mean = vec![DVector::zeros(dim); n];
    let mut phi = vec![0.0; dim];
    let d = visitation(mdp, policy)?.pair;
    for s in (0..n).rev() {
        let mut here = DVector::zeros(dim);
        for (a, p) in policy.probs(StateIx(s as u32)).into_iter().enumerate() {
            if p == 0.0 {
                continue;
            }
            let (next, prob) = mdp.transition().row(s * na + a);
            let possible = || next.iter().zip(prob).filter(|(_, p)| **p > 0.0);
            let value = |to: &StateIx| match *to {
                StateIx::END => DVector::zeros(dim),
                to => mean[to.ix()].clone(),
            };
            let expected = possible()
                .map(|(to, p)| value(to) * *p)
                .fold(DVector::zeros(dim), |sum, x| sum + x);
            if d[[s, a]] > 0.0 {
                for (to, p) in possible() {
                    let off = value(to) - &expected;
                    out.ger(d[[s, a]] * p, &off, &off, 1.0);
                }
            }
            features.write(StateIx(s as u32), ActionIx(a as u32), &mut phi);
            here += (DVector::from_column_slice(&phi) + expected) * p;
        }
        mean[s] = here;
    }
    Ok(out)
}
