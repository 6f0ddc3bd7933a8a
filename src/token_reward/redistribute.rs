//! The return of a response spread over its tokens by other means than a token reward: controls for (4.5).

use rand::Rng;

use super::sentence::check_last_tokens;
use crate::check;
use crate::seed::SeedTree;
use crate::seq::{Episode, Ragged, TokenReward};
use crate::{Error, Result};

/// ABC (Chan et al., 2024): How much each token counts.
pub trait AttentionReadout {
    /// Weights ≥ 0, `[B][H_i]`, of any positive row sum.
    ///
    /// # Errors
    /// Those of the model behind it.
    fn attention(&self, batch: &[Episode]) -> Result<Ragged>;
}

impl<F: Fn(&[Episode]) -> Result<Ragged>> AttentionReadout for F {
    fn attention(&self, batch: &[Episode]) -> Result<Ragged> {
        self(batch)
    }
}

/// A control for ABC (Chan et al., 2024): α = 1/H_i.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uniform;

impl AttentionReadout for Uniform {
    fn attention(&self, batch: &[Episode]) -> Result<Ragged> {
        Ok(Ragged::zeros(batch).map(|_| 1.0))
    }
}

/// A control for ABC (Chan et al., 2024): α uniform on the simplex, drawn once for each (prompt, response) wherever it
/// stands: density without information.
#[derive(Debug, Clone)]
pub struct Random(SeedTree);

impl Random {
    /// The streams of a node of the seed tree.
    pub fn new(node: SeedTree) -> Self {
        Self(node)
    }
}

impl AttentionReadout for Random {
    fn attention(&self, batch: &[Episode]) -> Result<Ragged> {
        let row = |e: &Episode| -> Vec<f64> {
            let mut rng = self
                .0
                .child(&format!("{:?}|{:?}", e.prompt, e.response))
                .rng();
            // Exponential draws, normalised later, are uniform on the simplex.
            let mut draw = || -(1.0 - rng.random::<f64>()).ln();
            e.response
                .iter()
                .map(|_| draw().max(f64::MIN_POSITIVE))
                .collect()
        };
        Ok(Ragged::from_rows(batch.iter().map(row)))
    }
}

/// r_h = b α_h R + (1 − b) R 1{h = H_i}, with R the return of the inner reward and α a readout normalised to Σ_h α_h = 1.
///
/// With the attention of a reward model this is ABC (Chan et al., 2024); [`Uniform`] and [`Random`] are its controls. The row sum is R
/// whatever α and b.
#[derive(Debug, Clone)]
pub struct Redistributed<I, A> {
    inner: I,
    readout: A,
    share: f64,
}

impl<I: TokenReward, A: AttentionReadout> Redistributed<I, A> {
    /// The share b that is spread, in (0, 1]. ABC's code has ½.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn try_new(inner: I, readout: A, share: f64) -> Result<Self> {
        check::positive("redistributed share", share)?;
        if share > 1.0 {
            return Err(Error::config("redistributed share", share, "in (0, 1]"));
        }
        Ok(Self {
            inner,
            readout,
            share,
        })
    }
}

impl<I: TokenReward, A: AttentionReadout> TokenReward for Redistributed<I, A> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        check_last_tokens(batch)?;
        let mut rewards = self.inner.rewards(batch)?;
        rewards.check_fits("reward", batch)?;
        let attention = self.readout.attention(batch)?;
        attention.check_fits("attention", batch)?;
        attention.check_finite("attention")?;
        for i in 0..rewards.n_rows() {
            let (alpha, row) = (attention.row(i), rewards.row_mut(i));
            let (total, returned) = (alpha.iter().sum::<f64>(), row.iter().sum::<f64>());
            if total <= 0.0 || alpha.iter().any(|a| *a < 0.0) {
                let must = "non-negative with a positive sum";
                return Err(Error::config(format!("attention of row {i}"), total, must));
            }
            for (r, a) in row.iter_mut().zip(alpha) {
                *r = self.share * returned * a / total;
            }
            let last = row.len() - 1;
            row[last] += (1.0 - self.share) * returned;
        }
        Ok(rewards)
    }
}
