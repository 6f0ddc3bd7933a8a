//! A step: scores, gradient of the loss in them, pull-back in micro-batches, AdamW.

use std::ops::Range;

use rto::seq::{
    Channel, Episode, PerToken, PolicyLearner, StepReport, TokenObjective, Trainable,
    loss_and_score_grad,
};
use rto::{Error, Result};

use super::channels::{append, gradient, pack_for, per_token};
use super::ranks::Tree;
use super::{NeuralPolicy, NeuralScorer, backend};
use crate::batch::Batch;
use crate::model::{Forward, Keep, Scores};
use crate::optimizer::{AdamW, AdamWConfig};
use crate::params::Gradients;

/// How a network is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerOptions {
    /// The optimiser.
    pub optimizer: AdamWConfig,
    /// η until [`Trainable::set_learning_rate`] says otherwise.
    pub learning_rate: f64,
    /// Responses whose activations are held at once, ≥ 1.
    pub micro_batch: usize,
}

impl Default for LearnerOptions {
    fn default() -> Self {
        Self {
            optimizer: AdamWConfig::default(),
            learning_rate: 1e-3,
            micro_batch: 64,
        }
    }
}

/// Optimiser, gradients and learning rate of a network.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) options: LearnerOptions,
    pub(super) optimizer: AdamW,
    gradients: Gradients,
    /// Gradients of groups, where batches are cut.
    tree: Tree,
    pub(super) learning_rate: f64,
}

impl Core {
    pub(super) fn try_new(scorer: &NeuralScorer, options: LearnerOptions) -> crate::Result<Self> {
        if options.micro_batch == 0 {
            return Err(crate::Error::Setting {
                field: "micro_batch",
                found: "0".into(),
                expected: "at least 1".into(),
            });
        }
        Ok(Self {
            optimizer: AdamW::of_share(
                options.optimizer.clone(),
                scorer.model.params(),
                scorer.ranks.share(),
            )?,
            gradients: Gradients::zeros(scorer.model.params()),
            tree: Tree::default(),
            learning_rate: options.learning_rate,
            options,
        })
    }

