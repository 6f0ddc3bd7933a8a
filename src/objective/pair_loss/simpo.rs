//! SimPO.

use super::PairLoss;
use crate::objective::BradleyTerry;
use crate::seq::{Episode, TokenObjective};
use crate::{Error, Result};

/// SimPO (Meng et al., 2024): −log σ(β(log π(y_w|x)/|y_w| − log π(y_l̄|x)/|y_l̄|) − γ), without a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct SimPo {
    /// γ, finite: the margin that is asked for.
    pub gamma: f64,
}

impl Default for SimPo {
    fn default() -> Self {
        Self { gamma: 0.5 }
    }
}

impl PairLoss for SimPo {
    fn objective(
        &self,
        batch: &[Episode],
        _reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        Ok(Box::new(BradleyTerry::simpo(batch, beta, self.gamma)?))
    }

    fn reads_reference(&self) -> bool {
        false
    }

    fn check(&self) -> Result<()> {
        match self.gamma.is_finite() {
            true => Ok(()),
            false => Err(Error::config("simpo.gamma", self.gamma, "finite")),
        }
    }
}
