//! Log-probabilities of responses that are scored once.

use std::collections::HashMap;

use rto::seq::{Channel, Episode, PerToken, Ragged, TokenScorer};
use rto::token_reward::log_probs;
use rto::{Error, Result};

/// Log-probabilities of known responses, each scored once in a fixed order: a stage that goes on after a kill then sees
/// the same bits, whatever batches a response stands in.
pub struct Memo<'a> {
    known: HashMap<Episode, Vec<f64>>,
    /// Scores what is not known.
    others: Option<&'a dyn TokenScorer>,
}

impl<'a> Memo<'a> {
    pub fn new(scorer: &impl TokenScorer, episodes: &[Episode]) -> Result<Self> {
        let scores = log_probs(scorer, episodes)?;
        let rows = scores.rows().map(<[f64]>::to_vec);
        Ok(Self {
            known: episodes.iter().cloned().zip(rows).collect(),
            others: None,
        })
    }

    /// Scores responses that were not known with `scorer`, in the batch in which they are asked for.
    pub fn or(self, scorer: &'a dyn TokenScorer) -> Self {
        let others = Some(scorer);
        Self { others, ..self }
    }

    /// Σ_h log π(y_h | s_h).
    pub fn sum(&self, episode: &Episode) -> Result<f64> {
        Ok(self.row(episode)?.iter().sum())
    }

    fn row(&self, episode: &Episode) -> Result<&Vec<f64>> {
        let missing = || {
            Error::config(
                "response",
                "one that was not scored",
                "a response of the data",
            )
        };
        self.known.get(episode).ok_or_else(missing)
    }
}

impl TokenScorer for Memo<'_> {
    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        if let Some(others) = self.others
            && batch.iter().any(|e| !self.known.contains_key(e))
        {
            let scores = log_probs(&others, batch)?;
            return PerToken::new(batch).with(Channel::LogProb, scores);
        }
        let rows: Vec<_> = batch.iter().map(|e| self.row(e)).collect::<Result<_>>()?;
        PerToken::new(batch).with(Channel::LogProb, Ragged::from_rows(rows))
    }
}
