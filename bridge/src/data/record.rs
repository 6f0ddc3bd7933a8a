//! One record as a pair or a prompt.

use serde_json::Value;

use super::lines::Record;
use super::read::{Columns, Layout};
use super::{ChatTemplate, Message, Pair, Place, Prompt, at, split_reply};
use crate::Result;

/// What a JSON value is, for messages.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn is_list(record: &Record, name: &str) -> bool {
    record.get(name).is_some_and(Value::is_array)
}

/// The layout of a data set, from one of its records.
///
/// A prompt column makes it `prompt/chosen/rejected`; lists in place of texts make it a conversation.
pub(super) fn layout_of(record: &Record, columns: &Columns) -> Layout {
    if is_list(record, &columns.chosen) {
        Layout::Conversations
    } else if record.contains_key(&columns.prompt) {
        Layout::PromptPairs
    } else {
        Layout::Dialogues
    }
}

/// A record read as a pair.
pub(super) fn pair(
    record: &Record,
    layout: Layout,
    columns: &Columns,
    template: &ChatTemplate,
    place: Place,
) -> Result<Pair> {
    let sides = [&columns.chosen, &columns.rejected];
    let [(prompt, chosen), (other, rejected)] = match layout {
        Layout::Dialogues => {
            let read = |name| text(record, name, &place).map(dialogue);
            [read(sides[0])?, read(sides[1])?]
        }
        Layout::PromptPairs => {
            let prompt = prompt_text(record, &columns.prompt, template, &place)?;
            let read = |name| text(record, name, &place).map(|t| (prompt.clone(), t.to_string()));
            [read(sides[0])?, read(sides[1])?]
        }
        Layout::Conversations => {
            let start = match record.get(&columns.prompt) {
                None | Some(Value::Null) => Vec::new(),
                Some(value) => messages(value, &columns.prompt, &place)?,
            };
            let read = |name| conversation(record, name, &start, template, &place);
            [read(sides[0])?, read(sides[1])?]
        }
    };
    let rejected_prompt = (other != prompt).then_some(other);
    let messages = layout == Layout::Conversations || is_list(record, &columns.prompt);
    Ok(Pair {
        templated: messages && template.is_own(),
        prompt,
        chosen,
        rejected,
        rejected_prompt,
        place,
    })
}

/// A record read as a prompt: a text, a conversation, or the prompt of a preference record.
pub(super) fn prompt(
    record: &Record,
    columns: &Columns,
    template: &ChatTemplate,
    place: Place,
) -> Result<Prompt> {
    let given = record.contains_key(&columns.prompt);
    if !given && record.contains_key(&columns.chosen) {
        let layout = layout_of(record, columns);
        let pair = pair(record, layout, columns, template, place)?;
        return Ok(Prompt {
            text: pair.prompt,
            templated: pair.templated,
            place: pair.place,
        });
    }
    let text = prompt_text(record, &columns.prompt, template, &place)?;
    Ok(Prompt {
        templated: is_list(record, &columns.prompt) && template.is_own(),
        text,
        place,
    })
}

/// A dialogue without a turn of the assistant is all prompt: a defect to be counted, not an unreadable file.
fn dialogue(text: &str) -> (String, String) {
    match split_reply(text) {
        Some((prompt, reply)) => (prompt.into(), reply.into()),
        None => (text.into(), String::new()),
    }
}

fn prompt_text(
    record: &Record,
    name: &str,
    template: &ChatTemplate,
    place: &Place,
) -> Result<String> {
    let value = column(record, name, place)?;
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) => template.prompt(&messages(value, name, place)?, place),
        other => Err(wrong_kind(
            name,
            other,
            "a text or a list of messages",
            place,
        )),
    }
}

fn conversation(
    record: &Record,
    name: &str,
    start: &[Message],
    template: &ChatTemplate,
    place: &Place,
) -> Result<(String, String)> {
    let value = column(record, name, place)?;
    let mut all = start.to_vec();
    match value {
        Value::Array(_) => all.extend(messages(value, name, place)?),
        other => return Err(wrong_kind(name, other, "a list of messages", place)),
    }
    match all.last() {
        Some(last) if last.role == "assistant" => template.split(&all, place),
        Some(_) => Ok((template.prompt(&all, place)?, String::new())),
        None => Ok((String::new(), String::new())),
    }
}

fn messages(value: &Value, name: &str, place: &Place) -> Result<Vec<Message>> {
    let list = value
        .as_array()
        .ok_or_else(|| wrong_kind(name, value, "a list of messages", place))?;
    let message = |(i, item): (usize, &Value)| {
        let field = |key: &str| item.get(key).and_then(Value::as_str);
        match (field("role"), field("content")) {
            (Some(role), Some(content)) => Ok(Message {
                role: role.into(),
                content: content.into(),
            }),
            _ => {
                let want = r#"{"role": text, "content": text}"#;
                let found: String = item.to_string().chars().take(80).collect();
                let why = format!("column {name:?}, message {i}: found {found}, expected {want}");
                Err(at(place, why))
            }
        }
    };
    list.iter().enumerate().map(message).collect()
}

fn text<'a>(record: &'a Record, name: &str, place: &Place) -> Result<&'a str> {
    match column(record, name, place)? {
        Value::String(text) => Ok(text),
        other => Err(wrong_kind(name, other, "a text", place)),
    }
}

fn column<'a>(record: &'a Record, name: &str, place: &Place) -> Result<&'a Value> {
    record.get(name).ok_or_else(|| {
        let mut found: Vec<&str> = record.keys().map(String::as_str).collect();
        found.sort_unstable();
        let found = match found.is_empty() {
            true => "none".into(),
            false => found.join(", "),
        };
        at(
            place,
            format!("no column {name:?}; the columns found are {found}"),
        )
    })
}

fn wrong_kind(name: &str, value: &Value, expected: &str, place: &Place) -> crate::Error {
    let found = kind_of(value);
    at(
        place,
        format!("column {name:?}: found {found}, expected {expected}"),
    )
}
