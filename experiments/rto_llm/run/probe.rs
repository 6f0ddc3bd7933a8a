//! Reads the scores a step works on, so that what is logged costs no forward pass of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rto::seq::{
    Channel, Episode, PerToken, Ragged, StepReport, TokenObjective, TokenScorer, Trainable,
};
use rto::token_reward::log_probs;
use rto::{Error, Result};
use rto_bridge::learner::NeuralScorer;

/// The last batch that was stepped on, with its scores before the step.
pub type Seen = RefCell<Option<(Vec<Episode>, PerToken)>>;

/// A learner whose steps are watched.
pub struct Probe<'a> {
    pub learner: &'a mut dyn Trainable,
    pub seen: &'a Seen,
    /// Steps until the loss is NaN, for [`super::fault`].
    pub poison: Option<u64>,
}

struct Spy<'a> {
    objective: &'a dyn TokenObjective,
    scores: RefCell<Option<PerToken>>,
    poisoned: bool,
}

impl TokenObjective for Spy<'_> {
    fn groups(&self) -> &[Range<usize>] {
        self.objective.groups()
    }

    fn channels(&self) -> &[Channel] {
        self.objective.channels()
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        if group == 0 {
            *self.scores.borrow_mut() = Some(scores.clone());
        }
        match self.poisoned {
            true => f64::NAN,
            false => self.objective.loss_grad(group, scores, grad),
        }
    }
}

impl Trainable for Probe<'_> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let spy = Spy {
            objective,
            scores: RefCell::new(None),
            poisoned: self.poison == Some(0),
        };
        self.poison = self.poison.and_then(|left| left.checked_sub(1));
        let report = self.learner.step(batch, &spy)?;
        let scores = spy.scores.into_inner();
        *self.seen.borrow_mut() = scores.map(|s| (batch.to_vec(), s));
        Ok(report)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learner.set_learning_rate(learning_rate);
    }
}

/// Log-probabilities of known responses, each scored once in a fixed order: a stage that goes on after a kill then sees
/// the same bits, whatever batches a response stands in.
pub struct Memo {
    known: HashMap<Episode, Vec<f64>>,
    /// Scores what is not known.
    others: Option<Arc<NeuralScorer>>,
}

impl Memo {
    pub fn new(scorer: &impl TokenScorer, episodes: &[Episode]) -> Result<Self> {
        let scores = log_probs(scorer, episodes)?;
        let rows = scores.rows().map(<[f64]>::to_vec);
        Ok(Self {
            known: episodes.iter().cloned().zip(rows).collect(),
            others: None,
        })
    }

    /// Scores responses that were not known with `scorer`, in the batch in which they are asked for.
    pub fn or(self, scorer: Arc<NeuralScorer>) -> Self {
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

impl TokenScorer for Memo {
    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        if let Some(others) = &self.others
            && batch.iter().any(|e| !self.known.contains_key(e))
        {
            let scores = log_probs(others, batch)?;
            return PerToken::new(batch).with(Channel::LogProb, scores);
        }
        let rows: Vec<_> = batch.iter().map(|e| self.row(e)).collect::<Result<_>>()?;
        PerToken::new(batch).with(Channel::LogProb, Ragged::from_rows(rows))
    }
}
