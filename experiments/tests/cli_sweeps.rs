//! What holds of every binary made of sweeps, run as a user runs it: whole, resumed, in shards, killed, and with mistakes.
//!
//! What one of them alone promises (its tables, its own flags) is in the file of that name, `cli_thm42.rs` and so on.

mod common;

use common::{
    assert_every_key_is_a_flag, assert_refused, assert_same, assert_success, files, stderr,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A binary made of sweeps.
struct Sweep {
    name: &'static str,
    binary: &'static str,
    /// The figures of a run, each as SVG and PNG.
    figures: &'static [&'static str],
    /// Whether a run has `report.html`.
    has_page: bool,
    /// Tables of a run, each as CSV.
    tables: &'static [&'static str],
    /// A number among its settings.
    setting: &'static str,
    /// Flags that make a run of some hundred milliseconds at least, so that kills find some cells done and some in flight.
    longer: &'static [&'static str],
    /// Flags that no run can use, and what the error says.
    bad: &'static [(&'static [&'static str], &'static [&'static str])],
}

const THM42: Sweep = Sweep {
    name: "thm42",
    binary: env!("CARGO_BIN_EXE_thm42"),
    figures: &[
        "constant",
        "coverage",
        "curves",
        "inconsistency",
        "regimes",
        "sweeps",
    ],
    has_page: false,
    tables: &[
        "constant",
        "coverage",
        "coverage_runs",
        "curve_runs",
        "curves",
        "inconsistency",
        "inconsistency_runs",
        "regime_runs",
        "regimes",
        "setting",
        "slopes",
        "sweep_runs",
        "sweeps",
    ],
    setting: "beta",
    longer: &["--replicates", "40", "--coverage-replicates", "300"],
    bad: &[
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
    ],
};

const ALGORITHM2: Sweep = Sweep {
    name: "algorithm2",
    binary: env!("CARGO_BIN_EXE_algorithm2"),
    figures: &["credit", "curves", "figure3", "frontier", "map", "sweeps"],
    has_page: false,
    tables: &[
        "against_dppo",
        "credit",
        "curve_runs",
        "curves",
        "exact",
        "figure3",
        "figure3_optima",
        "figure3_runs",
        "frontier",
        "map",
        "map_runs",
        "setting",
        "sweep_ratios",
        "sweep_runs",
        "sweeps",
    ],
    setting: "reward_scale",
    longer: &["--replicates", "10", "--sweep-replicates", "8"],
    bad: &[
        (&["--wide-actions", "1"], &["wide_actions", "1"]),
        (&["--long-horizon", "40"], &["long_horizon", "40"]),
        (&["--horizons", "2,30"], &["horizons", "30"]),
        (&["--action-counts", "2,60"], &["action_counts", "60"]),
        (&["--beta2", "0"], &["beta2", "0"]),
        (&["--beta1", "NaN"], &["dpo.beta", "NaN"]),
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
            &["long_responses", "6", "method.rloo.group = 4"],
        ),
        (&["--rloo-group", "1"], &["method.rloo.group", "1"]),
        (&["--replicates", "1"], &["replicates", "1"]),
        (
            &["--figure3-beta2s", "0.1"],
            &["figure3_beta2s", "1 values", "two"],
        ),
        (&["--eval-every", "0"], &["eval_every", "0"]),
        (&["--pairs", "0"], &["pairs", "0"]),
    ],
};

const AUDIT: Sweep = Sweep {
    name: "audit",
    binary: env!("CARGO_BIN_EXE_audit"),
    figures: &["beta", "ends", "lambda", "length_bias", "noise", "simplex"],
    has_page: false,
    tables: &[
        "best_lambda",
        "end_runs",
        "ends",
        "lambda",
        "lambda_runs",
        "length_bias",
        "noise",
        "noise_runs",
        "over_beta",
        "recipes",
        "simplex",
        "statements",
    ],
    setting: "beta",
    longer: &["--end-trees", "8"],
    bad: &[
        (&["--beta", "-1"], &["beta", "found -1"]),
        (&["--group", "1"], &["group", "found 1"]),
        (&["--batch", "9"], &["batch", "found 9"]),
        (&["--betas", "1,0.3"], &["betas", "0.3 after 1"]),
        (&["--lambdas", "0.5,1.5"], &["lambdas", "1.5"]),
        (&["--end-trees", "1"], &["end_trees", "found 1"]),
    ],
};

