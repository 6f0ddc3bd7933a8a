//! The `solve` binary, run as a user runs it: every golden value that has an output key, arrays in
//! files, bad input, and files broken at random.

use ndarray::ArrayD;
use ndarray_npy::{NpzWriter, write_npy};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Closed-form entries.
const EXACT: f64 = 1e-9;
/// Entries that come from an iterative solver on the other side.
const ITERATIVE: f64 = 1e-6;

fn solve(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_solve"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env_remove("RUST_BACKTRACE")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("solve starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Solves an instance as it stands in a new folder beside other files.
#[track_caller]
fn solved_in(dir: &Path, instance: &Value) -> Value {
    fs::write(dir.join("instance.json"), instance.to_string()).unwrap();
    let output = solve(&["instance.json", "--json"], dir);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("one JSON value on standard output")
}

#[track_caller]
fn solved(instance: &Value) -> Value {
    solved_in(TempDir::new().unwrap().path(), instance)
}

fn example(name: &str) -> Value {
    let path = Path::new(ROOT).join("experiments/data").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/theory.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![
            other
                .as_f64()
                .unwrap_or_else(|| panic!("not a number: {other}")),
        ],
    }
}

#[track_caller]
fn close(what: &str, got: &Value, want: &Value, tolerance: f64) {
    let (got, want) = (numbers(got), numbers(want));
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1.0),
            "{what}[{i}]: got {g:.16e}, golden {w:.16e}"
        );
    }
}

/// The instance with keys set, or removed where the value is null.
fn with(mut instance: Value, changes: Value) -> Value {
    let fields = instance.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(fields.remove(key)),
            value => drop(fields.insert(key.clone(), value.clone())),
        }
    }
    instance
}

// ---------------------------------------------------------------- golden values

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
    assert_eq!(
        got["radii"].as_object().unwrap().keys().collect::<Vec<_>>(),
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
    let pairs = rto::mdp::zoo::g1_preferences().unwrap();
    let given = g1["preferences"].as_array().unwrap();
    assert_eq!((phi.len(), given.len()), (312, pairs.len()));
    for (pair, given) in pairs.iter().zip(given) {
        for (trajectory, key) in [(pair.winner(), "winner"), (pair.loser(), "loser")] {
            let tokens: Vec<u32> = trajectory.steps().iter().map(|(_, a)| a.0).collect();
            assert_eq!(json!(tokens), given[key]);
        }
    }
}

// ---------------------------------------------------------------- what is known and what is not

#[test]
fn unknown_truth_is_null() {
    let keys: Vec<String> = solved(&example("g1.json"))
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let got = solved(&with(example("g1.json"), json!({"theta": null})));
    assert_eq!(
        got.as_object().unwrap().keys().cloned().collect::<Vec<_>>(),
        keys
    );
    for path in [
        "/soft_value",
        "/soft_value_mean",
        "/reference_value",
        "/policy_value",
        "/suboptimality/reference",
        "/suboptimality/policy",
        "/root_policy",
        "/feature_expectation",
        "/predetermined_value",
        "/algorithm1/suboptimality",
        "/algorithm1/bound",
        "/algorithm1/theta_star_in_set",
        "/theorem_b1/suboptimality",
        "/theorem_b1/bound",
        "/theorem_b1/theta_star_in_set",
        "/baselined/bound",
        "/dpo/suboptimality",
        "/dpo/population_loss",
        "/rto/suboptimality",
    ] {
        assert_eq!(got.pointer(path), Some(&Value::Null), "{path}");
    }
    let full = solved(&example("g1.json"));
    for path in [
        "/mle",
        "/radii",
        "/theorem_b1/theta",
        "/dpo/root_policy",
        "/rto/value",
    ] {
        assert_eq!(got.pointer(path), full.pointer(path), "{path}");
    }
}

#[test]
fn one_hot_features_stand_in_for_a_reward_table() {
    let pair = |w: [u32; 2], l: [u32; 2]| json!({"prompt": 0, "winner": w, "loser": l});
    let preferences = json!([
        pair([0, 0], [1, 1]),
        pair([1, 0], [0, 1]),
        pair([0, 1], [1, 0])
    ]);
    let estimation = json!({"param_bound": 2, "bonus_scale": "theory_kappa"});
    let table = with(
        example("g0.json"),
        json!({"preferences": preferences, "estimation": estimation}),
    );
    let one_hot: Vec<Vec<Vec<f64>>> = (0..3)
        .map(|s| {
            (0..2)
                .map(|a| {
                    (0..6)
                        .map(|k| f64::from(u8::from(k == 2 * s + a)))
                        .collect()
                })
                .collect()
        })
        .collect();
    let theta = [0.2, -0.1, 0.5, -0.3, 1.0, 0.1];
    let linear = with(
        table.clone(),
        json!({"reward": null, "features": [one_hot], "theta": theta}),
    );
    let (table, linear) = (solved(&table), solved(&linear));
    assert_eq!(table, linear);
    assert!(table["warnings"][0].as_str().unwrap().contains("d > n"));
    assert_eq!(table["algorithm1"]["metric"], json!("sigma_d"));
    assert_eq!(
        table["algorithm1"]["bonus_scale"],
        table["radii"]["rho_theory_kappa"]
    );
}

#[test]
fn beta_zero_is_greedy() {
    let got = solved(&with(example("g0.json"), json!({"beta": 0, "rto": null})));
    close("V", &got["soft_value_mean"], &json!(0.9), EXACT);
    assert_eq!(got["root_policy"], json!([[0.0, 1.0]]));
    assert_eq!(got["dpo"], Value::Null);
    close(
        "fixed",
        &got["predetermined_value"],
        &got["soft_value_mean"],
        EXACT,
    );
    let got = solved(&with(example("g1.json"), json!({"beta": 0})));
    assert_eq!(got["theorem_b1"], Value::Null);
    assert!(got["algorithm1"]["bound"].is_number());
}

