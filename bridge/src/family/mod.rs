//! Families of models: what a network of each is, as data, and how its `config.json` says it.
//!
//! | family | `model_type` | file |
//! |---|---|---|
//! | GPT-NeoX (Pythia) | `gpt_neox` | `gpt_neox.rs` |
//! | Llama, and Mistral with its attention window | `llama`, `mistral` | `llama.rs` |
//! | Qwen2, Qwen2.5, Qwen3 (dense) | `qwen2`, `qwen3` | `qwen.rs` |
//! | GPT-2 | `gpt2` | `gpt2.rs` |
//! | Gemma 2, Gemma 3 (text) | `gemma2`, `gemma3_text` | `gemma2.rs`, `gemma3.rs` |
//! | OLMo-2 | `olmo2` | `olmo2.rs` |
//! | Phi-3 | `phi3` | `phi3.rs` |
//!
//! A family is one file that defines a [`Family`], and a line in [`FAMILIES`]. The file says
//!
//! - how the makers write the family, its `model_type` and its two classes of `transformers`;
//! - the [`Names`] of its tensors; a norm is there if it has a name ([`LLAMA_NAMES`] with changes is often enough);
//! - the layers that an adapter takes by default ([`Family::lora_targets`]);
//! - the keys of sizes in `config.json` and the defaults of the class ([`ConfigKeys`]);
//! - `read`, which fills in the [`BlockPlan`] from the keys of its own (sizes are read before, and checked after);
//! - `write`, which puts those keys back (sizes, tokens, activation, class names and types are written for it);
//! - what it is called in GGUF ([`Gguf`]), if anything.
//!
//! No pass over a network asks which family it is: all read [`ModelConfig::plan`], [`Family::names`] and the sizes. What a plan can say is
//! listed at [`BlockPlan`]; a choice that no plan says yet is a field there, and a line in each pass.
//!
//! What does not care for the family takes a [`ModelConfig`]. [`GptNeoXConfig`] and [`LlamaConfig`] describe a network of these families
//! in Rust and turn into one.

mod config;
mod ends;
mod gemma2;
mod gemma3;
mod gguf;
mod gpt2;
mod gpt_neox;
mod in_rust;
mod keys;
mod llama;
mod names;
mod olmo2;
mod phi3;
mod plan;
mod published;
mod qwen;
mod rope;

pub(crate) use config::{ConfigFile, Layer, one_of};
pub use config::{Head, ModelConfig};
pub use ends::EndTokens;
pub use gguf::{Gguf, Metadata};
pub use in_rust::{GptNeoXConfig, LlamaConfig, LlamaFamily};
pub use keys::Keys;
pub use names::{LLAMA_NAMES, Names, REWARD_WEIGHT, VALUE_BIAS, VALUE_WEIGHT};
pub use plan::{Activation, Biases, BlockPlan, Layers, Norm, NormKind, Packing, QkNorm, Window};
pub use rope::{RopeScaling, Rotary};

use crate::Result;
use serde_json::{Map, Value};

/// Every family that runs here.
pub static FAMILIES: [&Family; 10] = [
    &gpt_neox::GPT_NEOX,
    &llama::LLAMA,
    &llama::MISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gpt2::GPT2,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &olmo2::OLMO2,
    &phi3::PHI3,
];

/// A family of decoder-only transformers.
#[derive(Debug)]
pub struct Family {
    /// As its makers write it.
    pub name: &'static str,
    /// What `config.json` calls it.
    pub model_type: &'static str,
    /// Classes of `transformers` with a head for text and with one for scores.
    pub classes: [&'static str; 2],
    /// Names of its tensors.
    pub names: Names,
    /// Ends of the names of the linear layers of a block, whole words between dots, as PEFT is told them.
    pub lora_targets: &'static [&'static str],
    /// Keys of `config.json` that every family has, and the defaults of its class.
    pub keys: ConfigKeys,
    /// Fills in the plan from the keys of its own; sizes, tokens and activation are there already.
    pub read: fn(&Keys<'_>, &mut ModelConfig) -> Result<()>,
    /// Puts those keys into a `config.json`.
    pub write: fn(&ModelConfig, &mut Map<String, Value>),
    /// Its networks in GGUF files, where llama.cpp has them and they are read here.
    pub gguf: Option<&'static Gguf>,
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

/// Keys of `config.json` with the defaults of the family's class in `transformers`, which leaves keys out where a network has the same value.
#[derive(Debug)]
pub struct ConfigKeys {
    /// Rows of the embedding.
    pub vocab_size: (&'static str, usize),
    /// Width of the residual stream.
    pub hidden_size: (&'static str, usize),
    /// Blocks.
    pub n_layers: (&'static str, usize),
    /// Query heads.
    pub n_heads: (&'static str, usize),
    /// Heads of keys and values, where they can be fewer. Without a default, or where it does not divide the heads, as many as those.
    pub n_kv_heads: Option<(&'static str, Option<usize>)>,
    /// Width of a head, where it has a key; `hidden_size / n_heads` without a default.
    pub head_dim: Option<(&'static str, Option<usize>)>,
    /// Width inside the MLP; four times the stream's where the default is 0 and the key is absent or null.
    pub intermediate_size: (&'static str, usize),
    /// Longest sequence.
    pub max_positions: (&'static str, usize),
    /// ε of the norms.
    pub epsilon: (&'static str, f64),
    /// The MLP's non-linearity, the class's own first, then the other names that are read.
    pub activation: (&'static str, &'static [&'static str]),
    /// Whether head and embedding are tied.
    pub tied: bool,
    /// Tokens that begin and end a text.
    pub tokens: [Option<u32>; 2],
}

/// Whether a weight's name, in any family, is that of a layer that writes to the residual stream.
pub(crate) fn writes_residual(name: &str) -> bool {
    let Some(module) = name.strip_suffix(".weight") else {
        return false;
    };
    let ends_with = |end: &str| {
        module
            .strip_suffix(end)
            .is_some_and(|rest| rest.ends_with('.'))
    };
    FAMILIES
        .iter()
        .any(|family| ends_with(family.names.out) || ends_with(family.names.down))
}
