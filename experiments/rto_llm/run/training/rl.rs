//! Lines 3–8 of Algorithm 2: PPO, DPPO, RTO and RTO as released, which differ in their reward alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use rto::algorithm2::{
    Advantage, CriticSlot, Iteration, IterationReport, PpoConfig, PpoRun, PpoState,
};
use rto::seq::{Channel, Episode, Finish, PerToken, Ragged, TokenReward, TokenScorer};
use rto::token_reward::{Both, KlEstimator, SentenceReward};
use rto_bridge::learner::{LearnerState, NeuralRegressor, NeuralScorer};
use rto_bridge::model::{VALUE_BIAS, VALUE_WEIGHT};
use rto_harness::methods::{Keys, Method, Model, Parts};
use serde::Deserialize;

use super::fault::{NoReward, nan_at};
use super::journal::{Journal, Metrics, is_done};
use super::token_reward::TokenRewardModel;
use super::trainer::Training;
use crate::run::choices::CriticKind;
use crate::run::config::Config;
use crate::run::place::{Place, Saved, on_place};
use crate::run::stage::Stage;

/// KL(q ‖ π) per token of what responses were drawn from, among the metrics of a run whose text is not drawn from what is scored.
pub const SAMPLER_KL: &str = "sampler/kl";
/// The share of its tokens whose π/q lies outside the clip range.
pub const SAMPLER_CLIPPED: &str = "sampler/clipfrac";

/// −c at the last token of a response that does not end by itself.
#[derive(Debug, Clone, Copy)]
pub struct MissingEos(pub f64);

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

/// A network that a method does not read, as its row says.
struct Unread(&'static str);

impl TokenScorer for Unread {
    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb, Channel::Reward]
    }

    fn scores(&self, _: &[Episode]) -> rto::Result<PerToken> {
        let must = "a model that the method's row names among those it reads";
        Err(rto::Error::config("reads", self.0, must))
    }
}

/// The frozen networks of a method, which rewards are made of. What its reward does not read takes no memory.
struct Frozen<S> {
    sft: S,
    dpo: Option<S>,
    reward: Option<S>,
    token_reward: Option<TokenRewardModel<S>>,
    /// Mean of the reward model over demonstrations, which becomes 0.
    reward_mean: f64,
}

impl<S: TokenScorer> Frozen<S> {
    /// The one value that tells the methods apart.
    fn reward<'a>(
        &'a self,
        config: &Config,
        method: &Method,
        keys: &'a Keys,
    ) -> Result<Box<dyn TokenReward + 'a>> {
        let reward = (method.training().reward)(&Parts {
            dpo: match &self.dpo {
                Some(dpo) => dpo,
                None => &Unread("dpo"),
            },
            reference: &self.sft,
            reward_model: match (&self.reward, &self.token_reward) {
                (_, Some(reward)) => reward,
                (Some(reward), None) => reward,
                (None, None) => &Unread("reward_model"),
            },
            reward_mean: self.reward_mean,
            beta1: config.beta1,
            beta2: config.ppo(method)?.beta2,
            keys,
        })?;
        Ok(match config.missing_eos_penalty > 0.0 {
            true => Box::new(Both(reward, MissingEos(config.missing_eos_penalty))),
            false => reward,
        })
    }
}

/// Networks of the host that a method starts from.
struct Starts {
    sft: Arc<NeuralScorer>,
    reward: Option<Arc<NeuralScorer>>,
}

/// What a method trains.
struct Trained<P: Place> {
    policy: P::Policy,
    critic: Option<P::Regressor>,
    shares_trunk: bool,
}

/// What is saved of it.
struct TrainedState<'a> {
    policy: LearnerState<'a>,
    critic: Option<LearnerState<'a>>,
}

impl TrainedState<'_> {
    fn save(&self, folder: &Path) -> rto_bridge::Result<()> {
        self.policy.save(&folder.join("policy"))?;
        let critic = self.critic.as_ref();
        critic.map_or(Ok(()), |c| c.save(&folder.join("critic")))
    }
}

impl<P: Place> Trained<P> {
    fn slot(&mut self) -> (&mut P::Policy, CriticSlot<'_>) {
        let slot = match &mut self.critic {
            Some(critic) => CriticSlot::Separate(critic),
            None if self.shares_trunk => CriticSlot::SharedTrunk,
            None => CriticSlot::Absent,
        };
        (&mut self.policy, slot)
    }

