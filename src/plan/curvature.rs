//! Second order in the reward: the Hessian of θ ↦ V*_β(ρ; θ) and the variance identity.

use nalgebra::DMatrix;

use super::rounding::of_log;
use super::{check_policy, visitation};
use crate::features::{DenseFeatures, FeatureMap};
use crate::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use crate::reward::{RewardFunction, check_reward};
use crate::{Error, Result};

/// Theorem B.1 (errata, B6): β ∇²_θ V*_β(ρ; θ) at the θ whose soft-optimal policy is `policy`, `[d, d]`:
/// E_{s∼d^π}\[Cov_{a∼π(·|s)}(φ(s, a) + E_{s′}\[m(s′)\])\] with m(s) = E_π\[Σ φ | s\].
///
/// On a deterministic table this is E_{x∼ρ}\[Cov_π(ψ | x)\], the covariance of the trajectory features. With
/// stochastic transitions it is smaller than that covariance, as the environment's own randomness
/// does not enter.
///
/// # Errors
/// [`Error::Shape`] when the parts do not fit.
pub fn action_covariance(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    features: &impl FeatureMap,
) -> Result<DMatrix<f64>> {
    let d = visitation(mdp, policy)?.pair;
    let mut out = DMatrix::zeros(features.dim(), features.dim());
    for_each_feature_advantage(mdp, policy, features, |s, a, row, _| {
        add_outer(&mut out, row, d[[s.ix(), a.ix()]]);
    })?;
    Ok(out)
}

/// Calls `visit(s, a, x, e)` on every pair, states from the last to the first, with
/// x = φ(s, a) + E_{s′}\[m(s′)\] − m(s), m(s) = E_π\[Σ φ | s\], `[d]`: what Q − V is to a reward; e bounds the rounding of x, entry by
/// entry. Two actions are subtracted before anything is averaged, so that a feature in which they do not differ is exactly 0.
///
/// # Errors
/// [`Error::Shape`] when the parts do not fit.
pub(crate) fn for_each_feature_advantage(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    features: &impl FeatureMap,
    mut visit: impl FnMut(StateIx, ActionIx, &[f64], &[f64]),
) -> Result<()> {
    check_policy(mdp, "policy", policy)?;
    let (n, na, dim) = (mdp.n_states(), mdp.n_actions(), features.dim());
    if features.shape() != (n, na) {
        return Err(Error::Shape {
            what: "features (state-action pairs)".into(),
            expected: n * na,
            got: features.shape().0 * features.shape().1,
        });
    }
    let (mut mean, mut of_mean) = (vec![0.0; n * dim], vec![0.0; n * dim]);
    let (mut rows, mut of_rows) = (vec![0.0; na * dim], vec![0.0; na * dim]);
    let (mut base, mut of_base) = (vec![0.0; dim], vec![0.0; dim]);
    let (mut shift, mut of_shift) = (vec![0.0; dim], vec![0.0; dim]);
    for s in (0..n).rev() {
        let state = StateIx(s as u32);
        let (log_pi, probs) = (policy.row(s), policy.probs(state));
        of_rows.fill(0.0);
        for (a, row) in rows.chunks_exact_mut(dim).enumerate() {
            features.write(state, ActionIx(a as u32), row);
            let off = &mut of_rows[a * dim..(a + 1) * dim];
            let (next, prob) = mdp.transition().row(s * na + a);
            for (to, p) in next.iter().zip(prob).filter(|(to, _)| **to != StateIx::END) {
                let at = to.ix() * dim..(to.ix() + 1) * dim;
                let later = mean[at.clone()].iter().zip(&of_mean[at]);
                for ((x, e), (m, of_m)) in row.iter_mut().zip(off.iter_mut()).zip(later) {
                    let (term, lost) = product(*p, *m);
                    let (sum, more) = plus(*x, term);
                    *x = sum;
                    *e += p * of_m + lost + more;
                }
            }
        }
        // The likeliest action, from which the others are told apart.
        let likeliest = (0..na).fold(0, |b, a| if log_pi[a] > log_pi[b] { a } else { b });
        let at = likeliest * dim..(likeliest + 1) * dim;
        base.copy_from_slice(&rows[at.clone()]);
        of_base.copy_from_slice(&of_rows[at]);
        shift.fill(0.0);
        of_shift.fill(0.0);
        for a in 0..na {
            let (row, off) = (&mut rows[a * dim..], &mut of_rows[a * dim..]);
            let of_prob = of_log(log_pi[a]);
            for k in 0..dim {
                let (apart, lost) = plus(row[k], -base[k]);
                row[k] = apart;
                off[k] = match a == likeliest {
                    true => 0.0,
                    false => off[k] + of_base[k] + lost,
                };
                if probs[a] > 0.0 {
                    shift[k] += probs[a] * apart;
                    of_shift[k] += probs[a] * (of_prob * apart.abs() + off[k])
                        + f64::EPSILON * f64::abs(shift[k]);
                }
            }
        }
        for k in 0..dim {
            let (m, lost) = plus(base[k], shift[k]);
            mean[s * dim + k] = m;
            of_mean[s * dim + k] = of_base[k] + of_shift[k] + lost;
        }
        for a in 0..na {
            let at = a * dim..(a + 1) * dim;
            let (row, off) = (&mut rows[at.clone()], &mut of_rows[at]);
            for k in 0..dim {
                row[k] -= shift[k];
                off[k] += of_shift[k] + f64::EPSILON * row[k].abs();
            }
            visit(state, ActionIx(a as u32), row, off);
        }
    }
    Ok(())
}

