//! The `prop32` binary, run as a user runs it.

mod common;

use common::{assert_refused, assert_success, stderr};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn prop32(args: &[&str], dir: &Path) -> Output {
    common::run(env!("CARGO_BIN_EXE_prop32"), args, dir)
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        // The lock of whoever works there is no part of a run.
        .filter(|p| !p.ends_with(".lock"))
        .map(|p| {
            (
                p.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(p).unwrap(),
            )
        })
        .collect()
}

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

// ---------------------------------------------------------------- runs

#[test]
fn a_run_is_reproducible_and_can_be_redrawn() {
    let dir = TempDir::new().unwrap();
    let mut runs = Vec::new();
    for threads in ["1", "2"] {
        let output = Command::new(env!("CARGO_BIN_EXE_prop32"))
            .args(["--smoke", "--seed", "5"])
            .current_dir(dir.path())
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert_success(&output);
        assert!(
            output.stderr.is_empty(),
            "progress bars are silent off a terminal: {}",
            stderr(&output)
        );
        runs.push(output.stdout);
    }
    let [mut first, mut second] =
        ["runs/prop32-0001", "runs/prop32-0002"].map(|run| files(&dir.path().join(run)));
    let expected = [
        "claim.csv",
        "config.toml",
        "counts.csv",
        "figure2.csv",
        "figure2.png",
        "figure2.svg",
        "noisy_preferences.png",
        "noisy_preferences.svg",
        "preferences.csv",
        "queries_vs_horizon.png",
        "queries_vs_horizon.svg",
        "queries_vs_xi.png",
        "queries_vs_xi.svg",
        "real_text.png",
        "real_text.svg",
        "results.json",
        "text.csv",
        "timings.json",
        "versions.json",
    ];
    assert_eq!(first.keys().collect::<Vec<_>>(), expected);
    let wall_clock = |run: &mut BTreeMap<String, Vec<u8>>| run.remove("timings.json").unwrap();
    wall_clock(&mut first);
    wall_clock(&mut second);
    assert_eq!(first, second, "same seed, other thread count, other bytes");

    // Figures come from the CSV files alone.
    let redrawn = dir.path().join("redrawn");
    fs::create_dir(&redrawn).unwrap();
    for (name, bytes) in first.iter().filter(|(name, _)| name.ends_with(".csv")) {
        fs::write(redrawn.join(name), bytes).unwrap();
    }
    assert_success(&prop32(&["--redraw", "redrawn"], dir.path()));
    assert_eq!(files(&redrawn), {
        first.retain(|name, _| {
            [".csv", ".svg", ".png"]
                .iter()
                .any(|end| name.ends_with(end))
        });
        first
    });

    // The saved config is a config: it gives the same run.
    let output = prop32(
        &["--config", "runs/prop32-0001/config.toml", "--out", "again"],
        dir.path(),
    );
    assert_success(&output);
    assert_eq!(
        files(&dir.path().join("again"))["results.json"],
        second["results.json"]
    );
}

