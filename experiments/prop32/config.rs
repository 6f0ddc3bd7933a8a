//! Settings of `prop32`: unchecked from TOML and flags, then checked.

use anyhow::{Result, bail};
use rto::search::evaluator::Smoothing;
use rto_harness::config::within;
use rto_harness::list::List;
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};

/// The resolved settings, saved with each run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
/// Every key is documented in `experiments/configs/prop32.toml`.
pub struct Config {
    pub seed: u64,
    pub actions: usize,
    pub xi: f64,
    pub horizons: Vec<usize>,
    pub vocabularies: Vec<usize>,
    pub vocabulary_horizon: usize,
    pub xis: Vec<f64>,
    pub xi_horizon: usize,
    pub enumeration_limit: u64,
    pub text: String,
    pub unit: Unit,
    pub orders: Vec<usize>,
    pub smoothing: String,
    pub prompt: String,
    pub text_horizons: Vec<usize>,
    pub text_budget: u64,
    pub preference_actions: usize,
    pub preference_horizons: Vec<usize>,
    pub p_star: f64,
    pub inverse_temperature: f64,
    pub success: f64,
    pub replicates: u64,
    pub most_labels: u64,
}

/// What a token of the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Unicode characters.
    Characters,
    /// Runs of letters, digits and apostrophes; any other visible character by itself.
    Words,
}

/// Flags named like the keys of the config; what is not given stays as the config has it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Settings (a LIST is 1,2,8 or 1..5, both ends included)")]
pub struct Flags {
    /// Vocabulary A of the sweeps over the horizon and over xi
    #[arg(long, value_name = "A")]
    actions: Option<usize>,
    /// xi of Assumption 3.1 in the sweeps over the horizon and the vocabulary
    #[arg(long)]
    xi: Option<f64>,
    /// Horizons of the first sweep
    #[arg(long, value_name = "LIST")]
    horizons: Option<List<usize>>,
    /// Vocabularies of the second sweep
    #[arg(long, value_name = "LIST")]
    vocabularies: Option<List<usize>>,
    /// Horizon of the sweep over the vocabulary
    #[arg(long, value_name = "H")]
    vocabulary_horizon: Option<usize>,
    /// Values of xi of the third sweep
    #[arg(long, value_name = "LIST")]
    xis: Option<List<f64>>,
    /// Horizon of the sweep over xi
    #[arg(long, value_name = "H")]
    xi_horizon: Option<usize>,
    /// Run sentence-level search up to this many responses
    #[arg(long, value_name = "N")]
    enumeration_limit: Option<u64>,
    /// Text file for the n-gram evaluators: plain or JSONL, gzipped or not
    #[arg(long, value_name = "FILE")]
    text: Option<String>,
    /// Unit of the text
    #[arg(long)]
    unit: Option<Unit>,
    /// Orders of the n-gram models
    #[arg(long, value_name = "LIST")]
    orders: Option<List<usize>>,
    /// Smoothing: witten-bell, additive:ALPHA or absolute:DISCOUNT
    #[arg(long)]
    smoothing: Option<String>,
    /// Text that the response continues
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Horizons of the n-gram searches
    #[arg(long, value_name = "LIST")]
    text_horizons: Option<List<usize>>,
    /// Scored responses after which an n-gram search gives up
    #[arg(long, value_name = "N")]
    text_budget: Option<u64>,
    /// Vocabulary of the noisy preferences
    #[arg(long, value_name = "A")]
    preference_actions: Option<usize>,
    /// Horizons of the noisy preferences
    #[arg(long, value_name = "LIST")]
    preference_horizons: Option<List<usize>>,
    /// Probability of the best response in the needle family
    #[arg(long, value_name = "P")]
    p_star: Option<f64>,
    /// Inverse temperature of the random softmax family: larger is more concentrated
    #[arg(long, value_name = "X")]
    inverse_temperature: Option<f64>,
    /// Probability with which the best response must be found
    #[arg(long, value_name = "P")]
    success: Option<f64>,
    /// Independent replicates at each number of labels
    #[arg(long, value_name = "N")]
    replicates: Option<u64>,
    /// Labels for one comparison, at most
    #[arg(long, value_name = "N")]
    most_labels: Option<u64>,
}

