//! `rto_llm` as a user meets it.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "cli_rto_llm/compatibility.rs"]
mod compatibility;
#[path = "cli_rto_llm/faults.rs"]
mod faults;
#[path = "cli_rto_llm/files.rs"]
mod files;
#[path = "cli_rto_llm/lora.rs"]
mod lora;
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
fn score_keeps_its_contract() {
    let input = Input::new(PAIRS);
    let (model, reference) = (fixture("plain"), fixture("sharded"));
    let out = ok(&[
        "score",
        "--model",
        &model,
        "--reference",
        &reference,
        "--beta",
        "0.2",
        "--input",
        input.str(),
        "--json",
    ]);
    assert!(
        out.starts_with("{\"token_ids\":["),
        "one object a line and nothing else"
    );
    let lines = objects(&out);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["token_ids"], serde_json::json!([8, 9]));
    assert_eq!(
        lines[0]["tokens"],
        serde_json::json!([" ", "y", "o", "u", "<|endoftext|>"])
    );
    let plain = objects(&ok(&[
        "score",
        "--model",
        &model,
        "--input",
        input.str(),
        "--json",
        "--quiet",
        "--threads",
        "2",
    ]));
    let other = objects(&ok(&[
        "score",
        "--model",
        &reference,
        "--input",
        Input::new(PAIRS.replace(
            "\"prompt\": \"hello\", \"response\": \" you<|endoftext|>\"",
            &format!(
                "\"prompt_ids\": [9,6,13,13,16], \"response_ids\": {}",
                lines[0]["token_ids"]
            ),
        ))
        .str(),
        "--json",
    ]));
    for ((line, plain), other) in lines.iter().zip(&plain).zip(&other) {
        let numbers = |v: &Value| -> Vec<f64> {
            v.as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_f64().unwrap())
                .collect()
        };
        assert_eq!(line["log_probs"], plain["log_probs"]);
        assert!(plain["token_rewards"].is_null() && other["tokens"].is_null());
        let (ours, theirs, rewards) = (
            numbers(&line["log_probs"]),
            numbers(&other["log_probs"]),
            numbers(&line["token_rewards"]),
        );
        assert_eq!(ours.len(), line["token_ids"].as_array().unwrap().len());
        for ((a, b), r) in ours.iter().zip(&theirs).zip(&rewards) {
            assert!((r - 0.2 * (a - b)).abs() < 1e-12 && *a < 0.0);
        }
    }
    let table = ok(&["score", "--model", &model, "--input", input.str()]);
    assert!(
        table.contains("token id    log-prob      reward  text")
            && table.contains("\"<|endoftext|>\"")
    );
}

/// The path of GPUs, on a processor: the same numbers, in bf16 to its precision.
#[test]
fn other_types_run_on_tensors() {
    let input = Input::new(
        "{\"prompt_ids\": [5, 17, 9], \"response_ids\": [33, 2, 60, 41, 0]}\n{\"prompt_ids\": [4], \"response_ids\": [8]}\n",
    );
    let model = fixture("plain");
    let base = [
        "--model",
        &model,
        "--input",
        input.str(),
        "--json",
        "--quiet",
    ];
    let scores = |dtype: &str| -> Vec<f64> {
        let args = [&["score"], &base[..], &["--dtype", dtype]].concat();
        let lines = objects(&ok(&args));
        let numbers = lines
            .iter()
            .flat_map(|l| l["log_probs"].as_array().unwrap().clone());
        numbers.map(|x| x.as_f64().unwrap()).collect()
    };
    let exact = scores("f32");
    assert_eq!(exact.len(), 6);
    // 8 and 11 bits of mantissa.
    for (dtype, bound) in [("bf16", 0.1), ("f16", 0.01)] {
        let near = scores(dtype);
        assert_ne!(near, exact);
        for (near, exact) in near.iter().zip(&exact) {
            assert!((near - exact).abs() < bound, "{dtype}: {near} {exact}");
        }
    }
    let args = [
        &["generate"],
        &base[..],
        &["--dtype", "bf16", "--max-new-tokens", "5"],
    ]
    .concat();
    let written = objects(&ok(&args));
    assert_eq!(written.len(), 2);
    assert_eq!(ok(&args), ok(&args));
}

