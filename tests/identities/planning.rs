//! Soft planning: values, optima, SubOpt and natural gradients.

use crate::{Case, INSTANCES, TOLERANCE, case, pairs, same, supported};
use rand::Rng;
use rto::mdp::{ActionIx, Beta, Problem, StateIx, TabularPolicy, for_each_trajectory};
use rto::numerics::log_sum_exp;
use rto::plan::{
    advantage_variance, decompose, evaluate, natural_policy_gradient, npg_bound, npg_step,
    performance_difference, soft_value_iteration, suboptimality, visitation,
};
use rto::reward::RewardFunction;
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::zoo::Instance;

#[test]
fn the_two_forms_of_the_value_agree_and_the_optimum_is_consistent() {
    for i in 0..INSTANCES {
        let Case {
            g, star, policy, ..
        } = case(i);
        let reward = g.reward();
        let beta = g.beta.get();
        let value = evaluate(g.problem(), &reward, &policy).unwrap();
        // (3.2) and the rewrite after (A.1): E_{d^π}[r] − β E_{d^π}[KL].
        let d = visitation(&g.mdp, &policy).unwrap();
        let expected = d.reward(&g.mdp, &reward).unwrap()
            - beta * d.kl(&g.mdp, &policy, &g.reference).unwrap();
        same(i, "(3.2) = (3.3)", expected, value.mean_value(&g.mdp));
        // (3.4): π* is exp((Q*−V*)/β), and its own value is V*.
        let own = evaluate(g.problem(), &reward, &star.policy).unwrap();
        for (s, a) in pairs(&g.mdp) {
            let q = star.q[[s.ix(), a.ix()]];
            let p = star.policy.prob(s, a);
            same(i, "(3.4)", ((q - star.v[s.ix()]) / beta).exp(), p);
            if g.reference.prob(s, a) == 0.0 {
                assert_eq!((p, q), (0.0, f64::NEG_INFINITY), "instance {i}: support");
            }
        }
        for s in 0..g.mdp.n_states() {
            same(i, "V^{pi*} = V*", own.v[s], star.v[s]);
            same(
                i,
                "rows sum to 1",
                star.policy.probs(StateIx(s as u32)).iter().sum(),
                1.0,
            );
        }
    }
}

#[test]
fn performance_difference_decomposition_and_kl_form_of_the_suboptimality() {
    for i in 0..INSTANCES {
        let Case {
            g,
            star,
            policy,
            seeds,
        } = case(i);
        let reward = g.reward();
        let beta = g.beta.get();
        let other = supported(&g, &seeds.child("other"));
        let value = |p| {
            evaluate(g.problem(), &reward, p)
                .unwrap()
                .mean_value(&g.mdp)
        };
        let lemma = performance_difference(g.problem(), &reward, &policy, &other).unwrap();
        same(i, "Lemma A.2", value(&policy) - value(&other), lemma);
        // (A.3) + (A.6) for an estimate r̂ and its optimal policy.
        let estimate = perturbed(&g, &seeds.child("estimate"));
        let hat = soft_value_iteration(g.problem(), &estimate).unwrap();
        let terms = decompose(g.problem(), &reward, &estimate, &star.policy, &hat.policy).unwrap();
        let gap = suboptimality(g.problem(), &reward, &hat.policy).unwrap();
        same(i, "(A.3)", terms.total(), gap);
        let d_star = visitation(&g.mdp, &star.policy).unwrap();
        let kl = d_star.kl(&g.mdp, &star.policy, &hat.policy).unwrap();
        same(i, "(A.6)", terms.term_iii, -beta * kl);
        // SubOpt(π) = β E_{d^π} KL(π ‖ π*).
        let d = visitation(&g.mdp, &policy).unwrap();
        let gap = suboptimality(g.problem(), &reward, &policy).unwrap();
        same(
            i,
            "SubOpt = beta KL",
            gap,
            beta * d.kl(&g.mdp, &policy, &star.policy).unwrap(),
        );
    }
}

fn perturbed(g: &Instance, seeds: &SeedTree) -> TabularReward {
    let mut rng = seeds.rng();
    let mut values = g.reward().tabulate().values().clone();
    values.mapv_inplace(|v| v + rng.random_range(-0.5..0.5));
    TabularReward::try_new(values).unwrap()
}

