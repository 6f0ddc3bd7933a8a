//! Minibatch training on a fixed data set: SFT, DPO and reward fitting are one loop.

use std::ops::Range;

use rand::seq::SliceRandom;

use super::{Checked, DpoConfig, FitConfig};
use crate::objective::{BradleyTerry, Nll, PairLoss, Readout};
use crate::seed::SeedTree;
use crate::seq::{Episode, StepReport, TokenObjective, TokenScorer, Trainable, check_batch};
use crate::token_reward::log_probs;
use crate::{Error, Result};

/// Section 2, the data of (2.2): (x, y^w, y^l) of 𝒟.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// (x, y^w).
    pub winner: Episode,
    /// (x, y^l), of the same prompt.
    pub loser: Episode,
}

/// Told of every step: its number and what it did.
pub type OnStep<'a> = &'a mut dyn FnMut(u64, &StepReport) -> Result<()>;

/// A batch and its loss, from the numbers of the items drawn for a step.
type Make<'a> = &'a mut dyn FnMut(&[usize]) -> Result<(Vec<Episode>, Box<dyn TokenObjective>)>;

/// Tables 2 to 4, epochs and batch size: The steps a fit of n items takes.
pub fn fit_steps(n: usize, config: &FitConfig) -> u64 {
    (n.div_ceil(config.batch_size) * config.epochs) as u64
}

/// Supervised fine-tuning on demonstrations, Table 2, over some of the [`fit_steps`].
///
/// A step depends on its number, the seed and the learner only, so a run is resumed by its next step number.
///
/// # Errors
/// An empty data set; those of the learner and of `on_step`.
pub fn sft(
    learner: &mut dyn Trainable,
    demonstrations: &[Episode],
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    let mut make = |items: &[usize]| -> Result<(Vec<Episode>, Box<dyn TokenObjective>)> {
        let batch: Vec<_> = items.iter().map(|&i| demonstrations[i].clone()).collect();
        let loss = Nll::new(&batch, config.aggregation, None)?;
        Ok((batch, Box::new(loss)))
    };
    let n = demonstrations.len();
    fit(learner, n, config, seeds, steps, &mut make, on_step)
}

/// DPO, line 2 of Algorithm 2 with the loss (C.4) or the one that `config` names, over some of the [`fit_steps`]. The learner starts
/// from π_ref.
///
/// # Errors
/// Those of [`fit_pairs`].
pub fn dpo(
    learner: &mut dyn Trainable,
    reference: &dyn TokenScorer,
    pairs: &[Pair],
    config: &Checked<DpoConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    let how = (config.loss.loss(), config.beta);
    let fit_config = config.fit.check()?;
    fit_pairs(
        learner,
        reference,
        pairs,
        how,
        &fit_config,
        seeds,
        steps,
        on_step,
    )
}

/// Any loss of pairs at its β, over some of the [`fit_steps`]: DPO (C.4) and its relatives, or one of one's own.
///
/// # Errors
/// An empty data set; a pair of two prompts; β or a parameter out of range; those of the learner, the reference and `on_step`.
#[allow(clippy::too_many_arguments)]
pub fn fit_pairs(
    learner: &mut dyn Trainable,
    reference: &dyn TokenScorer,
    pairs: &[Pair],
    (loss, beta): (&dyn PairLoss, f64),
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    loss.check()?;
    let mut known = ReferenceScores(vec![None; pairs.len()]);
    let mut make = |items: &[usize]| -> Result<(Vec<Episode>, Box<dyn TokenObjective>)> {
        let mut batch = interleave(pairs, items);
        check_batch(&batch)?;
        let more = loss.more_rows(&batch);
        let mut offsets = vec![0.0; batch.len() + more.len()];
        if loss.reads_reference() {
            offsets = known.of(reference, pairs, items)?;
            if !more.is_empty() {
                offsets.extend(log_probs(reference, &more)?.row_sums());
            }
        }
        batch.extend(more);
        let loss = loss.objective(&batch, &offsets, beta)?;
        Ok((batch, loss))
    };
    let n = pairs.len();
    fit(learner, n, config, seeds, steps, &mut make, on_step)
}

/// log π_ref(y^w|x) and log π_ref(y^l|x) per pair. π_ref never moves, so a pair is scored in its first epoch only.
struct ReferenceScores(Vec<Option<[f64; 2]>>);

impl ReferenceScores {
    /// Winner, loser, winner, loser, … of some pairs.
    fn of(
        &mut self,
        reference: &dyn TokenScorer,
        pairs: &[Pair],
        items: &[usize],
    ) -> Result<Vec<f64>> {
        let unknown = |k: &usize| self.0[*k].is_none();
        let new: Vec<_> = items.iter().copied().filter(unknown).collect();
        if !new.is_empty() {
            let sums = log_probs(reference, &interleave(pairs, &new))?.row_sums();
            for (&k, s) in new.iter().zip(sums.chunks_exact(2)) {
                self.0[k] = Some([s[0], s[1]]);
            }
        }
        let both = |&k: &usize| self.0[k].expect("scored above");
        Ok(items.iter().flat_map(both).collect())
    }
}

/// Reward fitting, (2.2), over some of the [`fit_steps`].
///
/// # Errors
/// An empty data set; a pair of two prompts; those of the learner and of `on_step`.
pub fn fit_reward(
    learner: &mut dyn Trainable,
    pairs: &[Pair],
    readout: Readout,
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    let mut make = |items: &[usize]| -> Result<(Vec<Episode>, Box<dyn TokenObjective>)> {
        let batch = interleave(pairs, items);
        let loss = BradleyTerry::reward(&batch, readout)?;
        Ok((batch, Box::new(loss)))
    };
    fit(
        learner,
        pairs.len(),
        config,
        seeds,
        steps,
        &mut make,
        on_step,
    )
}

fn fit(
    learner: &mut dyn Trainable,
    n: usize,
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    make: Make<'_>,
    on_step: OnStep<'_>,
) -> Result<()> {
    if n == 0 {
        return Err(Error::config("data set", "nothing", "at least one item"));
    }
    let (total, per_epoch) = (fit_steps(n, config), n.div_ceil(config.batch_size) as u64);
    let mut shuffled: Option<(u64, Vec<usize>)> = None;
    for step in steps.start..steps.end.min(total) {
        let epoch = step / per_epoch;
        if shuffled.as_ref().is_none_or(|(e, _)| *e != epoch) {
            shuffled = Some((epoch, permutation(n, &seeds.child("order").index(epoch))));
        }
        let order = &shuffled.as_ref().expect("set above").1;
        let at = (step % per_epoch) as usize * config.batch_size;
        let (batch, loss) = make(&order[at..(at + config.batch_size).min(n)])?;
        learner.set_learning_rate(config.learning_rate * config.schedule.factor(step, total));
        on_step(step, &learner.step(&batch, &*loss)?)?;
    }
    Ok(())
}

/// Winner, loser, winner, loser, …
pub(super) fn interleave(pairs: &[Pair], items: &[usize]) -> Vec<Episode> {
    let both = |&k: &usize| [pairs[k].winner.clone(), pairs[k].loser.clone()];
    items.iter().flat_map(both).collect()
}

pub(super) fn permutation(n: usize, node: &SeedTree) -> Vec<usize> {
    let mut order: Vec<_> = (0..n).collect();
    order.shuffle(&mut node.rng());
    order
}
