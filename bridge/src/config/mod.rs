//! `config.json` of a model folder: the shape of a network of one of the families that run here.
//!
//! | family | `model_type` | type |
//! |---|---|---|
//! | GPT-NeoX (Pythia) | `gpt_neox` | [`GptNeoXConfig`] |
//! | Llama, and Mistral with its attention window | `llama`, `mistral` | [`LlamaConfig`] |
//!
//! What does not care for the family takes a [`ModelConfig`], which both turn into.

mod ends;
mod gpt_neox;
mod keys;
mod llama;

pub use ends::EndTokens;
pub use gpt_neox::{Activation, GptNeoXConfig};
pub use llama::{LlamaConfig, LlamaFamily, RopeScaling};

use crate::json::NotFinite;
use crate::ops::rotary::HeadLayout;
use crate::{Error, Result};
use keys::Keys;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What stands on top of the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Next-token logits (`embed_out.weight` or `lm_head.weight`, `[vocab, hidden]`).
    CausalLm,
    /// Scores of the last token (`score.weight`, `[labels, hidden]`); one label is a reward model.
    Classification {
        /// Rows of `score.weight`.
        labels: usize,
    },
}

/// The shape of a network, as its `config.json` states it.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// Pythia and its relatives.
    GptNeoX(GptNeoXConfig),
    /// Llama, SmolLM2, Mistral and their relatives.
    Llama(LlamaConfig),
}

impl ModelConfig {
    /// Reads a `config.json` file.
    ///
    /// # Errors
    /// [`Error::File`] naming the file, the key, what was found and what was expected.
    pub fn read(path: &Path) -> Result<(Self, Head)> {
        Self::parse(path, &bytes_of(path)?)
    }

