//! Every program as a person at a keyboard meets it: narrow and wide terminals, a pipe that closes, Ctrl-C.
#![cfg(unix)]

mod manners;

use manners::{
    check_terminal, goes_on_with, in_terminal, interrupted, interrupted_at_keyboard,
    into_closed_pipe, moments, same,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

/// Programs that make a run folder, and the flags of a run of seconds.
const RUNS: [(&str, &[&str]); 4] = [
    ("prop32", &["--smoke"]),
    ("thm42", &["--smoke"]),
    ("algorithm2", &["--smoke"]),
    ("paper", &[]),
];

fn program(name: &str, dir: &Path, arguments: &[&str]) -> Command {
    let path = match name {
        "prop32" => env!("CARGO_BIN_EXE_prop32"),
        "thm42" => env!("CARGO_BIN_EXE_thm42"),
        "algorithm2" => env!("CARGO_BIN_EXE_algorithm2"),
        "paper" => env!("CARGO_BIN_EXE_paper"),
        "solve" => env!("CARGO_BIN_EXE_solve"),
        other => panic!("{other}: no such program"),
    };
    let mut command = Command::new(path);
    // Not under Cargo: `paper` starts the programs beside it as they are.
    command.args(arguments).current_dir(dir).env_remove("CARGO");
    command
}

/// Keys of a JSON value that are no snake_case words.
fn odd_keys(value: &Value) -> BTreeSet<String> {
    let plain = |key: &str| {
        key.starts_with(|c: char| c.is_ascii_lowercase())
            && key
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    match value {
        Value::Array(items) => items.iter().flat_map(odd_keys).collect(),
        Value::Object(fields) => {
            let mut odd: BTreeSet<String> = fields.values().flat_map(odd_keys).collect();
            odd.extend(fields.keys().filter(|key| !plain(key)).cloned());
            odd
        }
        _ => BTreeSet::new(),
    }
}

/// The bytes are the same at 80 and 140 columns, through closed pipes, and after an interrupt.
fn manners_of(name: &str) {
    let flags = RUNS.iter().find(|(other, _)| *other == name).unwrap().1;
    let dir = TempDir::new().unwrap();
    let with = |out: &str| -> Vec<String> {
        let flags = flags.iter().map(|f| f.to_string());
        flags.chain(["--out".into(), out.into()]).collect()
    };
    let command = |out: &str| {
        let arguments = with(out);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        program(name, dir.path(), &arguments)
    };
    let start = Instant::now();
    let output = command("whole").output().unwrap();
    let mut length = start.elapsed();
    assert!(output.status.success(), "{name}");
    let whole = dir.path().join("whole");

    for columns in [80, 140] {
        let out = format!("wide{columns}");
        let shown = in_terminal(&mut command(&out), columns);
        check_terminal(&shown, &format!("{name} at {columns} columns"));
        // Somebody who watches sees how far it is.
        assert!(shown.all.contains('%'), "{name}: no progress");
        same(&whole, &dir.path().join(out));
    }

    for lines in [0, 1] {
        let out = format!("pipe{lines}");
        let start = Instant::now();
        let (status, error) = into_closed_pipe(&mut command(&out), lines);
        // Where the machine had other work at first, moments of that run lie past the end of the next.
        length = length.min(start.elapsed());
        assert!(status.success() && error.is_empty(), "{name}: {error}");
        same(&whole, &dir.path().join(&out));
        assert!(dir.path().join(out).join("timings.json").is_file());
    }

    let mut caught = 0;
    for (i, moment) in moments(length).take(4).enumerate() {
        let out = format!("interrupted{i}");
        let (stopped, error) = interrupted(&mut command(&out), moment);
        if !stopped {
            continue;
        }
        if error.contains("to go on: ") {
            caught += 1;
            let arguments = goes_on_with(&error);
            assert_eq!(arguments, with(&out));
        }
        // In the settings of the run, which need not be said again; unless it had not begun.
        let begun = dir.path().join(&out).join("versions.json").is_file();
        let bare = ["--out", out.as_str()];
        let mut again = match begun {
            true => program(name, dir.path(), &bare),
            false => command(&out),
        };
        let output = again.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name} after {moment:?}: {error}");
        same(&whole, &dir.path().join(out));
    }
    assert!(caught > 0, "{name}: no moment was caught");

    // Whoever reads the results in a program need not quote their names.
    for file in ["results.json", "versions.json", "timings.json"] {
        let text = fs::read_to_string(whole.join(file)).unwrap();
        let odd = odd_keys(&serde_json::from_str(&text).unwrap());
        assert_eq!(odd, BTreeSet::new(), "{name}: {file}");
    }

    // What is finished stays as it is, its times too.
    let timings = fs::read(whole.join("timings.json")).unwrap();
    let output = program(name, dir.path(), &["--out", "whole"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(fs::read(whole.join("timings.json")).unwrap(), timings);
}

#[test]
fn ctrl_c_leaves_no_bar_on_the_screen() {
    for columns in [80, 140] {
        let dir = TempDir::new().unwrap();
        let mut command = program("thm42", dir.path(), &["--smoke", "--out", "run"]);
        let shown = interrupted_at_keyboard(&mut command, columns);
        let screen = shown.rows.join("\n");
        let screen = screen.trim_end();
        assert!(!shown.status.success(), "too fast to be interrupted");
        assert!(shown.all.contains("^C"), "{screen}");
        for ghost in [" left", "[=", "[>"] {
            assert!(!screen.contains(ghost), "{columns} columns:\n{screen}");
        }
        assert!(screen.contains("to go on: thm42 --smoke"), "{screen}");
    }
}

#[test]
fn prop32_has_manners() {
    manners_of("prop32");
}

#[test]
fn thm42_has_manners() {
    manners_of("thm42");
}

#[test]
fn algorithm2_has_manners() {
    manners_of("algorithm2");
}

#[test]
fn paper_has_manners() {
    manners_of("paper");
}

#[test]
fn solve_fits_the_terminal_and_survives_a_closed_pipe() {
    let dir = TempDir::new().unwrap();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data"));
    for name in ["g0.json", "g1.json", "own.json"] {
        fs::copy(root.join(name), dir.path().join(name)).unwrap();
        for columns in [80, 140] {
            let shown = in_terminal(&mut program("solve", dir.path(), &[name]), columns);
            check_terminal(&shown, &format!("solve {name} at {columns} columns"));
        }
        let out = format!("out-{name}");
        let arguments = [name, "--out", &out];
        let (status, _) = into_closed_pipe(&mut program("solve", dir.path(), &arguments), 1);
        assert!(status.success());
        assert!(dir.path().join(out).join("results.json").is_file());
    }
}

/// Children end with the program that started them.
#[test]
fn an_interrupted_paper_leaves_no_child_at_work() {
    let dir = TempDir::new().unwrap();
    let mut stopped = false;
    for (i, moment) in moments(std::time::Duration::from_secs(2))
        .take(4)
        .enumerate()
    {
        let out = format!("run{i}");
        let mut command = program("paper", dir.path(), &["--out", &out]);
        let (interrupted, _) = interrupted(&mut command, moment);
        stopped |= interrupted;
        if !interrupted {
            continue;
        }
        // A child that went on would hold its folder.
        for experiment in ["prop32", "thm42", "algorithm2"] {
            let folder = dir.path().join(&out).join(experiment);
            if folder.join(".lock").is_file() {
                let file = fs::File::open(folder.join(".lock")).unwrap();
                file.try_lock().unwrap();
            }
        }
    }
    assert!(stopped, "nothing was interrupted");
}

/// One program in one folder; a leftover of a killed one is no obstacle.
#[test]
fn two_programs_do_not_share_a_folder() {
    let dir = TempDir::new().unwrap();
    for (name, flags) in [
        ("prop32", "--smoke"),
        ("thm42", "--smoke"),
        ("algorithm2", "--smoke"),
    ] {
        let out = dir.path().join(name);
        fs::create_dir(&out).unwrap();
        // As of a process with a number that is in use everywhere.
        fs::write(out.join(".config.toml.1-0.tmp"), "seed").unwrap();
        let lock = fs::File::create(out.join(".lock")).unwrap();
        lock.lock().unwrap();
        let run = || {
            program(name, dir.path(), &[flags, "--out", name])
                .output()
                .unwrap()
        };
        let refused = run();
        assert_eq!(refused.status.code(), Some(1), "{name}");
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("another program is at work in this folder"),
            "{error}"
        );
        drop(lock);
        assert!(run().status.success(), "{name}");
        assert!(!out.join(".config.toml.1-0.tmp").exists(), "{name}");
    }
}

/// The command in a process namespace of its own, as in a container, where the system allows that; every one has process 1.
fn contained(command: &Command) -> Command {
    let unshare = ["--pid", "--fork"];
    let allowed = Command::new("unshare").args(unshare).arg("true").output();
    let mut outer = match allowed.is_ok_and(|output| output.status.success()) {
        true => {
            let mut outer = Command::new("unshare");
            outer.args(unshare).arg(command.get_program());
            outer
        }
        false => Command::new(command.get_program()),
    };
    outer.args(command.get_args());
    outer.current_dir(command.get_current_dir().unwrap());
    outer
}

/// Shards share a folder, started at once and again and again.
#[test]
fn shards_started_at_once_lose_nothing() {
    let dir = TempDir::new().unwrap();
    let whole = program("thm42", dir.path(), &["--smoke", "--out", "whole"])
        .output()
        .unwrap();
    assert!(whole.status.success());
    for round in 0..3 {
        let out = format!("shared{round}");
        let children: Vec<_> = (0..4)
            .map(|i| {
                let shard = format!("{i}/4");
                let arguments = ["--smoke", "--shard", &shard, "--out", &out];
                contained(&program("thm42", dir.path(), &arguments))
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in children {
            assert!(child.wait_with_output().unwrap().status.success());
        }
        let merged = format!("merged{round}");
        let output = program("thm42", dir.path(), &["merge", &out, "--out", &merged])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        same(&dir.path().join("whole"), &dir.path().join(merged));
    }
}

/// Help fits 80 columns in every terminal and shows what is done without a flag.
#[test]
fn help_fits_and_shows_defaults() {
    let dir = TempDir::new().unwrap();
    let defaults = [
        ("prop32", "[default: 0.95]"),
        ("paper", "[default: the next free"),
        ("solve", "INSTANCE.json"),
    ];
    for (name, default) in defaults {
        for long in ["--help", "-h"] {
            let output = program(name, dir.path(), &[long]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let wide: Vec<&str> = text.lines().filter(|l| l.chars().count() > 80).collect();
            assert_eq!(wide, Vec::<&str>::new(), "{name} {long}");
        }
        let output = program(name, dir.path(), &["--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(default), "{text}");
    }
}

/// Negative numbers reach our own check, lists may be ranges, and a word that is a flag gets a hint.
#[test]
fn slips_of_the_keyboard_are_answered_in_words() {
    let dir = TempDir::new().unwrap();
    let cases: [(&str, &[&str], &str); 12] = [
        (
            "thm42",
            &["--beta", "-1"],
            "beta: found -1, expected a value from 0.001 to 1000",
        ),
        (
            "thm42",
            &["--beta", "-1e-3"],
            "beta: found -0.001, expected",
        ),
        ("thm42", &["--betas", "-1,2"], "betas: found -1, expected"),
        ("thm42", &["--beta", "-inf"], "beta: found -inf, expected"),
        ("thm42", &["--beta", "nan"], "beta: found NaN, expected"),
        (
            "thm42",
            &["--sizes", "5..1"],
            "found 5..1, expected the smaller end first",
        ),
        (
            "prop32",
            &["--p-star", "-.5"],
            "p_star: found -0.5, expected",
        ),
        (
            "prop32",
            &["--horizons", "-2"],
            "found -2, expected a whole number, 0 or more",
        ),
        ("prop32", &["smoke"], "--smoke"),
        (
            "algorithm2",
            &["--lambda", "-0.5"],
            "lambda: found -0.5, expected",
        ),
        (
            "algorithm2",
            &["--actions-per-step", "2"],
            "unexpected argument",
        ),
        ("prop32", &["--temperature", "2"], "--inverse-temperature"),
    ];
    for (name, arguments, expected) in cases {
        let output = program(name, dir.path(), arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name} {arguments:?}");
        assert!(error.contains(expected), "{name} {arguments:?}: {error}");
    }
    assert!(!dir.path().join("runs").exists());
    let arguments = ["--smoke", "--horizons", "1..3", "--out", "ranges"];
    let output = program("prop32", dir.path(), &arguments).output().unwrap();
    assert!(output.status.success());
    let config = fs::read_to_string(dir.path().join("ranges/config.toml")).unwrap();
    assert!(config.contains("horizons = [1, 2, 3]"), "{config}");
}

#[test]
fn redraw_says_what_it_wrote_and_keeps_to_its_own() {
    let dir = TempDir::new().unwrap();
    assert!(
        program("prop32", dir.path(), &["--smoke", "--out", "run"])
            .output()
            .unwrap()
            .status
            .success()
    );
    let output = program("prop32", dir.path(), &["--redraw", "run"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let named: Vec<&str> = said
        .lines()
        .filter_map(|l| l.strip_prefix("wrote "))
        .collect();
    let drawn = fs::read_dir(dir.path().join("run"))
        .unwrap()
        .flatten()
        .filter(|e| {
            let name = e.file_name().into_string().unwrap();
            name.ends_with(".svg") || name.ends_with(".png")
        });
    assert_eq!(named.len(), drawn.count(), "{said}");
    assert!(
        named.iter().all(|file| dir.path().join(file).is_file()),
        "{said}"
    );
    for (name, arguments) in [
        ("thm42", ["--redraw", "run"]),
        ("algorithm2", ["--out", "run"]),
    ] {
        let output = program(name, dir.path(), &arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            error.contains(&format!("holds a run of prop32, expected one of {name}")),
            "{error}"
        );
    }
}
