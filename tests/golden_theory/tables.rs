//! Proposition C.2, vacuity, the telescoping instance, and the shape of the tables.

use crate::{EXACT, close, golden, keys};
use ndarray::Array2;
use rto::algorithm1::{Baseline, ConfidenceSet, algorithm1, maxmin, theorem_4_2, theorem_b1};
use rto::estimate::{Design, Metric, Radii, RadiusInputs};
use rto::mdp::{Beta, Problem, TabularPolicy};
use rto::plan::{best_predetermined, soft_value_iteration};
use rto::reward::RewardFunction;
use rto::reward::TabularReward;
use rto::zoo;

#[test]
fn proposition_c2_and_its_generalisation() {
    let all = golden();
    let want = &all["propC2"]["A2H2"];
    for (actions, horizon) in [(2, 2), (2, 5), (3, 4), (5, 3)] {
        let (general, reward) = zoo::predetermined_gap(actions, horizon).unwrap();
        let unrolled = general.unroll().unwrap();
        let reward = TabularReward::try_new(unrolled.lift(reward.values()).unwrap()).unwrap();
        let uniform = TabularPolicy::uniform(unrolled.mdp.n_states(), actions);
        let beta = Beta::try_new(0.0).unwrap();
        let markov =
            soft_value_iteration(Problem::new(&unrolled.mdp, &uniform, beta), &reward).unwrap();
        let markov = markov.mean_value(&unrolled.mdp);
        let fixed = best_predetermined(&unrolled.mdp, &reward, &uniform)
            .unwrap()
            .value;
        let later = (horizon - 1) as f64;
        assert!((markov - later).abs() < 1e-12);
        assert!((fixed - later / actions as f64).abs() < 1e-12);
        if (actions, horizon) == (2, 2) {
            close("markov", &[markov], &want["markov"], EXACT);
            close("predetermined", &[fixed], &want["predetermined"], EXACT);
        }
    }
}

#[test]
fn vacuity() {
    let all = golden();
    let want = &all["vacuity"];
    let inputs = RadiusInputs {
        horizon: 5,
        feature_bound: 1.0,
        param_bound: 1.0,
        ridge: 1.0,
        fail_prob: 0.05,
    };
    let upsilon = rto::estimate::curvature_bound(&inputs);
    close("Upsilon", &[upsilon], &want["Upsilon"], 1e-15);
    let (theory, lr) = Radii::worst_case(8, &inputs, 10_000.0).unwrap();
    close("theory", &[theory], &want["rho_theory_deff_eq_d"], EXACT);
    close("LR", &[lr], &want["rho_LR_n1000_Lip_10n"], EXACT);
    assert_eq!(keys(want).len(), 9);
}

/// Audit C5(b): Algorithm 1 is inconsistent where the telescoping coordinate is invisible; (B.1) is
/// not, and neither is Algorithm 1 with its bonus projected on the row space.
#[test]
fn telescoping_instance() {
    let (_, g) = zoo::telescoping().unwrap();
    let half = std::f64::consts::FRAC_1_SQRT_2;
    for (n, b1) in [(100u32, 2.5e-3), (10_000, 4.1e-6), (1_000_000, 3.5e-8)] {
        // n identical pairs, as one row of the same Gram matrix.
        let row = vec![half * f64::from(n).sqrt(), 0.0];
        let design = Design::try_new(2, row).unwrap();
        let sigma = Metric::sigma_d(&design, 1.0).unwrap();
        let set = ConfidenceSet::try_new(&g.theta_star, &sigma, 2.0, 1.0).unwrap();
        let plain = algorithm1(g.problem(), &g.features, &set, None).unwrap();
        let theorem = theorem_4_2(&g.truth().unwrap(), &set, &plain).unwrap();
        if n == 1_000_000 {
            assert!((theorem.suboptimality - 0.707_191_675_92).abs() < 2e-5);
        }
        assert!(theorem.suboptimality > 0.69);
        let space = rto::estimate::RowSpace::of(&design).unwrap();
        assert_eq!(space.rank(), 1);
        let fixed = algorithm1(g.problem(), &g.features, &set, Some(&space)).unwrap();
        let theorem = theorem_4_2(&g.truth().unwrap(), &set, &fixed).unwrap();
        assert!(theorem.suboptimality < 1.0 / f64::from(n).sqrt());
        let solved = maxmin(g.problem(), &g.features, &set, Baseline::None).unwrap();
        let theorem = theorem_b1(&g.truth().unwrap(), &g.features, &set, &solved).unwrap();
        assert!(
            theorem.suboptimality < 1.05 * b1,
            "{n}: {}",
            theorem.suboptimality
        );
        assert!(solved.duality_gap < 1e-8, "{n}: gap {}", solved.duality_gap);
    }
}

#[test]
fn golden_tables_have_the_shape_of_the_tree() {
    let (tree, g) = zoo::g1().unwrap();
    assert_eq!(g.mdp.horizon(), 3);
    assert_eq!(tree.states_per_prompt(), 13);
    let table: Array2<f64> = g.reward().tabulate().values().clone();
    assert_eq!(table.dim(), (26, 3));
}
