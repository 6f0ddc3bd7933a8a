//! Theorems 4.2 and B.1, and the robust value of Remark B.2.

use crate::{Case, case, same};
use ndarray::Array2;
use rand::Rng;
use rto::algorithm1::{
    Baseline, ConfidenceSet, KlBalls, PessimisticReward, algorithm1, maxmin,
    robust_soft_value_iteration, theorem_4_2, theorem_b1,
};
use rto::estimate::{Design, FitOptions, Metric, fit_bradley_terry, sample_preferences};
use rto::mdp::{Problem, SparseRows, TabularMdp, Transition};
use rto::plan::{decompose, evaluate, soft_value_iteration};

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
