//! Minibatch training on a fixed data set: SFT, DPO and reward fitting are one loop.

use std::cell::RefCell;
use std::ops::Range;

use rand::seq::SliceRandom;

use super::{Checked, DpoConfig, FitConfig};
use crate::objective::{BradleyTerry, DpoLoss, Nll, PairLoss, Readout, ValueLoss};
use crate::seed::SeedTree;
use crate::seq::{
    Channel, Episode, PerToken, Ragged, StepReport, TokenObjective, TokenScorer, Trainable,
    check_batch,
};
use crate::token_reward::log_probs;
use crate::{BoxError, Error, Result};

/// Section 2, the data of (2.2): (x, y^w, y^l) of 𝒟.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// (x, y^w).
    pub winner: Episode,
    /// (x, y^l), of the same prompt.
    pub loser: Episode,
}

/// A step that was taken.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its number, from 0.
    pub n: u64,
    /// What it did.
    pub report: StepReport,
    /// The rows it was taken on.
    pub batch: Vec<Episode>,
    /// Their scores before it, in the channels that its loss reads.
    pub scores: PerToken,
}

/// Told of every step. An error, of any kind, ends the fit with the step taken: [`Error::Stopped`] hands it on.
pub type OnStep<'a> = &'a mut dyn FnMut(&Step) -> std::result::Result<(), BoxError>;

/// The rows of a step with their loss.
pub(super) type Drawn = (Vec<Episode>, Box<dyn TokenObjective>);
/// Draws a step from the numbers of its items.
type Draw<'a> = Box<dyn FnMut(&[usize]) -> Result<Drawn> + 'a>;

/// Tables 2 to 4, epochs and batch size: The steps a fit of n items takes.
pub fn fit_steps(n: usize, config: &FitConfig) -> u64 {
    (n.div_ceil(config.batch_size) * config.epochs) as u64
}

/// A fit on a fixed data set, a step at a time: line 2 of Algorithm 2, supervised fine-tuning, (2.2).
///
/// A step depends on its number, the seed and the learner only. Between two steps there is nothing to save but the learner (its
/// optimiser included) and [`Fit::done`]: a run that was stopped makes the same fit, says [`Fit::from`] that number, and goes on to
/// the same bits.
///
/// ```
/// use rto::algorithm2::{Fit, FitConfig};
/// # use ndarray::Array2;
/// # use rto::policy::{OptimizerConfig, StateMap, TabularLearner, TabularSoftmax};
/// # use rto::seq::{Episode, Finish, PolicyLearner};
/// # use rto::{mdp::TokenTree, seed::SeedTree};
/// # let map = StateMap::tree(&TokenTree::try_new(1, 2, 1, None)?, &[1.0])?;
/// # let zeros = Array2::zeros((1, 2));
/// # let fresh = || TabularLearner::try_new(TabularSoftmax::try_new(map.clone(), &zeros)?, OptimizerConfig::sgd(0.1));
/// # let data = [Episode::try_new(StateMap::prompt(0), vec![1], Finish::Length)?];
/// let config = FitConfig { epochs: 5, ..FitConfig::default() }.check()?;
/// let (mut learner, seeds) = (fresh()?, SeedTree::new(1));
/// let mut fit = Fit::sft(&data, &config, &seeds)?;
/// while fit.done() < 2 {
///     fit.next(&mut learner)?;
/// }
/// let (saved, done) = (learner.clone(), fit.done()); // what a checkpoint holds
/// while let Some(step) = fit.next(&mut learner)? {
///     assert!(step.report.loss.is_finite());
/// }
/// let (mut again, mut rest) = (saved, Fit::sft(&data, &config, &seeds)?.from(done));
/// while rest.next(&mut again)?.is_some() {}
/// assert_eq!(again.policy().table()?, learner.policy().table()?);
/// # Ok::<(), rto::Error>(())
/// ```
pub struct Fit<'a> {
    items: usize,
    config: Checked<FitConfig>,
    seeds: SeedTree,
    draw: Draw<'a>,
    /// An epoch with its order.
    order: Option<(u64, Vec<usize>)>,
    done: u64,
}

impl<'a> Fit<'a> {
    /// Supervised fine-tuning on demonstrations, Table 2.
    ///
    /// # Errors
    /// An empty data set.
    pub fn sft(
        demonstrations: &'a [Episode],
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let how = config.aggregation;
        let draw = move |items: &[usize]| -> Result<Drawn> {
            let batch: Vec<_> = items.iter().map(|&i| demonstrations[i].clone()).collect();
            let loss = Nll::new(&batch, how, None)?;
            Ok((batch, Box::new(loss)))
        };
        Self::new(demonstrations.len(), config, seeds, Box::new(draw))
    }

