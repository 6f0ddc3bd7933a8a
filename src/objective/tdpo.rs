//! Token-level DPO.

use std::ops::Range;

use super::pairs;
use super::preference::logistic;
use crate::Result;
use crate::check;
use crate::seq::{Channel, Episode, PerToken, TokenObjective};

/// TDPO (Zeng et al., 2024): −log σ(β[u − α(D_l − D_w)]) over pairs of consecutive rows (winner, loser).
///
/// u is DPO's log-ratio margin and D = Σ_h KL(π_ref(·|s_h) ‖ π(·|s_h)), read from [`Channel::KlFromReference`].
/// TDPO1 has α = 1 and the gradient of both D; TDPO2 treats D_w as a constant.
#[derive(Debug, Clone)]
pub struct Tdpo {
    groups: Vec<Range<usize>>,
    /// log π_ref(y|x), `[2K]`.
    reference: Vec<f64>,
    beta: f64,
    alpha: f64,
    winner_kl_moves: bool,
}

impl Tdpo {
    /// TDPO1. `reference` holds log π_ref(y|x) of every row, `[2K]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] on an odd number of rows, prompts that differ in a pair or β ≤ 0; [`crate::Error::Shape`]; [`crate::Error::NonFinite`].
    pub fn tdpo1(batch: &[Episode], reference: &[f64], beta: f64) -> Result<Self> {
        let groups = pairs(batch)?;
        check::positive("beta", beta)?;
        check::rows("log_prob of the reference", batch.len(), reference)?;
        Ok(Self {
            groups,
            reference: reference.to_vec(),
            beta,
            alpha: 1.0,
            winner_kl_moves: true,
        })
    }

    /// TDPO2.
    ///
    /// # Errors
    /// Those of [`Tdpo::tdpo1`]; an α that is negative or not finite.
    pub fn tdpo2(batch: &[Episode], reference: &[f64], beta: f64, alpha: f64) -> Result<Self> {
        check::not_negative("alpha", alpha)?;
        Ok(Self {
            alpha,
            winner_kl_moves: false,
            ..Self::tdpo1(batch, reference, beta)?
        })
    }
}

impl TokenObjective for Tdpo {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb, Channel::KlFromReference]
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let (w, l) = (self.groups[group].start, self.groups[group].start + 1);
        let sum = |c, i| scores.row(c, i).iter().sum::<f64>();
        let ratio = |i: usize| sum(Channel::LogProb, i) - self.reference[i];
        let divergence = |i| sum(Channel::KlFromReference, i);
        let m = ratio(w) - ratio(l) - self.alpha * (divergence(l) - divergence(w));
        let n = self.groups.len() as f64;
        let (loss, slope) = logistic(self.beta * m, 1.0);
        let g = slope * self.beta / n;
        let mut add = |c, i, g: f64| grad.row_mut(c, i).iter_mut().for_each(|v| *v += g);
        add(Channel::LogProb, w, g);
        add(Channel::LogProb, l, -g);
        add(Channel::KlFromReference, l, -self.alpha * g);
        if self.winner_kl_moves {
            add(Channel::KlFromReference, w, self.alpha * g);
        }
        loss / n
    }
}
