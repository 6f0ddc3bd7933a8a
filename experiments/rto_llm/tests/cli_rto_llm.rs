//! `rto_llm` as a user meets it.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "cli_rto_llm/bad_input.rs"]
mod bad_input;
#[path = "cli_rto_llm/compatibility.rs"]
mod compatibility;
#[path = "cli_rto_llm/faults.rs"]
mod faults;
#[path = "cli_rto_llm/files.rs"]
mod files;
#[path = "cli_rto_llm/kernels.rs"]
mod kernels;
#[path = "cli_rto_llm/lora.rs"]
mod lora;
#[path = "cli_rto_llm/plan.rs"]
mod plan;
#[path = "cli_rto_llm/score.rs"]
mod score;
#[path = "cli_rto_llm/token_rewards.rs"]
mod token_rewards;
#[path = "cli_rto_llm/training.rs"]
mod training;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../bridge/tests/fixtures/generation")
        .join(name);
    path.to_str().unwrap().into()
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rto_llm"))
        .args(args)
        .output()
        .unwrap()
}

/// Standard output of a run that succeeds.
fn ok(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The one error line of a run that fails.
fn error(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(
        errors.len() == 1 && text.ends_with(&format!("{}\n", errors[0])),
        "{text}"
    );
    assert!(!text.contains("panicked"));
    errors[0]["error: ".len()..].into()
}

struct Input {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Input {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.jsonl");
        fs::write(&path, text).unwrap();
        Self { _dir: dir, path }
    }

    fn str(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

const PAIRS: &str = "{\"prompt\": \"hello\", \"response\": \" you<|endoftext|>\"}\n\n{\"prompt_ids\": [5, 6, 7], \"response_ids\": [8, 9], \"note\": 1}\n{\"prompt_ids\": [5], \"response_ids\": []}\n";

fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn generate_is_reproducible_and_tells_finished_from_cut() {
    let input = Input::new("{\"prompt_ids\": [5, 6, 7]}\n{\"prompt_ids\": [8]}\n");
    let model = fixture("sharded");
    let base = [
        "generate",
        "--model",
        &model,
        "--input",
        input.str(),
        "--samples",
        "6",
        "--max-new-tokens",
        "30",
        "--json",
        "--seed",
        "3",
    ];
    let with = |more: &[&str]| ok(&[&base[..], more].concat());
    let one = with(&[]);
    assert_eq!(one, with(&["--batch", "5", "--threads", "2", "--quiet"]));
    assert_ne!(one, ok(&[&base[..11], &["4"]].concat()));
    let lines = objects(&one);
    assert_eq!(lines.len(), 12);
    let (mut eos, mut length) = (0, 0);
    for line in &lines {
        let ids = line["token_ids"].as_array().unwrap();
        assert_eq!(ids.len(), line["log_probs"].as_array().unwrap().len());
        match line["finish"].as_str().unwrap() {
            "eos" => {
                eos += 1;
                assert_eq!(ids.last().unwrap(), 0);
            }
            _ => {
                length += 1;
                assert_eq!(ids.len(), 30);
            }
        }
    }
    assert!(eos > 0 && length > 0, "{eos} {length}");
    let text = ok(&[
        "generate",
        "--model",
        &fixture("plain"),
        "--prompt",
        "hello",
        "--greedy",
        "--max-new-tokens",
        "5",
        "--min-new-tokens",
        "5",
    ]);
    assert!(text.contains("[5 tokens, length, log-prob -"), "{text}");
}

#[test]
fn info_describes() {
    let text = ok(&["info", "--model", &fixture("sharded")]);
    for part in [
        "GPT-NeoX, 18976 parameters",
        "sequential residual",
        "AdamW moments",
        "28 tensors of type float32",
        "note: skipped attention.bias",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let value: Value = serde_json::from_str(&ok(&[
        "info",
        "--model",
        &fixture("half"),
        "--json",
        "--dtype",
        "bf16",
    ]))
    .unwrap();
    assert_eq!(value["stored_dtype"], "float16");
    assert_eq!(
        value["memory_bytes"]["forward"]["weights"].as_u64(),
        value["parameters"].as_u64().map(|p| 2 * p)
    );
}

#[test]
fn help_has_examples() {
    for command in [
        &["--help"][..],
        &["score", "--help"],
        &["generate", "--help"],
        &["info", "--help"],
    ] {
        let text = ok(command);
        assert!(
            text.contains("Examples:\n  rto_llm ") && text.contains("Usage: rto_llm"),
            "{text}"
        );
    }
}

#[test]
fn the_commands_of_the_readme_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let commands: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("cargo run --bin rto_llm -- "))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    for command in &commands {
        // No argument of theirs has a space in it.
        let words = command.split(' ').map(|word| match word.trim_matches('"') {
            file if file.starts_with("target/") => {
                dir.path().join(&file[7..]).to_str().unwrap().to_string()
            }
            path if path.contains('/') => root.join(path).to_str().unwrap().to_string(),
            word => word.to_string(),
        });
        let words: Vec<String> = words.collect();
        ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert!(dir.path().join("rewards.html").exists());
    assert!(dir.path().join("smoke/report.html").exists());
    assert!(dir.path().join("hh/agreement.csv").exists());
    assert!(dir.path().join("converted/model.safetensors").exists());
    assert!(dir.path().join("paid/token_reward.csv").exists());
    assert_eq!(commands.len(), 10);
}
