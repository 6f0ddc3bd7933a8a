//! Texts as tokens and back.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rto::Token;
use rto_bridge::checkpoint::atomic::replace_file;
use rto_bridge::tokenizer::Tokenizer;
use rto_bridge::world;

/// How tokens read.
pub enum Codec {
    /// Words of the synthetic world.
    Words,
    /// Byte-level pieces.
    Pieces(Box<Tokenizer>),
}

impl Codec {
    /// The text as people read it; special tokens are left out of text, and are words in the world.
    pub fn text(&self, tokens: &[Token]) -> Result<String> {
        Ok(match self {
            Self::Words => world::decode(tokens),
            Self::Pieces(tokenizer) => tokenizer.decode(tokens, false)?,
        })
    }

    /// A response as people read it behind its prompt.
    pub fn reply(&self, prompt: &[Token], response: &[Token]) -> Result<String> {
        Ok(match self {
            Self::Words => world::decode(response),
            Self::Pieces(tokenizer) => tokenizer.reply_text(prompt, response)?,
        })
    }

    /// Each token on its own.
    pub fn pieces(&self, tokens: &[Token]) -> Result<Vec<String>> {
        Ok(match self {
            Self::Words => tokens.iter().map(|t| world::decode(&[*t])).collect(),
            Self::Pieces(tokenizer) => tokenizer.pieces(tokens)?,
        })
    }
}

/// The tokenizer files that every saved policy carries.
pub enum TokenizerFiles {
    /// Files that this run makes.
    Own(Vec<(&'static str, String)>),
    /// Files of the model it starts from.
    Of(PathBuf),
}

impl TokenizerFiles {
    /// The words of the synthetic world.
    pub fn of_world() -> Self {
        Self::Own(vec![
            ("tokenizer.json", world::tokenizer_json()),
            ("tokenizer_config.json", world::tokenizer_config_json()),
        ])
    }

    /// The folder they are in; own ones are written below `root`.
    pub fn folder(&self, root: &Path) -> Result<PathBuf> {
        let files = match self {
            Self::Of(folder) => return Ok(folder.clone()),
            Self::Own(files) => files,
        };
        let folder = root.join("tokenizer");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot make", folder.display()))?;
        for (name, text) in files {
            let path = folder.join(name);
            if !std::fs::read_to_string(&path).is_ok_and(|found| found == *text) {
                replace_file(&path, text.as_bytes())?;
            }
        }
        Ok(folder)
    }
}
