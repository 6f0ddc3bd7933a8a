//! Settings of `thm42`: unchecked from TOML and flags, then checked.

use anyhow::{Result, bail};
use rto_harness::config::{increasing, within};
use rto_harness::list::List;
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

/// The resolved settings, saved with each run. Every key is documented in
/// `experiments/configs/thm42.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    pub prompts: usize,
    pub actions: usize,
    pub horizon: usize,
    pub dim: usize,
    pub feature_spread: f64,
    pub beta: f64,
    pub param_bound: f64,
    pub theta_norm: f64,
    pub ridge: f64,
    pub fail_prob: f64,
    pub printed_constant: f64,
    pub sizes: Vec<usize>,
    pub replicates: u64,
    pub fit_points: usize,
    pub coverage_replicates: u64,
    pub regime_sizes: Vec<usize>,
    pub regime_replicates: u64,
    pub regime_param_bound: f64,
    pub regime_ridge: f64,
    pub exact_sizes: Vec<f64>,
    pub sampled_sizes: Vec<usize>,
    pub betas: Vec<f64>,
    pub ridges: Vec<f64>,
    pub dims: Vec<usize>,
    pub horizons: Vec<usize>,
    pub sweep_size: usize,
    pub sweep_replicates: u64,
}

/// Flags named like the keys of the config; what is not given stays as the config has it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (a LIST is 1,2,8 or 1..5, both ends included)")]
pub struct Flags {
    /// P, the number of prompts
    #[arg(long, value_name = "P")]
    prompts: Option<usize>,
    /// A, the vocabulary
    #[arg(long, value_name = "A")]
    actions: Option<usize>,
    /// H, the tokens in a response
    #[arg(long, value_name = "H")]
    horizon: Option<usize>,
    /// d, the dimension of the features
    #[arg(long, value_name = "D")]
    dim: Option<usize>,
    /// Norms of the features are uniform from 1 - SPREAD to 1
    #[arg(long, value_name = "SPREAD")]
    feature_spread: Option<f64>,
    /// beta, the coefficient of the KL term
    #[arg(long)]
    beta: Option<f64>,
    /// B, the bound on the norm of theta
    #[arg(long, value_name = "B")]
    param_bound: Option<f64>,
    /// Norm of the true theta, at most B
    #[arg(long, value_name = "NORM")]
    theta_norm: Option<f64>,
    /// lambda, the ridge in Sigma_D
    #[arg(long, value_name = "LAMBDA")]
    ridge: Option<f64>,
    /// delta, the probability with which a confidence set may miss the truth
    #[arg(long, value_name = "DELTA")]
    fail_prob: Option<f64>,
    /// C of the radius (A.2) as printed
    #[arg(long, value_name = "C")]
    printed_constant: Option<f64>,
    /// (a, b, e) Sizes |D| of the data sets
    #[arg(long, value_name = "LIST")]
    sizes: Option<List<usize>>,
    /// (a, d) Independent data sets at each size
    #[arg(long, value_name = "N")]
    replicates: Option<u64>,
    /// (a) Slopes are fitted over so many of the largest sizes
    #[arg(long, value_name = "N")]
    fit_points: Option<usize>,
    /// (b, e) Independent data sets at each size
    #[arg(long, value_name = "N")]
    coverage_replicates: Option<u64>,
    /// (c) Sizes |D| of the data sets
    #[arg(long, value_name = "LIST")]
    regime_sizes: Option<List<usize>>,
    /// (c) Independent data sets at each size
    #[arg(long, value_name = "N")]
    regime_replicates: Option<u64>,
    /// (c) B
    #[arg(long, value_name = "B")]
    regime_param_bound: Option<f64>,
    /// (c) lambda
    #[arg(long, value_name = "LAMBDA")]
    regime_ridge: Option<f64>,
    /// (d) Sizes |D| of the exact data sets
    #[arg(long, value_name = "LIST")]
    exact_sizes: Option<List<f64>>,
    /// (d) Sizes |D| of the sampled data sets
    #[arg(long, value_name = "LIST")]
    sampled_sizes: Option<List<usize>>,
    /// (f) Values of beta
    #[arg(long, value_name = "LIST")]
    betas: Option<List<f64>>,
    /// (f) Values of lambda
    #[arg(long, value_name = "LIST")]
    ridges: Option<List<f64>>,
    /// (f) Values of d
    #[arg(long, value_name = "LIST")]
    dims: Option<List<usize>>,
    /// (f) Values of H
    #[arg(long, value_name = "LIST")]
    horizons: Option<List<usize>>,
    /// (f) Size |D| of every data set
    #[arg(long, value_name = "N")]
    sweep_size: Option<usize>,
    /// (f) Pairs of an instance and a data set at each setting
    #[arg(long, value_name = "N")]
    sweep_replicates: Option<u64>,
}

