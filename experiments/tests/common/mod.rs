//! What tests of binaries share: starting one as a user does, and reading what it leaves.

#![allow(dead_code)] // every test program uses its own part

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A binary with its arguments, in a folder.
pub fn command(binary: &str, args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env_remove("RUST_BACKTRACE");
    command
}

pub fn run(binary: &str, args: &[&str], dir: &Path) -> Output {
    let output = command(binary, args, dir).output();
    output.unwrap_or_else(|error| panic!("{binary} starts: {error}"))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

/// Exit code not zero, not a panic, and one line that begins with `error:` and contains every part.
#[track_caller]
pub fn assert_refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.starts_with("error: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Every file below a folder, by its path, without the wall clock.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if !["timings.json", ".lock"]
                .map(OsStr::new)
                .contains(&path.file_name().unwrap())
            {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                out.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    out
}

#[track_caller]
pub fn assert_same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in a {
        assert!(b[name] == *bytes, "{name} differs");
    }
}

/// The settings that the text of `--help` lists are the keys of the binary's default config, but for the seed, which every binary has,
/// and for the tables of the library's configurations, of which those that are changed often have flags.
#[track_caller]
pub fn assert_every_key_is_a_flag(help: &str, binary: &str) {
    let settings = help.split_once("\nSettings (").unwrap().1;
    let settings = settings.split_once("\nExamples:").unwrap().0;
    let flags: BTreeSet<String> = settings
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"))
        .map(|flag| flag.split(' ').next().unwrap().replace('-', "_"))
        .collect();
    let config = format!("{}/configs/{binary}.toml", env!("CARGO_MANIFEST_DIR"));
    let keys = rto_harness::config::keys_of(&fs::read_to_string(config).unwrap()).unwrap();
    let in_tables = keys.iter().any(|key| key.contains('.'));
    let own = |key: &String| key != "seed" && !key.contains('.');
    let keys: BTreeSet<String> = keys.into_iter().filter(own).collect();
    match in_tables {
        true => assert!(flags.is_superset(&keys), "{flags:?} {keys:?}"),
        false => assert_eq!(flags, keys),
    }
}