#[test]
fn the_heat_map_is_one_page_that_needs_nothing_else() {
    let input = Input::new("{\"prompt\": \"a\", \"response\": \"b.\\nc\"}\n");
    let page = input.path.with_extension("html");
    let out = ok(&[
        "score",
        "--model",
        &fixture("plain"),
        "--reference",
        &fixture("half"),
        "--input",
        input.str(),
        "--html",
        page.to_str().unwrap(),
    ]);
    assert_eq!(out, "");
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(
        text.matches("<span class=\"u\"").count() + text.matches("<span class=\"d\"").count(),
        4
    );
    assert!(
        text.contains("prefers-color-scheme: dark")
            && text.contains("equation (4.5)")
            && text.contains("⏎")
            && text.contains("<title>Token rewards</title>")
            && text.contains("sum of the rewards: ")
    );
    assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("<script"));
    let error = error(&[
        "score",
        "--model",
        &fixture("plain"),
        "--input",
        input.str(),
        "--html",
        "/nowhere/x.html",
    ]);
    assert!(
        error.starts_with("/nowhere/x.html: cannot write"),
        "{error}"
    );
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
fn bad_input_ends_in_one_line() {
    let model = fixture("plain");
    let score = |text: &str| {
        let input = Input::new(text);
        let error = error(&[
            "score",
            "--model",
            &model,
            "--input",
            input.str(),
            "--quiet",
        ]);
        error
            .strip_prefix(input.str())
            .unwrap_or(&error)
            .to_string()
    };
    assert_eq!(score(""), ": is empty, expected one JSON object a line");
    assert_eq!(
        score("\n \n"),
        ": is empty, expected one JSON object a line"
    );
    assert_eq!(score("\n{\"prompt\": "), ":2: not valid JSON (column 11)");
    assert_eq!(score("[1, 2]"), ":1: found [1,2], expected a JSON object");
    assert_eq!(
        score("{\"prompt\": \"a\"}"),
        ":1: found neither response nor response_ids"
    );
    assert_eq!(
        score("{\"prompt\": \"a\", \"prompt_ids\": [3], \"response\": \"b\"}"),
        ":1: found both prompt and prompt_ids, expected one of them"
    );
    assert_eq!(
        score("{\"prompt\": 3, \"response\": \"b\"}"),
        ":1: prompt: found 3, expected a text"
    );
    assert_eq!(
        score("{\"prompt\": \"\", \"response\": \"b\"}"),
        ":1: prompt: is empty, expected at least one token"
    );
    assert_eq!(
        score("{\"prompt_ids\": [3, -1], \"response\": \"b\"}"),
        ":1: prompt_ids: found -1, expected a list of token ids"
    );
    assert_eq!(
        score("{\"prompt_ids\": [3], \"response_ids\": [61]}"),
        ":1: response_ids: found 61, must be below the vocabulary's 61"
    );
    let long = format!(
        "{{\"prompt_ids\": {:?}, \"response_ids\": [3, 4]}}",
        vec![5; 64]
    );
    assert_eq!(
        score(&long),
        ":1: 64 prompt and 2 response tokens, the context has room for 64"
    );
    let bytes = Input::new(b"{\"prompt\": \"\xff\"}");
    assert!(
        error(&["score", "--model", &model, "--input", bytes.str()])
            .ends_with(":1: not valid UTF-8 text")
    );
    assert_eq!(
        error(&["score", "--model", &model, "--input", "/nowhere.jsonl"]),
        "/nowhere.jsonl: no such file"
    );

    let on = |device: &str| {
        error(&[
            "generate", "--model", &model, "--prompt", "a", "--device", device,
        ])
    };
    assert_eq!(on("gpu"), "device gpu: expected cpu, cuda or cuda:N");
    if !cfg!(feature = "cuda") {
        assert_eq!(
            on("cuda"),
            "device cuda: this build has no CUDA; build with --features cuda"
        );
    }
    let good = Input::new(PAIRS);
    let with = |model: &str| error(&["score", "--model", model, "--input", good.str(), "--quiet"]);
    assert_eq!(with("/nowhere"), "/nowhere: no such folder");
    let sharded = fixture("sharded");
    let place = good.str();
    assert_eq!(
        with(&sharded),
        format!("{place}:1: prompt: {sharded} has no tokenizer.json; give prompt_ids")
    );
    assert!(with(&fixture("reward")).ends_with(
        "is a classification model, expected one that writes text (GPTNeoXForCausalLM)"
    ));
    assert!(
        error(&[
            "score",
            "--model",
            &model,
            "--reference",
            &model,
            "--beta",
            "0",
            "--input",
            good.str()
        ])
        .starts_with("--beta: found 0")
    );
    assert!(
        error(&[
            "generate", "--model", &model, "--prompt", "a", "--top-p", "0"
        ])
        .starts_with("top_p: found 0")
    );
    assert!(
        error(&[
            "generate",
            "--model",
            &model,
            "--prompt",
            "a",
            "--temperature",
            "NaN"
        ])
        .starts_with("temperature: found NaN")
    );
}

