//! One given tree: searched exactly, and told in the words of its file where it cannot be.

use super::{prop32, write};
use crate::common::{assert_refused, assert_success};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

pub const FIGURE2: &str =
    r#"{"n_actions": 2, "horizon": 3, "leaf_weights": [16, 8, 2, 2, 1, 1, 1, 1], "xi": 1}"#;

#[test]
fn a_given_tree_is_searched_exactly() {
    let dir = TempDir::new().unwrap();
    let tree = write(&dir, "tree.json", FIGURE2);
    let output = prop32(&["--tree", tree.to_str().unwrap(), "--json"], dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected: Value = serde_json::json!({
        "xi": 1.0, "heavy_profile": [1, 1, 1, 1], "frontier_size": 3, "paper_queries": 4,
        "best_first": {"lowest": 1, "highest": 3, "lowest_without_inference": 1},
        "optimal_response": [0, 0, 0], "optimal_probability": 0.5, "paper_bound": 4.0, "minimax_bound": 3, "sentence_worst_case": 7,
    });
    assert_eq!(value, expected);
    assert!(
        !dir.path().join("runs").exists(),
        "a single tree makes no run folder unless asked to"
    );
}

/// Ties, zeros and decimals: the same tree in other units, and a threshold with and without ξ.
#[test]
fn zeros_ties_and_decimals() {
    let dir = TempDir::new().unwrap();
    let run = |text: &str| -> Value {
        let tree = write(&dir, "tree.json", text);
        let output = prop32(&["--tree", tree.to_str().unwrap(), "--json"], dir.path());
        assert_success(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let zeros = run(r#"{"n_actions": 2, "horizon": 2, "leaf_weights": [0, 0.5, 0.5, 0]}"#);
    // K = 2 because 2·w_max ≤ W with zeros; both depth-1 nodes are heavy.
    assert_eq!(zeros["heavy_profile"], serde_json::json!([1, 2, 2]));
    assert_eq!(
        (&zeros["optimal_response"], &zeros["minimax_bound"]),
        (&serde_json::json!([0, 1]), &2.into())
    );
    let thirds = run(r#"{"n_actions": 3, "horizon": 1, "leaf_weights": [0.1, 0.1, 0.1], "xi": 1}"#);
    assert_eq!(
        (&thirds["heavy_profile"], &thirds["minimax_bound"]),
        (&serde_json::json!([1, 3]), &2.into())
    );
    assert_eq!(thirds["best_first"]["lowest"], 2);
}

#[test]
fn bad_trees_are_refused_in_one_line() {
    let dir = TempDir::new().unwrap();
    let cases: &[(&str, &[&str])] = &[
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, -2]}"#,
            &["leaf_weights[1]", "-2", "non-negative"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, NaN]}"#,
            &["line 1", "NaN"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, "NaN"]}"#,
            &["leaf_weights[1]", "NaN"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [Infinity, 1]}"#,
            &["Infinity"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [null, 1]}"#,
            &["leaf_weights[0]", "null"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 2, "leaf_weights": [1, 1, 1]}"#,
            &["leaf_weights", "expected 4", "got 3"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [0, 0.0]}"#,
            &["leaf_weights", "zero"],
        ),
        (
            r#"{"n_actions": 1, "horizon": 1, "leaf_weights": [1]}"#,
            &["n_actions", "found 1"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 0, "leaf_weights": [1]}"#,
            &["horizon", "found 0"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 99999999999, "leaf_weights": [1]}"#,
            &["horizon"],
        ),
        (
            r#"{"n_actions": -2, "horizon": 1, "leaf_weights": [1, 1]}"#,
            &["-2"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, 1], "xi": -1}"#,
            &["xi", "-1"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, 1], "xi": 0}"#,
            &["Assumption 3.1"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, 1], "depth": 0}"#,
            &["depth"],
        ),
        (r#"{"n_actions": 2, "horizon": 1}"#, &["leaf_weights"]),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, 1]"#,
            &["line 1"],
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": [1, 1e999999]}"#,
            &["leaf_weights[1]", "1e999999"],
        ),
        ("", &["tree.json"]),
    ];
    for (text, parts) in cases {
        let tree = write(&dir, "tree.json", text);
        let output = prop32(&["--tree", tree.to_str().unwrap(), "--json"], dir.path());
        assert_refused(&output, parts);
        assert!(output.stdout.is_empty());
    }
    assert_refused(
        &prop32(&["--tree", "absent.json"], dir.path()),
        &["absent.json"],
    );
    assert_refused(&prop32(&["--tree", "."], dir.path()), &["cannot read"]);
}