    fn state(&mut self) -> rto_bridge::Result<TrainedState<'_>> {
        let critic = self.critic.as_mut();
        Ok(TrainedState {
            policy: self.policy.state()?,
            critic: critic.map(Saved::state).transpose()?,
        })
    }
}

impl Training<'_> {
    /// One method, from π_ref.
    pub fn rl(&self, method: &'static Method) -> Result<()> {
        let stage = Stage::Rl(method);
        if is_done(self.root, stage) {
            return Ok(());
        }
        on_place!(self, |place| self.rl_on(place, method, self.open(stage)?))
    }

    fn rl_on<P: Place>(
        &self,
        place: &P,
        method: &'static Method,
        mut journal: Journal,
    ) -> Result<()> {
        let (stage, config) = (journal.stage, self.config.ppo(method)?);
        let (frozen, starts) = self.frozen(place, method)?;
        let keys = self.config.keys(method)?;
        let mut trained = self.start(place, &frozen.sft, starts, &config, &journal)?;
        let mut state = match journal.step {
            0 => PpoState::new(&config),
            _ => PpoState::deserialize(&journal.extra)
                .with_context(|| format!("stage {}: state.json", method.name))?,
        };
        let reward = frozen.reward(self.config, method, &keys)?;
        // On a device of its own the oracle is there while it judges.
        let judge = || {
            let oracle = self.models.oracle()?;
            anyhow::Ok(oracle.map(|scorer| place.scorer(scorer, None))?)
        };
        let on_host = self.models.device.is_cpu() && self.config.executor()?.is_none();
        let oracle = on_host.then(judge).transpose()?;
        // One seed for all methods: what differs between them is the reward.
        let seeds = self.seeds.child("rl");
        let every = (self.config.save_every / 10).max(1);
        let bar = self.pace.part(stage, config.iterations);
        bar.restored(state.iteration);
        let (start, first) = (Instant::now(), state.sampled_tokens);
        loop {
            if let Some(watch) = self.watch {
                watch(state.iteration, trained.policy.network()?)?;
            }
            let run = PpoRun {
                reference: &frozen.sft,
                reward: match nan_at(stage, state.iteration + 1) {
                    true => &NoReward,
                    false => &*reward,
                },
                prompts: &self.data.prompts,
                config: &config,
                seeds: &seeds,
            };
            self.stop.check()?;
            let (learner, mut slot) = trained.slot();
            let made = run.next(learner, &mut slot, &mut state);
            let Some(Iteration { report, batch }) = made.with_context(|| {
                let (name, last) = (method.name, journal.step);
                format!("stage {name}: stopped after the checkpoint of iteration {last}")
            })?
            else {
                break;
            };
            let truth = match &oracle {
                Some(oracle) => oracle.truth(&batch)?,
                None => judge()?.truth(&batch)?,
            };
            journal.write(state.iteration, &metrics(&report, truth, &config))?;
            bar.inc(1);
            bar.detail(format!(
                "reward {:.2}, kl {:.2}, length {:.1}, {:.0} tokens/s",
                truth.1,
                report.kl,
                report.response_length,
                (state.sampled_tokens - first) as f64 / start.elapsed().as_secs_f64()
            ));
            if state.iteration % every == 0 || state.iteration == config.iterations {
                let (held, networks) = (serde_json::to_value(state)?, trained.state()?);
                journal.save(state.iteration, held, |new| networks.save(new))?;
            }
        }
        drop(bar);
        self.models.keep(stage, trained.policy.network()?)?;
        journal.finish()
    }

    fn frozen<P: Place>(&self, place: &P, method: &Method) -> Result<(Frozen<P::Scorer>, Starts)> {
        let host = Arc::new(self.models.frozen(Stage::Sft)?);
        let sft = place.scorer(host.clone(), None)?;
        let reads = method.training().reads;
        let read = |model, stage| match reads.contains(&model) {
            true => Ok(Some(Arc::new(self.models.on_base(&host, stage)?))),
            false => anyhow::Ok(None),
        };
        let there = |scorer: Option<&Arc<NeuralScorer>>| {
            let scorer = scorer.map(|scorer| place.scorer(scorer.clone(), Some(&sft)));
            scorer.transpose()
        };
        let reward_here = read(Model::RewardModel, Stage::Reward)?;
        let reward = there(reward_here.as_ref())?;
        let token_reward = match reads.contains(&Model::TokenRewardModel) {
            true => {
                let model = TokenRewardModel::load(self.models, self.root)?;
                Some(model.map(|scorer| place.scorer(scorer, Some(&sft)))?)
            }
            false => None,
        };
        let reward_mean = reward.as_ref().map_or(Ok(0.0), |r| self.mean_reward(r))?;
        let dpo = there(read(Model::Dpo, Stage::Dpo)?.as_ref())?;
        let frozen = Frozen {
            dpo,
            sft,
            reward,
            token_reward,
            reward_mean,
        };
        let starts = Starts {
            sft: host,
            reward: reward_here,
        };
        Ok((frozen, starts))
    }

    fn mean_reward(&self, reward: &impl TokenScorer) -> Result<f64> {
        let few = &self.data.demonstrations[..self.data.demonstrations.len().min(256)];
        let scores = SentenceReward::new(reward).rewards(few)?.row_sums();
        Ok(scores.iter().sum::<f64>() / few.len() as f64)
    }

    /// Policy and critic before their next step.
    fn start<P: Place>(
        &self,
        place: &P,
        base: &P::Scorer,
        starts: Starts,
        config: &PpoConfig,
        journal: &Journal,
    ) -> Result<Trained<P>> {
        let learns_values = config.advantage == Advantage::Gae;
        let critic = match self.config.critic {
            CriticKind::Separate if learns_values => {
                Some(place.regressor(self.critic(&starts, journal)?, Some(base))?)
            }
            _ => None,
        };
        let actor = self.actor(&starts.sft, config, journal)?;
        Ok(Trained {
            policy: self.learner(place, actor, Some(base), journal)?,
            shares_trunk: learns_values && critic.is_none(),
            critic,
        })
    }

    fn actor(
        &self,
        sft: &Arc<NeuralScorer>,
        config: &PpoConfig,
        journal: &Journal,
    ) -> Result<NeuralScorer> {
        let stage = journal.stage;
        let scorer = match self.config.critic {
            CriticKind::Separate => self.models.start(sft, stage)?,
            CriticKind::Shared => self.with_value_head(sft, stage)?,
        };
        let scorer = self.models.adapted(scorer, stage)?;
        Ok(match config.kl_estimator {
            KlEstimator::Exact => scorer.with_reference(sft.clone()),
            _ => scorer,
        })
    }

    fn critic(&self, starts: &Starts, journal: &Journal) -> Result<NeuralRegressor> {
        let options = self.config.learner();
        let read;
        let reward = match &starts.reward {
            Some(reward) => reward,
            None => {
                read = self.models.on_base(&starts.sft, Stage::Reward)?;
                &read
            }
        };
        let fresh = self
            .models
            .critic_start(reward)?
            .with_micro_batch(options.micro_batch)?;
        Ok(match journal.checkpoint() {
            Some(folder) => NeuralRegressor::load(fresh, options, &folder.join("critic"))?,
            None => NeuralRegressor::try_new(fresh, options)?,
        })
    }

    /// π with a value head on its trunk.
    fn with_value_head(&self, sft: &NeuralScorer, stage: Stage) -> Result<NeuralScorer> {
        let mut weights = sft.model().params().tensors();
        add_value_head(
            &mut weights,
            sft.config().hidden_size(),
            self.config.host_dtype(),
            &self.models.device,
        )?;
        let params = self.models.take(stage)(weights)?;
        Ok(NeuralScorer::try_new(sft.config(), params)?.with_log_probs()?)
    }
}

fn add_value_head(
    weights: &mut BTreeMap<String, Tensor>,
    hidden: usize,
    dtype: DType,
    device: &Device,
) -> Result<()> {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, device);
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
    if let Some(gap) = report.sampler {
        all.push((SAMPLER_KL.into(), gap.kl));
        all.push((SAMPLER_CLIPPED.into(), gap.clip_fraction));
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
