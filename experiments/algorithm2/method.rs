//! One run of Algorithm 2 or of a baseline, measured exactly as it goes.

use anyhow::Result;
use rto::algorithm2::{PpoConfig, PpoRun};
use rto::mdp::{Beta, Problem, TabularPolicy};
use rto::plan::{evaluate, visitation};
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::{LogRatioReward, TabularReward};
use rto::seed::SeedTree;
use rto::seq::TokenReward;
use rto_harness::methods::{Keys, Method, Parts};
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::{Trainer, prefix_sums, tabulate};
use rto_harness::table::Cell;

use crate::config::Config;

/// What a run may vary.
#[derive(Debug, Clone, Copy)]
pub struct Knobs {
    pub beta2: f64,
    pub lambda: f64,
    pub critic_learning_rate: f64,
    /// N, responses per iteration.
    pub responses: usize,
    pub iterations: u64,
}

/// The policy after some iterations, measured exactly.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub iteration: u64,
    /// Response tokens sampled.
    pub tokens: u64,
    /// V*(ρ) − V^π(ρ) for Σ β₁ log(π_dpo/π_ref) − β₂ KL, the objective of RTO and DPPO.
    pub objective_gap: f64,
    /// The same for the reward the method was given.
    pub own_gap: f64,
    /// SubOpt of (3.5): the true reward, at β.
    pub true_gap: f64,
    /// The true reward at β₂β/β₁, for which the exact optimum of RTO is optimal when π_dpo is.
    pub matched_gap: f64,
    /// E Σ r.
    pub reward: f64,
    /// E Σ β₁ log(π_dpo/π_ref), what Figure 3 of the paper shows.
    pub implicit_reward: f64,
    /// Nats per response.
    pub kl: f64,
    /// Nats per response.
    pub entropy: f64,
    /// √E_{d^π}(V − V^π)², without a critic none.
    pub critic_error: Option<f64>,
}

impl Point {
    /// A point of which only the number of tokens and the gap are known.
    pub fn gap_only(tokens: u64, objective_gap: f64) -> Self {
        Self {
            iteration: 0,
            tokens,
            objective_gap,
            own_gap: f64::NAN,
            true_gap: f64::NAN,
            matched_gap: f64::NAN,
            reward: f64::NAN,
            implicit_reward: f64::NAN,
            kl: f64::NAN,
            entropy: f64::NAN,
            critic_error: None,
        }
    }

    /// The numbers in the order of the fields.
    pub fn cells(&self) -> [Cell; 11] {
        [
            self.iteration.into(),
            self.tokens.into(),
            self.objective_gap.into(),
            self.own_gap.into(),
            self.true_gap.into(),
            self.matched_gap.into(),
            self.reward.into(),
            self.implicit_reward.into(),
            self.kl.into(),
            self.entropy.into(),
            self.critic_error.into(),
        ]
    }
}

/// The exact yardsticks of an instance at one β₂.
pub struct Yardsticks {
    objective: ExactEvaluator,
    truth: ExactEvaluator,
    matched: ExactEvaluator,
}

impl Yardsticks {
    pub fn new(setup: &Setup, beta2: f64) -> Result<Self> {
        let dpo = setup.dpo.table()?;
        let implicit = LogRatioReward::try_new(&dpo, &setup.reference, setup.beta1.get())?;
        let reference = || setup.reference.clone();
        let (map, beta2) = (&setup.map, Beta::try_new(beta2)?);
        Ok(Self {
            objective: ExactEvaluator::try_new(map.clone(), &implicit, reference(), beta2)?,
            truth: ExactEvaluator::try_new(map.clone(), &setup.reward, reference(), setup.beta1)?,
            // β₂β/β₁ with DPO's own β = β₁.
            matched: ExactEvaluator::try_new(map.clone(), &setup.reward, reference(), beta2)?,
        })
    }

    /// Everything about a policy that does not depend on how it was made.
    pub fn measure(&self, policy: &TabularPolicy) -> Result<Point> {
        self.measure_beside(&self.objective, policy)
    }

    /// The same with the gap of another objective, in one walk over the states.
    fn measure_beside(&self, own: &ExactEvaluator, policy: &TabularPolicy) -> Result<Point> {
        let yardsticks = [&self.truth, &self.objective, &self.matched, own];
        let [truth, objective, matched, own] = ExactEvaluator::reports(yardsticks, policy)?;
        Ok(Point {
            iteration: 0,
            tokens: 0,
            objective_gap: objective.suboptimality,
            own_gap: own.suboptimality,
            true_gap: truth.suboptimality,
            matched_gap: matched.suboptimality,
            reward: truth.reward,
            implicit_reward: objective.reward,
            kl: truth.kl,
            entropy: truth.entropy,
            critic_error: None,
        })
    }
}

