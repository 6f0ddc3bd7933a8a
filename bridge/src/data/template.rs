//! Conversations as text.

use std::path::Path;
use std::sync::Arc;

use minijinja::{Environment, ErrorKind, context};
use serde_json::{Value, json};

use super::{ASSISTANT, HUMAN, Place, at, in_file};
use crate::{Result, gguf};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// How messages become the text a model reads.
#[derive(Debug, Clone, Default)]
pub enum ChatTemplate {
    /// HH-RLHF's form: `"\n\nHuman: …\n\nAssistant: …"`; a system message stands in front as it is.
    #[default]
    HhRlhf,
    /// The Jinja template of a tokenizer.
    Jinja(Arc<Jinja>),
}

/// A compiled template with the special tokens it may print.
#[derive(Debug)]
pub struct Jinja {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The template of a tokenizer's folder, of its `tokenizer_config.json` or of a GGUF file; a `chat_template.jinja` beside it goes first.
    ///
    /// # Errors
    /// [`crate::Error::Data`] naming the file: unreadable, malformed, without a template, a template that does not compile.
    pub fn from_tokenizer(path: &Path) -> Result<Self> {
        if gguf::is_gguf(path) {
            let [_, (_, text), _] =
                gguf::tokenizer_files(path).map_err(|e| in_file(path, e.to_string()))?;
            let value: Value = serde_json::from_str(&text)
                .map_err(|e| in_file(path, format!("malformed JSON: {e}")))?;
            let source = template_in(&value["chat_template"])
                .ok_or_else(|| in_file(path, "holds no chat_template"))?;
            return Self::compiled(source.into(), &value, path);
        }
        let config = match path.is_dir() {
            true => path.join("tokenizer_config.json"),
            false => path.into(),
        };
        let text = std::fs::read_to_string(&config)
            .map_err(|e| in_file(&config, format!("cannot read: {e}")))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| in_file(&config, format!("malformed JSON: {e}")))?;
        let beside = config.with_file_name("chat_template.jinja");
        let (source, file) = match std::fs::read_to_string(&beside) {
            Ok(source) => (source, beside),
            Err(_) => match template_in(&value["chat_template"]) {
                Some(source) => (source.into(), config),
                None => return Err(in_file(&config, "holds no chat_template")),
            },
        };
        Self::compiled(source, &value, &file)
    }

    /// A template and the special tokens that a `tokenizer_config.json` names.
    fn compiled(source: String, config: &Value, file: &Path) -> Result<Self> {
        let [bos, eos] = ["bos_token", "eos_token"].map(|key| special(&config[key]));
        Self::jinja(source, bos, eos)
            .map_err(|e| in_file(file, format!("chat_template: {}", brief(&e))))
    }

    /// A template from its source.
    fn jinja(source: String, bos: &str, eos: &str) -> std::result::Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |why: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
        environment.add_template_owned(NAME, source)?;
        Ok(Self::Jinja(Arc::new(Jinja {
            environment,
            bos_token: bos.into(),
            eos_token: eos.into(),
        })))
    }

    /// The text a model continues as the assistant.
    pub(super) fn prompt(&self, messages: &[Message], place: &Place) -> Result<String> {
        self.render(messages, true, place)
    }

    /// A conversation that ends with the assistant's words as (prompt, reply). The end-of-sentence token that a
    /// template prints is left out, because whoever makes tokens of the reply appends it.
    pub(super) fn split(&self, messages: &[Message], place: &Place) -> Result<(String, String)> {
        let Some((last, history)) = messages.split_last() else {
            return Ok(Default::default());
        };
        let prompt = self.render(history, true, place)?;
        let jinja = match self {
            Self::HhRlhf if last.content.is_empty() => return Ok((prompt, String::new())),
            Self::HhRlhf => return Ok((prompt, format!(" {}", last.content))),
            Self::Jinja(jinja) => jinja,
        };
        let whole = self.render(messages, false, place)?;
        let reply = whole.strip_prefix(&prompt).ok_or_else(|| {
            let why = "the chat template prints a conversation that does not start with its own prompt; prompt and reply cannot be told apart";
            at(place, why)
        })?;
        let cut = reply.trim_end();
        let reply = match cut.strip_suffix(&jinja.eos_token) {
            Some(words) if !jinja.eos_token.is_empty() => words,
            _ => reply,
        };
        Ok((prompt, reply.into()))
    }

    fn render(&self, messages: &[Message], open: bool, place: &Place) -> Result<String> {
        let Self::Jinja(jinja) = self else {
            return hh(messages, open, place);
        };
        let message = |m: &Message| json!({"role": m.role, "content": m.content});
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let said = jinja
            .environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => messages,
                    add_generation_prompt => open,
                    bos_token => jinja.bos_token,
                    eos_token => jinja.eos_token,
                })
            })
            .map_err(|e| at(place, format!("chat template: {}", brief(&e))))?;
        Ok(said)
    }
}

fn hh(messages: &[Message], open: bool, place: &Place) -> Result<String> {
    let mut text = String::new();
    for (i, message) in messages.iter().enumerate() {
        let content = &message.content;
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

/// A template is a text, or a list of named ones of which `default` counts.
fn template_in(value: &Value) -> Option<&str> {
    match value {
        Value::String(source) => Some(source),
        Value::Array(list) => {
            let default = list.iter().find(|item| item["name"] == "default");
            default.or(list.first())?["template"].as_str()
        }
        _ => None,
    }
}

/// A special token is a text, or an object with its content.
fn special(value: &Value) -> &str {
    value
        .as_str()
        .or(value["content"].as_str())
        .unwrap_or_default()
}

fn brief(e: &minijinja::Error) -> String {
    let line = e.line().map(|l| format!("line {l}: ")).unwrap_or_default();
    let what = e.detail().map_or(e.kind().to_string(), String::from);
    format!("{line}{what}")
}
