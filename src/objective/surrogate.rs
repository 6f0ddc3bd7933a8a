//! The policy term of a token or a row: ratio, clip, cap.

use crate::check;
use crate::dual::Real;
use crate::{Error, Result};

/// Past this log-ratio e^d goes on along its tangent: a loss must stay a number however far a policy has run.
const TANGENT_FROM: f64 = 80.0;

/// e^d and its derivative, linear from [`TANGENT_FROM`] on.
#[inline(always)]
pub(super) fn exp<T: Real>(d: T) -> (T, T) {
    if d.value() <= TANGENT_FROM {
        let e = d.exp();
        return (e, e);
    }
    let e = T::constant(TANGENT_FROM.exp());
    ((d - TANGENT_FROM + 1.0) * e, e)
}

/// What a policy loss makes of ℓ_h = log π(y_h|s_h) and the behaviour's ℓ_h^old.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
pub enum Ratio {
    /// ρ_h = e^{ℓ_h − ℓ_h^old} of each token, clipped (PPO).
    #[default]
    Token,
    /// ρ = e^{Σ_h (ℓ_h − ℓ_h^old)} of the response: one loss per row, without a division by its length (RLOO of TRL).
    Sequence,
    /// s = e^{mean_h (ℓ_h − ℓ_h^old)} of the response: one loss per row (GSPO; Zheng et al., 2025). A geometric mean, not a likelihood ratio.
    GeometricMean,
    /// −sg(min{max{ρ_h, low}, high}) Â_h ℓ_h: no token is ever without a gradient (CISPO; MiniMax, 2025).
    ///
    /// TRL has low = 0 and its `epsilon_high` for high, an absolute cap: left at 0.2, every step is a fifth of the on-policy one
    /// (`paper-notes/estimators.md`, claim 12c). verl has 1 − ε and 1 + ε.
    Capped {
        /// The least weight, ≥ 0.
        low: f64,
        /// The largest weight, > 0.
        high: f64,
    },
    /// −Â_h ℓ_h (REINFORCE): no ratio.
    LogProb,
}

/// The clipped surrogate −min{ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â} in a ratio of choice, with an optional dual clip.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Surrogate {
    /// Which ratio.
    pub ratio: Ratio,
    /// ε_low ≥ 0.
    pub clip_low: f64,
    /// ε_high ≥ 0; above ε_low it is DAPO's clip-higher.
    pub clip_high: f64,
    /// c > 1: the loss of a token or row with Â < 0 is at most c|Â| (Ye et al., 2020).
    pub dual_clip: Option<f64>,
}

impl Ratio {
    /// Whether a response has one ratio, rather than one for each token.
    pub fn of_a_row(self) -> bool {
        matches!(self, Self::Sequence | Self::GeometricMean)
    }
}

impl Default for Surrogate {
    /// PPO's: a token ratio, 0.2 on both sides.
    fn default() -> Self {
        Self {
            ratio: Ratio::Token,
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: None,
        }
    }
}

impl Surrogate {
    /// The surrogate, checked.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn check(self) -> Result<Self> {
        for (field, value) in [("clip", self.clip_low), ("clip_high", self.clip_high)] {
            check::not_negative(field, value)?;
        }
        if let Some(c) = self.dual_clip.filter(|c| !(c.is_finite() && *c > 1.0)) {
            return Err(Error::config("dual_clip", c, "finite and > 1"));
        }
        if let Ratio::Capped { low, high } = self.ratio {
            check::not_negative("ratio.capped.low", low)?;
            if !(high.is_finite() && high > 0.0 && high >= low) {
                let must = "finite, > 0 and at least low";
                return Err(Error::config("ratio.capped.high", high, must));
            }
        }
        Ok(self)
    }

    /// The loss of one unit of Â in the ratio ρ, and its slope in log ρ.
    #[inline(always)]
    fn clipped<T: Real>(&self, log_ratio: T, advantage: T) -> (T, T) {
        let (ratio, slope) = exp(log_ratio);
        let plain = -ratio * advantage;
        let clipped = -ratio.clamped(1.0 - self.clip_low, 1.0 + self.clip_high) * advantage;
        if clipped.value() > plain.value() {
            return (clipped, T::constant(0.0));
        }
        if let Some(c) = self.dual_clip
            && advantage.value() < 0.0
            && plain.value() > -c * advantage.value()
        {
            return (-advantage * c, T::constant(0.0));
        }
        (plain, -slope * advantage)
    }

    /// The loss of one token and its derivative in ℓ_h, for the ratios that are a token's own.
    #[inline(always)]
    fn token<T: Real>(&self, log_prob: T, old: T, advantage: T) -> (T, T) {
        match self.ratio {
            Ratio::LogProb => (-advantage * log_prob, -advantage),
            Ratio::Capped { low, high } => {
                let weight = exp(log_prob - old).0.clamped(low, high);
                (-weight * advantage * log_prob, -weight * advantage)
            }
            _ => self.clipped(log_prob - old, advantage),
        }
    }

    /// The loss Σ_h w_h ℓ_h of one row; *adds* its derivatives in ℓ_h to `slopes`. All slices are `[H_i]`; tokens of weight 0 do not count.
    ///
    /// A ratio of the whole row has one advantage, that of its first token that counts: [`Surrogate::check_row`]. Its loss is weighed by
    /// Σ_h w_h for [`Ratio::GeometricMean`], and by the mean of w over the tokens that count for [`Ratio::Sequence`], which is 1/B for
    /// [`Aggregation::SequenceSum`](super::Aggregation::SequenceSum).
    #[inline(always)]
    pub fn row<T: Real>(
        &self,
        log_prob: &[T],
        old: &[T],
        advantage: &[T],
        weight: &[f64],
        slopes: &mut [T],
    ) -> T {
        let mut loss = T::constant(0.0);
        if !self.ratio.of_a_row() {
            for h in 0..log_prob.len() {
                let (value, slope) = self.token(log_prob[h], old[h], advantage[h]);
                loss += value * weight[h];
                slopes[h] += slope * weight[h];
            }
            return loss;
        }
        let counts = || weight.iter().enumerate().filter(|(_, w)| **w != 0.0);
        let Some((first, _)) = counts().next() else {
            return loss;
        };
        let n = counts().count() as f64;
        let total: f64 = weight.iter().sum();
        let mut log_ratio = T::constant(0.0);
        for (h, _) in counts() {
            log_ratio += log_prob[h] - old[h];
        }
        let (row_weight, per_token) = match self.ratio {
            Ratio::GeometricMean => {
                log_ratio = log_ratio * (1.0 / n);
                (total, total / n)
            }
            _ => (total / n, total / n),
        };
        let (value, slope) = self.clipped(log_ratio, advantage[first]);
        for (h, _) in counts() {
            slopes[h] += slope * per_token;
        }
        value * row_weight
    }

    /// Refuses a row whose ratio is one and whose advantages are several.
    ///
    /// # Errors
    /// [`Error::Config`] naming the row.
    pub fn check_row(&self, row: usize, advantage: &[f64], weight: &[f64]) -> Result<()> {
        if !self.ratio.of_a_row() {
            return Ok(());
        }
        let mut counted = advantage.iter().zip(weight).filter(|(_, w)| **w != 0.0);
        let Some((first, _)) = counted.next() else {
            return Ok(());
        };
        match counted.find(|(a, _)| *a != first) {
            None => Ok(()),
            Some((other, _)) => Err(Error::config(
                format!("advantages of row {row}"),
                format!("{first} and {other}"),
                "one number for all tokens under a ratio of the whole response",
            )),
        }
    }
}
