//! G1: the program (B.1), with and without the baseline, and at a radius beyond the ball.

use crate::{EXACT, G1, ITERATIVE, close, golden, keys, root_policies};
use rto::algorithm1::{Baseline, ConfidenceSet, algorithm1, theorem_4_2};
use rto::plan::suboptimality;
use serde_json::json;

#[test]
fn g1_theorem_b1() {
    let all = golden();
    let s = G1::new();
    for (key, param_bound) in [("B1_rho1.5_B2.0", 2.0), ("B1_rho1.5_B1.2", 1.2)] {
        let want = &all["G1"][key];
        let (solved, theorem) = s.maxmin(1.5, param_bound, Baseline::None);
        close(key, &solved.theta, &want["theta_min"], ITERATIVE);
        close(key, &[solved.value], &want["value_minV"], ITERATIVE);
        assert_eq!(json!(solved.ellipsoid_active), want["active"]["ellipsoid"]);
        assert_eq!(json!(solved.ball_active), want["active"]["ball"]);
        close(
            key,
            &[solved.multipliers.0.unwrap()],
            &want["multipliers"],
            ITERATIVE,
        );
        close(key, &[theorem.suboptimality], &want["SubOpt"], ITERATIVE);
        close(key, &[theorem.bound], &want["ThmB1_bound"], EXACT);
        close(
            key,
            &[theorem.norm_of_expectation],
            &want["norm_of_expectation"],
            EXACT,
        );
        let root = root_policies(&s.tree, &solved.optimum.policy);
        close(key, &root, &want["pihat_root"], ITERATIVE);
        assert!(
            (-1e-12..=1e-8).contains(&solved.duality_gap),
            "{}",
            solved.duality_gap
        );
        assert_eq!(keys(want).len(), 9);
    }
}

#[test]
fn g1_baselined_b1() {
    let all = golden();
    let s = G1::new();
    let want = &all["G1"]["B1baseline_rho1.5_B2.0"];
    let (solved, theorem) = s.maxmin(1.5, 2.0, Baseline::Reference);
    close("theta", &solved.theta, &want["theta_min"], ITERATIVE);
    close(
        "value",
        &[solved.value],
        &want["value_min_Vstar_minus_nu_theta"],
        ITERATIVE,
    );
    let active =
        [solved.ellipsoid_active, solved.ball_active].map(|b| f64::from(u8::from(b.unwrap())));
    close("active", &active, &want["active"], 0.0);
    close(
        "multipliers",
        &[solved.multipliers.0.unwrap()],
        &want["multipliers"],
        ITERATIVE,
    );
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["SubOpt"],
        ITERATIVE,
    );
    close("bound", &[theorem.bound], &want["bound"], EXACT);
    close(
        "norm",
        &[theorem.norm_of_expectation],
        &want["norm_Edstar_minus_nu"],
        EXACT,
    );
    assert!(solved.duality_gap <= 1e-8);
    assert_eq!(keys(want).len(), 7);
}

#[test]
fn g1_huge_radius() {
    let all = golden();
    let want = &all["G1"]["rho25_B2_compare"];
    let s = G1::new();
    let (plain, theorem) = s.maxmin(25.0, 2.0, Baseline::None);
    close("theta", &plain.theta, &want["B1_theta"], ITERATIVE);
    close("value", &[plain.value], &want["B1_value"], ITERATIVE);
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["B1_SubOpt"],
        ITERATIVE,
    );
    let (based, theorem) = s.maxmin(25.0, 2.0, Baseline::Reference);
    close("theta", &based.theta, &want["B1baseline_theta"], ITERATIVE);
    close(
        "value",
        &[based.value],
        &want["B1baseline_value"],
        ITERATIVE,
    );
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["B1baseline_SubOpt"],
        ITERATIVE,
    );
    for (solved, key) in [(&plain, "B1_active"), (&based, "B1baseline_active")] {
        let active =
            [solved.ellipsoid_active, solved.ball_active].map(|b| f64::from(u8::from(b.unwrap())));
        close(key, &active, &want[key], 0.0);
        assert!(
            solved.duality_gap <= 1e-8,
            "{key}: gap {}",
            solved.duality_gap
        );
    }
    let g = &s.g;
    let set = ConfidenceSet::try_new(&s.fit.theta, &s.sigma, 25.0, 2.0).unwrap();
    let output = algorithm1(g.problem(), &g.features, &set, None).unwrap();
    let theorem = theorem_4_2(&g.truth().unwrap(), &set, &output).unwrap();
    close(
        "Alg1",
        &[theorem.suboptimality],
        &want["Alg1_SubOpt"],
        ITERATIVE,
    );
    close("Alg1", &[theorem.bound], &want["Alg1_bound"], ITERATIVE);
    let ref_gap = suboptimality(g.problem(), &g.reward(), &g.reference).unwrap();
    close("ref", &[ref_gap], &want["SubOpt_ref"], EXACT);
    assert_eq!(keys(want).len(), 11);
}
