//! Conversations as text.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::jinja::Jinja;
use super::value::{self, Record};
use super::{ASSISTANT, HUMAN, Place, at, in_file};
use crate::{Result, gguf, tokenizer};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said; empty where a turn is calls of tools alone.
    pub content: String,
    /// What a template is given: all keys of the message as the file writes them, in its order, `role` and `content` under these names.
    pub(super) keys: Record,
}

impl Message {
    /// A message of a role and its words.
    pub fn new(role: &str, content: &str) -> Self {
        let text = |text: &str| value::Value::String(text.into());
        let keys = [
            ("role".to_string(), text(role)),
            ("content".to_string(), text(content)),
        ];
        Self {
            role: role.into(),
            content: content.into(),
            keys: keys.into_iter().collect(),
        }
    }

    /// Calls of tools, where there are some.
    pub(super) fn tool_calls(&self) -> Option<&value::Value> {
        let calls = self.keys.get("tool_calls");
        calls.filter(|v| !v.is_null() && **v != value::Value::Array(Vec::new()))
    }
}

/// How messages become the text a model reads.
#[derive(Debug, Clone, Default)]
pub enum ChatTemplate {
    /// HH-RLHF's form: `"\n\nHuman: …\n\nAssistant: …"`; a system message stands in front as it is.
    #[default]
    HhRlhf,
    /// The Jinja template of a tokenizer.
    Jinja(Arc<Jinja>),
    /// A template that is there and cannot be used, and why: the first conversation is refused.
    Unusable(Arc<str>),
}

impl ChatTemplate {
    /// The template of a tokenizer's folder (`chat_template.jinja` goes before `tokenizer_config.json`), of a `tokenizer_config.json`,
    /// or of a GGUF file.
    ///
    /// # Errors
    /// [`crate::Error::Data`] naming the file: unreadable, malformed, without a template, a template that does not compile.
    pub fn from_tokenizer(path: &Path) -> Result<Self> {
        let found = find(path)?;
        found.ok_or_else(|| in_file(path, "holds no chat_template"))
    }

    /// How a model writes conversations: by its own template, in HH-RLHF's form where it has none (most base models), not at
    /// all where it has one that cannot be used.
    pub fn of_model(path: &Path) -> Self {
        match find(path) {
            Ok(own) => own.unwrap_or_default(),
            Err(why) => Self::Unusable(why.to_string().into()),
        }
    }

    /// Whether it is a tokenizer's own template: what it writes begins and ends as the model expects.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Jinja(_))
    }

    /// Which form conversations are written in, for people.
    pub fn said(&self) -> String {
        match self {
            Self::HhRlhf => {
                "no chat template: conversations are written as \"Human: …\", \"Assistant: …\""
                    .into()
            }
            Self::Jinja(jinja) => {
                let file = jinja.file().display();
                let dated = match jinja.dated {
                    true => "; it prints the date, which SOURCE_DATE_EPOCH fixes",
                    false => "",
                };
                format!("conversations are written by the chat template of {file}{dated}")
            }
            Self::Unusable(why) => format!("conversations cannot be written: {why}"),
        }
    }

    /// The text a model continues as the assistant.
    pub(super) fn prompt(&self, messages: &[Message], place: &Place) -> Result<String> {
        self.render(messages, true, place)
    }

    /// A conversation that ends with the assistant's words as (prompt, reply). What a template prints behind the words, the
    /// token that ends a turn above all, is part of the reply.
    pub(super) fn split(&self, messages: &[Message], place: &Place) -> Result<(String, String)> {
        let Some((last, history)) = messages.split_last() else {
            return Ok(Default::default());
        };
        let prompt = self.render(history, true, place)?;
        if last.content.trim().is_empty() && last.tool_calls().is_none() {
            return Ok((prompt, String::new()));
        }
        if let Self::HhRlhf = self {
            hh(messages, false, place)?;
            return Ok((prompt, format!(" {}", last.content)));
        }
        let whole = self.render(messages, false, place)?;
        // A template may open a reply otherwise than it writes one (DeepSeek-R1's with "<think>"): what both begin with is the
        // prompt, as in TRL, but never less than the conversation before.
        let same = prompt
            .chars()
            .zip(whole.chars())
            .take_while(|(a, b)| a == b);
        let cut: usize = same.map(|(a, _)| a.len_utf8()).sum();
        if cut < prompt.len() && !whole.starts_with(&self.render(history, false, place)?) {
            let why = "the chat template prints a conversation that does not start with its own prompt; prompt and reply cannot be told apart";
            return Err(at(place, why));
        }
        Ok((whole[..cut].into(), whole[cut..].into()))
    }

    fn render(&self, messages: &[Message], open: bool, place: &Place) -> Result<String> {
        match self {
            Self::HhRlhf => hh(messages, open, place),
            Self::Unusable(why) => Err(at(place, why.to_string())),
            Self::Jinja(jinja) => {
                let messages = messages.iter().map(|m| value::for_template(&m.keys));
                jinja
                    .render(messages.collect(), open)
                    .map_err(|why| at(place, why))
            }
        }
    }
}

