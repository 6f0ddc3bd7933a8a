//! The files of a tokenizer: `tokenizer.json`, and what stands beside it.

use super::class::Class;
use crate::{Error, Result, gguf};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Special tokens that have a name of their own in `tokenizer_config.json`.
pub(super) const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// What the files of a tokenizer say, before any of it is applied.
pub(crate) struct Files {
    /// The file that errors name: `tokenizer.json`, or the GGUF file.
    pub path: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, and over it `special_tokens_map.json` where that counts.
    pub settings: Map<String, Value>,
    /// What is added to the vocabulary, in order of id, and the file that says so.
    pub added: Vec<(u32, Added, &'static str)>,
    /// The class of `transformers` that reads the folder.
    pub class: Class,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// A token that is found in a text before the text is cut into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Added {
    pub content: String,
    pub special: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
}

impl Added {
    /// A token that is special, and found as it is written.
    pub fn special(content: &str) -> Self {
        Self::plain(content, true)
    }

    fn plain(content: &str, special: bool) -> Self {
        Self {
            content: content.into(),
            special,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: !special,
        }
    }

    /// A text, or an object with `content` and flags.
    fn of(value: &Value, special: bool) -> Option<Self> {
        if let Some(content) = value.as_str() {
            return Some(Self::plain(content, special));
        }
        let content = value.get("content")?.as_str()?;
        let flag = |key: &str, default: bool| match value.get(key) {
            None | Some(Value::Null) => Some(default),
            Some(flag) => flag.as_bool(),
        };
        let special = flag("special", special)?;
        Some(Self {
            content: content.into(),
            special,
            single_word: flag("single_word", false)?,
            lstrip: flag("lstrip", false)?,
            rstrip: flag("rstrip", false)?,
            normalized: flag("normalized", !special)?,
        })
    }
}

impl Files {
    /// Whether a folder, or GGUF file, has a tokenizer.
    pub fn are_in(folder: &Path) -> bool {
        gguf::is_gguf(folder) || folder.join(TOKENIZER).is_file()
    }

    /// Reads the files of a folder, or the metadata of a GGUF file. `model_type` is that of `config.json`.
    pub fn read(folder: &Path, model_type: &str) -> Result<Self> {
        if gguf::is_gguf(folder) {
            return Self::of_gguf(folder);
        }
        let mut notes = Vec::new();
        let path = folder.join(TOKENIZER);
        let Some(tokenizer) = json_of(&path, &mut notes)? else {
            let instead = super::Tokenizer::instead_in(folder);
            return Err(Error::file(path, format!("no such file{instead}")));
        };
        Self::beside(folder, tokenizer, Some(model_type), notes)
    }

    /// What stands beside `tokenizer.json`, which need not be there.
    pub fn settings(folder: &Path) -> Result<Self> {
        if gguf::is_gguf(folder) {
            return Self::of_gguf(folder);
        }
        let mut notes = Vec::new();
        let tokenizer = json_of(&folder.join(TOKENIZER), &mut notes)?;
        Self::beside(
            folder,
            tokenizer.unwrap_or(Value::Object(Map::new())),
            None,
            notes,
        )
    }

    fn beside(
        folder: &Path,
        tokenizer: Value,
        model_type: Option<&str>,
        mut notes: Vec<String>,
    ) -> Result<Self> {
        let path = folder.join(TOKENIZER);
        if !tokenizer.is_object() {
            return Err(Error::file(path, "not a tokenizer: expected a JSON object"));
        }
        let settings = object_of(&folder.join(SETTINGS), &mut notes)?;
        let mut files = Self {
            class: Class::AsItLies,
            path,
            tokenizer,
            settings: settings.unwrap_or_default(),
            added: Vec::new(),
            notes,
        };
        files.merge_special_tokens(folder)?;
        files.find_added(folder)?;
        // A fault of config.json is told where the network is read.
        let config = object_of(&folder.join("config.json"), &mut Vec::new());
        let config = config.ok().flatten();
        let own = config.as_ref().and_then(|c| c.get("model_type")?.as_str());
        let model_type = model_type.or(own).unwrap_or_default();
        files.class = Class::of(&files, model_type, config.as_ref());
        Ok(files)
    }