#[test]
fn an_end_of_sentence_token_ends_the_episode() {
    // After token 1 nothing is paid, so the rows below it may hold anything.
    let instance = json!({
        "beta": 0.5, "initial": [1], "n_actions": 2, "horizon": 2, "eos": 1,
        "reference": [[[0.5, 0.5], [0.5, 0.5], [0, 0]]],
        "reward": [[[0, 1], [0.5, 0.25], [100, 100]]],
        "preferences": [{"winner": [1], "loser": [0, 0]}, {"winner": [0, 1], "loser": [1]}],
        "estimation": {"param_bound": 1}
    });
    let got = solved(&instance);
    let after = 0.5 * (0.5f64 * 1.0f64.exp() + 0.5 * 0.5f64.exp()).ln();
    let want = 0.5 * (0.5 * (2.0 * after).exp() + 0.5 * 2.0f64.exp()).ln();
    close("V", &got["soft_value_mean"], &json!(want), EXACT);
    assert!(got["mle"]["norm"].is_number());
}

#[test]
fn logits_may_be_null_for_probability_zero() {
    let probabilities = with(
        example("g0.json"),
        json!({"policy_logits": null,
        "reference": [[[1, 0], [0.5, 0.5], [0.25, 0.75]]]}),
    );
    let logits = with(
        probabilities.clone(),
        json!({"reference": null,
        "reference_logits": [[[0, null], [0, 0], [0, 3f64.ln()]]],
        "policy_logits": [[[0, null], [0, 0], [1, 0]]]}),
    );
    let (a, b) = (solved(&probabilities), solved(&logits));
    close("V", &a["soft_value"], &b["soft_value"], EXACT);
    assert_eq!(a["root_policy"], json!([[1.0, 0.0]]));
    assert!(b["policy_value"].is_array());
}

#[test]
fn a_tree_is_also_a_general_table() {
    let tree = solved(&example("g0.json"));
    let table = with(
        example("g0.json"),
        json!({
            "n_actions": null, "states": 3, "initial": [1, 0, 0],
            "transition": [[1, 2], [null, null], [null, null]],
            "reference": [[0.6, 0.4], [0.5, 0.5], [0.25, 0.75]],
            "reward": [[0.2, -0.1], [0.5, -0.3], [1.0, 0.1]],
            "policy_logits": [[0, 0], [0, 0], [0, 0]],
        }),
    );
    let table = solved(&table);
    for key in ["soft_value_mean", "suboptimality", "predetermined_value"] {
        assert_eq!(tree[key], table[key], "{key}");
    }
    assert_eq!(tree["root_policy"][0], table["root_policy"][0]);
    assert_eq!(
        tree["rto"]["beta_effective"],
        table["rto"]["beta_effective"]
    );
    // Every state has the value it would have if an episode started there.
    assert_eq!(table["soft_value"].as_array().unwrap().len(), 3);
}

// ---------------------------------------------------------------- general tables

#[test]
fn robust_values_are_pessimistic_and_tend_to_the_nominal_ones() {
    let value = |zeta: f64| {
        let got = solved(&with(example("robust.json"), json!({ "zeta": zeta })));
        (
            got["robust"]["value"].as_f64().unwrap(),
            got["soft_value_mean"].as_f64().unwrap(),
        )
    };
    let (robust, nominal) = value(2.0);
    assert!(robust < nominal);
    let (tighter, _) = value(0.5);
    assert!(robust < tighter);
    // N alone: the balls are around `transition` itself, and shrink to it.
    let counts = json!([[1, 1], [1, 1], [1, 1], [1, 1]]);
    let alone = with(
        example("robust.json"),
        json!({"zeta": 0, "transition_counts": counts}),
    );
    let alone = solved(&alone);
    close(
        "zeta = 0",
        &alone["robust"]["value"],
        &json!(nominal),
        EXACT,
    );
    close(
        "policy",
        &alone["robust"]["root_policy"][0],
        &alone["root_policy"][0],
        EXACT,
    );
    assert_eq!(alone["robust"]["reward"], json!("given"));
}

#[test]
fn a_general_table_learns_from_pairs() {
    let pair = |w: Value, l: Value| json!({"winner": w, "loser": l});
    let instance = with(
        example("robust.json"),
        json!({
            "reward": null,
            "features": [[[1, 0], [0, 1]], [[0.5, 0.5], [1, 1]], [[0.2, 0.1], [0, 0.4]], [[0, 0], [0, 0]]],
            "theta": [0.3, 0.2],
            "preferences": [
                pair(json!([[0, 0], [1, 0], [2, 0]]), json!([[0, 1], [2, 1]])),
                pair(json!([[0, 1], [0, 1], [2, 0]]), json!([[0, 0], [1, 1], [1, 0], [2, 1]])),
                pair(json!([[0, 1], [2, 1]]), json!([[0, 0], [1, 0], [2, 0]])),
            ],
            "estimation": {"param_bound": 1, "bonus_scale": "self_concordant"},
        }),
    );
    let got = solved(&instance);
    assert_eq!(got["robust"]["reward"], json!("pessimistic"));
    assert_eq!(got["algorithm1"]["metric"], json!("fisher"));
    let theta = got["algorithm1"]["theta_star_in_set"].as_bool().unwrap();
    assert!(theta);
    let robust = got["robust"]["value"].as_f64().unwrap();
    assert!(robust < got["algorithm1"]["pessimistic_value"].as_f64().unwrap());
    for key in ["algorithm1", "theorem_b1", "baselined"] {
        let of = |name: &str| got[key][name].as_f64().unwrap();
        assert!(of("suboptimality") <= of("bound"), "{key}");
    }
    // The same pairs as CSV.
    let dir = TempDir::new().unwrap();
    let csv =
        "winner,loser\n0:0 1:0 2:0,0:1 2:1\n0:1 0:1 2:0,0:0 1:1 1:0 2:1\n0:1 2:1,0:0 1:0 2:0\n";
    fs::write(dir.path().join("pairs.csv"), csv).unwrap();
    let file = with(instance, json!({"preferences": "pairs.csv"}));
    assert_eq!(solved_in(dir.path(), &file), got);
}

