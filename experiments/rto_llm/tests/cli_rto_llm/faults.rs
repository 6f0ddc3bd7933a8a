//! What goes wrong in long runs: NaN, a full disk. And what is said of several seeds.

use super::training::{contents, same};
use super::{error, ok};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn command(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rto_llm"));
    let out = out.to_str().unwrap();
    command.args(["--smoke", "--quiet", "--methods", "rto", "--out", out]);
    command.args(more);
    command
}

/// The one line that a run which stops has to say.
fn stopped(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: ") && said.lines().count() == 1,
        "{said}"
    );
    said
}

#[test]
fn nan_stops_a_run_and_the_last_good_state_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, struck) = (dir.path().join("whole"), dir.path().join("struck"));
    assert!(command(&whole, &[]).output().unwrap().status.success());
    let expected = contents(&whole);
    for (at, good) in [("sft:3", 2), ("reward:1", 0), ("dpo:2", 1), ("rto:2", 1)] {
        // One after the other, so that a neighbour is not done before its turn to fail.
        let output = command(&struck, &["--jobs", "1"])
            .env("RTO_LLM_NAN", at)
            .output()
            .unwrap();
        let (said, stage) = (stopped(&output), at.split(':').next().unwrap());
        assert!(
            said.contains(&format!("stage {stage}")) && said.contains("NaN"),
            "{said}"
        );
        let state = struck
            .join("stages")
            .join(stage)
            .join("checkpoint/state.json");
        let step = fs::read_to_string(state).map_or(0, |text| {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            value["step"].as_u64().unwrap()
        });
        assert_eq!(step, good, "{at}: the checkpoint before it");
    }
    assert!(command(&struck, &[]).output().unwrap().status.success());
    same(&expected, &contents(&struck));
}

/// A small file system in memory; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(path: PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path);
        mount
            .output()
            .is_ok_and(|o| o.status.success())
            .then_some(Self(path))
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=256m"]).arg(&self.0);
        assert!(mount.output().unwrap().status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).output().ok();
    }
}

#[test]
fn a_full_disk_stops_a_run_and_it_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    assert!(command(&whole, &[]).output().unwrap().status.success());
    let expected = contents(&whole);
    let bytes: usize = expected.values().map(Vec::len).sum();
    for share in [0.15, 0.4, 0.8] {
        let place = dir.path().join(format!("disk-{share}"));
        let Some(disk) = Disk::new(place, (bytes as f64 * share) as u64) else {
            println!("skipped: a file system in memory can be mounted by root only");
            return;
        };
        let out = disk.0.join("run");
        let said = stopped(&command(&out, &[]).output().unwrap());
        assert!(
            said.contains("No space left") || said.contains("os error 28"),
            "{said}"
        );
        disk.grow();
        let output = command(&out, &[]).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        same(&expected, &contents(&out));
    }
}