const BENCH: Sweep = Sweep {
    name: "bench",
    binary: env!("CARGO_BIN_EXE_bench"),
    figures: &[
        "claims",
        "coverage",
        "offline",
        "offline_coverage",
        "online",
        "overopt",
        "ties",
    ],
    has_page: true,
    tables: &[
        "claims",
        "coverage",
        "offline",
        "offline_coverage",
        "online",
        "online_doubling",
        "overopt",
        "overopt_laws",
    ],
    setting: "beta",
    longer: &["--offline-seeds", "8"],
    bad: &[
        (&["--beta", "0"], &["beta", "found 0"]),
        (&["--betas", "1,0.5"], &["betas", "0.5 after 1"]),
        (&["--ridge", "NaN"], &["ridge", "found NaN"]),
        (&["--pairs", "40,20"], &["pairs", "20 after 40"]),
        (&["--rounds", "1"], &["rounds", "found 1"]),
        (&["--offline-seeds", "1"], &["offline_seeds", "found 1"]),
        (&["--trap-depth", "1"], &["trap_depth", "found 1"]),
        (&["--horizons", "1,20"], &["horizons", "found 20"]),
        (
            &["--parts", "offlin"],
            &["parts", "\"offlin\"", "offline, online"],
        ),
        (
            &["--parts", "online,online"],
            &["parts", "\"online\" twice"],
        ),
    ],
};

/// Each promise is a test of its own for each binary.
macro_rules! every_sweep {
    ($($module:ident = $sweep:expr),*; $($promise:ident),* $(,)?) => {
        every_sweep!(@ [$($module = $sweep),*] [$($promise),*]);
    };
    (@ [$($module:ident = $sweep:expr),*] $promises:tt) => {
        $(mod $module {
            every_sweep!(# $sweep, $promises);
        })*
    };
    (# $sweep:expr, [$($promise:ident),*]) => {
        $(#[test]
        fn $promise() {
            super::$promise(&$sweep);
        })*
    };
}

every_sweep! {
    thm42 = crate::THM42, algorithm2 = crate::ALGORITHM2, audit = crate::AUDIT, bench = crate::BENCH;
    a_run_is_the_same_on_any_number_of_threads_and_can_be_redrawn,
    a_run_goes_on_with_its_own_settings_only,
    three_shards_and_a_merge_give_the_bytes_of_one_process,
    an_array_of_slurm_jobs_gives_the_bytes_of_one_process,
    a_merge_wants_all_cells_of_one_experiment,
    a_killed_run_goes_on_to_the_same_bytes,
    bad_settings_are_refused_before_anything_is_written,
    nothing_is_overwritten,
    help_fits_and_every_key_of_the_config_is_a_flag,
    a_reader_that_goes_away_is_not_an_error,
}

impl Sweep {
    fn command(&self, args: &[&str], dir: &Path) -> Command {
        common::command(self.binary, args, dir)
    }

    fn run(&self, args: &[&str], dir: &Path) -> Output {
        common::run(self.binary, args, dir)
    }

    /// The files of a whole run with the smoke settings.
    fn smoke(&self, dir: &Path, out: &str) -> BTreeMap<String, Vec<u8>> {
        assert_success(&self.run(&["--smoke", "--out", out], dir));
        files(&dir.join(out))
    }
}

fn cells(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    let names = files.keys().map(String::as_str);
    names.filter(|name| name.starts_with("cells/")).collect()
}

// ---------------------------------------------------------------- one process

fn a_run_is_the_same_on_any_number_of_threads_and_can_be_redrawn(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let mut texts = Vec::new();
    for threads in ["1", "2"] {
        let output = sweep
            .command(&["--smoke", "--seed", "5"], dir.path())
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert_success(&output);
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|l| !l.contains("runs/"));
        texts.push(lines.map(String::from).collect::<Vec<_>>());
    }
    assert_eq!(texts[0], texts[1]);
    let run = |i: u32| format!("runs/{}-{i:04}", sweep.name);
    let [first, second] = [1, 2].map(|i| files(&dir.path().join(run(i))));
    assert_same(&first, &second);

    let listed: BTreeSet<String> = first
        .keys()
        .filter(|name| !name.starts_with("cells/"))
        .cloned()
        .collect();
    let mut expected: BTreeSet<String> = ["config.toml", "results.json", "versions.json"]
        .map(String::from)
        .into();
    if sweep.has_page {
        expected.insert("report.html".into());
        // A smoke run ranks nothing.
        let page = String::from_utf8_lossy(&first["report.html"]);
        assert!(page.contains("Too small to compare methods: 4 random trees"));
        assert!(!page.contains("regret is least for"));
    }
    for figure in sweep.figures {
        expected.extend(["svg", "png"].map(|kind| format!("{figure}.{kind}")));
    }
    expected.extend(sweep.tables.iter().map(|table| format!("{table}.csv")));
    assert_eq!(listed, expected);

    // Figures come from the CSV files alone.
    let redrawn = dir.path().join("redrawn");
    fs::create_dir(&redrawn).unwrap();
    let is_csv = |name: &str| name.ends_with(".csv") && !name.starts_with("cells/");
    for (name, bytes) in first.iter().filter(|(name, _)| is_csv(name)) {
        fs::write(redrawn.join(name), bytes).unwrap();
    }
    assert_success(&sweep.run(&["--redraw", "redrawn"], dir.path()));
    let redrawn = files(&redrawn);
    for (name, bytes) in &redrawn {
        assert!(first[name] == *bytes, "{name}");
    }
    assert_eq!(
        redrawn.len(),
        sweep.tables.len() + 2 * sweep.figures.len(),
        "figures that were not drawn"
    );

    // The saved config is a config, and another seed is another run.
    let config = format!("{}/config.toml", run(1));
    let again = ["--config", &config, "--out", "again"];
    assert_success(&sweep.run(&again, dir.path()));
    assert_same(&files(&dir.path().join("again")), &first);
    assert!(sweep.smoke(dir.path(), "other")["results.json"] != first["results.json"]);
}

