//! Lines 3–8 of Algorithm 2 for any token reward: PPO, DPPO and RTO.

use std::ops::Range;
use std::sync::Arc;

use super::critic::need;
use super::fit::permutation;
use super::report::{IterationReport, Measured, SamplerGap};
use super::{Advantage, Checked, CriticSlot, KlPlacement, PpoConfig, Whitening};
use crate::advantage::{
    WhitenStd, broadcast, final_values, gae, group_relative, group_relative_by, leave_one_out,
    leave_one_out_of_score, remax, reward_to_go, whiten_by,
};
use crate::check;
use crate::objective::ppo_diagnostics;
use crate::seed::SeedTree;
use crate::seq::{
    Channel, Episode, PerToken, Policy, PolicyLearner, Ragged, StreamKey, TokenReward, TokenScorer,
    check_batch,
};
use crate::token_reward::{KlEstimator, add_kl_penalty, log_probs};
use crate::{Error, Result, Token};

/// What a run of PPO has to remember between iterations, apart from the learner and the critic.
///
/// Every stream is keyed by iteration and every order by epoch, so no generator has a state to save.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
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

/// Responses, and log q of their tokens where it is not π's ([`Policy::draw`]).
type Drawn = (Vec<Episode>, Option<Ragged>);

/// V of the rollout and the returns it is fitted to.
pub(super) type ValuesAndReturns = (Ragged, Ragged);

/// The rollout of an iteration with everything that is fixed while the policy moves.
pub(super) struct Rollout {
    pub(super) batch: Vec<Episode>,
    pub(super) behaviour: Ragged,
    pub(super) reference: Ragged,
    pub(super) advantages: Ragged,
    /// [`Policy::chosen`].
    pub(super) chosen: Option<Ragged>,
    pub(super) critic: Option<ValuesAndReturns>,
}

/// An iteration that was made.
#[derive(Debug, Clone)]
pub struct Iteration {
    /// What it measured.
    pub report: IterationReport,
    /// 𝒟_t with its responses.
    pub batch: Vec<Episode>,
}