/// Nodes and weights of the 20-point Gauss–Legendre rule on [−1, 1], by Newton on P₂₀.
fn gauss_legendre() -> Vec<(f64, f64)> {
    let n = 20;
    (0..n)
        .map(|k| {
            let mut x = (std::f64::consts::PI * (k as f64 + 0.75) / (n as f64 + 0.5)).cos();
            let mut slope = 0.0;
            for _ in 0..20 {
                let (mut p0, mut p1) = (1.0, x);
                for j in 2..=n {
                    let j = j as f64;
                    (p0, p1) = (p1, ((2.0 * j - 1.0) * x * p1 - (j - 1.0) * p0) / j);
                }
                slope = n as f64 * (x * p1 - p0) / (x * x - 1.0);
                x -= p1 / slope;
            }
            (x, 2.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}

#[test]
fn variance_identity() {
    let rule = gauss_legendre();
    // The integrand varies on the scale β/|f|: panels of that width.
    for i in 0..INSTANCES {
        let Case { g, seeds, .. } = case(i);
        let reward = g.reward();
        let estimate = perturbed(&g, &seeds.child("estimate"));
        let truth = reward.tabulate();
        let f = TabularReward::try_new(truth.values() - estimate.values()).unwrap();
        let hat = soft_value_iteration(g.problem(), &estimate).unwrap();
        let gap = suboptimality(g.problem(), &reward, &hat.policy).unwrap();
        let panels = (g.mdp.horizon() as f64 / g.beta.get()).ceil().min(24.0) as usize;
        let width = 1.0 / panels as f64;
        let mut integral = 0.0;
        for panel in 0..panels {
            for (x, w) in &rule {
                let t = width * (panel as f64 + 0.5 + 0.5 * x);
                let mixed = TabularReward::try_new(estimate.values() + f.values() * t).unwrap();
                let pi = soft_value_iteration(g.problem(), &mixed).unwrap().policy;
                let variance = advantage_variance(&g.mdp, &pi, &f).unwrap();
                integral += 0.5 * width * w * (1.0 - t) * variance;
            }
        }
        same(i, "variance identity", integral / g.beta.get(), gap);
    }
}

#[test]
fn brute_force_over_all_responses() {
    let mut checked = 0;
    for i in (0..4 * INSTANCES).filter(|i| i % 4 != 3) {
        let Case {
            g, star, policy, ..
        } = case(i);
        if (g.mdp.n_actions() as f64).powi(g.mdp.horizon() as i32) > 4096.0 {
            continue;
        }
        checked += 1;
        let (reward, beta) = (g.reward(), g.beta.get());
        let mut gap = 0.0;
        for (root, rho) in g.mdp.roots() {
            let (mut scores, mut star_log, mut pi_log) = (Vec::new(), Vec::new(), Vec::new());
            for_each_trajectory(&g.mdp, root, |steps| {
                let sum = |p: &TabularPolicy| -> f64 {
                    steps.iter().map(|&(s, a)| p.log_prob(s, a)).sum()
                };
                let total: f64 = steps.iter().map(|&(s, a)| reward.reward(s, a)).sum();
                scores.push(sum(&g.reference) + total / beta);
                star_log.push(sum(&star.policy));
                pi_log.push(sum(&policy));
            })
            .unwrap();
            let norm = log_sum_exp(&scores);
            same(
                i,
                "V* = beta log E_ref exp(R/beta)",
                beta * norm,
                star.v[root.ix()],
            );
            let mut kl = 0.0;
            for ((score, l), p) in scores.iter().zip(&star_log).zip(&pi_log) {
                same(i, "pi*(y|x)", (score - norm).exp(), l.exp());
                if *p > f64::NEG_INFINITY {
                    kl += p.exp() * (p - l);
                }
            }
            gap += rho * beta * kl;
        }
        let exact = suboptimality(g.problem(), &reward, &policy).unwrap();
        same(i, "SubOpt = beta KL_seq", gap, exact);
    }
    assert!(checked >= 1000, "only {checked}");
}

#[test]
fn natural_policy_gradient_contracts_at_the_proved_rates() {
    for i in 0..INSTANCES {
        let Case {
            g, star, policy, ..
        } = case(i);
        let reward = g.reward();
        let c = [0.1, 0.5, 0.8][(i % 3) as usize];
        let steps = 12;
        let bound = npg_bound(g.problem(), &reward, &policy, c).unwrap();
        let run = natural_policy_gradient(g.problem(), &reward, &policy, c, steps).unwrap();
        for (t, gap) in run.gap.iter().enumerate() {
            assert!(*gap <= bound.gap(t) + TOLERANCE, "instance {i}, t = {t}");
            // Policy improvement is monotone.
            assert!(
                t == 0 || *gap <= run.gap[t - 1] + TOLERANCE,
                "instance {i}, t = {t}"
            );
        }
        // States whose every action ends the episode contract by exactly 1 − c in log(π/π*) differences.
        let next = npg_step(g.problem(), &reward, &policy, c).unwrap();
        for s in (0..g.mdp.n_states() as u32).map(StateIx) {
            let ends = (0..g.mdp.n_actions() as u32)
                .all(|a| g.mdp.successors(s, ActionIx(a)).0 == [StateIx::END]);
            if !ends {
                continue;
            }
            let kept: Vec<ActionIx> = (0..g.mdp.n_actions() as u32)
                .map(ActionIx)
                .filter(|a| g.reference.prob(s, *a) > 0.0)
                .collect();
            let ratio =
                |p: &TabularPolicy, a: ActionIx| p.log_prob(s, a) - star.policy.log_prob(s, a);
            for &a in &kept {
                let before = ratio(&policy, a) - ratio(&policy, kept[0]);
                let after = ratio(&next, a) - ratio(&next, kept[0]);
                same(i, "last layer contracts", after, (1.0 - c) * before);
            }
        }
        // c = 1 is soft policy iteration: exact after at most H steps.
        let exact =
            natural_policy_gradient(g.problem(), &reward, &policy, 1.0, g.mdp.horizon()).unwrap();
        same(i, "soft policy iteration", exact.gap[g.mdp.horizon()], 0.0);
    }
}

#[test]
fn zero_beta_is_greedy_and_the_limit_of_small_beta() {
    for i in 0..INSTANCES {
        let Case { g, .. } = case(i);
        let reward = g.reward();
        let solve = |b: f64| {
            let beta = Beta::try_new(b).unwrap();
            soft_value_iteration(Problem::new(&g.mdp, &g.reference, beta), &reward)
                .unwrap()
                .mean_value(&g.mdp)
        };
        let greedy = solve(0.0);
        let smallest = g
            .reference
            .log_probs()
            .iter()
            .copied()
            .filter(|l| l.is_finite());
        let slack = -smallest.fold(0.0, f64::min) * g.mdp.horizon() as f64;
        for b in [1e-3, 1e-6] {
            let soft = solve(b);
            assert!(soft <= greedy + TOLERANCE && soft >= greedy - b * slack - TOLERANCE);
        }
    }
}