fn a_run_goes_on_with_its_own_settings_only(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let whole = sweep.smoke(dir.path(), "run");
    let refused = |args: &[&str], parts: &[&str]| {
        assert_refused(&sweep.run(args, dir.path()), parts);
        assert_same(&files(&dir.path().join("run")), &whole);
    };
    let config = String::from_utf8(whole["config.toml"].clone()).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let seed = format!("`seed` is {} there and 9 now", config["seed"]);
    refused(&["--smoke", "--seed", "9", "--out", "run"], &["run", &seed]);
    let key = sweep.setting;
    let there = config[key].as_float().unwrap();
    let (same, other) = (there.to_string(), (there / 2.0).to_string());
    let flag = format!("--{}", key.replace('_', "-"));
    refused(
        &["--resume", "run", &flag, &other],
        &[&format!(
            "`{key}` is {there:?} there and {:?} now",
            there / 2.0
        )],
    );
    refused(&["--resume", "absent"], &["absent", "config.toml"]);
    // A damaged cell is named, and computed again when it is gone.
    let name = cells(&whole)[0];
    let cell = dir.path().join("run").join(name);
    fs::write(&cell, "n\n1\n").unwrap();
    assert_refused(
        &sweep.run(&["--resume", "run"], dir.path()),
        &[name, "delete it"],
    );
    fs::remove_file(&cell).unwrap();
    assert_success(&sweep.run(&["--resume", "run", &flag, &same], dir.path()));
    assert_same(&files(&dir.path().join("run")), &whole);
}

fn help_fits_and_every_key_of_the_config_is_a_flag(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let help = |args: &[&str]| {
        let output = sweep.run(args, dir.path());
        assert_success(&output);
        let text = String::from_utf8(output.stdout).unwrap();
        let wide: Vec<&str> = text.lines().filter(|l| l.chars().count() > 80).collect();
        assert_eq!(wide, Vec::<&str>::new(), "{args:?}");
        text
    };
    help(&["-h"]);
    help(&["merge", "--help"]);
    help(&["help", "merge"]);
    let text = help(&["--help"]);
    for part in ["Examples:", "--shard", "merge", "--resume", "[default: "] {
        assert!(text.contains(part), "{part}");
    }
    assert_every_key_is_a_flag(&text, sweep.name);
}

fn a_reader_that_goes_away_is_not_an_error(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let mut child = sweep
        .command(&["--smoke", "--out", "run"], dir.path())
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
    assert!(dir.path().join("run/results.json").is_file());
}

// ---------------------------------------------------------------- shards

