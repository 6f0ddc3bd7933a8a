//! Settings of the table `[length]`: unchecked from TOML, then checked.

use anyhow::{Result, bail};
use rto::zoo::{GrammarSpec, Placement};
use rto_harness::config::{increasing, within};
use serde::{Deserialize, Serialize};

/// How the reward grows with the length of a reply. Every key is documented in `experiments/configs/study.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Length {
    pub horizons: Vec<usize>,
    pub held_out: usize,
    pub placements: Vec<Place>,
    pub critics: Vec<Start>,
    pub lambdas: Vec<f64>,
    pub actions: usize,
    pub reward_sd: f64,
    pub reference_scale: f64,
    pub rare: f64,
    pub pairs: usize,
    pub responses: usize,
    pub iterations: u64,
    pub tuning_seeds: usize,
    pub learning_rates: Vec<f64>,
    pub critic_learning_rate: f64,
    pub value_samples: usize,
}

/// Where the reward stands, as files name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Early,
    Late,
    Spread,
    Rare,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Late => "late",
            Self::Spread => "spread",
            Self::Rare => "rare",
        }
    }

    fn placement(self) -> Placement {
        match self {
            Self::Early => Placement::Early,
            Self::Late => Placement::Late,
            Self::Spread => Placement::Spread,
            Self::Rare => Placement::Rare,
        }
    }
}

/// What a critic V(prefix) = w C(prefix) + v(s) starts at, C the DPO reward of the tokens so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// w = 0, v = 0.
    Zero,
    /// w = 1, v = 0: the score of the tokens so far.
    RewardModel,
    /// w and v by least squares on replies of SFT, by the method's own reward.
    Values,
    /// w = 0 for good, v = 0: a critic that sees the state alone.
    State,
}

impl Start {
    pub fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::RewardModel => "reward_model",
            Self::Values => "values",
            Self::State => "state",
        }
    }
}

impl Length {
    /// The grammar of a cell.
    pub fn spec(&self, place: Place, horizon: usize) -> GrammarSpec {
        GrammarSpec {
            actions: self.actions,
            horizon,
            placement: place.placement(),
            reward_sd: self.reward_sd,
            reference_scale: self.reference_scale,
            rare: self.rare,
        }
    }

    /// Refuses what no run can use.
    pub fn check(&self) -> Result<()> {
        let horizons: Vec<f64> = self.horizons.iter().map(|h| *h as f64).collect();
        increasing("length.horizons", &horizons, 1.0, 1e4)?;
        let others = self.horizons.iter().filter(|h| **h != self.held_out);
        if !self.horizons.contains(&self.held_out) || others.count() < 2 {
            bail!(
                "length.held_out: found {}, expected one of length.horizons = {:?}, with two or more beside it for the law",
                self.held_out,
                self.horizons
            );
        }
        increasing("length.lambdas", &self.lambdas, 0.0, 1.0)?;
        increasing("length.learning_rates", &self.learning_rates, 1e-6, 100.0)?;
        once("length.placements", &self.placements, Place::name)?;
        once("length.critics", &self.critics, Start::name)?;
        if self.critics.is_empty() {
            bail!("length.critics: found no values, expected at least one");
        }
        for (key, value, least, most) in [
            ("length.actions", self.actions as f64, 3.0, 1e3),
            ("length.reward_sd", self.reward_sd, 1e-3, 100.0),
            ("length.reference_scale", self.reference_scale, 0.0, 5.0),
            ("length.rare", self.rare, 1e-3, 0.999),
            ("length.pairs", self.pairs as f64, 1.0, 1e7),
            ("length.responses", self.responses as f64, 1.0, 1e6),
            ("length.tuning_seeds", self.tuning_seeds as f64, 2.0, 1e3),
            ("length.iterations", self.iterations as f64, 1.0, 1e6),
            // At 2 and above SGD on ½(V − R)² diverges.
            (
                "length.critic_learning_rate",
                self.critic_learning_rate,
                1e-6,
                1.9,
            ),
            ("length.value_samples", self.value_samples as f64, 1.0, 1e7),
        ] {
            within(key, value, least, most)?;
        }
        Ok(())
    }
}

/// Refuses a list that names something twice.
fn once<T: Copy + PartialEq>(key: &str, list: &[T], name: fn(T) -> &'static str) -> Result<()> {
    for (i, value) in list.iter().enumerate() {
        if list[..i].contains(value) {
            bail!("{key}: found {} twice", name(*value));
        }
    }
    Ok(())
}
