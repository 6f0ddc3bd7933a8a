//! Settings of `algorithm2`: unchecked from TOML and flags, then checked.

use anyhow::{Context, Result, bail};
use rto::algorithm2::{DpoConfig, PpoConfig};
use rto_harness::config::{Rules, increasing, within};
use rto_harness::list::List;
use rto_harness::methods::{self, Given, Method, method, value_parser};
use rto_harness::on_tree::setup::Draw;
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

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
        ("beta1", "dpo.beta"),
        ("beta2", "ppo.beta2"),
        ("fit_learning_rate", "dpo.fit.learning_rate"),
        ("fit_batch", "dpo.fit.batch_size"),
        ("fit_epochs", "dpo.fit.epochs"),
        ("lambda", "ppo.lambda"),
        ("policy_learning_rate", "ppo.learning_rate"),
        ("critic_learning_rate", "ppo.critic_learning_rate"),
        ("clip", "ppo.clip"),
        ("epochs", "ppo.epochs"),
        ("iterations", "ppo.iterations"),
        ("rloo_group", "method.rloo.group"),
        ("released_clip", "method.rto_released.clip"),
    ],
};

/// The resolved settings, saved with each run. Every key is documented in
/// `experiments/configs/algorithm2.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    pub prompts: usize,
    pub reward_scale: f64,
    pub reference_scale: f64,
    pub pairs: usize,
    pub methods: Vec<&'static Method>,
    pub eval_every: u64,
    pub long_actions: usize,
    pub long_horizon: usize,
    pub long_responses: usize,
    pub wide_actions: usize,
    pub wide_horizon: usize,
    pub wide_responses: usize,
    pub replicates: u64,
    pub lambdas: Vec<f64>,
    pub critic_learning_rates: Vec<f64>,
    pub map_iterations: u64,
    pub map_replicates: u64,
    pub sweep_actions: usize,
    pub sweep_horizon: usize,
    pub sweep_responses: usize,
    pub sweep_pairs: usize,
    pub responses: Vec<usize>,
    pub horizons: Vec<usize>,
    pub action_counts: Vec<usize>,
    pub beta2s: Vec<f64>,
    pub pair_counts: Vec<usize>,
    pub sweep_iterations: u64,
    pub sweep_replicates: u64,
    pub figure3_beta2s: Vec<f64>,
    pub credit_responses: usize,
    /// DPO; its β is β₁ of (4.5) too, and the reward model is fitted in the same way.
    pub dpo: DpoConfig,
    /// PPO of every method, before a part or a method changes it.
    pub ppo: PpoConfig,
    /// What a method has of its own.
    pub method: Given,
}

