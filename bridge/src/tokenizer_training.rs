//! A byte-level BPE tokenizer from a user's own texts, for models trained from scratch.
//!
//! Built like GPT-NeoX's: bytes as letters, words split by GPT-2's rule, merges by count (Sennrich et al. 2016). Every text
//! survives encoding and decoding, byte for byte. The same texts, in any order, give the same file.
//!
//! ```
//! use rto_bridge::tokenizer::Tokenizer;
//! use rto_bridge::tokenizer_training::{TrainingOptions, train};
//!
//! let texts = ["the cat and the dog", "the cat sat on the mat", "a dog sat"];
//! let options = TrainingOptions { vocab_size: 280, min_frequency: 2, max_positions: 64 };
//! let tokenizer: Tokenizer = train(texts.iter(), &options)?.into();
//! let ids = tokenizer.encode("the cat sat, naïvely")?; // bytes make every text possible
//! assert_eq!(tokenizer.decode(&ids, false)?, "the cat sat, naïvely");
//! assert!(tokenizer.encode("the cat")?.len() < "the cat".len());
//! # Ok::<(), rto_bridge::Error>(())
//! ```

use std::path::Path;

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerImpl,
};

use crate::files::atomic;
use crate::{Error, Result};

/// Ends a response, and starts nothing; id 0, as in Pythia.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Fills rows; id 1, as in Pythia, and never the end of a text, so that ends stay trained.
pub const PADDING: &str = "<|padding|>";

/// Bytes and special tokens: what a vocabulary has before the first merge.
const LEAST: usize = 256 + 2;

type Bpe = TokenizerImpl<
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// What to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingOptions {
    /// Tokens at most, special ones included.
    pub vocab_size: usize,
    /// A merge must occur this often; 2 by default.
    pub min_frequency: u64,
    /// Positions of the model, for `tokenizer_config.json`.
    pub max_positions: usize,
}

/// A tokenizer that was trained here.
#[derive(Debug)]
pub struct TrainedTokenizer {
    inner: tokenizers::Tokenizer,
    max_positions: usize,
}

/// Learns a tokenizer from texts.
///
/// # Errors
/// [`Error::Setting`]: a vocabulary too small for the bytes. [`Error::Request`]: no text with a word in it.
pub fn train<S: AsRef<str> + Send>(
    texts: impl Iterator<Item = S> + Send,
    options: &TrainingOptions,
) -> Result<TrainedTokenizer> {
    if options.vocab_size <= LEAST || u32::try_from(options.vocab_size).is_err() {
        return Err(Error::Setting {
            field: "vocab_size",
            found: options.vocab_size.to_string(),
            expected: format!("more than {LEAST}, which the bytes and special tokens take"),
        });
    }
    let failed = |e: tokenizers::Error| Error::request_because("tokenizer training", e);
    let special = |text: &str| AddedToken::from(text, true);
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .special_tokens(vec![special(END_OF_TEXT), special(PADDING)])
        // All bytes, so that no text of later is unknown.
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    // No blank is put in front: a reply brings its own.
    let bytes = ByteLevel::new(false, true, true);
    let mut inner: Bpe = TokenizerImpl::new(BPE::default().into());
    inner
        .with_pre_tokenizer(Some(bytes))
        .with_decoder(Some(bytes));
    inner.train(&mut trainer, texts).map_err(failed)?;
    let n = inner.get_vocab_size(true);
    if n <= LEAST {
        let why =
            "found no two letters that occur together often enough, expected texts with words";
        return Err(Error::request("tokenizer training", why));
    }
    Ok(TrainedTokenizer {
        inner: inner.into(),
        max_positions: options.max_positions,
    })
}

impl TrainedTokenizer {
    /// Tokens, special ones included: at most what was asked for, fewer where the texts are short.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The files of a Hugging Face folder, by name.
    ///
    /// # Errors
    /// [`Error::Request`] where the library cannot write its own format.
    pub fn files(&self) -> Result<[(&'static str, String); 3]> {
        let failed = |e: tokenizers::Error| Error::request_because("tokenizer", e);
        let tokenizer = self.inner.to_string(true).map_err(failed)?;
        let special = json!({
            "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PADDING, "unk_token": END_OF_TEXT,
        });
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": false,
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.max_positions,
        });
        for (key, value) in special.as_object().expect("written above") {
            config[key] = value.clone();
        }
        Ok([
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", pretty(&config)),
            ("special_tokens_map.json", pretty(&special)),
        ])
    }

    /// Writes the files into a folder, each in one step.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::file_because(folder, "cannot create", e))?;
        for (name, text) in self.files()? {
            atomic::replace_file(&folder.join(name), text.as_bytes())?;
        }
        Ok(())
    }

    pub(crate) fn into_inner(self) -> tokenizers::Tokenizer {
        self.inner
    }

    /// The tokenizer of the library itself.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