/// The reward of a method, without its KL term.
fn reward<'a>(
    method: &Method,
    setup: &'a Setup,
    beta2: f64,
    keys: &'a Keys,
) -> Result<Box<dyn TokenReward + 'a>> {
    Ok((method.training().reward)(&Parts {
        dpo: &setup.dpo,
        reference: &setup.start,
        reward_model: &setup.reward_model,
        reward_mean: 0.0,
        beta1: setup.beta1.get(),
        beta2,
        keys,
    })?)
}

/// Runs a method and measures it every `eval_every` iterations and at the end.
pub fn run(
    method: &Method,
    setup: &Setup,
    knobs: &Knobs,
    config: &Config,
    seeds: &SeedTree,
) -> Result<Vec<Point>> {
    let keys = method.keys(&config.method)?;
    let ppo = method.ppo(knobs.ppo(config), &keys).check()?;
    let reward = reward(method, setup, ppo.beta2, &keys)?;
    let measure = Measure::new(setup, &*reward, ppo.beta2)?;
    let prompts: Vec<_> = (0..setup.map.n_prompts()).map(StateMap::prompt).collect();
    let run = PpoRun {
        reference: &setup.start,
        reward: &*reward,
        prompts: &prompts,
        config: &ppo,
        seeds,
    };
    let start = critic_start(method, setup)?;
    let mut trainer = Trainer::new(&setup.start, &setup.reference, &ppo, &start)?;
    let mut points = Vec::new();
    loop {
        let at = trainer.state().iteration;
        if at.is_multiple_of(config.eval_every) || at == knobs.iterations {
            points.push(Point {
                iteration: at,
                tokens: trainer.state().sampled_tokens,
                ..measure.point(&trainer.policy()?, trainer.values())?
            });
        }
        if trainer.next(&run)?.is_none() {
            return Ok(points);
        }
    }
}

/// V before the first iteration.
fn critic_start(method: &Method, setup: &Setup) -> Result<Vec<f64>> {
    match method.training().critic_from_prefix {
        true => {
            let table = tabulate(&setup.map, &setup.dpo_reward()?)?;
            Ok(prefix_sums(setup.map.mdp(), &table))
        }
        false => Ok(vec![0.0; setup.map.mdp().n_states()]),
    }
}

impl Knobs {
    /// The `[ppo]` table with what this run varies.
    fn ppo(&self, config: &Config) -> PpoConfig {
        PpoConfig {
            iterations: self.iterations,
            prompts_per_iteration: self.responses,
            beta2: self.beta2,
            lambda: self.lambda,
            critic_learning_rate: self.critic_learning_rate,
            ..config.ppo
        }
    }
}

struct Measure<'a> {
    setup: &'a Setup,
    yardsticks: Yardsticks,
    own: ExactEvaluator,
    table: TabularReward,
    beta2: Beta,
}

impl<'a> Measure<'a> {
    fn new(setup: &'a Setup, reward: &dyn TokenReward, beta2: f64) -> Result<Self> {
        let table = tabulate(&setup.map, reward)?;
        let (map, reference) = (setup.map.clone(), setup.reference.clone());
        Ok(Self {
            setup,
            yardsticks: Yardsticks::new(setup, beta2)?,
            own: ExactEvaluator::try_new(map, &table, reference, Beta::try_new(beta2)?)?,
            table,
            beta2: Beta::try_new(beta2)?,
        })
    }

    fn point(&self, policy: &TabularPolicy, values: Option<&[f64]>) -> Result<Point> {
        let error = values.map(|v| self.critic_error(policy, v));
        Ok(Point {
            critic_error: error.transpose()?,
            ..self.yardsticks.measure_beside(&self.own, policy)?
        })
    }

    fn critic_error(&self, policy: &TabularPolicy, values: &[f64]) -> Result<f64> {
        let mdp = self.setup.map.mdp();
        let exact = evaluate(
            Problem::new(mdp, &self.setup.reference, self.beta2),
            &self.table,
            policy,
        )?;
        let d = visitation(mdp, policy)?.state;
        let (mut square, mut total) = (0.0, 0.0);
        for ((v, exact), d) in values.iter().zip(&exact.v).zip(&d) {
            square += d * (v - exact).powi(2);
            total += d;
        }
        Ok((square / total).sqrt())
    }
}

/// The mean over sampled tokens of a quantity, by trapezoids: what a whole run cost, not only where it ended.
pub fn mean_over_run(points: &[Point], what: impl Fn(&Point) -> f64) -> f64 {
    let area: f64 = points
        .windows(2)
        .map(|w| (w[1].tokens - w[0].tokens) as f64 * 0.5 * (what(&w[0]) + what(&w[1])))
        .sum();
    let tokens = points.last().map_or(0, |p| p.tokens);
    area / tokens as f64
}
