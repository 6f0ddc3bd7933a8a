//! The `thm42` binary, run as a user runs it: whole, in shards, and killed.

mod common;

use common::{assert_refused, assert_same, assert_success, files, stderr};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_thm42");

fn command(args: &[&str], dir: &Path) -> Command {
    common::command(BINARY, args, dir)
}

fn thm42(args: &[&str], dir: &Path) -> Output {
    common::run(BINARY, args, dir)
}

fn smoke(dir: &Path, out: &str) -> BTreeMap<String, Vec<u8>> {
    assert_success(&thm42(&["--smoke", "--out", out], dir));
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
        ["runs/thm42-0001", "runs/thm42-0002"].map(|r| files(&dir.path().join(r)));
    assert_same(&first, &second);
    let listed: Vec<&str> = first
        .keys()
        .map(String::as_str)
        .filter(|name| !name.starts_with("cells/"))
        .collect();
    let expected = [
        "config.toml",
        "constant.csv",
        "constant.png",
        "constant.svg",
        "coverage.csv",
        "coverage.png",
        "coverage.svg",
        "coverage_runs.csv",
        "curve_runs.csv",
        "curves.csv",
        "curves.png",
        "curves.svg",
        "inconsistency.csv",
        "inconsistency.png",
        "inconsistency.svg",
        "inconsistency_runs.csv",
        "regime_runs.csv",
        "regimes.csv",
        "regimes.png",
        "regimes.svg",
        "results.json",
        "setting.csv",
        "slopes.csv",
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
    assert_success(&thm42(&["--redraw", "redrawn"], dir.path()));
    for (name, bytes) in files(&redrawn) {
        assert!(first[&name] == bytes, "{name}");
    }
    assert!(redrawn.join("sweeps.png").is_file());

    // The saved config is a config, and another seed is another run.
    let again = ["--config", "runs/thm42-0001/config.toml", "--out", "again"];
    assert_success(&thm42(&again, dir.path()));
    assert_same(&files(&dir.path().join("again")), &first);
    assert!(smoke(dir.path(), "other")["curves.csv"] != first["curves.csv"]);
}

#[test]
fn json_is_alone_on_stdout_and_the_theorems_hold() {
    let dir = TempDir::new().unwrap();
    let output = thm42(&["--smoke", "--json"], dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(stderr(&output).contains("(a) SubOpt and bounds"));
    let results = &value["results"];
    let rows = |table: &str| results[table].as_array().unwrap().clone();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    let mut bounded = 0;
    for table in ["curves", "regimes", "inconsistency", "sweeps"] {
        for row in rows(table)
            .iter()
            .filter(|row| !row["violations"].is_null())
        {
            assert_eq!(row["violations"], 0, "{row}");
            bounded += 1;
        }
    }
    assert!(bounded > 80, "{bounded}");
    // Sound radii miss less often than promised; the baselined form is never worse than the reference.
    for row in rows("coverage") {
        let sound = [
            "theory_upsilon",
            "theory_kappa",
            "self_concordant",
            "likelihood_set_finite",
        ];
        if sound.contains(&row["radius"].as_str().unwrap()) {
            assert!(number(&row, "coverage_high") >= 0.95, "{row}");
        }
    }
    let reference = number(&results["setting"][0], "reference_suboptimality");
    for row in rows("curves")
        .iter()
        .filter(|row| row["method"] == "baselined")
    {
        assert!(
            number(row, "suboptimality_q975") <= reference + 1e-9,
            "{row}"
        );
    }
    // The exact constant of the telescoping instance, and the values of (B.1) beside it.
    let exact = |method: &str, n: u64| {
        let all = rows("inconsistency");
        let row = all
            .iter()
            .find(|r| r["data"] == "exact" && r["method"] == method && r["n"] == n);
        number(row.unwrap(), "suboptimality")
    };
    assert!((exact("algorithm1", 1_000_000) - 0.707_191_675_92).abs() < 1e-10);
    assert!((exact("b1", 100) - 2.456e-3).abs() < 1e-6);
    assert!((exact("b1", 1_000_000) / 3.46e-8 - 1.0).abs() < 2e-3);
    // A bonus projected on the row space of too few pairs is far off, and its premise is false; projected on what
    // responses differ in it is not.
    let all = rows("inconsistency");
    let unseen = |method: &str| {
        let mut rows = all.iter();
        let row =
            rows.find(|r| r["data"] == "uncompared" && r["method"] == method && r["n"] == 10_000);
        row.unwrap().clone()
    };
    let projected = unseen("projected");
    assert!((number(&projected, "suboptimality") - 0.209_343).abs() < 1e-6);
    assert!((number(&projected, "bound") + 0.010_570).abs() < 1e-6);
    assert_eq!(projected["covered"], 0.0);
    assert!((number(&unseen("algorithm1"), "suboptimality") - 2.022e-4).abs() < 1e-7);
    let whole = unseen("projected_differences");
    assert!(number(&whole, "suboptimality") < 3e-6 && whole["covered"] == 1.0);
    // (A.2) as printed is sqrt(4 log 20 / Upsilon) + 1 at the smoke setting (d = 4, H = 3), and C multiplies its root.
    let curves = rows("curves");
    let printed = curves.iter().find(|r| r["radius"] == "printed").unwrap();
    assert!(
        (number(printed, "rho") - 70.701_2).abs() < 1e-3,
        "{printed}"
    );
    // Bounds of (B.1) with a fixed radius fall like n^(-1/2).
    let slopes = rows("slopes");
    let slope = slopes
        .iter()
        .find(|r| r["method"] == "b1" && r["radius"] == "theory_upsilon");
    assert!((number(slope.unwrap(), "bound_slope") + 0.5).abs() < 0.1);
}

#[test]
fn help_has_examples() {
    let dir = TempDir::new().unwrap();
    let output = thm42(&["--help"], dir.path());
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
        let output = thm42(&["--smoke", "--shard", shard, "--out", &out], dir.path());
        assert_success(&output);
        assert!(!dir.path().join(&out).join("curves.csv").exists());
    }
    let merge = ["merge", "own-1", "own-2", "own-3", "--out", "merged"];
    assert_success(&thm42(&merge, dir.path()));
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
    assert_success(&thm42(
        &["merge", "shared", "--out", "elsewhere"],
        dir.path(),
    ));
    assert_same(&files(&dir.path().join("elsewhere")), &whole);
    assert_success(&thm42(&["merge", "shared", "--out", "shared"], dir.path()));
    assert_same(&files(&dir.path().join("shared")), &whole);
}

#[test]
fn a_merge_wants_all_cells_of_one_experiment() {
    let dir = TempDir::new().unwrap();
    let shard = |seed: &str, out: &str| {
        let args = ["--smoke", "--seed", seed, "--shard", "1/2", "--out", out];
        assert_success(&thm42(&args, dir.path()));
    };
    shard("1", "one");
    shard("2", "two");
    let merge = |args: &[&str]| thm42(&[&["merge"], args, &["--out", "out"]].concat(), dir.path());
    assert_refused(
        &merge(&["one"]),
        &["cells are in none of these runs", "thm42/a/0"],
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
        let more = ["--replicates", "40", "--coverage-replicates", "300"];
        [&["--smoke", "--out", out], &more[..]].concat()
    };
    assert_success(&thm42(&begin("whole"), dir.path()));
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
    let output = thm42(&["--resume", "killed"], dir.path());
    assert_success(&output);
    let mut resumed = files(&out);
    // What a kill leaves of a file that was being written is a hidden temporary at most.
    resumed.retain(|name, _| !name.split('/').next_back().unwrap().starts_with('.'));
    assert_same(&resumed, &whole);

    // Cells that are there are not computed again: a run without work changes no file.
    assert_success(&thm42(&begin("killed"), dir.path()));
    let mut again = files(&out);
    again.retain(|name, _| !name.split('/').next_back().unwrap().starts_with('.'));
    assert_same(&again, &whole);
}

#[test]
fn a_run_goes_on_with_its_own_settings_only() {
    let dir = TempDir::new().unwrap();
    let whole = smoke(dir.path(), "run");
    let refused = |args: &[&str], parts: &[&str]| {
        assert_refused(&thm42(args, dir.path()), parts);
        assert_same(&files(&dir.path().join("run")), &whole);
    };
    refused(
        &["--smoke", "--seed", "9", "--out", "run"],
        &["run", "`seed` is 0 there and 9 now"],
    );
    refused(
        &["--resume", "run", "--beta", "0.25"],
        &["`beta` is 0.5 there and 0.25 now"],
    );
    refused(&["--resume", "absent"], &["absent", "config.toml"]);
    // A damaged cell is named, and computed again when it is gone.
    let cell = dir.path().join("run/cells/thm42-d-0.csv");
    fs::write(&cell, "n\n1\n").unwrap();
    assert_refused(
        &thm42(&["--resume", "run"], dir.path()),
        &["thm42-d-0.csv", "delete it"],
    );
    fs::remove_file(&cell).unwrap();
    assert_success(&thm42(&["--resume", "run", "--beta", "0.5"], dir.path()));
    assert_same(&files(&dir.path().join("run")), &whole);
}

// ---------------------------------------------------------------- bad settings

#[test]
fn bad_settings_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let my = dir.path().join("my.toml");
    let config = ["--config", "my.toml"];
    fs::write(&my, "horizn = 3\n").unwrap();
    assert_refused(
        &thm42(&config, dir.path()),
        &["my.toml", "horizn", "horizon"],
    );
    fs::write(&my, "beta = \"high\"\n").unwrap();
    assert_refused(&thm42(&config, dir.path()), &["my.toml", "beta"]);
    let cases: &[(&[&str], &[&str])] = &[
        (&["--actions", "1"], &["actions", "1"]),
        (&["--horizon", "40"], &["horizon", "40"]),
        (&["--horizons", "2,30"], &["horizons", "30"]),
        (&["--beta", "0"], &["beta", "0"]),
        (&["--beta", "NaN"], &["beta", "NaN"]),
        (&["--ridges", "0.1,0.1"], &["ridges", "0.1", "increasing"]),
        (&["--ridge", "0"], &["ridge", "0"]),
        (&["--theta-norm", "2"], &["theta_norm", "2"]),
        (&["--fail-prob", "1"], &["fail_prob", "1"]),
        (&["--printed-constant", "0"], &["printed_constant", "0"]),
        (&["--sizes", "100,50"], &["sizes", "50 after 100"]),
        (&["--fit-points", "99"], &["fit_points", "99"]),
        (&["--replicates", "1"], &["replicates", "1"]),
        (&["--exact-sizes", "10.5"], &["exact_sizes", "10.5"]),
        (&["--regime-param-bound", "1"], &["regime_param_bound", "1"]),
        (&["--shard", "4/3"], &["--shard", "4/3", "i/n"]),
        (&["--shard", "one"], &["--shard", "one"]),
    ];
    for (flags, parts) in cases {
        assert_refused(&thm42(flags, dir.path()), parts);
    }
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn nothing_is_overwritten() {
    let dir = TempDir::new().unwrap();
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("keep.txt"), "precious").unwrap();
    let run = |args: &[&str]| thm42(args, dir.path());
    assert_refused(&run(&["--smoke", "--out", "full"]), &["full", "not empty"]);
    assert_refused(&run(&["--smoke", "--out", "full/keep.txt"]), &["keep.txt"]);
    assert_refused(&run(&["--redraw", "full"]), &["setting.csv"]);
    assert_eq!(files(&full).len(), 1);
    assert_eq!(
        fs::read_to_string(full.join("keep.txt")).unwrap(),
        "precious"
    );
}
