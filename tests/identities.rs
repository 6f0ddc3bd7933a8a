//! The identities of Sections 3.1–4.2 and the appendices on random instances: token trees with and
//! without an end-of-sentence action, layered graphs, stochastic tables; zeros in the reference.

use ndarray::Array2;
use rand::Rng;
use rto::algorithm1::{
    Baseline, ConfidenceSet, KlBalls, PessimisticReward, algorithm1, maxmin,
    robust_soft_value_iteration, theorem_4_2, theorem_b1,
};
use rto::estimate::{Design, FitOptions, Metric, fit_bradley_terry, sample_preferences};
use rto::mdp::{
    ActionIx, Beta, Problem, SparseRows, StateIx, TabularMdp, TabularPolicy, Transition,
    for_each_trajectory, sample_trajectory,
};
use rto::numerics::log_sum_exp;
use rto::plan::{
    SoftOptimum, advantage_variance, best_predetermined, decompose, evaluate,
    natural_policy_gradient, npg_bound, npg_step, performance_difference, soft_value_iteration,
    suboptimality, visitation,
};
use rto::reward::{LogRatioReward, RewardModel, TabularReward};
use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance, random_policy};

const TOLERANCE: f64 = 1e-10;
const INSTANCES: u64 = 1200;

fn spec(i: u64) -> RandomSpec {
    let kind = match i % 4 {
        0 => Kind::Tree { eos: false },
        1 => Kind::Tree { eos: true },
        2 => Kind::Layered {
            width: 3 + (i % 3) as usize,
        },
        _ => Kind::Stochastic {
            width: 3 + (i % 3) as usize,
        },
    };
    let tree = matches!(kind, Kind::Tree { .. });
    RandomSpec {
        kind,
        prompts: 1 + (i / 4 % 2) as usize,
        actions: 2 + (i / 8 % 3) as usize,
        horizon: if tree {
            1 + (i / 24 % 4) as usize
        } else {
            1 + (i / 24 % 7) as usize
        },
        dim: 2 + (i % 4) as usize,
        beta: [0.1, 0.3, 1.0, 2.5][(i / 3 % 4) as usize],
        theta_norm: 1.0,
        zeros: if i.is_multiple_of(5) { 0.25 } else { 0.0 },
    }
}

struct Case {
    g: Instance,
    star: SoftOptimum,
    /// Absolutely continuous with respect to the reference.
    policy: TabularPolicy,
    seeds: SeedTree,
}

fn case(i: u64) -> Case {
    let seeds = SeedTree::new(7).child("identities").index(i);
    let g = random_instance(&spec(i), &seeds).unwrap();
    let star = soft_value_iteration(g.problem(), &g.reward()).unwrap();
    let policy = supported(&g, &seeds.child("policy"));
    Case {
        g,
        star,
        policy,
        seeds,
    }
}

/// A random policy restricted to the support of the reference.
fn supported(g: &Instance, seeds: &SeedTree) -> TabularPolicy {
    let free = random_policy(g.mdp.n_states(), g.mdp.n_actions(), 0.0, seeds);
    let logits = Array2::from_shape_fn(free.log_probs().dim(), |ix| {
        if g.reference.log_probs()[ix].is_finite() {
            free.log_probs()[ix]
        } else {
            f64::NEG_INFINITY
        }
    });
    TabularPolicy::from_logits(logits).unwrap()
}

#[track_caller]
fn same(i: u64, what: &str, a: f64, b: f64) {
    assert!(
        (a - b).abs() <= TOLERANCE * a.abs().max(1.0),
        "instance {i}, {what}: {a:.15e} and {b:.15e}"
    );
}

