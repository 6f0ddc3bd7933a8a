//! The shape of a network, and its `config.json`.

use super::keys::{Keys, shown};
use super::{
    Activation, BlockPlan, EndTokens, FAMILIES, Family, NormKind, Packing, QkNorm, Rotary,
};
use crate::ops::rotary::HeadLayout;
use crate::{Error, Result};
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

/// A network of some family: its sizes, and what its blocks compute.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub(crate) family: &'static Family,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) max_positions: usize,
    pub(crate) plan: BlockPlan,
    pub(crate) tied_embeddings: bool,
    pub(crate) bos_token: Option<u32>,
    pub(crate) eos_tokens: EndTokens,
    pub(crate) pad_token: Option<u32>,
}

/// A linear layer of a block: module, width of its output and of its input, and whether it has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layer {
    pub module: &'static str,
    pub outputs: usize,
    pub inputs: usize,
    pub bias: bool,
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
        let keys = &self.family.keys;
        let mut value = json!({
            "model_type": self.family.model_type,
            "tie_word_embeddings": self.tied_embeddings,
            "bos_token_id": self.bos_token,
            "eos_token_id": self.eos_tokens.to_json(),
            "pad_token_id": self.pad_token,
            "initializer_range": 0.02,
            "use_cache": true,
            "dtype": dtype,
            "torch_dtype": dtype,
            keys.vocab_size.0: self.vocab_size,
            keys.hidden_size.0: self.hidden_size,
            keys.n_layers.0: self.n_layers,
            keys.n_heads.0: self.n_heads,
            keys.intermediate_size.0: self.intermediate_size,
            keys.max_positions.0: self.max_positions,
            keys.epsilon.0: self.plan.norm.epsilon,
            keys.activation.0: self.plan.activation.name(),
        });
        if let Some((key, _)) = keys.n_kv_heads {
            value[key] = json!(self.n_kv_heads);
        }
        if let Some((key, _)) = keys.head_dim {
            value[key] = json!(self.head_dim);
        }
        if let Value::Object(map) = &mut value {
            (self.family.write)(self, map);
        }
        describe_head(&mut value, head, self.family.classes);
        value
    }

    /// Checks what the sizes say together.
    ///
    /// # Errors
    /// [`Error::Setting`] under the key's name in `config.json`.
    pub fn check(&self) -> Result<()> {
        let keys = &self.family.keys;
        let refuse = |field, found: String, expected: String| {
            Err(Error::Setting {
                field,
                found,
                expected,
            })
        };
        let window = self.plan.window.as_ref().map_or(1, |w| w.size);
        let kv_key = keys.n_kv_heads.map_or(keys.n_heads.0, |k| k.0);
        let head_key = keys.head_dim.map_or(keys.hidden_size.0, |k| k.0);
        let sizes = [
            (keys.vocab_size.0, self.vocab_size),
            (keys.hidden_size.0, self.hidden_size),
            (keys.n_layers.0, self.n_layers),
            (keys.n_heads.0, self.n_heads),
            (kv_key, self.n_kv_heads),
            (head_key, self.head_dim),
            (keys.intermediate_size.0, self.intermediate_size),
            (keys.max_positions.0, self.max_positions),
            ("sliding_window", window),
        ];
        if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return refuse(field, "0".into(), "at least 1".into());
        }
        if keys.head_dim.is_none() && self.head_dim * self.n_heads != self.hidden_size {
            let (found, heads) = (self.hidden_size.to_string(), self.n_heads);
            let expected = format!("a multiple of {} ({heads})", keys.n_heads.0);
            return refuse(keys.hidden_size.0, found, expected);
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of {} ({})", keys.n_heads.0, self.n_heads);
            return refuse(kv_key, self.n_kv_heads.to_string(), expected);
        }
        let epsilon = self.plan.norm.epsilon;
        if !(epsilon > 0.0 && epsilon < 1.0) {
            let expected = "a number above 0 and below 1";
            return refuse(keys.epsilon.0, epsilon.to_string(), expected.into());
        }
        let local = self.plan.window.as_ref().and_then(|w| w.rotary.as_ref());
        for rotary in self.plan.rotary.iter().chain(local) {
            if !(rotary.base.is_finite() && rotary.base > 0.0) {
                let expected = "a finite number above 0".into();
                return refuse("rope_theta", rotary.base.to_string(), expected);
            }
            if rotary.dims == self.head_dim && !self.head_dim.is_multiple_of(2) {
                return refuse(head_key, self.head_dim.to_string(), "an even number".into());
            }
            if !rotary.dims.is_multiple_of(2) || rotary.dims > self.head_dim {
                let expected = format!("an even number up to {}", self.head_dim);
                return refuse("rotary_dims", rotary.dims.to_string(), expected);
            }
        }
        Ok(())
    }

    /// Name and shape of every weight of the network with this head, as Hugging Face names them; linear layers `[out, in]`.
    pub fn tensors(&self, head: Head) -> BTreeMap<String, Vec<usize>> {
        let (mut tensors, hidden) = (self.trunk(), self.hidden_size);
        match head {
            Head::CausalLm if self.tied_embeddings => {}
            Head::CausalLm => {
                tensors.insert(self.head_weight().into(), vec![self.vocab_size, hidden]);
            }
            Head::Classification { labels } => {
                tensors.insert("score.weight".into(), vec![labels, hidden]);
            }
        }
        tensors
    }

    /// Name and shape of every weight but those of the heads.
    pub fn trunk(&self) -> BTreeMap<String, Vec<usize>> {
        let (names, h) = (&self.family.names, self.hidden_size);
        let mut tensors = BTreeMap::new();
        tensors.insert(names.embedding.to_string(), vec![self.vocab_size, h]);
        if let Some(positions) = names.positions {
            tensors.insert(positions.to_string(), vec![self.max_positions, h]);
        }
        let mut norm = |name: String, width: usize| {
            if self.plan.norm.kind == NormKind::Layer {
                tensors.insert(format!("{name}.bias"), vec![width]);
            }
            tensors.insert(format!("{name}.weight"), vec![width]);
        };
        norm(names.final_norm.into(), h);
        for layer in 0..self.n_layers {
            let norms = [
                names.attention_norm,
                names.attention_out_norm,
                names.mlp_norm,
                names.mlp_out_norm,
            ];
            for name in norms.into_iter().flatten() {
                norm(self.module(layer, name), h);
            }
            for (name, width) in self.qk_norms().into_iter().flatten() {
                norm(self.module(layer, name), width);
            }
        }
        for layer in 0..self.n_layers {
            for l in self.layers() {
                let name = self.module(layer, l.module);
                if l.bias {
                    tensors.insert(format!("{name}.bias"), vec![l.outputs]);
                }
                tensors.insert(format!("{name}.weight"), vec![l.outputs, l.inputs]);
            }
        }
        tensors
    }

    /// A block's module by its whole name.
    pub(crate) fn module(&self, layer: usize, name: &str) -> String {
        format!("{}.{layer}.{name}", self.family.names.blocks)
    }

    /// Whether files store a weight `[in, out]`, other than it is in memory.
    pub(crate) fn stored_transposed(&self, name: &str) -> bool {
        let names = &self.family.names;
        let of = |l: &Layer| {
            name.strip_suffix(".weight")
                .is_some_and(|n| n.ends_with(l.module))
        };
        names.conv1d && name.starts_with(names.blocks) && self.layers().iter().any(of)
    }

    /// Norms of queries and keys with the widths of their gains.
    pub(crate) fn qk_norms(&self) -> Option<[(&'static str, usize); 2]> {
        let [q, k] = self.family.names.qk_norms?;
        let d = self.head_dim;
        Some(match self.plan.qk_norm? {
            QkNorm::Head => [(q, d), (k, d)],
            QkNorm::Row => [(q, self.n_heads * d), (k, self.n_kv_heads * d)],
        })
    }

    /// Projections to queries, keys and values: one, or three.
    pub(crate) fn qkv_layers(&self) -> Vec<Layer> {
        let [queries, keys] = [self.n_heads, self.n_kv_heads].map(|heads| heads * self.head_dim);
        let modules = self.family.names.qkv;
        let widths = match modules.len() {
            1 => vec![queries + 2 * keys],
            _ => vec![queries, keys, keys],
        };
        self.projections(modules, widths, self.plan.biases.qkv)
    }

    /// Projections to the MLP's inner width: one, or gate and up.
    pub(crate) fn up_layers(&self) -> Vec<Layer> {
        let (modules, inner) = (self.family.names.up, self.intermediate_size);
        let widths = match (modules.len(), self.plan.gated) {
            (1, true) => vec![2 * inner],
            (n, _) => vec![inner; n],
        };
        self.projections(modules, widths, self.plan.biases.up)
    }

    fn projections(
        &self,
        modules: &'static [&'static str],
        widths: Vec<usize>,
        bias: bool,
    ) -> Vec<Layer> {
        let layer = |(&module, outputs)| Layer {
            module,
            outputs,
            inputs: self.hidden_size,
            bias,
        };
        modules.iter().zip(widths).map(layer).collect()
    }

    /// The attention's output.
    pub(crate) fn out_layer(&self) -> Layer {
        Layer {
            module: self.family.names.out,
            outputs: self.hidden_size,
            inputs: self.n_heads * self.head_dim,
            bias: self.plan.biases.out,
        }
    }

    /// The MLP's output.
    pub(crate) fn down_layer(&self) -> Layer {
        Layer {
            module: self.family.names.down,
            outputs: self.hidden_size,
            inputs: self.intermediate_size,
            bias: self.plan.biases.down,
        }
    }

    /// Every linear layer of a block.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let mut layers = self.qkv_layers();
        layers.push(self.out_layer());
        layers.extend(self.up_layers());
        layers.push(self.down_layer());
        layers
    }

    /// Name of the embedding `[vocab, hidden]`.
    pub fn embedding(&self) -> &'static str {
        self.family.names.embedding
    }

    /// Name of the learned positions `[max_positions, hidden]`, where there are some.
    pub fn positions(&self) -> Option<&'static str> {
        self.family.names.positions
    }

    /// Name of the language-model head `[vocab, hidden]`: the embedding where they are tied.
    pub fn head_weight(&self) -> &'static str {
        match self.tied_embeddings {
            true => self.embedding(),
            false => self.family.names.head,
        }
    }

    /// What the blocks compute.
    pub fn plan(&self) -> &BlockPlan {
        &self.plan
    }

    /// The family's description.
    pub fn description(&self) -> &'static Family {
        self.family
    }

    /// Rows of the embedding, padding included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Transformer blocks.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Query heads.
    pub fn n_heads(&self) -> usize {
        self.n_heads
    }

    /// Heads of keys and values, a divisor of [`ModelConfig::n_heads`]: query head i reads number i / (n_heads / n_kv_heads).
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Width inside the MLP.
    pub fn intermediate_size(&self) -> usize {
        self.intermediate_size
    }

    /// Where queries, keys and values lie in a row of the packed projection.
    pub(crate) fn head_layout(&self) -> HeadLayout {
        let d = self.head_dim;
        let [queries, keys] = [self.n_heads * d, self.n_kv_heads * d];
        let (step, offsets) = match self.plan.packing {
            Packing::Heads => (3 * d, [0, d, 2 * d]),
            Packing::Parts => (d, [0, queries, queries + keys]),
        };
        HeadLayout {
            row: queries + 2 * keys,
            head_dim: d,
            heads: self.n_heads,
            kv_heads: self.n_kv_heads,
            step,
            offsets,
        }
    }

    /// Factor on q·k.
    pub(crate) fn attention_scale(&self) -> f64 {
        let usual = 1.0 / (self.head_dim as f64).sqrt();
        self.plan.attention_scale.unwrap_or(usual)
    }

    /// Longest sequence, prompt and response together.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// How many of the last keys a query of a block sees, itself included; all of them where `None`.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.plan.window.as_ref()?;
        window.layers.contains(layer).then_some(window.size)
    }

    /// Puts the window and the list of blocks that have it into a `config.json`.
    pub(super) fn write_window(&self, map: &mut Map<String, Value>) {
        let kind = |layer| match self.window(layer) {
            Some(_) => "sliding_attention",
            None => "full_attention",
        };
        let kinds: Vec<&str> = (0..self.n_layers).map(kind).collect();
        let size = self.plan.window.as_ref().map(|window| window.size);
        map.insert("sliding_window".into(), json!(size));
        map.insert("layer_types".into(), json!(kinds));
    }

    /// The rotations of this network's blocks: the usual one, then that of blocks with a window where it is another.
    pub(crate) fn rotaries(&self) -> Vec<Rotary> {
        let local = self.plan.window.as_ref().and_then(|w| w.rotary);
        self.plan.rotary.into_iter().chain(local).collect()
    }

    /// Which of [`ModelConfig::rotaries`] turns a block's queries and keys.
    pub(crate) fn rotary_of(&self, layer: usize) -> Option<usize> {
        let windowed = self
            .plan
            .window
            .as_ref()
            .filter(|w| w.layers.contains(layer));
        match windowed.and_then(|w| w.rotary) {
            Some(_) => Some(usize::from(self.plan.rotary.is_some())),
            None => self.plan.rotary.map(|_| 0),
        }
    }

    /// Whether the output head is the embedding itself.
    pub fn tied_embeddings(&self) -> bool {
        self.tied_embeddings
    }

    /// The same network with a language-model head of its own.
    #[must_use]
    pub fn untied(mut self) -> Self {
        self.tied_embeddings = false;
        self
    }

    /// Token that begins a text.
    pub fn bos_token(&self) -> Option<u32> {
        self.bos_token
    }

    /// Token that ends the replies a network is trained on.
    pub fn eos_token(&self) -> Option<u32> {
        self.end_tokens().reply()
    }

    /// Tokens any of which ends a response.
    pub fn end_tokens(&self) -> &EndTokens {
        &self.eos_tokens
    }

    /// The same network with other tokens that end a response.
    #[must_use]
    pub fn with_end_tokens(mut self, ends: EndTokens) -> Self {
        self.eos_tokens = ends;
        self
    }

    /// Token that fills a batch up.
    pub fn pad_token(&self) -> Option<u32> {
        self.pad_token
    }

    /// The same network with other numbers of blocks and words, to time a step on.
    pub fn resized(&self, n_layers: usize, vocab_size: usize) -> Self {
        Self {
            n_layers,
            vocab_size,
            ..self.clone()
        }
    }

    /// Weights of one block's matrices.
    pub fn block_weights(&self) -> usize {
        self.layers().iter().map(|l| l.outputs * l.inputs).sum()
    }

    /// What `config.json` calls the architecture.
    pub fn model_type(&self) -> &'static str {
        self.family.model_type
    }

    /// What a reader would call the family.
    pub fn family(&self) -> &'static str {
        self.family.name
    }

    /// Sizes, tokens and activation under the family's keys; the plan is [`BlockPlan::new`] yet.
    fn from_keys(keys: &Keys<'_>, family: &'static Family) -> Result<Self> {
        let names = &family.keys;
        let size = |(key, default)| keys.size_or_class(key, default);
        let vocab_size = size(names.vocab_size)?;
        let hidden_size = size(names.hidden_size)?;
        let n_heads = size(names.n_heads)?;
        let n_kv_heads = match names.n_kv_heads {
            None => n_heads,
            Some((key, default)) => {
                let default = default.filter(|n| n_heads.is_multiple_of(*n));
                keys.size_or(key, default.unwrap_or(n_heads))?
            }
        };
        let usual = (hidden_size / n_heads).max(1);
        let head_dim = match names.head_dim {
            None => usual,
            Some((key, default)) => keys.size_or(key, default.unwrap_or(usual))?,
        };
        let intermediate_size = match names.intermediate_size {
            (key, 0) => keys.size_or(key, 4 * hidden_size)?,
            named => size(named)?,
        };
        let mut plan = BlockPlan::new(keys.epsilon(names.epsilon.0, names.epsilon.1)?);
        plan.activation = activation(keys, names.activation)?;
        let [bos, eos] = names.tokens;
        Ok(Self {
            family,
            vocab_size,
            hidden_size,
            n_layers: size(names.n_layers)?,
            n_heads,
            n_kv_heads,
            head_dim,
            intermediate_size,
            max_positions: size(names.max_positions)?,
            plan,
            tied_embeddings: keys.flag("tie_word_embeddings", names.tied)?,
            bos_token: keys.token("bos_token_id", bos, vocab_size)?,
            eos_tokens: keys.end_tokens(eos, vocab_size)?,
            pad_token: keys.pad_token(vocab_size)?,
        })
    }
}

