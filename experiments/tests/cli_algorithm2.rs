//! The `algorithm2` binary, run as a user runs it: whole, in shards, and killed.

mod common;

use common::{assert_refused, assert_same, assert_success, files, stderr};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_algorithm2");

fn command(args: &[&str], dir: &Path) -> Command {
    common::command(BINARY, args, dir)
}

fn algorithm2(args: &[&str], dir: &Path) -> Output {
    common::run(BINARY, args, dir)
}

fn smoke(dir: &Path, out: &str) -> BTreeMap<String, Vec<u8>> {
    assert_success(&algorithm2(&["--smoke", "--out", out], dir));
    files(&dir.join(out))
}

// ---------------------------------------------------------------- one process

#[test]
fn a_run_is_reproducible_whatever_the_threads_and_can_be_redrawn() {
    let dir = TempDir::new().unwrap();
    let mut texts = Vec::new();
    for threads in ["1", "2"] {
        let output = command(&["--smoke", "--seed", "5"], dir.path())
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert_success(&output);
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        texts.push(
            text.lines()
                .filter(|l| !l.contains("runs/"))
                .map(String::from)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(texts[0], texts[1]);
    let [first, second] =
        ["runs/algorithm2-0001", "runs/algorithm2-0002"].map(|r| files(&dir.path().join(r)));
    assert_same(&first, &second);
    let listed: Vec<&str> = first
        .keys()
        .map(String::as_str)
        .filter(|name| !name.starts_with("cells/"))
        .collect();
    let expected = [
        "against_dppo.csv",
        "config.toml",
        "credit.csv",
        "credit.png",
        "credit.svg",
        "curve_runs.csv",
        "curves.csv",
        "curves.png",
        "curves.svg",
        "exact.csv",
        "figure3.csv",
        "figure3.png",
        "figure3.svg",
        "figure3_optima.csv",
        "figure3_runs.csv",
        "frontier.csv",
        "frontier.png",
        "frontier.svg",
        "map.csv",
        "map.png",
        "map.svg",
        "map_runs.csv",
        "results.json",
        "setting.csv",
        "sweep_ratios.csv",
        "sweep_runs.csv",
        "sweeps.csv",
        "sweeps.png",
        "sweeps.svg",
        "versions.json",
    ];
    assert_eq!(listed, expected);

    // Figures come from the CSV files alone.
    let redrawn = dir.path().join("redrawn");
    fs::create_dir(&redrawn).unwrap();
    let is_csv = |name: &str| name.ends_with(".csv") && !name.starts_with("cells/");
    for (name, bytes) in first.iter().filter(|(name, _)| is_csv(name)) {
        fs::write(redrawn.join(name), bytes).unwrap();
    }
    assert_success(&algorithm2(&["--redraw", "redrawn"], dir.path()));
    for (name, bytes) in files(&redrawn) {
        assert!(first[&name] == bytes, "{name}");
    }
    assert!(redrawn.join("sweeps.png").is_file());

    // The saved config is a config, and another seed is another run.
    let again = [
        "--config",
        "runs/algorithm2-0001/config.toml",
        "--out",
        "again",
    ];
    assert_success(&algorithm2(&again, dir.path()));
    assert_same(&files(&dir.path().join("again")), &first);
    assert!(smoke(dir.path(), "other")["curves.csv"] != first["curves.csv"]);
}

#[test]
fn json_is_alone_on_stdout_and_the_theory_holds() {
    let dir = TempDir::new().unwrap();
    let output = algorithm2(&["--smoke", "--json"], dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(stderr(&output).contains("(a) Exact SubOpt"));
    let results = &value["results"];
    let rows = |table: &str| results[table].as_array().unwrap().clone();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();

    // SubOpt is never negative, and RTO is DPPO with another initial critic.
    let curves = rows("curves");
    let gap = |instance: &str, method: &str, iteration: u64| {
        let row = curves.iter().find(|r| {
            r["instance"] == instance && r["method"] == method && r["iteration"] == iteration
        });
        number(row.unwrap(), "objective_gap")
    };
    for row in &curves {
        for key in ["objective_gap", "own_gap", "true_gap", "matched_gap"] {
            assert!(number(row, key) > -1e-9, "{row}");
        }
        assert_eq!(
            row["critic_error"].is_null(),
            row["method"] == "rloo",
            "{row}"
        );
    }
    for instance in ["long", "wide"] {
        for iteration in [0, 5, 10] {
            let rto = gap(instance, "rto", iteration);
            let offset = gap(instance, "dppo_offset", iteration);
            assert!((rto - offset).abs() < 1e-9, "{instance} {iteration}");
        }
        let sparse = gap(instance, "dppo", 5);
        assert!(
            (gap(instance, "rto", 5) - sparse).abs() > 1e-6,
            "{instance}"
        );
        // All start at π_ref, and every method learns.
        for method in ["rto", "dppo", "rloo"] {
            assert!(gap(instance, method, 20) < 0.5 * gap(instance, method, 0));
        }
    }

    // The exact policies: optima have no gap, and no run has more reward at its KL than the frontier.
    for row in rows("exact") {
        match row["policy"].as_str().unwrap() {
            "rto_optimum" => assert!(number(&row, "objective_gap").abs() < 1e-9, "{row}"),
            "optimal_beta1" => assert!(number(&row, "true_gap").abs() < 1e-9, "{row}"),
            "optimal_beta2" => assert!(number(&row, "matched_gap").abs() < 1e-9, "{row}"),
            _ => assert!(number(&row, "objective_gap") > 1e-3, "{row}"),
        }
    }
    let frontier = rows("frontier");
    for row in &curves {
        // π*_b maximises reward − b·KL, so its value bounds that of every policy.
        let instance = frontier.iter().filter(|f| f["instance"] == row["instance"]);
        for best in instance {
            let value = |r: &Value| number(r, "reward") - number(best, "beta") * number(r, "kl");
            assert!(value(row) <= value(best) + 1e-9, "{row} {best}");
        }
    }
}

#[test]
fn help_has_examples() {
    let dir = TempDir::new().unwrap();
    let output = algorithm2(&["--help"], dir.path());
    assert_success(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "Examples:",
        "--shard",
        "merge",
        "--resume",
        "SLURM_ARRAY_TASK_ID",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let dir = TempDir::new().unwrap();
    let mut child = command(&["--smoke"], dir.path())
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

// ---------------------------------------------------------------- shards

#[test]
fn three_shards_and_a_merge_give_the_bytes_of_one_process() {
    let dir = TempDir::new().unwrap();
    let whole = smoke(dir.path(), "whole");

    // Folders of their own, the next free ones, counted from 1.
    for shard in ["1/3", "2/3", "3/3"] {
        let out = format!("own-{}", &shard[..1]);
        let output = algorithm2(&["--smoke", "--shard", shard, "--out", &out], dir.path());
        assert_success(&output);
        assert!(!dir.path().join(&out).join("curves.csv").exists());
    }
    let merge = ["merge", "own-1", "own-2", "own-3", "--out", "merged"];
    assert_success(&algorithm2(&merge, dir.path()));
    assert_same(&files(&dir.path().join("merged")), &whole);

    // One shared folder, all at once, counted from 0; merged in place and elsewhere.
    let children: Vec<_> = ["0/3", "1/3", "2/3"]
        .into_iter()
        .map(|shard| {
            command(
                &["--smoke", "--shard", shard, "--out", "shared", "--json"],
                dir.path(),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
        })
        .collect();
    let mut computed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_success(&output);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        computed += value["computed"].as_u64().unwrap();
    }
    let cells = whole
        .keys()
        .filter(|name| name.starts_with("cells/"))
        .count();
    assert_eq!(computed, cells as u64);
    assert_success(&algorithm2(
        &["merge", "shared", "--out", "elsewhere"],
        dir.path(),
    ));
    assert_same(&files(&dir.path().join("elsewhere")), &whole);
    assert_success(&algorithm2(
        &["merge", "shared", "--out", "shared"],
        dir.path(),
    ));
    assert_same(&files(&dir.path().join("shared")), &whole);
}

#[test]
fn a_merge_wants_all_cells_of_one_experiment() {
    let dir = TempDir::new().unwrap();
    let shard = |seed: &str, out: &str| {
        let args = ["--smoke", "--seed", seed, "--shard", "1/2", "--out", out];
        assert_success(&algorithm2(&args, dir.path()));
    };
    shard("1", "one");
    shard("2", "two");
    let merge =
        |args: &[&str]| algorithm2(&[&["merge"], args, &["--out", "out"]].concat(), dir.path());
    assert_refused(
        &merge(&["one"]),
        &["cells are in none of these runs", "algorithm2/a/0"],
    );
    assert_refused(
        &merge(&["one", "two"]),
        &["two", "`seed` is 2 there and 1 now"],
    );
    assert_refused(&merge(&["one", "absent"]), &["absent"]);
    assert!(!dir.path().join("out").exists());
}

// ---------------------------------------------------------------- kill and resume

/// SIGKILL at many moments, through the cells and through the writing of tables and figures.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    // More cells than the smoke setting has, so that kills find some done and some in flight.
    let begin = |out| {
        let more = ["--replicates", "10", "--sweep-replicates", "8"];
        [&["--smoke", "--out", out], &more[..]].concat()
    };
    assert_success(&algorithm2(&begin("whole"), dir.path()));
    let whole = files(&dir.path().join("whole"));
    let out = dir.path().join("killed");
    let mut kills = 0;
    for i in 0..14u64 {
        // No clock decides anything but the moment of the kill.
        let args = match i % 2 {
            1 if out.join("config.toml").is_file() => vec!["--resume", "killed"],
            _ => begin("killed"),
        };
        let mut child = command(&args, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(15 + 29 * (i * 5 % 14)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        kills += u32::from(output.status.code().is_none());
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
    }
    assert!(
        kills >= 3,
        "{kills} of 14 runs were still running when killed"
    );
    let output = algorithm2(&["--resume", "killed"], dir.path());
    assert_success(&output);
    let mut resumed = files(&out);
    // What a kill leaves of a file that was being written is a hidden temporary at most.
    resumed.retain(|name, _| !name.split('/').next_back().unwrap().starts_with('.'));
    assert_same(&resumed, &whole);

    // Cells that are there are not computed again: a run without work changes no file.
    assert_success(&algorithm2(&begin("killed"), dir.path()));
    let mut again = files(&out);
    again.retain(|name, _| !name.split('/').next_back().unwrap().starts_with('.'));
    assert_same(&again, &whole);
}

#[test]
fn a_run_goes_on_with_its_own_settings_only() {
    let dir = TempDir::new().unwrap();
    let whole = smoke(dir.path(), "run");
    let refused = |args: &[&str], parts: &[&str]| {
        assert_refused(&algorithm2(args, dir.path()), parts);
        assert_same(&files(&dir.path().join("run")), &whole);
    };
    refused(
        &["--smoke", "--seed", "9", "--out", "run"],
        &["run", "`seed` is 0 there and 9 now"],
    );
    refused(
        &["--resume", "run", "--beta2", "0.25"],
        &["`beta2` is 0.3 there and 0.25 now"],
    );
    refused(&["--resume", "absent"], &["absent", "config.toml"]);
    // A damaged cell is named, and computed again when it is gone.
    let cell = dir.path().join("run/cells/algorithm2-d-0.csv");
    fs::write(&cell, "n\n1\n").unwrap();
    assert_refused(
        &algorithm2(&["--resume", "run"], dir.path()),
        &["algorithm2-d-0.csv", "delete it"],
    );
    fs::remove_file(&cell).unwrap();
    assert_success(&algorithm2(
        &["--resume", "run", "--beta2", "0.3"],
        dir.path(),
    ));
    assert_same(&files(&dir.path().join("run")), &whole);
}

// ---------------------------------------------------------------- bad settings

#[test]
fn bad_settings_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let my = dir.path().join("my.toml");
    let config = ["--config", "my.toml"];
    fs::write(&my, "horizns = [3]\n").unwrap();
    assert_refused(
        &algorithm2(&config, dir.path()),
        &["my.toml", "horizns", "horizons"],
    );
    fs::write(&my, "beta2 = \"high\"\n").unwrap();
    assert_refused(&algorithm2(&config, dir.path()), &["my.toml", "beta2"]);
    let cases: &[(&[&str], &[&str])] = &[
        (&["--wide-actions", "1"], &["wide_actions", "1"]),
        (&["--long-horizon", "40"], &["long_horizon", "40"]),
        (&["--horizons", "2,30"], &["horizons", "30"]),
        (&["--action-counts", "2,60"], &["action_counts", "60"]),
        (&["--beta2", "0"], &["beta2", "0"]),
        (&["--beta1", "NaN"], &["beta1", "NaN"]),
        (&["--lambda", "1.5"], &["lambda", "1.5", "from 0 to 1"]),
        (&["--lambdas", "0.5,1.5"], &["lambdas", "1.5"]),
        (&["--lambdas", "0.5,0.5"], &["lambdas", "0.5", "increasing"]),
        (
            &["--critic-learning-rate", "2"],
            &["critic_learning_rate", "2"],
        ),
        (&["--responses", "16,8"], &["responses", "8 after 16"]),
        (
            &["--long-responses", "6"],
            &["long_responses", "6", "rloo_group = 4"],
        ),
        (&["--rloo-group", "1"], &["rloo_group", "1"]),
        (&["--replicates", "1"], &["replicates", "1"]),
        (
            &["--figure3-beta2s", "0.1"],
            &["figure3_beta2s", "1 values", "two"],
        ),
        (&["--eval-every", "0"], &["eval_every", "0"]),
        (&["--pairs", "0"], &["pairs", "0"]),
        (&["--shard", "4/3"], &["--shard", "4/3", "i/n"]),
        (&["--shard", "one"], &["--shard", "one"]),
    ];
    for (flags, parts) in cases {
        assert_refused(&algorithm2(flags, dir.path()), parts);
    }
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn nothing_is_overwritten() {
    let dir = TempDir::new().unwrap();
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("keep.txt"), "precious").unwrap();
    let run = |args: &[&str]| algorithm2(args, dir.path());
    assert_refused(&run(&["--smoke", "--out", "full"]), &["full", "not empty"]);
    assert_refused(&run(&["--smoke", "--out", "full/keep.txt"]), &["keep.txt"]);
    assert_refused(&run(&["--redraw", "full"]), &["setting.csv"]);
    assert_eq!(files(&full).len(), 1);
    assert_eq!(
        fs::read_to_string(full.join("keep.txt")).unwrap(),
        "precious"
    );
}
