//! The tokens that end a response, from every file of a folder that names some.

use super::GENERATION_CONFIG;
use crate::family::{EndTokens, ModelConfig};
use crate::{Error, Result, tokenizer};
use serde_json::Value;
use std::path::Path;

/// `config.json`'s network with the end tokens of `generation_config.json` and of the tokenizer beside its own: any of them ends a
/// response, and training ends replies with the tokenizer's, where it names one. A note where the files disagree.
pub(super) fn with_all_ends(
    folder: &Path,
    config: ModelConfig,
    notes: &mut Vec<String>,
) -> Result<ModelConfig> {
    let own = config.end_tokens().clone();
    let generation = of_generation(folder, config.vocab_size(), notes)?;
    let named = tokenizer::end_of(folder, config.model_type())?;
    // A token without a row in the embedding is refused where the tokenizer itself is read.
    let named = named.filter(|(token, _)| (*token as usize) < config.vocab_size());
    let mut ends = own.clone().with(&generation);
    if let Some((token, _)) = named {
        ends = ends.replying(token);
    }
    let list = |tokens: &[u32]| match tokens {
        [] => "none".to_string(),
        _ => tokens
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    if ends.all().iter().any(|end| !own.contains(*end)) {
        let mut said = vec![format!("config.json names {}", list(own.all()))];
        if !generation.is_empty() {
            said.push(format!("{GENERATION_CONFIG} {}", list(&generation)));
        }
        if let Some((token, text)) = &named {
            said.push(format!("the tokenizer {token} ({text:?})"));
        }
        let mut sorted = ends.all().to_vec();
        sorted.sort_unstable();
        let reply = ends.reply().unwrap_or_default();
        notes.push(format!(
            "end tokens: {}; any of {} ends a response, {reply} ends the replies of training",
            said.join(", "),
            list(&sorted)
        ));
    }
    Ok(config.with_end_tokens(ends))
}

/// `eos_token_id` of `generation_config.json`: one token, a list, or nothing.
fn of_generation(folder: &Path, vocab_size: usize, notes: &mut Vec<String>) -> Result<Vec<u32>> {
    let path = folder.join(GENERATION_CONFIG);
    let Some(value) = tokenizer::json_of(&path, notes)? else {
        return Ok(Vec::new());
    };
    let ends = ends_in(&value).ok_or_else(|| {
        let found = &value["eos_token_id"];
        Error::file(
            &path,
            format!("eos_token_id: found {found}, expected a token id, a list of them, or null"),
        )
    })?;
    let (inside, outside): (Vec<u32>, Vec<u32>) = ends
        .into_iter()
        .partition(|end| (*end as usize) < vocab_size);
    if !outside.is_empty() {
        notes.push(format!(
            "{GENERATION_CONFIG}: eos_token_id has {outside:?}, beyond the {vocab_size} rows of the vocabulary, and no response can end so"
        ));
    }
    Ok(inside)
}

/// The tokens under `eos_token_id`; none where it is neither a token, a list, null nor absent.
pub(super) fn ends_in(value: &Value) -> Option<Vec<u32>> {
    let token = |v: &Value| v.as_u64().and_then(|t| u32::try_from(t).ok());
    match &value["eos_token_id"] {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(token).collect(),
        one => Some(vec![token(one)?]),
    }
}

/// A `generation_config.json` under which a network trained here stops: as it is where it or `config.json` names every end token.
pub(super) fn renewed(
    mut generation: Value,
    config: Option<&Value>,
    ends: &EndTokens,
) -> Option<Value> {
    let theirs = ends_in(&generation)?;
    let known = config.and_then(ends_in).unwrap_or_default();
    let new = |end: &&u32| !theirs.contains(end) && !known.contains(end);
    if !ends.all().iter().any(|end| new(&end)) {
        return None;
    }
    generation["eos_token_id"] = ends.clone().with(&theirs).to_json();
    Some(generation)
}