// ---------------------------------------------------------------- arrays and preferences in files

fn array(value: &Value) -> ArrayD<f64> {
    let mut shape = Vec::new();
    let mut inner = value;
    while let Value::Array(items) = inner {
        shape.push(items.len());
        inner = &items[0];
    }
    ArrayD::from_shape_vec(shape, numbers(value)).unwrap()
}

const ARRAYS: [&str; 4] = ["reference_logits", "features", "policy_logits", "theta"];

#[test]
fn arrays_from_files_give_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let g1 = example("g1.json");
    let inline = solved_in(dir.path(), &g1);
    let mut npz = NpzWriter::new_compressed(fs::File::create(at("all.npz")).unwrap());
    let mut bytes = Vec::new();
    for key in ARRAYS {
        let values = array(&g1[key]);
        write_npy(at(&format!("{key}.npy")), &values).unwrap();
        npz.add_array(key, &values).unwrap();
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.push((key, values.shape().to_vec(), raw));
    }
    npz.finish().unwrap();
    let tensors = bytes.iter().map(|(key, shape, raw)| {
        (
            *key,
            TensorView::new(Dtype::F64, shape.clone(), raw).unwrap(),
        )
    });
    safetensors::serialize_to_file(tensors, None, &at("all.safetensors")).unwrap();
    // Fortran order is a matter of the file alone.
    let features = array(&g1["features"])
        .reversed_axes()
        .as_standard_layout()
        .into_owned();
    write_npy(at("fortran.npy"), &features.reversed_axes()).unwrap();

    let pairs = g1["preferences"].as_array().unwrap();
    let lines: Vec<String> = pairs.iter().map(Value::to_string).collect();
    fs::write(at("pairs.jsonl"), lines.join("\n")).unwrap();
    let words = |tokens: &Value| {
        numbers(tokens)
            .iter()
            .map(f64::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let rows = pairs.iter().map(|p| {
        format!(
            "{},{},{}\n",
            p["prompt"],
            words(&p["winner"]),
            words(&p["loser"])
        )
    });
    let csv = format!("prompt,winner,loser\n{}", rows.collect::<String>());
    fs::write(at("pairs.csv"), csv).unwrap();

    for (name, preferences) in [
        ("{}.npy", "pairs.jsonl"),
        ("all.npz:{}", "pairs.csv"),
        ("all.safetensors:{}", "pairs.csv"),
    ] {
        let mut instance = g1.clone();
        for key in ARRAYS {
            instance[key] = json!(name.replace("{}", key));
        }
        instance["preferences"] = json!(preferences);
        assert_eq!(solved_in(dir.path(), &instance), inline, "{name}");
    }
    let instance = with(g1, json!({"features": "fortran.npy"}));
    assert_eq!(solved_in(dir.path(), &instance), inline);
}

#[test]
fn transitions_from_a_file() {
    let dir = TempDir::new().unwrap();
    let inline = solved_in(dir.path(), &example("propc2.json"));
    let dense = ArrayD::from_shape_fn(vec![3, 2, 3], |i| if i[2] == 0 { 0.0 } else { 0.5 });
    write_npy(dir.path().join("t.npy"), &dense).unwrap();
    let instance = with(example("propc2.json"), json!({"transition": "t.npy"}));
    assert_eq!(solved_in(dir.path(), &instance), inline);
}

// ---------------------------------------------------------------- what is printed

#[test]
fn a_table_for_people_and_a_folder_on_request() {
    let dir = TempDir::new().unwrap();
    let file = Path::new(ROOT).join("experiments/data/g1.json");
    let file = file.to_str().unwrap();
    let output = solve(&[file, "--out", "run"], dir.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "soft_value_mean",
        "0.9139146",
        "Theorem 4.2",
        "0.5092455",
        "premise of the bound holds",
    ] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
    let saved: Value =
        serde_json::from_slice(&fs::read(dir.path().join("run/results.json")).unwrap()).unwrap();
    assert_eq!(saved, solved(&example("g1.json")));
    assert!(dir.path().join("run/versions.json").is_file());
    // A run is never overwritten.
    assert_refused(&solve(&[file, "--out", "run"], dir.path()), &["not empty"]);
    // Neither does a run without --out leave anything.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn help_has_examples() {
    let output = solve(&["--help"], Path::new(ROOT));
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ["g0.json", "g1.json", "propc2.json", "robust.json"] {
        let path = format!("experiments/data/{name}");
        assert!(text.contains(&path), "{path}");
        assert!(solve(&[&path], Path::new(ROOT)).status.success());
    }
}

/// The readme's example with other data.
fn own(changes: Value) -> Value {
    with(example("own.json"), changes)
}

fn warned(instance: &Value, part: &str) -> Value {
    let got = solved(instance);
    let warnings = got["warnings"].as_array().unwrap();
    let told = warnings.iter().any(|w| w.as_str().unwrap().contains(part));
    assert!(told, "{warnings:?} do not say {part:?}");
    got
}

/// Without pairs, or with pairs that tell nothing, the Wald radius is 0, and a reader should know.
#[test]
fn no_information_is_told() {
    let part = "wald is 0 when the preferences tell nothing";
    let got = warned(&own(json!({"preferences": []})), part);
    assert_eq!(got["algorithm1"]["bonus_scale"], 0.0);
    assert_eq!(got["dpo"]["loss"], Value::Null);
    let same = json!([{"prompt": 0, "winner": [0, 0], "loser": [0, 0]}]);
    warned(&own(json!({"preferences": same})), part);
    let informed = solved(&own(json!({})));
    assert!(!informed["warnings"].to_string().contains("wald is 0"));
}

/// log(π/π_ref) of an impossible response is 0/0: no loss is made up for it.
#[test]
fn responses_outside_the_support_have_no_dpo_loss() {
    let reference = json!([[[1, 0], [0.5, 0.5], [0.5, 0.5]]]);
    let part = "preferences[0]: the reference gives one of its responses probability 0";
    let got = warned(&own(json!({"reference": reference})), part);
    assert_eq!(got["dpo"]["loss"], Value::Null);
    assert_eq!(got["dpo"]["root_policy"], json!([[1.0, 0.0]]));
}

/// Rewards that no log-ratio can hold cost the DPO part and nothing else.
#[test]
fn huge_rewards_leave_out_dpo_alone() {
    let reward = json!([[[5e307, -1e308], [5e307, 0], [1, 0]]]);
    let instance = with(
        example("g0.json"),
        json!({"reward": reward, "policy_logits": null, "rto": null}),
    );
    let got = warned(&instance, "dpo: rewards are so large beside beta = 0.5");
    assert_eq!(got["dpo"], Value::Null);
    assert_eq!(got["root_policy"], json!([[1.0, 0.0]]));
    let overflows = json!([[[1e308, -1e308], [1e308, 0], [1, 0]]]);
    refused(
        &with(instance.clone(), json!({"reward": overflows})),
        &["reward: the sum of rewards from state 0 is not finite"],
    );
    let tiny = with(example("g0.json"), json!({"beta": 5e-324, "rto": null}));
    warned(&tiny, "beta = 5e-324");
    refused(
        &with(
            instance,
            json!({"rto": {"beta1": 0.1, "beta2": 0.1, "source": "dpo"}}),
        ),
        &["rto.source: dpo has no policy"],
    );
}

/// Where the reference allows one token, so it does for the best fixed response; Proposition C.2 has none when
/// the states ask for different actions.
#[test]
fn predetermined_responses_keep_to_the_support() {
    let reference = json!([[[0, 1], [0.5, 0.5], [0.5, 0.5]]]);
    let reward = json!([[[5, 0], [0, 0], [0, 1]]]);
    let changes = json!({"reference": reference, "reward": reward, "beta": 0, "policy_logits": null, "rto": null});
    let got = solved(&with(example("g0.json"), changes));
    assert_eq!(got["predetermined_value"], 1.0);
    assert_eq!(got["soft_value"], json!([1.0]));
    let split = json!([[0.5, 0.5], [1, 0], [0, 1]]);
    let got = solved(&with(example("propc2.json"), json!({"reference": split})));
    assert_eq!(got["predetermined_value"], Value::Null);
}

/// C sqrt(d log(1/delta)/Upsilon) + lambda B^2 with d = H = B = 2, L = sqrt 2, lambda = 1: (A.2) to the letter.
#[test]
fn the_radius_as_printed_is_a_choice() {
    let slope = 2.0 + 2.0 * (8.0 * 2f64.sqrt()).cosh();
    let root = (2.0 * 20f64.ln() * slope).sqrt();
    for (constant, printed) in [(None, root + 4.0), (Some(2.5), 2.5 * root + 4.0)] {
        let mut e = json!({"param_bound": 2, "bonus_scale": "printed"});
        if let Some(constant) = constant {
            e["printed_constant"] = json!(constant);
        }
        let got = solved(&own(json!({"estimation": e})));
        close(
            "radius",
            &got["algorithm1"]["bonus_scale"],
            &json!(printed),
            1e-9,
        );
        close(
            "report",
            &got["radii"]["rho_printed_Upsilon"],
            &json!(printed),
            1e-9,
        );
        assert_eq!(got["algorithm1"]["metric"], "sigma_d");
    }
    refused(
        &own(json!({"estimation": {"param_bound": 2, "printed_constant": 0}})),
        &["estimation.printed_constant: found 0, must be > 0"],
    );
}

#[test]
fn extreme_settings() {
    let estimation = |key: &str, value: f64| {
        let mut e = json!({"param_bound": 2, "ridge": 1, "fail_prob": 0.05, "bonus_scale": "wald"});
        e[key] = json!(value);
        own(json!({"estimation": e}))
    };
    let got = solved(&estimation("fail_prob", 1e-300));
    // By SciPy: sqrt(chi2.isf(1e-300, 2)) = sqrt(600 log 10).
    let want = json!((600.0 * 10f64.ln()).sqrt());
    close("radius", &got["algorithm1"]["bonus_scale"], &want, 1e-9);
    refused(
        &estimation("param_bound", 1e-300),
        &["estimation.param_bound: found 1e-300, must be >= 1e-100"],
    );
    let steep = json!({"param_bound": 1000, "bonus_scale": "theory"});
    refused(
        &own(json!({"estimation": steep})),
        &["estimation.bonus_scale: the radius theory is infinite"],
    );
    for (length, shown) in [(1e-200, "1e-200"), (1e150, "1e150")] {
        let features = json!([[
            [[length, 0], [0, length]],
            [[length, 0], [0, 0]],
            [[0, 0], [0, 0]]
        ]]);
        let parts = [
            &format!("features: the largest norm is {shown}")[..],
            "change their unit",
        ];
        refused(&own(json!({"features": features})), &parts);
    }
}

// ---------------------------------------------------------------- bad input

/// Exit code 1, and one line that begins with `error:` and contains every part.
#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.starts_with("error: "), "{text}");
    assert!(output.stdout.is_empty());
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[track_caller]
fn refused(instance: &Value, parts: &[&str]) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("bad.json"), instance.to_string()).unwrap();
    let output = solve(&["bad.json", "--json"], dir.path());
    assert_refused(&output, &[&["bad.json: "], parts].concat());
}