    /// Sets the gradient of ℒ in the weights and returns ℒ.
    pub(super) fn accumulate(
        &mut self,
        scorer: &NeuralScorer,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> Result<f64> {
        if scorer.ranks.cuts() {
            return self.by_groups(scorer, batch, objective);
        }
        self.gradients.reset();
        let channels = objective.channels();
        if batch.len() <= self.options.micro_batch {
            return self.one_pass(scorer, batch, objective);
        }
        let scores = scorer.score(batch, channels)?;
        let (loss, grad) = loss_and_score_grad(objective, &scores)?;
        let starts = (0..batch.len()).step_by(self.options.micro_batch);
        for start in starts {
            let end = batch.len().min(start + self.options.micro_batch);
            let part = gradient(&grad, channels, start..end);
            pull_back(
                scorer,
                &batch[start..end],
                channels,
                &part,
                &mut self.gradients,
            )?;
        }
        Ok(loss)
    }

    /// [`Core::accumulate`] where the batch is cut: this rank's groups, then the sum over all.
    fn by_groups(
        &mut self,
        scorer: &NeuralScorer,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> Result<f64> {
        let (channels, ranks) = (objective.channels(), &scorer.ranks);
        let own = ranks.own_rows(batch);
        // The same decision on every number of ranks: a tape that is kept may round otherwise than one that is made again.
        let (scores, tapes) = match batch.len() <= self.options.micro_batch {
            true => taped(scorer, batch, &own, channels)?,
            false => (scorer.score(batch, channels)?, Vec::new()),
        };
        let (loss, grad) = loss_and_score_grad(objective, &scores)?;
        let mut tapes = tapes.into_iter();
        self.tree.begin(&mut self.gradients);
        for rows in own {
            let mut sum = self.tree.zeros(scorer.model.params());
            match tapes.next().flatten() {
                Some((packed, forward)) => {
                    let request = scorer.request(channels)?;
                    let grad = gradient(&grad, channels, rows);
                    let model = &scorer.model;
                    let pulled = model.backward(&packed, &request, forward, &grad, &mut sum);
                    pulled.map_err(backend)?;
                }
                None => {
                    for start in rows.clone().step_by(self.options.micro_batch) {
                        let some = start..rows.end.min(start + self.options.micro_batch);
                        let grad = gradient(&grad, channels, some.clone());
                        pull_back(scorer, &batch[some], channels, &grad, &mut sum)?;
                    }
                }
            }
            self.tree.push(sum).map_err(backend)?;
        }
        if let Some(sum) = self.tree.take() {
            self.gradients = sum;
        }
        ranks
            .sum(&mut self.gradients, scorer.model.params())
            .map_err(backend)?;
        Ok(loss)
    }

    fn one_pass(
        &mut self,
        scorer: &NeuralScorer,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> Result<f64> {
        let channels = objective.channels();
        let request = scorer.request(channels)?;
        let packed = pack_for(batch, channels, scorer.config()).map_err(backend)?;
        let forward = scorer
            .model
            .forward(&packed, &request, Keep::Activations)
            .map_err(backend)?;
        let mut scores = Scores::default();
        append(&mut scores, forward.scores.clone());
        let scores = per_token(batch, channels, &scores)?;
        let (loss, grad) = loss_and_score_grad(objective, &scores)?;
        let grad = gradient(&grad, channels, 0..batch.len());
        scorer
            .model
            .backward(&packed, &request, forward, &grad, &mut self.gradients)
            .map_err(backend)?;
        Ok(loss)
    }

    pub(super) fn step(
        &mut self,
        scorer: &mut NeuralScorer,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> Result<StepReport> {
        let loss = self.accumulate(scorer, batch, objective)?;
        let norm = self.gradients.global_norm().map_err(backend)?;
        if !norm.is_finite() {
            return Err(Error::NonFinite {
                what: "the gradient of the loss in the weights".into(),
                value: norm,
            });
        }
        let params = scorer.model.params_mut();
        self.optimizer
            .step_of_length(params, &self.gradients, norm, self.learning_rate)
            .map_err(backend)?;
        self.gradients.release();
        let ranks = &scorer.ranks;
        ranks.spread(scorer.model.params()).map_err(backend)?;
        ranks.check_equal(scorer.model.params(), self.optimizer.steps())?;
        Ok(StepReport {
            loss,
            grad_norm: norm,
            learning_rate: self.learning_rate,
        })
    }

    pub(super) fn gradients(&self) -> &Gradients {
        &self.gradients
    }
}

/// A forward pass that can be pulled back, of rows that are there.
type Taped = Option<(Batch, Forward)>;

/// Scores of the whole batch, with what the pull-back of this rank's groups needs.
fn taped(
    scorer: &NeuralScorer,
    batch: &[Episode],
    own: &[Range<usize>],
    channels: &[Channel],
) -> Result<(PerToken, Vec<Taped>)> {
    let request = scorer.request(channels)?;
    let (mut mine, mut tapes) = (Scores::default(), Vec::with_capacity(own.len()));
    for rows in own {
        if rows.is_empty() {
            tapes.push(None);
            continue;
        }
        let packed = pack_for(&batch[rows.clone()], channels, scorer.config()).map_err(backend)?;
        let forward = scorer.model.forward(&packed, &request, Keep::Activations);
        let forward = forward.map_err(backend)?;
        append(&mut mine, forward.scores.clone());
        tapes.push(Some((packed, forward)));
    }
    let all = scorer.ranks.gather_scores(mine).map_err(backend)?;
    Ok((per_token(batch, channels, &all)?, tapes))
}

/// Adds the gradient of some rows to `into`.
fn pull_back(
    scorer: &NeuralScorer,
    rows: &[Episode],
    channels: &[Channel],
    grad: &Scores,
    into: &mut Gradients,
) -> Result<()> {
    let request = scorer.request(channels)?;
    let mut run = || {
        let packed = pack_for(rows, channels, scorer.config())?;
        let forward = scorer.model.forward(&packed, &request, Keep::Activations)?;
        scorer
            .model
            .backward(&packed, &request, forward, grad, into)
    };
    run().map_err(backend)
}

/// A [`NeuralPolicy`] in training.
#[derive(Debug)]
pub struct NeuralLearner {
    pub(super) policy: NeuralPolicy,
    pub(super) core: Core,
}

impl NeuralLearner {
    /// A learner that starts at `policy`.
    ///
    /// # Errors
    /// As [`AdamW::new`]; a micro-batch of 0.
    pub fn try_new(policy: NeuralPolicy, options: LearnerOptions) -> crate::Result<Self> {
        Ok(Self {
            core: Core::try_new(&policy.scorer, options)?,
            policy,
        })
    }

    /// The policy as it is now, also where no trait is in scope.
    pub fn policy_ref(&self) -> &NeuralPolicy {
        &self.policy
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.core.optimizer.steps()
    }

    /// ℒ and its gradient in the weights, without a step.
    ///
    /// # Errors
    /// As [`Trainable::step`].
    pub fn loss_and_gradients(
        &mut self,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> Result<(f64, &Gradients)> {
        let loss = self
            .core
            .accumulate(&self.policy.scorer, batch, objective)?;
        Ok((loss, self.core.gradients()))
    }
}

impl Trainable for NeuralLearner {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let report = self.core.step(&mut self.policy.scorer, batch, objective)?;
        self.policy.forget_engine();
        Ok(report)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.core.learning_rate = learning_rate;
    }
}

impl PolicyLearner for NeuralLearner {
    type Policy = NeuralPolicy;

    fn policy(&self) -> &NeuralPolicy {
        &self.policy
    }

    fn snapshot(&self) -> Result<NeuralPolicy> {
        self.policy.snapshot().map_err(backend)
    }
}
