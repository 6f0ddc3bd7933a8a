//! Lists of messages, as OpenAI's and ShareGPT's formats write them.

use super::record::{kind_of, wrong_kind};
use super::value::{Record, Value};
use super::{Message, Place, at};
use crate::Result;

/// Whether a value is a list of messages, one message in place of a list, or an object that holds a list under `messages`.
pub(super) fn is_conversation(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(message) => ["content", "value", "messages"]
            .iter()
            .any(|key| message.contains_key(*key)),
        _ => false,
    }
}

/// The messages of a column: `{"role", "content"}`, or ShareGPT's `{"from", "value"}`; a content is a text or a list of parts that are
/// texts. Other keys are kept for templates; those without a value are left out, as `transformers` does.
pub(super) fn messages(value: &Value, name: &str, place: &Place) -> Result<Vec<Message>> {
    let list = match value {
        Value::Array(list) => &list[..],
        // OpenAI's preference files: {"input": {"messages": [...]}, "preferred_output": [...], …}.
        Value::Object(request) if request.contains_key("messages") => {
            return messages(&request["messages"], name, place);
        }
        Value::Object(_) if is_conversation(value) => std::slice::from_ref(value),
        _ => return Err(wrong_kind(name, value, "a list of messages", place)),
    };
    let message = |(i, item): (usize, &Value)| {
        message(item).map_err(|why| at(place, format!("column {name:?}, message {i}: {why}")))
    };
    list.iter().enumerate().map(message).collect()
}

fn message(item: &Value) -> std::result::Result<Message, String> {
    let unusable = || {
        let found: String = item.to_string().chars().take(80).collect();
        let want = r#"{"role": text, "content": text}"#;
        format!("found {found}, expected {want}")
    };
    let Value::Object(object) = item else {
        return Err(unusable());
    };
    let either = |key, other| match object.get(key) {
        Some(value) if !value.is_null() => Some((key, value)),
        _ => object.get(other).map(|value| (other, value)),
    };
    let named = either("role", "from");
    let said = either("content", "value");
    let Some((role_key, role)) = named.and_then(|(key, role)| Some((key, role.as_str()?))) else {
        return Err(unusable());
    };
    let role = usual(role).to_string();
    // A turn may be calls of tools and no words.
    let calls = object.get("tool_calls").is_some_and(|v| !v.is_null());
    let content = match said {
        Some((_, content)) => text_of(content)?,
        None if calls => String::new(),
        None => return Err(unusable()),
    };
    let said_key = said.map(|(key, _)| key);
    let named_here = |key: &str| {
        if key == role_key {
            "role"
        } else if said_key == Some(key) {
            "content"
        } else {
            ""
        }
    };
    let mut keys = Record::new();
    for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let (name, value) = match named_here(key) {
            "role" => ("role", Value::String(role.clone())),
            "content" => ("content", Value::String(content.clone())),
            _ => (key.as_str(), value.clone()),
        };
        keys.insert(name.into(), value);
    }
    Ok(Message {
        role,
        content,
        keys: with_reasoning(keys),
    })
}

/// A message with its reasoning under the names that templates read it by, whichever of them it has, as `transformers` gives it to
/// them: `thinking` first, `reasoning_content` where it stands or last.
fn with_reasoning(keys: Record) -> Record {
    const NAMES: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = NAMES.iter().find_map(|name| keys.get(*name)).cloned() else {
        return keys;
    };
    let mut all = Record::from_iter([("thinking".to_string(), reasoning.clone())]);
    all.extend(keys);
    all.insert("reasoning_content".into(), reasoning);
    all
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
