//! Lines 3–8 of Algorithm 2: PPO, DPPO, RTO and RTO as released, which differ in their reward alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use rto::algorithm2::{Advantage, CriticSlot, IterationReport, PpoConfig, PpoRun, PpoState};
use rto::seq::{Episode, Finish, Ragged, TokenReward};
use rto::token_reward::{Both, KlEstimator, SentenceReward};
use rto_bridge::learner::{NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer};
use rto_bridge::model::{VALUE_BIAS, VALUE_WEIGHT};
use rto_harness::methods::{Keys, Method, Parts};
use serde::Deserialize;

use super::Run;
use super::choices::CriticKind;
use super::fault::{NotANumber, nan_at};
use super::stage::{Metrics, Stage, is_done};

/// −c at the last token of a response that does not end by itself.
struct MissingEos(f64);

impl TokenReward for MissingEos {
    fn rewards(&self, batch: &[Episode]) -> rto::Result<Ragged> {
        let mut rewards = Ragged::zeros(batch);
        for (i, episode) in batch.iter().enumerate() {
            if episode.finish == Finish::Length
                && let Some(last) = rewards.row_mut(i).last_mut()
            {
                *last = -self.0;
            }
        }
        Ok(rewards)
    }

    fn components(&self, batch: &[Episode]) -> rto::Result<Vec<(&'static str, Ragged)>> {
        Ok(vec![("missing_eos", self.rewards(batch)?)])
    }
}

/// The models that rewards are made of.
struct Models {
    sft: Arc<NeuralScorer>,
    dpo: NeuralScorer,
    reward: NeuralScorer,
    /// Mean of the reward model over demonstrations, which becomes 0.
    reward_mean: f64,
}

impl Models {
    /// The one value that tells the methods apart.
    fn reward<'a>(
        &'a self,
        run: &Run,
        method: &Method,
        keys: &'a Keys,
    ) -> Result<Box<dyn TokenReward + 'a>> {
        let config = &run.config;
        let reward = (method.training().reward)(&Parts {
            dpo: &self.dpo,
            reference: &*self.sft,
            reward_model: &self.reward,
            reward_mean: self.reward_mean,
            beta1: config.beta1,
            keys,
        })?;
        Ok(match config.missing_eos_penalty > 0.0 {
            true => Box::new(Both(reward, MissingEos(config.missing_eos_penalty))),
            false => reward,
        })
    }
}

impl Run {
    fn models(&self) -> Result<Models> {
        let sft = Arc::new(self.frozen("sft")?);
        let reward = self.on_base(&sft, "reward")?;
        let few = &self.data.demonstrations[..self.data.demonstrations.len().min(256)];
        let scores = SentenceReward::new(&reward).rewards(few)?.row_sums();
        let mean = scores.iter().sum::<f64>() / few.len() as f64;
        Ok(Models {
            dpo: self.on_base(&sft, "dpo")?,
            sft,
            reward,
            reward_mean: mean,
        })
    }

    /// One method, from π_ref.
    pub fn rl(&self, method: &Method) -> Result<()> {
        let name = method.name;
        if is_done(self.root(), name) {
            return Ok(());
        }
        let mut stage = Stage::open(self.root(), name)?;
        let (models, config) = (self.models()?, self.config.ppo(method)?);
        let keys = self.config.keys(method)?;
        let mut learner = self.rl_learner(&models, &config, name, stage.checkpoint())?;
        let mut critic = match self.config.critic {
            CriticKind::Separate if config.advantage == Advantage::Gae => {
                Some(self.critic(&models, stage.checkpoint())?)
            }
            _ => None,
        };
        let mut state = match stage.step {
            0 => PpoState::new(&config),
            _ => PpoState::deserialize(&stage.extra)
                .with_context(|| format!("stage {name}: state.json"))?,
        };
        let reward = models.reward(self, method, &keys)?;
        let oracle = self.oracle()?;
        // One seed for all methods: what differs between them is the reward.
        let seeds = self.seeds.child("rl");
        let every = (self.config.save_every / 10).max(1);
        let bar = self.progress.part(config.iterations, name, self.work(name));
        bar.restored(state.iteration);
        let (start, first) = (Instant::now(), state.sampled_tokens);
        while state.iteration < config.iterations {
            let mut slot = match &mut critic {
                Some(critic) => CriticSlot::Separate(critic),
                None if config.advantage == Advantage::Gae => CriticSlot::SharedTrunk,
                None => CriticSlot::Absent,
            };
            let run = PpoRun {
                reference: &*models.sft,
                reward: match nan_at(name, state.iteration + 1) {
                    true => &NotANumber,
                    false => &*reward,
                },
                prompts: &self.data.prompts,
                config: &config,
                seeds: &seeds,
            };
            self.stop.check()?;
            let last = stage.step;
            let stopped =
                || format!("stage {name}: stopped after the checkpoint of iteration {last}");
            let policy = rto::seq::PolicyLearner::policy(&learner);
            let batch = run.rollout(policy, &state).with_context(stopped)?;
            let truth = (oracle.metric(), oracle.mean(&batch)?);
            let report = run
                .update(&mut learner, &mut slot, &mut state, batch)
                .with_context(stopped)?;
            stage.write(state.iteration, &metrics(&report, truth, &config))?;
            bar.inc(1);
            bar.detail(format!(
                "reward {:.2}, kl {:.2}, length {:.1}, {:.0} tokens/s",
                truth.1,
                report.kl,
                report.response_length,
                (state.sampled_tokens - first) as f64 / start.elapsed().as_secs_f64()
            ));
            if state.iteration % every == 0 || state.iteration == config.iterations {
                stage.save(state.iteration, serde_json::to_value(state)?, |new| {
                    learner.save(&new.join("policy"))?;
                    critic
                        .as_ref()
                        .map_or(Ok(()), |c| c.save(&new.join("critic")))
                })?;
            }
        }
        drop(bar);
        self.keep(name, learner.policy_ref().scorer())?;
        stage.finish()
    }

