//! SFT, reward model and DPO: stages on a fixed data set.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use rto::algorithm2::{Checked, Fit, FitConfig, Step};
use rto::objective::Readout;
use rto::seq::{Channel, Episode};
use rto_bridge::learner::{NeuralRegressor, NeuralScorer};
use serde_json::Value;

use super::fault::{NoLoss, nan_at};
use super::journal::{Journal, Metrics, is_done};
use super::memo::Memo;
use super::trainer::Training;
use crate::run::data::Feedback;
use crate::run::place::{Place, Saved, on_place};
use crate::run::stage::Stage;

/// What the scores of a step say, beyond its loss.
pub(super) type Measure<'a> = dyn Fn(&Step) -> rto::Result<Metrics> + 'a;

impl Training<'_> {
    /// Language modelling on whole dialogues, for a network from scratch.
    pub fn pretrain(&self) -> Result<()> {
        let config = self.config.pretrain()?;
        self.imitate(Stage::Pretrain, &self.data.dialogues, &config, || {
            self.models.first("network")
        })
    }

    /// Line 0: a network that speaks, from the demonstrations.
    pub fn sft(&self) -> Result<()> {
        let config = self.config.sft()?;
        self.imitate(
            Stage::Sft,
            &self.data.demonstrations,
            &config,
            || match self.config.pretrains() {
                true => self.models.trained(Stage::Pretrain),
                false => self.models.first("network"),
            },
        )
    }

    /// A stage of maximum likelihood: pre-training or SFT.
    fn imitate(
        &self,
        stage: Stage,
        data: &[Episode],
        config: &Checked<FitConfig>,
        start: impl FnOnce() -> Result<NeuralScorer>,
    ) -> Result<()> {
        if is_done(self.root, stage) {
            return Ok(());
        }
        let journal = self.open(stage)?;
        let start = self.models.adapted(start()?, stage)?;
        let fit = Fit::sft(data, config, &self.seeds.child(stage.name()))?;
        on_place!(self, |place| {
            let mut learner = self.learner(place, start, None, &journal)?;
            let journal = self.fit(journal, fit, &mut learner, &|_| Ok(Vec::new()))?;
            self.models.keep(stage, learner.network()?)?;
            journal.finish()
        })
    }

    /// (2.2), on the trunk of π_ref.
    pub fn reward_model(&self) -> Result<()> {
        self.rank(Stage::Reward, &self.data.pairs, || {
            self.models.frozen(Stage::Sft)
        })
    }

    /// (2.2) again, on pairs of its own and a trunk that has read nothing but them (and what the named model had read).
    pub fn oracle_model(&self) -> Result<()> {
        let first = || self.models.first("oracle_network");
        let reads = self.config.pretrains();
        if reads {
            let (config, data) = (self.config.pretrain()?, &self.data.oracle_dialogues);
            self.imitate(Stage::OraclePretrain, data, &config, first)?;
        }
        self.rank(Stage::Oracle, &self.data.oracle_pairs, || match reads {
            true => self.models.frozen(Stage::OraclePretrain),
            false => first(),
        })
    }

    /// A reward on the last token: Bradley–Terry of pairs, logistic regression of labels.
    fn rank(
        &self,
        stage: Stage,
        feedback: &Feedback,
        trunk: impl FnOnce() -> Result<NeuralScorer>,
    ) -> Result<()> {
        if is_done(self.root, stage) {
            return Ok(());
        }
        let journal = self.open(stage)?;
        let options = self.config.learner();
        let fresh = self
            .models
            .reward_start(&trunk()?, stage)?
            .with_micro_batch(options.micro_batch)?;
        let host = match journal.checkpoint() {
            Some(folder) => NeuralRegressor::load(fresh, options, &folder.join("policy"))?,
            None => NeuralRegressor::try_new(fresh, options)?,
        };
        let (config, seeds) = (self.config.reward()?, self.seeds.child(stage.name()));
        let (fit, wanted) = match feedback {
            Feedback::Pairs(pairs) => (Fit::reward(pairs, Readout::Last, &config, &seeds)?, None),
            Feedback::Labels(all) => (
                Fit::label_reward(all, Readout::Last, &config, &seeds)?,
                Some(feedback.wanted()),
            ),
        };
        let measure = |step: &Step| {
            let rewards = step.scores.get(Channel::Reward)?.row_sums();
            Ok(match &wanted {
                None => margins(&rewards),
                Some(wanted) => by_label("rewards", &rewards, &step.batch, wanted),
            })
        };
        on_place!(self, |place| {
            let mut learner = place.regressor(host, None)?;
            let journal = self.fit(journal, fit, &mut learner, &measure)?;
            self.models.keep(stage, learner.network()?)?;
            journal.finish()
        })
    }

    /// Line 2 of Algorithm 2: DPO from π_ref.
    pub fn dpo(&self) -> Result<()> {
        let stage = Stage::Dpo;
        if is_done(self.root, stage) {
            return Ok(());
        }
        on_place!(self, |place| self.dpo_on(place, self.open(stage)?))
    }

    fn dpo_on<P: Place>(&self, place: &P, journal: Journal) -> Result<()> {
        let stage = journal.stage;
        let feedback = &self.data.pairs;
        let episodes = feedback.episodes();
        let (config, seeds) = (self.config.dpo()?, self.seeds.child(stage.name()));
        let loss = config.loss.loss();
        let sft = Arc::new(self.models.frozen(Stage::Sft)?);
        let mut start = self
            .models
            .adapted(self.models.start(&sft, stage)?, stage)?;
        if loss.channels().contains(&Channel::KlFromReference) {
            start = start.with_kl_from(sft.clone());
        }
        let base = place.scorer(sft, None)?;
        let mut reference = Memo::new(&base, &episodes)?;
        // Rows that are no replies of the data, such as those of KTO's reference point.
        if feedback.rows_each() == 1 || !loss.more_rows(&episodes).is_empty() {
            reference = reference.or(&base);
        }
        let mut learner = self.learner(place, start, Some(&base), &journal)?;
        let wanted = match feedback {
            Feedback::Pairs(_) => None,
            Feedback::Labels(_) => Some(feedback.wanted()),
        };
        let measure = |step: &Step| {
            let mut sums = step.scores.get(Channel::LogProb)?.row_sums();
            sums.truncate(match feedback {
                Feedback::Pairs(_) => loss.pair_rows(step.batch.len()),
                Feedback::Labels(all) => items_of(step.n, all.len(), config.fit.batch_size),
            });
            let implicit = |(z, e): (&f64, &Episode)| Ok(config.beta * (z - reference.sum(e)?));
            let rewards: Vec<f64> = sums
                .iter()
                .zip(&step.batch)
                .map(implicit)
                .collect::<rto::Result<_>>()?;
            if let Some(wanted) = &wanted {
                let mut all = by_label("rewards", &rewards, &step.batch, wanted);
                all.extend(by_label("logps", &sums, &step.batch, wanted));
                return Ok(all);
            }
            let mut all = margins(&rewards);
            let half =
                |k: usize| sums.iter().skip(k).step_by(2).sum::<f64>() / (sums.len() / 2) as f64;
            all.push(("logps/chosen".into(), half(0)));
            all.push(("logps/rejected".into(), half(1)));
            Ok(all)
        };
        let fit = match feedback {
            Feedback::Pairs(pairs) => Fit::dpo(&reference, pairs, &config, &seeds)?,
            Feedback::Labels(all) => Fit::dpo_of_labels(&reference, all, &config, &seeds)?,
        };
        let journal = self.fit(journal, fit, &mut learner, &measure)?;
        self.models.keep(stage, learner.network()?)?;
        journal.finish()
    }

    /// The steps of a stage that are left, with a checkpoint every so many.
    pub(super) fn fit<L: Saved>(
        &self,
        mut journal: Journal,
        fit: Fit<'_>,
        learner: &mut L,
        measure: &Measure<'_>,
    ) -> Result<Journal> {
        let stage = journal.stage;
        let mut fit = fit.from(journal.step);
        let total = fit.total();
        let bar = self.pace.part(stage, total);
        bar.restored(journal.step);
        let (start, mut tokens) = (Instant::now(), 0);
        loop {
            let taken = match nan_at(stage, fit.done() + 1) {
                true => fit.next(&mut NoLoss(learner)),
                false => fit.next(learner),
            };
            let measured = taken.and_then(|step| {
                let more = step.as_ref().map_or(Ok(Vec::new()), measure)?;
                Ok(step.zip(Some(more)))
            });
            let Some((step, more)) = measured.with_context(|| {
                format!(
                    "stage {}: stopped after the checkpoint of step {}",
                    stage.name(),
                    journal.step
                )
            })?
            else {
                return Ok(journal);
            };
            let mut metrics: Metrics = vec![
                ("loss".into(), step.report.loss),
                ("grad_norm".into(), step.report.grad_norm),
                ("lr".into(), step.report.learning_rate),
            ];
            metrics.extend(more);
            let lengths = step.batch.iter().map(|e| e.prompt.len() + e.len());
            tokens += lengths.sum::<usize>();
            bar.inc(1);
            bar.detail(format!(
                "loss {:.3}, {:.0} tokens/s",
                step.report.loss,
                tokens as f64 / start.elapsed().as_secs_f64()
            ));
            self.stop.check()?;
            journal.write(fit.done(), &metrics)?;
            if fit.done() == total.min(journal.step + self.config.save_every) {
                let state = learner.state()?;
                journal.save(fit.done(), Value::Null, |new| {
                    state.save(&new.join("policy"))
                })?;
            }
        }
    }
}