    /// Parses the bytes of a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<(Self, Head)> {
        let read = ConfigFile::parse(path, bytes)?;
        Ok((read.config, read.head))
    }

    /// The `config.json` of this network. `dtype` is that of the weights beside it (`float32`, …).
    pub fn to_json(&self, head: Head, dtype: &str) -> Value {
        match self {
            Self::GptNeoX(c) => c.to_json(head, dtype),
            Self::Llama(c) => c.to_json(head, dtype),
        }
    }

    /// Name and shape of every weight of the network with this head, as Hugging Face names them.
    pub fn tensors(&self, head: Head) -> BTreeMap<String, Vec<usize>> {
        let (mut tensors, hidden) = (self.trunk(), self.hidden_size());
        match head {
            Head::CausalLm if self.tied_embeddings() => {}
            Head::CausalLm => {
                tensors.insert(self.head_weight().into(), vec![self.vocab_size(), hidden]);
            }
            Head::Classification { labels } => {
                tensors.insert("score.weight".into(), vec![labels, hidden]);
            }
        }
        tensors
    }

    /// Name and shape of every weight but those of the heads.
    pub fn trunk(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::GptNeoX(c) => c.trunk(),
            Self::Llama(c) => c.trunk(),
        }
    }

    /// Name of the embedding `[vocab, hidden]`.
    pub fn embedding(&self) -> &'static str {
        match self {
            Self::GptNeoX(_) => "gpt_neox.embed_in.weight",
            Self::Llama(_) => "model.embed_tokens.weight",
        }
    }

    /// Name of the language-model head `[vocab, hidden]`: the embedding where they are tied.
    pub fn head_weight(&self) -> &'static str {
        match self {
            _ if self.tied_embeddings() => self.embedding(),
            Self::GptNeoX(_) => "embed_out.weight",
            Self::Llama(_) => "lm_head.weight",
        }
    }

    /// Rows of the embedding, padding included.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.vocab_size,
            Self::Llama(c) => c.vocab_size,
        }
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.hidden_size,
            Self::Llama(c) => c.hidden_size,
        }
    }

    /// Transformer blocks.
    pub fn n_layers(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.n_layers,
            Self::Llama(c) => c.n_layers,
        }
    }

    /// Query heads.
    pub fn n_heads(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.n_heads,
            Self::Llama(c) => c.n_heads,
        }
    }

    /// Heads of keys and values; a divisor of [`ModelConfig::n_heads`].
    pub fn n_kv_heads(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.n_heads,
            Self::Llama(c) => c.n_kv_heads,
        }
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.head_dim(),
            Self::Llama(c) => c.head_dim,
        }
    }

    /// Width inside the MLP.
    pub fn intermediate_size(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.intermediate_size,
            Self::Llama(c) => c.intermediate_size,
        }
    }

    /// Where queries, keys and values lie in a row of the packed projection.
    pub(crate) fn head_layout(&self) -> HeadLayout {
        match self {
            Self::GptNeoX(c) => c.head_layout(),
            Self::Llama(c) => c.head_layout(),
        }
    }

    /// Longest sequence, prompt and response together.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::GptNeoX(c) => c.max_positions,
            Self::Llama(c) => c.max_positions,
        }
    }

    /// How many of the last keys a query sees, itself included; all of them where `None`.
    pub fn window(&self) -> Option<usize> {
        match self {
            Self::GptNeoX(_) => None,
            Self::Llama(c) => c.window,
        }
    }

    /// Whether the output head is the embedding itself.
    pub fn tied_embeddings(&self) -> bool {
        match self {
            Self::GptNeoX(c) => c.tied_embeddings,
            Self::Llama(c) => c.tied_embeddings,
        }
    }

    /// The same network with a language-model head of its own.
    #[must_use]
    pub fn untied(mut self) -> Self {
        match &mut self {
            Self::GptNeoX(c) => c.tied_embeddings = false,
            Self::Llama(c) => c.tied_embeddings = false,
        }
        self
    }

    /// Token that begins a text.
    pub fn bos_token(&self) -> Option<u32> {
        match self {
            Self::GptNeoX(c) => c.bos_token,
            Self::Llama(c) => c.bos_token,
        }
    }

    /// Token that ends the replies a network is trained on.
    pub fn eos_token(&self) -> Option<u32> {
        self.end_tokens().reply()
    }

    /// Tokens any of which ends a response.
    pub fn end_tokens(&self) -> &EndTokens {
        match self {
            Self::GptNeoX(c) => &c.eos_tokens,
            Self::Llama(c) => &c.eos_tokens,
        }
    }

    /// The same network with other tokens that end a response.
    #[must_use]
    pub fn with_end_tokens(mut self, ends: EndTokens) -> Self {
        match &mut self {
            Self::GptNeoX(c) => c.eos_tokens = ends,
            Self::Llama(c) => c.eos_tokens = ends,
        }
        self
    }

    /// Token that fills a batch up.
    pub fn pad_token(&self) -> Option<u32> {
        match self {
            Self::GptNeoX(c) => c.pad_token,
            Self::Llama(c) => c.pad_token,
        }
    }

    /// Angle per position of each pair of rotated dimensions, rounded to `f32` as the reference implementations do.
    pub fn rotary_frequencies(&self) -> Vec<f32> {
        match self {
            Self::GptNeoX(c) => crate::ops::rotary::frequencies(c.rotary_dims, c.rotary_base),
            Self::Llama(c) => c.rotary_frequencies(),
        }
    }

    /// The same network with other numbers of blocks and words, to time a step on.
    pub fn resized(&self, n_layers: usize, vocab_size: usize) -> Self {
        let mut config = self.clone();
        match &mut config {
            Self::GptNeoX(c) => (c.n_layers, c.vocab_size) = (n_layers, vocab_size),
            Self::Llama(c) => (c.n_layers, c.vocab_size) = (n_layers, vocab_size),
        }
        config
    }

    /// Weights of one block's matrices.
    pub fn block_weights(&self) -> usize {
        let (h, inner) = (self.hidden_size(), self.intermediate_size());
        let (queries, keys) = (
            self.n_heads() * self.head_dim(),
            self.n_kv_heads() * self.head_dim(),
        );
        let inners = match self {
            Self::GptNeoX(_) => 2,
            Self::Llama(_) => 3,
        };
        h * (2 * queries + 2 * keys) + inners * h * inner
    }

    /// What `config.json` calls the architecture.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::GptNeoX(_) => "gpt_neox",
            Self::Llama(c) => c.family.model_type(),
        }
    }

    /// What a reader would call the family.
    pub fn family(&self) -> &'static str {
        match self {
            Self::GptNeoX(_) => "GPT-NeoX",
            Self::Llama(c) => c.family.name(),
        }
    }
}

