//! DPO, and its relatives that are the same likelihood with other labels or another offset.

use super::PairLoss;
use crate::objective::BradleyTerry;
use crate::seq::{Episode, TokenObjective};
use crate::{Error, Result};

/// DPO, (4.4)/(C.4): −log σ(β(l_w − l_l̄)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dpo;

impl PairLoss for Dpo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        Ok(Box::new(BradleyTerry::dpo(batch, reference, beta)?))
    }
}

/// cDPO (Mitchell, 2023): (1 − ε) of DPO's loss and ε of the loss with the labels exchanged.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct CDpo {
    /// ε in [0, ½), the share of labels taken to be wrong.
    pub epsilon: f64,
}

impl Default for CDpo {
    fn default() -> Self {
        Self { epsilon: 0.1 }
    }
}

impl PairLoss for CDpo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        let loss = BradleyTerry::dpo(batch, reference, beta)?;
        Ok(Box::new(loss.label_smoothing(self.epsilon)?))
    }

    fn check(&self) -> Result<()> {
        wrong_labels("cdpo.epsilon", self.epsilon)
    }
}

/// R-DPO (Park et al., 2024): −log σ(β(l_w − l_l̄) + α(|y_w| − |y_l̄|)).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct RDpo {
    /// α, finite: the reward that a token more is known to have been given.
    pub alpha: f64,
}

impl Default for RDpo {
    fn default() -> Self {
        Self { alpha: 0.01 }
    }
}

impl PairLoss for RDpo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        let loss = BradleyTerry::rdpo(batch, reference, beta, self.alpha)?;
        Ok(Box::new(loss))
    }

    fn check(&self) -> Result<()> {
        match self.alpha.is_finite() {
            true => Ok(()),
            false => Err(Error::config("rdpo.alpha", self.alpha, "finite")),
        }
    }
}

/// Refuses a share of wrong labels that leaves nothing to learn.
pub(super) fn wrong_labels(field: &str, epsilon: f64) -> Result<()> {
    match (0.0..0.5).contains(&epsilon) {
        true => Ok(()),
        false => Err(Error::config(field, epsilon, "in [0, 0.5)")),
    }
}
