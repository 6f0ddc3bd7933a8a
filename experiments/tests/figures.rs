//! Committed figures are exactly what the committed CSV files draw, and the manifest lists them all.

use rto_harness::manifest::Manifest;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PROP32: &str = env!("CARGO_BIN_EXE_prop32");
const THM42: &str = env!("CARGO_BIN_EXE_thm42");
const ALGORITHM2: &str = env!("CARGO_BIN_EXE_algorithm2");
const AUDIT: &str = env!("CARGO_BIN_EXE_audit");
const BENCH: &str = env!("CARGO_BIN_EXE_bench");
const STUDY: &str = env!("CARGO_BIN_EXE_study");

/// Runs a binary in `dir`, without anything of the caller's environment that moves results elsewhere.
fn run(binary: &str, args: &[&str], dir: &Path) {
    let output = Command::new(binary)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{binary} {args:?}: {error}");
}

/// Every figure of a folder is drawn again from its CSV files and compared byte for byte.
fn redraw(binary: &str, folder: &str) {
    let committed = Path::new(ROOT).join("figures").join(folder);
    let dir = TempDir::new().unwrap();
    let names: Vec<String> = fs::read_dir(&committed)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in names.iter().filter(|name| name.ends_with(".csv")) {
        fs::copy(committed.join(name), dir.path().join(name)).unwrap();
    }
    run(binary, &["--redraw", "."], dir.path());
    for name in &names {
        assert!(
            fs::read(committed.join(name)).unwrap() == fs::read(dir.path().join(name)).unwrap(),
            "{folder}/{name} is not what the CSV files draw"
        );
    }
    let drawn = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(
        drawn,
        names.len(),
        "{folder}: figures that are not committed"
    );
}

#[test]
fn the_manifest_lists_every_figure() {
    Manifest::check(Path::new(ROOT)).unwrap();
}

#[test]
fn the_manifest_names_the_command_and_the_config_of_each_binary() {
    let manifest = Manifest::load(Path::new(ROOT)).unwrap();
    for entry in &manifest.figures {
        let binary = &entry.binary;
        assert!(entry.file.starts_with(&format!("figures/{binary}/")));
        // One language-model figure is of several seeds of a preset, others are of a plan.
        let plan = [("sweep", "dialogue"), ("hh", "hh")]
            .into_iter()
            .find(|(folder, _)| {
                entry
                    .file
                    .starts_with(&format!("figures/rto_llm/{folder}/"))
            });
        let swept = plan.is_some();
        let (more, config) = match (binary.as_str(), plan) {
            ("rto_llm", Some((_, name))) => {
                let plan = format!("experiments/configs/sweep.{name}.toml");
                (format!(" -- sweep {plan} --out runs/{name}"), plan)
            }
            // Of two seeds of one run with a model and texts that the repository has not.
            ("rto_llm", None) if entry.file.starts_with("figures/rto_llm/smollm2/") => {
                let run = "experiments/configs/smollm2.study.toml";
                let given =
                    "--model SmolLM2-135M-Instruct.Q4_1.gguf --data harmless.messages.jsonl";
                (
                    format!(" -- --config {run} {given} --seeds 1..2 --out runs/smollm2"),
                    run.to_string(),
                )
            }
            ("rto_llm", None) => (
                " -- --seeds 1..5 --out runs/seeds".to_string(),
                "experiments/configs/rto_llm.tiny.toml".to_string(),
            ),
            _ => (String::new(), format!("experiments/configs/{binary}.toml")),
        };
        assert_eq!(entry.command, format!("cargo run --bin {binary}{more}"));
        assert_eq!(entry.config, config);
        let config = fs::read_to_string(Path::new(ROOT).join(&entry.config)).unwrap();
        let seed = match swept {
            true => format!("report_seeds = [{}, ", entry.seed),
            false => format!("seed = {}", entry.seed),
        };
        let says = |line: &str| line == seed || swept && line.starts_with(&seed);
        assert!(config.lines().any(says), "{}", entry.file);
    }
}

