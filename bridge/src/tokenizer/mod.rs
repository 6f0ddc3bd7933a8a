//! The tokenizer of a model folder.
//!
//! Token ids are those of `transformers` 5: `tokenizer.json` with what stands beside it (added tokens, the blank in front, the rules of
//! the class that `tokenizer_config.json` names), without truncation, padding and dropout. [`Tokenizer::notes`] says where files disagree.
//!
//! Prompt and reply are one text ([`Tokenizer::pair`]): what is cut into tokens is the two joined, because many tokenizers
//! cut the start of a text in another way than its middle. Replies are decoded behind their prompt ([`Tokenizer::reply_text`]).

mod class;
mod files;

use crate::family::ModelConfig;
use crate::tokenizer_training::TrainedTokenizer;
use crate::{Error, Result, guard};
pub(crate) use files::json_of;
use files::{Added, Files, NAMED};
use rto::Token;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, PostProcessorWrapper};

/// The tokenizer of a folder or GGUF file.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    beginning: Vec<Token>,
    end: Option<Token>,
    without_row: Vec<String>,
    notes: Vec<String>,
}

impl From<TrainedTokenizer> for Tokenizer {
    fn from(trained: TrainedTokenizer) -> Self {
        let inner = trained.into_inner();
        Self {
            end: inner.token_to_id(crate::tokenizer_training::END_OF_TEXT),
            inner,
            path: "the tokenizer trained here".into(),
            beginning: Vec::new(),
            without_row: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// How much longer the replacements of a tokenizer may make a text; SentencePiece's blank makes one of blanks three times as long.
const MOST_TIMES: f64 = 1000.0;

/// How many times as long the replacements of a step, and of the steps in it one after the other, may make a text.
fn growth(step: &Value) -> f64 {
    let lists = ["normalizers", "decoders"].map(|key| step[key].as_array());
    let inside = lists.into_iter().flatten().flatten().map(growth);
    let bytes = |text: &Value| text.as_str().map_or(0.0, |t| t.len() as f64);
    let own = match step["type"].as_str() {
        // A pattern that is no plain text matches one byte, or none.
        Some("Replace") => bytes(&step["content"]) / bytes(&step["pattern"]["String"]).max(1.0),
        _ => 1.0,
    };
    own.max(1.0) * inside.product::<f64>()
}

/// What the library makes of a file, which may be damaged so that it gives up with a panic.
fn guarded<T>(path: &Path, what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let wrong = |e: &dyn std::fmt::Display| Error::file(path, format!("{what}: {e}"));
    guard::catch(work)
        .map_err(|e| wrong(&e))?
        .map_err(|e| wrong(&e))
}

impl Tokenizer {
    /// Reads the tokenizer files of a folder, or the metadata of a GGUF file, and checks that every id has a row in the network's embedding.
    ///
    /// # Errors
    /// [`Error::File`]: no such file, a damaged one, ids outside the network's vocabulary, files that give one token two ids.
    pub fn load(folder: &Path, config: &ModelConfig) -> Result<Self> {
        let mut tokenizer = Self::read(folder, config.model_type())?;
        let rows = config.vocab_size();
        let all = tokenizer.inner.get_vocab(true).into_iter();
        let mut outside: Vec<(u32, String)> = all
            .filter(|(_, id)| *id as usize >= rows)
            .map(|(token, id)| (id, token))
            .collect();
        // A padding token is never read: TRL's users add one without a row.
        for needless in std::mem::take(&mut tokenizer.without_row) {
            let Some(at) = outside.iter().position(|(_, token)| *token == needless) else {
                continue;
            };
            let (id, token) = outside.remove(at);
            tokenizer.notes.push(format!(
                "{token:?} has the id {id}, beyond the {rows} rows of the network's vocabulary, and is never read"
            ));
        }
        if let Some((id, token)) = outside.into_iter().max() {
            let why = format!(
                "has the token id {id} ({token:?}), but the network's vocabulary has {rows} rows"
            );
            return Err(Error::file(tokenizer.path, why));
        }
        tokenizer.notes.dedup();
        Ok(tokenizer)
    }

    /// The tokenizer of a folder, without a look at the network.
    fn read(folder: &Path, model_type: &str) -> Result<Self> {
        let mut files = Files::read(folder, model_type)?;
        let class = files.class;
        class.apply(&mut files);
        for (key, what) in [("truncation", "cuts texts"), ("padding", "fills texts up")] {
            if !files.tokenizer[key].is_null() {
                files.tokenizer[key] = Value::Null;
                let note = format!("{key} of tokenizer.json, which {what}, is switched off");
                files.notes.push(note);
            }
        }
        let model = &mut files.tokenizer["model"];
        if model
            .get("dropout")
            .and_then(Value::as_f64)
            .is_some_and(|p| p > 0.0)
        {
            model["dropout"] = Value::Null;
            let note = "dropout of tokenizer.json, which cuts a text by chance, is switched off";
            files.notes.push(note.into());
        }
        for key in ["normalizer", "decoder"] {
            let times = growth(&files.tokenizer[key]);
            if times > MOST_TIMES {
                let why = format!(
                    "{key}: its replacements may make a text {times:.0e} times as long, expected at most {MOST_TIMES} times"
                );
                return Err(Error::file(files.path, why));
            }
        }
        let text = files.tokenizer.to_string();
        let inner: tokenizers::Tokenizer =
            guarded(&files.path, "not a tokenizer", || text.parse())?;
        let mut tokenizer = Self {
            inner,
            path: files.path.clone(),
            beginning: Vec::new(),
            end: None,
            without_row: files.without_row(),
            notes: std::mem::take(&mut files.notes),
        };
        tokenizer.add(&files)?;
        if files.settings.get("split_special_tokens") == Some(&Value::Bool(true)) {
            tokenizer.inner.set_encode_special_tokens(true);
        }
        tokenizer.end = files
            .named("eos_token")
            .and_then(|t| tokenizer.inner.token_to_id(t));
        tokenizer.read_frame(&files)?;
        Ok(tokenizer)
    }

    /// Adds what the files beside `tokenizer.json` add, in the order of `transformers`.
    fn add(&mut self, files: &Files) -> Result<()> {
        let known = |inner: &tokenizers::Tokenizer, content: &str| {
            let added = inner.get_added_tokens_decoder();
            added.values().any(|t| t.content == content)
        };
        let mut tokens: Vec<Added> = files.added.iter().map(|(_, t, _)| t.clone()).collect();
        for key in NAMED {
            let Some(content) = files.named(key) else {
                continue;
            };
            if known(&self.inner, content) || tokens.iter().any(|t| t.content == content) {
                continue;
            }
            // A class's own name for a token counts where the vocabulary has it.
            let own = files.settings.contains_key(key);
            if !own && self.inner.token_to_id(content).is_none() {
                continue;
            }
            tokens.push(Added::special(content));
        }
        for token in files.extra() {
            if !known(&self.inner, &token.content) && !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let made = |t: &Added| {
            AddedToken::from(t.content.clone(), t.special)
                .single_word(t.single_word)
                .lstrip(t.lstrip)
                .rstrip(t.rstrip)
                .normalized(t.normalized)
        };
        let made: Vec<AddedToken> = tokens.iter().map(made).collect();
        guarded(&self.path, "cannot add tokens", || {
            self.inner.add_tokens(made)
        })?;
        for (id, token, file) in &files.added {
            let found = self.inner.token_to_id(&token.content);
            if found != Some(*id) {
                let content = &token.content;
                let found = found.map_or("none".into(), |id| id.to_string());
                let why = format!("{content:?} has id {id}, tokenizer.json gives it {found}");
                return Err(Error::file(self.path.with_file_name(file), why));
            }
        }
        Ok(())
    }

    /// What the post-processor puts around a text. It is then taken off: its other work is to trim offsets.
    fn read_frame(&mut self, files: &Files) -> Result<()> {
        const WORD: &str = "a";
        let plain = self.encode(WORD)?;
        let whole = guarded(&self.path, "cannot encode", || {
            self.inner.encode(WORD, true)
        })?;
        let whole = whole.get_ids();
        let at = whole.windows(plain.len().max(1)).position(|w| w == plain);
        let at = at.unwrap_or(0);
        self.beginning = whole[..at].to_vec();
        let ending = &whole[(at + plain.len()).min(whole.len())..];
        if !ending.is_empty() {
            let ending = self.pieces(ending)?.concat();
            self.notes.push(format!(
                "tokenizer.json puts {ending:?} behind every text; prompts and replies are read without it"
            ));
        }
        let asked = files.settings.get("add_bos_token").and_then(Value::as_bool);
        if let Some(asked) = asked
            && asked == self.beginning.is_empty()
        {
            let puts = if asked {
                "puts nothing in front"
            } else {
                "puts a begin token in front"
            };
            self.notes.push(format!(
                "add_bos_token of tokenizer_config.json is {asked}, tokenizer.json {puts}: as in transformers 5, tokenizer.json decides"
            ));
        }
        self.inner.with_post_processor(None::<PostProcessorWrapper>);
        Ok(())
    }

    /// Whether a folder has one.
    pub fn is_in(folder: &Path) -> bool {
        Files::are_in(folder)
    }

    /// A tokenizer of another kind in a folder without `tokenizer.json`, and how to write that; for messages, and empty where there is
    /// none.
    pub fn instead_in(folder: &Path) -> String {
        match files::instead(folder) {
            Some(name) if !Self::is_in(folder) => format!(
                "; it holds {name}: in Python, AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes tokenizer.json"
            ),
            _ => String::new(),
        }
    }

    /// What a user should know: settings that were switched off, files that disagree.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The token that ends a text, as the tokenizer's own files name it.
    pub fn end(&self) -> Option<Token> {
        self.end
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding> {
        guarded(&self.path, "cannot encode", || {
            self.inner.encode(text, false)
        })
    }

    /// Token ids of a text. The text of a special token becomes that token; none is put in front or after.
    ///
    /// # Errors
    /// [`Error::File`] where the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// Token ids of a prompt: [`Tokenizer::encode`] after [`Tokenizer::beginning`], unless the text begins with that already.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<Token>> {
        Ok(self.begun(self.encode(text)?))
    }

    fn begun(&self, tokens: Vec<Token>) -> Vec<Token> {
        match tokens.starts_with(&self.beginning) {
            true => tokens,
            false => [&self.beginning[..], &tokens].concat(),
        }
    }

    /// A prompt and its reply in tokens: the joined text, cut where the prompt ends. A token that holds the end of the prompt and
    /// the start of the reply is the reply's, as in TRL. [`Tokenizer::beginning`] is put in front unless a chat template
    /// wrote the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn pair(
        &self,
        prompt: &str,
        reply: &str,
        templated: bool,
    ) -> Result<(Vec<Token>, Vec<Token>)> {
        let alone = self.encode(prompt)?;
        let joined = self.encoding(&format!("{prompt}{reply}"))?;
        let tokens = joined.get_ids();
        let cut = match tokens.starts_with(&alone) {
            true => alone.len(),
            false => {
                let ends = joined.get_offsets().iter().map(|(_, end)| *end);
                ends.take_while(|end| *end <= prompt.len()).count()
            }
        };
        let (prompt, reply) = tokens.split_at(cut);
        let prompt = match templated {
            true => prompt.to_vec(),
            false => self.begun(prompt.to_vec()),
        };
        Ok((prompt, reply.to_vec()))
    }

    /// What the tokenizer puts in front of every text: the begin token of Llama and Mistral, nothing for most others.
    pub fn beginning(&self) -> &[Token] {
        &self.beginning
    }

    /// Text of token ids; special tokens are shown or left out.
    ///
    /// # Errors
    /// [`Error::File`] where the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[Token], show_special: bool) -> Result<String> {
        guarded(&self.path, "cannot decode", || {
            self.inner.decode(ids, !show_special)
        })
    }

    /// Text that a reply adds to its prompt's, special tokens left out: a blank at its start stays, and a character of which the prompt
    /// holds some bytes is the reply's.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn reply_text(&self, prompt: &[Token], reply: &[Token]) -> Result<String> {
        let before = self.decode(prompt, false)?;
        let whole = self.decode(&[prompt, reply].concat(), false)?;
        let common = before.chars().zip(whole.chars());
        let common: usize = common
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        Ok(whole[common..].to_string())
    }

    /// Each token's own text, special tokens included. A token that holds part of a character is shown as the vocabulary
    /// writes it, and one that the tokenizer does not know as `<id>`.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn pieces(&self, ids: &[Token]) -> Result<Vec<String>> {
        let piece = |&id: &Token| {
            let text = self.decode(&[id], true)?;
            Ok(match self.inner.id_to_token(id) {
                None => format!("<{id}>"),
                // SentencePiece's blank, which the decoder takes off the start of a text: here every piece is one.
                Some(token) if token.starts_with('▁') => token.replace('▁', " "),
                Some(token) if text.is_empty() || text.contains('\u{fffd}') => token,
                Some(_) => text,
            })
        };
        ids.iter().map(piece).collect()
    }
}

