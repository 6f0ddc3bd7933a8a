//! Model folders of the kinds that users have.

use super::{Input, error, objects, ok};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A copy of a small model folder with keys of its JSON files set.
fn model(root: &Path, base: &str, patches: &[(&str, &str, Value)]) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../bridge/tests/fixtures/compatibility")
        .join(base);
    let folder = root.join(format!("model-{base}"));
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    for (file, key, value) in patches {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap_or("{}".into());
        let mut object: Value = serde_json::from_str(&text).unwrap();
        object[key] = value.clone();
        fs::write(path, object.to_string()).unwrap();
    }
    folder.to_str().unwrap().into()
}

/// Conversations of one question and one answer.
fn chats(root: &Path) -> PathBuf {
    let line = |i: usize| {
        let chat = |reply: String| json!([{"role": "user", "content": format!("How do I clean the floor {i}?")}, {"role": "assistant", "content": reply}]);
        json!({"chosen": chat(format!("You clean it slowly, {i}.")), "rejected": chat("I will not say.".into())}).to_string()
    };
    let path = root.join("chat.jsonl");
    let lines: Vec<String> = (0..90).map(line).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

const CHATML: &str = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n'}}{% generation %}{{ m['content'] + '<|im_end|>' + '\n'}}{% endgeneration %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn smoke<'a>(model: &'a str, data: &'a str, out: &'a str) -> Vec<&'a str> {
    let mut all = vec![
        "--smoke",
        "--data",
        data,
        "--model",
        model,
        "--methods",
        "rto",
        "--out",
        out,
    ];
    for set in [
        "max_prompt_tokens=64",
        "max_new_tokens=32",
        "held_out_share=0.3",
    ] {
        all.extend(["--set", set]);
    }
    all
}

/// The template, its end token in training, and what a run says and saves of them.
#[test]
fn a_run_follows_the_models_template_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let names = json!(["<|im_start|>"]);
    let model = model(
        dir.path(),
        "bytes",
        &[
            ("tokenizer_config.json", "chat_template", json!(CHATML)),
            ("tokenizer_config.json", "eos_token", json!("<|im_end|>")),
            ("tokenizer_config.json", "extra_special_tokens", names),
            ("config.json", "max_position_embeddings", json!(128)),
        ],
    );
    let (data, out) = (chats(dir.path()), dir.path().join("run"));
    let text = ok(&smoke(
        &model,
        data.to_str().unwrap(),
        out.to_str().unwrap(),
    ));
    assert!(
        text.contains("conversations are written by the chat template of"),
        "{text}"
    );
    assert!(
        text.contains("any of 0, 290 ends a response, 290 ends the replies of training"),
        "{text}"
    );
    let responses = objects(&fs::read_to_string(out.join("responses.jsonl")).unwrap());
    let prompt = responses[0]["prompt"].as_str().unwrap();
    assert!(
        prompt.starts_with("user\nHow do I clean") && prompt.ends_with("assistant\n"),
        "{prompt:?}"
    );
    let read = |file: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(out.join("policies/rto").join(file)).unwrap())
            .unwrap()
    };
    assert_eq!(read("config.json")["eos_token_id"], json!([0, 290]));
    assert_eq!(
        read("generation_config.json")["eos_token_id"],
        json!([0, 290])
    );

    // A template that cannot be used is an error with its line, whatever other form there might be.
    fs::write(
        Path::new(&model).join("chat_template.jinja"),
        "{{ messages }}\n{% oops %}",
    )
    .unwrap();
    let again = dir.path().join("again");
    let error = error(&smoke(
        &model,
        data.to_str().unwrap(),
        again.to_str().unwrap(),
    ));
    assert!(
        error.contains("chat_template.jinja: chat_template: line 2"),
        "{error}"
    );
    assert!(!again.exists());
}

/// A reward model whose padding is its end is read as `transformers` reads it, and the run says so.
#[test]
fn an_oracle_whose_padding_is_its_end_is_read_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let base = model(dir.path(), "bytes", &[]);
    let oracle = model(
        dir.path(),
        "score",
        &[("config.json", "pad_token_id", json!(0))],
    );
    let (data, out) = (chats(dir.path()), dir.path().join("run"));
    let mut all = smoke(&base, data.to_str().unwrap(), out.to_str().unwrap());
    all.extend(["--oracle", &oracle]);
    let text = ok(&all);
    assert!(
        text.contains("a score is read at the last token before the end"),
        "{text}"
    );
    assert!(
        text.contains("no chat template: conversations are written as \"Human: …\""),
        "{text}"
    );
}

/// Texts are cut as one; generation stops at any end; `convert` keeps the list.
#[test]
fn one_text_and_a_set_of_ends_in_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let ends = json!([161, 333]);
    let model = model(
        dir.path(),
        "pieces",
        &[("config.json", "eos_token_id", ends.clone())],
    );
    let input = Input::new(
        "{\"prompt\": \"Human: Hello there\\n\\nAssistant:\", \"response\": \" Sure, plant tomatoes.\"}\n",
    );
    let scored = objects(&ok(&[
        "score",
        "--model",
        &model,
        "--input",
        input.str(),
        "--json",
    ]));
    let cases = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../bridge/tests/fixtures/compatibility/cases.json");
    let cases: Value = serde_json::from_str(&fs::read_to_string(cases).unwrap()).unwrap();
    let case = |list: &str, name: &str| {
        let list = cases[list].as_array().unwrap().iter();
        list.clone().find(|c| c["name"] == name).unwrap().clone()
    };
    let expected = &case("texts", "blank_by_normalizer")["lines"][0];
    assert_eq!(scored[0]["token_ids"], expected["response_ids"]);
    let shown: Vec<&str> = scored[0]["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    assert_eq!(shown.concat(), " Sure, plant tomatoes.");

    let expected = case("ends", "list_of_config");
    let input = Input::new(json!({"prompt_ids": expected["prompt_ids"]}).to_string());
    let arguments = [
        "--input",
        input.str(),
        "--greedy",
        "--max-new-tokens",
        "24",
        "--json",
    ];
    let written = |model: &str| {
        objects(&ok(
            &[&["generate", "--model", model], &arguments[..]].concat()
        ))
        .remove(0)
    };
    let line = written(&model);
    assert_eq!(
        (&line["token_ids"], &line["finish"]),
        (&expected["greedy"], &json!("eos"))
    );

    let converted = dir.path().join("converted");
    ok(&[
        "convert",
        "--model",
        &model,
        "--out",
        converted.to_str().unwrap(),
    ]);
    let config = fs::read_to_string(converted.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["eos_token_id"], ends);
    assert_eq!(written(converted.to_str().unwrap()), line);
}
