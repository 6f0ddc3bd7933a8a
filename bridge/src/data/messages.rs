//! Lists of messages, as OpenAI's and ShareGPT's formats write them.

use serde_json::Value;

use super::record::{kind_of, wrong_kind};
use super::{Message, Place, at};
use crate::Result;

/// Whether a value is a list of messages, or one message in place of a list.
pub(super) fn is_conversation(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(message) => ["content", "value"]
            .iter()
            .any(|key| message.contains_key(*key)),
        _ => false,
    }
}

/// The messages of a column: `{"role", "content"}`, or ShareGPT's `{"from", "value"}`; a content is a text or a list of parts that are texts.
pub(super) fn messages(value: &Value, name: &str, place: &Place) -> Result<Vec<Message>> {
    let list = match value {
        Value::Array(list) => &list[..],
        Value::Object(_) if is_conversation(value) => std::slice::from_ref(value),
        _ => return Err(wrong_kind(name, value, "a list of messages", place)),
    };
    let message = |(i, item): (usize, &Value)| {
        message(item).map_err(|why| at(place, format!("column {name:?}, message {i}: {why}")))
    };
    list.iter().enumerate().map(message).collect()
}

fn message(item: &Value) -> std::result::Result<Message, String> {
    let either = |key: &str, other: &str| {
        let value = item.get(key).filter(|v| !v.is_null());
        value.or_else(|| item.get(other))
    };
    let role = either("role", "from").and_then(Value::as_str);
    let (Some(role), Some(content)) = (role, either("content", "value")) else {
        let found: String = item.to_string().chars().take(80).collect();
        let want = r#"{"role": text, "content": text}"#;
        return Err(format!("found {found}, expected {want}"));
    };
    Ok(Message {
        role: usual(role).into(),
        content: text_of(content)?,
    })
}

/// The name that templates know for a role of ShareGPT's formats.
fn usual(role: &str) -> &str {
    match role {
        "human" => "user",
        "gpt" | "chatgpt" | "bard" | "bing" | "chatbot" | "bot" => "assistant",
        other => other,
    }
}

/// A text, or the texts of its parts one after the other.
fn text_of(content: &Value) -> std::result::Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        other => Err(format!(
            "content: found {}, expected a text",
            kind_of(other)
        )),
    }
}

fn part(part: &Value) -> std::result::Result<&str, String> {
    let kind = part.get("type").and_then(Value::as_str);
    match (part, kind) {
        (Value::String(text), _) => Ok(text),
        (_, Some("text") | None) => part.get("text").and_then(Value::as_str).ok_or_else(|| {
            let found: String = part.to_string().chars().take(80).collect();
            format!(
                "content: found the part {found}, expected {{\"type\": \"text\", \"text\": text}}"
            )
        }),
        (_, Some(kind)) => Err(format!(
            "content: found a part of type {kind:?}, expected \"text\": the networks read nothing else"
        )),
    }
}