fn pairs(mdp: &TabularMdp) -> impl Iterator<Item = (StateIx, ActionIx)> + '_ {
    let states = 0..mdp.n_states() as u32;
    states.flat_map(|s| (0..mdp.n_actions() as u32).map(move |a| (StateIx(s), ActionIx(a))))
}

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
fn corrected_4_3_on_every_table_and_4_5_on_deterministic_ones_only() {
    let mut violations = 0;
    let mut stochastic = 0;
    for i in 0..INSTANCES {
        let Case {
            g,
            star,
            policy,
            seeds,
        } = case(i);
        let reward = g.reward();
        let implicit = LogRatioReward::try_new(&star.policy, &g.reference, g.beta.get()).unwrap();
        let v = |s: StateIx| {
            if s == StateIx::END {
                0.0
            } else {
                star.v[s.ix()]
            }
        };
        // (4.3) with β log π_ref and the (⋆) term, along sampled trajectories.
        let root = g.mdp.roots().next().unwrap().0;
        let mut rng = seeds.child("trajectories").rng();
        let mut worst = 0.0f64;
        for _ in 0..5 {
            let tau = sample_trajectory(&g.mdp, &policy, root, &mut rng);
            let sum = tau.sum(|s, a| implicit.reward(s, a));
            let steps = tau.steps();
            let mut right = tau.sum(|s, a| reward.reward(s, a)) - v(root);
            let mut drift = 0.0;
            for (h, &(s, a)) in steps.iter().enumerate() {
                let next = steps.get(h + 1).map_or(StateIx::END, |n| n.0);
                drift += g.mdp.expect(s, a, &star.v) - v(next);
            }
            worst = worst.max((sum - right).abs());
            right += drift;
            same(i, "(4.3)", sum, right);
        }
        if g.mdp.is_deterministic() {
            assert!(worst < TOLERANCE * 10.0, "instance {i}: (⋆) = {worst}");
            for (s, a) in pairs(&g.mdp) {
                if g.reference.prob(s, a) > 0.0 {
                    let next = g.mdp.next_state(s, a).unwrap();
                    let shaped = reward.reward(s, a) + v(next) - v(s);
                    same(i, "(4.5)", implicit.reward(s, a), shaped);
                }
            }
            // Each state's soft value under its DPO token reward is 0.
            let zero = soft_value_iteration(g.problem(), &implicit).unwrap();
            for value in &zero.v {
                same(i, "soft value of the DPO reward", *value, 0.0);
            }
        } else if g.mdp.horizon() > 1 {
            stochastic += 1;
            violations += usize::from(worst > 1e-3);
        }
    }
    // On stochastic tables the token reward (4.5) does not reproduce returns.
    assert!(
        stochastic > 200 && violations > stochastic * 8 / 10,
        "{violations} of {stochastic}"
    );
}