#[test]
fn prop32_figures_are_drawn_from_their_csv_files() {
    redraw(PROP32, "prop32");
}

#[test]
fn thm42_figures_are_drawn_from_their_csv_files() {
    redraw(THM42, "thm42");
}

#[test]
fn algorithm2_figures_are_drawn_from_their_csv_files() {
    redraw(ALGORITHM2, "algorithm2");
}

#[test]
fn audit_figures_are_drawn_from_their_csv_files() {
    redraw(AUDIT, "audit");
}

#[test]
fn bench_figures_are_drawn_from_their_csv_files() {
    redraw(BENCH, "bench");
}

#[test]
fn study_figures_are_drawn_from_their_csv_files() {
    redraw(STUDY, "study");
}

/// The deterministic sweeps are run again and compared byte for byte with the committed numbers.
#[test]
fn the_committed_counts_are_reproduced() {
    let dir = TempDir::new().unwrap();
    let args = "--replicates 1 --preference-horizons 1 --orders 2 --text-horizons 2 --out run";
    let args: Vec<&str> = args.split(' ').collect();
    run(PROP32, &args, dir.path());
    for name in ["figure2.csv", "claim.csv", "counts.csv"] {
        let committed =
            fs::read_to_string(Path::new(ROOT).join("figures/prop32").join(name)).unwrap();
        assert!(
            committed == fs::read_to_string(dir.path().join("run").join(name)).unwrap(),
            "{name}"
        );
    }
}

/// Rows of the real-text and the preference parts are computed again, the costly longest horizons left out: each is
/// one of the committed rows, byte for byte. A preference row's id counts rows, so it moves with the horizons.
#[test]
fn committed_text_and_preference_rows_are_reproduced() {
    let dir = TempDir::new().unwrap();
    let args = "--horizons 1 --vocabularies 2 --xis 1 --preference-horizons 1,2,3,4,5 \
        --text-horizons 1,2,4,8,12 --quiet --out run";
    let args: Vec<&str> = args.split_whitespace().collect();
    run(PROP32, &args, dir.path());
    for (name, rows) in [("text", 24), ("preferences", 20)] {
        let key = |line: &str| match name {
            "preferences" => line.split_once(',').unwrap().1.to_string(),
            _ => line.to_string(),
        };
        let file = format!("{name}.csv");
        let committed =
            fs::read_to_string(Path::new(ROOT).join("figures/prop32").join(&file)).unwrap();
        let committed: BTreeSet<String> = committed.lines().map(key).collect();
        let again = fs::read_to_string(dir.path().join("run").join(&file)).unwrap();
        for line in again.lines().map(key) {
            assert!(committed.contains(&line), "{file}: not committed: {line}");
        }
        assert_eq!(again.lines().count(), 1 + rows, "{file}");
    }
}

/// Whether two rows have the same texts and numbers, up to the rounding of sums of order 1.
fn same_but_for_rounding(a: &str, b: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split(',').collect(), b.split(',').collect());
    let same = |(a, b): (&&str, &&str)| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => a == b || (x - y).abs() <= 1e-12 + 1e-9 * y.abs(),
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(&b).all(same)
}

/// Some sizes and settings of every part are run again: each row is one of the committed rows. The bytes are the
/// same on one CPU; another adds up in vectors of another width, so numbers may differ in their last digits.
#[test]
fn committed_suboptimality_rows_are_reproduced() {
    let dir = TempDir::new().unwrap();
    let args = "--sizes 50,100 --fit-points 2 --regime-sizes 200,600 --sampled-sizes 100,1000 --betas 0.05 \
        --ridges 0.001 --dims 2 --horizons 2 --quiet --out run";
    let args: Vec<&str> = args.split_whitespace().collect();
    run(THM42, &args, dir.path());
    for (name, rows) in [
        ("setting", 1),
        ("curves", 40),
        ("coverage", 18),
        ("constant", 2),
        ("regimes", 30),
        ("inconsistency", 80),
        ("sweeps", 60),
    ] {
        let file = format!("{name}.csv");
        let committed =
            fs::read_to_string(Path::new(ROOT).join("figures/thm42").join(&file)).unwrap();
        let again = fs::read_to_string(dir.path().join("run").join(&file)).unwrap();
        for line in again.lines() {
            let known = committed.lines().any(|c| same_but_for_rounding(c, line));
            assert!(known, "{file}: not committed: {line}");
        }
        assert_eq!(again.lines().count(), 1 + rows, "{file}");
    }
}

