//! B1, B2, B6, B8 and B9: values, log ratios, the Hessian, natural gradients and fixed responses.

use crate::instance;
use nalgebra::DVector;
use rto::mdp::{ActionIx, StateIx, TabularPolicy, for_each_trajectory};
use rto::plan::{
    action_covariance, advantage_variance, evaluate, natural_policy_gradient, npg_bound,
    soft_value_iteration, visitation,
};
use rto::reward::{LinearReward, LogRatioReward, RewardFunction};
use rto::seed::SeedTree;
use rto::zoo::{self, Instance};

/// After (A.1) the paper drops β: V = E[r − KL]. True is E[r − β KL].
#[test]
fn the_value_is_reward_minus_beta_times_kl() {
    for i in 0..60 {
        let g = instance(i);
        let reward = g.reward();
        let star = soft_value_iteration(g.problem(), &reward).unwrap();
        let d = visitation(&g.mdp, &star.policy).unwrap();
        let kl = d.kl(&g.mdp, &star.policy, &g.reference).unwrap();
        let returns = d.reward(&g.mdp, &reward).unwrap();
        let value = star.mean_value(&g.mdp);
        assert!((returns - g.beta.get() * kl - value).abs() < 1e-12);
        assert!((returns - kl - value).abs() > 1e-3, "instance {i}");
    }
}

/// (4.3), first line: Q* − V* − log π_ref as printed, Q* − V* − β log π_ref in truth.
#[test]
fn the_log_ratio_needs_beta_on_the_reference() {
    for i in 0..60 {
        let g = instance(i);
        let beta = g.beta.get();
        let star = soft_value_iteration(g.problem(), &g.reward()).unwrap();
        let token = LogRatioReward::try_new(&star.policy, &g.reference, beta).unwrap();
        let mut printed = 0.0f64;
        for s in 0..g.mdp.n_states() {
            for a in 0..g.mdp.n_actions() {
                let (s, a) = (StateIx(s as u32), ActionIx(a as u32));
                let advantage = star.q[[s.ix(), a.ix()]] - star.v[s.ix()];
                let log_ref = g.reference.log_prob(s, a);
                assert!((advantage - beta * log_ref - token.reward(s, a)).abs() < 1e-11);
                printed = printed.max((advantage - log_ref - token.reward(s, a)).abs());
            }
        }
        assert!(printed > 0.1, "instance {i}");
    }
}

/// Variance of the return Σ f under a policy, within a prompt, averaged over prompts.
fn return_variance(g: &Instance, policy: &TabularPolicy, f: &impl RewardFunction) -> f64 {
    let n = g.mdp.n_states();
    let (mut mean, mut square) = (vec![0.0; n], vec![0.0; n]);
    for s in (0..n).rev() {
        for a in 0..g.mdp.n_actions() {
            let (s_ix, a_ix) = (StateIx(s as u32), ActionIx(a as u32));
            let (p, r) = (policy.prob(s_ix, a_ix), f.reward(s_ix, a_ix));
            let later = g.mdp.expect(s_ix, a_ix, &mean);
            let later_square = g.mdp.expect(s_ix, a_ix, &square);
            mean[s] += p * (r + later);
            square[s] += p * (r * r + 2.0 * r * later + later_square);
        }
    }
    let roots = g.mdp.roots();
    roots
        .map(|(s, w)| w * (square[s.ix()] - mean[s.ix()].powi(2)))
        .sum()
}