/// The example with one value replaced.
fn edited(name: &str, pointer: &str, value: Value) -> Value {
    let mut instance = example(name);
    match instance.pointer_mut(pointer) {
        Some(slot) => *slot = value,
        None => instance[&pointer[1..]] = value,
    }
    instance
}

#[test]
fn bad_trees() {
    for (pointer, value, parts) in [
        ("/beta", json!(-0.5), vec!["beta: found -0.5"]),
        (
            "/beta",
            json!("x"),
            vec!["beta: found \"x\", expected a number"],
        ),
        ("/beta", Value::Null, vec!["beta: missing"]),
        (
            "/initial",
            json!([0.5]),
            vec!["initial: probabilities must sum to 1", "0.5"],
        ),
        (
            "/initial",
            json!([]),
            vec!["initial: found no probabilities"],
        ),
        ("/initial", json!([1.5, -0.5]), vec!["initial[1]"]),
        ("/n_actions", json!(0), vec!["n_actions"]),
        ("/n_actions", json!(2.5), vec!["n_actions: found 2.5"]),
        (
            "/n_actions",
            json!(3),
            vec!["reference[0]: found 3 values, expected 4 (states)"],
        ),
        ("/horizon", json!(0), vec!["horizon"]),
        ("/horizon", json!(1_000_000), vec!["horizon"]),
        ("/eos", json!(2), vec!["eos"]),
        (
            "/reference/0/2",
            json!([0.25, 0.7]),
            vec!["reference[0][2]: probabilities must sum to 1"],
        ),
        (
            "/reference/0/2",
            json!([0.25]),
            vec!["reference[0][2]: found 1 values, expected 2 (actions)"],
        ),
        (
            "/reference/0/2/1",
            json!(-0.75),
            vec!["reference[0][2][1]: found -0.75"],
        ),
        (
            "/reference/0/2/1",
            json!([1]),
            vec!["reference[0][2][1]: found a list"],
        ),
        (
            "/reference",
            json!(7),
            vec!["reference: found 7, expected a list"],
        ),
        ("/reference_logits", json!([]), vec!["not both"]),
        (
            "/reward/0",
            json!([[1, 2], [3, 4]]),
            vec!["reward[0]: found 2 values, expected 3 (states)"],
        ),
        (
            "/reward/0/1/0",
            Value::Null,
            vec!["reward[0][1][0]: found null"],
        ),
        (
            "/reward",
            Value::Null,
            vec!["reward: missing, give reward or features"],
        ),
        ("/theta", json!([1]), vec!["theta: needs features"]),
        (
            "/policy_logits/0/1",
            json!([null, null]),
            vec!["policy_logits[0][1]: no action"],
        ),
        (
            "/rewards",
            json!([1]),
            vec!["rewards: unknown key, expected one of"],
        ),
        (
            "/transition_counts",
            json!([1]),
            vec!["transition_counts: unknown key"],
        ),
        (
            "/estimation",
            json!({"ridg": 1}),
            vec!["estimation.ridg: unknown key"],
        ),
        (
            "/estimation",
            json!({"ridge": 0}),
            vec!["estimation.ridge: found 0, must be > 0"],
        ),
        (
            "/estimation",
            json!({"fail_prob": 1}),
            vec!["estimation.fail_prob"],
        ),
        (
            "/estimation",
            json!({"bonus_scale": "big"}),
            vec!["estimation.bonus_scale", "wald"],
        ),
        (
            "/estimation",
            json!({"bonus_scale": -1}),
            vec!["estimation.bonus_scale: found -1"],
        ),
        (
            "/estimation",
            json!({"metric": "l2"}),
            vec!["estimation.metric: found \"l2\""],
        ),
        ("/rto", json!({"beta1": 0.1}), vec!["rto.beta2: missing"]),
        (
            "/rto",
            json!({"beta1": 0, "beta2": 1}),
            vec!["rto.beta1: found 0"],
        ),
        (
            "/rto",
            json!({"beta1": 1, "beta2": 1, "source": "x"}),
            vec!["rto.source: found \"x\""],
        ),
        ("/dpo", json!({"beta": 0}), vec!["dpo.beta: found 0"]),
        ("/preferences", json!("p.txt"), vec!["preferences"]),
        (
            "/preferences",
            json!("no.jsonl"),
            vec!["preferences (no.jsonl): cannot read"],
        ),
        (
            "/reward",
            json!("no.npy"),
            vec!["reward (no.npy): cannot read"],
        ),
        (
            "/reward",
            json!("reward.txt"),
            vec!["reward (reward.txt): expected a list, or the path"],
        ),
    ] {
        refused(&edited("g0.json", pointer, value), &parts);
    }
    refused(&json!([1, 2]), &["the file: found a list"]);
    refused(
        &with(
            example("g0.json"),
            json!({"reference": [[[1, 0], [0.5, 0.5], [0.25, 0.75]]]}),
        ),
        &["policy_logits[0][0][1]", "reference is 0"],
    );
}

