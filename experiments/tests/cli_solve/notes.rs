//! Every null has its reason: infinite, undefined, unknown and not asked for are told apart.

use crate::common::*;
use serde_json::{Value, json};

#[test]
fn unknown_is_not_infinite() {
    let got = solved(&with(example("g1.json"), json!({"theta": null})));
    noted(&got, "soft_value", "unknown: ");
    noted(&got, "algorithm1.bound", "unknown: ");
    noted(&got, "coverage", "unknown: ");
    noted(&got, "robust", "no transition_counts");
    // Greedy policies that differ: the KL is infinite, and known to be.
    let greedy = json!({
        "beta": 0, "initial": [1], "n_actions": 2, "horizon": 1, "reference": [[[0.5, 0.5]]],
        "features": [[[[1, 0], [0, 1]]]], "theta": [1, 0],
        "preferences": [{"winner": [1], "loser": [0]}, {"winner": [1], "loser": [0]}, {"winner": [0], "loser": [1]}],
        "estimation": {"param_bound": 2, "bonus_scale": 0}
    });
    let got = solved(&greedy);
    noted(&got, "algorithm1.kl", "infinite: at beta = 0");
    assert!(got["algorithm1"]["bound"].is_number());
    noted(&got, "dpo", "beta = 0");
    noted(&got, "theorem_b1", "beta = 0");
}

#[test]
fn rto_from_an_optimum_that_is_not_known() {
    let rto = json!({"beta1": 0.1, "beta2": 0.1, "source": "optimal"});
    let got = solved(&with(
        example("g1.json"),
        json!({"theta": null, "rto": rto}),
    ));
    assert_eq!(got["rto"], Value::Null);
    noted(&got, "rto", "rto.source is optimal");
    let got = solved(&with(example("g0.json"), json!({"beta": 0, "rto": rto})));
    noted(&got, "rto", "has no log-ratio");
    let rto = json!({"beta1": 0.1, "beta2": 0.1, "source": "dpo"});
    let got = solved(&with(example("g0.json"), json!({"beta": 0, "rto": rto})));
    noted(&got, "rto", "needs dpo");
}

#[test]
fn a_winner_equal_to_its_loser_is_told() {
    let pair = |w: [u32; 2], l: [u32; 2]| json!({"prompt": 0, "winner": w, "loser": l});
    let pairs = json!([
        pair([0, 0], [1, 0]),
        pair([0, 1], [0, 1]),
        pair([1, 1], [1, 1])
    ]);
    let got = solved(&with(example("own.json"), json!({"preferences": pairs})));
    let part = "preferences[1] and 1 others: winner and loser are the same response";
    assert!(
        got["warnings"].to_string().contains(part),
        "{}",
        got["warnings"]
    );
}

/// Terminal states, a prompt that never comes and overflows, a prompt with one response.
#[test]
fn entries_of_lists_have_reasons_too() {
    let got = solved(&json!({
        "beta": 1, "initial": [1, 0, 0], "horizon": 2, "terminal": [2],
        "transition": [[2, 1], [1, 1], [0, 0]],
        "reference": [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
        "reward": [[0, 1], [1, 2], [0, 0]]
    }));
    noted(&got, "root_policy[2]", "state 2 is terminal");
    let got = solved(&json!({
        "beta": 1, "initial": [1, 0], "n_actions": 2, "horizon": 2,
        "reference": [[[1, 0], [1, 0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]],
        "reward": [[[1, 5], [2, 3], [4, 4]], [[1.7e308, 0], [1.7e308, 0], [0, 0]]]
    }));
    assert_eq!(got["soft_value"], json!([3.0, null]));
    noted(&got, "soft_value[1]", "infinite");
    noted(&got, "dpo.population_loss", "single response");
}

#[test]
fn radii_without_a_bound_are_unknown() {
    let got = solved(&with(
        example("g1.json"),
        json!({"estimation": {"ridge": 1}}),
    ));
    for key in [
        "radii.kappa_data",
        "radii.rho_theory_Upsilon",
        "radii.c_LR_rigorous",
    ] {
        noted(&got, key, "unknown: depends on estimation.param_bound");
    }
}
