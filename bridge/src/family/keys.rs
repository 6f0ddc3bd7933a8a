//! The top level of a `config.json`.

use super::{EndTokens, Head, Layers};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::path::Path;

/// Larger sizes are refused, so that a product of two never overflows.
const MAX_SIZE: u64 = 1 << 30;

/// The keys of a file and the file's name, for errors.
#[derive(Debug)]
pub struct Keys<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    /// What was read otherwise than it stands there.
    pub(super) notes: RefCell<Vec<String>>,
}

/// The class of `transformers` that a name stands for: itself, as some training library wrapped it, or as it was first written.
fn class_of<'n>(name: &str, known: [&'n str; 2]) -> Option<&'n str> {
    // FSDP's wrapper puts its name before, value heads theirs after; the Auto classes leave the family to `model_type`.
    let bare = name.strip_prefix("FSDP").unwrap_or(name);
    let bare = bare.strip_suffix("WithValueHead").unwrap_or(bare);
    let same = |class: &&&str| {
        let end = class.find("For").map_or("", |at| &class[at..]);
        bare.eq_ignore_ascii_case(class) || bare.strip_prefix("AutoModel") == Some(end)
    };
    known.iter().find(same).copied()
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self {
            path,
            object,
            notes: RefCell::default(),
        }
    }

    /// The head that `architectures` names.
    pub(super) fn head(&self, causal: &str, classification: &str) -> Result<Head> {
        let Some(value) = self.get("architectures") else {
            return Ok(Head::CausalLm);
        };
        let name = match value {
            Value::Array(names) if names.len() == 1 => names[0].as_str(),
            _ => None,
        };
        match name.and_then(|name| class_of(name, [causal, classification])) {
            Some(class) if class == causal => Ok(Head::CausalLm),
            Some(_) => Ok(Head::Classification {
                labels: self.labels()?,
            }),
            None => {
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

    /// A number strictly between 0 and 1.
    pub(super) fn epsilon(&self, key: &str, default: f64) -> Result<f64> {
        let eps = self.get(key).map_or(Ok(default), |v| self.number(key, v))?;
        if eps > 0.0 && eps < 1.0 {
            return Ok(eps);
        }
        Err(self.refuse(format!("{key}: found {eps}, must be positive and below 1")))
    }

    /// A token of the file, where the file has one, must be in the vocabulary.
    pub(super) fn check_tokens(
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

    /// Weights of few bits, by the name of what made them.
    pub(super) fn check_not_quantised(&self) -> Result<()> {
        for key in ["quantization_config", "compression_config"] {
            let Some(Value::Object(settings)) = self.get(key) else {
                continue;
            };
            let on = |flag: &str| settings.get(flag) == Some(&Value::Bool(true));
            let method = settings.get("quant_method").and_then(Value::as_str);
            let bits = settings.get("bits").or_else(|| settings.get("w_bit"));
            let bits = bits.and_then(Value::as_u64).map(|n| format!(", {n} bits"));
            let bits = bits.unwrap_or_default();
            let name = match method {
                // Written beside full weights too, with nothing switched on.
                Some("bitsandbytes") if !on("load_in_4bit") && !on("load_in_8bit") => continue,
                Some("bitsandbytes") if on("load_in_4bit") => "bitsandbytes, 4 bits".into(),
                Some("bitsandbytes") => "bitsandbytes, 8 bits".into(),
                Some("gptq") => format!("GPTQ{bits}"),
                Some("awq") => format!("AWQ{bits}"),
                Some("fp8" | "fbgemm_fp8") => "FP8".into(),
                Some(other) => format!("{other}{bits}"),
                None => "a method it does not name".into(),
            };
            return Err(self.refuse(format!(
                "{key}: the weights are quantised ({name}), expected f32, f16 or bf16; load the model in transformers, then model.dequantize() and save_pretrained(folder), or take the unquantised model"
            )));
        }
        Ok(())
    }

    /// A size, or where the key is absent (not null) what the class of `transformers` has.
    pub(super) fn size_or_class(&self, key: &str, default: usize) -> Result<usize> {
        match self.object.contains_key(key) {
            true => self.size(key),
            false => {
                let note =
                    format!("config.json has no {key}: took {default}, as transformers does");
                self.notes.borrow_mut().push(note);
                Ok(default)
            }
        }
    }

    /// The token that fills a batch up: none where the number is none, or has no row, as nothing is ever computed for it.
    pub(super) fn pad_token(&self, vocab_size: usize) -> Result<Option<u32>> {
        let token = self.token("pad_token_id", None, vocab_size)?;
        match token {
            Some(id) if id as usize >= vocab_size => {
                let note = format!(
                    "pad_token_id of config.json is {id}, beyond the vocabulary of {vocab_size}: taken for none"
                );
                self.notes.borrow_mut().push(note);
                Ok(None)
            }
            token => Ok(token),
        }
    }

    /// A key that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn size(&self, key: &str) -> Result<usize> {
        let value = self
            .get(key)
            .ok_or_else(|| self.missing(key, &whole_number()))?;
        self.size_of(key, value)
    }

    /// The default where the key is absent or null.
    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        self.get(key).map_or(Ok(default), |v| self.size_of(key, v))
    }

    /// A size, none where the key is null, the default where it is absent.
    pub(super) fn size_or_null(&self, key: &str, default: usize) -> Result<Option<usize>> {
        match self.object.get(key) {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(value) => self.size_of(key, value).map(Some),
        }
    }

    /// A number above 0, none where the key is null, the default where it is absent.
    pub(super) fn positive(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        match self.object.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => match self.number(key, value)? {
                number if number > 0.0 => Ok(Some(number)),
                _ => Err(self.wrong(key, value, "a number above 0 or null")),
            },
        }
    }

    /// The blocks whose attention is of a kind: as `layer_types` lists them or, without it, as `usual` says.
    pub(super) fn layers(
        &self,
        kind: &str,
        n_layers: usize,
        usual: impl Fn(usize) -> Option<Layers>,
    ) -> Result<Option<Layers>> {
        const KEY: &str = "layer_types";
        // A list for each of more would fill the memory.
        const MOST: usize = 1 << 14;
        if n_layers > MOST {
            return Err(self.refuse(format!("found {n_layers} layers, expected at most {MOST}")));
        }
        let Some(value) = self.get(KEY) else {
            return Ok(usual(n_layers));
        };
        let read = |name: &Value| match name.as_str() {
            Some("full_attention") => Some(false),
            Some(name) if name == kind => Some(true),
            _ => None,
        };
        let list = value.as_array().filter(|list| list.len() == n_layers);
        match list.and_then(|list| list.iter().map(read).collect()) {
            Some(list) => Ok(Layers::of(list)),
            None => {
                let expected =
                    format!("{n_layers} times \"full_attention\" or \"{kind}\", one a block");
                Err(self.wrong(KEY, value, &expected))
            }
        }
    }

    pub(super) fn size_of(&self, key: &str, value: &Value) -> Result<usize> {
        match value.as_u64() {
            Some(n @ 1..=MAX_SIZE) => Ok(n as usize),
            _ => Err(self.wrong(key, value, &whole_number())),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub(super) fn number(&self, key: &str, value: &Value) -> Result<f64> {
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(self.wrong(key, value, "a number")),
        }
    }

    /// A key that is absent has the default where the vocabulary holds it; null is no token.
    pub(super) fn token(
        &self,
        key: &str,
        default: Option<u32>,
        vocab_size: usize,
    ) -> Result<Option<u32>> {
        let one = match self.object.get(key) {
            None => return Ok(default.filter(|&t| (t as usize) < vocab_size)),
            Some(Value::Null) => return Ok(None),
            // Early files of Llama write none so.
            Some(value) if value.as_i64() == Some(-1) => return Ok(None),
            Some(Value::Array(items)) if items.len() == 1 => &items[0],
            Some(value) => value,
        };
        match one.as_u64().and_then(|t| u32::try_from(t).ok()) {
            Some(token) => Ok(Some(token)),
            None => Err(self.wrong(key, one, "one token id or null")),
        }
    }

    /// `eos_token_id`: one token, a list of them, or null; a key that is absent has the default where the vocabulary holds it.
    pub(super) fn end_tokens(&self, default: Option<u32>, vocab_size: usize) -> Result<EndTokens> {
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

    pub(super) fn refuse(&self, why: String) -> Error {
        Error::file(self.path, why)
    }

    pub(super) fn missing(&self, key: &str, expected: &str) -> Error {
        self.refuse(format!("{key}: not there, expected {expected}"))
    }

    pub(super) fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
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