    fn of_gguf(path: &Path) -> Result<Self> {
        let [(_, tokenizer), (_, settings), _] = gguf::tokenizer_files(path)?;
        let parse = |text: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|e| Error::file(path, format!("not a tokenizer: {e}")))
        };
        Ok(Self {
            path: path.into(),
            tokenizer: parse(&tokenizer)?,
            settings: match parse(&settings)? {
                Value::Object(settings) => settings,
                _ => Map::new(),
            },
            added: Vec::new(),
            class: Class::AsItLies,
            notes: Vec::new(),
        })
    }

    /// The text of a named special token.
    pub fn named(&self, key: &str) -> Option<&str> {
        match self.settings.get(key) {
            Some(value) => value.as_str().or(value["content"].as_str()),
            None => self.class.default_token(key),
        }
    }

    /// What the network need not have a row for: nothing reads the padding, and CodeLlama's mark of a gap stands for what is cut out.
    pub fn without_row(&self) -> Vec<String> {
        let keys = ["pad_token", "fill_token"];
        let named = |key: &str| {
            let of_class = self.class.own_tokens().iter().find(|(k, _)| *k == key);
            let default = of_class.map(|(_, default)| *default);
            let set = self.settings.get(key).is_some();
            self.named(key)
                .or(default.filter(|_| !set))
                .map(String::from)
        };
        keys.into_iter().filter_map(named).collect()
    }

    /// Special tokens without a name of their own.
    pub fn extra(&self) -> Vec<Added> {
        let list = |key: &str| self.settings.get(key).filter(|v| !v.is_null());
        let value =
            list("extra_special_tokens").filter(|v| v.as_array().is_none_or(|l| !l.is_empty()));
        let values: Vec<&Value> = match value.or(list("additional_special_tokens")) {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(named)) => named.values().collect(),
            _ => Vec::new(),
        };
        // A model's own tokens: image_token and the like.
        let own = self.settings.iter();
        let of_class = self.class.own_tokens();
        let known = |key: &str| NAMED.contains(&key) || of_class.iter().any(|(k, _)| *k == key);
        let own = own.filter(|(key, _)| key.ends_with("_token") && !known(key));
        let values = values.into_iter().chain(own.map(|(_, value)| value));
        let tokens = values.filter_map(|value| Added::of(value, true));
        let of_class = of_class
            .iter()
            .filter_map(|(key, default)| match self.settings.get(*key) {
                Some(value) => Added::of(value, true),
                None => Some(Added::special(default)),
            });
        tokens.chain(of_class).collect()
    }

    /// `special_tokens_map.json` counts where `tokenizer_config.json` does not list the added tokens, as in `transformers`.
    fn merge_special_tokens(&mut self, folder: &Path) -> Result<()> {
        let Some(map) = object_of(&folder.join(SPECIAL), &mut self.notes)? else {
            return Ok(());
        };
        let counts = !self.settings.contains_key("added_tokens_decoder");
        for (key, value) in map {
            let text = |value: &Value| {
                value
                    .as_str()
                    .or(value["content"].as_str())
                    .map(String::from)
            };
            let (theirs, ours) = (text(&value), self.settings.get(&key).and_then(text));
            if let (Some(theirs), Some(ours)) = (theirs, ours)
                && theirs != ours
            {
                let taken = if counts { &theirs } else { &ours };
                self.notes.push(format!(
                    "{key} is {ours:?} in {SETTINGS} and {theirs:?} in {SPECIAL}; {taken:?} is taken, as transformers does"
                ));
            }
            if counts {
                self.settings.insert(key, value);
            }
        }
        Ok(())
    }

    fn find_added(&mut self, folder: &Path) -> Result<()> {
        let legacy = folder.join(ADDED);
        let listed = object_of(&legacy, &mut self.notes)?;
        if let Some(decoder) = self.settings.get("added_tokens_decoder") {
            let path = folder.join(SETTINGS);
            let wrong = |found: &str| {
                let why = format!(
                    "added_tokens_decoder: found {found}, expected an object of tokens by id"
                );
                Error::file(&path, why)
            };
            let decoder = decoder.as_object().ok_or_else(|| wrong("no object"))?;
            for (id, value) in decoder {
                let token = Added::of(value, false);
                let (Ok(id), Some(token)) = (id.parse(), token) else {
                    return Err(wrong(&format!("{id:?}: {value}")));
                };
                self.added.push((id, token, SETTINGS));
            }
            let known = |content: &str| self.added.iter().any(|(_, t, _)| t.content == content);
            let unknown = listed.iter().flat_map(Map::keys).find(|c| !known(c));
            if let Some(content) = unknown {
                self.notes.push(format!(
                    "{ADDED} lists {content:?}, added_tokens_decoder of {SETTINGS} does not: {ADDED} is not read, as in transformers"
                ));
            }
        } else {
            for (content, id) in listed.into_iter().flatten() {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let Some(id) = id else {
                    let why = format!("{content:?}: expected a token id");
                    return Err(Error::file(legacy, why));
                };
                let named = NAMED.iter().any(|key| self.named(key) == Some(&content));
                let special = named || self.extra().iter().any(|t| t.content == content);
                self.added
                    .push((id, Added::plain(&content, special), ADDED));
            }
        }
        self.added.sort_by_key(|(id, ..)| *id);
        Ok(())
    }
}

/// Files in which tokenizers come that are not read here: SentencePiece's, those of the classes without the library, Mistral's.
const OTHERS: [&str; 7] = [
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "tokenizer.model.v3",
];

/// The first of them that a folder holds.
pub(super) fn instead(folder: &Path) -> Option<&'static str> {
    OTHERS.into_iter().find(|name| folder.join(name).is_file())
}

/// A file of JSON, without the byte-order mark that some editors put in front; none where there is no file.
pub(crate) fn json_of(path: &Path, notes: &mut Vec<String>) -> Result<Option<Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(path, format!("cannot read: {e}"))),
    };
    let name = || {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        None => &bytes[..],
        Some(rest) => {
            notes.push(format!(
                "{} begins with a byte-order mark, which is left out",
                name()
            ));
            rest
        }
    };
    crate::json::of_file(path, bytes).map(Some)
}

fn object_of(path: &Path, notes: &mut Vec<String>) -> Result<Option<Map<String, Value>>> {
    match json_of(path, notes)? {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(Error::file(path, "expected a JSON object")),
    }
}