/// The template of a tokenizer, where it has one.
fn find(path: &Path) -> Result<Option<ChatTemplate>> {
    let (settings, folder) = if gguf::is_gguf(path) || path.is_dir() {
        let settings = tokenizer::settings(path);
        (settings, (!gguf::is_gguf(path)).then_some(path))
    } else {
        (settings_of(path), path.parent())
    };
    let (settings, special) = settings.map_err(|e| match e {
        e @ crate::Error::Data { .. } => e,
        e => in_file_of(e),
    })?;
    let own = match folder {
        None => path.to_path_buf(),
        Some(folder) => folder.join("tokenizer_config.json"),
    };
    let beside = folder.map(|folder| folder.join("chat_template.jinja"));
    let (source, file) = match beside.filter(|file| file.exists()) {
        Some(file) => {
            let text = std::fs::read_to_string(&file)
                .map_err(|e| in_file(&file, format!("cannot read: {e}")))?;
            (text.trim_start_matches('\u{feff}').to_string(), file)
        }
        None => match template_in(&settings["chat_template"], &own)? {
            Some(source) => (source.to_string(), own),
            None => return Ok(None),
        },
    };
    let compiled = Jinja::new(&source, file.clone(), special);
    let jinja = compiled.map_err(|why| in_file(&file, format!("chat_template: {why}")))?;
    Ok(Some(ChatTemplate::Jinja(Arc::new(jinja))))
}

/// An error of the tokenizer's files among errors of data.
fn in_file_of(error: crate::Error) -> crate::Error {
    match error {
        crate::Error::File { path, why, .. } => in_file(&path, why),
        other => other,
    }
}

type Settings = (Value, Vec<(String, String)>);

/// A `tokenizer_config.json` alone.
fn settings_of(path: &Path) -> Result<Settings> {
    let value = tokenizer::json_of(path, &mut Vec::new())?;
    let value = value.ok_or_else(|| in_file(path, "no such file"))?;
    let special = special(value.as_object().unwrap_or(&Map::new()));
    Ok((value, special))
}

fn special(settings: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| Some(value.as_str().or(value["content"].as_str())?.to_string());
    let named = settings.iter().filter(|(key, _)| key.ends_with("_token"));
    named
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
        .collect()
}

/// A template is a text, or a list of named ones of which `default` counts.
fn template_in<'a>(value: &'a Value, file: &Path) -> Result<Option<&'a str>> {
    let list = match value {
        Value::Null => return Ok(None),
        Value::String(source) => return Ok(Some(source)),
        Value::Array(list) => list,
        other => {
            let found = match other {
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                _ => "an object",
            };
            let why = format!(
                "chat_template: found {found}, expected a text or a list of named templates"
            );
            return Err(in_file(file, why));
        }
    };
    let default = list.iter().find(|item| item["name"] == "default");
    if let Some(source) = default.and_then(|item| item["template"].as_str()) {
        return Ok(Some(source));
    }
    let names: Vec<_> = list
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    let why =
        format!("chat_template: found templates named {names:?}, expected one named \"default\"");
    Err(in_file(file, why))
}

fn hh(messages: &[Message], open: bool, place: &Place) -> Result<String> {
    let mut text = String::new();
    for (i, message) in messages.iter().enumerate() {
        let content = &message.content;
        if message.tool_calls().is_some() {
            let why = format!(
                "message {i}: found tool_calls, which \"Human: …\", \"Assistant: …\" cannot write; give a model with a chat template"
            );
            return Err(at(place, why));
        }
        match message.role.as_str() {
            "user" => text.extend([HUMAN, " ", content]),
            "assistant" => text.extend([ASSISTANT, " ", content]),
            "system" => text.push_str(content),
            other => {
                let why = format!(
                    "message {i}: found role {other:?}, expected user, assistant or system"
                );
                return Err(at(place, why));
            }
        }
    }
    if open {
        text.push_str(ASSISTANT);
    }
    Ok(text)
}
