//! Settings of `study`: unchecked from TOML and flags, then checked.

use anyhow::{Context, Result, bail};
use rto::algorithm2::{Advantage, DpoConfig, PpoConfig};
use rto_harness::comparison::{self, Point};
use rto_harness::config::{Rules, increasing, within};
use rto_harness::list::List;
use rto_harness::methods::{self, Given, Method, value_parser};
use rto_harness::on_tree::setup::{Draw, Size};
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

use crate::Instance;
use crate::gradients::Gradients;
use crate::length::Length;
use crate::noise::Noise;

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
    moved: &[],
};

/// The resolved settings, saved with each run. Every key is documented in `experiments/configs/study.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    pub prompts: usize,
    pub reward_scale: f64,
    pub reference_scale: f64,
    pub pairs: usize,
    pub long_actions: usize,
    pub long_horizon: usize,
    pub long_responses: usize,
    pub wide_actions: usize,
    pub wide_horizon: usize,
    pub wide_responses: usize,
    pub methods: Vec<&'static Method>,
    pub tuning_seeds: Vec<u64>,
    pub report_seeds: Vec<u64>,
    pub evaluations: u64,
    pub learning_rates: Vec<f64>,
    pub lambdas: Vec<f64>,
    pub critic_learning_rates: Vec<f64>,
    pub free_learning_rates: Vec<f64>,
    pub clips: Vec<f64>,
    pub envelope_beta2s: Vec<f64>,
    pub temperatures: Vec<f64>,
    pub best_of: Vec<u32>,
    /// DPO; its β is β₁ of (4.5) too, and the reward model is fitted in the same way.
    pub dpo: DpoConfig,
    /// PPO of every method, before the grid or a method changes it.
    pub ppo: PpoConfig,
    /// What a method has of its own.
    pub method: Given,
    /// Replies of growing length.
    pub length: Length,
    /// Fewer pairs and more.
    pub noise: Noise,
    /// The noise of the methods' gradients.
    pub gradients: Gradients,
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
    /// |D|, pairs of responses
    #[arg(long, value_name = "N")]
    pairs: Option<usize>,
    /// A of the long trees
    #[arg(long, value_name = "A")]
    long_actions: Option<usize>,
    /// H of the long trees
    #[arg(long, value_name = "H")]
    long_horizon: Option<usize>,
    /// Responses per iteration on the long trees
    #[arg(long, value_name = "N")]
    long_responses: Option<usize>,
    /// A of the wide trees
    #[arg(long, value_name = "A")]
    wide_actions: Option<usize>,
    /// H of the wide trees
    #[arg(long, value_name = "H")]
    wide_horizon: Option<usize>,
    /// Responses per iteration on the wide trees
    #[arg(long, value_name = "N")]
    wide_responses: Option<usize>,
    /// Methods, with rto and dppo among them
    #[arg(long, value_parser = value_parser(), value_delimiter = ',', value_name = "LIST")]
    methods: Option<Vec<&'static Method>>,
    /// Seeds on which each method chooses its point of the grid
    #[arg(long, value_name = "LIST")]
    tuning_seeds: Option<List<u64>>,
    /// Seeds on which the chosen points are reported
    #[arg(long, value_name = "LIST")]
    report_seeds: Option<List<u64>>,
    /// Times along a run at which the policy is measured
    #[arg(long, value_name = "N")]
    evaluations: Option<u64>,
    /// Grid: the policy's learning rates, methods with a critic
    #[arg(long, value_name = "LIST")]
    learning_rates: Option<List<f64>>,
    /// Grid: lambda of GAE
    #[arg(long, value_name = "LIST")]
    lambdas: Option<List<f64>>,
    /// Grid: the critic's learning rates
    #[arg(long, value_name = "LIST")]
    critic_learning_rates: Option<List<f64>>,
    /// Grid: the policy's learning rates, methods without a critic
    #[arg(long, value_name = "LIST")]
    free_learning_rates: Option<List<f64>>,
    /// Grid: clip ranges, methods without a critic
    #[arg(long, value_name = "LIST")]
    clips: Option<List<f64>>,
    /// Values of beta2 for the reward at matched KL
    #[arg(long, value_name = "LIST")]
    envelope_beta2s: Option<List<f64>>,
    /// Temperatures of the sharpening curve of SFT, below 1
    #[arg(long, value_name = "LIST")]
    temperatures: Option<List<f64>>,
    /// n of best-of-n
    #[arg(long, value_name = "LIST")]
    best_of: Option<List<u32>>,
    #[command(flatten)]
    ppo: PpoFlags,
}

/// Flags of the table `[ppo]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
struct PpoFlags {
    /// beta2 of the objective
    #[arg(id = "ppo.beta2", long = "beta2", value_name = "BETA")]
    beta2: Option<f64>,
    /// Iterations of a run
    #[arg(id = "ppo.iterations", long = "iterations", value_name = "T")]
    iterations: Option<u64>,
}

/// More states than this make a study of days.
const MOST_STATES: f64 = 10_000.0;

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/study.toml");
    const SMOKE: &'static str = include_str!("../configs/study.smoke.toml");
    const RULES: Rules = RULES;

    fn check(&self) -> Result<()> {
        self.check_numbers()?;
        self.check_lists()?;
        self.length.check()?;
        self.noise.check()?;
        self.gradients.check(self)?;
        comparison::check_seeds(&self.tuning_seeds, &self.report_seeds)?;
        self.check_methods()
    }
}

impl Config {
    /// How the trees are drawn.
    pub fn draw(&self) -> Draw {
        Draw {
            prompts: self.prompts,
            reward_scale: self.reward_scale,
            reference_scale: self.reference_scale,
        }
    }

