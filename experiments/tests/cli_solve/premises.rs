//! Closed forms keep to their premises, and a part that fails takes nothing with it.

use crate::common::*;
use serde_json::{Value, json};

/// The sum of log-ratios cannot tell a lucky transition from a good action.
fn stochastic() -> Value {
    json!({
        "beta": 0.5, "states": 3, "initial": [1, 0, 0], "horizon": 2,
        "transition": [[[[1, 0.5], [2, 0.5]], [[1, 0.9], [2, 0.1]]], [null, null], [null, null]],
        "reference": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
        "reward": [[0, 0], [2, 1], [-1, -2]]
    })
}

/// Minima by SciPy from many starts.
#[test]
fn dpo_on_a_stochastic_table_is_minimised_over_policies() {
    for (pairs, first, gap) in [
        ("reference", 0.230_412, 0.092_053),
        ("uniform", 0.5, 0.380_187),
    ] {
        let got = solved(&with(stochastic(), json!({"dpo": {"pairs": pairs}})));
        let dpo = &got["dpo"];
        assert_eq!(dpo["pairs"], pairs);
        close("pi(0|s0)", &dpo["root_policy"][0][0], &json!(first), 1e-6);
        close("SubOpt", &dpo["suboptimality"], &json!(gap), 1e-6);
        assert!(dpo["minimisation"]["starts_that_agree"].as_u64() > Some(1));
        noted(&got, "dpo.unique", "not convex");
        noted(&got, "dpo.root_policy[1]", "initial probability is 0");
        if pairs == "uniform" {
            close(
                "loss",
                &dpo["population_loss"],
                &dpo["minimisation"]["loss"],
                1e-12,
            );
        }
    }
    // The law of pairs is that of the reference unless another is named.
    let got = solved(&stochastic());
    assert_eq!(got["dpo"]["pairs"], "reference");
    // What RTO maximises is then the implicit reward of that policy, and π* only by way of the true one.
    let rto = |source: &str| {
        let rto = json!({"rto": {"beta1": 0.5, "beta2": 0.5, "source": source}});
        solved(&with(stochastic(), rto))["rto"]["suboptimality"]
            .as_f64()
            .unwrap()
    };
    assert!(rto("optimal").abs() < 1e-12);
    assert!((rto("dpo") - 0.092_053).abs() < 1e-3, "{}", rto("dpo"));
}

#[test]
fn finite_preferences_on_a_stochastic_table_have_no_closed_form() {
    let pair = json!({"winner": [[0, 0], [1, 0]], "loser": [[0, 1], [2, 1]]});
    let changes = json!({
        "preferences": [pair], "estimation": {"param_bound": 1},
        "rto": {"beta1": 1, "beta2": 1, "source": "dpo"}
    });
    let got = solved(&with(stochastic(), changes));
    assert_eq!(got["dpo"], Value::Null);
    noted(&got, "dpo", "needs deterministic transitions");
    noted(&got, "rto", "needs dpo");
    assert!(got["mle"]["norm"].is_number() && got["algorithm1"]["bound"].is_number());
}

/// What is deterministic wherever an episode can go is deterministic, however the table is written.
#[test]
fn the_premise_is_about_what_can_be_met() {
    let written = json!([
        [[[1, 1.0], [2, 0.0]], [[2, 1.0]]],
        [[[1, 0.5], [2, 0.5]], null],
        [null, null]
    ]);
    let reference = json!([[0.5, 0.5], [0, 1], [0.5, 0.5]]);
    let changes = json!({"transition": written, "reference": reference});
    let got = solved(&with(stochastic(), changes));
    assert_eq!(got["dpo"]["pairs"], "any");
    close("SubOpt", &got["dpo"]["suboptimality"], &json!(0), EXACT);
    assert!(got["dpo"]["population_loss"].is_number());
}

#[test]
fn preferences_that_do_not_span_the_responses_leave_dpo_open() {
    let pairs = json!([{"winner": [0], "loser": [1]}, {"winner": [1], "loser": [0]}]);
    let instance = json!({
        "beta": 0.1, "initial": [1], "n_actions": 3, "horizon": 1,
        "reference": [[[0.4, 0.3, 0.3]]], "features": [[[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]],
        "preferences": pairs, "estimation": {"param_bound": 2}
    });
    let got = solved(&instance);
    assert_eq!(got["dpo"]["unique"], false);
    let mut spanning = instance;
    let list = spanning["preferences"].as_array_mut().unwrap();
    list.push(json!({"winner": [0], "loser": [2]}));
    assert_eq!(solved(&spanning)["dpo"]["unique"], true);
}

/// Parts that fail are null with their reason; the others stand.
#[test]
fn one_part_that_fails_takes_nothing_with_it() {
    let tiny = json!({
        "beta": 1e-320, "initial": [1], "n_actions": 2, "horizon": 1, "reference": [[[0.5, 0.5]]],
        "features": [[[[1, 0], [0, 1]]]], "theta": [0.5, 0.1],
        "preferences": [{"winner": [0], "loser": [1]}, {"winner": [1], "loser": [0]}],
        "estimation": {"param_bound": 1}
    });
    let steep = json!({
        "beta": 122.20315157719557, "initial": [0.5815807401191175, 0.41841925988088247],
        "n_actions": 3, "horizon": 1, "reference_logits": [[[-0.6, 3, 0.2]], [[-0.7, -2.7, 1.8]]],
        "features": [[[[-1, 1, 1, 0], [1, 2, 1, 3], [-1, 0, 1, -1]]], [[[0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 1]]]],
        "preferences": [{"prompt": 0, "winner": [1], "loser": [0]}],
        "estimation": {"param_bound": 80, "ridge": 0.03, "bonus_scale": "likelihood_ratio_asymptotic"}
    });
    for instance in [tiny, steep] {
        let got = solved(&instance);
        for key in ["mle", "radii", "algorithm1"] {
            assert!(got[key].is_object(), "{key}");
        }
        for key in ["theorem_b1", "baselined"] {
            match got[key].as_object() {
                None => noted(&got, key, "failed: "),
                Some(part) => {
                    let gap = part["duality_gap"].as_f64().unwrap();
                    assert!(
                        gap <= 1e-8 * part["value"].as_f64().unwrap().abs().max(1.0),
                        "{gap}"
                    );
                }
            }
        }
    }
}
