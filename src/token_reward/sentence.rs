//! Sentence-level rewards, where they are paid, and sums of rewards.

use super::implicit::DpoReward;
use crate::check;
use crate::seq::{Channel, Episode, Ragged, TokenReward, TokenScorer, check_batch};
use crate::{Error, Result};

/// The whole reward of a response at its last token: (2.3), and (5.1) of an inner [`DpoReward`].
///
/// (5.1) prints π where π_dpo is meant.
#[derive(Debug, Clone)]
pub struct PaidAtEnd<I>(pub I);

impl<I: TokenReward> TokenReward for PaidAtEnd<I> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        at_end(self.0.rewards(batch)?, batch)
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        let inner = self.0.components(batch)?.into_iter();
        inner.map(|(n, r)| Ok((n, at_end(r, batch)?))).collect()
    }
}

/// Every response has a last token to be paid at; a batch of none is fine.
pub(super) fn check_last_tokens(batch: &[Episode]) -> Result<()> {
    match batch.is_empty() {
        true => Ok(()),
        false => check_batch(batch),
    }
}

fn at_end(mut rewards: Ragged, batch: &[Episode]) -> Result<Ragged> {
    check_last_tokens(batch)?;
    rewards.check_fits("reward", batch)?;
    for i in 0..rewards.n_rows() {
        let row = rewards.row_mut(i);
        let (sum, last) = (row.iter().sum(), row.len() - 1);
        row.fill(0.0);
        row[last] = sum;
    }
    Ok(rewards)
}

/// (2.3): r_φ(x, y) = Σ_h of [`Channel::Reward`], paid at the last token: clip((r_φ − mean)/std, ±c).
#[derive(Debug, Clone)]
pub struct SentenceReward<S> {
    model: S,
    mean: f64,
    std: f64,
    clip: f64,
}

impl<S: TokenScorer> SentenceReward<S> {
    /// The model's reward as it is.
    pub fn new(model: S) -> Self {
        Self {
            model,
            mean: 0.0,
            std: 1.0,
            clip: f64::INFINITY,
        }
    }

    /// Centres and scales.
    ///
    /// # Errors
    /// [`Error::Config`] on a mean that is not finite or a std that is not positive.
    pub fn normalised(mut self, mean: f64, std: f64) -> Result<Self> {
        if !mean.is_finite() {
            return Err(Error::config("reward mean", mean, "finite"));
        }
        check::positive("reward std", std)?;
        (self.mean, self.std) = (mean, std);
        Ok(self)
    }

    /// Cuts to ±c, after scaling.
    ///
    /// # Errors
    /// [`Error::Config`] unless c is finite and positive.
    pub fn clipped(mut self, c: f64) -> Result<Self> {
        check::positive("reward clip", c)?;
        self.clip = c;
        Ok(self)
    }
}

impl<S: TokenScorer> TokenReward for SentenceReward<S> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let scores = self.model.scores(batch)?;
        let mut out = at_end(scores.get(Channel::Reward)?.clone(), batch)?;
        for i in 0..out.n_rows() {
            if let Some(r) = out.row_mut(i).last_mut() {
                *r = ((*r - self.mean) / self.std).clamp(-self.clip, self.clip);
            }
        }
        Ok(out)
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        Ok(vec![("reward_model", self.rewards(batch)?)])
    }
}

/// r_θ(s_h, y_h) of [`Channel::Reward`], token by token, as it is: a dense reward that was fitted with (2.2).
#[derive(Debug, Clone)]
pub struct DenseReward<S>(pub S);

impl<S: TokenScorer> TokenReward for DenseReward<S> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let scores = self.0.scores(batch)?;
        let rewards = scores.get(Channel::Reward)?;
        rewards.check_fits("reward", batch)?;
        Ok(rewards.clone())
    }
}

/// The sum of two rewards, reported apart.
#[derive(Debug, Clone)]
pub struct Both<A, B>(pub A, pub B);

impl<A: TokenReward, B: TokenReward> TokenReward for Both<A, B> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let (a, b) = (self.0.rewards(batch)?, self.1.rewards(batch)?);
        a.zip("reward", &b, |a, b| a + b)
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        let mut all = self.0.components(batch)?;
        all.extend(self.1.components(batch)?);
        Ok(all)
    }
}

/// RTO as in the authors' later code: the clipped dense reward (4.5), and a reward model cut to ±10 at the last token with weight 1.
///
/// # Errors
/// [`Error::Config`] of `dpo_clip`.
pub fn released<P: TokenScorer, R: TokenScorer, S: TokenScorer>(
    dpo: DpoReward<P, R>,
    dpo_clip: f64,
    reward_model: SentenceReward<S>,
) -> Result<Both<DpoReward<P, R>, SentenceReward<S>>> {
    Ok(Both(dpo.clipped(dpo_clip)?, reward_model.clipped(10.0)?))
}

/// As in the authors' later code: A reward times a constant and then cut to ±c per token.
#[derive(Debug, Clone)]
pub struct Scaled<I> {
    inner: I,
    scale: f64,
    clip: f64,
}

impl<I: TokenReward> Scaled<I> {
    /// Factor and, if asked for, the cut.
    ///
    /// # Errors
    /// [`Error::Config`] on a factor that is not finite or a cut that is not positive.
    pub fn try_new(inner: I, scale: f64, clip: Option<f64>) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::config("reward scale", scale, "finite"));
        }
        if let Some(c) = clip {
            check::positive("reward clip", c)?;
        }
        let clip = clip.unwrap_or(f64::INFINITY);
        Ok(Self { inner, scale, clip })
    }
}

impl<I: TokenReward> TokenReward for Scaled<I> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let (s, c) = (self.scale, self.clip);
        Ok(self.inner.rewards(batch)?.map(|r| (s * r).clamp(-c, c)))
    }
}
