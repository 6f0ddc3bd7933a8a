//! The tokenizer of a model folder.

use crate::config::ModelConfig;
use crate::tokenizer_training::TrainedTokenizer;
use crate::{Error, Result, gguf};
use rto::Token;
use std::path::{Path, PathBuf};

/// The tokenizer of a folder or GGUF file.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    beginning: Vec<Token>,
}

impl From<TrainedTokenizer> for Tokenizer {
    fn from(trained: TrainedTokenizer) -> Self {
        Self {
            inner: trained.into_inner(),
            path: "the tokenizer trained here".into(),
            beginning: Vec::new(),
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, or the metadata of a GGUF file, and checks that every id has a row in the network's embedding.
    ///
    /// # Errors
    /// [`Error::File`]: no such file, a damaged one, or ids outside the network's vocabulary.
    pub fn load(folder: &Path, config: &ModelConfig) -> Result<Self> {
        let (path, text) = match gguf::is_gguf(folder) {
            true => {
                let [(_, text), ..] = gguf::tokenizer_files(folder)?;
                (folder.to_path_buf(), text)
            }
            false => {
                let path = folder.join("tokenizer.json");
                if !path.is_file() {
                    return Err(Error::file(path, "no such file"));
                }
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| Error::file(&path, format!("not a tokenizer: {e}")))?;
                (path, text)
            }
        };
        let inner: tokenizers::Tokenizer = text
            .parse()
            .map_err(|e| Error::file(&path, format!("not a tokenizer: {e}")))?;
        let highest = inner.get_vocab(true).into_values().max();
        if let Some(id) = highest
            && id as usize >= config.vocab_size()
        {
            return Err(Error::file(
                path,
                format!(
                    "has the token id {id}, but the network's vocabulary has {} rows",
                    config.vocab_size()
                ),
            ));
        }
        let mut tokenizer = Self {
            inner,
            path,
            beginning: Vec::new(),
        };
        tokenizer.beginning = tokenizer.read_beginning()?;
        Ok(tokenizer)
    }

    fn read_beginning(&self) -> Result<Vec<Token>> {
        const WORD: &str = "a";
        let plain = self.encode(WORD)?;
        let whole = self
            .inner
            .encode(WORD, true)
            .map_err(|e| Error::file(&self.path, format!("cannot encode: {e}")))?;
        let whole = whole.get_ids();
        let at = whole.windows(plain.len().max(1)).position(|w| w == plain);
        Ok(whole[..at.unwrap_or(0)].to_vec())
    }

    /// Whether a folder has one.
    pub fn is_in(folder: &Path) -> bool {
        gguf::is_gguf(folder) || folder.join("tokenizer.json").is_file()
    }

    /// Token ids of a text. The text of a special token becomes that token; none is put in front or after.
    ///
    /// # Errors
    /// [`Error::File`] where the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|e| Error::file(&self.path, format!("cannot encode: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a prompt: [`Tokenizer::encode`] after [`Tokenizer::beginning`], unless the text begins with that already (a chat
    /// template may print it).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<Token>> {
        let tokens = self.encode(text)?;
        Ok(match tokens.starts_with(&self.beginning) {
            true => tokens,
            false => [&self.beginning[..], &tokens].concat(),
        })
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
        self.inner
            .decode(ids, !show_special)
            .map_err(|e| Error::file(&self.path, format!("cannot decode: {e}")))
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