/// The most states of an instance; more make a sweep of hours.
const MOST_STATES: f64 = 100_000.0;

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/thm42.toml");
    const SMOKE: &'static str = include_str!("../configs/thm42.smoke.toml");

    fn check(&self) -> Result<()> {
        within("prompts", self.prompts as f64, 1.0, 1e3)?;
        within("actions", self.actions as f64, 2.0, 1e3)?;
        self.check_horizon("horizon", self.horizon)?;
        for h in &self.horizons {
            self.check_horizon("horizons", *h)?;
        }
        let dims = self.dims.iter().map(|d| ("dims", *d));
        for (key, d) in dims.chain([("dim", self.dim)]) {
            within(key, d as f64, 1.0, 256.0)?;
        }
        let betas = self.betas.iter().map(|b| ("betas", *b));
        for (key, beta) in betas.chain([("beta", self.beta)]) {
            within(key, beta, 1e-3, 1e3)?;
        }
        let ridges = self.ridges.iter().map(|r| ("ridges", *r));
        for (key, ridge) in
            ridges.chain([("ridge", self.ridge), ("regime_ridge", self.regime_ridge)])
        {
            within(key, ridge, 1e-6, 1e6)?;
        }
        within("feature_spread", self.feature_spread, 0.0, 1.0)?;
        within("param_bound", self.param_bound, 1e-3, 20.0)?;
        within("theta_norm", self.theta_norm, 0.0, self.param_bound)?;
        // 1/Upsilon is about e^{2HLB}, L <= 1, and must stay a number.
        let longest = self.horizons.iter().chain([&self.horizon]).max().copied();
        let exponent = 2.0 * longest.unwrap_or(0) as f64 * self.param_bound;
        within("2 * horizon * param_bound", exponent, 0.0, 300.0)?;
        // theta* of the bandits has norm at most 3.4.
        within("regime_param_bound", self.regime_param_bound, 3.4, 50.0)?;
        within("fail_prob", self.fail_prob, 1e-9, 0.5)?;
        within("printed_constant", self.printed_constant, 1e-6, 1e6)?;
        let whole = |list: &[usize]| list.iter().map(|n| *n as f64).collect::<Vec<_>>();
        for (key, list) in [
            ("sizes", &self.sizes),
            ("regime_sizes", &self.regime_sizes),
            ("sampled_sizes", &self.sampled_sizes),
        ] {
            increasing(key, &whole(list), 1.0, 1e7)?;
        }
        increasing("exact_sizes", &self.exact_sizes, 1.0, 1e12)?;
        if let Some(n) = self.exact_sizes.iter().find(|n| n.fract() != 0.0) {
            bail!("exact_sizes: found {n}, expected whole numbers");
        }
        // Their ranges were checked above, value by value.
        for (key, list) in [("betas", &self.betas), ("ridges", &self.ridges)] {
            increasing(key, list, 0.0, f64::INFINITY)?;
        }
        for (key, list) in [("dims", &self.dims), ("horizons", &self.horizons)] {
            increasing(key, &whole(list), 0.0, f64::INFINITY)?;
        }
        within("fit_points", self.fit_points as f64, 2.0, f64::INFINITY)?;
        within(
            "fit_points",
            self.fit_points as f64,
            2.0,
            self.sizes.len() as f64,
        )?;
        within("sweep_size", self.sweep_size as f64, 1.0, 1e7)?;
        for (key, n) in [
            ("replicates", self.replicates),
            ("coverage_replicates", self.coverage_replicates),
            ("regime_replicates", self.regime_replicates),
            ("sweep_replicates", self.sweep_replicates),
        ] {
            // An interval needs two.
            within(key, n as f64, 2.0, 1e5)?;
        }
        Ok(())
    }
}

impl Config {
    fn check_horizon(&self, key: &str, horizon: usize) -> Result<()> {
        within(key, horizon as f64, 1.0, 64.0)?;
        let states = self.prompts as f64 * (self.actions as f64).powi(horizon as i32 - 1);
        if states > MOST_STATES {
            bail!(
                "{key}: found {horizon}, expected prompts * actions^({key} - 1) to be at most {MOST_STATES}"
            );
        }
        Ok(())
    }
}