    /// DPO, line 2 of Algorithm 2 with the loss (C.4) or the one that `config` names. The learner starts from π_ref.
    ///
    /// # Errors
    /// Those of [`Fit::pairs`].
    pub fn dpo(
        reference: &'a dyn TokenScorer,
        pairs: &'a [Pair],
        config: &Checked<DpoConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let how = (Loss::Named(config.loss), config.beta);
        Self::of_pairs(reference, pairs, how, &config.fit(), seeds)
    }

    /// Any loss of pairs at its β: DPO (C.4) and its relatives, or one of one's own.
    ///
    /// # Errors
    /// An empty data set; β or a parameter out of range. A step: a pair of two prompts; those of the learner and the reference.
    pub fn pairs(
        reference: &'a dyn TokenScorer,
        pairs: &'a [Pair],
        (loss, beta): (&'a dyn PairLoss, f64),
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        Self::of_pairs(reference, pairs, (Loss::Own(loss), beta), config, seeds)
    }

    fn of_pairs(
        reference: &'a dyn TokenScorer,
        pairs: &'a [Pair],
        (loss, beta): (Loss<'a>, f64),
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        loss.get().check()?;
        let mut known = ReferenceScores::new(2 * pairs.len());
        let draw = move |items: &[usize]| -> Result<Drawn> {
            let loss = loss.get();
            let mut batch = interleave(pairs, items);
            check_batch(&batch)?;
            let more = loss.more_rows(&batch);
            let mut offsets = vec![0.0; batch.len() + more.len()];
            if loss.reads_reference() {
                let rows: Vec<usize> = items.iter().flat_map(|k| [2 * k, 2 * k + 1]).collect();
                offsets = known.of(reference, &batch, &rows)?;
                if !more.is_empty() {
                    offsets.extend(log_probs(reference, &more)?.row_sums());
                }
            }
            batch.extend(more);
            let loss = loss.objective(&batch, &offsets, beta)?;
            Ok((batch, loss))
        };
        Self::new(pairs.len(), config, seeds, Box::new(draw))
    }

    /// Reward fitting, (2.2).
    ///
    /// # Errors
    /// An empty data set. A step: a pair of two prompts; those of the learner.
    pub fn reward(
        pairs: &'a [Pair],
        readout: Readout,
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let draw = move |items: &[usize]| -> Result<Drawn> {
            let batch = interleave(pairs, items);
            let loss = BradleyTerry::reward(&batch, readout)?;
            Ok((batch, Box::new(loss)))
        };
        Self::new(pairs.len(), config, seeds, Box::new(draw))
    }

    /// Least squares of V at given targets: ½ (V(s_h) − t_h)², weighed as `config` aggregates tokens; a token without a target counts
    /// nowhere.
    ///
    /// # Errors
    /// An empty data set. A step: targets that do not fit their episode or are not finite; those of the learner.
    pub fn values(
        data: &'a [(Episode, Vec<Option<f64>>)],
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let how = config.aggregation;
        let draw = move |items: &[usize]| -> Result<Drawn> {
            let batch: Vec<_> = items.iter().map(|&i| data[i].0.clone()).collect();
            let of = |f: fn(&Option<f64>) -> f64| {
                Ragged::from_rows(
                    items
                        .iter()
                        .map(|&i| data[i].1.iter().map(f).collect::<Vec<_>>()),
                )
            };
            let targets = of(|t| t.unwrap_or(0.0));
            let mask = of(|t| f64::from(u8::from(t.is_some())));
            let none = Ragged::zeros(&batch);
            let loss = ValueLoss::masked(&batch, (targets, none), 1.0, None, how, Some(&mask))?;
            Ok((batch, Box::new(loss)))
        };
        Self::new(data.len(), config, seeds, Box::new(draw))
    }

    pub(super) fn new(
        items: usize,
        config: &Checked<FitConfig>,
        seeds: &SeedTree,
        draw: Draw<'a>,
    ) -> Result<Self> {
        if items == 0 {
            return Err(Error::config("data set", "nothing", "at least one item"));
        }
        Ok(Self {
            items,
            config: config.clone(),
            seeds: seeds.clone(),
            draw,
            order: None,
            done: 0,
        })
    }

    /// The same fit after its first `done` steps.
    #[must_use]
    pub fn from(self, done: u64) -> Self {
        Self { done, ..self }
    }

    /// Steps taken: the number of the next one.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// All steps, [`fit_steps`].
    pub fn total(&self) -> u64 {
        fit_steps(self.items, &self.config)
    }

    /// The next step, or nothing after the last.
    ///
    /// # Errors
    /// Those of the learner and the reference. The step is then not taken.
    pub fn next(&mut self, learner: &mut dyn Trainable) -> Result<Option<Step>> {
        let (n, total) = (self.done, self.total());
        if n >= total {
            return Ok(None);
        }
        let per_epoch = self.items.div_ceil(self.config.batch_size) as u64;
        let epoch = n / per_epoch;
        if self.order.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let node = self.seeds.child("order").index(epoch);
            self.order = Some((epoch, permutation(self.items, &node)));
        }
        let order = &self.order.as_ref().expect("set above").1;
        let at = (n % per_epoch) as usize * self.config.batch_size;
        let items = &order[at..(at + self.config.batch_size).min(self.items)];
        let (batch, loss) = (self.draw)(items)?;
        learner
            .set_learning_rate(self.config.learning_rate * self.config.schedule.factor(n, total));
        let seen = Seen {
            loss: &*loss,
            scores: RefCell::new(None),
        };
        let report = learner.step(&batch, &seen)?;
        let scores = seen.scores.into_inner();
        self.done += 1;
        Ok(Some(Step {
            n,
            report,
            scores: scores.unwrap_or_else(|| PerToken::new(&batch)),
            batch,
        }))
    }

    /// Some of the steps, told one by one.
    ///
    /// # Errors
    /// Those of the learner, the reference and `on_step`.
    pub fn run(
        self,
        learner: &mut dyn Trainable,
        steps: Range<u64>,
        on_step: OnStep<'_>,
    ) -> Result<()> {
        let mut fit = self.from(steps.start);
        while fit.done < steps.end
            && let Some(step) = fit.next(learner)?
        {
            on_step(&step).map_err(Error::stopped)?;
        }
        Ok(())
    }
}

/// A loss by its name, or one of the caller's.
enum Loss<'a> {
    Named(DpoLoss),
    Own(&'a dyn PairLoss),
}

impl Loss<'_> {
    fn get(&self) -> &dyn PairLoss {
        match self {
            Self::Named(name) => name.loss(),
            Self::Own(loss) => *loss,
        }
    }
}