fn three_shards_and_a_merge_give_the_bytes_of_one_process(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let whole = sweep.smoke(dir.path(), "whole");

    // Folders of their own, counted from 1.
    for shard in ["1/3", "2/3", "3/3"] {
        let out = format!("own-{}", &shard[..1]);
        let args = ["--smoke", "--shard", shard, "--out", &out];
        assert_success(&sweep.run(&args, dir.path()));
        assert!(!dir.path().join(&out).join("results.json").exists());
    }
    let merge = ["merge", "own-1", "own-2", "own-3", "--out", "merged"];
    assert_success(&sweep.run(&merge, dir.path()));
    assert_same(&files(&dir.path().join("merged")), &whole);

    // One shared folder, all at once, counted from 0; merged in place and elsewhere.
    let children = ["0/3", "1/3", "2/3"].map(|shard| {
        let args = ["--smoke", "--shard", shard, "--out", "shared", "--json"];
        sweep
            .command(&args, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut computed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_success(&output);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        computed += value["computed"].as_u64().unwrap();
    }
    assert_eq!(computed, cells(&whole).len() as u64);
    for out in ["elsewhere", "shared"] {
        assert_success(&sweep.run(&["merge", "shared", "--out", out], dir.path()));
        assert_same(&files(&dir.path().join(out)), &whole);
    }
}

/// What sbatch gets is run here as Slurm would run it; a real cluster is started by `.ci/slurm`.
fn an_array_of_slurm_jobs_gives_the_bytes_of_one_process(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let whole = sweep.smoke(dir.path(), "whole");
    let slurm = |out: &str, more: &[&str]| {
        let args = [&["--out", out, "--slurm", "3"], more].concat();
        sweep.command(&args, dir.path())
    };
    // Without a cluster: one line, and nothing is made. A dry run needs none and makes nothing either.
    let mut without = slurm("run", &["--smoke"]);
    let refused = without.env("PATH", "/nowhere").output().unwrap();
    assert_refused(&refused, &["--slurm", "no sbatch", "--dry-run"]);
    let scripts = slurm("run", &["--smoke", "--dry-run"]).output().unwrap();
    assert_success(&scripts);
    let scripts = String::from_utf8(scripts.stdout).unwrap();
    assert!(scripts.contains("#SBATCH --array=0-2\n"), "{scripts}");
    assert!(!dir.path().join("run").exists());
    let alone = sweep.run(&["--smoke", "--dry-run"], dir.path());
    assert!(stderr(&alone).contains("--slurm <N>"), "{}", stderr(&alone));
    let bad = [sweep.bad[0].0, &["--smoke"]].concat();
    assert_refused(&slurm("run", &bad).output().unwrap(), sweep.bad[0].1);
    assert_refused(
        &slurm("run", &["--smoke", "--sbatch", "--array=1-5"])
            .output()
            .unwrap(),
        &["--sbatch", "--array=1-5"],
    );
    assert!(!dir.path().join("run").exists());

    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let fake =
        "#!/bin/sh\n[ \"$1\" = --version ] || { echo \"$@\" >>\"$SAID\"; wc -l <\"$SAID\"; }\n";
    fs::write(bin.join("sbatch"), fake).unwrap();
    assert_success(&common::run("chmod", &["+x", "bin/sbatch"], dir.path()));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let said = dir.path().join("said");
    let submit = |args: &[&str]| {
        let mut command = slurm("run", args);
        let output = command
            .env("PATH", &path)
            .env("SAID", &said)
            .output()
            .unwrap();
        assert_success(&output);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let time = "--sbatch=--time=5:00 --comment='two words'";
    let first = submit(&["--smoke", "--json", time]);
    assert_eq!(first["tasks"], serde_json::json!([0, 1, 2]));
    assert_eq!(first["jobs"]["array"], "1");
    let lines = fs::read_to_string(&said).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert!(
        lines[0].starts_with("--parsable --time=5:00 --comment=two words /"),
        "{lines:?}"
    );
    assert!(lines[1].contains(" --dependency=afterany:1 /"), "{lines:?}");

    let start = |number: u32, script: &str, index: &str| {
        let script = dir
            .path()
            .join(format!("run/slurm/{number:04}/{script}.sh"));
        let mut shell = common::command("bash", &[script.to_str().unwrap()], dir.path());
        shell.env("SLURM_ARRAY_TASK_ID", index).output().unwrap()
    };
    for index in ["2", "0"] {
        assert_success(&start(1, "array", index));
    }
    // The merge names what is missing, and a second submission is for that alone.
    assert_refused(&start(1, "merge", ""), &["in none of these runs"]);
    let second = submit(&["--json"]);
    assert_eq!(second["tasks"], serde_json::json!([1]));
    assert_success(&start(2, "array", "1"));
    assert_success(&start(2, "merge", ""));
    let mut run = files(&dir.path().join("run"));
    run.retain(|name, _| !name.starts_with("slurm/"));
    let timings = fs::read_to_string(dir.path().join("run/timings.json")).unwrap();
    let timings: Value = serde_json::from_str(&timings).unwrap();
    assert_eq!(timings["machines"].as_array().unwrap().len(), 1);
    assert_same(&run, &whole);
    assert_eq!(submit(&["--json"])["jobs"]["array"], Value::Null);
}

fn a_merge_wants_all_cells_of_one_experiment(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    for (seed, out) in [("1", "one"), ("2", "two")] {
        let args = ["--smoke", "--seed", seed, "--shard", "1/2", "--out", out];
        assert_success(&sweep.run(&args, dir.path()));
    }
    let merge =
        |args: &[&str]| sweep.run(&[&["merge"], args, &["--out", "out"]].concat(), dir.path());
    let first = format!("the first is {}/", sweep.name);
    assert_refused(
        &merge(&["one"]),
        &["cells are in none of these runs", &first],
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
fn a_killed_run_goes_on_to_the_same_bytes(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let begin = |out| [&["--smoke", "--out", out], sweep.longer].concat();
    assert_success(&sweep.run(&begin("whole"), dir.path()));
    let whole = files(&dir.path().join("whole"));
    let out = dir.path().join("killed");
    let mut kills = 0;
    for i in 0..14u64 {
        // No clock decides anything but the moment of the kill.
        let args = match i % 2 {
            1 if out.join("config.toml").is_file() => vec!["--resume", "killed"],
            _ => begin("killed"),
        };
        let mut child = sweep
            .command(&args, dir.path())
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
    // Cells that are there are not computed again: a run without work changes no file.
    for args in [vec!["--resume", "killed"], begin("killed")] {
        assert_success(&sweep.run(&args, dir.path()));
        let mut resumed = files(&out);
        // What a kill leaves of a file that was being written is a hidden temporary at most.
        resumed.retain(|name, _| !name.split('/').next_back().unwrap().starts_with('.'));
        assert_same(&resumed, &whole);
    }
}

// ---------------------------------------------------------------- mistakes

fn bad_settings_are_refused_before_anything_is_written(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let my = dir.path().join("my.toml");
    let config = ["--config", "my.toml"];
    let key = sweep.setting;
    let slip = &key[..key.len() - 1];
    fs::write(&my, format!("{slip} = 3\n")).unwrap();
    assert_refused(
        &sweep.run(&config, dir.path()),
        &["my.toml:1", &format!("unknown key `{slip}`"), key],
    );
    fs::write(&my, format!("{key} = \"high\"\n")).unwrap();
    assert_refused(&sweep.run(&config, dir.path()), &["my.toml:1", key, "high"]);
    for (flags, parts) in sweep.bad {
        assert_refused(&sweep.run(flags, dir.path()), parts);
    }
    for (shard, parts) in [
        ("4/3", ["--shard", "4/3", "i/n"]),
        ("one", ["--shard", "one", "i/n"]),
        ("1/2", ["--shard", "1/2", "needs --out DIR"]),
    ] {
        assert_refused(&sweep.run(&["--shard", shard], dir.path()), &parts);
    }
    assert!(!dir.path().join("runs").exists());
}

fn nothing_is_overwritten(sweep: &Sweep) {
    let dir = TempDir::new().unwrap();
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("keep.txt"), "precious").unwrap();
    let run = |args: &[&str]| sweep.run(args, dir.path());
    assert_refused(&run(&["--smoke", "--out", "full"]), &["full", "not empty"]);
    assert_refused(&run(&["--smoke", "--out", "full/keep.txt"]), &["keep.txt"]);
    assert_refused(&run(&["--redraw", "full"]), &[".csv"]);
    assert_eq!(files(&full).len(), 1);
    let kept = fs::read_to_string(full.join("keep.txt")).unwrap();
    assert_eq!(kept, "precious");
}
