//! Hugging Face's description of the tokenizer in a file's metadata.

use super::file::File;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;

/// GPT-2's words: contractions, letters, digits and the rest with a blank before them, runs of blanks.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3's words (up to three digits); Qwen 2's have single digits.
fn newer_words(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// Kinds of tokens that are special, and those that users added.
const CONTROL: f64 = 3.0;
const UNKNOWN: f64 = 2.0;
const ADDED: f64 = 4.0;

const MODEL: &str = "tokenizer.ggml.model";
const WORDS: &str = "tokenizer.ggml.pre";

pub(super) fn files(file: &File<'_>, path: &Path) -> Result<[(&'static str, String); 3]> {
    let tokens = file.texts("tokenizer.ggml.tokens")?;
    let kinds = file
        .find_numbers("tokenizer.ggml.token_type")?
        .unwrap_or_else(|| vec![1.0; tokens.len()]);
    if kinds.len() != tokens.len() {
        return Err(file.wrong(
            "tokenizer.ggml.token_type",
            &format!("one number for each of {} tokens", tokens.len()),
        ));
    }
    let mut tokenizer = match file.find_text(MODEL)? {
        Some("gpt2") => byte_level(file, &tokens)?,
        Some("llama") => pieces(file, path, &tokens)?,
        Some(_) => return Err(file.wrong(MODEL, "\"gpt2\" or \"llama\"")),
        None => return Err(file.missing(MODEL, "\"gpt2\" or \"llama\"")),
    };
    let added = tokens.iter().zip(&kinds).enumerate();
    let added = added.filter(|(_, (_, kind))| [CONTROL, UNKNOWN, ADDED].contains(kind));
    let added = added.map(|(id, (text, kind))| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": *kind != ADDED})
    });
    tokenizer["added_tokens"] = added.collect();
    if let Some(begin) = begins_with(file, &tokens)? {
        let (id, text) = begin;
        let token = json!({"SpecialToken": {"id": text, "type_id": 0}});
        let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing", "single": [token, sequence("A")], "pair": [token, sequence("A"), token, sequence("B")],
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
        });
    }
    let mut special = Map::new();
    for (ours, theirs) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ] {
        let key = format!("tokenizer.ggml.{theirs}_token_id");
        if let Some(id) = file.find_size(&key)? {
            let Some(text) = tokens.get(id) else {
                return Err(file.wrong(&key, &format!("one of {} tokens", tokens.len())));
            };
            special.insert(ours.into(), json!(text));
        }
    }
    let family = file.find_text("general.architecture")?.unwrap_or("llama");
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": file.size(&format!("{family}.context_length"))?,
    });
    for (key, value) in &special {
        config[key] = value.clone();
    }
    if let Some(template) = file.find_text("tokenizer.chat_template")? {
        config["chat_template"] = json!(template);
    }
    let text = tokenizer.to_string();
    // What cannot be read back would be found much later.
    text.parse::<tokenizers::Tokenizer>()
        .map_err(|e| Error::file(path, format!("tokenizer: {e}")))?;
    Ok([
        ("tokenizer.json", text),
        ("tokenizer_config.json", format!("{config:#}\n")),
        (
            "special_tokens_map.json",
            format!("{:#}\n", Value::Object(special)),
        ),
    ])
}

/// The token that begins every text: where the file says so, or says nothing and its kind has one.
fn begins_with<'a>(file: &File<'_>, tokens: &[&'a str]) -> Result<Option<(usize, &'a str)>> {
    let kind = file.find_text(MODEL)? == Some("llama")
        || matches!(
            file.find_text(WORDS)?,
            Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3")
        );
    if !file
        .find_flag("tokenizer.ggml.add_bos_token")?
        .unwrap_or(kind)
    {
        return Ok(None);
    }
    let id = file.find_size("tokenizer.ggml.bos_token_id")?;
    Ok(id.and_then(|id| Some((id, *tokens.get(id)?))))
}

fn vocabulary(tokens: &[&str]) -> Map<String, Value> {
    let entry = |(id, text): (usize, &&str)| (text.to_string(), json!(id));
    tokens.iter().enumerate().map(entry).collect()
}

/// Byte-pair encoding over bytes.
fn byte_level(file: &File<'_>, tokens: &[&str]) -> Result<Value> {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = |words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words});
    let known = "a known way to split words: gpt-2, smollm, starcoder, llama-bpe, smaug-bpe, dbrx, qwen2 or default";
    let words = match file.find_text(WORDS)? {
        Some("gpt-2" | "phi-2") => vec![split(GPT2), bytes(false)],
        Some("smollm" | "starcoder" | "refact" | "command-r" | "codeshell") => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            vec![digits, bytes(true)]
        }
        Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "smaug-bpe" | "dbrx") => {
            vec![split(&newer_words(r"\p{N}{1,3}")), bytes(false)]
        }
        // Runs of punctuation, GPT-2's words, runs of digits, and those by threes.
        Some("default") => {
            let rules = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];
            let rules = rules.into_iter().map(split);
            rules.chain([bytes(false)]).collect()
        }
        Some("qwen2" | "deepseek-r1-qwen" | "megrez") => {
            vec![split(&newer_words(r"\p{N}")), bytes(false)]
        }
        Some(_) => return Err(file.wrong(WORDS, known)),
        None => return Err(file.missing(WORDS, known)),
    };
    let llama3 = matches!(
        file.find_text(WORDS)?,
        Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3")
    );
    let merges = file.texts("tokenizer.ggml.merges")?;
    let pairs: Option<Vec<_>> = merges.iter().map(|m| m.split_once(' ')).collect();
    let Some(pairs) = pairs else {
        return Err(file.wrong("tokenizer.ggml.merges", "pairs with a blank between them"));
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": words},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false,
            // A word that is a token is that token, whatever the merges would make of it.
            "ignore_merges": llama3,
            "vocab": vocabulary(tokens), "merges": pairs,
        },
    }))
}

/// SentencePiece's pairs: any two tokens whose text together is a token may be merged, the one of the highest score first.
fn pieces(file: &File<'_>, path: &Path, tokens: &[&str]) -> Result<Value> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = file
        .find_numbers(SCORES)?
        .filter(|s| s.len() == tokens.len())
        .ok_or_else(|| {
            Error::file(
                path,
                format!(
                    "{SCORES}: expected one number for each of {} tokens",
                    tokens.len()
                ),
            )
        })?;
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (*t, i)).collect();
    let mut merges = Vec::new();
    for (text, score) in tokens.iter().zip(&scores) {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut cuts: Vec<_> = cuts
            .filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, l, r)))
            .collect();
        // The order Hugging Face's conversion gives pairs of one score: those with the longer left half first.
        cuts.sort_by_key(|&(left, right, l, r)| {
            let length = |text: &str| Reverse(text.chars().count());
            (length(l), length(r), left, right)
        });
        merges.extend(cuts.into_iter().map(|(_, _, l, r)| (*score, l, r)));
    }
    // Stable: pairs of one score stay in the order of their unions.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let pairs: Vec<_> = merges.into_iter().map(|(_, l, r)| (l, r)).collect();
    let unknown = file.find_size("tokenizer.ggml.unknown_token_id")?;
    let unknown = unknown.and_then(|id| tokens.get(id));
    let blank = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = file.find_flag("tokenizer.ggml.add_space_prefix")? != Some(false);
    let mut normalizers = vec![blank];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary(tokens), "merges": pairs,
        },
    }))
}
