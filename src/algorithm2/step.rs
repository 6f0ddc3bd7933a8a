//! Line 7 of Algorithm 2: epochs of minibatch steps for policy and critic.

use super::fit::permutation;
use super::ppo::{Rollout, ValuesAndReturns};
use super::report::Measured;
use super::{CriticSlot, KlPlacement, PolicyLoss, PpoRun, PpoState};
use crate::objective::{Nll, PpoClip, Sum, ValueLoss, ppo_diagnostics};
use crate::seq::{Episode, Policy, PolicyLearner, Ragged, TokenObjective};
use crate::token_reward::log_probs;
use crate::{Error, Result};

impl PpoRun<'_> {
    /// Line 7: epochs of minibatch steps.
    pub(super) fn optimise<L: PolicyLearner>(
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
        let chosen = rollout.chosen.as_ref().map(|mask| mask.select(rows));
        let mask = chosen.as_ref();
        if config.policy_loss == PolicyLoss::PolicyGradient {
            let loss = Nll::policy_gradient(batch, &advantages, how, mask)?;
            return Ok(Box::new(loss));
        }
        let behaviour = rollout.behaviour.select(rows);
        let mut loss = PpoClip::new(batch, behaviour, advantages, config.clip, how, mask)?
            .with_entropy_bonus(config.entropy_bonus)?
            .with_clip_high(config.clip_high.unwrap_or(config.clip))?
            .with_ratio(config.ratio)?;
        if let Some(c) = config.dual_clip {
            loss = loss.with_dual_clip(c)?;
        }
        if config.kl_placement != KlPlacement::Reward {
            let reference = rollout.reference.select(rows);
            loss = match config.kl_estimator.sampled() {
                None => loss.with_exact_kl(beta2)?,
                Some(kind) => loss.with_sampled_kl(kind, beta2, reference)?,
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