/// The Hessian of V*_β(ρ; θ) is that of the actions' randomness; (1/β) E Cov(ψ) is right on deterministic
/// tables only.
#[test]
fn the_hessian_is_the_covariance_of_the_actions() {
    for i in 0..60 {
        let g = instance(i);
        let mut rng = SeedTree::new(12).index(i).rng();
        let direction: Vec<f64> = (0..3)
            .map(|_| rand::Rng::random_range(&mut rng, -1.0..1.0))
            .collect();
        let optimum = |step: f64| {
            let theta: Vec<f64> = g
                .theta_star
                .iter()
                .zip(&direction)
                .map(|(t, v)| t + step * v)
                .collect();
            let reward = LinearReward::try_new(&g.features, &theta).unwrap();
            soft_value_iteration(g.problem(), &reward).unwrap()
        };
        let value = |step: f64| optimum(step).mean_value(&g.mdp);
        let h = 2e-3;
        let second = (value(h) - 2.0 * value(0.0) + value(-h)) / (h * h);
        let policy = optimum(0.0).policy;
        let f = LinearReward::try_new(&g.features, &direction).unwrap();
        let v = DVector::from_column_slice(&direction);
        let covariance = action_covariance(&g.mdp, &policy, &g.features).unwrap();
        let actions = (v.transpose() * covariance * &v)[0];
        let scale = g.beta.get();
        assert!(
            (actions / scale - second).abs() < 2e-4 * second.max(0.1),
            "instance {i}"
        );
        assert!((actions - advantage_variance(&g.mdp, &policy, &f).unwrap()).abs() < 1e-12);
        let returns = return_variance(&g, &policy, &f);
        if g.mdp.is_deterministic() {
            assert!((returns - actions).abs() < 1e-12, "instance {i}");
        } else {
            assert!(
                returns > 1.02 * actions,
                "instance {i}: {returns} {actions}"
            );
        }
    }
}

/// gap_t ≤ (1−c)^t gap_0 is false from a bad start; the bound with D_h holds there.
#[test]
fn the_value_gap_of_natural_gradient_need_not_contract() {
    let (_, g) = zoo::g0().unwrap();
    let logits = ndarray::Array2::from_shape_fn((3, 2), |(_, a)| if a == 0 { -60.0 } else { 0.0 });
    let start = TabularPolicy::from_logits(logits).unwrap();
    let c = 0.5;
    let reward = g.reward();
    let run = natural_policy_gradient(g.problem(), &reward, &start, c, 3).unwrap();
    let bound = npg_bound(g.problem(), &reward, &start, c).unwrap();
    assert!(run.gap[1] > 0.99 * run.gap[0], "{:?}", run.gap);
    assert!((0..=3).all(|t| run.gap[t] <= bound.gap(t)));
}

/// Appendix C.2 says that in deterministic MDPs a fixed response is as good as an autoregressive policy. With β > 0 it
/// loses −β log π*(y|x), at best −β log max_y π*(y|x).
#[test]
fn a_fixed_response_loses_beta_log_of_its_optimal_probability() {
    for i in (0..60).filter(|i| i % 3 != 2) {
        let g = instance(i);
        let (reward, beta) = (g.reward(), g.beta.get());
        let star = soft_value_iteration(g.problem(), &reward).unwrap();
        for (root, _) in g.mdp.roots() {
            let (mut best, mut steps_of_best) = (f64::NEG_INFINITY, Vec::new());
            for_each_trajectory(&g.mdp, root, |steps| {
                let log_prob = steps.iter().map(|&(s, a)| star.policy.log_prob(s, a)).sum();
                if log_prob > best {
                    (best, steps_of_best) = (log_prob, steps.to_vec());
                }
            })
            .unwrap();
            let mut log_pi = ndarray::Array2::zeros(star.q.dim());
            for (s, a) in steps_of_best {
                log_pi.row_mut(s.ix()).fill(f64::NEG_INFINITY);
                log_pi[[s.ix(), a.ix()]] = 0.0;
            }
            let fixed = TabularPolicy::from_logits(log_pi).unwrap();
            let value = evaluate(g.problem(), &reward, &fixed).unwrap();
            let loss = star.v[root.ix()] - value.v[root.ix()];
            assert!(
                (loss + beta * best).abs() < 1e-12,
                "instance {i}: {loss} {best}"
            );
            assert!(loss > 0.01, "instance {i}: {loss}");
        }
    }
}