#[test]
fn bad_preferences() {
    let pair = |x: Value, w: Value, l: Value| json!({"prompt": x, "winner": w, "loser": l});
    for (bad, parts) in [
        (
            pair(json!(0), json!([0, 7, 0]), json!([0, 0, 0])),
            vec!["preferences[1]: winner: unknown token 7"],
        ),
        (
            pair(json!(0), json!([0, 0, 0]), json!([0, 0])),
            vec!["preferences[1]: loser: response length: found 2"],
        ),
        (
            pair(json!(2), json!([0, 0, 0]), json!([0, 0, 1])),
            vec!["preferences[1]: prompt: found 2"],
        ),
        (
            pair(Value::Null, json!([0, 0, 0]), json!([0, 0, 1])),
            vec!["preferences[1]: prompt: missing"],
        ),
        (
            pair(json!(0), json!([0, -1, 0]), json!([0, 0, 1])),
            vec!["preferences[1].winner[1]: found -1"],
        ),
        (
            pair(json!(0), json!([]), json!([0, 0, 1])),
            vec!["preferences[1]: winner: response length"],
        ),
        (
            pair(json!(0), json!([[0, 0]]), json!([0, 0, 1])),
            vec!["expected a list of tokens"],
        ),
        (
            json!({"prompt": 0, "winner": [0, 0, 0]}),
            vec!["preferences[1].loser: missing"],
        ),
        (
            json!({"prompt": 0, "winner": [0, 0, 0], "loser": [0, 0, 1], "tie": 1}),
            vec!["preferences[1].tie: unknown key"],
        ),
        (
            json!(3),
            vec!["preferences[1]: found 3, expected an object"],
        ),
    ] {
        let good = pair(json!(0), json!([0, 0, 0]), json!([1, 0, 0]));
        refused(
            &with(example("g1.json"), json!({"preferences": [good, bad]})),
            &parts,
        );
    }
    // Separable data have no finite maximiser; the ball gives one, and that is said.
    let pairs = json!([pair(json!(0), json!([0, 0, 0]), json!([1, 0, 0]))]);
    let free = with(
        example("g1.json"),
        json!({"preferences": pairs, "estimation": null}),
    );
    refused(
        &free,
        &["preferences: ", "separable", "estimation.param_bound"],
    );
    let dir = TempDir::new().unwrap();
    let ball = with(free, json!({"estimation": {"param_bound": 1}}));
    fs::write(dir.path().join("ball.json"), ball.to_string()).unwrap();
    let output = solve(&["ball.json", "--json"], dir.path());
    assert!(output.status.success());
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(got["mle"]["at_bound"], json!(true));
    assert_eq!(got["mle"]["separable"], json!(true));
    assert!(got["mle"]["multiplier"].as_f64().unwrap() > 0.0);
    assert_eq!(got["mle"]["separation"], json!("complete"));
    let warnings = [
        "features: rank 1 of d = 4 on the n = 1 pairs of preferences (rank-deficient, d > n); the estimate of least norm is used",
        "preferences: the data are separable (one direction favours the winner in all n = 1 pairs), so only estimation.param_bound = 1 keeps the estimate finite",
    ];
    assert_eq!(got["warnings"], json!(warnings));
    let lines: Vec<String> = warnings
        .iter()
        .map(|w| format!("warning: ball.json: {w}"))
        .collect();
    let text = stderr(&output);
    let said: Vec<&str> = text.lines().filter(|l| l.starts_with("warning")).collect();
    assert_eq!(said, lines);
    let small = edited("g1.json", "/estimation/feature_bound", json!(0.1));
    refused(&small, &["estimation.feature_bound: found 0.1"]);
    let both = edited("g1.json", "/estimation/bonus_scale", json!("wald"));
    refused(&both, &["estimation.metric: found sigma_d", "fisher"]);
    let nameless = with(
        example("g1.json"),
        json!({"estimation": {"bonus_scale": "theory"}}),
    );
    refused(&nameless, &["estimation.param_bound: missing"]);
}

