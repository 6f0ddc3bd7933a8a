//! C_lin: how well pair differences cover a direction of the features.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::data_law::Attained;
use super::{DataLaw, action_covariance, check_policy, visitation};
use crate::check;
use crate::estimate::{Design, information};
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use crate::{Error, Result};

/// Theorem B.1, partial coverage: E\[xxᵀ\], x = ψ(τ¹) − ψ(τ²), of the data, ready to be held against directions.
///
/// C_lin(v) = max_w (wᵀv)²/(wᵀE\[xxᵀ\]w) = vᵀE\[xxᵀ\]⁺v, +∞ off the range. With N pairs Σ_𝒟 ⪰ N·E\[xxᵀ\], so
/// ‖v‖_{Σ_𝒟⁻¹} ≤ √(C_lin(v)/N).
#[derive(Debug, Clone)]
pub struct LinearCoverage {
    second_moment: DMatrix<f64>,
    /// The unit of each coordinate; 0 where no pair differs in it.
    unit: DVector<f64>,
    /// Orthonormal columns that span the range in these units.
    range: DMatrix<f64>,
    factor: Factor,
    /// A direction leaves the range when more than this share of it does.
    tolerance: f64,
}

/// What E\[xxᵀ\] on its range, in the units of the coordinates, is inverted with.
#[derive(Debug, Clone)]
enum Factor {
    /// Eigenvalues whose eigenvectors are the columns of the range.
    Values(Vec<f64>),
    /// R of the rows √w x/√n = QR in the coordinates `pivots`. Nothing is squared: a pair may weigh e^−1400.
    Rows { pivots: Vec<usize>, r: DMatrix<f64> },
}

/// √C_lin, or a sum of it over the steps of a response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Root {
    /// Its value, +∞ off the range.
    pub value: f64,
    /// A bound on how far rounding moved it.
    pub rounding: f64,
}

