//! Golden values, and closed forms that the examples stand for.

use crate::common::*;
use serde_json::{Value, json};

#[test]
fn g0() {
    let want = &golden()["G0"];
    let got = solved(&example("g0.json"));
    close("V*", &got["soft_value"], &want["Vstar"][0], EXACT);
    close("V*", &got["soft_value_mean"], &want["Vstar"][0][0], EXACT);
    close("pi*", &got["root_policy"], &want["pistar"][0], EXACT);
    close("V_ref", &got["reference_value"], &want["V_ref"][0], EXACT);
    close("V_u", &got["policy_value"], &want["V_uniform"][0], EXACT);
    let gaps = &got["suboptimality"];
    close("ref", &gaps["reference"], &want["SubOpt_ref"], EXACT);
    close("uniform", &gaps["policy"], &want["SubOpt_uniform"], EXACT);
    let token_reward = &got["dpo"]["token_reward_root"];
    close("(4.5)", token_reward, &want["dpo_token_reward"][0], EXACT);
    close("dpo", &got["dpo"]["root_policy"], &want["pistar"][0], EXACT);
    let population = &want["population_DPO_loss_uniform_unordered_pairs_at_pistar"];
    close("(4.4)", &got["dpo"]["population_loss"], population, EXACT);
    let mut settings = 0;
    for (key, want) in want.as_object().unwrap() {
        let Some(betas) = key.strip_prefix("RTO_b1=") else {
            continue;
        };
        let betas: Vec<f64> = betas.split("_b2=").map(|b| b.parse().unwrap()).collect();
        for source in ["optimal", "dpo"] {
            let rto = json!({"beta1": betas[0], "beta2": betas[1], "source": source});
            let got = solved(&with(example("g0.json"), json!({ "rto": rto })));
            let rto = &got["rto"];
            close(key, &rto["root_policy"], &want["pi"][0], EXACT);
            close(key, &rto["value"], &want["V"], EXACT);
            close(key, &rto["beta_effective"], &want["beta_eff"], EXACT);
            close(key, &rto["suboptimality"], &want["SubOpt_at_beta"], EXACT);
        }
        settings += 1;
    }
    assert_eq!(settings, 3);
}

#[test]
fn g1_planning_and_data() {
    let all = golden();
    let (want, data) = (&all["G1"], &all["G1"]["data"]);
    let got = solved(&example("g1.json"));
    for (key, name) in [
        ("soft_value", "Vstar_prompts"),
        ("soft_value_mean", "Vstar_rho"),
        ("reference_value", "Vref_prompts"),
        ("policy_value", "Vq_prompts"),
        ("root_policy", "pistar_root"),
        ("feature_expectation", "Efeat_dstar"),
    ] {
        close(key, &got[key], &want[name], EXACT);
    }
    close(
        "ref",
        &got["suboptimality"]["reference"],
        &want["SubOpt_ref"],
        EXACT,
    );
    close(
        "q",
        &got["suboptimality"]["policy"],
        &want["SubOpt_q"],
        EXACT,
    );
    let mle = &got["mle"];
    close("mle", &mle["theta"], &data["theta_mle_B2"], ITERATIVE);
    close("norm", &mle["norm"], &data["norm_theta_mle"], ITERATIVE);
    close("L", &mle["log_likelihood"], &data["loglik_mle"], EXACT);
    assert_eq!(
        (&mle["at_bound"], &mle["multiplier"]),
        (&json!(false), &json!(0.0))
    );
    close("Sigma", &got["sigma_d"], &data["Sigma_lambda1"], EXACT);
    close(
        "log det",
        &got["log_det_sigma"],
        &data["logdet_Sigma"],
        EXACT,
    );
    let radii = data["radii_delta05_B2_lambda1"].as_object().unwrap();
    // The printed radius is younger than the golden file.
    let keys = got["radii"].as_object().unwrap().keys();
    assert_eq!(
        keys.filter(|key| *key != "rho_printed_Upsilon")
            .collect::<Vec<_>>(),
        radii.keys().collect::<Vec<_>>()
    );
    for (key, want) in radii {
        let tolerance = match key.as_str() {
            "rho_selfconcordant_Hmetric" => ITERATIVE,
            "Upsilon_2HLB" => 1e-15,
            _ => EXACT,
        };
        close(key, &got["radii"][key], want, tolerance);
    }
}

#[track_caller]
fn check_b1(got: &Value, want: &Value, bound: f64) {
    close("theta", &got["theta"], &want["theta_min"], ITERATIVE);
    close("SubOpt", &got["suboptimality"], &want["SubOpt"], ITERATIVE);
    assert!(got["duality_gap"].as_f64().unwrap() <= 1e-8);
    // The golden error of the estimate in Sigma_D is 3.446, beyond the radius.
    assert_eq!(got["theta_star_in_set"], json!(bound > 3.4463));
}