impl Flags {
    /// A setting that a mode does not use would be believed to have an effect.
    pub fn refuse(&self, mode: &str) -> Result<()> {
        let given = serde_json::to_value(self)?;
        let given = given
            .as_object()
            .and_then(|flags| flags.iter().find(|(_, value)| !value.is_null()));
        if let Some((name, _)) = given {
            bail!(
                "--{}: has no effect with {mode}; leave it out",
                name.replace('_', "-")
            );
        }
        Ok(())
    }
}

impl Settings for Config {
    const NAME: &'static str = super::NAME;
    const DEFAULTS: &'static str = include_str!("../configs/prop32.toml");
    const SMOKE: &'static str = include_str!("../configs/prop32.smoke.toml");

    fn check(&self) -> Result<()> {
        let at_least_two = [
            ("actions", self.actions),
            ("preference_actions", self.preference_actions),
        ];
        let vocabularies = self.vocabularies.iter().map(|a| ("vocabularies", *a));
        for (key, a) in at_least_two.into_iter().chain(vocabularies) {
            within(key, a as f64, 2.0, 65_536.0)?;
        }
        let horizons = [
            ("horizons", &self.horizons),
            ("text_horizons", &self.text_horizons),
            ("preference_horizons", &self.preference_horizons),
        ];
        let horizons = horizons
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |h| (*key, *h)));
        for (key, h) in horizons.chain([
            ("vocabulary_horizon", self.vocabulary_horizon),
            ("xi_horizon", self.xi_horizon),
        ]) {
            within(key, h as f64, 1.0, 4096.0)?;
        }
        for h in &self.preference_horizons {
            within(
                "preference_actions^preference_horizons",
                (self.preference_actions as f64).powf(*h as f64),
                1.0,
                65_536.0,
            )?;
        }
        for xi in self.xis.iter().chain([&self.xi]) {
            within("xi", *xi, 1e-3, 64.0)?;
        }
        self.check_work()?;
        within("enumeration_limit", self.enumeration_limit as f64, 0.0, 1e9)?;
        within("text_budget", self.text_budget as f64, 1.0, 1e8)?;
        within("p_star", self.p_star, 0.5, 1.0 - 1e-9)?;
        within("inverse_temperature", self.inverse_temperature, 0.0, 500.0)?;
        within("success", self.success, 0.01, 0.999)?;
        within("replicates", self.replicates as f64, 1.0, 1e6)?;
        within("most_labels", self.most_labels as f64, 1.0, 1e12)?;
        self.smoothing()?;
        Ok(())
    }
}

impl Config {
    /// Bounds what a run can ask for in memory and time; each limit is far above the defaults.
    fn check_work(&self) -> Result<()> {
        let deepest = |horizons: &[usize]| horizons.iter().copied().max().unwrap_or(0) as f64;
        within(
            "text_budget times the largest of text_horizons",
            self.text_budget as f64 * deepest(&self.text_horizons),
            0.0,
            2e7,
        )?;
        let responses = (self.preference_actions as f64).powf(deepest(&self.preference_horizons));
        within(
            "replicates times preference_actions^(largest of preference_horizons)",
            self.replicates as f64 * responses,
            0.0,
            2.5e6,
        )
    }

    /// The smoothing that its text names.
    pub fn smoothing(&self) -> Result<Smoothing> {
        let (name, value) = self
            .smoothing
            .split_once(':')
            .unwrap_or((&self.smoothing, ""));
        Ok(match (name, value.parse()) {
            ("witten-bell", _) if value.is_empty() => Smoothing::WittenBell,
            ("additive", Ok(alpha)) => Smoothing::Additive(alpha),
            ("absolute", Ok(discount)) => Smoothing::AbsoluteDiscount(discount),
            _ => bail!(
                "smoothing: found `{}`, expected witten-bell, additive:ALPHA or absolute:DISCOUNT",
                self.smoothing
            ),
        })
    }
}