/// Two arms compared both ways, a third that always loses to the first: no finite maximiser, though no
/// direction explains every pair.
#[test]
fn quasi_separable_preferences() {
    let pair = |w: usize, l: usize| json!({"winner": [w], "loser": [l]});
    let pairs = json!([pair(0, 1), pair(1, 0), pair(0, 1), pair(0, 2), pair(0, 2)]);
    let free = json!({
        "beta": 0.5, "initial": [1], "n_actions": 3, "horizon": 1,
        "reference": [[[0.2, 0.3, 0.5]]], "reward": [[[1, 0, -1]]], "preferences": pairs
    });
    let how = "preferences: the data are quasi-separable (one direction favours the winner in 2 of n = 5 pairs and the loser in none)";
    refused(
        &free,
        &[how, "no finite maximiser", "estimation.param_bound"],
    );
    let ball = with(free.clone(), json!({"estimation": {"param_bound": 3}}));
    let got = solved(&ball);
    assert_eq!(got["mle"]["separation"], json!("quasi"));
    assert_eq!(got["mle"]["separable"], json!(false));
    let warnings: Vec<&str> = got["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        warnings,
        [
            "features: rank 2 of d = 3 on the n = 5 pairs of preferences (rank-deficient); the estimate of least norm is used",
            &format!("{how}, so only estimation.param_bound = 3 keeps the estimate finite"),
        ]
    );
    // One label the other way, and the maximiser is finite without the ball.
    let mut overlap = free;
    overlap["preferences"]
        .as_array_mut()
        .unwrap()
        .push(pair(2, 0));
    let got = solved(&overlap);
    assert_eq!(got["mle"]["separation"], json!("none"));
    let theta = numbers(&got["mle"]["theta"]);
    assert!((theta[0] - theta[1] - 2f64.ln()).abs() < 1e-9, "{theta:?}");
    assert!((theta[0] - theta[2] - 2f64.ln()).abs() < 1e-9, "{theta:?}");
}

#[test]
fn layered_graphs_are_declared() {
    let acyclic = json!({
        "beta": 0.5, "states": 4, "initial": [1, 0, 0, 0], "horizon": 3,
        "transition": [[1, [[1, 0.5], [2, 0.5]]], [3, 2], [3, null], [0, 0]], "terminal": [3],
        "reference": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
        "reward": [[1, 0], [0, 2], [1, 1], [0, 0]]
    });
    let declared = with(acyclic.clone(), json!({"layered": true}));
    assert_eq!(solved(&declared), solved(&acyclic));
    let mut cyclic = declared;
    cyclic["transition"][2][1] = json!([[0, 0.25], [3, 0.75]]);
    refused(
        &cyclic,
        &[
            "transition[2][1]: leads from state 2 back to state 0, a cycle",
            "layered",
        ],
    );
    // Without the declaration the horizon unrolls the cycle.
    solved(&with(cyclic.clone(), json!({"layered": false})));
    refused(
        &with(cyclic, json!({"layered": 1})),
        &["layered: found 1, expected true or false"],
    );
    let tree = with(example("g0.json"), json!({"layered": true}));
    refused(&tree, &["layered: unknown key"]);
}

