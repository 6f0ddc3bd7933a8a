//! One run on a grammar, measured exactly after every iteration, until the objective has come half of the way to the optimum.

use anyhow::Result;
use rto::advantage::reward_to_go;
use rto::algorithm2::{CriticSlot, PpoConfig, PpoRun, PpoState};
use rto::policy::{OptimizerConfig, Regressor, StateMap, TabularLearner};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{Policy, PolicyLearner, StreamKey, TokenReward};
use rto::token_reward::DenseReward;
use rto::zoo::grammar;
use rto_harness::methods::{Method, Parts};
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::untrained::{Measured, Truth};

use super::critic::OnPrefix;
use super::{Place, Start};
use crate::Study;

/// The share of the optimum's lead over SFT to which samples are counted.
const LEVEL: f64 = 0.5;

/// A grammar of a seed, with what was learnt on it before PPO.
pub struct World {
    pub setup: Setup,
    pub truth: Truth,
    seeds: SeedTree,
}

/// What a run is made of.
#[derive(Clone, Copy)]
pub struct How {
    pub method: &'static Method,
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
    /// The grammar of a seed, pairs of replies of its π_ref, and what is fitted to them.
    pub fn new(study: &Study, place: Place, horizon: usize, seed: u64) -> Result<Self> {
        let (c, l) = (&study.config, &study.config.length);
        let seeds = study.seeds.child("length").child(place.name());
        let seeds = seeds.index(horizon as u64).index(seed);
        let drawn = grammar(&l.spec(place, horizon), &seeds.child("grammar"))?;
        let map = StateMap::table(drawn.mdp.into(), None)?;
        let truth = (drawn.reward, drawn.reference);
        let setup = Setup::fitted(map, truth, &c.dpo, l.pairs, &seeds)?;
        let truth = Truth::new(&setup.map, &setup.reward, &setup.reference, c.ppo.beta2)?;
        Ok(Self {
            setup,
            truth,
            seeds,
        })
    }

    /// β₁ log(π_dpo/π_ref) of every state and token.
    pub fn dpo_reward(&self) -> Result<TabularReward> {
        let ratio = self.setup.dpo.table()?.log_probs() - self.setup.reference.log_probs();
        Ok(TabularReward::try_new(ratio * self.setup.beta1.get())?)
    }

