//! SFT, reward model and DPO: stages on a fixed data set.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use rto::algorithm2::{Checked, FitConfig, OnStep, Pair, dpo, fit_reward, fit_steps, sft};
use rto::objective::Readout;
use rto::seq::{Channel, Episode, PerToken, Trainable};
use rto_bridge::learner::{NeuralLearner, NeuralRegressor, NeuralScorer};
use serde_json::Value;

use super::Run;
use super::fault::nan_at;
use super::probe::{Memo, Probe, Seen};
use super::stage::{Metrics, Stage, is_done};

/// A learner that can be put away.
trait Saved: Trainable {
    fn save_to(&self, folder: &Path) -> rto_bridge::Result<()>;
}

impl Saved for NeuralLearner {
    fn save_to(&self, folder: &Path) -> rto_bridge::Result<()> {
        self.save(folder)
    }
}

impl Saved for NeuralRegressor {
    fn save_to(&self, folder: &Path) -> rto_bridge::Result<()> {
        self.save(folder)
    }
}

/// Runs some of the steps of a fit.
type Drive<'a> = dyn FnMut(&mut dyn Trainable, Range<u64>, OnStep<'_>) -> rto::Result<()> + 'a;
/// What the scores of a step say, beyond its loss.
type Measure<'a> = dyn Fn(&[Episode], &PerToken) -> rto::Result<Metrics> + 'a;

impl Run {
    /// Language modelling on whole dialogues, for a network from scratch.
    pub fn pretrain(&self) -> Result<()> {
        let config = self.config.pretrain()?;
        self.imitate("pretrain", &self.data.dialogues, &config, || {
            self.first_network("network")
        })
    }

    /// Line 0: a network that speaks, from the demonstrations.
    pub fn sft(&self) -> Result<()> {
        let config = self.config.sft()?;
        self.imitate("sft", &self.data.demonstrations, &config, || {
            match self.config.pretrains() {
                true => self.trained("pretrain"),
                false => self.first_network("network"),
            }
        })
    }