#[test]
fn bad_tables() {
    for (name, pointer, value, parts) in [
        (
            "propc2.json",
            "/transition/1/0",
            json!(3),
            vec!["transition[1][0]: found 3"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/0",
            json!(3),
            vec!["transition[1][0][1][0]: found 3"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/1",
            json!(0.4),
            vec!["transition[1][0]: probabilities must sum to 1"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/1",
            json!(-0.5),
            vec!["transition[1][0][1][1]: found -0.5"],
        ),
        (
            "propc2.json",
            "/transition/1/0/1/0",
            json!(1),
            vec!["transition[1][0][1]: state 1 is listed twice"],
        ),
        (
            "propc2.json",
            "/transition/1",
            json!([0]),
            vec!["transition[1]: found 1 values, expected 2 (actions)"],
        ),
        (
            "propc2.json",
            "/transition",
            json!([]),
            vec!["transition: found 0 values, expected 3 (states)"],
        ),
        (
            "propc2.json",
            "/states",
            json!(4),
            vec!["initial: found 3 values, expected 4 (states)"],
        ),
        (
            "propc2.json",
            "/terminal",
            json!([3]),
            vec!["terminal[0]: found 3"],
        ),
        (
            "propc2.json",
            "/terminal",
            json!([0]),
            vec!["initial[0]: found 1, must be 0"],
        ),
        (
            "propc2.json",
            "/zeta",
            json!(1),
            vec!["zeta: needs transition_counts"],
        ),
        (
            "propc2.json",
            "/horizon",
            json!(1_000_000_000),
            vec!["horizon"],
        ),
        ("robust.json", "/zeta", Value::Null, vec!["zeta: missing"]),
        ("robust.json", "/zeta", json!(-1), vec!["zeta: found -1"]),
        (
            "robust.json",
            "/transition_counts/0/0",
            json!(-1),
            vec!["transition_counts[0][0]: found -1"],
        ),
        (
            "robust.json",
            "/transition_counts/0/1/0/1",
            json!(-1),
            vec!["transition_counts[0][1]: found -1"],
        ),
        (
            "robust.json",
            "/transition_counts/0/1/0/0",
            json!(9),
            vec!["transition_counts[0][1][0][0]: found 9"],
        ),
        (
            "robust.json",
            "/reference/2",
            json!([1, 1]),
            vec!["reference[2]: probabilities"],
        ),
        (
            "robust.json",
            "/reward",
            json!([[1]]),
            vec!["reward: found 1 values, expected 4 (states)"],
        ),
    ] {
        refused(&edited(name, pointer, value), &parts);
    }
    let trajectory = |steps: Value, part: &str| {
        let pairs = json!([{"winner": steps, "loser": [[0, 1], [2, 1]]}]);
        let estimation = json!({"param_bound": 1});
        let instance = with(
            example("robust.json"),
            json!({"preferences": pairs, "estimation": estimation}),
        );
        refused(&instance, &["preferences[0]", part]);
    };
    trajectory(
        json!([[0, 0], [2, 0]]),
        "step 1: state 2 does not follow state 0 under action 0",
    );
    trajectory(json!([[0, 0], [1, 1]]), "stops after step 1");
    trajectory(json!([[0, 0], [4, 1]]), "step 1: state 4 does not follow");
    trajectory(json!([[4, 0]]), "step 0: found state 4");
    trajectory(json!([[3, 0]]), "step 0: state 3 cannot be met");
    trajectory(json!([[1, 0], [2, 0]]), "different states");
    trajectory(
        json!([[0, 1], [0, 1], [0, 1], [0, 1], [0, 1]]),
        "the horizon is 4",
    );
    trajectory(json!([0, 1]), "[state, action] pairs");
    trajectory(json!([[0]]), "expected [state, action]");
}

#[test]
fn bad_files() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_refused(&solve(&["no.json"], dir.path()), &["no.json: cannot read"]);
    for (text, part) in [
        ("", "EOF"),
        ("{\"beta\": NaN}", "found NaN"),
        ("{\"beta\": 1e999}", "out of range"),
        ("{\"beta\": 1, \"beta\": 2}", "\"beta\" is given twice"),
        ("{\"beta\": 1}", "initial: missing"),
    ] {
        fs::write(at("t.json"), text).unwrap();
        assert_refused(&solve(&["t.json"], dir.path()), &["t.json: ", part]);
    }
    fs::write(at("t.json"), b"\xff\xfe").unwrap();
    assert_refused(&solve(&["t.json"], dir.path()), &["t.json: not UTF-8"]);

    let good = ArrayD::from_shape_fn(vec![1, 3, 2], |i| i[1] as f64);
    write_npy(at("good.npy"), &good).unwrap();
    let bytes = fs::read(at("good.npy")).unwrap();
    fs::write(at("cut.npy"), &bytes[..bytes.len() - 8]).unwrap();
    fs::write(at("text.npy"), "hello, I am text").unwrap();
    fs::write(at("text.npz"), "hello, I am text").unwrap();
    fs::write(at("text.safetensors"), "hello, I am text").unwrap();
    write_npy(at("shape.npy"), &ArrayD::<f64>::zeros(vec![3, 2])).unwrap();
    let mut nan = good.clone();
    nan[[0, 2, 1]] = f64::NAN;
    write_npy(at("nan.npy"), &nan).unwrap();
    nan[[0, 2, 1]] = f64::INFINITY;
    write_npy(at("inf.npy"), &nan).unwrap();
    let mut npz = NpzWriter::new(fs::File::create(at("two.npz")).unwrap());
    npz.add_array("a", &good).unwrap();
    npz.add_array("b", &good).unwrap();
    npz.finish().unwrap();
    for (path, part) in [
        ("cut.npy", "NPY"),
        ("text.npy", "not an NPY file"),
        ("text.npz:a", "not an NPZ file"),
        ("text.safetensors:a", "not a readable safetensors"),
        (
            "shape.npy",
            "found shape [3, 2], expected [1 prompts, 3 states, 2 actions]",
        ),
        ("nan.npy", "reward[0][2][1]: found NaN"),
        ("inf.npy", "reward[0][2][1]: found inf"),
        ("two.npz:c", "no array `c`, the file has a, b"),
        ("two.npz", "name one of its arrays after a colon: a, b"),
    ] {
        fs::write(
            at("t.json"),
            edited("g0.json", "/reward", json!(path)).to_string(),
        )
        .unwrap();
        assert_refused(&solve(&["t.json"], dir.path()), &["t.json: reward", part]);
    }
    for (name, text, parts) in [
        (
            "p.csv",
            "prompt,winner,loser\n0,0 0,9 0\n",
            ["p.csv line 2", "unknown token 9"],
        ),
        (
            "p.csv",
            "prompt,winner\n0,0 0\n",
            ["p.csv", "columns prompt, winner, loser"],
        ),
        (
            "p.csv",
            "prompt,winner,loser\n0,0 0\n",
            ["p.csv", "3 fields"],
        ),
        (
            "p.csv",
            "prompt,winner,winner,loser\n0,0 0,0 1,1 0\n",
            ["p.csv", "column `winner` is given twice"],
        ),
        (
            "p.jsonl",
            "{\"winner\": [0, 0], \"loser\": [0, 1]}\n{\"winner\": [0",
            ["p.jsonl line 2", "EOF while parsing a list at column"],
        ),
    ] {
        fs::write(at(name), text).unwrap();
        fs::write(
            at("t.json"),
            edited("g0.json", "/preferences", json!(name)).to_string(),
        )
        .unwrap();
        assert_refused(&solve(&["t.json"], dir.path()), &parts);
    }
}

// ---------------------------------------------------------------- files broken at random

/// Small instances that reach every part of the program.
fn seeds() -> Vec<Value> {
    let pairs = json!([
        {"prompt": 0, "winner": [0, 0], "loser": [1, 1]},
        {"prompt": 0, "winner": [1, 1], "loser": [0, 0]},
        {"prompt": 0, "winner": [1, 0], "loser": [0, 1]},
    ]);
    vec![
        with(
            example("g0.json"),
            json!({"preferences": pairs, "estimation": {"param_bound": 2, "bonus_scale": "wald"}, "dpo": {"beta": 0.3}}),
        ),
        json!({
            "beta": 0.5, "initial": [0.5, 0.5], "n_actions": 2, "horizon": 1,
            "reference_logits": [[[0, 1]], [[null, 0]]],
            "features": [[[[1, 0], [0, 1]]], [[[0, 0], [1, 1]]]], "theta": [0.5, -0.5],
            "preferences": [{"prompt": 0, "winner": [0], "loser": [1]}],
            "estimation": {"param_bound": 1, "bonus_scale": 0.7, "metric": "fisher"},
        }),
        example("propc2.json"),
        example("robust.json"),
    ]
}

fn nodes(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                nodes(item, format!("{path}/{i}"), out);
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                nodes(item, format!("{path}/{key}"), out);
            }
        }
        _ => {}
    }
    out.push(path);
}