fn activation(keys: &Keys<'_>, (key, names): (&str, &[&str])) -> Result<Activation> {
    let read = match keys.get(key) {
        None => Activation::named(names[0]),
        Some(value) => {
            let found = value.as_str().and_then(Activation::named);
            found.filter(|a| names.iter().any(|n| Activation::named(n) == Some(*a)))
        }
    };
    let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
    let found = keys.get(key).unwrap_or(&Value::Null);
    read.ok_or_else(|| keys.wrong(key, found, &one_of(&quoted)))
}

/// "a, b or c".
pub(crate) fn one_of(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A `config.json`, and what the weights beside it must settle.
pub(crate) struct ConfigFile {
    pub config: ModelConfig,
    pub head: Head,
    /// What was read otherwise than it stands there.
    pub notes: Vec<String>,
    /// The key of the heads of keys and values is not there, so that the weights say how many there are.
    pub heads_open: bool,
}

impl ConfigFile {
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &bytes_of(path)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::of(path, &object_of(path, bytes)?)
    }

    /// The shape that an object of keys says; `path` is only named in errors.
    pub fn of(path: &Path, object: &Map<String, Value>) -> Result<Self> {
        let keys = Keys::new(path, object);
        check_dense(&keys)?;
        let named = keys.get("model_type").and_then(Value::as_str);
        let Some(family) = FAMILIES.iter().find(|f| named == Some(f.model_type)) else {
            let known: Vec<String> = FAMILIES
                .iter()
                .map(|f| format!("\"{}\"", f.model_type))
                .collect();
            return Err(match keys.get("model_type") {
                Some(other) => keys.wrong("model_type", other, &one_of(&known)),
                None => keys.missing("model_type", &one_of(&known)),
            });
        };
        keys.check_not_quantised()?;
        let mut config = ModelConfig::from_keys(&keys, family)?;
        (family.read)(&keys, &mut config)?;
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
            config.vocab_size,
        )?;
        let [causal, classification] = family.classes;
        Ok(Self {
            head: keys.head(causal, classification)?,
            heads_open: family
                .keys
                .n_kv_heads
                .is_some_and(|(key, _)| keys.get(key).is_none()),
            config,
            notes: keys.notes.into_inner(),
        })
    }
}

/// Mixtures of experts are refused by what they are.
fn check_dense(keys: &Keys<'_>) -> Result<()> {
    let counts = ["num_experts", "num_local_experts", "n_routed_experts"];
    let several = |key: &&&str| keys.get(key).and_then(Value::as_u64) > Some(1);
    let Some(key) = counts.iter().find(several) else {
        return Ok(());
    };
    let what = keys.get("model_type").map_or("this".into(), shown);
    Err(keys.refuse(format!(
        "{key}: {what} is a mixture of experts ({}), expected a dense network; mixtures of experts are not supported",
        keys.object[*key]
    )))
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
    match crate::json::of_file(path, bytes)? {
        Value::Object(object) => Ok(object),
        value => {
            let found = shown(&value);
            Err(Error::file(
                path,
                format!("found {found}, expected a JSON object"),
            ))
        }
    }
}

/// Puts `architectures` and, for a classifier, the names of its labels into a `config.json`.
fn describe_head(value: &mut Value, head: Head, [causal, classification]: [&str; 2]) {
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
