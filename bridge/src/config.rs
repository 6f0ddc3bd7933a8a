//! `config.json` of a GPT-NeoX folder: the key names of published Pythia files and those of newer `transformers`.

use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Which GELU the MLP uses: `gelu` is erf-exact, `gelu_new`/`gelu_fast`/`gelu_pytorch_tanh` the tanh form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x).
    Gelu,
    /// ½ x (1 + tanh(√(2/π)(x + 0.044715 x³))).
    GeluTanh,
}

impl Activation {
    /// The activation that Hugging Face calls `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }
}

/// The shape of a GPT-NeoX network, as `config.json` states it.
#[derive(Debug, Clone, PartialEq)]
pub struct GptNeoXConfig {
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads; they divide the width evenly.
    pub n_heads: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Even; of each head's dimensions the first `rotary_dims` are rotated (half-split).
    pub rotary_dims: usize,
    /// Base of the rotary frequencies, 10000 in every Pythia.
    pub rotary_base: f64,
    /// Longest sequence, prompt and response together.
    pub max_positions: usize,
    /// ε of every layer norm.
    pub layer_norm_eps: f64,
    /// x + attention(x) + mlp(x) where true, the MLP after the attention where false.
    pub parallel_residual: bool,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Whether the attention's two projections carry biases.
    pub attention_bias: bool,
    /// Whether the output head is the embedding itself.
    pub tied_embeddings: bool,
    /// Token that begins a text.
    pub bos_token: Option<u32>,
    /// Token that ends a response.
    pub eos_token: Option<u32>,
    /// Token that fills a batch up.
    pub pad_token: Option<u32>,
}

/// What stands on top of the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Next-token logits (`embed_out.weight`, `[vocab, hidden]`).
    CausalLm,
    /// Scores of the last token (`score.weight`, `[labels, hidden]`); one label is a reward model.
    Classification {
        /// Rows of `score.weight`.
        labels: usize,
    },
}

const CAUSAL: &str = "GPTNeoXForCausalLM";
const CLASSIFICATION: &str = "GPTNeoXForSequenceClassification";
/// Larger sizes are refused, so that a product of two never overflows.
const MAX_SIZE: u64 = 1 << 30;

impl GptNeoXConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.n_heads
    }

    /// Reads a `config.json` file.
    ///
    /// # Errors
    /// [`Error::File`] naming the file, the key, what was found and what was expected.
    pub fn read(path: &Path) -> Result<(Self, Head)> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::file(path, "no such file"),
            _ => Error::file(path, format!("cannot read: {e}")),
        })?;
        Self::parse(path, &bytes)
    }

    /// Parses the bytes of a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`GptNeoXConfig::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<(Self, Head)> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::file(path, "is empty, expected a JSON object"));
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|e| Error::file(path, format!("not valid JSON: {e}")))?;
        let Value::Object(object) = &value else {
            return Err(Error::file(
                path,
                format!("found {}, expected a JSON object", shown(&value)),
            ));
        };
        let keys = Keys { path, object };
        let config = keys.config()?;
        config.check(path)?;
        let head = keys.head()?;
        Ok((config, head))
    }

    /// The `config.json` of this network with the key names of both styles, so that old and new
    /// versions of `transformers` read it. `dtype` is that of the weights beside it (`float32`, …).
    pub fn to_json(&self, head: Head, dtype: &str) -> Value {
        let fraction = rotary_fraction(self.rotary_dims, self.head_dim());
        let mut value = json!({
            "model_type": "gpt_neox",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "layer_norm_eps": self.layer_norm_eps,
            "hidden_act": match self.activation {
                Activation::Gelu => "gelu",
                Activation::GeluTanh => "gelu_pytorch_tanh",
            },
            "rotary_pct": fraction,
            "rotary_emb_base": self.rotary_base,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rotary_base,
                "partial_rotary_factor": fraction,
            },
            "use_parallel_residual": self.parallel_residual,
            "attention_bias": self.attention_bias,
            "tie_word_embeddings": self.tied_embeddings,
            "bos_token_id": self.bos_token,
            "eos_token_id": self.eos_token,
            "pad_token_id": self.pad_token,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "dtype": dtype,
            "torch_dtype": dtype,
        });
        match head {
            Head::CausalLm => value["architectures"] = json!([CAUSAL]),
            Head::Classification { labels } => {
                let name = |i: usize| format!("LABEL_{i}");
                value["architectures"] = json!([CLASSIFICATION]);
                value["id2label"] = (0..labels)
                    .map(|i| (i.to_string(), json!(name(i))))
                    .collect::<Map<_, _>>()
                    .into();
                value["label2id"] = (0..labels)
                    .map(|i| (name(i), json!(i)))
                    .collect::<Map<_, _>>()
                    .into();
            }
        }
        value
    }

    /// Checks what the fields say together; `path` is only named in errors.
    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |why: String| Err(Error::file(path, why));
        if !self.hidden_size.is_multiple_of(self.n_heads) {
            return refuse(format!(
                "hidden_size: found {}, must be a multiple of num_attention_heads ({})",
                self.hidden_size, self.n_heads
            ));
        }
        if !self.rotary_dims.is_multiple_of(2) {
            return refuse(format!(
                "rotary_pct: rotates {} of the {} dimensions of a head, must be an even number",
                self.rotary_dims,
                self.head_dim()
            ));
        }
        for (key, token) in [
            ("bos_token_id", self.bos_token),
            ("eos_token_id", self.eos_token),
            ("pad_token_id", self.pad_token),
        ] {
            if let Some(token) = token
                && token as usize >= self.vocab_size
            {
                return refuse(format!(
                    "{key}: found {token}, must be below vocab_size ({})",
                    self.vocab_size
                ));
            }
        }
        Ok(())
    }
}