    /// Maximum likelihood.
    fn imitate(
        &self,
        name: &str,
        data: &[Episode],
        config: &Checked<FitConfig>,
        start: impl FnOnce() -> Result<NeuralScorer>,
    ) -> Result<()> {
        if is_done(self.root(), name) {
            return Ok(());
        }
        let mut stage = Stage::open(self.root(), name)?;
        let policy = self.policy(self.adapted(start()?, name)?)?;
        let mut learner = match stage.checkpoint() {
            Some(folder) => NeuralLearner::load(policy, self.options(), &folder.join("policy"))?,
            None => NeuralLearner::try_new(policy, self.options())?,
        };
        let seeds = self.seeds.child(name);
        let mut drive = |learner: &mut dyn Trainable, steps: Range<u64>, on: OnStep<'_>| {
            sft(learner, data, config, &seeds, steps, on)
        };
        let total = fit_steps(data.len(), config);
        let measure = |_: &[Episode], _: &PerToken| Ok(Vec::new());
        self.fit(name, &mut stage, &mut learner, total, &mut drive, &measure)?;
        self.keep(name, learner.policy_ref().scorer())?;
        stage.finish()
    }

    /// (2.2), on the trunk of π_ref.
    pub fn reward_model(&self) -> Result<()> {
        self.rank("reward", &self.data.pairs, || self.frozen("sft"))
    }

    /// (2.2) again, on pairs of its own and a trunk that has read nothing but them (and what the named model had read).
    pub fn oracle_model(&self) -> Result<()> {
        if self.config.pretrains() {
            let config = self.config.pretrain()?;
            self.imitate(
                "oracle_pretrain",
                &self.data.oracle_dialogues,
                &config,
                || self.first_network("oracle_network"),
            )?;
        }
        self.rank("oracle", &self.data.oracle_pairs, || {
            match self.config.pretrains() {
                true => self.frozen("oracle_pretrain"),
                false => self.first_network("oracle_network"),
            }
        })
    }

    /// Bradley–Terry on the last token.
    fn rank(
        &self,
        name: &str,
        pairs: &[Pair],
        trunk: impl FnOnce() -> Result<NeuralScorer>,
    ) -> Result<()> {
        if is_done(self.root(), name) {
            return Ok(());
        }
        let mut stage = Stage::open(self.root(), name)?;
        let (trunk, options) = (trunk()?, self.options());
        let seeds = self.seeds.child(name);
        let fresh = self
            .reward_start(&trunk, name)?
            .with_micro_batch(options.micro_batch)?;
        let mut learner = match stage.checkpoint() {
            Some(folder) => NeuralRegressor::load(fresh, options, &folder.join("policy"))?,
            None => NeuralRegressor::try_new(fresh, options)?,
        };
        let config = self.config.reward()?;
        let mut drive = |learner: &mut dyn Trainable, steps: Range<u64>, on: OnStep<'_>| {
            fit_reward(learner, pairs, Readout::Last, &config, &seeds, steps, on)
        };
        let measure = |_: &[Episode], scores: &PerToken| {
            Ok(margins(&scores.get(Channel::Reward)?.row_sums()))
        };
        let total = fit_steps(pairs.len(), &config);
        self.fit(name, &mut stage, &mut learner, total, &mut drive, &measure)?;
        self.keep(name, learner.scorer())?;
        stage.finish()
    }

    /// Line 2.
    pub fn dpo(&self) -> Result<()> {
        if is_done(self.root(), "dpo") {
            return Ok(());
        }
        let mut stage = Stage::open(self.root(), "dpo")?;
        let pairs = &self.data.pairs;
        let both = |p: &Pair| [p.winner.clone(), p.loser.clone()];
        let episodes: Vec<Episode> = pairs.iter().flat_map(both).collect();
        let (config, seeds) = (self.config.dpo()?, self.seeds.child("dpo"));
        let loss = config.loss.loss();
        let sft = Arc::new(self.frozen("sft")?);
        let mut start = self.adapted(self.start(&sft, "dpo")?, "dpo")?;
        if loss.channels().contains(&Channel::KlFromReference) {
            start = start.with_kl_from(sft.clone());
        }
        let policy = self.policy(start)?;
        let mut reference = Memo::new(&sft, &episodes)?;
        if !loss.more_rows(&episodes).is_empty() {
            reference = reference.or(sft);
        }
        let mut learner = match stage.checkpoint() {
            Some(folder) => NeuralLearner::load(policy, self.options(), &folder.join("policy"))?,
            None => NeuralLearner::try_new(policy, self.options())?,
        };
        let mut drive = |learner: &mut dyn Trainable, steps: Range<u64>, on: OnStep<'_>| {
            dpo(learner, &reference, pairs, &config, &seeds, steps, on)
        };
        let measure = |batch: &[Episode], scores: &PerToken| {
            let mut sums = scores.get(Channel::LogProb)?.row_sums();
            sums.truncate(loss.pair_rows(batch.len()));
            let implicit = |(z, e): (&f64, &Episode)| Ok(config.beta * (z - reference.sum(e)?));
            let rewards: Vec<f64> = sums
                .iter()
                .zip(batch)
                .map(implicit)
                .collect::<rto::Result<_>>()?;
            let mut all = margins(&rewards);
            let half =
                |k: usize| sums.iter().skip(k).step_by(2).sum::<f64>() / (sums.len() / 2) as f64;
            all.push(("logps/chosen".into(), half(0)));
            all.push(("logps/rejected".into(), half(1)));
            Ok(all)
        };
        let total = fit_steps(pairs.len(), &config.fit);
        self.fit("dpo", &mut stage, &mut learner, total, &mut drive, &measure)?;
        self.keep("dpo", learner.policy_ref().scorer())?;
        stage.finish()
    }

    /// The steps of a stage that are left, with a checkpoint every so many.
    fn fit<L: Saved>(
        &self,
        name: &str,
        stage: &mut Stage,
        learner: &mut L,
        total: u64,
        drive: &mut Drive<'_>,
        measure: &Measure<'_>,
    ) -> Result<()> {
        let bar = self.progress.part(total, name.to_string(), self.work(name));
        bar.restored(stage.step);
        let (start, mut tokens) = (Instant::now(), 0);
        while stage.step < total {
            let end = total.min(stage.step + self.config.save_every);
            let (seen, mut failed) = (Seen::default(), None);
            let mut probe = Probe {
                learner,
                seen: &seen,
                poison: (stage.step..end)
                    .position(|step| nan_at(name, step + 1))
                    .map(|left| left as u64),
            };
            let steps = stage.step..end;
            let done = drive(&mut probe, steps, &mut |taken| {
                let (step, report) = (taken.n, &taken.report);
                let mut metrics: Metrics = vec![
                    ("loss".into(), report.loss),
                    ("grad_norm".into(), report.grad_norm),
                    ("lr".into(), report.learning_rate),
                ];
                if let Some((batch, scores)) = &*seen.borrow() {
                    metrics.extend(measure(batch, scores)?);
                    tokens += batch
                        .iter()
                        .map(|e| e.prompt.len() + e.len())
                        .sum::<usize>();
                }
                bar.inc(1);
                bar.detail(format!(
                    "loss {:.3}, {:.0} tokens/s",
                    report.loss,
                    tokens as f64 / start.elapsed().as_secs_f64()
                ));
                let go_on = self.stop.check();
                let written = go_on.and_then(|()| stage.write(step + 1, &metrics));
                written.map_err(|e| {
                    failed = Some(e);
                    rto::Error::Backend("stopped".into())
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
            done.with_context(|| {
                format!(
                    "stage {name}: stopped after the checkpoint of step {}",
                    stage.step
                )
            })?;
            stage.save(end, Value::Null, |new| learner.save_to(&new.join("policy")))?;
        }
        Ok(())
    }
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
