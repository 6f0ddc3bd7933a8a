//! The `prop32` binary, run as a user runs it.

mod common;
#[path = "cli_prop32/mistakes.rs"]
mod mistakes;
#[path = "cli_prop32/trees.rs"]
mod trees;

use common::{assert_success, stderr};
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
