//! One run of a method at a point of its grid, measured exactly as it goes.

use anyhow::Result;
use rto::algorithm2::{Advantage, PpoConfig, PpoRun};
use rto::mdp::{Beta, Problem, TabularPolicy};
use rto::plan::{evaluate, visitation};
use rto::policy::StateMap;
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto_harness::comparison::Point;
use rto_harness::methods::{Method, Parts};
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::untrained::{Measured, Truth};
use rto_harness::on_tree::{Trainer, tabulate};

use crate::Instance;
use crate::config::Config;

/// What advantages are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Critic {
    /// A table that starts at zero and learns.
    Learnt,
    /// V^π itself, before every iteration; without a critic nothing changes.
    Exact,
}

/// A run.
pub struct Run<'a> {
    pub method: &'static Method,
    pub instance: Instance,
    pub point: Point,
    pub beta2: f64,
    pub critic: Critic,
    pub setup: &'a Setup,
    pub seeds: SeedTree,
    /// Iterations between two measurements.
    pub every: u64,
}

/// The policy after some iterations.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub iteration: u64,
    /// Responses drawn from the policy in training.
    pub samples: u64,
    pub measured: Measured,
    /// E Σ r* of greedy decoding.
    pub greedy: f64,
    /// √E_{d^π}(V − V^π)², without a critic none.
    pub critic_error: Option<f64>,
}

impl Run<'_> {
    /// Trains, and measures before the first iteration, every so many, and after the last.
    pub fn measured(&self, config: &Config) -> Result<Vec<At>> {
        let setup = self.setup;
        let truth = Truth::new(&setup.map, &setup.reward, &setup.reference, self.beta2)?;
        let mut all = Vec::new();
        self.along(config, |trainer, ppo, table| {
            let has_critic = ppo.advantage == Advantage::Gae;
            let iteration = trainer.state().iteration;
            let due = iteration.is_multiple_of(self.every) || iteration == ppo.iterations;
            let exact = has_critic && self.critic == Critic::Exact;
            if !due && !exact {
                return Ok(());
            }
            let policy = trainer.policy()?;
            let values = match has_critic {
                true => Some(values(setup, table, &policy, ppo.beta2)?),
                false => None,
            };
            if let (true, Some(values)) = (exact, &values) {
                trainer.set_values(values)?;
            }
            if due {
                let error = values.zip(trainer.values());
                all.push(At {
                    iteration,
                    samples: iteration * ppo.responses() as u64,
                    measured: truth.measure(&policy)?,
                    greedy: truth.greedy(&policy)?,
                    critic_error: error
                        .map(|(exact, v)| distance(setup, &policy, &exact, v))
                        .transpose()?,
                });
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Trains, and shows the trainer before the first iteration, between any two and after the last, with the method's settings and the reward that
    /// it maximises.
    pub fn along(
        &self,
        config: &Config,
        mut show: impl FnMut(&mut Trainer, &PpoConfig, &TabularReward) -> Result<()>,
    ) -> Result<()> {
        let (setup, method) = (self.setup, self.method);
        let keys = method.keys(&config.method)?;
        let base = PpoConfig {
            beta2: self.beta2,
            lambda: self.point.lambda,
            learning_rate: self.point.learning_rate,
            critic_learning_rate: self.point.critic_learning_rate,
            clip: self.point.clip,
            ..config.base(self.instance)
        };
        let ppo = method.ppo(base, &keys).check()?;
        let reward = (method.training().reward)(&Parts {
            dpo: &setup.dpo,
            reference: &setup.start,
            reward_model: &setup.reward_model,
            reward_mean: 0.0,
            beta1: setup.beta1.get(),
            beta2: ppo.beta2,
            keys: &keys,
        })?;
        let table = tabulate(&setup.map, &*reward)?;
        let prompts: Vec<_> = (0..setup.map.n_prompts()).map(StateMap::prompt).collect();
        let run = PpoRun {
            reference: &setup.start,
            reward: &*reward,
            prompts: &prompts,
            config: &ppo,
            seeds: &self.seeds,
        };
        let start = vec![0.0; setup.map.mdp().n_states()];
        let mut trainer = Trainer::new(&setup.start, &setup.reference, &ppo, &start)?;
        loop {
            show(&mut trainer, &ppo, &table)?;
            if trainer.next(&run)?.is_none() {
                return Ok(());
            }
        }
    }
}

/// V^π of the method's own objective.
fn values(
    setup: &Setup,
    table: &TabularReward,
    policy: &TabularPolicy,
    beta2: f64,
) -> Result<Vec<f64>> {
    let problem = Problem::new(setup.map.mdp(), &setup.reference, Beta::try_new(beta2)?);
    Ok(evaluate(problem, table, policy)?.v.to_vec())
}

/// √E_{d^π}(V − V^π)².
fn distance(setup: &Setup, policy: &TabularPolicy, exact: &[f64], v: &[f64]) -> Result<f64> {
    let d = visitation(setup.map.mdp(), policy)?.state;
    let (mut square, mut total) = (0.0, 0.0);
    for ((v, exact), d) in v.iter().zip(exact).zip(&d) {
        square += d * (v - exact).powi(2);
        total += d;
    }
    Ok((square / total).sqrt())
}
