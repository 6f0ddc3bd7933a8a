//! DPO on labels of which a known share is wrong, without the bias of cDPO.

use super::dpo::wrong_labels;
use super::{PairLoss, PairSlopes, SequencePairs};
use crate::Result;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::seq::{Episode, TokenObjective};

/// Robust DPO (Chowdhury et al., 2024): [(1 − ε) ℓ(m) − ε ℓ(−m)]/(1 − 2ε), ℓ(m) = −log σ(m), m = β(l_w − l_l̄). Its mean over labels
/// that are wrong with probability ε is DPO's loss on right ones.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Robust {
    /// ε in [0, ½), the probability that a label is wrong.
    pub epsilon: f64,
}

impl Default for Robust {
    fn default() -> Self {
        Self { epsilon: 0.1 }
    }
}

impl PairLoss for Robust {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        self.check()?;
        let e = self.epsilon;
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [w, l] = pair.log_ratio();
            let (m, scale) = (beta * (w - l), 1.0 / (1.0 - 2.0 * e));
            let loss = scale * (e * log_sigmoid(-m) - (1.0 - e) * log_sigmoid(m));
            let g = -beta * scale * ((1.0 - e) * sigmoid(-m) + e * sigmoid(m));
            PairSlopes {
                loss,
                slope: [g, -g],
            }
        })
    }

    fn check(&self) -> Result<()> {
        wrong_labels("robust.epsilon", self.epsilon)
    }
}