    /// Trains until the level or the last iteration.
    pub fn run(&self, study: &Study, how: How) -> Result<End> {
        let (c, l, setup) = (&study.config, &study.config.length, &self.setup);
        let keys = how.method.keys(&c.method)?;
        let base = PpoConfig {
            iterations: l.iterations,
            prompts_per_iteration: l.responses,
            responses_per_prompt: 1,
            lambda: how.lambda,
            learning_rate: how.learning_rate,
            critic_learning_rate: l.critic_learning_rate,
            ..c.ppo
        };
        let ppo = how.method.ppo(base, &keys).check()?;
        let reward = (how.method.training().reward)(&Parts {
            dpo: &setup.dpo,
            reference: &setup.start,
            reward_model: &setup.reward_model,
            reward_mean: 0.0,
            beta1: setup.beta1.get(),
            beta2: ppo.beta2,
            keys: &keys,
        })?;
        let prompts = [StateMap::prompt(0)];
        // One stream for both methods, all critics and all settings.
        let seeds = self.seeds.child("runs");
        let run = PpoRun {
            reference: &setup.start,
            reward: &*reward,
            prompts: &prompts,
            config: &ppo,
            seeds: &seeds,
        };
        let values = match how.critic {
            Start::Values => self.values_of_sft(&*reward, l.value_samples)?,
            _ => vec![0.0; setup.map.mdp().n_states()],
        };
        let score = DenseReward(&setup.reward_model);
        let sgd = OptimizerConfig::sgd;
        let table = Regressor::critic(setup.map.clone(), &values, sgd(ppo.critic_learning_rate))?;
        let mut critic = OnPrefix::new(
            table,
            (how.critic == Start::RewardModel).then_some(&score as &dyn TokenReward),
        );
        let mut learner = TabularLearner::try_new(setup.start.clone(), sgd(ppo.learning_rate))?;
        let mut state = PpoState::new(&ppo);
        let value = |m: Measured| m.reward - c.ppo.beta2 * m.kl;
        let mut measured = self.truth.measure(&setup.reference)?;
        let sft = value(measured);
        let level = sft + LEVEL * (self.truth.optimum() - sft);
        let per = ppo.responses() as f64;
        loop {
            let before = value(measured);
            let mut slot = CriticSlot::Separate(&mut critic);
            if run.next(&mut learner, &mut slot, &mut state)?.is_none() {
                let samples = per * ppo.iterations as f64;
                return Ok(End {
                    samples,
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

    /// The mean reward to go of each state over replies of SFT, by the reward of a method: least squares on a table. A state that no reply meets has 0.
    fn values_of_sft(&self, reward: &dyn TokenReward, n: usize) -> Result<Vec<f64>> {
        let prompts = vec![StateMap::prompt(0); n];
        let keys = StreamKey::batch(&self.seeds.child("values"), n);
        let batch = self.setup.start.sample(&prompts, &keys)?;
        // SFT is its own reference: there is no KL in its return.
        let returns = reward_to_go(&reward.rewards(&batch)?, 1.0)?;
        let walk = self.setup.map.walk_all(&batch)?;
        let mut sums = vec![(0.0, 0u32); self.setup.map.mdp().n_states()];
        for ((s, _), value) in walk.steps.iter().zip(returns.values()) {
            let (sum, count) = &mut sums[s.ix()];
            *sum += value;
            *count += 1;
        }
        let mean = |(sum, count): &(f64, u32)| sum / f64::from((*count).max(1));
        Ok(sums.iter().map(mean).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rto::policy::Table;
    use rto::seq::{Channel, TokenScorer};
    use rto::token_reward::PaidAtEnd;
    use rto::zoo::{GrammarSpec, Placement};

    fn setup() -> Setup {
        let spec = GrammarSpec {
            actions: 3,
            horizon: 6,
            placement: Placement::Spread,
            reward_sd: 2.0,
            reference_scale: 0.5,
            rare: 0.1,
        };
        let seeds = SeedTree::new(3);
        let drawn = grammar(&spec, &seeds).unwrap();
        let map = StateMap::table(drawn.mdp.into(), None).unwrap();
        let dpo = rto::algorithm2::DpoConfig {
            beta: 0.5,
            fit: rto::algorithm2::FitConfig {
                learning_rate: 0.03,
                ..rto::algorithm2::DpoConfig::default().fit
            },
            ..Default::default()
        };
        Setup::fitted(map, (drawn.reward, drawn.reference), &dpo, 500, &seeds).unwrap()
    }

    fn critic<'a>(setup: &Setup, score: Option<&'a dyn TokenReward>) -> OnPrefix<'a> {
        let zero = vec![0.0; setup.map.mdp().n_states()];
        let table: Regressor<Table> =
            Regressor::critic(setup.map.clone(), &zero, OptimizerConfig::sgd(0.7)).unwrap();
        OnPrefix::new(table, score)
    }

    /// The identity behind the study: DPPO with a critic that starts at the DPO rewards of the prefix is RTO with one that starts at zero, for every λ,
    /// on states that merge too, where no table of states could hold that start.
    #[test]
    fn a_critic_that_knows_what_was_paid_makes_dppo_rto() {
        let setup = setup();
        for lambda in [0.0, 0.5, 1.0] {
            let config = PpoConfig {
                iterations: 8,
                prompts_per_iteration: 16,
                beta2: 0.3,
                lambda,
                learning_rate: 0.5,
                critic_learning_rate: 0.7,
                ..rto::algorithm2::RtoConfig::paper().ppo
            };
            let config = config.check().unwrap();
            let dense = setup.dpo_reward().unwrap();
            let at_end = PaidAtEnd(setup.dpo_reward().unwrap());
            let trained = |reward: &dyn TokenReward, score: Option<&dyn TokenReward>| {
                let (seeds, prompts) = (SeedTree::new(4), [StateMap::prompt(0)]);
                let run = PpoRun {
                    reference: &setup.start,
                    reward,
                    prompts: &prompts,
                    config: &config,
                    seeds: &seeds,
                };
                let mut critic = critic(&setup, score);
                let sgd = OptimizerConfig::sgd(config.learning_rate);
                let mut learner = TabularLearner::try_new(setup.start.clone(), sgd).unwrap();
                let mut state = PpoState::new(&config);
                let mut slot = CriticSlot::Separate(&mut critic);
                while run
                    .next(&mut learner, &mut slot, &mut state)
                    .unwrap()
                    .is_some()
                {}
                learner.policy().params().to_vec()
            };
            let rto = trained(&dense, None);
            let dppo = trained(&at_end, Some(&dense));
            let apart = |other: &[f64]| {
                let gaps = rto.iter().zip(other).map(|(a, b)| (a - b).abs());
                gaps.fold(0.0, f64::max)
            };
            assert!(apart(&dppo) < 1e-9, "{lambda}: {}", apart(&dppo));
            assert!(apart(&trained(&at_end, None)) > 1e-3);
        }
    }

    /// The scores of a critic on a prefix are the sums before each token, of which the table below learns what is left.
    #[test]
    fn a_critic_on_a_prefix_starts_at_its_sums() {
        let setup = setup();
        let score = DenseReward(&setup.reward_model);
        let batch = setup
            .start
            .sample(
                &vec![StateMap::prompt(0); 3],
                &StreamKey::batch(&SeedTree::new(1), 3),
            )
            .unwrap();
        let rewards = score.rewards(&batch).unwrap();
        let scores = critic(&setup, Some(&score)).scores(&batch).unwrap();
        for i in 0..3 {
            let mut sum = 0.0;
            for (v, r) in scores.row(Channel::Value, i).iter().zip(rewards.row(i)) {
                assert_eq!(*v, sum);
                sum += r;
            }
        }
    }
}