/// Some settings of every part are run again: each row is one of the committed rows, byte for byte. Fewer replicates
/// change what is averaged over them, so part (a) is checked by what needs no sampling.
#[test]
fn committed_rows_of_algorithm2_are_reproduced() {
    let dir = TempDir::new().unwrap();
    let args = "--replicates 2 --iterations 5 --lambdas 0.5 --critic-learning-rates 0.5 --responses 32 --beta2s 0.3 \
        --horizons 2 --action-counts 2 --pair-counts 500 --quiet --out run";
    let args: Vec<&str> = args.split_whitespace().collect();
    run(ALGORITHM2, &args, dir.path());
    for (name, rows) in [
        ("exact", 10),
        ("frontier", 98),
        ("map", 1),
        ("sweeps", 40),
        ("sweep_ratios", 20),
        ("figure3_optima", 2),
        ("credit", 80),
    ] {
        let file = format!("{name}.csv");
        let committed =
            fs::read_to_string(Path::new(ROOT).join("figures/algorithm2").join(&file)).unwrap();
        let committed: BTreeSet<&str> = committed.lines().collect();
        let again = fs::read_to_string(dir.path().join("run").join(&file)).unwrap();
        for line in again.lines() {
            assert!(committed.contains(line), "{file}: not committed: {line}");
        }
        assert_eq!(again.lines().count(), 1 + rows, "{file}");
    }
}

/// `scripts/study.sh` with a `cargo` that notes what it is asked and writes what a run writes at its end, or stops where `stop` says.
fn whole_study(folder: &Path, stop: &str) -> (bool, Vec<String>) {
    let asked = folder.join("asked");
    let _ = fs::remove_file(&asked);
    let text = "#!/bin/sh\necho \"$@\" >>\"$ASKED\"\ncase \"$*\" in *$STOP*) exit 1 ;; esac\nfor out; do :; done\nmkdir -p \"$out\" && : >\"$out/results.json\"\n";
    fs::write(folder.join("text"), text).unwrap();
    // Made by another process: a file that this one has written may be busy while a neighbouring test starts its own.
    run("install", &["-m", "755", "text", "cargo"], folder);
    fs::write(folder.join("texts.gz"), "").unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new(Path::new(ROOT).join("scripts/study.sh"))
        .args(["--out", "whole", "--hh", "texts.gz"])
        .current_dir(folder)
        .envs([("PATH", path.as_str()), ("STOP", stop)])
        .env("ASKED", &asked)
        .output()
        .unwrap();
    let asked = fs::read_to_string(&asked).unwrap_or_default();
    (
        output.status.success(),
        asked.lines().map(String::from).collect(),
    )
}

/// One command runs every ground of the study by the plans that the manifest names, stops where a run stops, and goes on from there.
#[test]
fn one_command_runs_the_study_and_goes_on() {
    let dir = TempDir::new().unwrap();
    let (ended, asked) = whole_study(dir.path(), "sweep.dialogue");
    assert!(!ended);
    assert!(
        asked[0].starts_with("run --release --bin study -- --out /"),
        "{asked:?}"
    );
    assert!(asked[1].contains("sweep experiments/configs/sweep.dialogue.toml --out /"));
    assert_eq!(asked.len(), 2);
    let (ended, asked) = whole_study(dir.path(), "nowhere");
    assert!(ended);
    assert!(asked[0].contains("sweep experiments/configs/sweep.dialogue.toml --out /"));
    assert!(asked[1].contains("sweep experiments/configs/sweep.hh.toml --set settings.data=[\""));
    assert_eq!(asked.len(), 2);
    assert_eq!(whole_study(dir.path(), "nowhere"), (true, Vec::new()));
}
