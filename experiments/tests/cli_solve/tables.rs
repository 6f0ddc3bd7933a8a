//! General tables: transitions, layers, counted transitions.

use crate::common::*;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

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