/// Flags named like the keys of the config; what is not given stays as the config has it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (a LIST is 1,2,8 or 1..5, both ends included)")]
pub struct Flags {
    /// P, the number of prompts
    #[arg(long, value_name = "P")]
    prompts: Option<usize>,
    /// Standard deviation of the token rewards
    #[arg(long, value_name = "SD")]
    reward_scale: Option<f64>,
    /// Standard deviation of the logits of pi_ref
    #[arg(long, value_name = "SD")]
    reference_scale: Option<f64>,
    /// (a, b, d, e) |D|, pairs of responses
    #[arg(long, value_name = "N")]
    pairs: Option<usize>,
    /// Iterations between exact evaluations
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// (a, b, d, e) A of the long instance
    #[arg(long, value_name = "A")]
    long_actions: Option<usize>,
    /// (a, b, d, e) H of the long instance
    #[arg(long, value_name = "H")]
    long_horizon: Option<usize>,
    /// (a, b, d) Responses per iteration on the long instance
    #[arg(long, value_name = "N")]
    long_responses: Option<usize>,
    /// (a) A of the wide instance
    #[arg(long, value_name = "A")]
    wide_actions: Option<usize>,
    /// (a) H of the wide instance
    #[arg(long, value_name = "H")]
    wide_horizon: Option<usize>,
    /// (a) Responses per iteration on the wide instance
    #[arg(long, value_name = "N")]
    wide_responses: Option<usize>,
    /// (a, d) Independent runs of each method
    #[arg(long, value_name = "N")]
    replicates: Option<u64>,
    /// (b) Values of lambda
    #[arg(long, value_name = "LIST")]
    lambdas: Option<List<f64>>,
    /// (b) Learning rates of the critic
    #[arg(long, value_name = "LIST")]
    critic_learning_rates: Option<List<f64>>,
    /// (b) Iterations of a run
    #[arg(long, value_name = "T")]
    map_iterations: Option<u64>,
    /// (b) Independent runs at each setting
    #[arg(long, value_name = "N")]
    map_replicates: Option<u64>,
    /// (c) A where it is not swept
    #[arg(long, value_name = "A")]
    sweep_actions: Option<usize>,
    /// (c) H where it is not swept
    #[arg(long, value_name = "H")]
    sweep_horizon: Option<usize>,
    /// (c) Responses per iteration where they are not swept
    #[arg(long, value_name = "N")]
    sweep_responses: Option<usize>,
    /// (c) |D| where it is not swept
    #[arg(long, value_name = "N")]
    sweep_pairs: Option<usize>,
    /// (c) Responses per iteration
    #[arg(long, value_name = "LIST")]
    responses: Option<List<usize>>,
    /// (c) Values of H
    #[arg(long, value_name = "LIST")]
    horizons: Option<List<usize>>,
    /// (c) Values of A
    #[arg(long, value_name = "LIST")]
    action_counts: Option<List<usize>>,
    /// (c) Values of beta2
    #[arg(long, value_name = "LIST")]
    beta2s: Option<List<f64>>,
    /// (c) Values of |D|
    #[arg(long, value_name = "LIST")]
    pair_counts: Option<List<usize>>,
    /// (c) Iterations of a run
    #[arg(long, value_name = "T")]
    sweep_iterations: Option<u64>,
    /// (c) Random instances at each setting
    #[arg(long, value_name = "N")]
    sweep_replicates: Option<u64>,
    /// (d) beta2 of RTO and of DPPO in the confounded comparison
    #[arg(long, value_name = "LIST")]
    figure3_beta2s: Option<List<f64>>,
    /// (e) Responses shown
    #[arg(long, value_name = "N")]
    credit_responses: Option<usize>,
    /// (a) Methods, with rto, dppo and dppo_offset among them
    #[arg(long, value_parser = value_parser(), value_delimiter = ',', value_name = "LIST")]
    methods: Option<Vec<&'static Method>>,
    #[command(flatten)]
    dpo: DpoFlags,
    #[command(flatten)]
    ppo: PpoFlags,
    #[command(flatten)]
    method: MethodFlags,
}

/// Flags of the table `[dpo]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct DpoFlags {
    /// beta of DPO, and beta1 of (4.5)
    #[arg(id = "dpo.beta", long = "beta1", value_name = "BETA")]
    beta: Option<f64>,
    #[command(flatten)]
    fit: FitFlags,
}

/// Flags of the table `[dpo.fit]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct FitFlags {
    /// Learning rate of DPO and of the reward model, in logits
    #[arg(
        id = "dpo.fit.learning_rate",
        long = "fit-learning-rate",
        value_name = "RATE"
    )]
    learning_rate: Option<f64>,
    /// Pairs in a step of DPO and of the reward model
    #[arg(id = "dpo.fit.batch_size", long = "fit-batch", value_name = "N")]
    batch_size: Option<usize>,
    /// Passes of DPO and of the reward model over the pairs
    #[arg(id = "dpo.fit.epochs", long = "fit-epochs", value_name = "N")]
    epochs: Option<usize>,
}

