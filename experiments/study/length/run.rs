//! One run on a grammar, measured exactly after every iteration, until the objective has come half of the way to the optimum.

use std::sync::Arc;

use anyhow::Result;
use rto::advantage::reward_to_go;
use rto::algorithm2::{CriticSlot, PpoConfig, PpoRun, PpoState};
use rto::mdp::TabularPolicy;
use rto::policy::{OptimizerConfig, StateMap, TabularLearner, TabularSoftmax};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{Policy, PolicyLearner, StreamKey, TokenReward};
use rto::token_reward::{DpoReward, PaidAtEnd};
use rto::zoo::{GrammarSpec, grammar};
use rto_harness::on_tree::fit_dpo;
use rto_harness::on_tree::setup::draw_pairs;
use rto_harness::on_tree::untrained::{Measured, Truth};

use super::critic::OnPrefix;
use super::{Length, Start};
use crate::config::Config;

/// The share of the optimum's lead over SFT to which samples are counted.
const LEVEL: f64 = 0.5;

/// A grammar of a seed, with what was learnt on it before PPO.
pub struct World {
    pub map: Arc<StateMap>,
    pub reference: TabularPolicy,
    pub truth: Truth,
    start: TabularSoftmax,
    pub dpo: TabularPolicy,
    reward: DpoReward<TabularSoftmax, TabularSoftmax>,
    /// β₁ log(π_dpo/π_ref) of every state and token.
    pub paid: TabularReward,
    seeds: SeedTree,
}

/// Where a token's reward is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// At the token: RTO.
    AtOnce,
    /// At the last token: DPPO.
    AtEnd,
}

impl Paid {
    pub const BOTH: [Self; 2] = [Self::AtOnce, Self::AtEnd];

    pub fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "rto",
            Self::AtEnd => "dppo",
        }
    }
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct How {
    pub paid: Paid,
    pub critic: Start,
    pub lambda: f64,
    pub learning_rate: f64,
}

/// Where a run ended.
pub struct End {
    /// Replies drawn until the level, linear between two iterations; all of the run where it was not reached.
    pub samples: f64,
    pub reached: bool,
    /// Of the policy after the last iteration that was made.
    pub measured: Measured,
}

impl World {
    /// A grammar, pairs of replies of its π_ref, and π_dpo fitted to them.
    pub fn new(c: &Config, spec: &GrammarSpec, seeds: SeedTree) -> Result<Self> {
        let drawn = grammar(spec, &seeds.child("grammar"))?;
        let (reward, reference) = (drawn.reward, drawn.reference);
        let map = StateMap::table(drawn.mdp.into(), None)?;
        let start = TabularSoftmax::from_policy(map.clone(), &reference)?;
        let pairs = draw_pairs(&map, &reward, &reference, c.length.pairs, &seeds)?;
        let how = (c.dpo.loss.loss(), &c.dpo);
        let dpo = fit_dpo(&start, &pairs, how, &seeds.child("fit"), &mut |_| Ok(()))?;
        let table = dpo.table()?;
        let ratio = table.log_probs() - reference.log_probs();
        Ok(Self {
            truth: Truth::new(&map, &reward, &reference, c.ppo.beta2)?,
            reward: DpoReward::try_new(dpo, start.clone(), c.dpo.beta)?,
            paid: TabularReward::try_new(ratio * c.dpo.beta)?,
            dpo: table,
            map,
            reference,
            start,
            seeds,
        })
    }

    /// Trains until the level, or for so many iterations.
    pub fn run(&self, c: &Config, how: How, iterations: u64) -> Result<End> {
        let l = &c.length;
        let ppo = PpoConfig {
            iterations,
            prompts_per_iteration: l.responses,
            responses_per_prompt: 1,
            lambda: how.lambda,
            learning_rate: how.learning_rate,
            critic_learning_rate: l.critic_learning_rate,
            ..c.ppo
        }
        .check()?;
        let at_end = PaidAtEnd(&self.reward);
        let reward: &dyn TokenReward = match how.paid {
            Paid::AtOnce => &self.reward,
            Paid::AtEnd => &at_end,
        };
        let prompts = [StateMap::prompt(0)];
        // One stream for both methods, all critics and all settings.
        let seeds = self.seeds.child("runs");
        let run = PpoRun {
            reference: &self.start,
            reward,
            prompts: &prompts,
            config: &ppo,
            seeds: &seeds,
        };
        let mut critic = self.critic(l, how.critic, reward)?;
        let sgd = OptimizerConfig::sgd(ppo.learning_rate);
        let mut learner = TabularLearner::try_new(self.start.clone(), sgd)?;
        let mut state = PpoState::new(&ppo);
        let value = |m: Measured| m.reward - c.ppo.beta2 * m.kl;
        let mut measured = self.truth.measure(&self.reference)?;
        let sft = value(measured);
        let level = sft + LEVEL * (self.truth.optimum() - sft);
        let per = ppo.responses() as f64;
        loop {
            let before = value(measured);
            let mut slot = CriticSlot::Separate(&mut critic);
            if run.next(&mut learner, &mut slot, &mut state)?.is_none() {
                return Ok(End {
                    samples: per * iterations as f64,
                    reached: false,
                    measured,
                });
            }
            measured = self.truth.measure(&learner.policy().table()?)?;
            let now = value(measured);
            if now >= level {
                let part = (level - before) / (now - before);
                return Ok(End {
                    samples: per * (state.iteration as f64 - 1.0 + part),
                    reached: true,
                    measured,
                });
            }
        }
    }

