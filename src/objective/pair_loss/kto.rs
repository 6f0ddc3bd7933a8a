//! KTO on pairs: the winner is desirable, the loser is not.

use std::ops::Range;

use super::PairLoss;
use super::dpo::weight;
use crate::numerics::sigmoid;
use crate::objective::preference::check_rows;
use crate::objective::{kto_reference_point, pairs};
use crate::seq::{Channel, Episode, PerToken, TokenObjective};
use crate::{Error, Result};

/// KTO (Ethayarajh et al., 2024): the mean over both responses of λ_D(1 − σ(β(l_w − z₀))) and λ_U(1 − σ(β(z₀ − l_l̄))).
///
/// z₀ = max(0, mean log-ratio) of every prompt with the next pair's winner, an estimate of KL(π ‖ π_ref) from responses to other
/// prompts, as its authors have it. It gets no gradient. A batch of one pair has no other prompt, and z₀ = 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Kto {
    /// λ_D ≥ 0.
    pub desirable: f64,
    /// λ_U ≥ 0.
    pub undesirable: f64,
}

impl Default for Kto {
    fn default() -> Self {
        Self {
            desirable: 1.0,
            undesirable: 1.0,
        }
    }
}

impl PairLoss for Kto {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        self.check()?;
        if !(beta.is_finite() && beta > 0.0) {
            return Err(Error::config("beta", beta, "finite and > 0"));
        }
        let labelled = self.pair_rows(batch.len());
        pairs(&batch[..labelled])?;
        check_rows("log_prob of the reference", batch.len(), reference)?;
        let all = 0..batch.len();
        Ok(Box::new(KtoOnPairs {
            group: [all],
            reference: reference.to_vec(),
            labelled,
            beta,
            weights: [self.desirable, self.undesirable],
        }))
    }

    fn more_rows(&self, batch: &[Episode]) -> Vec<Episode> {
        let n = batch.len() / 2;
        let mismatched = |k: usize| Episode {
            prompt: batch[2 * k].prompt.clone(),
            ..batch[2 * ((k + 1) % n)].clone()
        };
        match n {
            0 | 1 => Vec::new(),
            _ => (0..n).map(mismatched).collect(),
        }
    }

    fn pair_rows(&self, rows: usize) -> usize {
        if rows <= 2 { rows } else { rows / 3 * 2 }
    }

    fn check(&self) -> Result<()> {
        weight("kto.desirable", self.desirable)?;
        weight("kto.undesirable", self.undesirable)
    }
}

/// The loss of a batch. All its rows are one group, since all share z₀.
struct KtoOnPairs {
    group: [Range<usize>; 1],
    reference: Vec<f64>,
    labelled: usize,
    beta: f64,
    weights: [f64; 2],
}

impl TokenObjective for KtoOnPairs {
    fn groups(&self) -> &[Range<usize>] {
        &self.group
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, _group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let log_ratio =
            |i: usize| scores.row(Channel::LogProb, i).iter().sum::<f64>() - self.reference[i];
        let others: Vec<f64> = (self.labelled..self.reference.len())
            .map(log_ratio)
            .collect();
        let z0 = kto_reference_point(&others);
        let (n, mut loss) = (self.labelled as f64, 0.0);
        for i in 0..self.labelled {
            let (sign, weight) = ([1.0, -1.0][i % 2], self.weights[i % 2]);
            let t = sign * self.beta * (log_ratio(i) - z0);
            loss += weight * sigmoid(-t) / n;
            let g = -weight * sign * self.beta * sigmoid(t) * sigmoid(-t) / n;
            let row = grad.row_mut(Channel::LogProb, i);
            row.iter_mut().for_each(|v| *v += g);
        }
        loss
    }
}