#[test]
fn a_reference_over_another_vocabulary_is_refused() {
    use rto_bridge::checkpoint::{self, Contents};
    let loaded = checkpoint::load(
        Path::new(&fixture("plain")),
        None,
        &candle_core::Device::Cpu,
    );
    let loaded = loaded.unwrap();
    let config = loaded.config.resized(loaded.config.n_layers(), 40);
    let weights = loaded.weights.into_iter().map(|(name, w)| {
        let cut = matches!(w.dims(), [61, _]);
        (name, if cut { w.narrow(0, 0, 40).unwrap() } else { w })
    });
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("small");
    let contents = Contents {
        config: &config,
        head: loaded.head,
        weights: &weights.collect(),
        dtype: loaded.stored_dtype,
        shard_bytes: u64::MAX,
        carry: None,
    };
    checkpoint::save(&folder, &contents).unwrap();
    let (model, reference) = (fixture("plain"), folder.to_str().unwrap());
    let input = Input::new(PAIRS);
    let error = error(&[
        "score",
        "--model",
        &model,
        "--reference",
        reference,
        "--input",
        input.str(),
        "--quiet",
    ]);
    assert_eq!(
        error,
        format!("{reference}: vocabulary of 40, but {model} has 61")
    );
}

/// A hub that cannot be reached ends in one line, and the copy of an earlier download is used without it.
#[cfg(feature = "hub")]
#[test]
fn without_a_network_a_hub_id_ends_in_one_line_or_in_the_cache() {
    let home = tempfile::tempdir().unwrap();
    let info = || {
        Command::new(env!("CARGO_BIN_EXE_rto_llm"))
            .args(["info", "--model", "owner/model"])
            .env("HF_HOME", home.path())
            // The discard port of this machine.
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .output()
            .unwrap()
    };
    let output = info();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        text.starts_with("error: owner/model: cannot download: "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    let kept = home.path().join("hub/models--owner--model");
    let snapshot = kept.join("snapshots/abc");
    fs::create_dir_all(kept.join("refs")).unwrap();
    fs::write(kept.join("refs/main"), "abc").unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(Path::new(&fixture("plain")).join(file), snapshot.join(file)).unwrap();
    }
    let output = info();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("owner/model: took the copy in "), "{text}");
}

#[test]
fn damaged_models_end_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().to_str().unwrap();
    for entry in fs::read_dir(fixture("plain")).unwrap().flatten() {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let info = || error(&["info", "--model", model, "--json"]);
    fs::write(&weights, &whole[..whole.len() - 5]).unwrap();
    assert!(info().contains("model.safetensors: not a complete safetensors file"));
    let mut nan = whole.clone();
    let end = nan.len() - 4;
    nan[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, nan).unwrap();
    assert!(info().ends_with("is NaN or infinite"));
    fs::write(&weights, "").unwrap();
    assert!(info().ends_with("model.safetensors: is empty, expected a file of weights"));
    fs::write(&weights, whole).unwrap();
    let config = dir.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("gpt_neox", "mamba")).unwrap();
    assert!(info().contains("config.json: model_type: found \"mamba\", expected \"gpt_neox\", "));
    fs::write(
        &config,
        text.replace("\"vocab_size\": 61", "\"vocab_size\": 60"),
    )
    .unwrap();
    assert!(info().contains("found shape [61, 32], config.json says [60, 32]"));
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
    assert_eq!(commands.len(), 9);
}
