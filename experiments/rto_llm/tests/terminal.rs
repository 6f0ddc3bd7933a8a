//! `rto_llm` as a person at a keyboard meets it: narrow and wide terminals, a pipe that closes, Ctrl-C.
#![cfg(unix)]

#[path = "../../tests/manners/mod.rs"]
mod manners;

use manners::{
    check_terminal, goes_on_with, in_terminal, interrupted, interrupted_at_keyboard,
    into_closed_pipe, moments, same,
};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

fn rto_llm(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rto_llm"));
    command.args(arguments).current_dir(dir);
    command
}

/// Exit code and standard error.
fn error(dir: &Path, arguments: &[&str]) -> String {
    let output = rto_llm(dir, arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?}: {error}");
    error
}

fn fixture(name: &str) -> String {
    format!(
        "{}/../../bridge/tests/fixtures/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn ctrl_c_leaves_no_bar_on_the_screen() {
    let dir = TempDir::new().unwrap();
    let shown = interrupted_at_keyboard(&mut rto_llm(dir.path(), &["--smoke", "--out", "run"]), 80);
    let screen = shown.rows.join("\n");
    let screen = screen.trim_end();
    assert!(!shown.status.success(), "too fast to be interrupted");
    for ghost in [" left", "[=", "[>"] {
        assert!(!screen.contains(ghost), "{screen}");
    }
    assert!(screen.contains("to go on: rto_llm --smoke"), "{screen}");
}

#[test]
fn a_run_has_manners() {
    let dir = TempDir::new().unwrap();
    let command = |out: &str| rto_llm(dir.path(), &["--smoke", "--out", out]);
    let whole = dir.path().join("whole");
    let start = Instant::now();
    assert!(command("whole").output().unwrap().status.success());
    let mut length = start.elapsed();

    for columns in [80, 140] {
        let out = format!("wide{columns}");
        let shown = in_terminal(&mut command(&out), columns);
        check_terminal(&shown, &format!("rto_llm at {columns} columns"));
        // The line of a stage that has ended stays.
        for stage in ["sft: ", "reward: ", "dpo: ", "rto: ", "evaluate: "] {
            let rows = shown.rows.iter().filter(|row| row.starts_with(stage));
            assert_eq!(rows.count(), 1, "{stage} {:?}", shown.rows);
        }
        assert!(shown.all.contains('%'), "no progress");
        same(&whole, &dir.path().join(out));
    }
    for lines in [0, 1] {
        let out = format!("pipe{lines}");
        let start = Instant::now();
        let (status, error) = into_closed_pipe(&mut command(&out), lines);
        // Where the machine had other work at first, moments of that run lie past the end of the next.
        length = length.min(start.elapsed());
        assert!(status.success(), "{error}");
        same(&whole, &dir.path().join(&out));
        assert!(dir.path().join(out).join("timings.json").is_file());
    }
    let mut caught = 0;
    for (i, moment) in moments(length).take(5).enumerate() {
        let out = format!("interrupted{i}");
        let (stopped, error) = interrupted(&mut command(&out), moment);
        if !stopped {
            continue;
        }
        if error.contains("to go on: ") {
            caught += 1;
            assert_eq!(goes_on_with(&error), ["--smoke", "--out", &out]);
        }
        // In the settings of the run, which need not be said again; unless it had not begun.
        let begun = dir.path().join(&out).join("versions.json").is_file();
        let mut again = match begun {
            true => rto_llm(dir.path(), &["--out", &out]),
            false => command(&out),
        };
        let output = again.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "after {moment:?}: {error}");
        same(&whole, &dir.path().join(out));
    }
    assert!(caught > 0, "no moment was caught");

    // What is finished stays as it is, its times too.
    let timings = fs::read(whole.join("timings.json")).unwrap();
    assert!(
        rto_llm(dir.path(), &["--out", "whole"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(fs::read(whole.join("timings.json")).unwrap(), timings);

    // One program in one folder.
    let lock = fs::File::open(whole.join(".lock")).unwrap();
    lock.lock().unwrap();
    let refused = error(dir.path(), &["--out", "whole"]);
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert!(refused.contains("another program is at work"), "{refused}");
    drop(lock);

    // Figures again, and which.
    let output = rto_llm(dir.path(), &["--redraw", "whole"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("wrote whole/frontier.svg"), "{said}");

    // A page is made of a run of this program.
    let versions = dir.path().join("whole/versions.json");
    let text = fs::read_to_string(&versions).unwrap();
    fs::write(&versions, text.replace("\"rto_llm\"", "\"thm42\"")).unwrap();
    for arguments in [
        ["report", "--run", "whole"].as_slice(),
        &["--redraw", "whole"],
        &["--out", "whole"],
    ] {
        let error = error(dir.path(), arguments);
        assert!(
            error.contains("holds a run of thm42, expected one of rto_llm"),
            "{error}"
        );
    }
}

#[test]
fn a_sweep_over_seeds_goes_on_in_its_settings() {
    let dir = TempDir::new().unwrap();
    let command = |out: &str| {
        rto_llm(
            dir.path(),
            &[
                "--smoke",
                "--methods",
                "rto",
                "--seeds",
                "1..2",
                "--out",
                out,
            ],
        )
    };
    let start = Instant::now();
    assert!(command("whole").output().unwrap().status.success());
    let length = start.elapsed();
    let (stopped, error) = interrupted(&mut command("stopped"), length.mul_f64(0.3));
    assert!(stopped, "the sweep had ended");
    assert!(error.contains("kept in stopped\n"), "{error}");
    assert_eq!(goes_on_with(&error).last().unwrap(), "stopped");
    let begun = dir.path().join("stopped/seed-1/versions.json").is_file();
    let output = match begun {
        // The second seed takes the settings of the first.
        true => rto_llm(dir.path(), &["--seeds", "1..2", "--out", "stopped"]).output(),
        false => command("stopped").output(),
    };
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    same(&dir.path().join("whole"), &dir.path().join("stopped"));
}

#[test]
fn other_commands_fit_the_terminal_and_survive_a_closed_pipe() {
    let dir = TempDir::new().unwrap();
    let model = fixture("generation/plain");
    // Names of models stand in the output: short ones.
    let link = dir.path().join("model");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    std::os::unix::fs::symlink(fixture("generation/sharded"), dir.path().join("other")).unwrap();
    fs::copy(
        format!("{}/../data/pairs.jsonl", env!("CARGO_MANIFEST_DIR")),
        dir.path().join("pairs.jsonl"),
    )
    .unwrap();
    let score = [
        "score",
        "--model",
        "model",
        "--reference",
        "other",
        "--input",
        "pairs.jsonl",
    ];
    let generate = [
        "generate",
        "--model",
        "model",
        "--prompt",
        "Hello",
        "--samples",
        "20",
    ];
    for arguments in [&["info", "--model", "model"][..], &score, &generate] {
        let (status, error) = into_closed_pipe(&mut rto_llm(dir.path(), arguments), 1);
        assert!(status.success(), "{arguments:?}: {error}");
    }
    // A page is written whole, whoever reads.
    let mut page: Vec<&str> = score.to_vec();
    page.extend(["--html", "page.html", "--json"]);
    assert!(
        rto_llm(dir.path(), &page)
            .output()
            .unwrap()
            .status
            .success()
    );
    let whole = fs::read(dir.path().join("page.html")).unwrap();
    fs::remove_file(dir.path().join("page.html")).unwrap();
    let (status, _) = into_closed_pipe(&mut rto_llm(dir.path(), &page), 0);
    assert!(status.success());
    assert_eq!(fs::read(dir.path().join("page.html")).unwrap(), whole);
    let convert = ["convert", "--model", "model", "--out", "converted"];
    let (status, error) = into_closed_pipe(&mut rto_llm(dir.path(), &convert), 0);
    assert!(status.success(), "{error}");
    assert!(dir.path().join("converted/config.json").is_file());
    let shown = in_terminal(&mut rto_llm(dir.path(), &["info", "--model", "model"]), 80);
    check_terminal(&shown, "info at 80 columns");
}

#[test]
fn help_fits_and_shows_defaults() {
    let dir = TempDir::new().unwrap();
    for command in [
        "", "run", "score", "generate", "info", "convert", "report", "judge",
    ] {
        for long in ["--help", "-h"] {
            let arguments: Vec<&str> = [command, long]
                .into_iter()
                .filter(|a| !a.is_empty())
                .collect();
            let output = rto_llm(dir.path(), &arguments).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let wide: Vec<&str> = text.lines().filter(|l| l.chars().count() > 80).collect();
            assert_eq!(wide, Vec::<&str>::new(), "{arguments:?}");
            assert!(
                text.contains("[default: ") || command == "convert",
                "{text}"
            );
        }
    }
}

#[test]
fn slips_of_the_keyboard_are_answered_in_words() {
    let dir = TempDir::new().unwrap();
    let model = fixture("generation/plain");
    let generate = |more: &[&str]| {
        let mut arguments = vec!["generate", "--model", &model, "--prompt", "Hello"];
        arguments.extend(more);
        error(dir.path(), &arguments)
    };
    for (more, expected) in [
        (
            &["--samples", "0"][..],
            "--samples: found 0, expected at least 1",
        ),
        (&["--batch", "0"], "--batch: found 0, expected at least 1"),
        (
            &["--max-new-tokens", "0"],
            "--max-new-tokens: found 0, expected at least 1",
        ),
        (
            &["--eos", "9999"],
            "--eos: found 9999, expected a token below the vocabulary's",
        ),
        (
            &["--eos", "-1"],
            "found -1, expected a whole number, 0 or more",
        ),
        (&["--temperature", "-1"], "emperature"),
        (&["--temperature", "nan"], "emperature"),
        (&["--top-p", "-0.5"], "--top-p: found -0.5"),
        (&["--top-p", "0"], "--top-p: found 0,"),
        (&["--threads", "0"], "threads"),
        (
            &["--min-new-tokens", "65"],
            "--min-new-tokens: found 65, expected at most",
        ),
    ] {
        let error = generate(more);
        assert!(error.contains(expected), "{more:?}: {error}");
    }
    for (arguments, expected) in [
        (&["smoke"][..], "--smoke"),
        (&["--lora", "0"], "--lora 0: a rank is 1 or more"),
        (
            &["--lora", "-3"],
            "found -3, expected a whole number, 0 or more",
        ),
        (
            &["--seeds", "5..1", "--out", "x"],
            "found 5..1, expected the smaller end first",
        ),
        (
            &["--seeds", "1,1", "--out", "x"],
            "--seeds: found 2 seeds, 1 of them different",
        ),
        (&["--seeds", "1..2"], "--seeds: needs --out"),
        (&["--jobs", "0"], "--jobs"),
        (
            &["--preset", "none"],
            "--preset none: no such preset, expected one of tiny",
        ),
    ] {
        let error = error(dir.path(), arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Token rewards compare log-probabilities of the same tokens.
#[test]
fn a_reference_with_another_tokenizer_is_refused() {
    let dir = TempDir::new().unwrap();
    let model = fixture("generation/plain");
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(&model).unwrap().flatten() {
        fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let path = other.join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    // Two tokens change places.
    let letters: Vec<String> = ["h", "e"].map(String::from).into();
    let ids: Vec<_> = letters.iter().map(|l| vocabulary[l].clone()).collect();
    vocabulary[&letters[0]] = ids[1].clone();
    vocabulary[&letters[1]] = ids[0].clone();
    fs::write(&path, tokenizer.to_string()).unwrap();
    fs::write(
        dir.path().join("pairs.jsonl"),
        "{\"prompt_ids\": [5], \"response_ids\": [6]}\n",
    )
    .unwrap();
    let arguments = [
        "score",
        "--model",
        &model,
        "--reference",
        "other",
        "--input",
        "pairs.jsonl",
    ];
    let error = error(dir.path(), &arguments);
    let last = error.lines().last().unwrap();
    assert!(
        last.contains("--reference other: its tokenizer is another one: token"),
        "{error}"
    );
    // Its own is accepted.
    let arguments = [
        "score",
        "--model",
        &model,
        "--reference",
        &model,
        "--input",
        "pairs.jsonl",
    ];
    assert!(
        rto_llm(dir.path(), &arguments)
            .output()
            .unwrap()
            .status
            .success()
    );
}
