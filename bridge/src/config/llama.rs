//! The Llama family: RMS norms, a gated MLP, grouped queries, rotary embeddings over whole heads.

use super::keys::Keys;
use super::{EndTokens, Head, describe_head};
use crate::ops::rotary::{self, HeadLayout};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Which classes of `transformers` a folder names. They compute alike; Mistral's may have an attention window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LlamaFamily {
    /// `LlamaForCausalLM`, `LlamaForSequenceClassification`.
    Llama,
    /// `MistralForCausalLM`, `MistralForSequenceClassification`.
    Mistral,
}

impl LlamaFamily {
    /// As its makers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
        }
    }

    pub(super) fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    fn classes(self) -> (String, String) {
        let name = self.name();
        (
            format!("{name}ForCausalLM"),
            format!("{name}ForSequenceClassification"),
        )
    }
}

/// How the rotary frequencies of a longer context come from those of the one that was trained first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by `factor`, high ones stay, those between are interpolated.
    Llama3 {
        /// How many times longer the context is.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// The context that was trained first.
        original_max_positions: usize,
    },
}

/// The shape of a network of the Llama family, as `config.json` states it.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Llama or Mistral.
    pub family: LlamaFamily,
    /// Rows of the embedding, padding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys and values: query head i reads number i / (n_heads / n_kv_heads).
    pub n_kv_heads: usize,
    /// Width of a head, even; all of it is rotated (half-split).
    pub head_dim: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Change of the frequencies, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest sequence, prompt and response together.
    pub max_positions: usize,
    /// ε of every RMS norm.
    pub rms_norm_eps: f64,
    /// How many of the last keys a query sees, itself included; all where `None`.
    pub window: Option<usize>,
    /// Whether the attention's four projections carry biases.
    pub attention_bias: bool,
    /// Whether the MLP's three projections carry biases.
    pub mlp_bias: bool,
    /// Whether the output head is the embedding itself.
    pub tied_embeddings: bool,
    /// Token that begins a text.
    pub bos_token: Option<u32>,
    /// Tokens that end a response.
    pub eos_tokens: EndTokens,
    /// Token that fills a batch up.
    pub pad_token: Option<u32>,
}

impl LlamaConfig {
    pub(super) fn from_keys(keys: &Keys<'_>) -> Result<(Self, Head)> {
        let family = match keys.get("model_type").and_then(Value::as_str) {
            Some("mistral") => LlamaFamily::Mistral,
            _ => LlamaFamily::Llama,
        };
        let mistral = family == LlamaFamily::Mistral;
        let vocab_size = keys.size_or_class("vocab_size", 32_000)?;
        let hidden_size = keys.size_or_class("hidden_size", 4096)?;
        let n_heads = keys.size_or_class("num_attention_heads", 32)?;
        let max_positions = keys.size_or_class(
            "max_position_embeddings",
            if mistral { 131_072 } else { 2048 },
        )?;
        let (rope_base, rope_scaling) = rotary_settings(keys, max_positions)?;
        match keys.get("hidden_act") {
            None => {}
            Some(act) if act == "silu" || act == "swish" => {}
            Some(act) => return Err(keys.wrong("hidden_act", act, "\"silu\"")),
        }
        // Defaults are those of `transformers`, which leaves keys out where the class has the same value.
        let config = Self {
            family,
            vocab_size,
            hidden_size,
            n_layers: keys.size_or_class("num_hidden_layers", 32)?,
            n_heads,
            // Mistral's class says 8; where the heads do not allow that, the weights of the keys say how many (`count_heads`).
            n_kv_heads: keys.size_or(
                "num_key_value_heads",
                match mistral && n_heads.is_multiple_of(8) {
                    true => 8,
                    false => n_heads,
                },
            )?,
            head_dim: keys.size_or("head_dim", (hidden_size / n_heads).max(1))?,
            intermediate_size: keys
                .size_or_class("intermediate_size", if mistral { 14_336 } else { 11_008 })?,
            rope_base,
            rope_scaling,
            max_positions,
            rms_norm_eps: keys.epsilon("rms_norm_eps", 1e-6)?,
            window: match keys.object.get("sliding_window") {
                _ if !mistral => None,
                None => Some(4096),
                Some(Value::Null) => None,
                Some(value) => Some(keys.size_of("sliding_window", value)?),
            },
            attention_bias: keys.flag("attention_bias", false)?,
            mlp_bias: keys.flag("mlp_bias", false)?,
            tied_embeddings: keys.flag("tie_word_embeddings", false)?,
            bos_token: keys.token("bos_token_id", Some(1), vocab_size)?,
            eos_tokens: keys.end_tokens(Some(2), vocab_size)?,
            pad_token: keys.pad_token(vocab_size)?,
        };
        if let Err(Error::Setting {
            field,
            found,
            expected,
        }) = config.check()
        {
            return Err(keys.refuse(format!("{field}: found {found}, expected {expected}")));
        }
        keys.check_tokens(
            [config.bos_token, config.pad_token],
            &config.eos_tokens,
            vocab_size,
        )?;
        let (causal, classification) = family.classes();
        Ok((config, keys.head(&causal, &classification)?))
    }

