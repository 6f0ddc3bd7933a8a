//! RPO.

use super::{PairLoss, PairSlopes, SequencePairs};
use crate::Result;
use crate::check;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::seq::{Episode, TokenObjective};

/// RPO (Liu et al., 2024): −log σ(β(l_w − l_l̄)) − ηβ log π(y_w|x), with the sum over tokens, not their mean.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Rpo {
    /// η ≥ 0, the weight of the supervised term.
    pub eta: f64,
}

impl Default for Rpo {
    fn default() -> Self {
        Self { eta: 0.005 }
    }
}

impl PairLoss for Rpo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        self.check()?;
        let eta = self.eta;
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [w, l] = pair.log_ratio();
            let m = beta * (w - l);
            let g = -beta * sigmoid(-m);
            PairSlopes {
                loss: -log_sigmoid(m) - eta * beta * pair.log_prob[0],
                slope: [g - eta * beta, -g],
            }
        })
    }

    fn check(&self) -> Result<()> {
        check::not_negative("rpo.eta", self.eta)
    }
}
