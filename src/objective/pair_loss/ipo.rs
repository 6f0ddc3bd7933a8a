//! IPO.

use super::PairLoss;
use crate::Result;
use crate::objective::BradleyTerry;
use crate::seq::{Episode, TokenObjective};

/// IPO (Azar et al., 2024): (l_w − l_l̄ − 1/(2β))², of sums over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ipo;

impl PairLoss for Ipo {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        Ok(Box::new(BradleyTerry::ipo(batch, reference, beta)?))
    }
}
