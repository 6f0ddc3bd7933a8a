//! Chat templates.

use crate::{cases, fixtures, folder_of, ids};
use rto_bridge::checkpoint;
use rto_bridge::data::{self, ChatTemplate, ReadOptions};
use rto_bridge::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

/// Conversations as `apply_chat_template` writes them, from wherever the template lies; nothing is put in front.
/// Keys beside role and content (`tool_calls`, `name`, `reasoning_content`, …) reach a template in the order of the file.
#[test]
fn templates_see_every_key_in_its_order() {
    assert_eq!(written_as("messages.json"), (24, 22));
}

/// What templates use of Jinja and of Python: expressions, methods, filters, blocks, and the shapes of popular models' templates.
/// `RTO_FIXTURES=DIR` takes `idioms.json` of another folder.
#[test]
fn templates_mean_what_they_mean_in_python() {
    let (rows, written) = written_as("idioms.json");
    println!("{rows} conversations, {written} written");
    assert_eq!((rows, written), (132, 132));
}

/// How many conversations a file of `compatibility.py` has, and how many are written here as there. Those refused there are refused here
/// or written all the same.
fn written_as(file: &str) -> (usize, usize) {
    let other = std::env::var_os("RTO_FIXTURES").map(|dir| Path::new(&dir).join(file));
    let path = other.filter(|path| path.exists());
    let rows = std::fs::read(path.unwrap_or_else(|| fixtures().join(file))).unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&rows).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (template, file) = (
        folder.path().join("chat_template.jinja"),
        folder.path().join("prompts.jsonl"),
    );
    // The special tokens of the folder that the file was written with.
    let settings = "tokenizer_config.json";
    let of_bytes = fixtures().join("bytes").join(settings);
    std::fs::copy(of_bytes, folder.path().join(settings)).unwrap();
    let (mut written, mut wrong) = (0, Vec::new());
    for row in &rows {
        let text = |key: &str| row[key].as_str().unwrap();
        std::fs::write(&template, text("template")).unwrap();
        let mut differs = |found: &str, expected: &str| {
            if found != expected {
                let name = &row["name"];
                wrong.push(format!("{name}: found {found:?}, expected {expected:?}"));
            }
        };
        let options = match ChatTemplate::from_tokenizer(folder.path()) {
            Ok(template) => ReadOptions {
                template,
                ..ReadOptions::default()
            },
            Err(why) => {
                assert!(!why.to_string().contains('\n'), "{why}");
                if let Some(opened) = row["opened"].as_str() {
                    differs(&why.to_string(), opened);
                }
                continue;
            }
        };
        let record = format!("{{\"prompt\": {}}}", text("messages"));
        std::fs::write(&file, record).unwrap();
        match (
            data::read_prompts(&[&file], &options),
            row["opened"].as_str(),
        ) {
            (Ok(found), Some(opened)) => {
                differs(&found[0].text, opened);
                written += 1;
            }
            (Err(_), None) => {}
            (Ok(found), None) => differs(&found[0].text, "(refused)"),
            (Err(why), Some(opened)) => differs(&why.to_string(), opened),
        }
        // As a pair: the last message is the reply, however it is written.
        let record = format!("{{\"chosen\": {0}, \"rejected\": {0}}}", text("messages"));
        std::fs::write(&file, record).unwrap();
        match (data::read_pairs(&[&file], &options), row["whole"].as_str()) {
            (Ok(found), whole) if !found[0].chosen.is_empty() => {
                let text = format!("{}{}", found[0].prompt, found[0].chosen);
                differs(&text, whole.unwrap_or("(refused)"));
            }
            (Err(error), _) => assert!(!error.to_string().contains('\n'), "{error}"),
            _ => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    (rows.len(), written)
}

#[test]
fn templates_write_what_transformers_writes() {
    let root = tempfile::tempdir().unwrap();
    let (mut chats, mut refused) = (0, 0);
    for case in cases()["chats"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let folder = folder_of(case, root.path());
        let template =
            ChatTemplate::from_tokenizer(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (config, _) = checkpoint::read_config(&folder).unwrap();
        let tokenizer = Tokenizer::load(&folder, &config).unwrap();
        for chat in case["chats"].as_array().unwrap() {
            // As a file writes them, in the order in which the templates were given them.
            let message = |m: &Value| format!("{{\"role\": {}, \"content\": {}}}", m[0], m[1]);
            let messages: Vec<String> = chat["chat"]
                .as_array()
                .unwrap()
                .iter()
                .map(message)
                .collect();
            let all = messages.join(", ");
            let record = format!("{{\"chosen\": [{all}], \"rejected\": [{all}]}}");
            let file = folder.join("chat.jsonl");
            std::fs::write(&file, record).unwrap();
            let options = ReadOptions {
                template: template.clone(),
                ..ReadOptions::default()
            };
            let read = data::read_pairs(&[&file], &options);
            if chat.get("refused").is_some() {
                let error = read.unwrap_err().to_string();
                assert!(
                    error.contains("chat template of") && !error.contains('\n'),
                    "{error}"
                );
                refused += 1;
                continue;
            }
            let text = |key: &str| chat[key].as_str().unwrap();
            let opened = |messages: &[String]| {
                let file = folder.join("prompts.jsonl");
                std::fs::write(&file, format!("{{\"prompt\": [{}]}}", messages.join(", ")))
                    .unwrap();
                data::read_prompts(&[&file], &options).unwrap().remove(0)
            };
            assert_eq!(
                opened(&messages[..messages.len() - 1]).text,
                text("prompt"),
                "{name}"
            );
            let whole = opened(&messages);
            assert_eq!(
                (whole.text.as_str(), whole.templated),
                (text("opened"), true),
                "{name}"
            );
            chats += 1;
            if chat["apart"] == true {
                let error = read.unwrap_err().to_string();
                assert!(
                    error.contains("prompt and reply cannot be told apart"),
                    "{name}: {error}"
                );
                continue;
            }
            let pair = read.unwrap_or_else(|e| panic!("{name}: {e}")).remove(0);
            let same = chat["same"].as_u64().unwrap() as usize;
            let same: String = text("whole").chars().take(same).collect();
            assert_eq!(pair.prompt, same, "{name}");
            assert_eq!(
                format!("{}{}", pair.prompt, pair.chosen),
                text("whole"),
                "{name}"
            );
            assert!(pair.templated, "{name}");
            let (prompt, reply) = tokenizer
                .pair(&pair.prompt, &pair.chosen, pair.templated)
                .unwrap();
            assert_eq!([prompt, reply].concat(), ids(&chat["ids"]), "{name}");
        }
    }
    println!("{chats} conversations, {refused} refused");
    assert!(chats > 60, "{chats}");
}

/// A template that is there and cannot be used is an error with its line, and no other form takes its place.
#[test]
fn a_template_that_cannot_be_used_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let record = json!({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                        "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]});
    let said = |name: &str, file: &str, patch: Value| {
        let case = json!({"name": name, "base": "bytes", "files": {file: patch}});
        let folder = folder_of(&case, root.path());
        let path = folder.join("d.jsonl");
        std::fs::write(&path, record.to_string()).unwrap();
        let options = ReadOptions {
            template: ChatTemplate::of_model(&folder),
            ..ReadOptions::default()
        };
        data::read_pairs(&[path], &options).unwrap_err().to_string()
    };
    let settings = |template: Value| json!({"chat_template": template});
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let text = "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'a' * 9999 }}{% endfor %}{% endfor %}";
    let files = [
        (
            "syntax",
            "chat_template.jinja",
            json!("a\n{% for %}"),
            "chat_template.jinja: chat_template: line 2: ",
        ),
        (
            "tag",
            "tokenizer_config.json",
            settings(json!("\n\n{% unheard_of %}")),
            "tokenizer_config.json: chat_template: line 3: ",
        ),
        (
            "number",
            "tokenizer_config.json",
            settings(json!(7)),
            "chat_template: found a number, expected a text",
        ),
        (
            "names",
            "tokenizer_config.json",
            settings(json!([{"name": "rag", "template": "x"}])),
            "found templates named [\"rag\"], expected one named \"default\"",
        ),
        (
            "filter",
            "tokenizer_config.json",
            settings(json!("{{ messages | unheard_of }}")),
            "tokenizer_config.json: line 1: ",
        ),
        (
            "raises",
            "tokenizer_config.json",
            settings(json!("\n{{ raise_exception('no system turn') }}")),
            "line 2: no system turn",
        ),
        (
            "loops",
            "tokenizer_config.json",
            settings(json!(loops)),
            "stopped after 10000000 steps",
        ),
        (
            "text",
            "tokenizer_config.json",
            settings(json!(text)),
            "stopped after 67108864 bytes",
        ),
    ];
    for (name, file, patch, words) in files {
        let error = said(name, file, patch);
        assert!(
            error.contains(words) && !error.contains('\n'),
            "{name}: {error}"
        );
    }
    // Texts need no template: the data are read all the same.
    let folder = root.path().join("syntax");
    let path = folder.join("texts.jsonl");
    std::fs::write(
        &path,
        json!({"prompt": "a", "chosen": "b", "rejected": "c"}).to_string(),
    )
    .unwrap();
    let options = ReadOptions {
        template: ChatTemplate::of_model(&folder),
        ..ReadOptions::default()
    };
    assert!(!data::read_pairs(&[path], &options).unwrap()[0].templated);
    assert!(options.template.said().contains("line 2"));
}

/// A template is a program from a stranger: what doubles, repeats, nests or goes on without an end is one line, soon, in little memory.
#[test]
fn what_a_template_may_cost_is_limited() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder_of(
        &json!({"name": "cost", "base": "bytes", "files": {}}),
        root.path(),
    );
    let path = folder.join("d.jsonl");
    let chat = |reply: &str| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": reply}]);
    let record = json!({"chosen": chat("b"), "rejected": chat("c")});
    std::fs::write(&path, record.to_string()).unwrap();
    let read = |template: &str| {
        std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
        let options = ReadOptions {
            template: ChatTemplate::of_model(&folder),
            ..ReadOptions::default()
        };
        let result = data::read_pairs(&[&path], &options);
        result.map(drop).map_err(|e| e.to_string())
    };
    let again = |body: &str| {
        format!(
            "{{% set ns = namespace(s='ab', l=[1], d=[1]) %}}{{% for i in range(9999) %}}{body}{{% endfor %}}"
        )
    };
    let bytes = "stopped after 67108864 bytes";
    let deep = "more than 100 deep in one another";
    for (template, words) in [
        (again("{% set ns.s = ns.s + ns.s %}"), bytes),
        (again("{% set ns.s = ns.s ~ ns.s %}"), bytes),
        (
            again("{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
            bytes,
        ),
        (again("{% set ns.s = ns.s * 2 %}"), bytes),
        (again("{% set ns.s = ns.s | replace('a', ns.s) %}"), bytes),
        (again("{% set ns.s = ns.s.replace('a', ns.s) %}"), bytes),
        (again("{% set ns.s = [ns.s, ns.s] | join(ns.s) %}"), bytes),
        (again("{% set ns.s = ns.s.join([ns.s, ns.s]) %}"), bytes),
        (again("{% set ns.s = [ns.s, ns.s] | string %}"), bytes),
        (again("{% set ns.s = [ns.s, ns.s] | tojson %}"), bytes),
        (again("{% set ns.s = '%s%s' | format(ns.s, ns.s) %}"), bytes),
        (again("{% set ns.l = ns.l + ns.l %}"), bytes),
        (again("{% set ns.l = ns.l * 2 %}"), bytes),
        (again("{% set ns.l = [ns.l, ns.l] %}"), bytes),
        (again("{% set ns.d = [ns.d] %}"), deep),
        (again("{% set ns.d = {'d': ns.d} %}"), deep),
        (again("{% set ns.d = ns %}{{ ns }}"), deep),
        (again("{% set ns.d = ns %}{{ [ns] | length }}"), deep),
        ("{{ ([0] * 1000000000000) | list | length }}".into(), bytes),
        ("{{ ([0] * 1000000000000) | sum }}".into(), bytes),
        (
            "{{ ('a' * 9999) | replace('a', 'b' * 99999) | length }}".into(),
            bytes,
        ),
        (
            "{{ range(99999) | join('x' * 99999) | length }}".into(),
            bytes,
        ),
        (
            "{{ 'a\nb' | indent(1000000000000) | length }}".into(),
            bytes,
        ),
        ("{{ '%1000000000d' | format(1) | length }}".into(), bytes),
        (
            "{{ [1] | batch(1000000000000, 'x') | list | length }}".into(),
            bytes,
        ),
        (
            "{{ [1] | slice(1000000000000) | list | length }}".into(),
            bytes,
        ),
        ("{{ [1, 2] | tojson(indent=1000000000000) }}".into(), ""),
        ("{{ range(1000000000) | length }}".into(), "range"),
        (
            "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".into(),
            "recursion",
        ),
        (
            format!("{{{{ messages{} }}}}", " | list".repeat(100_000)),
            "line 1: found a tag of",
        ),
        (format!("\n{{{{ 1{} }}}}", "+1".repeat(8100)), ""),
        (format!("{{{{ messages{} }}}}", "|e".repeat(8000)), ""),
        (
            format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)),
            "line 1: ",
        ),
        ("{% if true %}".repeat(50_000), "line 1: "),
        (
            format!("{}{{{{ 1 }}}}", "{% for i in [1] %}".repeat(50_000)),
            "line 1: ",
        ),
    ] {
        let start = std::time::Instant::now();
        let shown: String = template.chars().take(120).collect();
        let took = |start: std::time::Instant| start.elapsed() < std::time::Duration::from_secs(10);
        match read(&template) {
            Ok(()) => assert!(words.is_empty(), "{shown} is read"),
            Err(why) => assert!(why.contains(words) && !why.contains('\n'), "{shown}: {why}"),
        }
        assert!(took(start), "{shown} takes {:?}", start.elapsed());
    }
}
