//! Lines 3–8 of Algorithm 2 for any token reward: PPO, DPPO and RTO.

use std::ops::Range;
use std::sync::Arc;

use super::critic::need;
use super::fit::permutation;
use super::report::{IterationReport, Measured};
use super::{Advantage, Checked, CriticSlot, KlPlacement, PolicyLoss, PpoConfig, Whitening};
use crate::advantage::{
    broadcast, final_values, gae, group_relative, leave_one_out, reward_to_go, whiten,
};
use crate::objective::{Nll, PpoClip, Sum, ValueLoss, ppo_diagnostics};
use crate::seed::SeedTree;
use crate::seq::{
    Channel, Episode, PerToken, Policy, PolicyLearner, Ragged, StreamKey, TokenObjective,
    TokenReward, TokenScorer,
};
use crate::token_reward::{KlEstimator, add_kl_penalty, log_probs};
use crate::{Error, Result, Token};

/// What a run of PPO has to remember between iterations, apart from the learner and the critic.
///
/// Every stream is keyed by iteration and every order by epoch, so no generator has a state to save.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "experiments",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct PpoState {
    /// Iterations done.
    pub iteration: u64,
    /// β₂ of the next iteration.
    pub beta2: f64,
    /// Prompts used so far: the position in the data.
    pub prompts_seen: u64,
    /// Response tokens sampled so far.
    pub sampled_tokens: u64,
}

impl PpoState {
    /// Before the first iteration.
    pub fn new(config: &PpoConfig) -> Self {
        Self {
            iteration: 0,
            beta2: config.beta2,
            prompts_seen: 0,
            sampled_tokens: 0,
        }
    }
}

/// What stays fixed over a run of PPO.
#[derive(Clone, Copy)]
pub struct PpoRun<'a> {
    /// π_ref of the KL term.
    pub reference: &'a dyn TokenScorer,
    /// The reward without its KL term: the one value that tells RTO, DPPO and PPO apart.
    pub reward: &'a dyn TokenReward,
    /// The prompts of 𝒟, visited in a new order each epoch.
    pub prompts: &'a [Arc<[Token]>],
    /// The choices.
    pub config: &'a Checked<PpoConfig>,
    /// The streams of the run.
    pub seeds: &'a SeedTree,
}

/// V of the rollout and the returns it is fitted to.
type ValuesAndReturns = (Ragged, Ragged);

/// The rollout of an iteration with everything that is fixed while the policy moves.
struct Rollout {
    batch: Vec<Episode>,
    behaviour: Ragged,
    reference: Ragged,
    advantages: Ragged,
    critic: Option<ValuesAndReturns>,
}

