//! Coverage of π* by the data's law, and what attains each maximum.

use crate::common::*;
use serde_json::{Value, json};

/// T1 of the golden file is g0, with data from π_ref and one coordinate for each response.
#[test]
fn golden_tree() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/coverage.json")).unwrap();
    let want = &golden["coverage"]["T1"];
    let one_hot = |k: usize| -> Vec<f64> { (0..4).map(|j| f64::from(u8::from(j == k))).collect() };
    let none = vec![0.0; 4];
    let changes = json!({
        "behaviour": [[[0.6, 0.4], [0.5, 0.5], [0.25, 0.75]]],
        "features": [[[none, none], [one_hot(0), one_hot(1)], [one_hot(2), one_hot(3)]]],
    });
    let got = solved(&with(example("g0.json"), changes));
    let coverage = &got["coverage"];
    for key in ["C_sa", "C_tau", "chi2"] {
        close(key, &coverage[key], &want[key], EXACT);
    }
    close(
        "C_lin",
        &coverage["C_lin_baselined"],
        &want["C_lin_onehot"],
        EXACT,
    );
    assert_eq!(coverage["law"], "behaviour");
    // The third response, 10, is the best one.
    assert_eq!(
        coverage["C_sa_at"],
        json!({"prompt": 0, "prefix": [1], "action": 0})
    );
    assert_eq!(
        coverage["C_tau_at"],
        json!({"prompt": 0, "response": [1, 0]})
    );
    // All one-hot coordinates add up to 1, in which no pair differs.
    noted(&got, "coverage.C_lin", "infinite");
    close(
        "direction",
        &coverage["C_lin_direction"],
        &json!([0.5, 0.5, 0.5, 0.5]),
        EXACT,
    );
    noted(&got, "coverage.theorem_b1", "without preferences");
}

/// Greedy on a graph where the state is the last action: C_sa = 16, C_tau = 4^H.
#[test]
fn golden_layered_graph() {
    let h = 5;
    let got = solved(&json!({
        "beta": 0, "initial": [1, 0], "horizon": h, "transition": [[0, 1], [0, 1]],
        "reference": [[0.5, 0.5], [0.5, 0.5]], "behaviour": [[0.75, 0.25], [0.75, 0.25]],
        "reward": [[0, 1], [0, 1]]
    }));
    let coverage = &got["coverage"];
    close("C_sa", &coverage["C_sa"], &json!(16), EXACT);
    close("C_tau", &coverage["C_tau"], &json!(4f64.powi(h)), EXACT);
    assert_eq!(
        coverage["C_sa_at"],
        json!({"step": 1, "state": 1, "action": 1})
    );
    let response = json!([[0, 1], [1, 1], [1, 1], [1, 1], [1, 1]]);
    assert_eq!(coverage["C_tau_at"], json!({ "response": response }));
    noted(&got, "coverage.C_lin", "no features");
}

/// Two arms, three comparisons: everything by hand.
#[test]
fn the_law_of_the_pairs() {
    let instance = json!({
        "beta": 1, "initial": [1], "n_actions": 3, "horizon": 1,
        "reference": [[[0.5, 0.25, 0.25]]],
        "features": [[[[1, 0], [0, 0], [0, 2]]]], "theta": [0, 0],
        "preferences": [{"winner": [0], "loser": [1]}, {"winner": [1], "loser": [0]}, {"winner": [0], "loser": [1]}],
        "estimation": {"param_bound": 1, "ridge": 1, "bonus_scale": 0.5}
    });
    let got = solved(&instance);
    let coverage = &got["coverage"];
    assert_eq!(coverage["law"], "preferences");
    // Arm 2 is never shown.
    noted(&got, "coverage.C_tau", "infinite");
    noted(&got, "coverage.chi2", "infinite");
    assert_eq!(coverage["C_tau_at"], json!({"prompt": 0, "response": [2]}));
    close(
        "direction",
        &coverage["C_lin_direction"],
        &json!([0, 1]),
        EXACT,
    );
    noted(&got, "coverage.theorem_b1", "infinite");
    // Shown, its coordinate is covered: E[xx'] = diag(3, 4)/4, E phi = (1/2, 1/2).
    let mut shown = instance;
    let list = shown["preferences"].as_array_mut().unwrap();
    list.push(json!({"winner": [2], "loser": [1]}));
    let got = solved(&shown);
    let coverage = &got["coverage"];
    // mu = (3, 4, 1)/8 against pi* = (4, 2, 2)/8.
    close("C_tau", &coverage["C_tau"], &json!(2), EXACT);
    close("C_sa", &coverage["C_sa"], &json!(2), EXACT);
    close(
        "chi2",
        &coverage["chi2"],
        &json!(2.0 / 3.0 + 1.0 / 8.0 + 0.5 - 1.0),
        EXACT,
    );
    close(
        "C_lin",
        &coverage["C_lin"],
        &json!(0.25 / 0.75 + 0.25),
        EXACT,
    );
    // E sqrt C_lin(phi): 1/2 sqrt(4/3) + 1/4 sqrt(4).
    let steps = 0.5 * (4.0f64 / 3.0).sqrt() + 0.25 * 2.0;
    close("steps", &coverage["C_lin_steps"], &json!(steps), EXACT);
    assert_eq!(
        coverage["C_lin_steps_at"],
        json!({"prompt": 0, "prefix": [], "action": 2})
    );
    // The restated bounds, 2 rho sqrt(C_lin/n), are above the ones with the norm.
    let bound = 2.0 * 0.5 * (0.25f64 / 0.75 + 0.25).sqrt() / 2.0;
    close("B.1", &coverage["theorem_b1"], &json!(bound), EXACT);
    let number = |v: &Value| v.as_f64().unwrap();
    assert!(number(&coverage["theorem_b1"]) >= number(&got["theorem_b1"]["bound"]));
    assert!(number(&coverage["baselined"]) >= number(&got["baselined"]["bound"]) - 1e-15);
    assert!(number(&coverage["theorem_4_2"]) >= number(&got["algorithm1"]["bound"]));
}

/// The restated bounds in either metric are above the ones they restate.
#[test]
fn restated_bounds_are_above_the_bounds() {
    for scale in [
        "wald",
        "theory_kappa",
        "self_concordant",
        "likelihood_ratio",
    ] {
        let mut instance = example("g1.json");
        let estimation = instance["estimation"].as_object_mut().unwrap();
        estimation.insert("bonus_scale".into(), json!(scale));
        estimation.remove("metric");
        let got = solved(&instance);
        let bound = |part: &str, key: &str| got[part][key].as_f64().unwrap();
        assert!(
            bound("coverage", "theorem_b1") >= bound("theorem_b1", "bound"),
            "{scale}"
        );
        assert!(
            bound("coverage", "baselined") >= bound("baselined", "bound"),
            "{scale}"
        );
        assert!(
            bound("coverage", "theorem_4_2") >= bound("algorithm1", "bound"),
            "{scale}"
        );
        // With hundreds of pairs the ridge is little, so neither is far above.
        assert!(
            bound("coverage", "theorem_b1") <= 1.05 * bound("theorem_b1", "bound"),
            "{scale}"
        );
    }
}

#[test]
fn a_behaviour_is_a_policy() {
    let changes = json!({"behaviour": [[[0.6, 0.5], [0.5, 0.5], [0.25, 0.75]]]});
    let parts = ["behaviour[0][0]: probabilities must sum to 1"];
    refused(&with(example("g0.json"), changes), &parts);
    let both = json!({"behaviour": [], "behaviour_logits": []});
    refused(&with(example("g0.json"), both), &["not both"]);
}
