//! A cell of the study: a method tunes on an instance, and its chosen point is reported.

use anyhow::Result;
use rto_harness::methods::Method;
use rto_harness::on_tree::setup::Setup;
use rto_harness::stats::Sample;
use rto_harness::table::Cell;

use crate::config::Point;
use crate::train::{At, Critic, Run};
use crate::world::{Truth, rounded};
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

/// The levels to which samples are counted, in per cent of J(optimum) − J(SFT), the one that is tested first.
pub const LEVELS: [u32; 4] = [50, 25, 75, 90];

/// The stage of the grid on the tuning seeds; the last iteration alone is kept.
pub const TUNE: &str = "tune";
/// The chosen point on the report seeds.
pub const REPORT: &str = "report";
/// The chosen point at other β₂, for the reward at matched KL.
pub const ENVELOPE: &str = "envelope";
/// The chosen point but λ = 1.
pub const LAMBDA_ONE: &str = "lambda_1";
/// The chosen point but with V^π in place of the critic.
pub const EXACT_CRITIC: &str = "exact_critic";

/// Every row of a method on an instance.
pub fn cell(study: &Study, instance: Instance, method: &'static Method) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let points = c.grid(method)?;
    let last = c.ppo.iterations;
    let mut rows = Vec::new();
    let mut ends = vec![Sample::default(); points.len()];
    for (i, point) in points.iter().enumerate() {
        for &seed in &c.tuning_seeds {
            let how = (*point, c.ppo.beta2, Critic::Learnt);
            let end = one(study, (instance, method), how, seed, last)?.pop();
            let end = end.expect("a run has an end");
            ends[i].0.push(objective(&end, c.ppo.beta2));
            let row = row(instance, method, TUNE, i, point, c.ppo.beta2, seed, &end);
            rows.push(row);
        }
    }
    let chosen = choose(&points, &ends);
    let at = points[chosen];
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
                    let world = study.worlds.get(study, instance, seed)?;
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
    let setup = study.worlds.get(study, instance, seed)?;
    // One stream for all methods and points.
    let seeds = study.seeds.child("runs").child(instance.name()).index(seed);
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
    let truth = Truth::new(world, beta2)?;
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

/// The point with the largest mean over the tuning seeds; of those that are behind it by no more than one standard error of the paired
/// difference, one with the smallest learning rate, the best of these.
pub fn choose(points: &[Point], ends: &[Sample]) -> usize {
    let first = |a: usize, b: usize| match ends[b].mean() > ends[a].mean() {
        true => b,
        false => a,
    };
    let best = (0..points.len()).reduce(first).expect("a grid has points");
    let tied = |i: &usize| {
        let behind = ends[best].0.iter().zip(&ends[*i].0).map(|(a, b)| a - b);
        let behind = Sample(behind.collect());
        *i == best || behind.mean() <= behind.error()
    };
    let tied: Vec<usize> = (0..points.len()).filter(tied).collect();
    let least = tied.iter().map(|i| points[*i].learning_rate);
    let least = least.fold(f64::INFINITY, f64::min);
    let slowest = tied
        .into_iter()
        .filter(|i| points[*i].learning_rate == least);
    slowest.reduce(first).expect("the best is among them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_within_one_standard_error_go_to_the_smaller_rate() {
        let point = |learning_rate| Point {
            learning_rate,
            lambda: 1.0,
            critic_learning_rate: 1.0,
            clip: 0.2,
        };
        let points = [0.3, 0.3, 1.0, 3.0].map(point);
        let of = |means: [f64; 4], spread: f64| {
            // Paired differences of 0, ±spread: mean 0, standard error spread/√3.
            let seeds = |m: f64, s: f64| Sample(vec![m - s, m, m + s]);
            let ends: Vec<Sample> = means
                .iter()
                .enumerate()
                .map(|(i, m)| seeds(*m, if i == 2 { 0.0 } else { spread }))
                .collect();
            choose(&points, &ends)
        };
        // Clearly the best.
        assert_eq!(of([0.0, 0.1, 1.0, 0.5], 0.1), 2);
        // 0.1 behind with a standard error of 0.3/√3 = 0.17.
        assert_eq!(of([0.8, 0.9, 1.0, 0.5], 0.3), 1);
        // The same, but the error is 0.1/√3 = 0.058.
        assert_eq!(of([0.8, 0.9, 1.0, 0.5], 0.1), 2);
        // The best has the largest rate, and the one before is tied.
        assert_eq!(of([0.0, 0.0, 0.99, 1.0], 0.1), 2);
    }
}