/// A loss that remembers the scores it was read at: to know them costs no forward pass.
struct Seen<'a> {
    loss: &'a dyn TokenObjective,
    scores: RefCell<Option<PerToken>>,
}

impl TokenObjective for Seen<'_> {
    fn groups(&self) -> &[Range<usize>] {
        self.loss.groups()
    }

    fn channels(&self) -> &[Channel] {
        self.loss.channels()
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        if group == 0 {
            *self.scores.borrow_mut() = Some(scores.clone());
        }
        self.loss.loss_grad(group, scores, grad)
    }
}

/// [`Fit::sft`] over some of its steps.
///
/// # Errors
/// Those of [`Fit::sft`] and [`Fit::run`].
pub fn sft(
    learner: &mut dyn Trainable,
    demonstrations: &[Episode],
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    Fit::sft(demonstrations, config, seeds)?.run(learner, steps, on_step)
}

/// [`Fit::dpo`] over some of its steps.
///
/// # Errors
/// Those of [`Fit::dpo`] and [`Fit::run`].
pub fn dpo(
    learner: &mut dyn Trainable,
    reference: &dyn TokenScorer,
    pairs: &[Pair],
    config: &Checked<DpoConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    Fit::dpo(reference, pairs, config, seeds)?.run(learner, steps, on_step)
}

/// [`Fit::pairs`] over some of its steps.
///
/// # Errors
/// Those of [`Fit::pairs`] and [`Fit::run`].
#[allow(clippy::too_many_arguments)]
pub fn fit_pairs(
    learner: &mut dyn Trainable,
    reference: &dyn TokenScorer,
    pairs: &[Pair],
    how: (&dyn PairLoss, f64),
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    Fit::pairs(reference, pairs, how, config, seeds)?.run(learner, steps, on_step)
}

/// log π_ref(y|x) of every row of the data. π_ref never moves, so a row is scored in its first epoch only.
pub(super) struct ReferenceScores(Vec<Option<f64>>);

impl ReferenceScores {
    pub(super) fn new(rows: usize) -> Self {
        Self(vec![None; rows])
    }

    /// Those of a batch, whose rows have these numbers in the data.
    pub(super) fn of(
        &mut self,
        reference: &dyn TokenScorer,
        batch: &[Episode],
        rows: &[usize],
    ) -> Result<Vec<f64>> {
        let new = |(row, episode): (&usize, &Episode)| match self.0[*row] {
            None => Some((*row, episode.clone())),
            Some(_) => None,
        };
        let (new, episodes): (Vec<_>, Vec<_>) = rows.iter().zip(batch).filter_map(new).unzip();
        if !new.is_empty() {
            let sums = log_probs(reference, &episodes)?.row_sums();
            for (row, sum) in new.into_iter().zip(sums) {
                self.0[row] = Some(sum);
            }
        }
        let known = |row: &usize| self.0[*row].expect("scored above");
        Ok(rows.iter().map(known).collect())
    }
}

/// [`Fit::reward`] over some of its steps.
///
/// # Errors
/// Those of [`Fit::reward`] and [`Fit::run`].
pub fn fit_reward(
    learner: &mut dyn Trainable,
    pairs: &[Pair],
    readout: Readout,
    config: &Checked<FitConfig>,
    seeds: &SeedTree,
    steps: Range<u64>,
    on_step: OnStep<'_>,
) -> Result<()> {
    Fit::reward(pairs, readout, config, seeds)?.run(learner, steps, on_step)
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