#[test]
fn g1_algorithm1_and_theorem_b1() {
    let all = golden();
    let want = &all["G1"];
    let got = solved(&example("g1.json"));
    let (alg, golden) = (&got["algorithm1"], &want["Alg1_rho1.5"]);
    assert_eq!(alg["bonus_scale"], json!(1.5));
    close(
        "Vhat",
        &alg["pessimistic_value"],
        &golden["Vhat_rho"],
        ITERATIVE,
    );
    close(
        "SubOpt",
        &alg["suboptimality"],
        &golden["SubOpt"],
        ITERATIVE,
    );
    close(
        "norm",
        &alg["expected_bonus_norm"],
        &golden["E_dstar_norm"],
        EXACT,
    );
    close("KL", &alg["kl"], &golden["KL_star_hat"], ITERATIVE);
    close("bound", &alg["bound"], &golden["Thm42_bound"], ITERATIVE);
    close(
        "root",
        &alg["root_policy"],
        &golden["pihat_root"],
        ITERATIVE,
    );
    assert_eq!(alg["theta_star_in_set"], json!(false));

    for (bound, key) in [(2.0, "B1_rho1.5_B2.0"), (1.2, "B1_rho1.5_B1.2")] {
        let mut instance = example("g1.json");
        instance["estimation"]["param_bound"] = json!(bound);
        let got = &solved(&instance)["theorem_b1"];
        let golden = &want[key];
        check_b1(got, golden, 1.5);
        close(key, &got["value"], &golden["value_minV"], ITERATIVE);
        close(key, &got["bound"], &golden["ThmB1_bound"], EXACT);
        close(
            key,
            &got["norm_of_expectation"],
            &golden["norm_of_expectation"],
            EXACT,
        );
        close(key, &got["root_policy"], &golden["pihat_root"], ITERATIVE);
        assert_eq!(got["active"], golden["active"]);
    }

    let (based, golden) = (&got["baselined"], &want["B1baseline_rho1.5_B2.0"]);
    check_b1(based, golden, 1.5);
    let value = &golden["value_min_Vstar_minus_nu_theta"];
    close("value", &based["value"], value, ITERATIVE);
    close("bound", &based["bound"], &golden["bound"], EXACT);
    close(
        "norm",
        &based["norm_of_expectation"],
        &golden["norm_Edstar_minus_nu"],
        EXACT,
    );
    let active = &based["active"];
    assert_eq!(
        json!([active["ellipsoid"], active["ball"]]),
        golden["active"]
    );
}

#[test]
fn g1_huge_radius() {
    let want = &golden()["G1"]["rho25_B2_compare"];
    let mut instance = example("g1.json");
    instance["estimation"]["bonus_scale"] = json!(25);
    let got = solved(&instance);
    for (key, name) in [("theorem_b1", "B1"), ("baselined", "B1baseline")] {
        let got = &got[key];
        close(
            key,
            &got["theta"],
            &want[format!("{name}_theta")],
            ITERATIVE,
        );
        close(
            key,
            &got["value"],
            &want[format!("{name}_value")],
            ITERATIVE,
        );
        close(
            key,
            &got["suboptimality"],
            &want[format!("{name}_SubOpt")],
            ITERATIVE,
        );
        let active = &got["active"];
        let golden = &want[format!("{name}_active")];
        assert_eq!(&json!([active["ellipsoid"], active["ball"]]), golden);
        assert_eq!(got["theta_star_in_set"], json!(true));
    }
    let alg = &got["algorithm1"];
    close(
        "Alg1",
        &alg["suboptimality"],
        &want["Alg1_SubOpt"],
        ITERATIVE,
    );
    close("Alg1", &alg["bound"], &want["Alg1_bound"], ITERATIVE);
    assert_eq!(alg["theta_star_in_set"], json!(true));
    close(
        "ref",
        &got["suboptimality"]["reference"],
        &want["SubOpt_ref"],
        EXACT,
    );
}

#[test]
fn g1_dpo_and_rto() {
    let want = &golden()["G1"]["DPO_RTO"];
    let got = solved(&example("g1.json"));
    let dpo = &got["dpo"];
    close("dpo", &dpo["root_policy"][0], &want["dpo_root0"], ITERATIVE);
    let implicit = &want["implicit_token_reward_root0_beta_0_5"];
    close("(4.5)", &dpo["token_reward_root"][0], implicit, ITERATIVE);
    close("loss", &dpo["loss"], &want["mean_dpo_loss"], EXACT);
    let gap = &want["SubOpt_dpo_true_beta0_5"];
    close("dpo", &dpo["suboptimality"], gap, ITERATIVE);
    let rto = &got["rto"];
    let root = &want["rto_b1_0_1_b2_0_03_root0"];
    close("rto", &rto["root_policy"][0], root, ITERATIVE);
    close("V", &rto["value"], &want["V_rto"], ITERATIVE);
    close(
        "rto",
        &rto["suboptimality"],
        &want["SubOpt_rto_true_beta0_5"],
        ITERATIVE,
    );
}

#[test]
fn proposition_c2() {
    let want = &golden()["propC2"]["A2H2"];
    let got = solved(&example("propc2.json"));
    close("markov", &got["soft_value_mean"], &want["markov"], EXACT);
    close(
        "fixed",
        &got["predetermined_value"],
        &want["predetermined"],
        EXACT,
    );
}

#[test]
fn the_examples_are_the_formulas() {
    let g1 = example("g1.json");
    let phi = numbers(&g1["features"]);
    for (n, x) in phi.iter().enumerate() {
        let (i, k) = ((n / 4) as f64, (n % 4) as f64);
        assert!((x - (1.0 + 0.7 * k + 1.3 * i + 0.37 * i * k).sin() / 2.0).abs() < 1e-15);
    }
    let pairs = rto::zoo::g1_preferences().unwrap();
    let given = g1["preferences"].as_array().unwrap();
    assert_eq!((phi.len(), given.len()), (312, pairs.len()));
    for (pair, given) in pairs.iter().zip(given) {
        for (trajectory, key) in [(pair.winner(), "winner"), (pair.loser(), "loser")] {
            let tokens: Vec<u32> = trajectory.steps().iter().map(|(_, a)| a.0).collect();
            assert_eq!(json!(tokens), given[key]);
        }
    }
}
