//! Settings of training on a fixed data set, and what all settings share.

use std::ops::Deref;

use crate::Result;
use crate::check;
use crate::objective::{Aggregation, DpoLoss};

/// A configuration whose every field has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked<T>(pub(super) T);

impl<T> Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Not stated in the paper: How a learning rate moves over a run of T steps, after a linear warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
pub enum Schedule {
    /// The base rate throughout. Default: the paper states none.
    #[default]
    Constant,
    /// Straight down to 0 at step T, after a warm-up.
    Linear {
        /// Fraction of T over which the rate rises from 0, in [0, 1).
        warmup: f64,
    },
    /// Half a cosine down to a floor at step T, after a warm-up.
    Cosine {
        /// Fraction of T over which the rate rises from 0, in [0, 1).
        warmup: f64,
        /// The floor as a fraction of the base rate, in [0, 1].
        floor: f64,
    },
}

impl Schedule {
    /// The factor on the base rate at step t = 0, …, T−1. After T it keeps its last value.
    pub fn factor(self, step: u64, total: u64) -> f64 {
        let (warmup, floor) = match self {
            Self::Constant => return 1.0,
            Self::Linear { warmup } => (warmup, 0.0),
            Self::Cosine { warmup, floor } => (warmup, floor),
        };
        let (total, t) = (
            total.max(1) as f64,
            (step as f64).min(total.max(1) as f64 - 1.0),
        );
        let rise = warmup * total;
        if t < rise {
            return (t + 1.0) / rise.max(t + 1.0);
        }
        let done = (t - rise) / (total - rise);
        match self {
            Self::Cosine { .. } => {
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            _ => 1.0 - done,
        }
    }

    pub(super) fn check(self, at: &str) -> Result<()> {
        let (warmup, floor) = match self {
            Self::Constant => return Ok(()),
            Self::Linear { warmup } => (warmup, 0.0),
            Self::Cosine { warmup, floor } => (warmup, floor),
        };
        check::within(
            format!("{at}.warmup"),
            warmup,
            (0.0..1.0).contains(&warmup),
            "in [0, 1)",
        )?;
        check::within(
            format!("{at}.floor"),
            floor,
            (0.0..=1.0).contains(&floor),
            "in [0, 1]",
        )
    }
}

/// Minibatch training on a fixed data set: SFT, DPO, reward fitting.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct FitConfig {
    /// Base learning rate, > 0.
    pub learning_rate: f64,
    /// Not stated; constant.
    pub schedule: Schedule,
    /// Demonstrations, pairs or labelled replies per step, ≥ 1. The last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Passes over the data, ≥ 1, each in an order of its own.
    pub epochs: usize,
    /// Of SFT; pairs always weigh the same. Not stated; token mean.
    pub aggregation: Aggregation,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self::paper_sft()
    }
}

impl FitConfig {
    /// Table 2.
    pub fn paper_sft() -> Self {
        Self {
            learning_rate: 1e-5,
            schedule: Schedule::Constant,
            batch_size: 32,
            epochs: 1,
            aggregation: Aggregation::TokenMean,
        }
    }

    /// The reward-model rows of Table 4.
    pub fn paper_reward_model() -> Self {
        Self {
            batch_size: 128,
            ..Self::paper_sft()
        }
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the field.
    pub fn check(self) -> Result<Checked<Self>> {
        check::positive("learning_rate", self.learning_rate)?;
        self.schedule.check("schedule")?;
        check::at_least_one("batch_size", self.batch_size)?;
        check::at_least_one("epochs", self.epochs)?;
        Ok(Checked(self))
    }
}

/// DPO (C.4), or another loss of pairs in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct DpoConfig {
    /// DPO's own β > 0, apart from β₁: (4.5) is β₁ log(π_dpo/π_ref), whatever β made π_dpo.
    pub beta: f64,
    /// What is minimised. The paper: (4.4).
    pub loss: DpoLoss,
    /// The optimisation.
    pub fit: FitConfig,
}

impl Default for DpoConfig {
    /// Table 3.
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss: DpoLoss::Dpo,
            fit: FitConfig {
                learning_rate: 5e-6,
                ..FitConfig::paper_sft()
            },
        }
    }
}

impl DpoConfig {
    /// The checked configuration.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the field.
    pub fn check(self) -> Result<Checked<Self>> {
        check::positive("beta", self.beta)?;
        self.loss.loss().check()?;
        self.fit.check()?;
        Ok(Checked(self))
    }
}

impl Checked<DpoConfig> {
    /// The optimisation, checked with the whole.
    pub fn fit(&self) -> Checked<FitConfig> {
        Checked(self.0.fit)
    }
}
