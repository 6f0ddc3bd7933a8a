//! Texts cut into tokens and scored.

use crate::{cases, fixtures, folder_of, ids};
use candle_core::Device;
use rto_bridge::checkpoint;
use rto_bridge::family::ModelConfig;
use rto_bridge::generate::Engine;
use rto_bridge::tokenizer::Tokenizer;
use serde_json::{Value, json};

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
