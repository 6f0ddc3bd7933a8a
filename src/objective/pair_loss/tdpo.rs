//! TDPO as a choice of line 2; the loss is [`Tdpo`].

use super::PairLoss;
use crate::Result;
use crate::check;
use crate::objective::Tdpo;
use crate::seq::{Channel, Episode, TokenObjective};

const CHANNELS: &[Channel] = &[Channel::LogProb, Channel::KlFromReference];

/// TDPO1 (Zeng et al., 2024): −log σ(β[l_w − l_l̄ − (D_l̄ − D_w)]), D = Σ_h KL(π_ref(·|s_h) ‖ π(·|s_h)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tdpo1;

impl PairLoss for Tdpo1 {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        Ok(Box::new(Tdpo::tdpo1(batch, reference, beta)?))
    }

    fn channels(&self) -> &[Channel] {
        CHANNELS
    }
}

/// TDPO2 (Zeng et al., 2024): −log σ(β[l_w − l_l̄ − α(D_l̄ − D_w)]) with D_w held fixed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Tdpo2 {
    /// α ≥ 0, the weight of the forward KL.
    pub alpha: f64,
}

impl Default for Tdpo2 {
    fn default() -> Self {
        Self { alpha: 0.5 }
    }
}

impl PairLoss for Tdpo2 {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        Ok(Box::new(Tdpo::tdpo2(batch, reference, beta, self.alpha)?))
    }

    fn channels(&self) -> &[Channel] {
        CHANNELS
    }

    fn check(&self) -> Result<()> {
        check::not_negative("tdpo2.alpha", self.alpha)
    }
}