#[test]
fn seeds_are_compared_in_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sweep");
    let path = out.to_str().unwrap();
    let all = [
        "--smoke",
        "--quiet",
        "--methods",
        "rto",
        "--seeds",
        "2..4",
        "--out",
        path,
    ];
    let text = ok(&all);
    assert!(text.contains("win rates over 3 seeds"), "{text}");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("seeds.csv").lines().count(), 1 + 3 * 3);
    assert_eq!(read("win_rates.csv").lines().count(), 1 + 3 * 2);
    let page = read("report.html");
    for seed in 2..=4 {
        assert!(page.contains(&format!("seed-{seed}/report.html")));
        assert!(out.join(format!("seed-{seed}/report.html")).is_file());
    }
    let said = format!(
        "everything on one page: {}",
        out.join("report.html").display()
    );
    assert!(text.contains(&said), "{text}");
    // Two iterations and ten prompts rank nothing, and no interval leaves what is possible.
    assert!(page.contains("class=\"banner\"") && !page.contains("highest mean reward"));
    let within = |name: &str, columns: &[&str], most: f64| {
        let text = read(name);
        let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
        let head = lines.next().unwrap();
        for line in lines {
            for column in columns {
                let at = head.iter().position(|c| c == column).unwrap();
                let value = line[at].parse().unwrap_or(0.0);
                assert!((0.0..=most).contains(&value), "{name}: {column}: {value}");
            }
        }
    };
    let rates = [
        "rate",
        "low",
        "high",
        "equal_length",
        "equal_length_low",
        "equal_length_high",
    ];
    within("win_rates.csv", &rates, 1.0);
    within(
        "methods.csv",
        &["kl", "kl_low", "length_low"],
        f64::INFINITY,
    );
    no_policy_beats_the_frontier(&out.join("seed-2"));
    let kinds = |kind: &str| {
        read("frontier.csv")
            .lines()
            .filter(|l| l.starts_with(kind))
            .count()
    };
    assert_eq!(
        (kinds("mean,"), kinds("corner,"), kinds("optimum,")),
        (3, 3, 49)
    );
    // The figure is drawn again from its table.
    let drawn = read("frontier.svg");
    fs::remove_file(out.join("frontier.svg")).unwrap();
    ok(&["--redraw", path]);
    assert_eq!(drawn, read("frontier.svg"));
    // A row and its mirror image sum to one.
    let rate = |row: &str, column: &str| -> f64 {
        let text = read("win_rates.csv");
        let start = format!("{row},{column},");
        let line = text.lines().find(|l| l.starts_with(&start)).unwrap();
        line.split(',').nth(2).unwrap().parse().unwrap()
    };
    assert!((rate("rto", "dpo") + rate("dpo", "rto") - 1.0).abs() < 1e-12);
    // The same command goes on, here with nothing left to do; one run of it is as without --seeds.
    assert_eq!(ok(&all).lines().count(), text.lines().count());
    let alone = dir.path().join("alone");
    ok(&[
        "--smoke",
        "--quiet",
        "--methods",
        "rto",
        "--seed",
        "3",
        "--out",
        alone.to_str().unwrap(),
    ]);
    same(&contents(&alone), &contents(&out.join("seed-3")));
    let said = error(&["--smoke", "--quiet", "--seeds", "2..4"]);
    assert!(said.contains("needs --out"), "{said}");
    let single = alone.to_str().unwrap();
    let said = error(&["--smoke", "--quiet", "--seeds", "2..4", "--out", single]);
    assert!(said.contains("holds a single run"), "{said}");
}

/// At every β the value E r − β KL of each policy is at most that of the best one, on the corner that is enumerated.
fn no_policy_beats_the_frontier(run: &Path) {
    let rows = |name: &str, columns: [&str; 3]| -> Vec<[f64; 3]> {
        let text = fs::read_to_string(run.join(name)).unwrap();
        let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
        let head = lines.next().unwrap();
        let at = columns.map(|c| head.iter().position(|h| *h == c).unwrap());
        lines
            .map(|l| at.map(|i| l[i].parse().unwrap_or(0.0)))
            .collect()
    };
    let best = rows("exact_frontier.csv", ["beta", "kl", "reward"]);
    let policies = rows("exact.csv", ["method", "kl", "reward"]);
    assert!(best.len() == 49 && policies.len() >= 4);
    for [beta, kl, reward] in best {
        for [_, own_kl, own] in &policies {
            let (own, top) = (own - beta * own_kl, reward - beta * kl);
            assert!(
                own <= top + 1e-9 * (1.0 + top.abs()),
                "β = {beta}: {own} above {top}"
            );
        }
    }
}

#[test]
fn a_dry_run_says_how_long() {
    let text = ok(&["--dry-run", "--smoke", "--json", "--quiet"]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let stages = value["stages"].as_array().unwrap();
    let names: Vec<&str> = stages
        .iter()
        .map(|s| s["stage"].as_str().unwrap())
        .collect();
    assert_eq!(names[..3], ["sft", "reward", "dpo"]);
    assert_eq!(names.last(), Some(&"evaluate"));
    let sum: f64 = stages.iter().map(|s| s["minutes"].as_f64().unwrap()).sum();
    assert!(sum > 0.0 && (sum - value["minutes"].as_f64().unwrap()).abs() < 1e-9);
}

#[test]
fn the_committed_figure_is_what_its_table_draws() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../figures/rto_llm");
    let dir = tempfile::tempdir().unwrap();
    let table = "frontier.csv";
    fs::copy(committed.join(table), dir.path().join(table)).unwrap();
    ok(&["--redraw", dir.path().to_str().unwrap()]);
    for name in ["frontier.svg", "frontier.png"] {
        let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert!(read(&committed) == read(dir.path()), "{name}");
    }
}
