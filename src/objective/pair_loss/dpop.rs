//! DPO-positive.

use super::{PairLoss, PairSlopes, SequencePairs};
use crate::Result;
use crate::check;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::seq::{Episode, TokenObjective};

/// DPOP (Pal et al., 2024): −log σ(β(l_w − l_l̄ − λ max(0, −l_w))).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Dpop {
    /// λ ≥ 0, the price of a winner less likely than under the reference.
    pub lambda: f64,
}

impl Default for Dpop {
    fn default() -> Self {
        Self { lambda: 5.0 }
    }
}

impl PairLoss for Dpop {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        self.check()?;
        let lambda = self.lambda;
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [w, l] = pair.log_ratio();
            let price = if w < 0.0 { lambda } else { 0.0 };
            let m = beta * (w - l + price * w);
            let g = -beta * sigmoid(-m);
            PairSlopes {
                loss: -log_sigmoid(m),
                slope: [g * (1.0 + price), -g],
            }
        })
    }

    fn check(&self) -> Result<()> {
        check::not_negative("dpop.lambda", self.lambda)
    }
}
