//! One process: threads, resumption, kills, mistakes, help and a reader that goes away.

use crate::binaries::{Sweep, cells};
use crate::common::{
    assert_every_key_is_a_flag, assert_refused, assert_same, assert_success, files, stderr,
};
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

pub fn a_run_is_the_same_on_any_number_of_threads_and_can_be_redrawn(sweep: &Sweep) {
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
    if let Some(says) = sweep.page {
        expected.insert("report.html".into());
        // A smoke run ranks nothing.
        let page = String::from_utf8_lossy(&first["report.html"]);
        assert!(page.contains(says));
        assert!(!page.contains("<p class=\"lead\">"));
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

pub fn a_run_goes_on_with_its_own_settings_only(sweep: &Sweep) {
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

pub fn help_fits_and_every_key_of_the_config_is_a_flag(sweep: &Sweep) {
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

pub fn a_reader_that_goes_away_is_not_an_error(sweep: &Sweep) {
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

/// SIGKILL at many moments, through the cells and through the writing of tables and figures.
pub fn a_killed_run_goes_on_to_the_same_bytes(sweep: &Sweep) {
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

pub fn bad_settings_are_refused_before_anything_is_written(sweep: &Sweep) {
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

pub fn nothing_is_overwritten(sweep: &Sweep) {
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
