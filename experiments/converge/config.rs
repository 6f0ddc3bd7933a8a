//! Settings of `converge`: unchecked from TOML and flags, then checked.

use anyhow::Result;
use rto_harness::config::{increasing, within};
use rto_harness::list::List;
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

/// The resolved settings, saved with each run. Every key is documented in `experiments/configs/converge.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    pub beta: f64,
    pub worlds: u64,
    pub pairs: usize,
    pub steps: Vec<usize>,
    pub table_learning_rate: f64,
    pub head_learning_rate: f64,
    pub network_learning_rate: f64,
}

/// Flags named like the keys of the config; what is not given stays as the config has it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (a LIST is 1,2,8 or 1..5, both ends included)")]
pub struct Flags {
    /// beta of every loss, and of SubOpt
    #[arg(long)]
    beta: Option<f64>,
    /// Networks, each with prompts, rewards and pairs of its own
    #[arg(long, value_name = "N")]
    worlds: Option<u64>,
    /// Pairs of each prompt
    #[arg(long, value_name = "N")]
    pairs: Option<usize>,
    /// Steps of a training, each one a run of its own
    #[arg(long, value_name = "LIST")]
    steps: Option<List<usize>>,
    /// First learning rate of tables
    #[arg(long, value_name = "RATE")]
    table_learning_rate: Option<f64>,
    /// First learning rate of heads
    #[arg(long, value_name = "RATE")]
    head_learning_rate: Option<f64>,
    /// First learning rate of whole networks
    #[arg(long, value_name = "RATE")]
    network_learning_rate: Option<f64>,
}

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/converge.toml");
    const SMOKE: &'static str = include_str!("../configs/converge.smoke.toml");

    fn check(&self) -> Result<()> {
        within("beta", self.beta, 1e-2, 1e2)?;
        within("worlds", self.worlds as f64, 1.0, 1e3)?;
        // Seven responses win and lose against each other in no fewer.
        within("pairs", self.pairs as f64, 14.0, 1e4)?;
        let steps: Vec<f64> = self.steps.iter().map(|n| *n as f64).collect();
        increasing("steps", &steps, 1.0, 1e6)?;
        for (key, rate) in [
            ("table_learning_rate", self.table_learning_rate),
            ("head_learning_rate", self.head_learning_rate),
            ("network_learning_rate", self.network_learning_rate),
        ] {
            within(key, rate, 1e-6, 10.0)?;
        }
        Ok(())
    }
}