/// Eigenvalues of the scaled matrix (diagonal 1) up to this times d count as 0.
const RANK_TOLERANCE: f64 = 1e-12;
/// Least and largest share of a direction outside of the range that may be rounding.
const RANGE_TOLERANCE: [f64; 2] = [1e-12, 1e-9];
/// A coordinate in which no pair differs is 0 up to this share of the terms that add up to it.
const ROUNDING: f64 = 1e-12;
/// What is left of a coordinate is 0 up to this many units in the last place of the terms that it is left of.
const LAST_PLACES: f64 = 16.0;

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
                // What rounding left of a feature whose sum is the same for every response is no variance.
                for k in constant_features(mdp, mu, features) {
                    moment.row_mut(k).fill(0.0);
                    moment.column_mut(k).fill(0.0);
                }
                Self::new(moment)
            }
            // A design has no differences that are rounding of the features.
            DataLaw::Pairs(pairs) => {
                Self::of_design(&Design::from_pairs(mdp, features, pairs)?, None)
            }
        }
    }

    /// Of given pairs: (1/n) Σ_i w_i x_i x_iᵀ, w_i = σ′(x_iᵀθ) of the observed information at θ, or 1 without one. The range
    /// is that of the pairs, whatever they weigh.
    ///
    /// # Errors
    /// [`Error::Config`] without pairs; [`Error::Shape`] unless θ is `[d]`.
    pub fn of_design(design: &Design, theta: Option<&[f64]>) -> Result<Self> {
        let n = design.n();
        if n == 0 {
            return Err(Error::config("preferences", "none", "at least one pair"));
        }
        let span = design.scaled_span();
        let (pivots, r) = design.pivoted_triangle(&span, theta)?;
        let moment = match theta {
            None => design.gram(),
            Some(theta) => information(design, theta)?,
        };
        Ok(Self {
            second_moment: moment / n as f64,
            unit: DVector::from_column_slice(&span.scales),
            tolerance: tolerance(span.basis.nrows(), span.least_pivot),
            factor: Factor::Rows {
                pivots,
                r: r / (n as f64).sqrt(),
            },
            range: span.basis,
        })
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
        let values: Vec<f64> = kept.iter().map(|k| eigen.eigenvalues[*k]).collect();
        let least = values.iter().copied().fold(1.0, f64::min);
        Ok(Self {
            range: DMatrix::from_fn(d, kept.len(), |i, k| eigen.eigenvectors[(i, kept[k])]),
            factor: Factor::Values(values),
            tolerance: tolerance(d, least),
            second_moment,
            unit,
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
        self.at_sum(v, &absolute(v))
    }

    /// The same for a v that is a sum in which terms may have cancelled, as expectations of φ are: `size` is the sum of their
    /// absolute values, `[d]`, beside which the rounding of v counts.
    ///
    /// # Errors
    /// [`Error::Shape`] unless v and `size` are `[d]`.
    pub fn at_sum(&self, v: &[f64], size: &[f64]) -> Result<Attained<Vec<f64>>> {
        Ok(match self.whitened(v, size)? {
            Err(at) => Attained {
                value: f64::INFINITY,
                at,
            },
            Ok(y) => Attained {
                value: y.norm_squared(),
                at: self.direction(&self.maximiser(y)),
            },
        })
    }

    /// √C_lin(v), finite long after C_lin(v) itself is too large for floating point, with a bound on its rounding; `size` as in
    /// [`Self::at_sum`], and each entry of v is off by at most `off`. Pairs of next to no weight make much of what is rounding in v.
    ///
    /// # Errors
    /// [`Error::Shape`] unless v, `size` and `off` are `[d]`.
    pub fn root(&self, v: &[f64], size: &[f64], off: &[f64]) -> Result<Root> {
        check::len("rounding of the direction", self.unit.len(), off.len())?;
        Ok(match self.whitened(v, size)? {
            Err(_) => Root {
                value: f64::INFINITY,
                rounding: 0.0,
            },
            Ok(y) => Root {
                value: length(y.as_slice()),
                rounding: self.rounding(v, off, &y),
            },
        })
    }

    /// A bound on the error of the y of [`Self::whitened`] in length: that of v and of the solve, carried through the solve.
    fn rounding(&self, v: &[f64], off: &[f64], y: &DVector<f64>) -> f64 {
        let unit = 4.0 * f64::EPSILON;
        let in_units = |x: f64, k: usize| match self.unit[k] {
            0.0 => 0.0,
            unit => x / unit,
        };
        let at = |k: usize| (in_units(v[k], k), in_units(off[k], k));
        let divided = |off: f64, by: f64| if off == 0.0 { 0.0 } else { off / by };
        let errors: Vec<f64> = match &self.factor {
            Factor::Values(values) => {
                let by_value = values.iter().enumerate().map(|(j, l)| {
                    let entries = self.range.column(j);
                    let terms = entries.iter().enumerate().map(|(k, e)| {
                        let (v, off) = at(k);
                        e.abs() * (off + unit * v.abs())
                    });
                    divided(terms.sum(), l.sqrt())
                });
                by_value.collect()
            }
            Factor::Rows { pivots, r } => {
                let mut errors: Vec<f64> = Vec::with_capacity(y.len());
                for (i, k) in pivots.iter().enumerate() {
                    let (v, off) = at(*k);
                    let (mut left, mut off) = (v, off + unit * v.abs());
                    for (j, error) in errors.iter().enumerate() {
                        let term = r[(j, i)] * y[j];
                        left -= term;
                        off += r[(j, i)].abs() * error + unit * term.abs();
                    }
                    // What was taken for rounding may have been more.
                    off += (left - r[(i, i)] * y[i]).abs();
                    errors.push(divided(off, r[(i, i)].abs()) + unit * y[i].abs());
                }
                errors
            }
        };
        length(&errors)
    }

    /// A y with ‖y‖² = C_lin(v), or a direction in which v leaves the range.
    fn whitened(
        &self,
        v: &[f64],
        size: &[f64],
    ) -> Result<std::result::Result<DVector<f64>, Vec<f64>>> {
        let d = self.unit.len();
        check::len("direction", d, v.len())?;
        check::len("size of the direction", d, size.len())?;
        // A coordinate of v in which no pair differs.
        let outside = |k: &usize| self.unit[*k] == 0.0 && v[*k].abs() > ROUNDING * size[*k];
        if let Some(k) = (0..d).find(outside) {
            let mut at = vec![0.0; d];
            at[k] = v[k].signum();
            return Ok(Err(at));
        }
        let in_units = |x: &[f64]| {
            let seen = x.iter().zip(&self.unit).map(|(x, unit)| match *unit {
                0.0 => 0.0,
                unit => x / unit,
            });
            DVector::from_iterator(d, seen)
        };
        let u = in_units(v);
        let coordinates = self.range.tr_mul(&u);
        let rest = &u - &self.range * &coordinates;
        if rest.norm() > self.tolerance * in_units(size).norm() {
            return Ok(Err(self.direction(&rest)));
        }
        Ok(Ok(match &self.factor {
            Factor::Values(values) => {
                coordinates.zip_map(&DVector::from_column_slice(values), |c, l| c / l.sqrt())
            }
            Factor::Rows { pivots, r } => {
                let size = in_units(size);
                let mut y = DVector::from_iterator(pivots.len(), pivots.iter().map(|k| u[*k]));
                for i in 0..y.len() {
                    let mut left = y[i];
                    let mut terms = size[pivots[i]];
                    for j in 0..i {
                        left -= r[(j, i)] * y[j];
                        terms += (r[(j, j)] * y[j]).abs();
                    }
                    // A pair of next to no weight makes much of what is rounding.
                    if left.abs() <= LAST_PLACES * f64::EPSILON * terms {
                        left = 0.0;
                    } else if r[(i, i)] == 0.0 {
                        return Ok(Ok(DVector::repeat(y.len(), f64::INFINITY)));
                    }
                    y[i] = if left == 0.0 { 0.0 } else { left / r[(i, i)] };
                }
                y
            }
        }))
    }

    /// A multiple of E\[xxᵀ\]⁺v for the y of v, in the units of the coordinates.
    fn maximiser(&self, mut y: DVector<f64>) -> DVector<f64> {
        let top = y.amax();
        if top == 0.0 || !top.is_finite() {
            return DVector::zeros(self.unit.len());
        }
        y /= top;
        match &self.factor {
            Factor::Values(values) => {
                let weights = y.zip_map(&DVector::from_column_slice(values), |y, l| y / l.sqrt());
                &self.range * weights
            }
            Factor::Rows { pivots, r } => {
                let mut w = DVector::zeros(self.unit.len());
                for i in (0..y.len()).rev() {
                    let known: f64 = (i + 1..y.len()).map(|j| r[(i, j)] * w[pivots[j]]).sum();
                    let x = (y[i] - known) / r[(i, i)];
                    w[pivots[i]] = x;
                    // Only its direction counts.
                    if x.abs() > 1e100 {
                        w /= x.abs();
                        y /= x.abs();
                    }
                }
                &self.range * self.range.tr_mul(&w)
            }
        }
    }

    /// A direction of the scaled problem in the units of the features, of length 1.
    fn direction(&self, scaled: &DVector<f64>) -> Vec<f64> {
        let in_features = |(w, unit): (&f64, &f64)| if *unit == 0.0 { 0.0 } else { w / unit };
        let w: Vec<f64> = scaled
            .iter()
            .zip(self.unit.iter())
            .map(in_features)
            .collect();
        match length(&w) {
            0.0 => w,
            length => w.iter().map(|x| x / length).collect(),
        }
    }

    /// Theorem 4.2 restated: Σ_h E_π\[√C_lin(φ(s_h, a_h))\], and the pair of the largest C_lin among those that π
    /// visits, the sum with a bound on its rounding. +∞ as soon as one of their features leaves the range, as one-hot tokens do.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn along(
        &self,
        mdp: &TabularMdp,
        policy: &TabularPolicy,
        features: &impl FeatureMap,
    ) -> Result<(Root, (StateIx, ActionIx))> {
        let d = visitation(mdp, policy)?;
        let mut phi = vec![0.0; features.dim()];
        let exact = phi.clone();
        let (mut total, mut rounding) = (0.0, 0.0);
        let mut worst = (-1.0, (StateIx(0), ActionIx(0)));
        for ((s, a), mass) in d.pair.indexed_iter().filter(|(_, d)| **d > 0.0) {
            let at = (StateIx(s as u32), ActionIx(a as u32));
            features.write(at.0, at.1, &mut phi);
            let root = self.root(&phi, &absolute(&phi), &exact)?;
            total += mass * root.value;
            rounding += mass * root.rounding;
            if root.value > worst.0 {
                worst = (root.value, at);
            }
        }
        let root = Root {
            value: total,
            rounding,
        };
        Ok((root, worst.1))
    }
}

fn absolute(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.abs()).collect()
}

/// ‖x‖₂, safe from overflow.
fn length(x: &[f64]) -> f64 {
    let top = x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if top == 0.0 || top.is_infinite() {
        return top;
    }
    top * x.iter().map(|x| (x / top).powi(2)).sum::<f64>().sqrt()
}

/// How much of a direction may leave a range of dimension up to `d` by rounding, where the smallest of its pivots or
/// eigenvalues is `least` of the largest.
fn tolerance(d: usize, least: f64) -> f64 {
    let rounding = 64.0 * d as f64 * f64::EPSILON / least;
    rounding.clamp(RANGE_TOLERANCE[0], RANGE_TOLERANCE[1])
}

/// The coordinates of ψ that are the same for every response of positive probability to a prompt, up to rounding.
fn constant_features(
    mdp: &TabularMdp,
    mu: &TabularPolicy,
    features: &impl FeatureMap,
) -> Vec<usize> {
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
    (0..dim).filter(|k| constant(*k)).collect()
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
