//! What is known and what is null.

use crate::common::*;
use serde_json::{Value, json};

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
