//! Model folders of the kinds that users have, held to what `transformers` computes with them (`bridge/scripts/compatibility.py`).

use candle_core::Device;
use rto::seq::{Channel, Episode, Finish, TokenScorer};
use rto_bridge::checkpoint::{self, Contents};
use rto_bridge::config::ModelConfig;
use rto_bridge::data::{self, ChatTemplate, ReadOptions};
use rto_bridge::generate::{Engine, Sampling};
use rto_bridge::learner::NeuralScorer;
use rto_bridge::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compatibility")
}

fn cases() -> Value {
    let text = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// RFC 7386.
fn merged(value: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut object = match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    for (key, new) in patch {
        match new {
            Value::Null => {
                object.remove(key);
            }
            new => {
                let old = object.remove(key).unwrap_or_default();
                object.insert(key.clone(), merged(old, new));
            }
        }
    }
    object.into()
}

/// The base of a case in a folder of its own, with its patches.
fn folder_of(case: &Value, root: &Path) -> PathBuf {
    let folder = root.join(case["name"].as_str().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(fixtures().join(case["base"].as_str().unwrap())).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    for (name, patch) in case["files"].as_object().into_iter().flatten() {
        let path = folder.join(name);
        match patch {
            Value::Null => std::fs::remove_file(path).unwrap(),
            Value::String(text) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            patch => {
                let old = std::fs::read(&path)
                    .map_or(Value::Null, |b| serde_json::from_slice(&b).unwrap());
                std::fs::write(&path, merged(old, patch).to_string()).unwrap();
            }
        }
    }
    if case["bom"] == true {
        for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, [b"\xef\xbb\xbf", &bytes[..]].concat()).unwrap();
        }
    }
    folder
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap().iter();
    list.map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Ids and log π of prompts and replies; where a blank stands is seen in the reply's text.
#[test]
fn texts_are_cut_and_scored_as_transformers_does() {
    let root = tempfile::tempdir().unwrap();
    let (mut texts, mut worst) = (0, 0.0_f64);
    for case in cases()["texts"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let folder = folder_of(case, root.path());
        let loaded = checkpoint::load(&folder, None, &Device::Cpu).unwrap();
        let tokenizer = Tokenizer::load(&folder, &loaded.config).unwrap();
        let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights).unwrap();
        let end = case["end"].as_u64().map(|id| id as u32);
        assert_eq!(tokenizer.end(), end, "{name}");
        assert_eq!(
            loaded.config.eos_token(),
            end.or(loaded.config.eos_token()),
            "{name}"
        );
        for line in case["lines"].as_array().unwrap() {
            let text = |key: &str| line[key].as_str().unwrap();
            let (prompt, reply) = tokenizer
                .pair(text("prompt"), text("response"), false)
                .unwrap();
            if line["refused"] == true {
                assert!(
                    prompt
                        .iter()
                        .chain(&reply)
                        .any(|t| *t as usize >= loaded.config.vocab_size())
                );
                continue;
            }
            assert_eq!(prompt, ids(&line["prompt_ids"]), "{name}: {line}");
            assert_eq!(reply, ids(&line["response_ids"]), "{name}: {line}");
            if let Some(expected) = line["text"].as_str() {
                assert_eq!(
                    tokenizer.reply_text(&prompt, &reply).unwrap(),
                    expected,
                    "{name}: {line}"
                );
            }
            let ours = engine
                .log_probs(&[(&prompt, &reply)], 1.0)
                .unwrap()
                .remove(0);
            for (ours, theirs) in ours.iter().zip(line["log_probs"].as_array().unwrap()) {
                worst = worst.max((ours - theirs.as_f64().unwrap()).abs());
            }
            texts += 1;
        }
    }
    println!("{texts} texts, largest difference in log π {worst:.1e}");
    assert!(texts > 150 && worst < 1e-5, "{texts} texts, {worst}");
}