#[test]
fn potential_shaping_changes_no_policy() {
    for i in 0..INSTANCES {
        let Case { g, star, seeds, .. } = case(i);
        let mut rng = seeds.child("potential").rng();
        let potential: Vec<f64> = (0..g.mdp.n_states())
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let mut values = g.reward().tabulate().values().clone();
        for (s, a) in pairs(&g.mdp) {
            values[[s.ix(), a.ix()]] += g.mdp.expect(s, a, &potential) - potential[s.ix()];
        }
        let shaped = TabularReward::try_new(values).unwrap();
        let other = soft_value_iteration(g.problem(), &shaped).unwrap();
        for ((got, before), shift) in other.v.iter().zip(&star.v).zip(&potential) {
            same(i, "V shifts by the potential", *got, before - shift);
        }
        for (s, a) in pairs(&g.mdp) {
            same(i, "policy", other.policy.prob(s, a), star.policy.prob(s, a));
        }
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
fn theorems_4_2_and_b1_hold_whenever_the_truth_is_in_the_set() {
    let mut met = (0, 0);
    for i in 0..1000u64 {
        let Case {
            g, policy, seeds, ..
        } = case(i);
        let n = 20 + 40 * (i % 5) as usize;
        let data = sample_preferences(
            &g.mdp,
            &g.reward(),
            (&g.reference, &policy),
            n,
            &seeds.child("data"),
        )
        .unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &data).unwrap();
        let bound = 1.5;
        let options = FitOptions {
            param_bound: bound,
            ..FitOptions::default()
        };
        let fit = fit_bradley_terry(&design, &options).unwrap();
        assert!(fit.norm <= bound * (1.0 + 1e-12) && fit.residual <= 1e-9 * n as f64);
        let metric = if i.is_multiple_of(2) {
            Metric::sigma_d(&design, 1.0).unwrap()
        } else {
            Metric::fisher(&design, &fit.theta, 1.0).unwrap()
        };
        let radius = [0.5, 1.5, 4.0, 20.0][(i % 4) as usize];
        let set = ConfidenceSet::try_new(&fit.theta, &metric, radius, bound).unwrap();
        let output = algorithm1(g.problem(), &g.features, &set, None).unwrap();
        let truth = g.truth().unwrap();
        let t = theorem_4_2(&truth, &set, &output).unwrap();
        let (star, hat) = (&truth.star.policy, &output.optimum.policy);
        let terms = decompose(g.problem(), &truth.reward, &output.reward, star, hat).unwrap();
        same(i, "(A.3)", terms.total(), t.suboptimality);
        if t.premise {
            met.0 += 1;
            assert!(t.suboptimality <= t.bound + 1e-10, "instance {i}: {t:?}");
            assert!(terms.term_ii <= 1e-10, "instance {i}: {terms:?}");
        }
        for baseline in [Baseline::None, Baseline::Reference] {
            let solved = maxmin(g.problem(), &g.features, &set, baseline).unwrap();
            assert!(set.distance(&solved.theta) <= radius * (1.0 + 1e-9));
            assert!(
                (-1e-10..=1e-8).contains(&solved.duality_gap),
                "instance {i}, {baseline:?}: gap {}",
                solved.duality_gap
            );
            let t = theorem_b1(&truth, &g.features, &set, &solved).unwrap();
            if t.premise {
                met.1 += 1;
                assert!(t.suboptimality <= t.bound + 1e-8, "instance {i}: {t:?}");
                if baseline == Baseline::Reference {
                    assert!(t.gain_over_reference >= -1e-8, "instance {i}: {t:?}");
                }
            }
        }
    }
    assert!(met.0 > 400 && met.1 > 800, "{met:?}");
}

#[test]
fn robust_value_is_a_lower_bound_when_kernel_and_parameter_are_in_their_sets() {
    let mut met = 0;
    for j in 0..1000u64 {
        let i = 4 * j + 3;
        let Case { g, seeds, .. } = case(i);
        let mut rng = seeds.child("counts").rng();
        let Transition::Stochastic(rows) = g.mdp.transition() else {
            unreachable!()
        };
        let (n, na) = (g.mdp.n_states(), g.mdp.n_actions());
        let mut visits = Array2::zeros((n, na));
        let mut empirical = Vec::new();
        let zeta = [2.0, 4.0, 8.0][(j % 3) as usize];
        let mut inside = true;
        for row in 0..n * na {
            let (next, prob) = rows.row(row);
            let count = rng.random_range(0..30usize);
            let mut hits = vec![0.0f64; next.len()];
            for _ in 0..count {
                let u: f64 = rng.random();
                let mut sum = 0.0;
                let hit = prob
                    .iter()
                    .position(|p| {
                        sum += p;
                        u < sum
                    })
                    .unwrap_or(0);
                hits[hit] += 1.0;
            }
            visits[[row / na, row % na]] = count as f64;
            let p_hat: Vec<f64> = match count {
                0 => vec![1.0 / next.len() as f64; next.len()],
                count => hits.iter().map(|h| h / count as f64).collect(),
            };
            let seen = p_hat.iter().zip(prob).filter(|(h, _)| **h > 0.0);
            let kl: f64 = seen.map(|(h, p)| h * (h / p).ln()).sum();
            inside &= count == 0 || kl <= zeta / count as f64;
            empirical.push(next.iter().copied().zip(p_hat).collect::<Vec<_>>());
        }
        let table = Transition::Stochastic(SparseRows::try_new(na, &empirical).unwrap());
        let mdp = TabularMdp::try_new(na, g.mdp.initial().to_vec(), table).unwrap();
        let data = sample_preferences(
            &g.mdp,
            &g.reward(),
            (&g.reference, &g.reference),
            60,
            &seeds.child("data"),
        )
        .unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &data).unwrap();
        let options = FitOptions {
            param_bound: 1.5,
            ..FitOptions::default()
        };
        let fit = fit_bradley_terry(&design, &options).unwrap();
        let metric = Metric::sigma_d(&design, 1.0).unwrap();
        let set = ConfidenceSet::try_new(&fit.theta, &metric, 3.0, 1.5).unwrap();
        let r_hat = PessimisticReward::try_new(&g.features, &set, None).unwrap();
        let balls = KlBalls::from_counts(&visits, zeta).unwrap();
        let robust =
            robust_soft_value_iteration(Problem::new(&mdp, &g.reference, g.beta), &balls, &r_hat)
                .unwrap();
        // ζ = 0 is plain planning on the empirical kernel, never below the robust value.
        let known = KlBalls::from_counts(&visits.mapv(|_| 1.0), 0.0).unwrap();
        let plain =
            robust_soft_value_iteration(Problem::new(&mdp, &g.reference, g.beta), &known, &r_hat)
                .unwrap();
        let direct =
            soft_value_iteration(Problem::new(&mdp, &g.reference, g.beta), &r_hat).unwrap();
        same(
            i,
            "zero radius",
            plain.mean_value(&mdp),
            direct.mean_value(&mdp),
        );
        assert!(robust.mean_value(&mdp) <= plain.mean_value(&mdp) + 1e-10);
        if inside && set.contains(&g.theta_star) {
            met += 1;
            let truth = evaluate(g.problem(), &g.reward(), &robust.policy).unwrap();
            assert!(
                robust.mean_value(&mdp) <= truth.mean_value(&g.mdp) + 1e-9,
                "instance {i}"
            );
        }
    }
    assert!(met > 200, "only {met}");
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

/// Where nothing is random, a fixed response is as good as any policy; elsewhere it is no better. Either way it
/// keeps to the support of the reference.
#[test]
fn the_best_fixed_response_is_optimal_on_deterministic_tables() {
    let mut none = 0;
    for i in 0..INSTANCES {
        let Case { g, .. } = case(i);
        if (g.mdp.n_actions() as f64).powi(g.mdp.horizon() as i32) > 4096.0 {
            continue;
        }
        let reward = g.reward();
        let beta = Beta::try_new(0.0).unwrap();
        let best = soft_value_iteration(Problem::new(&g.mdp, &g.reference, beta), &reward).unwrap();
        let fixed = best_predetermined(&g.mdp, &reward, &g.reference).unwrap();
        if g.mdp.is_deterministic() {
            same(i, "fixed response", fixed.value, best.mean_value(&g.mdp));
        } else {
            assert!(fixed.value <= best.mean_value(&g.mdp) + TOLERANCE);
            none += u32::from(fixed.value == f64::NEG_INFINITY);
        }
    }
    assert!(none > 0, "some support allows no fixed response");
}

/// One action for a hundred thousand steps is one response, found without a call for each step.
#[test]
fn a_single_action_needs_no_search() {
    let steps = 100_000;
    let mut next: Vec<StateIx> = (1..steps).map(StateIx).collect();
    next.push(StateIx::END);
    let mut initial = vec![0.0; steps as usize];
    initial[0] = 1.0;
    let mdp = TabularMdp::try_new(1, initial, Transition::Deterministic(next)).unwrap();
    let reward = TabularReward::try_new(Array2::ones((steps as usize, 1))).unwrap();
    let uniform = TabularPolicy::uniform(steps as usize, 1);
    let fixed = best_predetermined(&mdp, &reward, &uniform).unwrap();
    assert_eq!(fixed.value, f64::from(steps));
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