/// How many of `all` items step `n` takes.
fn items_of(n: u64, all: usize, batch_size: usize) -> usize {
    let per_epoch = all.div_ceil(batch_size).max(1) as u64;
    let before = (n % per_epoch) as usize * batch_size;
    batch_size.min(all - before)
}

/// Means over the wanted and over the other replies of a batch, under the names that pairs have; nothing for a kind that is not in it.
fn by_label(
    what: &str,
    values: &[f64],
    batch: &[Episode],
    wanted: &HashSet<(&Episode, bool)>,
) -> Metrics {
    let mean = |name: &str, label: bool| {
        let kind = values
            .iter()
            .zip(batch)
            .filter(|(_, episode)| wanted.contains(&(*episode, label)))
            .map(|(value, _)| *value);
        let kind: Vec<f64> = kind.collect();
        let mean = kind.iter().sum::<f64>() / kind.len() as f64;
        (!kind.is_empty()).then(|| (format!("{what}/{name}"), mean))
    };
    let both = [mean("chosen", true), mean("rejected", false)];
    both.into_iter().flatten().collect()
}

/// The margins of rewards of winner, loser, winner, loser, …
fn margins(rewards: &[f64]) -> Metrics {
    let n = (rewards.len() / 2).max(1) as f64;
    let mean = |f: &dyn Fn(&[f64]) -> f64| rewards.chunks_exact(2).map(f).sum::<f64>() / n;
    vec![
        ("rewards/chosen".into(), mean(&|p| p[0])),
        ("rewards/rejected".into(), mean(&|p| p[1])),
        ("rewards/margins".into(), mean(&|p| p[0] - p[1])),
        (
            "rewards/accuracies".into(),
            mean(&|p| f64::from(u8::from(p[0] > p[1]))),
        ),
    ]
}
