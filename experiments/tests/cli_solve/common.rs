//! Running `solve` as a user does, and what the tests hold its output against.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Closed-form entries.
pub const EXACT: f64 = 1e-9;
/// Entries that come from an iterative solver on the other side.
pub const ITERATIVE: f64 = 1e-6;

pub fn solve(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_solve"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env_remove("RUST_BACKTRACE")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("solve starts")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Solves an instance as it stands in a new folder beside other files.
#[track_caller]
pub fn solved_in(dir: &Path, instance: &Value) -> Value {
    fs::write(dir.join("instance.json"), instance.to_string()).unwrap();
    let output = solve(&["instance.json", "--json"], dir);
    assert!(output.status.success(), "{}", stderr(&output));
    let got = serde_json::from_slice(&output.stdout).expect("one JSON value on standard output");
    every_null_has_its_reason(&got);
    got
}

/// The keys of `notes` are the paths of the nulls.
#[track_caller]
pub fn every_null_has_its_reason(report: &Value) {
    let mut nulls = BTreeSet::new();
    null_paths(report, String::new(), &mut nulls);
    let notes = report["notes"].as_object().expect("notes are an object");
    let told: BTreeSet<String> = notes.keys().cloned().collect();
    assert_eq!(nulls, told);
    for (key, why) in notes {
        assert!(
            why.as_str().is_some_and(|why| why.len() > 8),
            "{key}: {why}"
        );
    }
}

fn null_paths(value: &Value, path: String, out: &mut BTreeSet<String>) {
    match value {
        Value::Null => drop(out.insert(path)),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                null_paths(item, format!("{path}[{i}]"), out);
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                null_paths(item, format!("{path}{dot}{key}"), out);
            }
        }
        _ => {}
    }
}

/// The reason of a null contains a part.
#[track_caller]
pub fn noted(report: &Value, key: &str, part: &str) {
    let why = report["notes"][key].as_str().unwrap_or("no note");
    assert!(why.contains(part), "{key}: {why:?} does not say {part:?}");
}

#[track_caller]
pub fn solved(instance: &Value) -> Value {
    solved_in(TempDir::new().unwrap().path(), instance)
}

pub fn example(name: &str) -> Value {
    let path = Path::new(ROOT).join("experiments/data").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/theory.json")).unwrap()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![
            other
                .as_f64()
                .unwrap_or_else(|| panic!("not a number: {other}")),
        ],
    }
}

#[track_caller]
pub fn close(what: &str, got: &Value, want: &Value, tolerance: f64) {
    let (got, want) = (numbers(got), numbers(want));
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1.0),
            "{what}[{i}]: got {g:.16e}, golden {w:.16e}"
        );
    }
}

/// The instance with keys set, or removed where the value is null.
pub fn with(mut instance: Value, changes: Value) -> Value {
    let fields = instance.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(fields.remove(key)),
            value => drop(fields.insert(key.clone(), value.clone())),
        }
    }
    instance
}

/// The readme's example with other data.
pub fn own(changes: Value) -> Value {
    with(example("own.json"), changes)
}

pub fn warned(instance: &Value, part: &str) -> Value {
    let got = solved(instance);
    let warnings = got["warnings"].as_array().unwrap();
    let told = warnings.iter().any(|w| w.as_str().unwrap().contains(part));
    assert!(told, "{warnings:?} do not say {part:?}");
    got
}

/// Exit code 1, and one line that begins with `error:` and contains every part.
#[track_caller]
pub fn assert_refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.starts_with("error: "), "{text}");
    assert!(output.stdout.is_empty());
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[track_caller]
pub fn refused(instance: &Value, parts: &[&str]) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("bad.json"), instance.to_string()).unwrap();
    let output = solve(&["bad.json", "--json"], dir.path());
    assert_refused(&output, &[&["bad.json: "], parts].concat());
}

/// The example with one value replaced.
pub fn edited(name: &str, pointer: &str, value: Value) -> Value {
    let mut instance = example(name);
    match instance.pointer_mut(pointer) {
        Some(slot) => *slot = value,
        None => instance[&pointer[1..]] = value,
    }
    instance
}
