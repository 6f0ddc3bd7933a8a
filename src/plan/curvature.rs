//! Second order in the reward: the Hessian of θ ↦ V*_β(ρ; θ) and the variance identity.

use nalgebra::DMatrix;

use super::{check_policy, visitation};
use crate::features::FeatureMap;
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
    let d = visitation(mdp, policy)?.state;
    let mut out = DMatrix::zeros(features.dim(), features.dim());
    for_each_feature_advantage(mdp, policy, features, |s, _, prob, row| {
        add_outer(&mut out, row, d[s.ix()] * prob);
    })?;
    Ok(out)
}

/// Calls `visit(s, a, π(a|s), x)` on every pair, states from the last to the first, with
/// x = φ(s, a) + E_{s′}\[m(s′)\] − m(s), m(s) = E_π\[Σ φ | s\], `[d]`: what Q − V is to a reward.
///
/// # Errors
/// [`Error::Shape`] when the parts do not fit.
pub(crate) fn for_each_feature_advantage(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    features: &impl FeatureMap,
    mut visit: impl FnMut(StateIx, ActionIx, f64, &[f64]),
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
    let mut m = vec![0.0; n * dim];
    let mut rows = vec![0.0; na * dim];
    for s in (0..n).rev() {
        let state = StateIx(s as u32);
        let probs = policy.probs(state);
        let (head, later) = m.split_at_mut((s + 1) * dim);
        let mean = &mut head[s * dim..];
        for (a, row) in rows.chunks_exact_mut(dim).enumerate() {
            features.write(state, ActionIx(a as u32), row);
            let (next, prob) = mdp.transition().row(s * na + a);
            for (to, p) in next.iter().zip(prob).filter(|(to, _)| **to != StateIx::END) {
                let start = (to.ix() - s - 1) * dim;
                for (r, m) in row.iter_mut().zip(&later[start..start + dim]) {
                    *r += p * m;
                }
            }
            for (m, r) in mean.iter_mut().zip(row.iter()) {
                *m += probs[a] * r;
            }
        }
        for (a, row) in rows.chunks_exact_mut(dim).enumerate() {
            for (r, m) in row.iter_mut().zip(mean.iter()) {
                *r -= m;
            }
            visit(state, ActionIx(a as u32), probs[a], row);
        }
    }
    Ok(())
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