    /// Checks what the fields say together.
    ///
    /// # Errors
    /// [`Error::Setting`] under the key's name in `config.json`.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, found: usize, expected: String| {
            Err(Error::Setting {
                field,
                found: found.to_string(),
                expected,
            })
        };
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.n_layers),
            ("num_attention_heads", self.n_heads),
            ("num_key_value_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_positions),
            ("sliding_window", self.window.unwrap_or(1)),
        ];
        if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return refuse(field, 0, "at least 1".into());
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({})", self.n_heads);
            return refuse("num_key_value_heads", self.n_kv_heads, expected);
        }
        if !(self.rope_base.is_finite() && self.rope_base > 0.0) {
            return Err(Error::Setting {
                field: "rope_theta",
                found: self.rope_base.to_string(),
                expected: "a finite number above 0".into(),
            });
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(Error::Setting {
                field: "rms_norm_eps",
                found: self.rms_norm_eps.to_string(),
                expected: "a number above 0 and below 1".into(),
            });
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse("head_dim", self.head_dim, "an even number".into());
        }
        Ok(())
    }

    /// The `config.json` of this network with the key names of both styles, so that old and new
    /// versions of `transformers` read it. `dtype` is that of the weights beside it (`float32`, …).
    pub fn to_json(&self, head: Head, dtype: &str) -> Value {
        let mut rope = match self.rope_scaling {
            None => json!({"rope_type": "default"}),
            Some(RopeScaling::Linear { factor }) => {
                json!({"rope_type": "linear", "factor": factor})
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            }) => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        };
        let old_style = self.rope_scaling.map_or(Value::Null, |_| rope.clone());
        rope["rope_theta"] = json!(self.rope_base);
        let mut value = json!({
            "model_type": self.family.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps,
            "hidden_act": "silu",
            "rope_theta": self.rope_base,
            "rope_scaling": old_style,
            "rope_parameters": rope,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "tie_word_embeddings": self.tied_embeddings,
            "bos_token_id": self.bos_token,
            "eos_token_id": self.eos_tokens.to_json(),
            "pad_token_id": self.pad_token,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "dtype": dtype,
            "torch_dtype": dtype,
        });
        if self.family == LlamaFamily::Mistral {
            value["sliding_window"] = json!(self.window);
        }
        let (causal, classification) = self.family.classes();
        describe_head(&mut value, head, &causal, &classification);
        value
    }

    /// Queries of all heads, then keys, then values.
    pub(crate) fn head_layout(&self) -> HeadLayout {
        let queries = self.n_heads * self.head_dim;
        let keys = self.n_kv_heads * self.head_dim;
        HeadLayout {
            row: queries + 2 * keys,
            head_dim: self.head_dim,
            heads: self.n_heads,
            kv_heads: self.n_kv_heads,
            step: self.head_dim,
            offsets: [0, queries, queries + keys],
        }
    }

    /// Name and shape of every weight but the head's.
    pub(super) fn trunk(&self) -> BTreeMap<String, Vec<usize>> {
        let (h, inner) = (self.hidden_size, self.intermediate_size);
        let queries = self.n_heads * self.head_dim;
        let keys = self.n_kv_heads * self.head_dim;
        let mut tensors = BTreeMap::new();
        tensors.insert(
            "model.embed_tokens.weight".to_string(),
            vec![self.vocab_size, h],
        );
        tensors.insert("model.norm.weight".into(), vec![h]);
        for layer in 0..self.n_layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            let (attention, mlp) = (self.attention_bias, self.mlp_bias);
            for (part, rows, columns, bias) in [
                ("self_attn.q_proj", queries, h, attention),
                ("self_attn.k_proj", keys, h, attention),
                ("self_attn.v_proj", keys, h, attention),
                ("self_attn.o_proj", h, queries, attention),
                ("mlp.gate_proj", inner, h, mlp),
                ("mlp.up_proj", inner, h, mlp),
                ("mlp.down_proj", h, inner, mlp),
            ] {
                tensors.insert(at(&format!("{part}.weight")), vec![rows, columns]);
                if bias {
                    tensors.insert(at(&format!("{part}.bias")), vec![rows]);
                }
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.insert(at(&format!("{norm}.weight")), vec![h]);
            }
        }
        tensors
    }

    /// Angle per position of each pair of dimensions; the scaling is computed in `f32`, as the reference implementation does.
    pub fn rotary_frequencies(&self) -> Vec<f32> {
        let plain = rotary::frequencies(self.head_dim, self.rope_base);
        match self.rope_scaling {
            None => plain,
            Some(RopeScaling::Linear { factor }) => {
                plain.into_iter().map(|f| f / factor as f32).collect()
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            }) => {
                let context = original_max_positions as f64;
                let (longest, shortest) = (
                    (context / low_freq_factor) as f32,
                    (context / high_freq_factor) as f32,
                );
                let (factor, low) = (factor as f32, low_freq_factor as f32);
                let span = (high_freq_factor - low_freq_factor) as f32;
                let scale = |f: f32| {
                    let wavelength = std::f32::consts::TAU / f;
                    if wavelength > longest {
                        f / factor
                    } else if wavelength < shortest {
                        f
                    } else {
                        let smooth = (context as f32 / wavelength - low) / span;
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain.into_iter().map(scale).collect()
            }
        }
    }
}