    /// The size of a tree and its data set.
    pub fn size(&self, instance: Instance) -> Size {
        let (actions, horizon) = match instance {
            Instance::Long => (self.long_actions, self.long_horizon),
            Instance::Wide => (self.wide_actions, self.wide_horizon),
        };
        Size {
            actions,
            horizon,
            pairs: self.pairs,
        }
    }

    /// N, the responses of an iteration.
    pub fn responses(&self, instance: Instance) -> usize {
        match instance {
            Instance::Long => self.long_responses,
            Instance::Wide => self.wide_responses,
        }
    }

    /// Iterations between two of the protocol's measurements.
    pub fn every(&self) -> u64 {
        self.ppo.iterations / self.evaluations
    }

    /// `[ppo]` on an instance, before a method changes it.
    pub fn base(&self, instance: Instance) -> PpoConfig {
        PpoConfig {
            prompts_per_iteration: self.responses(instance),
            responses_per_prompt: 1,
            ..self.ppo
        }
    }

    /// The grid of a method, the smallest learning rate first.
    ///
    /// # Errors
    /// A setting that the method does not have.
    pub fn grid(&self, method: &Method) -> Result<Vec<Point>> {
        let keys = method.keys(&self.method)?;
        let ppo = method.ppo(self.base(Instance::Long), &keys);
        let mut points = Vec::new();
        let at = Point {
            learning_rate: ppo.learning_rate,
            lambda: ppo.lambda,
            critic_learning_rate: ppo.critic_learning_rate,
            clip: ppo.clip,
        };
        if ppo.advantage == Advantage::Gae {
            for &learning_rate in &self.learning_rates {
                for &lambda in &self.lambdas {
                    for &critic_learning_rate in &self.critic_learning_rates {
                        points.push(Point {
                            learning_rate,
                            lambda,
                            critic_learning_rate,
                            ..at
                        });
                    }
                }
            }
        } else {
            for &learning_rate in &self.free_learning_rates {
                for &clip in &self.clips {
                    points.push(Point {
                        learning_rate,
                        clip,
                        ..at
                    });
                }
            }
        }
        Ok(points)
    }

    fn check_numbers(&self) -> Result<()> {
        within("prompts", self.prompts as f64, 1.0, 1e3)?;
        for (key, value, least, most) in [
            ("reward_scale", self.reward_scale, 1e-3, 10.0),
            ("reference_scale", self.reference_scale, 0.0, 5.0),
            ("ppo.beta2", self.ppo.beta2, 1e-3, 1e3),
        ] {
            within(key, value, least, most)?;
        }
        within("pairs", self.pairs as f64, 1.0, 1e7)?;
        within("ppo.iterations", self.ppo.iterations as f64, 1.0, 1e6)?;
        within("evaluations", self.evaluations as f64, 1.0, 1e4)?;
        if !self.ppo.iterations.is_multiple_of(self.evaluations) {
            bail!(
                "evaluations: found {}, expected a divisor of ppo.iterations = {}",
                self.evaluations,
                self.ppo.iterations
            );
        }
        for (names, actions, horizon) in [
            (
                ("long_actions", "long_horizon"),
                self.long_actions,
                self.long_horizon,
            ),
            (
                ("wide_actions", "wide_horizon"),
                self.wide_actions,
                self.wide_horizon,
            ),
        ] {
            within(names.0, actions as f64, 2.0, 1e3)?;
            within(names.1, horizon as f64, 1.0, 64.0)?;
            let leaves = self.prompts as f64 * (actions as f64).powi(horizon as i32);
            if leaves > MOST_STATES {
                bail!(
                    "{}: found {horizon} with {} = {actions}, expected prompts * A^H to be at most {MOST_STATES}",
                    names.1,
                    names.0
                );
            }
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<()> {
        for (key, list, least, most) in [
            ("learning_rates", &self.learning_rates, 1e-6, 100.0),
            ("lambdas", &self.lambdas, 0.0, 1.0),
            // At 2 and above SGD on ½(V − R)² diverges.
            (
                "critic_learning_rates",
                &self.critic_learning_rates,
                1e-6,
                1.9,
            ),
            (
                "free_learning_rates",
                &self.free_learning_rates,
                1e-6,
                100.0,
            ),
            ("clips", &self.clips, 1e-3, 10.0),
            ("envelope_beta2s", &self.envelope_beta2s, 1e-3, 1e3),
            ("temperatures", &self.temperatures, 1e-2, 0.999),
        ] {
            increasing(key, list, least, most)?;
        }
        let best_of: Vec<f64> = self.best_of.iter().map(|n| f64::from(*n)).collect();
        increasing("best_of", &best_of, 2.0, 1e6)?;
        let critics =
            self.learning_rates.len() * self.lambdas.len() * self.critic_learning_rates.len();
        let free = self.free_learning_rates.len() * self.clips.len();
        if critics != free {
            bail!(
                "free_learning_rates: found {free} points with clips, expected {critics}, as many as learning_rates, lambdas and critic_learning_rates give: the tuning budgets are equal"
            );
        }
        Ok(())
    }

    fn check_methods(&self) -> Result<()> {
        methods::check(&self.method)?;
        self.dpo.check().context("dpo")?;
        comparison::check_methods(&self.methods)?;
        for method in &self.methods {
            let keys = method.keys(&self.method)?;
            for instance in Instance::BOTH {
                let base = self.base(instance);
                let ppo = method.ppo(base, &keys);
                ppo.check().context(method.name)?;
                if ppo.responses() != base.responses() {
                    bail!(
                        "{}_responses: found {}, of which {} draws {}, expected a multiple of its group",
                        instance.name(),
                        base.responses(),
                        method.name,
                        ppo.responses()
                    );
                }
            }
        }
        Ok(())
    }
}
