//! Training on single replies of which each is wanted or not.

use std::ops::Range;

use super::fit::{Drawn, Fit, OnStep, ReferenceScores};
use super::{Checked, DpoConfig, FitConfig};
use crate::objective::{DpoLoss, Readout, Unpaired, UnpairedLoss};
use crate::seed::SeedTree;
use crate::seq::{Episode, TokenScorer, Trainable, check_batch};
use crate::token_reward::log_probs;
use crate::{Error, Result};

/// (x, y) and whether y is wanted: what is known where nobody compared two replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// (x, y).
    pub episode: Episode,
    /// The label.
    pub desirable: bool,
}

impl<'a> Fit<'a> {
    /// Any loss of single replies at its β: KTO, or one of one's own. The learner starts from π_ref.
    ///
    /// # Errors
    /// An empty data set; a parameter out of range. A step: β out of range; those of the learner and the reference.
    pub fn unpaired(
        reference: &'a dyn TokenScorer,
        examples: &'a [Labelled],
        (loss, beta): (&'a dyn UnpairedLoss, f64),
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        loss.check()?;
        let mut known = ReferenceScores::new(examples.len());
        let draw = move |items: &[usize]| -> Result<Drawn> {
            let (mut batch, labels) = rows(examples, items);
            check_batch(&batch)?;
            let more = loss.more_rows(&batch);
            let mut offsets = known.of(reference, &batch, items)?;
            if !more.is_empty() {
                offsets.extend(log_probs(reference, &more)?.row_sums());
            }
            batch.extend(more);
            let loss = loss.objective(&batch, &labels, &offsets, beta)?;
            Ok((batch, loss))
        };
        Self::new(examples.len(), config, seeds, Box::new(draw))
    }

    /// Line 2 of Algorithm 2 on labelled replies: the loss that `config` names, in its unpaired form.
    ///
    /// # Errors
    /// [`Error::Config`] where that loss compares two replies; those of [`Fit::unpaired`].
    pub fn dpo_of_labels(
        reference: &'a dyn TokenScorer,
        examples: &'a [Labelled],
        config: &'a Checked<DpoConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let loss: &'a DpoLoss = &config.loss;
        let Some(unpaired) = loss.loss().unpaired() else {
            let must =
                "a loss of single replies (kto), as the data are single replies with a label";
            return Err(Error::config("dpo.loss", loss.name(), must));
        };
        let how = (unpaired, config.beta);
        Self::unpaired(reference, examples, how, &config.fit(), seeds)
    }

    /// Reward fitting where nobody compared two replies: logistic regression of the label on the reward, [`Unpaired::reward`].
    ///
    /// # Errors
    /// An empty data set. A step: those of the learner.
    pub fn label_reward(
        examples: &'a [Labelled],
        readout: Readout,
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let draw = move |items: &[usize]| -> Result<Drawn> {
            let (batch, labels) = rows(examples, items);
            let loss = Unpaired::reward(&batch, readout, &labels)?;
            Ok((batch, Box::new(loss)))
        };
        Self::new(examples.len(), config, seeds, Box::new(draw))
    }
}

fn rows(examples: &[Labelled], items: &[usize]) -> (Vec<Episode>, Vec<bool>) {
    let row = |&i: &usize| (examples[i].episode.clone(), examples[i].desirable);
    items.iter().map(row).unzip()
}

/// [`Fit::unpaired`] over some of its steps.
///
/// # Errors
/// Those of [`Fit::unpaired`] and [`Fit::run`].
#[allow(clippy::too_many_arguments)]
pub fn fit_unpaired(
    learner: &mut dyn Trainable,
    reference: &dyn TokenScorer,
    examples: &[Labelled],
    how: (&dyn UnpairedLoss, f64),
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    Fit::unpaired(reference, examples, how, config, seeds)?.run(learner, steps, on_step)
}

/// [`Fit::label_reward`] over some of its steps.
///
/// # Errors
/// Those of [`Fit::label_reward`] and [`Fit::run`].
pub fn fit_label_reward(
    learner: &mut dyn Trainable,
    examples: &[Labelled],
    readout: Readout,
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    Fit::label_reward(examples, readout, config, seeds)?.run(learner, steps, on_step)
}