/// Errors are in the words of the file: keys, values found, what was expected, and no type of the program.
#[test]
fn bad_trees_are_told_in_the_words_of_the_file() {
    let dir = TempDir::new().unwrap();
    let places = format!("0.{}1", "0".repeat(450));
    let long = format!("{{\"n_actions\": 2, \"horizon\": 1, \"leaf_weights\": [1, {places}]}}");
    let xi = r#"{"n_actions": 2, "horizon": 2, "leaf_weights": [3, 2, 2, 2], "xi": 1}"#;
    for (text, part) in [
        ("", "empty, expected JSON"),
        (
            r#"{"n_actions": 2, "horizon": 1"#,
            "line 1 column 29: the text ends inside an object",
        ),
        (
            "[1, 2]",
            "found a list, expected an object with the keys n_actions, horizon",
        ),
        (
            r#"{"n_actions": 2.5, "horizon": 1, "leaf_weights": [1, 1]}"#,
            "n_actions: found 2.5, expected a whole number",
        ),
        (
            r#"{"n_actions": 2, "horizon": "1", "leaf_weights": [1, 1]}"#,
            "horizon: found \"1\", expected a whole number",
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weight": [1, 1]}"#,
            "leaf_weight: unknown key, expected one of n_actions, horizon, leaf_weights, xi; did you mean leaf_weights?",
        ),
        (
            r#"{"n_actions": 2, "horizon": 1, "leaf_weights": {"a": 1}}"#,
            "leaf_weights: found {\"a\": 1}, expected a list",
        ),
        (
            r#"{"n_actions": 2, "n_actions": 2, "horizon": 1, "leaf_weights": [1, 1]}"#,
            "n_actions: given twice",
        ),
        (
            &long,
            "leaf_weights[1]: found 0.00000000000000000000000000000000000..., expected a number of at most 400 places",
        ),
        (
            xi,
            "Assumption 3.1 does not hold for it: no response has probability at least 2^(-1); the smallest xi for which it holds is 1.584963",
        ),
    ] {
        let tree = write(&dir, "tree.json", text);
        let output = prop32(&["--tree", tree.to_str().unwrap(), "--json"], dir.path());
        assert_refused(&output, &[part]);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        for word in ["usize", "f64", "struct", "sequence", "EOF", "TreeFile"] {
            assert!(!line.contains(word), "{line}");
        }
    }
    // The ξ that is named does.
    let named = write(
        &dir,
        "tree.json",
        &xi.replace("\"xi\": 1", "\"xi\": 1.584963"),
    );
    assert_success(&prop32(
        &["--tree", named.to_str().unwrap(), "--json"],
        dir.path(),
    ));
}

fn any_json() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|x| format!("{x:?}")),
        Just("0".to_string()),
        Just("1".to_string()),
        Just("2".to_string()),
        Just("null".to_string()),
        Just("\"x\"".to_string()),
        Just("1e308".to_string()),
    ];
    let weights =
        prop::collection::vec(number.clone(), 0..9).prop_map(|w| format!("[{}]", w.join(",")));
    (
        number.clone(),
        number.clone(),
        weights,
        prop::option::of(number),
        0..4usize,
    )
        .prop_map(|(a, h, w, xi, cut)| {
            let xi = xi.map_or(String::new(), |xi| format!(", \"xi\": {xi}"));
            let text =
                format!("{{\"n_actions\": {a}, \"horizon\": {h}, \"leaf_weights\": {w}{xi}}}");
            text[..text.len() - cut.min(1) * (text.len() / 3)].to_string()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_tree_file_makes_it_panic(text in prop_oneof![any_json(), ".{0,200}"]) {
        let dir = TempDir::new().unwrap();
        let tree = write(&dir, "tree.json", &text);
        let output = prop32(&["--tree", tree.to_str().unwrap(), "--json"], dir.path());
        if !output.status.success() {
            assert_refused(&output, &[]);
        }
    }

    #[test]
    fn no_small_tree_makes_it_panic(a in 2usize..4, weights in prop::collection::vec(prop_oneof![Just(0u64), 0u64..4, any::<u64>()], 27), h in 1u32..4, xi in prop::option::of(0.0f64..4.0)) {
        let dir = TempDir::new().unwrap();
        let text = serde_json::json!({"n_actions": a, "horizon": h, "leaf_weights": weights[..a.pow(h)], "xi": xi}).to_string();
        let tree = write(&dir, "tree.json", &text);
        let output = prop32(&["--tree", tree.to_str().unwrap(), "--json"], dir.path());
        match output.status.success() {
            false => assert_refused(&output, &[]),
            true => {
                let value: Value = serde_json::from_slice(&output.stdout).unwrap();
                let best = weights[..a.pow(h)].iter().max().unwrap();
                let code = value["optimal_response"].as_array().unwrap().iter().fold(0, |c, t| c * a + t.as_u64().unwrap() as usize);
                prop_assert_eq!(&weights[code], best);
                prop_assert!(weights[..code].iter().all(|w| w < best));
            }
        }
    }
}