/// Base and scaling of the rotary frequencies, in either style.
fn rotary_settings(keys: &Keys<'_>, max_positions: usize) -> Result<(f64, Option<RopeScaling>)> {
    let new = keys.rope_parameters()?;
    let old = match keys.get("rope_scaling") {
        None => None,
        Some(Value::Object(old)) => Some(old),
        Some(other) => return Err(keys.wrong("rope_scaling", other, "an object or null")),
    };
    let base = match new
        .and_then(|r| r.get("rope_theta"))
        .filter(|v| !v.is_null())
    {
        Some(value) => keys.number("rope_parameters.rope_theta", value)?,
        None => keys
            .get("rope_theta")
            .map_or(Ok(10_000.0), |v| keys.number("rope_theta", v))?,
    };
    if base <= 0.0 {
        return Err(keys.refuse(format!("rope_theta: found {base}, must be positive")));
    }
    let (name, settings) = match (new, old) {
        (Some(new), _) => ("rope_parameters", new),
        (None, Some(old)) => ("rope_scaling", old),
        (None, None) => return Ok((base, None)),
    };
    Ok((base, scaling(keys, name, settings, max_positions)?))
}

fn scaling(
    keys: &Keys<'_>,
    name: &str,
    settings: &Map<String, Value>,
    max_positions: usize,
) -> Result<Option<RopeScaling>> {
    let read = |key: &str| {
        let full = format!("{name}.{key}");
        let value = settings.get(key).filter(|v| !v.is_null());
        let value = value.ok_or_else(|| keys.missing(&full, "a number"))?;
        match keys.number(&full, value)? {
            number if number > 0.0 => Ok(number),
            _ => Err(keys.wrong(&full, value, "a number above 0")),
        }
    };
    let kind = settings.get("rope_type").or_else(|| settings.get("type"));
    match kind.map(|k| (k.as_str(), k)) {
        None | Some((Some("default"), _)) => Ok(None),
        Some((Some("linear"), _)) => Ok(Some(RopeScaling::Linear {
            factor: read("factor")?,
        })),
        Some((Some("llama3"), _)) => {
            const ORIGINAL: &str = "original_max_position_embeddings";
            let full = format!("{name}.{ORIGINAL}");
            // As `transformers` has it: the top level goes first, and without either it is the whole context.
            let original = match (keys.get(ORIGINAL), settings.get(ORIGINAL)) {
                (Some(value), _) => keys.size_of(ORIGINAL, value)?,
                (None, Some(value)) => keys.size_of(&full, value)?,
                (None, None) => max_positions,
            };
            let (low, high) = (read("low_freq_factor")?, read("high_freq_factor")?);
            if low >= high {
                return Err(keys.refuse(format!(
                    "{name}.low_freq_factor: found {low}, expected less than high_freq_factor ({high})"
                )));
            }
            Ok(Some(RopeScaling::Llama3 {
                factor: read("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: original,
            }))
        }
        Some((_, kind)) => Err(keys.wrong(
            &format!("{name}.rope_type"),
            kind,
            "\"default\", \"linear\" or \"llama3\"",
        )),
    }
}
