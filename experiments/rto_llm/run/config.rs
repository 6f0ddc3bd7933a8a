//! Settings of a run.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use rto::Token;
use rto::algorithm2::{Advantage, Checked, DpoConfig, FitConfig, PpoConfig};
use rto_bridge::collective::Solo;
use rto_bridge::data::Rule;
use rto_bridge::device::Executor;
use rto_bridge::device_learner::DeviceOptions;
use rto_bridge::family::{Activation, GptNeoXConfig, ModelConfig};
use rto_bridge::learner::{LearnerOptions, Ranks};
use rto_bridge::lora::LoraConfig;
use rto_bridge::optimizer::AdamWConfig;
use rto_device::{Kernels, Real};
use rto_harness::config::{self, Layers, Rules};
use rto_harness::methods::{self, Given, Keys, METHODS, Method, Model};
use serde::{Deserialize, Serialize};

use super::args::{Args, NAME};
use super::choices::{CriticKind, Float, MomentsKind, ProductsKind, SamplingWeights};
use super::place::There;

/// Defaults of every key; what the keys mean is said there.
pub const TINY: &str = include_str!("../../configs/rto_llm.tiny.toml");
const TINY_NAME: &str = "experiments/configs/rto_llm.tiny.toml";
const SMOKE: &str = include_str!("../../configs/rto_llm.smoke.toml");
const SMOKE_NAME: &str = "experiments/configs/rto_llm.smoke.toml";

/// The name of the synthetic world, in place of files.
const WORLD: &str = "world";

/// What every Pythia preset shares: Tables 2 to 5.
const PYTHIA: &str = include_str!("../../configs/rto_llm.pythia.toml");

macro_rules! preset {
    ($name:literal, $($layer:expr),*) => {
        ($name, &[$($layer,)* (
            concat!("experiments/configs/rto_llm.", $name, ".toml"),
            include_str!(concat!("../../configs/rto_llm.", $name, ".toml")),
        )])
    };
}

const PAPER: (&str, &str) = ("experiments/configs/rto_llm.pythia.toml", PYTHIA);

/// A file's name, for errors, and its text.
type Text = (&'static str, &'static str);

/// Named settings: what each changes of `tiny`, layer upon layer.
const PRESETS: [(&str, &[Text]); 11] = [
    ("tiny", &[]),
    preset!("hh-scratch",),
    preset!("pythia-14m", PAPER),
    preset!("pythia-70m", PAPER),
    preset!("pythia-160m", PAPER),
    preset!("pythia-410m", PAPER),
    preset!("pythia-1b", PAPER),
    preset!("pythia-1.4b", PAPER),
    preset!("pythia-2.8b-hh", PAPER),
    preset!("smollm2-135m-hh", PAPER),
    preset!("llama3-8b-ultrafeedback", PAPER),
];

