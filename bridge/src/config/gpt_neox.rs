//! GPT-NeoX: the key names of published Pythia files and those of newer `transformers`.

use super::keys::Keys;
use super::{EndTokens, Head, bytes_of, describe_head, object_of};
use crate::Result;
use crate::ops::rotary::HeadLayout;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    /// Tokens that end a response.
    pub eos_tokens: EndTokens,
    /// Token that fills a batch up.
    pub pad_token: Option<u32>,
}

const CAUSAL: &str = "GPTNeoXForCausalLM";
const CLASSIFICATION: &str = "GPTNeoXForSequenceClassification";

impl GptNeoXConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.n_heads
    }

    /// Reads a `config.json` file.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming the file, the key, what was found and what was expected.
    pub fn read(path: &Path) -> Result<(Self, Head)> {
        Self::parse(path, &bytes_of(path)?)
    }

    /// Parses the bytes of a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`GptNeoXConfig::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<(Self, Head)> {
        let object = object_of(path, bytes)?;
        Self::from_keys(&Keys::new(path, &object))
    }

    pub(super) fn from_keys(keys: &Keys<'_>) -> Result<(Self, Head)> {
        let config = keys.gpt_neox()?;
        config.check(keys)?;
        Ok((config, keys.head(CAUSAL, CLASSIFICATION)?))
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
            "eos_token_id": self.eos_tokens.to_json(),
            "pad_token_id": self.pad_token,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "dtype": dtype,
            "torch_dtype": dtype,
        });
        describe_head(&mut value, head, CAUSAL, CLASSIFICATION);
        value
    }

    /// Query, key and value of a head beside each other.
    pub(crate) fn head_layout(&self) -> HeadLayout {
        let head_dim = self.head_dim();
        HeadLayout {
            row: 3 * self.hidden_size,
            head_dim,
            heads: self.n_heads,
            kv_heads: self.n_heads,
            step: 3 * head_dim,
            offsets: [0, head_dim, 2 * head_dim],
        }
    }

    /// Name and shape of every weight but the head's.
    pub(super) fn trunk(&self) -> BTreeMap<String, Vec<usize>> {
        let (h, inner) = (self.hidden_size, self.intermediate_size);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, shape: &[usize]| {
            tensors.insert(name, shape.to_vec());
        };
        add("gpt_neox.embed_in.weight".into(), &[self.vocab_size, h]);
        for layer in 0..self.n_layers {
            let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
                let name = format!("gpt_neox.layers.{layer}.{name}");
                if bias {
                    add(format!("{name}.bias"), &[rows]);
                }
                add(format!("{name}.weight"), &[rows, columns]);
            };
            linear("attention.query_key_value", 3 * h, h, self.attention_bias);
            linear("attention.dense", h, h, self.attention_bias);
            linear("mlp.dense_h_to_4h", inner, h, true);
            linear("mlp.dense_4h_to_h", h, inner, true);
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(format!("gpt_neox.layers.{layer}.{norm}.bias"), &[h]);
                add(format!("gpt_neox.layers.{layer}.{norm}.weight"), &[h]);
            }
        }
        add("gpt_neox.final_layer_norm.bias".into(), &[h]);
        add("gpt_neox.final_layer_norm.weight".into(), &[h]);
        tensors
    }

    /// Checks what the fields say together.
    fn check(&self, keys: &Keys<'_>) -> Result<()> {
        if !self.hidden_size.is_multiple_of(self.n_heads) {
            return Err(keys.refuse(format!(
                "hidden_size: found {}, must be a multiple of num_attention_heads ({})",
                self.hidden_size, self.n_heads
            )));
        }
        if !self.rotary_dims.is_multiple_of(2) {
            return Err(keys.refuse(format!(
                "rotary_pct: rotates {} of the {} dimensions of a head, must be an even number",
                self.rotary_dims,
                self.head_dim()
            )));
        }
        keys.check_tokens(
            [self.bos_token, self.pad_token],
            &self.eos_tokens,
            self.vocab_size,
        )
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

impl Keys<'_> {
    fn gpt_neox(&self) -> Result<GptNeoXConfig> {
        self.model_type()?;
        let vocab_size = self.size_or_class("vocab_size", 50_432)?;
        let hidden_size = self.size_or_class("hidden_size", 6_144)?;
        let n_heads = self.size_or_class("num_attention_heads", 64)?;
        let (fraction, rotary_base) = self.rotary()?;
        // Defaults are those of `transformers`, which leaves keys out where the class has the same value.
        Ok(GptNeoXConfig {
            vocab_size,
            hidden_size,
            n_layers: self.size_or_class("num_hidden_layers", 44)?,
            n_heads,
            intermediate_size: self.size_or_class("intermediate_size", 24_576)?,
            rotary_dims: ((hidden_size / n_heads) as f64 * fraction) as usize,
            rotary_base,
            max_positions: self.size_or_class("max_position_embeddings", 2_048)?,
            layer_norm_eps: self.epsilon("layer_norm_eps", 1e-5)?,
            parallel_residual: self.flag("use_parallel_residual", true)?,
            activation: self.activation()?,
            attention_bias: self.flag("attention_bias", true)?,
            tied_embeddings: self.flag("tie_word_embeddings", false)?,
            bos_token: self.token("bos_token_id", Some(0), vocab_size)?,
            eos_tokens: self.end_tokens(Some(2), vocab_size)?,
            pad_token: self.pad_token(vocab_size)?,
        })
    }

    fn model_type(&self) -> Result<()> {
        match self.get("model_type") {
            Some(Value::String(name)) if name == "gpt_neox" => Ok(()),
            Some(other) => Err(self.wrong("model_type", other, "\"gpt_neox\"")),
            None => Err(self.missing("model_type", "\"gpt_neox\"")),
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
        let rope = self.rope_parameters()?;
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
}
