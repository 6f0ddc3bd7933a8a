//! Cal-DPO.

use super::{PairLoss, PairSlopes, SequencePairs};
use crate::Result;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::seq::{Episode, TokenObjective};

/// Cal-DPO (Xiao et al., 2024): −log σ(l_w − l_l̄) + (l_w − 1/(2β))² + (l_l̄ + 1/(2β))².
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CalDpo;

impl PairLoss for CalDpo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let ([w, l], tau) = (pair.log_ratio(), 0.5 / beta);
            let (m, above, below) = (w - l, w - tau, l + tau);
            PairSlopes {
                loss: -log_sigmoid(m) + above * above + below * below,
                slope: [2.0 * above - sigmoid(-m), 2.0 * below + sigmoid(-m)],
            }
        })
    }
}