fn junk() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(0.5),
        json!(1e-300),
        json!(1e300),
        json!(-1e300),
        json!(40),
        json!(4_294_967_295u64),
        json!(1u64 << 60),
        json!(""),
        json!("x.npy"),
        json!("x.npz:"),
        json!("wald_ridge"),
        json!("likelihood_ratio"),
        json!([]),
        json!([[]]),
        json!([1]),
        json!([[0, 1]]),
        json!({}),
    ])
}

/// Never a panic, never a signal: exit code 0, or 1 with one `error:` line.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("t.json"), bytes).unwrap();
    let output = solve(&["t.json", "--json"], dir.path());
    let text = stderr(&output);
    match output.status.code() {
        Some(0) => {
            let parsed = serde_json::from_slice::<Value>(&output.stdout);
            prop_assert!(parsed.is_ok());
        }
        Some(1) => {
            prop_assert_eq!(text.trim_end().lines().count(), 1, "{}", text);
            prop_assert!(text.starts_with("error: t.json"), "{}", text);
        }
        other => prop_assert!(false, "exit {:?}: {}", other, text),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn cut_off_and_garbled_files(seed in 0usize..4, cut in 0.0..1.0f64, at in 0.0..1.0f64, byte: u8, whole: bool) {
        let mut bytes = seeds()[seed].to_string().into_bytes();
        if !whole {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        let i = (at * bytes.len() as f64) as usize;
        if let Some(slot) = bytes.get_mut(i) {
            *slot = byte;
        }
        survives(&bytes)?;
    }

    #[test]
    fn wrong_values(seed in 0usize..4, picks in prop::collection::vec((any::<prop::sample::Index>(), junk()), 1..3)) {
        let mut instance = seeds().swap_remove(seed);
        for (pick, value) in picks {
            let mut all = Vec::new();
            nodes(&instance, String::new(), &mut all);
            let path = pick.get(&all).clone();
            *instance.pointer_mut(&path).unwrap() = value;
        }
        survives(instance.to_string().as_bytes())?;
    }

    #[test]
    fn garbled_arrays(at in prop::collection::vec(0usize..2000, 0..4), byte: u8, cut in 0usize..2000, kind in 0usize..3) {
        let dir = TempDir::new().unwrap();
        let values = ArrayD::from_shape_fn(vec![1, 3, 2], |i| i[1] as f64);
        let name = ["r.npy", "r.npz", "r.safetensors"][kind];
        let path = dir.path().join(name);
        match kind {
            0 => write_npy(&path, &values).unwrap(),
            1 => {
                let mut npz = NpzWriter::new_compressed(fs::File::create(&path).unwrap());
                npz.add_array("r", &values).unwrap();
                npz.finish().unwrap();
            }
            _ => {
                let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let view = TensorView::new(Dtype::F64, vec![1, 3, 2], &raw).unwrap();
                safetensors::serialize_to_file([("r", view)], None, &path).unwrap();
            }
        }
        let mut bytes = fs::read(&path).unwrap();
        for i in at {
            let n = bytes.len();
            bytes[i % n] = byte;
        }
        bytes.truncate(cut);
        fs::write(&path, &bytes).unwrap();
        fs::write(dir.path().join("t.json"), edited("g0.json", "/reward", json!(name)).to_string()).unwrap();
        let output = solve(&["t.json", "--json"], dir.path());
        prop_assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
    }
}
