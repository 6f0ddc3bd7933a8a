//! A reward of every token, fitted to the token rewards of a file.
//!
//! What a file says of its own replies must pay the replies that a policy writes, which are in no file. So a network learns it: on the
//! trunk of π_ref, a scalar head reads r(s_h, y_h) where the token y_h has been read, by least squares, with the settings of `[reward]`.
//! The network's head of values is that scalar: V(s_{h+1}) is a function of (s_h, y_h). A text is read with one token more than it has,
//! so that there is a state behind its last.

use std::sync::Arc;

use anyhow::{Context, Result};
use rto::Error;
use rto::algorithm2::{Fit, Step};
use rto::seq::{Channel, Episode, Finish, PerToken, Ragged, TokenScorer};
use rto_bridge::learner::{NeuralRegressor, NeuralScorer};

use super::journal::{is_done, left};
use super::trainer::Training;
use crate::run::data::Paid;
use crate::run::models::Models;
use crate::run::place::{Place, on_place};
use crate::run::stage::Stage;

const STAGE: Stage = Stage::TokenReward;

impl Training<'_> {
    /// Least squares on the rows that are not held out.
    pub fn token_reward(&self) -> Result<()> {
        if is_done(self.root, STAGE) {
            return Ok(());
        }
        let journal = self.open(STAGE)?;
        let host = regressor(self.models, journal.checkpoint())?;
        let rows: Vec<_> = self.data.token_rewards.train.iter().map(row).collect();
        let (config, seeds) = (self.config.reward()?, self.seeds.child(STAGE.name()));
        let fit = Fit::values(&rows, &config, &seeds)?;
        on_place!(self, |place| {
            let mut learner = place.regressor(host, None)?;
            let journal = self.fit(journal, fit, &mut learner, &|_: &Step| Ok(Vec::new()))?;
            journal.finish()
        })
    }
}

/// The network of the stage: fresh, or as a checkpoint has it.
fn regressor(models: &Models<'_>, checkpoint: Option<&std::path::Path>) -> Result<NeuralRegressor> {
    let options = models.config.learner();
    let trunk = models.frozen(Stage::Sft)?;
    let fresh = models
        .token_reward_start(&trunk)?
        .with_micro_batch(options.micro_batch)?;
    Ok(match checkpoint {
        Some(folder) => NeuralRegressor::load(fresh, options, &folder.join("policy"))?,
        None => NeuralRegressor::try_new(fresh, options)?,
    })
}

/// A text with a token more, which no state that is read has seen.
fn longer(episode: &Episode) -> rto::Result<Episode> {
    let mut response = episode.response.to_vec();
    let last = response.last().copied();
    response.push(last.ok_or_else(|| Error::config("response", "nothing", "at least one token"))?);
    Episode::try_new(episode.prompt.clone(), response, Finish::Length)
}

/// The targets of a row of the file: r(s_h, y_h) at the state behind y_h.
fn row(paid: &Paid) -> (Episode, Vec<Option<f64>>) {
    let targets = std::iter::once(None).chain(paid.rewards.iter().copied().map(Some));
    let episode =
        longer(&paid.episode).expect("rows without a token are refused where they are read");
    (episode, targets.collect())
}

/// The fitted network as a scorer of rewards, one for every token.
pub struct TokenRewardModel<S = Arc<NeuralScorer>>(S);

impl TokenRewardModel {
    /// The network that the stage has left.
    ///
    /// # Errors
    /// A stage that has not been trained, a file that cannot be read.
    pub fn load(models: &Models<'_>, root: &std::path::Path) -> Result<Self> {
        let checkpoint = left(root, STAGE).context("stage token_reward: has left no network")?;
        let scorer = regressor(models, Some(&checkpoint))?.into_scorer();
        Ok(Self(Arc::new(scorer)))
    }
}

impl<S: TokenScorer> TokenRewardModel<S> {
    /// The same model, its network taken elsewhere.
    pub fn map<T>(
        self,
        take: impl FnOnce(S) -> rto_bridge::Result<T>,
    ) -> rto_bridge::Result<TokenRewardModel<T>> {
        take(self.0).map(TokenRewardModel)
    }

    /// How well it foretells rewards of rows that it has not learned from.
    ///
    /// # Errors
    /// Those of scoring.
    pub fn explained(&self, held_out: &[Paid]) -> Result<Explained> {
        let episodes: Vec<Episode> = held_out.iter().map(|paid| paid.episode.clone()).collect();
        let scores = self.scores(&episodes)?;
        let found = scores.get(Channel::Reward)?;
        let truth: Vec<f64> = held_out
            .iter()
            .flat_map(|paid| paid.rewards.iter().copied())
            .collect();
        Ok(Explained::of(found.values(), &truth, held_out.len()))
    }
}

impl<S: TokenScorer> TokenScorer for TokenRewardModel<S> {
    fn channels(&self) -> &[Channel] {
        &[Channel::Reward]
    }

    fn scores(&self, batch: &[Episode]) -> rto::Result<PerToken> {
        let texts = batch.iter().map(longer).collect::<rto::Result<Vec<_>>>()?;
        let values = self.0.scores(&texts)?;
        let values = values.get(Channel::Value)?;
        let rewards = Ragged::from_rows(values.rows().map(|row| &row[1..]));
        PerToken::new(batch).with(Channel::Reward, rewards)
    }
}

/// Held-out rewards against what a model says of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Explained {
    pub rows: usize,
    pub tokens: usize,
    /// R² = 1 − Σ (r − r̂)² / Σ (r − r̄)²; none where all rewards are equal.
    pub r2: Option<f64>,
    /// √(Σ (r − r̂)² / n), in units of the file's rewards.
    pub rmse: f64,
}

impl Explained {
    fn of(found: &[f64], truth: &[f64], rows: usize) -> Self {
        let n = truth.len() as f64;
        let mean = truth.iter().sum::<f64>() / n;
        let square = |x: f64| x * x;
        let left: f64 = found.iter().zip(truth).map(|(f, t)| square(f - t)).sum();
        let all: f64 = truth.iter().map(|t| square(t - mean)).sum();
        Self {
            rows,
            tokens: truth.len(),
            r2: (all > 0.0).then(|| 1.0 - left / all),
            rmse: (left / n).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_explained_is_one_of_the_truth_and_zero_of_its_mean() {
        let truth = [1.0, 2.0, 6.0];
        assert_eq!(Explained::of(&truth, &truth, 1).r2, Some(1.0));
        let mean = Explained::of(&[3.0; 3], &truth, 1);
        assert_eq!((mean.r2, mean.rmse), (Some(0.0), (14.0_f64 / 3.0).sqrt()));
        assert_eq!(Explained::of(&[1.0, 3.0], &[2.0, 2.0], 1).r2, None);
    }
}