/// Flags of the table `[ppo]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct PpoFlags {
    /// beta2, the coefficient of the KL term
    #[arg(id = "ppo.beta2", long = "beta2", value_name = "BETA")]
    beta2: Option<f64>,
    /// lambda of GAE
    #[arg(id = "ppo.lambda", long = "lambda", value_name = "LAMBDA")]
    lambda: Option<f64>,
    /// Learning rate of the policy
    #[arg(
        id = "ppo.learning_rate",
        long = "policy-learning-rate",
        value_name = "RATE"
    )]
    learning_rate: Option<f64>,
    /// Learning rate of the critic
    #[arg(
        id = "ppo.critic_learning_rate",
        long = "critic-learning-rate",
        value_name = "RATE"
    )]
    critic_learning_rate: Option<f64>,
    /// Clip range of PPO
    #[arg(id = "ppo.clip", long = "clip", value_name = "EPS")]
    clip: Option<f64>,
    /// Steps on the responses of an iteration
    #[arg(id = "ppo.epochs", long = "epochs", value_name = "N")]
    epochs: Option<usize>,
    /// (a, d) Iterations of a run
    #[arg(id = "ppo.iterations", long = "iterations", value_name = "T")]
    iterations: Option<u64>,
}

/// Flags of the tables `[method.NAME]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct MethodFlags {
    #[command(flatten)]
    rloo: RlooFlags,
    #[command(flatten)]
    rto_released: ReleasedFlags,
}

/// Flags of RLOO.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct RlooFlags {
    /// Responses to one prompt that RLOO compares
    #[arg(id = "method.rloo.group", long = "rloo-group", value_name = "K")]
    group: Option<usize>,
}

/// Flags of RTO as released.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct ReleasedFlags {
    /// Cut of a token's reward in RTO as released, in units of reward
    #[arg(
        id = "method.rto_released.clip",
        long = "released-clip",
        value_name = "REWARD"
    )]
    clip: Option<f64>,
}

/// More states than this make a sweep of hours.
const MOST_STATES: f64 = 100_000.0;

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/algorithm2.toml");
    const SMOKE: &'static str = include_str!("../configs/algorithm2.smoke.toml");
    const RULES: Rules = RULES;

    fn check(&self) -> Result<()> {
        self.check_numbers()?;
        self.check_trees()?;
        self.check_lists()?;
        self.check_methods()
    }
}

impl Config {
    /// How its instances are drawn.
    pub fn draw(&self) -> Draw {
        Draw {
            prompts: self.prompts,
            reward_scale: self.reward_scale,
            reference_scale: self.reference_scale,
        }
    }

    /// What tables call the policy fitted to the pairs: by the loss that it minimises.
    pub fn dpo_label(&self) -> String {
        match self.dpo.loss.name() {
            "dpo" => "DPO".into(),
            loss => format!("pi_dpo by {loss}"),
        }
    }

    fn check_numbers(&self) -> Result<()> {
        within("prompts", self.prompts as f64, 1.0, 1e3)?;
        for (key, value, least, most) in [
            ("reward_scale", self.reward_scale, 1e-3, 10.0),
            ("reference_scale", self.reference_scale, 0.0, 5.0),
            ("dpo.beta", self.dpo.beta, 1e-3, 1e3),
            ("ppo.beta2", self.ppo.beta2, 1e-3, 1e3),
            (
                "dpo.fit.learning_rate",
                self.dpo.fit.learning_rate,
                1e-6,
                10.0,
            ),
            ("ppo.lambda", self.ppo.lambda, 0.0, 1.0),
            ("ppo.learning_rate", self.ppo.learning_rate, 1e-6, 100.0),
            // At 2 and above SGD on ½(V − R)² diverges.
            (
                "ppo.critic_learning_rate",
                self.ppo.critic_learning_rate,
                1e-6,
                1.9,
            ),
            ("ppo.clip", self.ppo.clip, 1e-3, 10.0),
        ] {
            within(key, value, least, most)?;
        }
        for (key, n, least) in [
            ("pairs", self.pairs, 1),
            ("dpo.fit.batch_size", self.dpo.fit.batch_size, 1),
            ("dpo.fit.epochs", self.dpo.fit.epochs, 1),
            ("ppo.epochs", self.ppo.epochs, 1),
            ("sweep_pairs", self.sweep_pairs, 1),
            ("credit_responses", self.credit_responses, 1),
            // An interval needs two.
            ("replicates", self.replicates as usize, 2),
            ("map_replicates", self.map_replicates as usize, 2),
            ("sweep_replicates", self.sweep_replicates as usize, 2),
            ("eval_every", self.eval_every as usize, 1),
            ("ppo.iterations", self.ppo.iterations as usize, 1),
            ("map_iterations", self.map_iterations as usize, 1),
            ("sweep_iterations", self.sweep_iterations as usize, 1),
        ] {
            within(key, n as f64, least as f64, 1e7)?;
        }
        Ok(())
    }

