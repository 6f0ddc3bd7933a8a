//! A user's text: plain or JSONL, gzipped or not, as a list of documents.

use std::io::Read;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::atomic;

const FIELDS: &str = "`text`, `prompt` with `response` or `completion`, `chosen`, or `messages`";

/// Reads every document of a file.
///
/// - Plain text: documents are the paragraphs between blank lines.
/// - JSONL (the name ends in `.jsonl`, or the first line is a JSON object): one document per line,
///   from `text`; else `prompt` followed by `response` or `completion`; else `chosen` (a dialogue as
///   text, or a list of `{role, content}`; `rejected` is never used); else `messages`, such a list.
/// - gzip of either, recognised by its first bytes.
///
/// A list of messages becomes `"\n\nHuman: …\n\nAssistant: …"`. Blank documents are left out.
///
/// # Errors
/// One line naming the file, and the line where there is one: not readable, a directory, broken
/// gzip, not UTF-8, a bad JSONL line, or no document at all.
pub fn read_documents(path: &Path) -> Result<Vec<String>> {
    let name = path.display().to_string();
    parse_documents(&name, &atomic::read_bytes(path)?)
}

/// [`read_documents`] on bytes; `name` is what errors call them, and its ending is looked at.
pub fn parse_documents(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    if bytes.is_empty() {
        bail!("{name}: empty file, expected text or JSONL");
    }
    let unzipped;
    let mut bytes = bytes;
    let mut kind = name.to_lowercase();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        unzipped = unzip(name, bytes)?;
        bytes = &unzipped;
        kind = kind.trim_end_matches(".gz").to_string();
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let valid = &bytes[..e.valid_up_to()];
        let line = 1 + valid.iter().filter(|&&b| b == b'\n').count();
        anyhow!(
            "{name}:{line}: not valid UTF-8 at byte {}, expected text or JSONL",
            e.valid_up_to()
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let jsonl = kind.ends_with(".jsonl") || !kind.ends_with(".txt") && starts_with_object(text);
    let documents = if jsonl {
        json_lines(name, text)?
    } else {
        paragraphs(text)
    };
    if documents.is_empty() {
        bail!("{name}: no text in it, expected at least one document");
    }
    Ok(documents)
}

/// Bytes of the longest line. A small file can unfold into a line without an end.
const LONGEST: usize = 1 << 28;
/// How many times its size a compressed text may unfold to, once it is longer than a line may be. Prose does three times.
const MOST_TIMES: usize = 300;

fn unzip(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = MultiGzDecoder::new(bytes);
    let mut out = Vec::new();
    let (mut part, mut since) = ([0; 1 << 16], 0);
    loop {
        let n = decoder.read(&mut part).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                anyhow!("{name}: gzip data end too early, expected a whole file")
            }
            _ => anyhow!("{name}: broken gzip data: {e}"),
        })?;
        if n == 0 {
            return Ok(out);
        }
        since = match part[..n].iter().rposition(|b| *b == b'\n') {
            Some(end) => n - end - 1,
            None => since + n,
        };
        if since > LONGEST {
            bail!("{name}: unpacks to a line of more than 256 MiB, expected lines of text");
        }
        out.extend_from_slice(&part[..n]);
        if out.len() > LONGEST.max(MOST_TIMES * bytes.len()) {
            bail!("{name}: unpacks to more than {MOST_TIMES} times its size, expected text");
        }
    }
}

fn starts_with_object(text: &str) -> bool {
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("");
    first.trim_start().starts_with('{') && serde_json::from_str::<Map<String, Value>>(first).is_ok()
}

fn paragraphs(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().chain([""]) {
        if !line.trim().is_empty() {
            lines.push(line);
        } else if !lines.is_empty() {
            documents.push(lines.join("\n"));
            lines.clear();
        }
    }
    documents
}

fn json_lines(name: &str, text: &str) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let fail = |message: String| anyhow!("{name}:{}: {message}", i + 1);
        let value: Value = serde_json::from_str(line).map_err(|e| {
            fail(format!(
                "not valid JSON (column {}): {}",
                e.column(),
                reason(&e)
            ))
        })?;
        let Value::Object(object) = value else {
            return Err(fail(format!(
                "found {}, expected a JSON object",
                kind_of(&value)
            )));
        };
        let document = document(&object).map_err(fail)?;
        if !document.trim().is_empty() {
            documents.push(document);
        }
    }
    Ok(documents)
}

/// serde_json's message without its own "at line 1 column n", which would contradict our line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_string()
}

fn document(object: &Map<String, Value>) -> std::result::Result<String, String> {
    let reply = ["response", "completion"]
        .into_iter()
        .find(|key| object.contains_key(*key));
    if object.contains_key("text") {
        string(object, "text")
    } else if let (true, Some(reply)) = (object.contains_key("prompt"), reply) {
        let prompt = string_or_messages(object, "prompt")?;
        let reply = string_or_messages(object, reply)?;
        let glued = prompt.ends_with(char::is_whitespace) || reply.starts_with(char::is_whitespace);
        let gap = if glued || prompt.is_empty() { "" } else { "\n" };
        Ok(format!("{prompt}{gap}{reply}"))
    } else if object.contains_key("chosen") {
        string_or_messages(object, "chosen")
    } else if object.contains_key("messages") {
        string_or_messages(object, "messages")
    } else if object.is_empty() {
        Err(format!("found no fields, expected {FIELDS}"))
    } else {
        let mut found: Vec<_> = object
            .keys()
            .take(8)
            .map(|k| format!("`{}`", clip(k)))
            .collect();
        if object.len() > 8 {
            found.push("…".to_string());
        }
        Err(format!(
            "found fields {}, expected {FIELDS}",
            found.join(", ")
        ))
    }
}

fn string(object: &Map<String, Value>, key: &str) -> std::result::Result<String, String> {
    match &object[key] {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!(
            "field `{key}` is {}, expected a string",
            kind_of(other)
        )),
    }
}

fn string_or_messages(
    object: &Map<String, Value>,
    key: &str,
) -> std::result::Result<String, String> {
    match &object[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let part = |field: &str| match item.get(field) {
                    Some(Value::String(text)) => Ok(text.as_str()),
                    found => Err(format!(
                        "field `{key}[{i}].{field}` is {}, expected a string",
                        found.map_or("missing", kind_of)
                    )),
                };
                Ok(format!(
                    "\n\n{}: {}",
                    speaker(part("role")?),
                    part("content")?
                ))
            })
            .collect(),
        other => Err(format!(
            "field `{key}` is {}, expected a string or a list of {{role, content}}",
            kind_of(other)
        )),
    }
}

fn speaker(role: &str) -> String {
    match role {
        "user" | "human" => "Human".to_string(),
        "assistant" | "gpt" => "Assistant".to_string(),
        "system" => "System".to_string(),
        other => other.to_string(),
    }
}

fn clip(text: &str) -> String {
    text.chars()
        .take(30)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
