//! A hinge in place of DPO's logistic loss.

use super::{PairLoss, PairSlopes, SequencePairs};
use crate::Result;
use crate::seq::{Episode, TokenObjective};

/// The hinge of SLiC (Zhao et al., 2023) on log-ratios, as RSO (Liu et al., 2024) has it: max(0, 1 − β(l_w − l_l̄)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hinge;

impl PairLoss for Hinge {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [w, l] = pair.log_ratio();
            let loss = (1.0 - beta * (w - l)).max(0.0);
            let g = if loss > 0.0 { -beta } else { 0.0 };
            PairSlopes {
                loss,
                slope: [g, -g],
            }
        })
    }
}