impl PpoRun<'_> {
    /// Lines 4–7: one iteration.
    ///
    /// # Errors
    /// Those of [`PpoRun::rollout`] and [`PpoRun::update`].
    pub fn iterate<L: PolicyLearner>(
        &self,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
        state: &mut PpoState,
    ) -> Result<IterationReport> {
        let batch = self.rollout(learner.policy(), state)?;
        self.update(learner, critic, state, batch)
    }

    /// Lines 4 and 5: prompts of 𝒟_t and a response to each from π_{t−1}; responses to one prompt are consecutive.
    ///
    /// # Errors
    /// No prompts; those of [`Policy::sample`].
    pub fn rollout<P: Policy>(&self, policy: &P, state: &PpoState) -> Result<Vec<Episode>> {
        let (n, per) = (self.prompts.len() as u64, self.config.responses_per_prompt);
        if n == 0 {
            return Err(Error::config("prompts", "none", "at least one"));
        }
        let mut prompts = Vec::with_capacity(self.config.responses());
        let mut order = (u64::MAX, Vec::new());
        for k in 0..self.config.prompts_per_iteration as u64 {
            let (epoch, at) = ((state.prompts_seen + k) / n, (state.prompts_seen + k) % n);
            if order.0 != epoch {
                let node = self.seeds.child("prompts").index(epoch);
                order = (epoch, permutation(n as usize, &node));
            }
            let prompt = &self.prompts[order.1[at as usize]];
            prompts.extend(std::iter::repeat_n(prompt.clone(), per));
        }
        let node = self.seeds.child("rollout").index(state.iteration);
        let batch = policy.sample(&prompts, &StreamKey::batch(&node, prompts.len()))?;
        match batch.len() == prompts.len() {
            true => Ok(batch),
            false => Err(Error::Shape {
                what: "responses of the policy".into(),
                expected: prompts.len(),
                got: batch.len(),
            }),
        }
    }

    /// Lines 6 and 7 on a rollout of [`PpoRun::rollout`]: rewards, advantages, epochs of minibatch steps.
    ///
    /// Apart from [`PpoRun::iterate`] for rewards that learn from the rollout before they are read (PRIME).
    ///
    /// # Errors
    /// A channel that is missing, a reward that does not fit its responses, a ratio that is not 1 before the first step, and
    /// those of every model.
    pub fn update<L: PolicyLearner>(
        &self,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
        state: &mut PpoState,
        batch: Vec<Episode>,
    ) -> Result<IterationReport> {
        self.check_channels(learner.policy(), critic)?;
        let (rollout, mut measured) = self.evaluate(learner.policy(), critic, state, batch)?;
        self.optimise(learner, critic, state, &rollout, &mut measured)?;
        let now = log_probs(learner.policy(), &rollout.batch)?;
        measured.policy = Some(ppo_diagnostics(&rollout.behaviour, &now, self.config.clip)?);
        state.iteration += 1;
        state.prompts_seen += self.config.prompts_per_iteration as u64;
        state.sampled_tokens += rollout.behaviour.n_tokens() as u64;
        if let Some(adaptive) = self.config.adaptive_kl {
            let rows = rollout.batch.len();
            state.beta2 = adaptive.next(state.beta2, measured.sequence_kl, rows);
        }
        Ok(measured.report(&rollout.batch, state))
    }

    fn check_channels(&self, policy: &impl Policy, critic: &CriticSlot<'_>) -> Result<()> {
        let (config, channels) = (self.config, policy.channels());
        need("policy", channels, Channel::LogProb)?;
        need("reference", self.reference.channels(), Channel::LogProb)?;
        if config.kl_estimator == KlEstimator::Exact {
            need("policy", channels, Channel::KlToReference)?;
        }
        if config.entropy_bonus > 0.0 {
            need("policy", channels, Channel::Entropy)?;
        }
        if (config.advantage == Advantage::Gae) != critic.is_present() {
            let found = if critic.is_present() {
                "given"
            } else {
                "absent"
            };
            let must = "given if and only if advantage = gae";
            return Err(Error::config("critic", found, must));
        }
        let (name, channels) = match critic {
            CriticSlot::Separate(c) => ("critic", c.channels()),
            CriticSlot::SharedTrunk => ("policy", channels),
            CriticSlot::Absent => return Ok(()),
        };
        need(name, channels, Channel::Value)?;
        match config.bootstrap_truncated {
            true => need(name, channels, Channel::FinalValue),
            false => Ok(()),
        }
    }

    /// Line 6, and the advantages.
    fn evaluate(
        &self,
        policy: &impl Policy,
        critic: &CriticSlot<'_>,
        state: &PpoState,
        batch: Vec<Episode>,
    ) -> Result<(Rollout, Measured)> {
        let scores = policy.scores(&batch)?;
        let reference = log_probs(self.reference, &batch)?;
        let kl = self.config.kl_estimator.per_token(&scores, &reference)?;
        let mut measured = Measured::new(state.beta2, &kl, &scores);
        let mut reward = Ragged::zeros(&batch);
        for (name, part) in self.reward.components(&batch)? {
            part.check_fits("reward", &batch)?;
            part.check_finite("reward")?;
            measured.component(name, &part);
            reward = reward.zip("reward", &part, |a, b| a + b)?;
        }
        if self.config.kl_placement == KlPlacement::Reward {
            reward = add_kl_penalty(&reward, &kl, state.beta2)?;
        }
        let reward = whitened(self.config.reward_whitening, reward)?;
        let value_scores = match critic {
            CriticSlot::Separate(c) => Some(c.scores(&batch)?),
            CriticSlot::SharedTrunk => Some(scores.clone()),
            CriticSlot::Absent => None,
        };
        let (advantages, critic) = self.advantages(&batch, &reward, value_scores.as_ref())?;
        if let Some((values, returns)) = &critic {
            measured.explained_variance(values, returns);
        }
        let rollout = Rollout {
            behaviour: scores.get(Channel::LogProb)?.clone(),
            advantages: whitened(self.config.advantage_whitening, advantages)?,
            batch,
            reference,
            critic,
        };
        Ok((rollout, measured))
    }

    fn advantages(
        &self,
        batch: &[Episode],
        reward: &Ragged,
        scores: Option<&PerToken>,
    ) -> Result<(Ragged, Option<ValuesAndReturns>)> {
        let (config, per) = (self.config, self.config.responses_per_prompt);
        let groups: Vec<Range<usize>> = (0..batch.len() / per)
            .map(|k| k * per..(k + 1) * per)
            .collect();
        let per_row = match (config.advantage, scores) {
            (Advantage::Gae, Some(scores)) => {
                let values = scores.get(Channel::Value)?;
                let last = final_values(batch, scores, config.bootstrap_truncated)?;
                let out = gae(reward, values, &last, config.gamma, config.lambda)?;
                return Ok((out.advantages, Some((values.clone(), out.returns))));
            }
            (Advantage::Gae | Advantage::RewardToGo, _) => {
                return Ok((reward_to_go(reward, config.gamma)?, None));
            }
            (Advantage::LeaveOneOut, _) => leave_one_out(&reward.row_sums(), &groups)?,
            (Advantage::Group { divide_by_std }, _) => {
                group_relative(&reward.row_sums(), &groups, divide_by_std)?
            }
        };
        Ok((broadcast(&per_row, reward)?, None))
    }

    /// Line 7: epochs of minibatch steps.
    fn optimise<L: PolicyLearner>(
        &self,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
        state: &PpoState,
        rollout: &Rollout,
        measured: &mut Measured,
    ) -> Result<()> {
        let config = self.config;
        let factor = config.schedule.factor(state.iteration, config.iterations);
        learner.set_learning_rate(config.learning_rate * factor);
        if let CriticSlot::Separate(c) = critic {
            c.set_learning_rate(config.critic_learning_rate * factor);
        }
        let node = self.seeds.child("minibatch").index(state.iteration);
        for epoch in 0..config.epochs as u64 {
            let order = permutation(rollout.batch.len(), &node.index(epoch));
            for (k, rows) in order.chunks(config.minibatch_size).enumerate() {
                let batch: Vec<_> = rows.iter().map(|&i| rollout.batch[i].clone()).collect();
                if epoch == 0 && k == 0 {
                    self.check_ratio(learner.policy(), &batch, &rollout.behaviour.select(rows))?;
                }
                let policy_loss = self.policy_loss(&batch, rollout, rows, state.beta2)?;
                let value_loss = self.value_loss(&batch, rollout, rows)?;
                match (&mut *critic, value_loss) {
                    (CriticSlot::SharedTrunk, Some(v)) => {
                        let sum = Sum::new(vec![policy_loss, Box::new(v)])?;
                        measured.policy_step(&learner.step(&batch, &sum)?);
                    }
                    (CriticSlot::Separate(c), Some(v)) => {
                        measured.policy_step(&learner.step(&batch, &*policy_loss)?);
                        measured.value_step(&c.step(&batch, &v)?, config.value_coef);
                    }
                    _ => measured.policy_step(&learner.step(&batch, &*policy_loss)?),
                }
            }
        }
        Ok(())
    }

    fn policy_loss(
        &self,
        batch: &[Episode],
        rollout: &Rollout,
        rows: &[usize],
        beta2: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        let (config, advantages) = (self.config, rollout.advantages.select(rows));
        let how = config.aggregation;
        if config.policy_loss == PolicyLoss::PolicyGradient {
            return Ok(Box::new(Nll::policy_gradient(
                batch,
                &advantages,
                how,
                None,
            )?));
        }
        let behaviour = rollout.behaviour.select(rows);
        let mut loss = PpoClip::new(batch, behaviour, advantages, config.clip, how, None)?
            .with_entropy_bonus(config.entropy_bonus)?;
        if let Some(c) = config.dual_clip {
            loss = loss.with_dual_clip(c)?;
        }
        if config.kl_placement == KlPlacement::Loss {
            let reference = rollout.reference.select(rows);
            loss = match config.kl_estimator {
                KlEstimator::Exact => loss.with_exact_kl(beta2)?,
                KlEstimator::K2 => loss.with_k2(beta2, reference)?,
                KlEstimator::K1 | KlEstimator::K3 => loss.with_k3(beta2, reference)?,
            };
        }
        Ok(Box::new(loss))
    }

    fn value_loss(
        &self,
        batch: &[Episode],
        rollout: &Rollout,
        rows: &[usize],
    ) -> Result<Option<ValueLoss>> {
        let (config, how) = (self.config, self.config.aggregation);
        let loss = |(values, returns): &ValuesAndReturns| {
            let (old, target) = (values.select(rows), returns.select(rows));
            ValueLoss::new(
                batch,
                target,
                old,
                config.value_coef,
                config.value_clip,
                how,
            )
        };
        rollout.critic.as_ref().map(loss).transpose()
    }

    /// Scores must not depend on the batch a row stands in, nor on chance (dropout): else PPO's ratio is wrong from the start.
    fn check_ratio(
        &self,
        policy: &impl Policy,
        batch: &[Episode],
        behaviour: &Ragged,
    ) -> Result<()> {
        let now = log_probs(policy, batch)?;
        let off = ppo_diagnostics(behaviour, &now, self.config.clip)?.ratio_deviation;
        if off <= self.config.ratio_tolerance {
            return Ok(());
        }
        let must = format!(
            "within {:e} of 1 before the first step: scores change with the batch or the call",
            self.config.ratio_tolerance
        );
        Err(Error::config(
            "ratio of the first minibatch",
            format!("1 ± {off:e}"),
            must,
        ))
    }
}

fn whitened(how: Whitening, x: Ragged) -> Result<Ragged> {
    match how {
        Whitening::Off => Ok(x),
        Whitening::Scale => whiten(&x, None, false),
        Whitening::ShiftAndScale => whiten(&x, None, true),
    }
}