/// φ(s, a) + E_{s′}\[m(s′)\] − m(s), `[d]` at each (s, a), with m(s) = E_π\[Σ φ | s\], as features: their expectation under d^{π′} is
/// E_{d^{π′}}\[φ\] − E_{d^π}\[φ\] (the performance difference lemma, entry by entry), without the rounding of two expectations.
///
/// # Errors
/// [`Error::Shape`] when the parts do not fit.
pub fn feature_advantages(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    features: &impl FeatureMap,
) -> Result<DenseFeatures> {
    let (n, na, dim) = (mdp.n_states(), mdp.n_actions(), features.dim());
    let mut values = vec![0.0; n * na * dim];
    for_each_feature_advantage(mdp, policy, features, |s, a, row, _| {
        let at = (s.ix() * na + a.ix()) * dim;
        values[at..at + dim].copy_from_slice(row);
    })?;
    DenseFeatures::try_new(n, na, dim, values)
}

/// a + b and the absolute value of what its rounding lost, exactly.
#[inline]
fn plus(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let second = sum - a;
    let lost = (a - (sum - second)) + (b - second);
    (sum, lost.abs())
}

/// p · b and a bound on what its rounding lost: nothing for a certain transition.
#[inline]
fn product(p: f64, b: f64) -> (f64, f64) {
    let product = p * b;
    let lost = if p == 1.0 {
        0.0
    } else {
        f64::EPSILON * product.abs()
    };
    (product, lost)
}

fn add_outer(out: &mut DMatrix<f64>, x: &[f64], weight: f64) {
    let dim = x.len();
    for (column, xj) in out.as_mut_slice().chunks_exact_mut(dim).zip(x) {
        let scale = weight * xj;
        if scale != 0.0 {
            for (o, xi) in column.iter_mut().zip(x) {
                *o += scale * xi;
            }
        }
    }
}

/// Errata, B2 and B6: E_{s∼d^π}\[Var_{a∼π(·|s)}(f(s, a) + E_{s′}\[m(s′)\])\], m(s) = E_π\[Σ f | s\]: on a deterministic table the
/// variance of Σ_h f(s_h, a_h) under π, averaged over prompts.
///
/// With f = r − r̂ it is the integrand of the variance identity
/// SubOpt(π̂) = (1/β) ∫₀¹ (1−t) Var_{π_t}(f) dt, π_t optimal for r̂ + t·f.
///
/// # Errors
/// [`Error::Shape`] when the parts do not fit.
pub fn advantage_variance(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    f: &impl RewardFunction,
) -> Result<f64> {
    check_policy(mdp, "policy", policy)?;
    check_reward(mdp, f)?;
    let (n, na) = (mdp.n_states(), mdp.n_actions());
    let d = visitation(mdp, policy)?.state;
    let mut m = vec![0.0; n];
    let mut row = vec![0.0; na];
    let mut total = 0.0;
    for s in (0..n).rev() {
        f.write_row(StateIx(s as u32), &mut row);
        let probs = policy.probs(StateIx(s as u32));
        for (a, r) in row.iter_mut().enumerate() {
            *r += mdp.expect_later(s * na + a, 0, &m);
        }
        let taken = || row.iter().zip(&probs).filter(|(_, p)| **p > 0.0);
        m[s] = taken().map(|(r, p)| r * p).sum();
        if d[s] > 0.0 {
            total += d[s] * taken().map(|(r, p)| p * (r - m[s]).powi(2)).sum::<f64>();
        }
    }
    Ok(total)
}