/// The fraction f with ⌊head_dim · f⌋ = rotary_dims, as readers of the file compute it.
fn rotary_fraction(rotary_dims: usize, head_dim: usize) -> f64 {
    let fraction = rotary_dims as f64 / head_dim as f64;
    if (fraction * head_dim as f64) as usize == rotary_dims {
        fraction
    } else {
        fraction.next_up()
    }
}

/// A value as an error shows it.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The top level of a `config.json`.
struct Keys<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn config(&self) -> Result<GptNeoXConfig> {
        self.model_type()?;
        let vocab_size = self.size("vocab_size")?;
        let hidden_size = self.size("hidden_size")?;
        let n_heads = self.size("num_attention_heads")?;
        let (fraction, rotary_base) = self.rotary()?;
        // Defaults are those of `transformers`, which leaves keys out where the class has the same value.
        Ok(GptNeoXConfig {
            vocab_size,
            hidden_size,
            n_layers: self.size("num_hidden_layers")?,
            n_heads,
            intermediate_size: self.size("intermediate_size")?,
            rotary_dims: ((hidden_size / n_heads) as f64 * fraction) as usize,
            rotary_base,
            max_positions: self.size("max_position_embeddings")?,
            layer_norm_eps: self.layer_norm_eps()?,
            parallel_residual: self.flag("use_parallel_residual", true)?,
            activation: self.activation()?,
            attention_bias: self.flag("attention_bias", true)?,
            tied_embeddings: self.flag("tie_word_embeddings", false)?,
            bos_token: self.token("bos_token_id", Some(0), vocab_size)?,
            eos_token: self.token("eos_token_id", Some(2), vocab_size)?,
            pad_token: self.token("pad_token_id", None, vocab_size)?,
        })
    }

    fn model_type(&self) -> Result<()> {
        match self.get("model_type") {
            Some(Value::String(name)) if name == "gpt_neox" => Ok(()),
            Some(other) => Err(self.wrong("model_type", other, "\"gpt_neox\"")),
            None => Err(self.missing("model_type", "\"gpt_neox\"")),
        }
    }

    fn head(&self) -> Result<Head> {
        let expected = format!("[\"{CAUSAL}\"] or [\"{CLASSIFICATION}\"]");
        let Some(value) = self.get("architectures") else {
            return Ok(Head::CausalLm);
        };
        let name = match value {
            Value::Array(names) if names.len() == 1 => names[0].as_str(),
            _ => None,
        };
        match name {
            Some(CAUSAL) => Ok(Head::CausalLm),
            Some(CLASSIFICATION) => Ok(Head::Classification {
                labels: self.labels()?,
            }),
            _ => Err(self.wrong("architectures", value, &expected)),
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

    /// The rotated fraction of a head and the base of the frequencies, in either style.
    fn rotary(&self) -> Result<(f64, f64)> {
        if let Some(scaling) = self.get("rope_scaling") {
            return Err(self.wrong(
                "rope_scaling",
                scaling,
                "null (scaled positions are not supported)",
            ));
        }
        let rope = match self.get("rope_parameters") {
            None => None,
            Some(Value::Object(rope)) => Some(rope),
            Some(other) => return Err(self.wrong("rope_parameters", other, "an object")),
        };
        if let Some(kind) = rope.and_then(|r| r.get("rope_type"))
            && kind != "default"
        {
            return Err(self.wrong("rope_parameters.rope_type", kind, "\"default\""));
        }
        let pick = |new: &str, old: &str, default: f64| match rope.and_then(|r| r.get(new)) {
            Some(value) if !value.is_null() => {
                self.number(&format!("rope_parameters.{new}"), value)
            }
            _ => self.get(old).map_or(Ok(default), |v| self.number(old, v)),
        };
        let fraction = pick("partial_rotary_factor", "rotary_pct", 0.25)?;
        if !(0.0..=1.0).contains(&fraction) {
            return Err(self.refuse(format!(
                "rotary_pct: found {fraction}, must be between 0 and 1"
            )));
        }
        let base = pick("rope_theta", "rotary_emb_base", 10_000.0)?;
        if base <= 0.0 {
            return Err(self.refuse(format!("rotary_emb_base: found {base}, must be positive")));
        }
        Ok((fraction, base))
    }

    fn layer_norm_eps(&self) -> Result<f64> {
        let key = "layer_norm_eps";
        let eps = self.get(key).map_or(Ok(1e-5), |v| self.number(key, v))?;
        if eps > 0.0 && eps < 1.0 {
            return Ok(eps);
        }
        Err(self.refuse(format!("{key}: found {eps}, must be positive and below 1")))
    }

    fn activation(&self) -> Result<Activation> {
        let Some(value) = self.get("hidden_act") else {
            return Ok(Activation::Gelu);
        };
        value.as_str().and_then(Activation::named).ok_or_else(|| {
            self.wrong(
                "hidden_act",
                value,
                "\"gelu\", \"gelu_new\", \"gelu_fast\" or \"gelu_pytorch_tanh\"",
            )
        })
    }

    /// A key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<usize> {
        let expected = format!("a whole number from 1 to {MAX_SIZE}");
        let value = self.get(key).ok_or_else(|| self.missing(key, &expected))?;
        match value.as_u64() {
            Some(n @ 1..=MAX_SIZE) => Ok(n as usize),
            _ => Err(self.wrong(key, value, &expected)),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    fn number(&self, key: &str, value: &Value) -> Result<f64> {
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(self.wrong(key, value, "a number")),
        }
    }

    /// A key that is absent has the default where the vocabulary holds it; null is no token.
    fn token(&self, key: &str, default: Option<u32>, vocab_size: usize) -> Result<Option<u32>> {
        let one = match self.object.get(key) {
            None => return Ok(default.filter(|&t| (t as usize) < vocab_size)),
            Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) if items.len() == 1 => &items[0],
            Some(value) => value,
        };
        match one.as_u64().and_then(|t| u32::try_from(t).ok()) {
            Some(token) => Ok(Some(token)),
            None => Err(self.wrong(key, one, "one token id or null")),
        }
    }

    fn refuse(&self, why: String) -> Error {
        Error::file(self.path, why)
    }

    fn missing(&self, key: &str, expected: &str) -> Error {
        self.refuse(format!("{key}: not there, expected {expected}"))
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        self.refuse(format!(
            "{key}: found {}, expected {expected}",
            shown(found)
        ))
    }
}
