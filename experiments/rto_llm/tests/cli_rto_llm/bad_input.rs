//! What is wrong on the command line or in a model's folder ends in one line.

use super::{Input, PAIRS, error, fixture, run};
use std::fs;
use std::path::Path;

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
    // An error comes first, before the plan, and nothing else comes.
    let sharded = fixture("sharded");
    let long = Input::new(&long);
    let longer = Input::new(format!("{{\"prompt_ids\": {:?}}}", vec![5; 65]));
    let from = ["generate", "--model", &model];
    let scored = ["score", "--model", &sharded, "--input", good.str()];
    let place = good.str();
    for (arguments, expected) in [
        (
            [&from[..], &["--prompt", "Hi", "--eos", "9999"]].concat(),
            "--eos: found 9999, expected a token below the vocabulary's 61".to_string(),
        ),
        (
            [&from[..], &["--prompt", ""]].concat(),
            "--prompt: prompt: is empty, expected at least one token".to_string(),
        ),
        (
            [&from[..], &["--input", longer.str()]].concat(),
            format!(
                "{}:1: 65 prompt and 1 response tokens, the context has room for 64",
                longer.str()
            ),
        ),
        (
            scored.to_vec(),
            format!("{place}:1: prompt: {sharded} has no tokenizer.json; give prompt_ids"),
        ),
        (
            [
                "score",
                "--model",
                &model,
                "--reference",
                &model,
                "--input",
                long.str(),
            ]
            .to_vec(),
            format!(
                "{}:1: 64 prompt and 2 response tokens, the context has room for 64",
                long.str()
            ),
        ),
    ] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), &*said),
            (Some(1), &*format!("error: {expected}\n"))
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let with = |model: &str| error(&["score", "--model", model, "--input", good.str(), "--quiet"]);
    assert_eq!(with("/nowhere"), "/nowhere: no such folder");
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
        .starts_with("--top-p: found 0")
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
        .starts_with("--temperature: found NaN")
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
    use std::process::Command;

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