/// What is said of keys beside their defaults.
const RULES: Rules = Rules {
    choices: &[
        "schedule",
        "loss",
        "advantage",
        "ratio",
        "aggregation",
        "adaptive_kl",
    ],
    free: &["method"],
    moved: &[
        ("pretrain_learning_rate", "pretrain.learning_rate"),
        ("pretrain_epochs", "pretrain.epochs"),
        ("sft_learning_rate", "sft.learning_rate"),
        ("sft_schedule", "sft.schedule"),
        ("sft_warmup", "sft.schedule"),
        ("sft_batch_size", "sft.batch_size"),
        ("sft_epochs", "sft.epochs"),
        ("reward_learning_rate", "reward.learning_rate"),
        ("reward_schedule", "reward.schedule"),
        ("reward_warmup", "reward.schedule"),
        ("reward_batch_size", "reward.batch_size"),
        ("reward_epochs", "reward.epochs"),
        ("dpo_beta", "dpo.beta"),
        ("dpo_label_smoothing", "dpo.loss"),
        ("dpo_loss", "dpo.loss"),
        ("dpo_learning_rate", "dpo.fit.learning_rate"),
        ("dpo_schedule", "dpo.fit.schedule"),
        ("dpo_warmup", "dpo.fit.schedule"),
        ("dpo_batch_size", "dpo.fit.batch_size"),
        ("dpo_epochs", "dpo.fit.epochs"),
        ("ppo_beta2", "ppo.beta2"),
        ("dppo_beta2", "method.dppo.beta2"),
        ("rto_beta2", "method.rto.beta2"),
        ("printed_beta2", "method.rto_printed.beta2"),
        ("released_beta1", "method.rto_released.beta1"),
        ("released_clip", "method.rto_released.clip"),
        ("released_beta2", "method.rto_released.beta2"),
        ("rl_iterations", "ppo.iterations"),
        ("rl_prompts", "ppo.prompts_per_iteration"),
        ("rl_responses_per_prompt", "ppo.responses_per_prompt"),
        ("rl_epochs", "ppo.epochs"),
        ("rl_minibatch_size", "ppo.minibatch_size"),
        ("rl_learning_rate", "ppo.learning_rate"),
        ("rl_schedule", "ppo.schedule"),
        ("rl_warmup", "ppo.schedule"),
        ("adaptive_kl_target", "ppo.adaptive_kl"),
        ("adaptive_kl_horizon", "ppo.adaptive_kl"),
        ("critic_learning_rate", "ppo.critic_learning_rate"),
        ("kl_estimator", "ppo.kl_estimator"),
        ("gamma", "ppo.gamma"),
        ("lambda", "ppo.lambda"),
        ("clip", "ppo.clip"),
        ("value_clip", "ppo.value_clip"),
        ("value_coef", "ppo.value_coef"),
        ("entropy_bonus", "ppo.entropy_bonus"),
        ("reward_whitening", "ppo.reward_whitening"),
        ("advantage_whitening", "ppo.advantage_whitening"),
        ("aggregation", "ppo.aggregation"),
        ("bootstrap_truncated", "ppo.bootstrap_truncated"),
    ],
};

/// What a network must know of its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary {
    pub size: usize,
    pub eos: Token,
    pub pad: Token,
}

/// A resolved configuration; `experiments/configs/rto_llm.tiny.toml` documents the keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub preset: String,
    pub seed: u64,
    pub device: String,
    pub dtype: Float,
    pub products: ProductsKind,
    pub sampling_weights: SamplingWeights,
    pub data: Vec<String>,
    pub prompt_column: String,
    pub chosen_column: String,
    pub rejected_column: String,
    pub system_column: String,
    pub max_bad_lines: usize,
    pub rules: Vec<String>,
    pub token_rewards: String,
    pub held_out_share: f64,
    pub vocab_size: usize,
    pub max_prompt_tokens: usize,
    pub cut_prompts: bool,
    pub cut_replies: bool,
    pub model: String,
    pub oracle: String,
    pub methods: Vec<&'static Method>,
    pub hidden_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub intermediate_size: usize,
    pub rotary_pct: f64,
    pub max_positions: usize,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub lora_targets: Vec<String>,
    pub demonstrations: usize,
    pub pairs: usize,
    pub reward_scale: f64,
    pub disagreement: f64,
    pub density: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub moments: MomentsKind,
    pub micro_batch: usize,
    pub gradient_groups: usize,
    pub checkpoint_activations: bool,
    pub save_every: u64,
    pub critic: CriticKind,
    pub missing_eos_penalty: f64,
    pub beta1: f64,
    pub pretrain: FitConfig,
    pub sft: FitConfig,
    pub reward: FitConfig,
    pub dpo: DpoConfig,
    pub ppo: PpoConfig,
    pub method: Given,
    pub eval_prompts: usize,
    pub eval_top_p: f64,
    pub eval_temperature: f64,
    pub exact_beta: f64,
    pub samples: usize,
}

