//! A cell of the study: a method tunes on an instance, and its chosen point is reported.

use std::sync::Arc;

use anyhow::Result;
use rto_harness::comparison::{
    ENVELOPE, EXACT_CRITIC, LAMBDA_ONE, LEVELS, Point, REPORT, TUNE, choose,
};
use rto_harness::methods::Method;
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::untrained::{Truth, rounded};
use rto_harness::stats::Sample;
use rto_harness::table::Cell;

use crate::train::{At, Critic, Run};
use crate::{Instance, Study};

/// The columns of `runs.csv`, after the cell's id. `objective` is E Σ r* − β₂ KL at the β₂ of the row.
pub const COLUMNS: &[&str] = &[
    "instance",
    "method",
    "stage",
    "point",
    "learning_rate",
    "lambda",
    "critic_learning_rate",
    "clip",
    "beta2",
    "seed",
    "iteration",
    "samples",
    "objective",
    "reward",
    "kl",
    "greedy",
    "critic_error",
];

/// The tuning of a method on an instance.
pub struct Tuned {
    rows: Vec<Vec<Cell>>,
    chosen: usize,
    /// The point that was chosen.
    pub at: Point,
}

impl Study {
    /// J at the end of every tuning run of a method, and the point that this chooses.
    pub fn tuned(&self, instance: Instance, method: &'static Method) -> Result<Arc<Tuned>> {
        self.tunings
            .get((instance, method.name), || tune(self, instance, method))
    }
}

fn tune(study: &Study, instance: Instance, method: &'static Method) -> Result<Tuned> {
    let c = &study.config;
    let points = c.grid(method)?;
    let mut rows = Vec::new();
    let mut ends = vec![Sample::default(); points.len()];
    for (i, point) in points.iter().enumerate() {
        for &seed in &c.tuning_seeds {
            let how = (*point, c.ppo.beta2, Critic::Learnt);
            let end = one(study, (instance, method), how, seed, c.ppo.iterations)?.pop();
            let end = end.expect("a run has an end");
            ends[i].0.push(objective(&end, c.ppo.beta2));
            let row = row(instance, method, TUNE, i, point, c.ppo.beta2, seed, &end);
            rows.push(row);
        }
    }
    let chosen = choose(&points, &ends);
    Ok(Tuned {
        rows,
        chosen,
        at: points[chosen],
    })
}

/// Every row of a method on an instance.
pub fn cell(study: &Study, instance: Instance, method: &'static Method) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let tuned = study.tuned(instance, method)?;
    let mut rows = tuned.rows.clone();
    let (chosen, at) = (tuned.chosen, tuned.at);
    let mut stages = vec![(REPORT, at, c.ppo.beta2, Critic::Learnt)];
    if ["rto", "dppo"].contains(&method.name) {
        for &beta2 in &c.envelope_beta2s {
            stages.push((ENVELOPE, at, beta2, Critic::Learnt));
        }
        let one = Point { lambda: 1.0, ..at };
        stages.push((LAMBDA_ONE, one, c.ppo.beta2, Critic::Learnt));
        stages.push((EXACT_CRITIC, at, c.ppo.beta2, Critic::Exact));
    }
    let every = c.every();
    for (stage, point, beta2, critic) in stages {
        for &seed in &c.report_seeds {
            let how = (point, beta2, critic);
            // What counts samples is measured after every iteration; what is drawn or taken at the end, at the protocol's times.
            let measured = match stage {
                ENVELOPE => one(study, (instance, method), how, seed, every)?,
                _ => {
                    let all = one(study, (instance, method), how, seed, 1)?;
                    let world = study.world(instance, seed)?;
                    let levels = levels(study, &world)?;
                    kept(&all, every, c.ppo.beta2, &levels)
                }
            };
            for end in measured {
                rows.push(row(
                    instance, method, stage, chosen, &point, beta2, seed, &end,
                ));
            }
        }
    }
    Ok(rows)
}

fn one(
    study: &Study,
    (instance, method): (Instance, &'static Method),
    (point, beta2, critic): (Point, f64, Critic),
    seed: u64,
    every: u64,
) -> Result<Vec<At>> {
    let setup = study.world(instance, seed)?;
    let seeds = study.run_seeds(instance, seed);
    let run = Run {
        method,
        instance,
        point,
        beta2,
        critic,
        setup: &setup,
        seeds,
        every,
    };
    run.measured(&study.config)
}

/// J at each level between J(SFT) and J(optimum).
fn levels(study: &Study, world: &Setup) -> Result<Vec<f64>> {
    let beta2 = study.config.ppo.beta2;
    let truth = Truth::new(&world.map, &world.reward, &world.reference, beta2)?;
    let sft = truth.measure(&world.reference)?.reward;
    let lead = truth.optimum() - sft;
    let level = |percent: &u32| sft + f64::from(*percent) / 100.0 * lead;
    Ok(LEVELS.iter().map(level).collect())
}

/// Every so many measurements, and around the first time that J reaches a level the one before and the one after.
fn kept(all: &[At], every: u64, beta2: f64, levels: &[f64]) -> Vec<At> {
    let mut crossings = Vec::new();
    for level in levels {
        let first = all.iter().position(|at| objective(at, beta2) >= *level);
        crossings.extend(first.into_iter().flat_map(|i| [i.saturating_sub(1), i]));
    }
    let is_kept = |i: usize, at: &At| at.iteration.is_multiple_of(every) || crossings.contains(&i);
    let rows = all.iter().enumerate().filter(|(i, at)| is_kept(*i, at));
    rows.map(|(_, at)| *at).collect()
}

fn objective(at: &At, beta2: f64) -> f64 {
    at.measured.reward - beta2 * at.measured.kl
}

#[allow(
    clippy::too_many_arguments,
    reason = "one argument for each part of the key"
)]
fn row(
    instance: Instance,
    method: &Method,
    stage: &str,
    point: usize,
    p: &Point,
    beta2: f64,
    seed: u64,
    at: &At,
) -> Vec<Cell> {
    vec![
        instance.name().into(),
        method.name.into(),
        stage.into(),
        point.into(),
        p.learning_rate.into(),
        p.lambda.into(),
        p.critic_learning_rate.into(),
        p.clip.into(),
        beta2.into(),
        seed.into(),
        at.iteration.into(),
        at.samples.into(),
        rounded(objective(at, beta2)).into(),
        rounded(at.measured.reward).into(),
        rounded(at.measured.kl).into(),
        rounded(at.greedy).into(),
        at.critic_error.map(rounded).into(),
    ]
}
