//! The library's rooms stand in a straight line, and no room imports from one that comes after it.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms in order, and the modules of each in order: a module imports from those before it.
const ROOMS: [(&str, &[&str]); 6] = [
    (
        "base",
        &["error", "guard", "files", "json", "device", "collective"],
    ),
    ("ops", &["ops"]),
    ("family", &["family"]),
    (
        "store",
        &["gguf", "tokenizer_training", "tokenizer", "checkpoint"],
    ),
    (
        "nn",
        &[
            "params",
            "optimizer",
            "lora",
            "batch",
            "model",
            "on_device",
            "sampler",
            "decoder",
            "generate",
        ],
    ),
    ("seam", &["learner", "device_learner", "evaluator"]),
];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

fn place(module: &str) -> Option<usize> {
    let mut modules = ROOMS.iter().flat_map(|(_, modules)| modules.iter());
    modules.position(|m| *m == module)
}

/// Modules that the code of a file names after `crate::`, those of a group too; comments do not count.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect();
    let code = code.join("\n");
    let word = |s: &str| {
        s.trim_start()
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect::<String>()
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => {
                let group = group.split('}').next().unwrap_or("");
                found.extend(group.split(',').map(word));
            }
        }
    }
    found
}

#[test]
fn no_module_imports_from_a_later_one() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    let mut against = Vec::new();
    for path in all {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some(here) = place(module) else { continue };
        // Tests of kernels and weights may build whole models.
        if inside.ends_with("tests.rs") {
            continue;
        }
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            if place(&import).is_some_and(|there| there > here) {
                against.push(format!("{} imports {import}", inside.display()));
            }
        }
    }
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn imports_are_found() {
    let text = "use crate::family::X;\nuse crate::{Error, lora, params};\n/// crate::model\nfn f() { crate::gguf::load() }";
    let found: Vec<String> = imports(text)
        .into_iter()
        .filter(|w| !w.is_empty())
        .collect();
    assert_eq!(found, ["family", "lora", "params", "gguf"]);
}