/// The layers that the command line asks for, merged. A run that goes on keeps what is not said again.
pub fn resolve(args: &Args) -> Result<Config> {
    let goes_on = args.like.as_ref().or(args.common.out.as_ref());
    let defaults = Layers::new(TINY_NAME, TINY)?.rules(RULES);
    let mut layers = defaults.going_on(NAME, goes_on.map(|p| &**p))?;
    if let Some(name) = &args.preset {
        for (name, text) in preset(name)? {
            layers = layers.overlay(true, name, text)?;
        }
        layers = layers.overlay(true, "--preset", &format!("preset = {name:?}"))?;
    }
    if args.lora == Some(0) {
        bail!("--lora 0: a rank is 1 or more; leave --lora out to train every weight");
    }
    let layers = layers.given(&args.common, SMOKE_NAME, SMOKE)?;
    let layers = layers.flags(&Flags {
        methods: args.methods.as_deref(),
        data: args.data.as_deref(),
        model: args.model.as_deref(),
        oracle: args.oracle.as_deref(),
        device: args.device.as_deref(),
        lora_rank: args.lora,
        prompt_column: args.prompt_column.as_deref(),
        chosen_column: args.chosen_column.as_deref(),
        rejected_column: args.rejected_column.as_deref(),
        system_column: args.system_column.as_deref(),
        token_rewards: args.token_rewards.as_deref(),
    })?;
    let mut config: Config = config::resolve(&layers)?;
    // In the order of the table, each once.
    let chosen = |m: &&Method| config.methods.contains(m);
    config.methods = METHODS.iter().filter(chosen).collect();
    if !(args.dry_run && args.slurm.is_none() && config.published().is_some()) {
        config.check_data()?;
    }
    config.check()?;
    Ok(config)
}

/// The settings of a cell of a sweep: a preset, and tables upon it, each with the name that errors call it by.
///
/// # Errors
/// As [`resolve`]; the tables are named.
pub fn of_tables(preset: &str, tables: &[(String, toml::Table)]) -> Result<Config> {
    let mut layers = Layers::new(TINY_NAME, TINY)?.rules(RULES);
    for (name, text) in self::preset(preset)? {
        layers = layers.overlay(true, name, text)?;
    }
    layers = layers.overlay(true, "preset", &format!("preset = {preset:?}"))?;
    for (name, table) in tables {
        layers = layers.table(name, table);
    }
    let config: Config = config::resolve(&layers)?;
    config.check_data()?;
    config.check()?;
    Ok(config)
}

fn preset(name: &str) -> Result<&'static [Text]> {
    let names = || PRESETS.map(|(name, _)| name).join(", ");
    let preset = PRESETS.iter().find(|(other, _)| *other == name);
    let (_, texts) = preset.with_context(|| {
        format!(
            "--preset {name}: no such preset, expected one of {}",
            names()
        )
    })?;
    Ok(texts)
}

/// Settings with a flag of their own.
#[derive(Serialize)]
struct Flags<'a> {
    methods: Option<&'a [&'static Method]>,
    data: Option<&'a [String]>,
    model: Option<&'a str>,
    oracle: Option<&'a str>,
    device: Option<&'a str>,
    lora_rank: Option<usize>,
    prompt_column: Option<&'a str>,
    chosen_column: Option<&'a str>,
    rejected_column: Option<&'a str>,
    system_column: Option<&'a str>,
    token_rewards: Option<&'a str>,
}

