//! Bad settings, unusable texts and folders that hold something already.

use super::trees::FIGURE2;
use super::{files, prop32, write};
use crate::common::{assert_refused, assert_success};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

#[test]
fn bad_settings_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let config = |text: &str| write(&dir, "my.toml", text).to_str().unwrap().to_string();
    let unknown = config("horizn = [1]\n");
    assert_refused(
        &prop32(&["--config", &unknown], dir.path()),
        &["my.toml", "horizn", "horizons"],
    );
    let mistyped = config("seed = \"five\"\n");
    assert_refused(
        &prop32(&["--config", &mistyped], dir.path()),
        &["my.toml", "seed"],
    );
    for (flags, parts) in [
        (vec!["--actions", "1"], vec!["actions", "1"]),
        (vec!["--horizons", "0"], vec!["horizons", "0"]),
        (vec!["--xi", "NaN"], vec!["xi", "NaN"]),
        (
            vec!["--smoothing", "magic"],
            vec!["smoothing", "magic", "witten-bell"],
        ),
        (vec!["--smoothing", "additive:-1"], vec!["additive", "-1"]),
        (vec!["--success", "1.5"], vec!["success", "1.5"]),
        (
            vec!["--preference-actions", "32"],
            vec!["preference_actions"],
        ),
        (vec!["--prompt", "\u{4e2d}"], vec!["prompt"]),
        (vec!["--orders", "9"], vec!["order", "9"]),
    ] {
        let parts: Vec<&str> = parts;
        assert_refused(&prop32(&flags, dir.path()), &parts);
    }
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn settings_without_effect_and_work_without_end_are_refused() {
    let dir = TempDir::new().unwrap();
    let tree = write(&dir, "tree.json", FIGURE2);
    assert_refused(
        &prop32(&["--tree", tree.to_str().unwrap(), "--xi", "5"], dir.path()),
        &["--xi", "--tree"],
    );
    assert_refused(
        &prop32(&["--redraw", ".", "--text-budget", "3"], dir.path()),
        &["--text-budget", "--redraw"],
    );
    assert_refused(
        &prop32(&["--text-horizons", "4096"], dir.path()),
        &["text_budget", "text_horizons"],
    );
    assert_refused(
        &prop32(&["--preference-horizons", "16"], dir.path()),
        &["replicates", "preference_horizons"],
    );
    assert_refused(&prop32(&["--xis", "0"], dir.path()), &["xi", "found 0"]);
    assert!(!dir.path().join("runs").exists());
    // Deep trees are answered by formulas.
    let output = prop32(&["--smoke", "--horizons", "4096", "--json"], dir.path());
    assert_success(&output);
}

#[test]
fn damaged_tables_are_refused_when_redrawn() {
    let dir = TempDir::new().unwrap();
    assert_success(&prop32(&["--smoke", "--out", "run"], dir.path()));
    let path = dir.path().join("run/figure2.csv");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("y000,", "y0001,"),
        ("y000,", ","),
        ("y000,", "\u{e9},"),
        ("y000,", "000,"),
        ("y,0,32", "y,0,0"),
        ("mass_32nds", "mass"),
    ] {
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let output = prop32(&["--redraw", "run"], dir.path());
        assert_refused(&output, &["figure2.csv"]);
    }
}

#[test]
fn unusable_texts_are_refused() {
    let dir = TempDir::new().unwrap();
    let text = |name: &str, content: &str| write(&dir, name, content).to_str().unwrap().to_string();
    let short = text("short.txt", "ab");
    assert_refused(
        &prop32(&["--smoke", "--text", &short], dir.path()),
        &["short.txt", "2 symbols", "4"],
    );
    let empty = text("empty.txt", "");
    assert_refused(&prop32(&["--text", &empty], dir.path()), &["empty.txt"]);
    let one = text("one.txt", "aaaaaaaa");
    assert_refused(
        &prop32(&["--text", &one], dir.path()),
        &["one.txt", "symbols"],
    );
    let lines = text(
        "lines.jsonl",
        "{\"chosen\": \"hello\", \"rejected\": \"x\"}\n{oops}\n",
    );
    assert_refused(
        &prop32(&["--text", &lines], dir.path()),
        &["lines.jsonl", "2"],
    );
    assert_refused(
        &prop32(&["--text", "absent.txt"], dir.path()),
        &["absent.txt"],
    );
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn a_users_text_is_searched() {
    let dir = TempDir::new().unwrap();
    let lines: String = (0..20).map(|i| format!("{{\"chosen\": \"Human: hello number {i}\\n\\nAssistant: hello to you\", \"rejected\": \"no\"}}\n")).collect();
    let path = write(&dir, "talk.jsonl", &lines);
    let args = [
        "--smoke",
        "--json",
        "--unit",
        "words",
        "--text",
        path.to_str().unwrap(),
        "--prompt",
        "Assistant:",
        "--orders",
        "3",
        "--text-horizons",
        "3",
    ];
    let output = prop32(&args, dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &value["results"]["text"][0];
    assert_eq!(
        (row["best_response"].as_str(), row["certified"].as_str()),
        (Some("hello to you"), Some("yes"))
    );
}

#[test]
fn nothing_is_overwritten() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/keep.txt"), "precious").unwrap();
    assert_refused(
        &prop32(&["--smoke", "--out", "full"], dir.path()),
        &["full"],
    );
    assert_eq!(
        files(&dir.path().join("full")),
        BTreeMap::from([("keep.txt".to_string(), b"precious".to_vec())])
    );
    fs::write(dir.path().join("file"), "precious").unwrap();
    assert_refused(
        &prop32(&["--smoke", "--out", "file"], dir.path()),
        &["file"],
    );
    assert_refused(
        &prop32(&["--smoke", "--out", "file/below"], dir.path()),
        &["file/below"],
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("file")).unwrap(),
        "precious"
    );
}