/// What is switched off, left out or decided between two files is said.
#[test]
fn what_was_decided_is_said() {
    let root = tempfile::tempdir().unwrap();
    let expected = [
        (
            "truncation_right",
            "truncation of tokenizer.json, which cuts texts, is switched off",
        ),
        (
            "padding_left",
            "padding of tokenizer.json, which fills texts up, is switched off",
        ),
        ("bom", "tokenizer.json begins with a byte-order mark"),
        (
            "prefix_space_of_neox",
            "as GPTNeoXTokenizer of transformers 5 cuts them (add_prefix_space true)",
        ),
        (
            "llama_class_without_blank",
            "as LlamaTokenizer of transformers 5 cuts them (a blank in front: \"never\")",
        ),
        (
            "pieces_without_begin",
            "add_bos_token of tokenizer_config.json is true, tokenizer.json puts nothing in front",
        ),
        (
            "special_tokens_map",
            "\"<|im_end|>\" is taken, as transformers does",
        ),
        (
            "tied_head_differs",
            "tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight",
        ),
        (
            "tied_head_differs_neox",
            "embed_out.weight differs from gpt_neox.embed_in.weight",
        ),
        (
            "end_token_is_new",
            "any of 0, 290 ends a response, 290 ends the replies of training",
        ),
    ];
    let cases = cases();
    let find = |name: &str| {
        cases["texts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == name)
            .unwrap()
            .clone()
    };
    let notes = |case: &Value| {
        let folder = folder_of(case, root.path());
        let loaded = checkpoint::load(&folder, None, &Device::Cpu).unwrap();
        let tokenizer = Tokenizer::load(&folder, &loaded.config).unwrap();
        [&loaded.notes[..], tokenizer.notes()].concat()
    };
    for (name, words) in expected {
        let notes = notes(&find(name));
        assert!(notes.iter().any(|n| n.contains(words)), "{name}: {notes:?}");
    }
    let pieces = json!({"name": "pieces", "base": "pieces", "files": {}});
    let quiet = ["bytes", "tied_head_equal", "added_tokens_decoder"];
    for quiet in quiet.map(find).iter().chain([&pieces]) {
        let notes = notes(quiet);
        let notes: Vec<_> = notes
            .iter()
            .filter(|n| !n.contains("tied to the embedding"))
            .collect();
        assert!(notes.is_empty(), "{quiet}: {notes:?}");
    }
    let dropout = json!({"name": "dropout", "base": "bytes", "files": {"tokenizer.json": {"model": {"dropout": 0.5}}}});
    let folder = folder_of(&dropout, root.path());
    let (config, _) = checkpoint::read_config(&folder).unwrap();
    let tokenizer = Tokenizer::load(&folder, &config).unwrap();
    assert!(tokenizer.notes()[0].starts_with("dropout of tokenizer.json"));
    let once = tokenizer.encode("the other theatre").unwrap();
    assert!((0..50).all(|_| tokenizer.encode("the other theatre").unwrap() == once));
}

/// Files that give a token two ids, or an id without a row, are refused by name.
#[test]
fn disagreements_that_change_ids_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let token = |content: &str| json!({"content": content, "special": true});
    let settings = |name: &str, patch: Value| json!({"name": name, "base": "bytes", "files": {"tokenizer_config.json": patch}});
    let far = settings(
        "far",
        json!({"added_tokens_decoder": {"300": token("<|im_end|>")}}),
    );
    let other = settings(
        "other",
        json!({"added_tokens_decoder": {"7": token("<|endoftext|>")}}),
    );
    let list = settings("list", json!({"added_tokens_decoder": ["<|im_end|>"]}));
    let many: Vec<_> = (0..40).map(|i| format!("<x{i}>")).collect();
    let outside = settings("outside", json!({"extra_special_tokens": many}));
    let legacy = json!({"name": "legacy", "base": "bytes", "files": {"added_tokens.json": {"<|im_end|>": 299}}});
    for (case, words) in [
        (
            far,
            "tokenizer_config.json: \"<|im_end|>\" has id 300, tokenizer.json gives it 290",
        ),
        (
            other,
            "tokenizer_config.json: \"<|endoftext|>\" has id 7, tokenizer.json gives it 0",
        ),
        (
            list,
            "tokenizer_config.json: added_tokens_decoder: found no object",
        ),
        (outside, "the network's vocabulary has 320 rows"),
        (
            legacy,
            "added_tokens.json: \"<|im_end|>\" has id 299, tokenizer.json gives it 290",
        ),
    ] {
        let folder = folder_of(&case, root.path());
        let (config, _) = ModelConfig::read(&folder.join("config.json")).unwrap();
        let error = Tokenizer::load(&folder, &config).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
}

/// A prompt of which the joined text leaves nothing goes with the token that holds it.
#[test]
fn a_token_over_the_seam_is_the_replys() {
    let folder = fixtures().join("bytes");
    let (config, _) = checkpoint::read_config(&folder).unwrap();
    let tokenizer = Tokenizer::load(&folder, &config).unwrap();
    let whole = tokenizer.encode("the other").unwrap();
    let (prompt, reply) = tokenizer.pair("the ot", "her", false).unwrap();
    assert_eq!([&prompt[..], &reply].concat(), whole);
    assert!(tokenizer.decode(&prompt, true).unwrap().len() < "the ot".len());
    assert_eq!(
        tokenizer
            .decode(&[&prompt[..], &reply].concat(), true)
            .unwrap(),
        "the other"
    );
}

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

/// A response ends at any token that `config.json`, `generation_config.json` or the tokenizer names; what is saved keeps the set.
#[test]
fn a_response_ends_at_any_of_the_set() {
    let root = tempfile::tempdir().unwrap();
    let mut short = 0;
    for case in cases()["ends"].as_array().unwrap() {
        let folder = folder_of(case, root.path());
        let loaded = checkpoint::load(&folder, None, &Device::Cpu).unwrap();
        let mut ends = loaded.config.end_tokens().all().to_vec();
        ends.sort_unstable();
        assert_eq!(ends, ids(&case["ends"]), "{case}");
        assert_eq!(
            loaded.config.eos_token(),
            Some(case["reply"].as_u64().unwrap() as u32),
            "{case}"
        );
        let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights).unwrap();
        let sampling = Sampling {
            max_new_tokens: 24,
            ends: loaded.config.end_tokens().clone(),
            ..Sampling::default()
        };
        let prompt: Arc<[u32]> = ids(&case["prompt_ids"]).into();
        let written = engine.greedy(&[prompt], &sampling).unwrap().remove(0);
        assert_eq!(written.episode.response, ids(&case["greedy"]), "{case}");
        short += usize::from(written.episode.finish == Finish::Eos);
        // A trained network is saved with the whole set, and stops there when it is read again.
        let saved = root
            .path()
            .join(format!("{}-saved", case["name"].as_str().unwrap()));
        let contents = Contents {
            config: &loaded.config,
            head: loaded.head,
            weights: &loaded.weights,
            dtype: loaded.stored_dtype,
            shard_bytes: 1 << 30,
            carry: Some(&folder),
        };
        checkpoint::save(&saved, &contents).unwrap();
        assert_eq!(checkpoint::read_config(&saved).unwrap().0, loaded.config);
        let generation = std::fs::read(saved.join("generation_config.json")).unwrap();
        let generation: Value = serde_json::from_slice(&generation).unwrap();
        let named = |value: &Value| {
            value
                .as_array()
                .map_or_else(|| vec![value.clone()], Clone::clone)
        };
        let config: Value =
            serde_json::from_slice(&std::fs::read(saved.join("config.json")).unwrap()).unwrap();
        for end in ends {
            let all = [
                named(&generation["eos_token_id"]),
                named(&config["eos_token_id"]),
            ]
            .concat();
            assert!(all.contains(&json!(end)), "{generation} {config}");
        }
    }
    assert!(short >= 4, "{short} responses end before the length");
}

/// Sequence classification reads the last token that is not padding: not the end, where the two are one token.
#[test]
fn rewards_are_read_where_transformers_reads_them() {
    let root = tempfile::tempdir().unwrap();
    for case in cases()["scores"].as_array().unwrap() {
        let folder = folder_of(
            &json!({"name": case["name"], "base": case["base"]}),
            root.path(),
        );
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (key, value) in case["config"].as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let scorer = NeuralScorer::load(&folder, false, &Device::Cpu).unwrap();
        let rows = case["rows"].as_array().unwrap().iter().map(ids);
        let episodes: Vec<Episode> = rows
            .map(|ids| {
                Episode::try_new(ids[..1].into(), ids[1..].to_vec(), Finish::Length).unwrap()
            })
            .collect();
        let ours = scorer.scores(&episodes).unwrap();
        let ours = ours.get(Channel::Reward).unwrap().row_sums();
        for (ours, theirs) in ours.iter().zip(case["scores"].as_array().unwrap()) {
            let theirs = theirs.as_f64().unwrap();
            assert!(
                (ours - theirs).abs() < 1e-5 * theirs.abs().max(1.0),
                "{}: {ours} {theirs}",
                case["name"]
            );
        }
    }
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
