//! Settings of `bench`: unchecked from TOML and flags, then checked.

use anyhow::{Result, bail};
use rto_harness::config::{increasing, within};
use rto_harness::list::List;
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

/// What can be run alone.
pub const PARTS: [&str; 5] = ["offline", "online", "overopt", "coverage", "claims"];

/// The resolved settings, saved with each run. Every key is documented in `experiments/configs/bench.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    pub parts: Vec<String>,
    pub beta: f64,
    pub betas: Vec<f64>,
    pub ridge: f64,
    pub offline_seeds: u64,
    pub pairs: Vec<usize>,
    pub rounds: usize,
    pub online_seeds: u64,
    pub trap_betas: Vec<f64>,
    pub trap_depth: f64,
    pub five_betas: Vec<f64>,
    pub xpo_alphas: Vec<f64>,
    pub explorer_rhos: Vec<f64>,
    pub overopt_seeds: u64,
    pub horizons: Vec<usize>,
    pub coverage_seeds: u64,
    pub claims_percent: u64,
}

/// Flags named like the keys of the config; what is not given stays as the config has it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (a LIST is 1,2,8 or 1..5, both ends included)")]
pub struct Flags {
    /// Parts of the bench: offline, online, overopt, coverage, claims
    #[arg(long, value_name = "PART,...", value_delimiter = ',')]
    parts: Option<Vec<String>>,
    /// beta at which SubOpt is judged
    #[arg(long)]
    beta: Option<f64>,
    /// (a) Betas from which each method's best is chosen
    #[arg(
        long,
        value_name = "BETA,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    betas: Option<Vec<f64>>,
    /// (a) Ridge on the Bradley-Terry scores
    #[arg(long, value_name = "LAMBDA")]
    ridge: Option<f64>,
    /// (a) Random trees for each family
    #[arg(long, value_name = "N")]
    offline_seeds: Option<u64>,
    /// (a) Preference pairs
    #[arg(long, value_name = "LIST")]
    pairs: Option<List<usize>>,
    /// (b) Rounds of one pair each
    #[arg(long, value_name = "T")]
    rounds: Option<usize>,
    /// (b) Independent runs of each setting
    #[arg(long, value_name = "N")]
    online_seeds: Option<u64>,
    /// (b) Betas of the trap
    #[arg(
        long,
        value_name = "BETA,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    trap_betas: Option<Vec<f64>>,
    /// (b) The rare response has reference probability e^(-DEPTH/beta)
    #[arg(long, value_name = "DEPTH")]
    trap_depth: Option<f64>,
    /// (b) Betas of the five responses
    #[arg(
        long,
        value_name = "BETA,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    five_betas: Option<Vec<f64>>,
    /// (b) Weights of the bonus of XPO, and of SELM's
    #[arg(
        long,
        value_name = "ALPHA,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    xpo_alphas: Option<Vec<f64>>,
    /// (b) rho of the explorers of two-stage learners
    #[arg(
        long,
        value_name = "RHO,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    explorer_rhos: Option<Vec<f64>>,
    /// (c) Instances for each family of proxy error
    #[arg(long, value_name = "N")]
    overopt_seeds: Option<u64>,
    /// (d) H of the layered graphs
    #[arg(long, value_name = "LIST")]
    horizons: Option<List<usize>>,
    /// (d) Graphs at each H
    #[arg(long, value_name = "N")]
    coverage_seeds: Option<u64>,
    /// (e) Instances of each claim, in percent of the published number
    #[arg(long, value_name = "PERCENT")]
    claims_percent: Option<u64>,
}

impl Config {
    /// Whether a part is run.
    pub fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|p| p == part)
    }
}

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/bench.toml");
    const SMOKE: &'static str = include_str!("../configs/bench.smoke.toml");

    fn check(&self) -> Result<()> {
        if self.parts.is_empty() {
            bail!(
                "parts: found an empty list, expected at least one of {}",
                PARTS.join(", ")
            );
        }
        for (i, part) in self.parts.iter().enumerate() {
            if !PARTS.contains(&part.as_str()) {
                bail!(
                    "parts: found {part:?}, expected one of {}",
                    PARTS.join(", ")
                );
            }
            if self.parts[..i].contains(part) {
                bail!("parts: found {part:?} twice");
            }
        }
        within("beta", self.beta, 1e-3, 1e3)?;
        increasing("betas", &self.betas, 1e-3, 1e3)?;
        within("ridge", self.ridge, 1e-12, 1.0)?;
        for (key, seeds) in [
            ("offline_seeds", self.offline_seeds),
            ("online_seeds", self.online_seeds),
            ("overopt_seeds", self.overopt_seeds),
            ("coverage_seeds", self.coverage_seeds),
        ] {
            // Intervals, and best betas chosen on other seeds, need two.
            within(key, seeds as f64, 2.0, 1e5)?;
        }
        within("claims_percent", self.claims_percent as f64, 1.0, 1e4)?;
        let whole = |list: &[usize]| list.iter().map(|n| *n as f64).collect::<Vec<_>>();
        increasing("pairs", &whole(&self.pairs), 1.0, 1e7)?;
        within("rounds", self.rounds as f64, 8.0, 1e6)?;
        for (key, list) in [
            ("trap_betas", &self.trap_betas),
            ("five_betas", &self.five_betas),
        ] {
            for beta in list {
                within(key, *beta, 0.02, 1e2)?;
            }
        }
        within("trap_depth", self.trap_depth, 1e-3, 0.999)?;
        for alpha in &self.xpo_alphas {
            within("xpo_alphas", *alpha, 1e-6, 10.0)?;
        }
        increasing("explorer_rhos", &self.explorer_rhos, 1e-6, 1e3)?;
        increasing("horizons", &whole(&self.horizons), 1.0, 10.0)?;
        if self.trap_betas.is_empty() || self.five_betas.is_empty() || self.xpo_alphas.is_empty() {
            bail!(
                "trap_betas, five_betas, xpo_alphas: found an empty list, expected at least one value each"
            );
        }
        Ok(())
    }
}
