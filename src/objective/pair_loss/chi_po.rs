//! χPO.

use super::{PairLoss, PairSlopes, SequencePairs};
use crate::Result;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::seq::{Episode, TokenObjective};

/// χPO (Huang et al., 2024): −log σ(β(φ(l_w) − φ(l_l̄))), φ(l) = e^l + l, without the clip that its analysis puts around the margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChiPo;

impl PairLoss for ChiPo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let [w, l] = pair.log_ratio();
            let m = beta * ((w.exp() + w) - (l.exp() + l));
            let g = -beta * sigmoid(-m);
            PairSlopes {
                loss: -log_sigmoid(m),
                slope: [g * (w.exp() + 1.0), -g * (l.exp() + 1.0)],
            }
        })
    }
}