    fn critic(&self, l: &Length, start: Start, reward: &dyn TokenReward) -> Result<OnPrefix<'_>> {
        let knows = start != Start::State;
        let zero = OnPrefix::zero(&self.map, &self.paid, knows, l.critic_learning_rate);
        match start {
            Start::Zero | Start::State => Ok(zero),
            Start::RewardModel => Ok(zero.with_weight(1.0)),
            Start::Values => {
                let prompts = vec![StateMap::prompt(0); l.value_samples];
                let keys = StreamKey::batch(&self.seeds.child("values"), l.value_samples);
                let batch = self.start.sample(&prompts, &keys)?;
                // SFT is its own reference: there is no KL in its return.
                let returns = reward_to_go(&reward.rewards(&batch)?, 1.0)?;
                Ok(zero.fitted(&batch, &returns)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;
    use rto::mdp::{Beta, Problem};
    use rto::plan::evaluate;
    use rto::seq::{Channel, TokenScorer};
    use rto::zoo::Placement;
    use rto_harness::settings::Settings;

    fn config() -> Config {
        let common = rto_harness::cli::Common {
            smoke: true,
            ..Default::default()
        };
        Config::resolve(&common, &crate::config::Flags::default()).unwrap()
    }

    fn world(c: &Config) -> World {
        let spec = GrammarSpec {
            actions: 3,
            horizon: 6,
            placement: Placement::Spread,
            reward_sd: 2.0,
            reference_scale: 0.5,
            rare: 0.1,
        };
        World::new(c, &spec, SeedTree::new(3)).unwrap()
    }

    /// The identity behind the study: DPPO with a critic that starts at what was paid on the prefix is RTO with one that starts at zero, for every λ, on
    /// states that merge too; from zero it is not.
    #[test]
    fn a_critic_that_knows_what_was_paid_makes_dppo_rto() {
        let c = config();
        let world = world(&c);
        for lambda in [0.0, 0.5, 1.0] {
            let end = |paid, critic| {
                let how = How {
                    paid,
                    critic,
                    lambda,
                    learning_rate: 0.1,
                };
                world.run(&c, how, 5).unwrap()
            };
            let rto = end(Paid::AtOnce, Start::Zero);
            let dppo = end(Paid::AtEnd, Start::RewardModel);
            assert!((rto.samples - dppo.samples).abs() < 1e-6 * rto.samples);
            assert!(
                (rto.measured.kl - dppo.measured.kl).abs() < 1e-9,
                "{lambda}"
            );
            let other = end(Paid::AtEnd, Start::Zero);
            assert!(
                (rto.measured.kl - other.measured.kl).abs() > 1e-4,
                "{lambda}"
            );
        }
    }

    /// Least squares finds the value of SFT by either reward: w = 1 where the reward is paid at the end and 0 where it is paid at once, v the exact values.
    #[test]
    fn values_of_sft_are_found_by_least_squares() {
        let mut c = config();
        c.length.value_samples = 40_000;
        let world = world(&c);
        let beta = Beta::try_new(c.ppo.beta2).unwrap();
        let problem = Problem::new(world.map.mdp(), &world.reference, beta);
        let exact = evaluate(problem, &world.paid, &world.reference).unwrap();
        let root = StateMap::prompt(0);
        let batch = world
            .start
            .sample(&vec![root; 50], &StreamKey::batch(&SeedTree::new(1), 50))
            .unwrap();
        let walk = world.map.walk_all(&batch).unwrap();
        let at_end = PaidAtEnd(&world.reward);
        let sums = world.reward.rewards(&batch).unwrap();
        for (reward, weight) in [(&world.reward as &dyn TokenReward, 0.0), (&at_end, 1.0)] {
            let critic = world.critic(&c.length, Start::Values, reward).unwrap();
            let scores = critic.scores(&batch).unwrap();
            let mut k = 0;
            for i in 0..batch.len() {
                let mut paid = 0.0;
                for (h, v) in scores.row(Channel::Value, i).iter().enumerate() {
                    let expected = exact.v[walk.steps[k].0.ix()] + weight * paid;
                    assert!((v - expected).abs() < 0.12, "{v} {expected}");
                    paid += sums.row(i)[h];
                    k += 1;
                }
            }
        }
    }

    /// The reward that a critic sums is the one that is paid.
    #[test]
    fn what_is_summed_is_what_is_paid() {
        let c = config();
        let world = world(&c);
        let dense: Array2<f64> = world.paid.values().clone();
        let batch = world
            .start
            .sample(
                &[StateMap::prompt(0)],
                &StreamKey::batch(&SeedTree::new(2), 1),
            )
            .unwrap();
        let walk = world.map.walk_all(&batch).unwrap();
        let rewards = world.reward.rewards(&batch).unwrap();
        for ((s, a), r) in walk.steps.iter().zip(rewards.values()) {
            assert!((dense[[s.ix(), a.ix()]] - r).abs() < 1e-12);
        }
    }
}