#[test]
fn text_comes_in_the_stated_order() {
    let dir = TempDir::new().unwrap();
    let output = prop32(&["--smoke"], dir.path());
    assert_success(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    let at = |part: &str| {
        text.find(part)
            .unwrap_or_else(|| panic!("{part:?} not in {text}"))
    };
    let order = [
        "Figure 2",
        "Proposition 3.2 says",
        "vs adversary",
        "Real text",
        "Noisy preferences",
        "tables and figures in",
    ]
    .map(at);
    assert!(order.is_sorted(), "{text}");
}

#[test]
fn json_is_alone_on_stdout() {
    let dir = TempDir::new().unwrap();
    let output = prop32(&["--smoke", "--json"], dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = &value["results"];
    assert!(stderr(&output).contains("Figure 2"));
    // Every measured worst case is its closed form.
    let counts = results["counts"].as_array().unwrap();
    let of = |id: &Value, method: &str| {
        counts
            .iter()
            .find(|r| r["id"] == *id && r["method"] == method)
            .map(|r| r["queries"].as_f64().unwrap())
    };
    let mut compared = 0;
    for row in counts
        .iter()
        .filter(|r| r["method"] == "best-first, adversary")
    {
        assert_eq!(row["queries"].as_f64(), of(&row["id"], "exact minimax"));
        assert_eq!(
            of(&row["id"], "paper's algorithm"),
            of(&row["id"], "paper's algorithm, maximum")
        );
        let sentence = of(&row["id"], "sentence").unwrap();
        assert_eq!(Some(sentence), of(&row["id"], "sentence, A^H - 1"));
        compared += 1;
    }
    assert_eq!(compared, 13);
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let dir = TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_prop32"))
        .args(["--smoke"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_has_examples_and_every_key_of_the_config_is_a_flag() {
    let dir = TempDir::new().unwrap();
    let output = prop32(&["--help"], dir.path());
    assert_success(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Examples:") && text.contains("--tree") && text.contains("leaf_weights"));
    common::assert_every_key_is_a_flag(&text, "prop32");
}

// ---------------------------------------------------------------- one given tree

const FIGURE2: &str =
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

/// In the words of the file: keys, values found, what was expected, and no type of the program.
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

// ---------------------------------------------------------------- bad settings, texts, folders

#[test]
fn bad_settings_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let config = |text: &str| write(&dir, "my.toml", text).to_str().unwrap().to_string();
    let unknown = config("horizn = [1]\n");
    assert_refused(
        &prop32(&["--config", &unknown], dir.path()),
        &["my.toml", "horizn", "horizons"],
    );
    let mistyped = config("seed = \"five\"\n");
    assert_refused(
        &prop32(&["--config", &mistyped], dir.path()),
        &["my.toml", "seed"],
    );
    for (flags, parts) in [
        (vec!["--actions", "1"], vec!["actions", "1"]),
        (vec!["--horizons", "0"], vec!["horizons", "0"]),
        (vec!["--xi", "NaN"], vec!["xi", "NaN"]),
        (
            vec!["--smoothing", "magic"],
            vec!["smoothing", "magic", "witten-bell"],
        ),
        (vec!["--smoothing", "additive:-1"], vec!["additive", "-1"]),
        (vec!["--success", "1.5"], vec!["success", "1.5"]),
        (
            vec!["--preference-actions", "32"],
            vec!["preference_actions"],
        ),
        (vec!["--prompt", "\u{4e2d}"], vec!["prompt"]),
        (vec!["--orders", "9"], vec!["order", "9"]),
    ] {
        let parts: Vec<&str> = parts;
        assert_refused(&prop32(&flags, dir.path()), &parts);
    }
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn settings_without_effect_and_work_without_end_are_refused() {
    let dir = TempDir::new().unwrap();
    let tree = write(&dir, "tree.json", FIGURE2);
    assert_refused(
        &prop32(&["--tree", tree.to_str().unwrap(), "--xi", "5"], dir.path()),
        &["--xi", "--tree"],
    );
    assert_refused(
        &prop32(&["--redraw", ".", "--text-budget", "3"], dir.path()),
        &["--text-budget", "--redraw"],
    );
    assert_refused(
        &prop32(&["--text-horizons", "4096"], dir.path()),
        &["text_budget", "text_horizons"],
    );
    assert_refused(
        &prop32(&["--preference-horizons", "16"], dir.path()),
        &["replicates", "preference_horizons"],
    );
    assert_refused(&prop32(&["--xis", "0"], dir.path()), &["xi", "found 0"]);
    assert!(!dir.path().join("runs").exists());
    // Deep trees are answered by formulas.
    let output = prop32(&["--smoke", "--horizons", "4096", "--json"], dir.path());
    assert_success(&output);
}

#[test]
fn damaged_tables_are_refused_when_redrawn() {
    let dir = TempDir::new().unwrap();
    assert_success(&prop32(&["--smoke", "--out", "run"], dir.path()));
    let path = dir.path().join("run/figure2.csv");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("y000,", "y0001,"),
        ("y000,", ","),
        ("y000,", "\u{e9},"),
        ("y000,", "000,"),
        ("y,0,32", "y,0,0"),
        ("mass_32nds", "mass"),
    ] {
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let output = prop32(&["--redraw", "run"], dir.path());
        assert_refused(&output, &["figure2.csv"]);
    }
}

#[test]
fn unusable_texts_are_refused() {
    let dir = TempDir::new().unwrap();
    let text = |name: &str, content: &str| write(&dir, name, content).to_str().unwrap().to_string();
    let short = text("short.txt", "ab");
    assert_refused(
        &prop32(&["--smoke", "--text", &short], dir.path()),
        &["short.txt", "2 symbols", "4"],
    );
    let empty = text("empty.txt", "");
    assert_refused(&prop32(&["--text", &empty], dir.path()), &["empty.txt"]);
    let one = text("one.txt", "aaaaaaaa");
    assert_refused(
        &prop32(&["--text", &one], dir.path()),
        &["one.txt", "symbols"],
    );
    let lines = text(
        "lines.jsonl",
        "{\"chosen\": \"hello\", \"rejected\": \"x\"}\n{oops}\n",
    );
    assert_refused(
        &prop32(&["--text", &lines], dir.path()),
        &["lines.jsonl", "2"],
    );
    assert_refused(
        &prop32(&["--text", "absent.txt"], dir.path()),
        &["absent.txt"],
    );
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn a_users_text_is_searched() {
    let dir = TempDir::new().unwrap();
    let lines: String = (0..20).map(|i| format!("{{\"chosen\": \"Human: hello number {i}\\n\\nAssistant: hello to you\", \"rejected\": \"no\"}}\n")).collect();
    let path = write(&dir, "talk.jsonl", &lines);
    let args = [
        "--smoke",
        "--json",
        "--unit",
        "words",
        "--text",
        path.to_str().unwrap(),
        "--prompt",
        "Assistant:",
        "--orders",
        "3",
        "--text-horizons",
        "3",
    ];
    let output = prop32(&args, dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &value["results"]["text"][0];
    assert_eq!(
        (row["best_response"].as_str(), row["certified"].as_str()),
        (Some("hello to you"), Some("yes"))
    );
}

#[test]
fn nothing_is_overwritten() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/keep.txt"), "precious").unwrap();
    assert_refused(
        &prop32(&["--smoke", "--out", "full"], dir.path()),
        &["full"],
    );
    assert_eq!(
        files(&dir.path().join("full")),
        BTreeMap::from([("keep.txt".to_string(), b"precious".to_vec())])
    );
    fs::write(dir.path().join("file"), "precious").unwrap();
    assert_refused(
        &prop32(&["--smoke", "--out", "file"], dir.path()),
        &["file"],
    );
    assert_refused(
        &prop32(&["--smoke", "--out", "file/below"], dir.path()),
        &["file/below"],
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("file")).unwrap(),
        "precious"
    );
}
