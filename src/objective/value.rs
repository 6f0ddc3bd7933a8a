//! The critic's loss.

use std::ops::Range;

use super::{Aggregation, single_rows};
use crate::check;
use crate::seq::{Channel, Episode, PerToken, Ragged, TokenObjective};
use crate::{Error, Result};

/// PPO (Schulman et al., 2017), line 7 of Algorithm 2: ℒ = c Σ_{i,h} w_{i,h} ½ max{(V − R)², (V_old + clip(V − V_old, ±δ) −
/// R)²}; without δ the plain square.
#[derive(Debug, Clone)]
pub struct ValueLoss {
    groups: Vec<Range<usize>>,
    weights: Ragged,
    returns: Ragged,
    old: Ragged,
    clip: f64,
}

impl ValueLoss {
    /// Returns R and rollout values V_old, `[B][H_i]`; coefficient c; δ > 0 or none.
    ///
    /// # Errors
    /// Those of [`Aggregation::weights`]; [`Error::Shape`], [`Error::NonFinite`]; [`Error::Config`] of c or δ.
    pub fn new(
        batch: &[Episode],
        returns: Ragged,
        old: Ragged,
        coefficient: f64,
        clip: Option<f64>,
        aggregation: Aggregation,
    ) -> Result<Self> {
        Self::masked(batch, (returns, old), coefficient, clip, aggregation, None)
    }

    /// [`ValueLoss::new`] of (returns, rollout values) that leaves tokens off a mask out of the loss and its normalisers.
    ///
    /// # Errors
    /// Those of [`ValueLoss::new`].
    pub fn masked(
        batch: &[Episode],
        (returns, old): (Ragged, Ragged),
        coefficient: f64,
        clip: Option<f64>,
        aggregation: Aggregation,
        mask: Option<&Ragged>,
    ) -> Result<Self> {
        check::positive("value_coef", coefficient)?;
        if let Some(c) = clip.filter(|c| !(c.is_finite() && *c > 0.0)) {
            return Err(Error::config("value_clip", c, "finite and > 0"));
        }
        for (what, x) in [("return", &returns), ("value of the rollout", &old)] {
            x.check_fits(what, batch)?;
            x.check_finite(what)?;
        }
        Ok(Self {
            groups: single_rows(batch.len()),
            weights: aggregation.weights(batch, mask)?.map(|w| w * coefficient),
            returns,
            old,
            clip: clip.unwrap_or(f64::INFINITY),
        })
    }
}

impl TokenObjective for ValueLoss {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::Value]
    }

    fn loss_grad(&self, i: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let (w, target, old) = (self.weights.row(i), self.returns.row(i), self.old.row(i));
        let value = scores.row(Channel::Value, i);
        let mut loss = 0.0;
        for (h, g) in grad.row_mut(Channel::Value, i).iter_mut().enumerate() {
            let plain = value[h] - target[h];
            let moved = value[h] - old[h];
            let clipped = old[h] + moved.clamp(-self.clip, self.clip) - target[h];
            if moved.abs() <= self.clip || plain.abs() >= clipped.abs() {
                loss += w[h] * 0.5 * plain * plain;
                *g += w[h] * plain;
            } else {
                loss += w[h] * 0.5 * clipped * clipped;
            }
        }
        loss
    }
}
