//! Settings of `audit`: unchecked from TOML and flags, then checked.

use anyhow::{Result, bail};
use rto_harness::config::{increasing, within};
use rto_harness::list::List;
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

/// The resolved settings, saved with each run. Every key is documented in `experiments/configs/audit.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    pub beta: f64,
    pub group: usize,
    pub batch: usize,
    pub betas: Vec<f64>,
    pub end_trees: u64,
    pub wide_trees: u64,
    pub noise_trees: u64,
    pub steps: Vec<usize>,
    pub lambda_trees: u64,
    pub lambdas: Vec<f64>,
    pub drawn_betas: Vec<f64>,
    pub groups: Vec<usize>,
}

/// Flags named like the keys of the config; what is not given stays as the config has it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (a LIST is 1,2,8 or 1..5, both ends included)")]
pub struct Flags {
    /// beta of the KL term where it is not varied
    #[arg(long, value_name = "BETA")]
    beta: Option<f64>,
    /// G, responses of a group
    #[arg(long, value_name = "G")]
    group: Option<usize>,
    /// B, responses of a batch without groups
    #[arg(long, value_name = "B")]
    batch: Option<usize>,
    /// (b) Values of beta
    #[arg(long, value_name = "LIST")]
    betas: Option<List<f64>>,
    /// (b) Random trees of the two small sizes
    #[arg(long, value_name = "N")]
    end_trees: Option<u64>,
    /// (b, c, d) Random trees of each further size
    #[arg(long, value_name = "N")]
    wide_trees: Option<u64>,
    /// (c) Random trees of the two small sizes
    #[arg(long, value_name = "N")]
    noise_trees: Option<u64>,
    /// (c, d) Responses per step
    #[arg(long, value_name = "LIST")]
    steps: Option<List<usize>>,
    /// (d) Random trees
    #[arg(long, value_name = "N")]
    lambda_trees: Option<u64>,
    /// (d) Values of lambda
    #[arg(long, value_name = "LIST")]
    lambdas: Option<List<f64>>,
    /// (e) Values of beta at which fixed points are drawn
    #[arg(long, value_name = "LIST")]
    drawn_betas: Option<List<f64>>,
    /// (e) Group sizes at which the length bias is drawn
    #[arg(long, value_name = "LIST")]
    groups: Option<List<usize>>,
}

impl Flags {
    /// Refuses what an audit of one tree does not read: it writes no tables over families of trees, and a file of a tree has a beta of its own.
    pub fn only_of_a_tree(&self, from_file: bool) -> Result<()> {
        let given = serde_json::to_value(self)?;
        for (key, value) in given.as_object().into_iter().flatten() {
            let flag = key.replace('_', "-");
            match key.as_str() {
                _ if value.is_null() => {}
                "group" | "batch" => {}
                "beta" if from_file => bail!("--beta: the tree's file has a beta of its own"),
                "beta" => {}
                _ => bail!("--{flag}: has no effect on the audit of one tree"),
            }
        }
        Ok(())
    }
}

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/audit.toml");
    const SMOKE: &'static str = include_str!("../configs/audit.smoke.toml");

    fn check(&self) -> Result<()> {
        let whole = |list: &[usize]| list.iter().map(|n| *n as f64).collect::<Vec<_>>();
        within("beta", self.beta, 1e-3, 1e3)?;
        within("group", self.group as f64, 2.0, 8.0)?;
        within("batch", self.batch as f64, 1.0, 6.0)?;
        for (key, n, least) in [
            ("end_trees", self.end_trees, 2),
            ("wide_trees", self.wide_trees, 2),
            ("noise_trees", self.noise_trees, 2),
            ("lambda_trees", self.lambda_trees, 2),
        ] {
            within(key, n as f64, f64::from(least), 1e6)?;
        }
        increasing("betas", &self.betas, 1e-3, 1e3)?;
        increasing("drawn_betas", &self.drawn_betas, 1e-3, 1e3)?;
        increasing("lambdas", &self.lambdas, 0.0, 1.0)?;
        increasing("steps", &whole(&self.steps), 1.0, 1e9)?;
        increasing("groups", &whole(&self.groups), 2.0, 16.0)
    }
}