    fn rl_learner(
        &self,
        models: &Models,
        config: &PpoConfig,
        method: &str,
        checkpoint: Option<&Path>,
    ) -> Result<NeuralLearner> {
        let mut scorer = match self.config.critic {
            CriticKind::Separate => self.start(&models.sft, method)?,
            CriticKind::Shared => self.with_value_head(&models.sft, method)?,
        };
        scorer = self.adapted(scorer, method)?;
        if config.kl_estimator == KlEstimator::Exact {
            scorer = scorer.with_reference(models.sft.clone());
        }
        let policy: NeuralPolicy = self.policy(scorer)?;
        Ok(match checkpoint {
            Some(folder) => NeuralLearner::load(policy, self.options(), &folder.join("policy"))?,
            None => NeuralLearner::try_new(policy, self.options())?,
        })
    }

    fn critic(&self, models: &Models, checkpoint: Option<&Path>) -> Result<NeuralRegressor> {
        let options = self.options();
        let fresh = self
            .critic_start(&models.reward)?
            .with_micro_batch(options.micro_batch)?;
        Ok(match checkpoint {
            Some(folder) => NeuralRegressor::load(fresh, options, &folder.join("critic"))?,
            None => NeuralRegressor::try_new(fresh, options)?,
        })
    }

    /// π with a value head on its trunk.
    fn with_value_head(&self, sft: &NeuralScorer, method: &str) -> Result<NeuralScorer> {
        let mut weights = sft.model().params().tensors();
        add_value_head(&mut weights, sft.config().hidden_size(), &self.device)?;
        let params = self.take(method)(weights)?;
        Ok(NeuralScorer::try_new(sft.config(), params)?.with_log_probs()?)
    }
}

fn add_value_head(
    weights: &mut BTreeMap<String, Tensor>,
    hidden: usize,
    device: &Device,
) -> Result<()> {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, device);
    weights.insert(VALUE_WEIGHT.into(), zeros(&[1, hidden])?);
    weights.insert(VALUE_BIAS.into(), zeros(&[1])?);
    Ok(())
}

/// The names that users of other trainers already chart. `truth` is what the oracle makes of the rollout.
fn metrics(report: &IterationReport, truth: (&str, f64), config: &PpoConfig) -> Metrics {
    let mut all: Metrics = vec![
        (truth.0.into(), truth.1),
        ("objective/kl".into(), report.kl),
        (
            "objective/scores".into(),
            report.rewards.iter().map(|(_, r)| r).sum(),
        ),
        ("objective/rlhf_reward".into(), report.objective),
        ("objective/beta2".into(), report.beta2),
        ("reward/kl".into(), -report.beta2 * report.kl),
    ];
    let components = report.rewards.iter();
    all.extend(components.map(|(name, r)| (format!("reward/{name}"), *r)));
    if let Some(entropy) = report.entropy {
        all.push(("objective/entropy".into(), entropy));
    }
    if let Some(loss) = report.value_loss {
        all.push(("loss/value_avg".into(), loss));
    }
    if let Some(explained) = report.explained_variance {
        all.push(("val/explained_variance".into(), explained));
    }
    let factor = config
        .schedule
        .factor(report.iteration - 1, config.iterations);
    all.extend([
        ("loss/policy_avg".into(), report.policy_loss),
        ("policy/clipfrac_avg".into(), report.clip_fraction),
        ("policy/approxkl_avg".into(), report.approx_kl),
        ("policy/grad_norm".into(), report.grad_norm),
        ("val/response_length".into(), report.response_length),
        ("val/eos_rate".into(), report.eos_rate),
        ("val/truncated".into(), report.truncated as f64),
        ("val/sampled_tokens".into(), report.sampled_tokens as f64),
        ("lr".into(), config.learning_rate * factor),
    ]);
    all
}
