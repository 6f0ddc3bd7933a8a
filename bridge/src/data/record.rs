//! One record as a pair, a labelled reply or a prompt.

use super::messages::{is_conversation, messages};
use super::read::{Columns, Layout};
use super::value::{Record, Value};
use super::{ASSISTANT, ChatTemplate, Message, Place, Prompt, at, split_reply};
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

/// The layout of a data set, from one of its records: a list of messages in the column of replies makes it a conversation, a prompt
/// column makes it `prompt/chosen/rejected`.
pub(super) fn layout_of(record: &Record, columns: &Columns, reply: &str) -> Layout {
    if record.get(reply).is_some_and(is_conversation) {
        Layout::Conversations
    } else if record.contains_key(&columns.prompt) {
        Layout::PromptPairs
    } else {
        Layout::Dialogues
    }
}

/// A prompt with one reply, and what the record makes of its file.
pub(super) struct Side {
    pub prompt: String,
    pub reply: String,
    /// Bytes of the prompt that the reply, a text, begins with once more.
    pub repeats_prompt: Option<usize>,
    /// The prompt column is a text that no message of the conversation says.
    pub prompt_unsaid: bool,
    /// The assistant has a turn.
    pub answers: bool,
    /// A tokenizer's own chat template wrote the prompt.
    pub templated: bool,
}

/// How records are read.
pub(super) struct Reading<'a> {
    pub columns: &'a Columns,
    pub template: &'a ChatTemplate,
    pub layout: Layout,
}

impl Reading<'_> {
    /// Both sides of a pair.
    pub fn pair(&self, record: &Record, place: &Place) -> Result<[Side; 2]> {
        Ok([
            self.side(record, &self.columns.chosen, place)?,
            self.side(record, &self.columns.rejected, place)?,
        ])
    }

    /// The prompt, and the reply in one column.
    pub fn side(&self, record: &Record, name: &str, place: &Place) -> Result<Side> {
        let value = column(record, name, self.columns, place)?;
        let system = self.system(record, place)?;
        match self.layout {
            Layout::Dialogues => {
                let text = text(value, name, place)?;
                // A dialogue without a turn of the assistant is all prompt: a defect to be counted.
                let (prompt, reply) = split_reply(text).unwrap_or((text, ""));
                Ok(Side {
                    answers: split_reply(text).is_some(),
                    ..plain(system.as_deref().unwrap_or(""), prompt, reply)
                })
            }
            Layout::PromptPairs => {
                let reply = text(value, name, place)?;
                let name = &self.columns.prompt;
                let prompt = column(record, name, self.columns, place)?;
                match (prompt, &system) {
                    // HH-RLHF's form is a text already; so is a prompt without a system message beside it.
                    (Value::String(prompt), Some(system)) if prompt.ends_with(ASSISTANT) => {
                        Ok(plain(system, prompt, reply))
                    }
                    (Value::String(prompt), None) => Ok(plain("", prompt, reply)),
                    _ => {
                        let mut all = self.opening(prompt, name, system, place)?;
                        all.push(of("assistant", reply));
                        self.split(&all, place)
                    }
                }
            }
            Layout::Conversations => {
                let said = messages(value, name, place)?;
                let (opening, prompt_unsaid) = self.before(&said, record, system, place)?;
                let alone = matches!(&said[..], [only] if only.role == "assistant");
                if alone && opening.iter().all(|m| m.role == "system") {
                    return Err(self.unasked(record, name, place));
                }
                let all = [opening, said].concat();
                let side = self.split(&all, place)?;
                Ok(Side {
                    prompt_unsaid,
                    ..side
                })
            }
        }
    }

    /// What a reply answers is nowhere: most often the prompt's column has another name.
    fn unasked(&self, record: &Record, name: &str, place: &Place) -> crate::Error {
        let columns = self.columns;
        let prompt = match record.get(&columns.prompt) {
            None => format!("no column {:?}", columns.prompt),
            Some(_) => format!("an empty column {:?}", columns.prompt),
        };
        let why = format!(
            "column {name:?} holds a reply alone, and there is {prompt}; the columns found are {}{}",
            names(record),
            columns.advice()
        );
        at(place, why)
    }

    /// The messages that stand before those of a reply's column.
    fn before(
        &self,
        said: &[Message],
        record: &Record,
        system: Option<String>,
        place: &Place,
    ) -> Result<(Vec<Message>, bool)> {
        let name = &self.columns.prompt;
        let prompt = record.get(name).unwrap_or(&Value::Null);
        let asked = said.iter().any(|m| m.role == "user");
        let mut unsaid = false;
        let mut opening = match prompt {
            // UltraFeedback's layout: the conversation holds the prompt, and the column repeats it for people.
            Value::String(text) if asked => {
                unsaid = !said.iter().any(|m| m.content.trim() == text.trim());
                Vec::new()
            }
            Value::Null => Vec::new(),
            Value::String(text) => vec![of("user", text)],
            list => {
                let prompt = messages(list, name, place)?;
                let kept = prompt.len() - overlap(&prompt, said);
                prompt[..kept].to_vec()
            }
        };
        let first = opening.first().or(said.first());
        if let Some(system) = instruction(system, first) {
            opening.insert(0, system);
        }
        Ok((opening, unsaid))
    }

    /// A prompt as messages.
    fn opening(
        &self,
        prompt: &Value,
        name: &str,
        system: Option<String>,
        place: &Place,
    ) -> Result<Vec<Message>> {
        let mut all = match prompt {
            Value::String(text) => vec![of("user", text)],
            list if is_conversation(list) => messages(list, name, place)?,
            other => {
                let expected = "a text or a list of messages";
                return Err(wrong_kind(name, other, expected, place));
            }
        };
        if let Some(system) = instruction(system, all.first()) {
            all.insert(0, system);
        }
        Ok(all)
    }

    fn split(&self, all: &[Message], place: &Place) -> Result<Side> {
        let (prompt, reply) = match all.last() {
            Some(last) if last.role == "assistant" => self.template.split(all, place)?,
            Some(_) => (self.template.prompt(all, place)?, String::new()),
            None => Default::default(),
        };
        Ok(Side {
            prompt,
            reply,
            repeats_prompt: None,
            prompt_unsaid: false,
            answers: true,
            templated: self.template.is_own(),
        })
    }

    /// What a column of system messages says, blank where it says nothing; none without such a column.
    fn system(&self, record: &Record, place: &Place) -> Result<Option<String>> {
        let name = &self.columns.system;
        match record.get(name) {
            _ if name.is_empty() => Ok(None),
            None => Ok(None),
            Some(Value::Null) => Ok(Some(String::new())),
            Some(value) => Ok(Some(text(value, name, place)?.to_string())),
        }
    }

    /// A reply that is wanted or not.
    pub fn label(&self, record: &Record, place: &Place) -> Result<bool> {
        let name = &self.columns.label;
        match column(record, name, self.columns, place)? {
            Value::Bool(label) => Ok(*label),
            // A column of booleans with gaps is one of decimals in pandas.
            Value::Number(n) if n.as_f64() == Some(0.0) => Ok(false),
            Value::Number(n) if n.as_f64() == Some(1.0) => Ok(true),
            other => Err(at(
                place,
                format!("column {name:?}: found {other}, expected true or false"),
            )),
        }
    }

    /// A prompt: a text, a conversation, or the prompt of a preference record.
    pub fn prompt(&self, record: &Record, place: Place) -> Result<Prompt> {
        let columns = self.columns;
        if !record.contains_key(&columns.prompt) && record.contains_key(&columns.chosen) {
            let side = self.side(record, &columns.chosen, &place)?;
            return Ok(Prompt {
                text: side.prompt,
                templated: side.templated,
                place,
            });
        }
        let name = &columns.prompt;
        let value = column(record, name, columns, &place)?;
        let (text, templated) = match (value, self.system(record, &place)?) {
            (Value::String(text), None) => (text.clone(), false),
            (Value::String(text), Some(system)) if text.ends_with(ASSISTANT) => {
                (system + text, false)
            }
            (value, system) => {
                let all = self.opening(value, name, system, &place)?;
                (self.template.prompt(&all, &place)?, self.template.is_own())
            }
        };
        Ok(Prompt {
            text,
            templated,
            place,
        })
    }
}

