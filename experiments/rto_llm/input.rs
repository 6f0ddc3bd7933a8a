//! Lines of text or token ids.

use crate::model::Reader;
use anyhow::{Context, Result, anyhow, bail};
use rto::Token;
use serde_json::{Map, Value};
use std::path::Path;

/// A line of the input file.
pub struct Line {
    /// The file and line it stood on, for errors.
    pub place: String,
    object: Map<String, Value>,
}

/// Reads a file of one JSON object a line; blank lines are passed over.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let name = path.display();
    if path.is_dir() {
        bail!("{name}: is a directory, expected a file of JSON lines");
    }
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => anyhow!("{name}: no such file"),
        _ => anyhow!("{name}: cannot read: {e}"),
    })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut lines = Vec::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let place = format!("{name}:{}", i + 1);
        let text =
            std::str::from_utf8(line).map_err(|_| anyhow!("{place}: not valid UTF-8 text"))?;
        // serde_json counts lines too; there is only one here.
        let wrong =
            |e: serde_json::Error| anyhow!("{place}: not valid JSON (column {})", e.column());
        match serde_json::from_str(text).map_err(wrong)? {
            Value::Object(object) => lines.push(Line { place, object }),
            other => bail!("{place}: found {}, expected a JSON object", short(&other)),
        }
    }
    if lines.is_empty() {
        bail!("{name}: is empty, expected one JSON object a line");
    }
    Ok(lines)
}

impl Line {
    /// A line that is a text on the command line.
    pub fn of_text(text: &str) -> Self {
        let object = Map::from_iter([("prompt".to_string(), Value::from(text))]);
        Self {
            place: "--prompt".into(),
            object,
        }
    }

    /// The tokens of `field` (text) or `field_ids`.
    pub fn tokens(&self, field: &str, reader: &Reader) -> Result<Vec<Token>> {
        let ids = format!("{field}_ids");
        let place = &self.place;
        let tokens = match (self.object.get(field), self.object.get(&ids)) {
            (Some(_), Some(_)) => {
                bail!("{place}: found both {field} and {ids}, expected one of them")
            }
            (None, None) => bail!("{place}: found neither {field} nor {ids}"),
            (Some(Value::String(text)), None) => {
                let tokenizer = reader.tokenizer.as_ref().with_context(|| {
                    format!(
                        "{place}: {field}: {} has no tokenizer.json; give {ids}{}",
                        reader.name, reader.instead
                    )
                })?;
                let tokens = match field {
                    "prompt" => tokenizer.encode_prompt(text),
                    _ => tokenizer.encode(text),
                };
                tokens.with_context(|| place.clone())?
            }
            (Some(other), None) => {
                bail!("{place}: {field}: found {}, expected a text", short(other))
            }
            (None, Some(ids_value)) => {
                parse_ids(ids_value).with_context(|| format!("{place}: {ids}"))?
            }
        };
        let vocab = reader.config.vocab_size();
        match tokens.iter().find(|t| **t as usize >= vocab) {
            Some(token) => {
                bail!("{place}: {ids}: found {token}, must be below the vocabulary's {vocab}")
            }
            None => Ok(tokens),
        }
    }

    /// Prompt and response; where both are texts they are one text, cut into tokens as a whole.
    pub fn pair(&self, reader: &Reader) -> Result<(Vec<Token>, Vec<Token>)> {
        let (prompt, response) = self.tokens_of_both(reader)?;
        self.check_prompt(&prompt, response.len(), reader)?;
        Ok((prompt, response))
    }

    /// [`Line::pair`], whatever the model has room for.
    pub fn tokens_of_both(&self, reader: &Reader) -> Result<(Vec<Token>, Vec<Token>)> {
        // Each field is looked at first, for its own errors.
        let apart = (
            self.tokens("prompt", reader)?,
            self.tokens("response", reader)?,
        );
        let text = |field: &str| self.object.get(field).and_then(Value::as_str);
        let (Some(prompt), Some(response), Some(tokenizer)) =
            (text("prompt"), text("response"), &reader.tokenizer)
        else {
            return Ok(apart);
        };
        let pair = tokenizer.pair(prompt, response, false);
        pair.with_context(|| self.place.clone())
    }

    /// [`Line::tokens`] of a prompt that must hold at least one, and leave room in the context.
    pub fn prompt(&self, reader: &Reader, more: usize) -> Result<Vec<Token>> {
        let prompt = self.tokens("prompt", reader)?;
        self.check_prompt(&prompt, more, reader)?;
        Ok(prompt)
    }

    fn check_prompt(&self, prompt: &[Token], more: usize, reader: &Reader) -> Result<()> {
        let (place, n) = (&self.place, prompt.len());
        let context = reader.config.max_positions();
        if n == 0 {
            bail!("{place}: prompt: is empty, expected at least one token");
        }
        if n + more > context + 1 {
            bail!(
                "{place}: {n} prompt and {more} response tokens, the context has room for {context}"
            );
        }
        Ok(())
    }
}

fn parse_ids(value: &Value) -> Result<Vec<Token>> {
    let expected = "expected a list of token ids";
    let list = value
        .as_array()
        .ok_or_else(|| anyhow!("found {}, {expected}", short(value)))?;
    let id = |v: &Value| {
        let id = v.as_u64().and_then(|id| Token::try_from(id).ok());
        id.ok_or_else(|| anyhow!("found {}, {expected}", short(v)))
    };
    list.iter().map(id).collect()
}

/// A value as an error shows it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
