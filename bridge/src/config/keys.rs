//! The top level of a `config.json`.

use super::{EndTokens, Head};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Larger sizes are refused, so that a product of two never overflows.
const MAX_SIZE: u64 = 1 << 30;

/// The keys of a file and the file's name, for errors.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub object: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The head that `architectures` names.
    pub fn head(&self, causal: &str, classification: &str) -> Result<Head> {
        let Some(value) = self.get("architectures") else {
            return Ok(Head::CausalLm);
        };
        let name = match value {
            Value::Array(names) if names.len() == 1 => names[0].as_str(),
            _ => None,
        };
        match name {
            Some(name) if name == causal => Ok(Head::CausalLm),
            Some(name) if name == classification => Ok(Head::Classification {
                labels: self.labels()?,
            }),
            _ => {
                let expected = format!("[\"{causal}\"] or [\"{classification}\"]");
                Err(self.wrong("architectures", value, &expected))
            }
        }
    }

    /// `transformers` writes the labels' names and, with two of them, nothing at all.
    fn labels(&self) -> Result<usize> {
        match (self.get("num_labels"), self.get("id2label")) {
            (Some(_), _) => self.size("num_labels"),
            (None, Some(Value::Object(names))) if !names.is_empty() => Ok(names.len()),
            (None, Some(other)) => Err(self.wrong("id2label", other, "an object of label names")),
            (None, None) => Ok(2),
        }
    }

    /// The object of rotary settings that newer files have.
    pub fn rope_parameters(&self) -> Result<Option<&'a Map<String, Value>>> {
        match self.get("rope_parameters") {
            None => Ok(None),
            Some(Value::Object(rope)) => Ok(Some(rope)),
            Some(other) => Err(self.wrong("rope_parameters", other, "an object")),
        }
    }

    /// A number strictly between 0 and 1.
    pub fn epsilon(&self, key: &str, default: f64) -> Result<f64> {
        let eps = self.get(key).map_or(Ok(default), |v| self.number(key, v))?;
        if eps > 0.0 && eps < 1.0 {
            return Ok(eps);
        }
        Err(self.refuse(format!("{key}: found {eps}, must be positive and below 1")))
    }

    /// A token of the file, where the file has one, must be in the vocabulary.
    pub fn check_tokens(
        &self,
        [bos, pad]: [Option<u32>; 2],
        ends: &EndTokens,
        vocab_size: usize,
    ) -> Result<()> {
        let ends = ends.all().iter().map(|end| ("eos_token_id", Some(*end)));
        let named = [("bos_token_id", bos), ("pad_token_id", pad)];
        for (key, token) in named.into_iter().chain(ends) {
            if let Some(token) = token
                && token as usize >= vocab_size
            {
                return Err(self.refuse(format!(
                    "{key}: found {token}, must be below vocab_size ({vocab_size})"
                )));
            }
        }
        Ok(())
    }

    /// A key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        let value = self
            .get(key)
            .ok_or_else(|| self.missing(key, &whole_number()))?;
        self.size_of(key, value)
    }

    /// The default where the key is absent or null.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        self.get(key).map_or(Ok(default), |v| self.size_of(key, v))
    }

    pub fn size_of(&self, key: &str, value: &Value) -> Result<usize> {
        match value.as_u64() {
            Some(n @ 1..=MAX_SIZE) => Ok(n as usize),
            _ => Err(self.wrong(key, value, &whole_number())),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub fn number(&self, key: &str, value: &Value) -> Result<f64> {
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(self.wrong(key, value, "a number")),
        }
    }

    /// A key that is absent has the default where the vocabulary holds it; null is no token.
    pub fn token(&self, key: &str, default: Option<u32>, vocab_size: usize) -> Result<Option<u32>> {
        let one = match self.object.get(key) {
            None => return Ok(default.filter(|&t| (t as usize) < vocab_size)),
            Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) if items.len() == 1 => &items[0],
            Some(value) => value,
        };
        match one.as_u64().and_then(|t| u32::try_from(t).ok()) {
            Some(token) => Ok(Some(token)),
            None => Err(self.wrong(key, one, "one token id or null")),
        }
    }

    /// `eos_token_id`: one token, a list of them, or null; a key that is absent has the default where the vocabulary holds it.
    pub fn end_tokens(&self, default: Option<u32>, vocab_size: usize) -> Result<EndTokens> {
        const KEY: &str = "eos_token_id";
        let Some(Value::Array(items)) = self.object.get(KEY) else {
            return Ok(self.token(KEY, default, vocab_size)?.into());
        };
        let tokens = items
            .iter()
            .map(|item| item.as_u64().and_then(|t| u32::try_from(t).ok()));
        match tokens.collect::<Option<Vec<u32>>>() {
            Some(list) if !list.is_empty() => Ok(list.into()),
            _ => Err(self.wrong(KEY, &self.object[KEY], "token ids or null")),
        }
    }

    pub fn refuse(&self, why: String) -> Error {
        Error::file(self.path, why)
    }

    pub fn missing(&self, key: &str, expected: &str) -> Error {
        self.refuse(format!("{key}: not there, expected {expected}"))
    }

    pub fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        self.refuse(format!(
            "{key}: found {}, expected {expected}",
            shown(found)
        ))
    }
}

fn whole_number() -> String {
    format!("a whole number from 1 to {MAX_SIZE}")
}

/// A value as an error shows it.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