fn of(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

/// The system message that a column adds in front of a conversation.
fn instruction(system: Option<String>, first: Option<&Message>) -> Option<Message> {
    let there = first.is_some_and(|m| m.role == "system");
    let said = system.filter(|text| !there && !text.trim().is_empty())?;
    Some(of("system", &said))
}

/// How many of the prompt's last messages the conversation says again: all of them where they stand together somewhere in it.
fn overlap(prompt: &[Message], said: &[Message]) -> usize {
    let same = |a: &[Message], b: &[Message]| {
        let mut both = a.iter().zip(b);
        both.all(|(a, b)| {
            a.role == b.role
                && a.content.trim() == b.content.trim()
                && a.tool_calls() == b.tool_calls()
        })
    };
    let n = prompt.len();
    if n > 0 && said.windows(n).any(|run| same(prompt, run)) {
        return n;
    }
    // A reply that repeats an assistant's turn at the end of the prompt is a reply.
    if said.first().is_some_and(|m| m.role == "assistant") {
        return 0;
    }
    let most = n.min(said.len());
    let found = (1..=most).rev().find(|&k| same(&prompt[n - k..], said));
    found.unwrap_or(0)
}

/// Texts as they are, with what stands in front of the prompt.
fn plain(front: &str, prompt: &str, reply: &str) -> Side {
    let repeats = !prompt.trim().is_empty() && reply.starts_with(prompt);
    Side {
        prompt: format!("{front}{prompt}"),
        reply: reply.into(),
        repeats_prompt: repeats.then_some(prompt.len()),
        prompt_unsaid: false,
        answers: true,
        templated: false,
    }
}

fn text<'a>(value: &'a Value, name: &str, place: &Place) -> Result<&'a str> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_kind(name, other, "a text", place)),
    }
}

fn column<'a>(
    record: &'a Record,
    name: &str,
    columns: &Columns,
    place: &Place,
) -> Result<&'a Value> {
    record.get(name).ok_or_else(|| {
        let found = names(record);
        at(
            place,
            format!(
                "no column {name:?}; the columns found are {found}{}",
                columns.advice()
            ),
        )
    })
}

/// Columns that a message names; a file that has its records under keys of their own has thousands.
const MOST_NAMED: usize = 20;

/// The columns of a record, for messages.
pub(super) fn names(record: &Record) -> String {
    // A damaged file has names of several lines.
    let mut found: Vec<String> = record
        .keys()
        .map(|k| k.escape_debug().to_string())
        .collect();
    found.sort_unstable();
    let more = found.len().saturating_sub(MOST_NAMED);
    found.truncate(MOST_NAMED);
    match (found.is_empty(), more) {
        (true, _) => "none".into(),
        (_, 0) => found.join(", "),
        (_, more) => format!("{} and {more} more", found.join(", ")),
    }
}

pub(super) fn wrong_kind(name: &str, value: &Value, expected: &str, place: &Place) -> crate::Error {
    let found = kind_of(value);
    at(
        place,
        format!("column {name:?}: found {found}, expected {expected}"),
    )
}