/// A `config.json`, and what the weights beside it must settle.
pub(crate) struct ConfigFile {
    pub config: ModelConfig,
    pub head: Head,
    /// What was read otherwise than it stands there.
    pub notes: Vec<String>,
    /// The keys of head counts that are not there, so that the weights say them.
    pub heads_open: bool,
}

impl ConfigFile {
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &bytes_of(path)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let object = object_of(path, bytes)?;
        let keys = Keys::new(path, &object);
        let family = keys.get("model_type").and_then(Value::as_str);
        let known = matches!(family, Some("gpt_neox" | "llama" | "mistral"));
        if known {
            keys.check_not_quantised()?;
        }
        let (config, head): (ModelConfig, Head) = match family {
            Some("gpt_neox") => {
                let (config, head) = GptNeoXConfig::from_keys(&keys)?;
                (config.into(), head)
            }
            Some("llama" | "mistral") => {
                let (config, head) = LlamaConfig::from_keys(&keys)?;
                (config.into(), head)
            }
            _ => {
                let expected = "\"gpt_neox\", \"llama\" or \"mistral\"";
                return Err(match keys.get("model_type") {
                    Some(other) => keys.wrong("model_type", other, expected),
                    None => keys.missing("model_type", expected),
                });
            }
        };
        Ok(Self {
            config,
            head,
            heads_open: keys.get("num_key_value_heads").is_none(),
            notes: keys.notes.into_inner(),
        })
    }
}

impl From<GptNeoXConfig> for ModelConfig {
    fn from(config: GptNeoXConfig) -> Self {
        Self::GptNeoX(config)
    }
}

impl From<&GptNeoXConfig> for ModelConfig {
    fn from(config: &GptNeoXConfig) -> Self {
        Self::GptNeoX(config.clone())
    }
}

impl From<LlamaConfig> for ModelConfig {
    fn from(config: LlamaConfig) -> Self {
        Self::Llama(config)
    }
}

impl From<&LlamaConfig> for ModelConfig {
    fn from(config: &LlamaConfig) -> Self {
        Self::Llama(config.clone())
    }
}

impl From<&ModelConfig> for ModelConfig {
    fn from(config: &ModelConfig) -> Self {
        config.clone()
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "no such file"),
        _ => Error::file(path, format!("cannot read: {e}")),
    })
}

fn object_of(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .iter()
        .all(u8::is_ascii_whitespace)
    {
        return Err(Error::file(path, "is empty, expected a JSON object"));
    }
    // Python writes numbers that are not finite; where one is read, it is refused by its name.
    match crate::json::parse(bytes, NotFinite::Named) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(value) => {
            let found = keys::shown(&value);
            Err(Error::file(
                path,
                format!("found {found}, expected a JSON object"),
            ))
        }
        Err(e) => Err(Error::file(path, format!("not valid JSON: {e}"))),
    }
}

/// Puts `architectures` and, for a classifier, the names of its labels into a `config.json`.
fn describe_head(value: &mut Value, head: Head, causal: &str, classification: &str) {
    match head {
        Head::CausalLm => value["architectures"] = json!([causal]),
        Head::Classification { labels } => {
            let name = |i: usize| format!("LABEL_{i}");
            value["architectures"] = json!([classification]);
            let names = (0..labels).map(|i| (i.to_string(), json!(name(i))));
            value["id2label"] = names.collect::<Map<_, _>>().into();
            let numbers = (0..labels).map(|i| (name(i), json!(i)));
            value["label2id"] = numbers.collect::<Map<_, _>>().into();
        }
    }
}