impl Config {
    fn check(&self) -> Result<()> {
        let positive = [
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("demonstrations", self.demonstrations),
            ("pairs", self.pairs),
            ("eval_prompts", self.eval_prompts),
            ("micro_batch", self.micro_batch),
            ("max_new_tokens", self.max_new_tokens),
            ("hidden_size", self.hidden_size),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_positions", self.max_positions),
            ("save_every", self.save_every as usize),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, n)| *n == 0) {
            bail!("{key}: found 0, expected at least 1");
        }
        Ranks::try_new(Arc::new(Solo), self.gradient_groups)?;
        if self.executor()?.is_some() && self.gradient_groups > 1 {
            bail!(
                "gradient_groups: found {}, expected 1 with device = {:?}, which adds the gradients of a batch in one order",
                self.gradient_groups,
                self.device
            );
        }
        self.check_processor()?;
        if !self.hidden_size.is_multiple_of(self.n_heads) {
            bail!(
                "n_heads: found {}, expected a divisor of hidden_size ({})",
                self.n_heads,
                self.hidden_size
            );
        }
        if !(0.0..=1.0).contains(&self.rotary_pct) {
            bail!(
                "rotary_pct: found {}, expected a value from 0 to 1",
                self.rotary_pct
            );
        }
        self.pretrain()?;
        self.sft()?;
        self.reward()?;
        self.dpo()?;
        methods::check(&self.method)?;
        for method in &self.methods {
            if method.training().critic_from_prefix {
                bail!(
                    "methods: found {}, expected methods whose critic needs no list of all states; `algorithm2` has it",
                    method.name
                );
            }
            self.ppo(method)?;
        }
        let pays = |m: &&Method| m.training().reads.contains(&Model::TokenRewardModel);
        match (
            self.methods.iter().copied().find(pays),
            self.token_rewards.as_str(),
        ) {
            (Some(method), "") => bail!(
                "token_rewards: found no file, expected one for {}, whose reward is fitted to it: --token-rewards FILE",
                method.name
            ),
            (None, file) if !file.is_empty() => bail!(
                "token_rewards: found {file:?}, expected none without the method ppo_dense, which alone reads it"
            ),
            _ => {}
        }
        if self.critic == CriticKind::Shared && self.methods.iter().any(|m| !self.has_critic(m)) {
            bail!(
                "critic: found \"shared\", expected \"separate\" with methods that have no critic"
            );
        }
        Ok(())
    }

    /// What only networks in f32 on the processor have.
    fn check_processor(&self) -> Result<()> {
        let asked = match (self.products, self.sampling_weights) {
            (ProductsKind::Bf16, _) => "products = \"bf16\"".to_string(),
            (_, SamplingWeights::F32) => return Ok(()),
            (_, other) => format!("sampling_weights = {:?}", other.name()),
        };
        if self.device != "cpu" {
            bail!(
                "device: found {:?} with {asked}, expected \"cpu\": only networks on the processor compute so",
                self.device
            );
        }
        if self.dtype != Float::F32 {
            bail!("dtype: found \"bf16\" with {asked}, expected \"f32\"");
        }
        Ok(())
    }

    /// Refuses products that this processor does not have.
    pub fn check_products(&self) -> Result<()> {
        if !self.products.of().available() {
            bail!(
                "products: found \"bf16\", expected \"f32\" on this processor, which lacks the instructions avx512_bf16"
            );
        }
        Ok(())
    }

    /// Whether a method learns V.
    pub fn has_critic(&self, method: &Method) -> bool {
        let ppo = self.ppo(method);
        ppo.is_ok_and(|ppo| ppo.advantage == Advantage::Gae)
    }

    /// The network by its published shape, where neither its folder nor data are given: enough for a plan.
    pub fn published(&self) -> Option<ModelConfig> {
        let here = self.model.is_empty() || Path::new(&self.model).exists();
        match here || !self.data.is_empty() {
            true => None,
            false => ModelConfig::published(&self.model),
        }
    }

    fn check_data(&self) -> Result<()> {
        if self.data.is_empty() {
            bail!(
                "data: found no file, expected --data FILE (HH-RLHF as published, or prompt, chosen and rejected) or \"world\""
            );
        }
        if self.on_world() {
            if !self.oracle.is_empty() {
                bail!(
                    "oracle: found {:?}, expected none: the reward of the world is known",
                    self.oracle
                );
            }
            return Ok(());
        }
        if let Some(name) = self.data.iter().find(|name| *name == WORLD) {
            bail!("data: found {name:?} beside files, expected one or the other");
        }
        for rule in &self.rules {
            Rule::from_name(rule).context("rules")?;
        }
        let needed = self.max_prompt_tokens + self.max_new_tokens;
        if self.model.is_empty() && self.max_positions < needed {
            let hint = match self.preset == "tiny" {
                true => {
                    "; preset tiny is made for the synthetic world, --preset hh-scratch for data of your own"
                }
                false => "",
            };
            bail!(
                "max_positions: found {}, expected at least {needed} = max_prompt_tokens + max_new_tokens{hint}",
                self.max_positions
            );
        }
        Ok(())
    }

    /// Whether the data are those of the synthetic world.
    pub fn on_world(&self) -> bool {
        self.data == [WORLD]
    }

    /// Whether stage `pretrain` has anything to do: a network from scratch must learn to write before it is fine-tuned.
    pub fn pretrains(&self) -> bool {
        self.model.is_empty() && self.pretrain.epochs > 0 && !self.on_world()
    }

    /// The shape of a new network.
    pub fn network(&self, words: Vocabulary) -> ModelConfig {
        let head = self.hidden_size / self.n_heads;
        ModelConfig::from(GptNeoXConfig {
            vocab_size: words.size,
            hidden_size: self.hidden_size,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            intermediate_size: self.intermediate_size,
            rotary_dims: (head as f64 * self.rotary_pct / 2.0).round() as usize * 2,
            rotary_base: 10_000.0,
            max_positions: self.max_positions,
            layer_norm_eps: 1e-5,
            parallel_residual: true,
            activation: Activation::Gelu,
            attention_bias: true,
            tied_embeddings: false,
            bos_token: None,
            eos_tokens: words.eos.into(),
            pad_token: Some(words.pad),
        })
    }

    /// The adapters that are trained instead of all weights, if any.
    pub fn lora(&self, network: &ModelConfig) -> Option<LoraConfig> {
        if self.lora_rank == 0 {
            return None;
        }
        let mut lora = LoraConfig::every_layer(network, self.lora_rank, self.lora_alpha);
        if !self.lora_targets.is_empty() {
            lora.target_modules.clone_from(&self.lora_targets);
        }
        Some(lora)
    }

    /// What the program of kernels trains on, where the run asks for it.
    pub fn executor(&self) -> Result<Option<Executor>> {
        Ok(Executor::named(&self.device)?)
    }

    /// Networks on a device of the program of kernels.
    pub fn place<'d>(&self, executor: Executor, device: &'d dyn rto_device::Device) -> There<'d> {
        let real = match self.dtype {
            Float::F32 => Real::F32,
            Float::Bf16 => Real::Bf16,
        };
        There {
            kernels: Kernels::new(device, real).with_threads(executor.threads()),
            options: DeviceOptions {
                micro_batch: self.micro_batch,
                checkpointing: self.checkpoint_activations,
                ..DeviceOptions::default()
            },
        }
    }

    /// The float type of networks on the host: f32 where the program of kernels trains, which keeps exact f32 weights of its own.
    pub fn host_dtype(&self) -> DType {
        match self.executor() {
            Ok(None) => self.dtype.of(),
            _ => DType::F32,
        }
    }

    /// How every network is trained.
    pub fn learner(&self) -> LearnerOptions {
        LearnerOptions {
            optimizer: AdamWConfig {
                decay1: self.adam_beta1,
                decay2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
                max_grad_norm: Some(self.max_grad_norm),
                groups: Vec::new(),
                moments: self.moments.of(),
            },
            learning_rate: 0.0,
            micro_batch: self.micro_batch,
        }
    }

    /// Language modelling from scratch.
    pub fn pretrain(&self) -> Result<Checked<FitConfig>> {
        let epochs = self.pretrain.epochs.max(1);
        let fit = FitConfig {
            epochs,
            ..self.pretrain
        };
        fit.check().context("pretrain")
    }

    /// Supervised fine-tuning.
    pub fn sft(&self) -> Result<Checked<FitConfig>> {
        self.sft.check().context("sft")
    }

    /// The reward model.
    pub fn reward(&self) -> Result<Checked<FitConfig>> {
        self.reward.check().context("reward")
    }

    /// DPO.
    pub fn dpo(&self) -> Result<Checked<DpoConfig>> {
        self.dpo.check().context("dpo")
    }

    /// The settings of a method that are its own.
    pub fn keys(&self, method: &Method) -> Result<Keys> {
        method.keys(&self.method)
    }

    /// Lines 3–8 of Algorithm 2 for a method.
    pub fn ppo(&self, method: &Method) -> Result<Checked<PpoConfig>> {
        let config = method.ppo(self.ppo, &self.keys(method)?);
        config.check().context(method.name)
    }
}
