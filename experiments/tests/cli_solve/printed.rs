//! What is printed, warned of and left out.

use crate::common::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

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

/// The Wald radius without pairs, or with pairs that tell nothing, is 0, and a reader should know.
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
    let rto = json!({"rto": {"beta1": 0.1, "beta2": 0.1, "source": "dpo"}});
    let got = solved(&with(instance, rto));
    assert_eq!(got["rto"], Value::Null);
    noted(&got, "rto", "needs dpo, its rto.source");
    noted(&got, "dpo", "rewards are so large beside beta = 0.5");
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
    // An infinite radius takes pessimism with it, not the estimate, and names a B that works.
    let part =
        "estimation.bonus_scale: the radius theory is infinite for estimation.param_bound = 1000";
    let got = warned(&own(json!({"estimation": steep})), part);
    assert!(got["mle"]["norm"].is_number() && got["dpo"]["loss"].is_number());
    let works = "the largest estimation.param_bound that works is ";
    for key in ["algorithm1", "theorem_b1", "radii.rho_theory_Upsilon"] {
        noted(&got, key, works);
    }
    let why = got["notes"]["radii.rho_theory_Upsilon"].as_str().unwrap();
    let named = why.split(works).nth(1).unwrap();
    let largest: f64 = named.parse().unwrap();
    let digits = named.trim_start_matches(['0', '.']);
    let digits = digits.chars().filter(char::is_ascii_digit).count();
    assert!(digits <= 4, "{named}");
    let radius = |b: f64| {
        let estimation = json!({"param_bound": b, "bonus_scale": "theory"});
        solved(&own(json!({"estimation": estimation})))["algorithm1"]["bonus_scale"].clone()
    };
    assert!(radius(largest).is_number(), "{largest}");
    assert_eq!(radius(largest * 1.001), Value::Null);
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