impl PpoRun<'_> {
    /// Lines 3–8, an iteration at a time: the next one, or nothing after `config.iterations`.
    ///
    /// A run goes on in another process from the learner, the critic and the state as they are between two calls. What differs
    /// between iterations (a reward that learns, a reference that follows) is changed by making another `PpoRun` for the next one.
    ///
    /// # Errors
    /// Those of [`PpoRun::iterate`]. The state is then as before, the learners may have been stepped.
    pub fn next<L: PolicyLearner>(
        &self,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
        state: &mut PpoState,
    ) -> Result<Option<Iteration>> {
        if state.iteration >= self.config.iterations {
            return Ok(None);
        }
        let drawn = self.draw(learner.policy(), state)?;
        let batch = drawn.0.clone();
        let report = self.learn(learner, critic, state, drawn)?;
        Ok(Some(Iteration { report, batch }))
    }

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
        let drawn = self.draw(learner.policy(), state)?;
        self.learn(learner, critic, state, drawn)
    }

    /// Lines 4 and 5: prompts of 𝒟_t and a response to each from π_{t−1}; responses to one prompt are consecutive.
    ///
    /// # Errors
    /// No prompts; those of [`Policy::sample`].
    pub fn rollout<P: Policy>(&self, policy: &P, state: &PpoState) -> Result<Vec<Episode>> {
        Ok(self.draw(policy, state)?.0)
    }

    /// The rollout, and log q of its tokens where [`Policy::draw`] gives it.
    fn draw<P: Policy>(&self, policy: &P, state: &PpoState) -> Result<Drawn> {
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
        let drawn = policy.draw(&prompts, &StreamKey::batch(&node, prompts.len()))?;
        match drawn.0.len() == prompts.len() {
            true => Ok(drawn),
            false => Err(Error::Shape {
                what: "responses of the policy".into(),
                expected: prompts.len(),
                got: drawn.0.len(),
            }),
        }
    }

    /// Lines 6 and 7 on a rollout of [`PpoRun::rollout`]: rewards, advantages, epochs of minibatch steps.
    ///
    /// Apart from [`PpoRun::iterate`] for rewards that learn from the rollout before they are read (PRIME).
    ///
    /// # Errors
    /// A channel that is missing, an empty batch or response, a reward that does not fit its responses, a ratio that is not 1 before the first step, and
    /// those of every model.
    pub fn update<L: PolicyLearner>(
        &self,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
        state: &mut PpoState,
        batch: Vec<Episode>,
    ) -> Result<IterationReport> {
        self.learn(learner, critic, state, (batch, None))
    }

    fn learn<L: PolicyLearner>(
        &self,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
        state: &mut PpoState,
        (batch, sampler): Drawn,
    ) -> Result<IterationReport> {
        self.check_channels(learner.policy(), critic)?;
        check_batch(&batch)?;
        check::not_negative("beta2 of the state", state.beta2)?;
        let (rollout, mut measured) = self.evaluate(learner.policy(), critic, state, batch)?;
        if let Some(sampler) = &sampler {
            let gap = SamplerGap::try_new(sampler, &rollout.behaviour, self.config.clip)?;
            measured.sampler = Some(gap);
        }
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

    /// Everything that stays fixed while the policy moves.
    fn evaluate(
        &self,
        policy: &impl Policy,
        critic: &CriticSlot<'_>,
        state: &PpoState,
        batch: Vec<Episode>,
    ) -> Result<(Rollout, Measured)> {
        let scores = policy.scores(&batch)?;
        let behaviour = scores.get(Channel::LogProb)?.clone();
        behaviour.check_fits("log_prob", &batch)?;
        let reference = log_probs(self.reference, &batch)?;
        let chosen = policy.chosen(&batch)?;
        let kl = self.config.kl_estimator.per_token(&scores, &reference)?;
        let kl = match &chosen {
            Some(mask) => kl.zip("mask of chosen tokens", mask, |k, m| k * m)?,
            None => kl,
        };
        let mut measured = Measured::new(state.beta2, &kl, &scores);
        let (reward, scores_alone) = self.reward(&batch, &kl, &mut measured)?;
        let value_scores = match critic {
            CriticSlot::Separate(c) => Some(c.scores(&batch)?),
            CriticSlot::SharedTrunk => Some(scores.clone()),
            CriticSlot::Absent => None,
        };
        let baselines = match self.config.advantage {
            Advantage::Greedy => self.greedy_scores(policy, &batch)?,
            _ => scores_alone,
        };
        let (advantages, critic) =
            self.advantages(&batch, &reward, &baselines, value_scores.as_ref())?;
        if let Some((values, returns)) = &critic {
            measured.explained_variance(values, returns);
        }
        let rollout = Rollout {
            behaviour,
            advantages: whitened(self.config.advantage_whitening, advantages, chosen.as_ref())?,
            batch,
            reference,
            chosen,
            critic,
        };
        Ok((rollout, measured))
    }

    /// Line 6: the reward with its KL term, and the score of each response without one.
    fn reward(
        &self,
        batch: &[Episode],
        kl: &Ragged,
        measured: &mut Measured,
    ) -> Result<(Ragged, Vec<f64>)> {
        let mut reward = Ragged::zeros(batch);
        for (name, part) in self.reward.components(batch)? {
            part.check_fits("reward", batch)?;
            part.check_finite("reward")?;
            measured.component(name, &part);
            reward = reward.zip("reward", &part, |a, b| a + b)?;
        }
        let scores = reward.row_sums();
        if self.config.kl_placement != KlPlacement::Loss {
            reward = add_kl_penalty(&reward, kl, measured.beta2)?;
        }
        let reward = whitened(self.config.reward_whitening, reward, None)?;
        Ok((reward, scores))
    }

    /// The score of the greedy response to each row's prompt.
    fn greedy_scores(&self, policy: &impl Policy, batch: &[Episode]) -> Result<Vec<f64>> {
        let per = self.config.responses_per_prompt;
        let firsts = batch.iter().step_by(per);
        let prompts: Vec<_> = firsts.map(|e| e.prompt.clone()).collect();
        let greedy = policy.greedy(&prompts)?;
        check_batch(&greedy)?;
        let mut scores = vec![0.0; greedy.len()];
        for (_, part) in self.reward.components(&greedy)? {
            part.check_fits("reward of greedy responses", &greedy)?;
            part.check_finite("reward of greedy responses")?;
            let sums = part.row_sums();
            scores.iter_mut().zip(sums).for_each(|(s, r)| *s += r);
        }
        let rows = scores.iter().flat_map(|s| std::iter::repeat_n(*s, per));
        Ok(rows.take(batch.len()).collect())
    }

    /// `scores_alone` are those without a KL term: of the responses, or of the greedy ones with [`Advantage::Greedy`].
    fn advantages(
        &self,
        batch: &[Episode],
        reward: &Ragged,
        scores_alone: &[f64],
        scores: Option<&PerToken>,
    ) -> Result<(Ragged, Option<ValuesAndReturns>)> {
        let (config, per) = (self.config, self.config.responses_per_prompt);
        let groups: Vec<Range<usize>> = (0..batch.len() / per)
            .map(|k| k * per..(k + 1) * per)
            .collect();
        let per_row = match (config.advantage, scores) {
            (Advantage::Gae, Some(scores)) => {
                let values = scores.get(Channel::Value)?;
                values.check_fits("value", batch)?;
                let last = final_values(batch, scores, config.bootstrap_truncated)?;
                let out = gae(reward, values, &last, config.gamma, config.lambda)?;
                return Ok((out.advantages, Some((values.clone(), out.returns))));
            }
            (Advantage::Gae | Advantage::RewardToGo, _) => {
                return Ok((reward_to_go(reward, config.gamma)?, None));
            }
            (Advantage::LeaveOneOutOfScore, _) => {
                let out = leave_one_out_of_score(reward, scores_alone, &groups, None)?;
                return Ok((out, None));
            }
            (Advantage::Greedy, _) => {
                return Ok((remax(reward, scores_alone, None)?, None));
            }
            (Advantage::LeaveOneOut, _) => leave_one_out(&reward.row_sums(), &groups)?,
            (Advantage::Group { divide_by_std }, _) => {
                group_relative(&reward.row_sums(), &groups, divide_by_std)?
            }
            (Advantage::GroupBy { spread }, _) => {
                group_relative_by(&reward.row_sums(), &groups, spread)?
            }
        };
        Ok((broadcast(&per_row, reward)?, None))
    }
}

fn whitened(how: Whitening, x: Ragged, mask: Option<&Ragged>) -> Result<Ragged> {
    let (shift, std) = match how {
        Whitening::Off => return Ok(x),
        Whitening::Scale => (false, WhitenStd::Biased),
        Whitening::ShiftAndScale => (true, WhitenStd::Biased),
        Whitening::ShiftAndScaleUnbiased => (true, WhitenStd::Unbiased),
        Whitening::ShiftAndScaleClamped => (true, WhitenStd::BiasedClamped),
    };
    whiten_by(&x, mask, shift, std)
}