/// `tokenizer_config.json` of a folder, or that of a GGUF file, and the special tokens by name: what chat templates read.
pub(crate) fn settings(folder: &Path) -> Result<(Value, Vec<(String, String)>)> {
    let files = Files::settings(folder)?;
    let keys = files.settings.keys().filter(|key| key.ends_with("_token"));
    let mut keys: Vec<&str> = keys.map(String::as_str).collect();
    keys.extend(
        NAMED
            .iter()
            .filter(|key| !files.settings.contains_key(**key)),
    );
    let special = keys
        .into_iter()
        .filter_map(|key| Some((key.to_string(), files.named(key)?.to_string())));
    let special = special.collect();
    Ok((Value::Object(files.settings), special))
}

/// The token that a folder's tokenizer files say ends a text, with its text.
pub(crate) fn end_of(folder: &Path, model_type: &str) -> Result<Option<(Token, String)>> {
    if !Files::are_in(folder) {
        return Ok(None);
    }
    let files = Files::read(folder, model_type)?;
    let Some(end) = files.named("eos_token") else {
        return Ok(None);
    };
    let tokenizer = &files.tokenizer;
    let added = files.added.iter().find(|(_, t, _)| t.content == end);
    let own = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let own = own
        .filter(|t| t["content"] == end)
        .find_map(|t| t["id"].as_u64());
    let in_vocabulary = || match &tokenizer["model"]["vocab"] {
        Value::Object(vocabulary) => vocabulary.get(end)?.as_u64(),
        Value::Array(pieces) => Some(pieces.iter().position(|p| p[0] == end)? as u64),
        _ => None,
    };
    let id = added
        .map(|(id, ..)| u64::from(*id))
        .or(own)
        .or_else(in_vocabulary);
    let id = match id.and_then(|id| Token::try_from(id).ok()) {
        // A token that only the settings know gets its id when it is added.
        None => Tokenizer::read(folder, model_type)?.end,
        id => id,
    };
    Ok(id.map(|id| (id, end.to_string())))
}
