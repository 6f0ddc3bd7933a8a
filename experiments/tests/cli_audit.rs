//! The `audit` binary, run as a user runs it: whole, in shards, on a tree and with a recipe of one's own.

mod common;

use common::{assert_refused, assert_same, assert_success, files, stderr};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_audit");
const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/golden/estimators.json"
);

fn audit(args: &[&str], dir: &Path) -> Output {
    common::run(BINARY, args, dir)
}

fn stdout(output: &Output) -> String {
    assert_success(output);
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn golden() -> Vec<Value> {
    let file: Value = serde_json::from_str(&fs::read_to_string(GOLDEN).unwrap()).unwrap();
    file["golden"].as_array().unwrap().clone()
}

#[test]
fn a_run_is_the_same_in_shards_on_any_number_of_threads_and_redrawn() {
    let dir = TempDir::new().unwrap();
    let whole = common::command(
        BINARY,
        &["--smoke", "--seed", "5", "--out", "whole"],
        dir.path(),
    )
    .env("RAYON_NUM_THREADS", "1")
    .output()
    .unwrap();
    let text = stdout(&whole);
    assert!(whole.stderr.is_empty(), "{}", stderr(&whole));
    for part in [
        "(a) A3H2eos2",
        "(b) SubOpt",
        "(c) n*",
        "(d) lambda",
        "F1a",
        "F3c",
    ] {
        assert!(text.contains(part), "{part}");
    }
    for shard in ["1/2", "2/2"] {
        let args = [
            "--smoke",
            "--seed",
            "5",
            "--shard",
            shard,
            "--out",
            shard.split_once('/').unwrap().0,
        ];
        assert_success(&audit(&args, dir.path()));
    }
    assert_success(&audit(&["merge", "1", "2", "--out", "merged"], dir.path()));
    let first = files(&dir.path().join("whole"));
    assert_same(&first, &files(&dir.path().join("merged")));
    for name in ["ends", "noise", "beta", "lambda", "simplex", "length_bias"] {
        assert!(first[&format!("{name}.svg")].len() > 1000, "{name}");
        fs::remove_file(dir.path().join(format!("whole/{name}.svg"))).unwrap();
    }
    assert_success(&audit(&["--redraw", "whole"], dir.path()));
    assert_same(&first, &files(&dir.path().join("whole")));
    fs::remove_dir_all(dir.path().join("whole/cells")).unwrap();
    assert_success(&audit(&["--resume", "whole"], dir.path()));
    assert_same(&first, &files(&dir.path().join("whole")));
}

/// Every number of the answer with the golden file's, by the golden file's keys.
fn agree(path: &str, got: &Value, want: &Value, tolerance: f64) {
    match want {
        Value::Object(all) => {
            for (key, want) in all {
                agree(&format!("{path}.{key}"), &got[key], want, tolerance);
            }
        }
        Value::Array(all) => {
            for (i, want) in all.iter().enumerate() {
                agree(&format!("{path}[{i}]"), &got[i], want, tolerance);
            }
        }
        Value::Number(n) => {
            let (g, w) = (got.as_f64().unwrap_or(f64::NAN), n.as_f64().unwrap());
            assert!(
                (g - w).abs() <= tolerance * w.abs().max(1.0),
                "{path}: {g}, expected {w}"
            );
        }
        other => assert_eq!(got, other, "{path}"),
    }
}

#[test]
fn a_tree_gives_the_values_of_the_golden_file() {
    let dir = TempDir::new().unwrap();
    for tree in golden() {
        fs::write(dir.path().join("tree.json"), tree.to_string()).unwrap();
        let output = audit(&["--tree", "tree.json", "--json"], dir.path());
        let got: Value = serde_json::from_str(&stdout(&output)).unwrap();
        for (name, want) in tree["recipes"].as_object().unwrap() {
            let got = &got["recipes"][name];
            for at in ["on_policy", "stale"] {
                agree(&format!("{name}.{at}"), &got[at], &want[at], 1e-9);
            }
            let end = &want["fixed_point"];
            let tolerance = if end["status"] == "interior" {
                1e-8
            } else {
                1e-5
            };
            agree(
                &format!("{name}.fixed_point"),
                &got["fixed_point"],
                end,
                tolerance,
            );
        }
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is written"
    );
}

const MINE: &str = "\
beta = 0.3
advantage = { group = { spread = { group = { eps = 1e-4 } } } }
aggregation = \"token_mean\"
responses = 4
[kl]
placement = \"loss\"
estimator = \"k3\"
";

#[test]
fn a_recipe_of_ones_own_is_the_named_one_where_it_says_the_same() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.toml"), MINE).unwrap();
    let of = |recipe: &str| -> Value {
        let output = audit(&["--recipe", recipe, "--json"], dir.path());
        let all: Value = serde_json::from_str(&stdout(&output)).unwrap();
        all["recipes"]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone()
    };
    assert_eq!(of("mine.toml"), of("trl.grpo"));
    assert_eq!(of("TRL GRPO"), of("trl.grpo"));
    let text = stdout(&audit(&["--recipe", "mine.toml", "--explain"], dir.path()));
    for part in [
        "the KL term as k1 in the reward",
        "no division by a standard deviation",
        "a sum over tokens",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = stdout(&audit(
        &["--compare", "trl.rloo", "openrlhf.rloo"],
        dir.path(),
    ));
    assert!(text.contains("cosine between"), "{text}");
    let text = stdout(&audit(&["recipes"], dir.path()));
    assert!(text.contains("openrlhf.reinforce++"), "{text}");
}

#[test]
fn drawn_units_say_within_their_intervals_what_enumeration_says() {
    let dir = TempDir::new().unwrap();
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&stdout(&audit(args, dir.path()))).unwrap()
    };
    let exact = json(&["--recipe", "trl.grpo", "--json"]);
    let args = ["--recipe", "trl.grpo", "--draws", "20000", "--json"];
    let drawn = json(&args);
    assert_eq!(drawn, json(&args), "the seed decides");
    for from in ["on_policy", "stale"] {
        let (e, d) = (
            &exact["recipes"]["TRL GRPO"][from],
            &drawn["recipes"]["TRL GRPO"][from],
        );
        for key in ["norm_ratio", "cosine"] {
            let (value, half) = (
                d[key]["value"].as_f64().unwrap(),
                d[key]["half"].as_f64().unwrap(),
            );
            let gap = (value - e[key].as_f64().unwrap()).abs();
            // Three times the half of a 95% interval: six standard deviations.
            assert!(
                half < 0.1 && gap < 3.0 * half,
                "{from}, {key}: {gap} at {half}"
            );
        }
    }
    // Groups of four hundred are too large to enumerate.
    fs::write(
        dir.path().join("large.toml"),
        MINE.replace("responses = 4", "responses = 400"),
    )
    .unwrap();
    let text = stdout(&audit(
        &["--recipe", "large.toml", "--draws", "3200"],
        dir.path(),
    ));
    assert!(
        text.contains("the behaviour") && text.contains("+-"),
        "{text}"
    );
    // The unbiased reference has no bias to be seen.
    let text = stdout(&audit(
        &["--recipe", "reinforce.k1", "--draws", "6400"],
        dir.path(),
    ));
    assert!(text.contains("below resolution"), "{text}");
    let both = json(&["--compare", "trl.grpo", "verl.grpo", "--json"]);
    let cosine = both["compared"]["cosine_on_policy"].as_f64().unwrap();
    assert!(cosine > 0.999_999 && cosine < 1.0, "{cosine}");
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let dir = TempDir::new().unwrap();
    let refused = |args: &[&str], parts: &[&str]| assert_refused(&audit(args, dir.path()), parts);
    let good = golden().remove(0);
    let tree = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(dir.path().join("bad.json"), bad.to_string()).unwrap();
        refused(&["--tree", "bad.json"], parts);
    };
    tree(
        &|t| drop(t.as_object_mut().unwrap().remove("r")),
        &["bad.json", "missing field `r`"],
    );
    tree(
        &|t| t["theta"] = json!([[0.0, 0.0]]),
        &["theta: found 1 rows, expected 3"],
    );
    tree(
        &|t| t["ref_logits"][1] = json!([0.0]),
        &["ref_logits[1]: found 1 numbers, expected A = 2"],
    );
    tree(
        &|t| t["prompt_weights"] = json!([0.4]),
        &["prompt_weights", "sum to 1"],
    );
    tree(&|t| t["beta"] = json!(-1.0), &["beta: found -1"]);
    tree(&|t| t["H"] = json!(0), &["H: found 0"]);
    tree(&|t| t["eos"] = json!(7), &["eos: found 7"]);
    refused(&["--tree", "none.json"], &["none.json"]);
    refused(&["--recipe", "grpoo"], &["--recipe grpoo", "trl.grpo"]);
    refused(
        &["--compare", "grpo", "grpoo"],
        &["--compare grpoo", "trl.grpo"],
    );
    refused(&["--redraw", "."], &["--redraw .", "ends.csv"]);
    refused(&["--draws", "3"], &["--draws: found 3", "at least 32"]);
    refused(
        &["--recipe", "trl.grpo", "--end-trees", "3"],
        &["--end-trees: has no effect"],
    );
    refused(
        &["--tree", "bad.json", "--beta", "0.1"],
        &["--beta", "the tree's file"],
    );
    for (change, parts) in [
        (
            ("responses = 4", "responses = 1"),
            ["responses: found 1", "at least 2"],
        ),
        (("\"k3\"", "\"k4\""), ["mine.toml:7", "k4"]),
        (("token_mean", "token_main"), ["mine.toml:3", "token_main"]),
        (("beta = 0.3", "beta = -0.3"), ["beta: found -0.3", ">= 0"]),
        (("beta = 0.3", "betta = 0.3"), ["mine.toml:1", "betta"]),
        (("eps = 1e-4", "eps = 0.0"), ["spread.eps", "> 0"]),
        (
            ("responses = 4", "responses = 400"),
            ["prompts * responses", "sample instead"],
        ),
    ] {
        fs::write(
            dir.path().join("mine.toml"),
            MINE.replace(change.0, change.1),
        )
        .unwrap();
        refused(&["--recipe", "mine.toml"], &parts);
    }
    refused(&["--group", "1"], &["group", "found 1"]);
    refused(&["--betas", "1,0.3"], &["betas"]);
    assert!(!dir.path().join("runs").exists(), "nothing is left behind");
}