    fn check_trees(&self) -> Result<()> {
        let tree = |names: (&str, &str), actions: usize, horizon: usize| -> Result<()> {
            within(names.0, actions as f64, 2.0, 1e3)?;
            within(names.1, horizon as f64, 1.0, 64.0)?;
            let states = self.prompts as f64 * (actions as f64).powi(horizon as i32 - 1);
            if states > MOST_STATES {
                bail!(
                    "{}: found {horizon} with {} = {actions}, expected prompts * A^(H - 1) to be at most {MOST_STATES}",
                    names.1,
                    names.0
                );
            }
            Ok(())
        };
        let (a, h) = (self.sweep_actions, self.sweep_horizon);
        tree(
            ("long_actions", "long_horizon"),
            self.long_actions,
            self.long_horizon,
        )?;
        tree(
            ("wide_actions", "wide_horizon"),
            self.wide_actions,
            self.wide_horizon,
        )?;
        tree(("sweep_actions", "sweep_horizon"), a, h)?;
        for actions in &self.action_counts {
            tree(("action_counts", "sweep_horizon"), *actions, h)?;
        }
        for horizon in &self.horizons {
            tree(("sweep_actions", "horizons"), a, *horizon)?;
        }
        Ok(())
    }

    fn check_methods(&self) -> Result<()> {
        methods::check(&self.method)?;
        self.dpo.check().context("dpo")?;
        for needed in ["rto", "dppo", "dppo_offset"] {
            if !self.methods.iter().any(|m| m.name == needed) {
                bail!(
                    "methods: found no {needed}, which the others are compared with; expected rto, dppo and dppo_offset among them"
                );
            }
        }
        let base = PpoConfig {
            prompts_per_iteration: self.long_responses,
            ..self.ppo
        };
        let others = ["ppo", "rloo"].map(method);
        for method in self.methods.iter().copied().chain(others) {
            let keys = method.keys(&self.method)?;
            method.ppo(base, &keys).check().context(method.name)?;
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<()> {
        let whole = |list: &[usize]| list.iter().map(|n| *n as f64).collect::<Vec<_>>();
        for (key, list, least, most) in [
            ("lambdas", self.lambdas.clone(), 0.0, 1.0),
            (
                "critic_learning_rates",
                self.critic_learning_rates.clone(),
                1e-6,
                1.9,
            ),
            ("beta2s", self.beta2s.clone(), 1e-3, 1e3),
            ("figure3_beta2s", self.figure3_beta2s.clone(), 1e-3, 1e3),
            ("responses", whole(&self.responses), 1.0, 1e5),
            ("horizons", whole(&self.horizons), 1.0, 64.0),
            ("action_counts", whole(&self.action_counts), 2.0, 1e3),
            ("pair_counts", whole(&self.pair_counts), 1.0, 1e7),
        ] {
            increasing(key, &list, least, most)?;
        }
        if self.figure3_beta2s.len() != 2 {
            bail!(
                "figure3_beta2s: found {} values, expected two: of RTO and of DPPO",
                self.figure3_beta2s.len()
            );
        }
        // A response is compared with others.
        let group = method("rloo").keys(&self.method)?.own("group");
        within("method.rloo.group", group, 2.0, 1e6)?;
        let group = group as usize;
        let counts = self.responses.iter().map(|n| ("responses", *n));
        for (key, n) in counts.chain([
            ("long_responses", self.long_responses),
            ("wide_responses", self.wide_responses),
            ("sweep_responses", self.sweep_responses),
        ]) {
            if n == 0 || !n.is_multiple_of(group) {
                bail!("{key}: found {n}, expected a multiple of method.rloo.group = {group}");
            }
        }
        Ok(())
    }
}
