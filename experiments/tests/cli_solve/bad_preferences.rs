//! Preferences that are wrong, and those from which no finite estimate follows.

use crate::common::*;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

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
