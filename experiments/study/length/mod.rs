//! How the ratio of samples DPPO to RTO grows with the length of a reply: a cell is a placement of the reward and a length.

mod critic;
mod run;
mod settings;

use anyhow::Result;
use rto::mdp::{Beta, Problem};
use rto::plan::soft_value_iteration;
use rto_harness::comparison::{Point, REPORT, TUNE, WORLD, choose_arrived};
use rto_harness::on_tree::untrained::{Measured, rounded};
use rto_harness::stats::Sample;
use rto_harness::table::Cell;

use crate::Study;
use run::{End, How, Paid, World};
pub use settings::{Length, Place, Start};

/// The columns of `length_runs.csv`, after the cell's id. A row of stage `world` is a policy that needs no training: SFT, π_dpo, the optimum, and
/// `target`, the optimum of the DPO reward, to which both methods go. One of stage `tune` is a run at a learning rate of the
/// grid on a tuning seed, which may be cut before the level.
pub const COLUMNS: &[&str] = &[
    "placement",
    "horizon",
    "stage",
    "critic",
    "lambda",
    "method",
    "learning_rate",
    "seed",
    "samples",
    "reached",
    "objective",
    "kl",
];

/// A method with its critic, before its learning rate is chosen.
#[derive(Clone, Copy)]
struct Way {
    critic: Start,
    lambda: f64,
    paid: Paid,
}

/// Every row of a placement and a length: each method, λ and critic chooses a learning rate on the tuning seeds, and is reported at it.
pub fn cell(study: &Study, place: Place, horizon: usize) -> Result<Vec<Vec<Cell>>> {
    let (c, l) = (&study.config, &study.config.length);
    let world = |seed: &u64| {
        let seeds = study.seeds.child("length").child(place.name());
        let seeds = seeds.index(horizon as u64).index(*seed);
        World::new(c, &l.spec(place, horizon), seeds)
    };
    let mut rows = Vec::new();
    let mut chosen: Vec<(Way, f64)> = Vec::new();
    {
        let seeds = c.tuning_seeds.iter().take(l.tuning_seeds);
        let worlds: Vec<(u64, World)> = seeds
            .map(|seed| Ok((*seed, world(seed)?)))
            .collect::<Result<_>>()?;
        for way in ways(l) {
            let tried = tuned(study, &worlds, way)?;
            for (point, ends) in &tried {
                for ((seed, _), end) in worlds.iter().zip(ends) {
                    let key = (Some(way), Some(point.learning_rate), Some(*seed));
                    let samples = rounded(end.samples).into();
                    let reached = usize::from(end.reached).into();
                    let found = [samples, reached, Cell::Empty, Cell::Empty];
                    rows.push(row((place, horizon, TUNE), way.paid.name(), key, found));
                }
            }
            let points: Vec<Point> = tried.iter().map(|(point, _)| *point).collect();
            let logs: Vec<Sample> = tried.iter().map(|(_, ends)| logs(ends)).collect();
            let reached: Vec<usize> = tried.iter().map(|(_, ends)| arrived(ends)).collect();
            let best = choose_arrived(&points, &logs, &reached);
            chosen.push((way, points[best].learning_rate));
        }
    }
    for &seed in &c.report_seeds {
        let world = world(&seed)?;
        let objective = |m: Measured| rounded(m.reward - c.ppo.beta2 * m.kl);
        for (name, m) in world.untrained(c.ppo.beta2)? {
            let found = [
                Cell::Empty,
                Cell::Empty,
                objective(m).into(),
                rounded(m.kl).into(),
            ];
            let key = (None, None, Some(seed));
            rows.push(row((place, horizon, WORLD), name, key, found));
        }
        for &(way, rate) in &chosen {
            let End {
                samples,
                reached,
                measured,
            } = world.run(c, way.how(rate), l.iterations)?;
            let found = [
                rounded(samples).into(),
                usize::from(reached).into(),
                objective(measured).into(),
                rounded(measured.kl).into(),
            ];
            let key = (Some(way), Some(rate), Some(seed));
            rows.push(row((place, horizon, REPORT), way.paid.name(), key, found));
        }
    }
    Ok(rows)
}

/// The learning rates of a method, smallest first, with the end of each on every tuning seed.
///
/// Rates are tried from the largest down, and a run ends at twice the samples that the best rate so far took in the mean: what is slower is not chosen.
/// Only a rate that arrives on every tuning seed cuts the others short, as one that arrives more often is chosen before one that is faster.
fn tuned(study: &Study, worlds: &[(u64, World)], way: Way) -> Result<Vec<(Point, Vec<End>)>> {
    let (c, l) = (&study.config, &study.config.length);
    let mut all = Vec::new();
    let mut most = l.iterations;
    for &learning_rate in l.learning_rates.iter().rev() {
        let how = way.how(learning_rate);
        let ends = worlds.iter().map(|(_, world)| world.run(c, how, most));
        let ends: Vec<End> = ends.collect::<Result<_>>()?;
        if arrived(&ends) == ends.len() {
            let iterations = 2.0 * (-logs(&ends).mean()).exp() / l.responses as f64;
            most = most.min(iterations.ceil() as u64);
        }
        let point = Point {
            learning_rate,
            lambda: way.lambda,
            critic_learning_rate: l.critic_learning_rate,
            clip: c.ppo.clip,
        };
        all.push((point, ends));
    }
    all.reverse();
    Ok(all)
}

/// Minus the logarithms of the samples.
fn logs(ends: &[End]) -> Sample {
    Sample(ends.iter().map(|end| -end.samples.ln()).collect())
}

/// How many runs reached the level.
fn arrived(ends: &[End]) -> usize {
    ends.iter().filter(|end| end.reached).count()
}

fn ways(l: &Length) -> impl Iterator<Item = Way> + '_ {
    let critics = l.critics.iter().copied();
    critics.flat_map(move |critic| {
        l.lambdas.iter().flat_map(move |&lambda| {
            Paid::BOTH.map(|paid| Way {
                critic,
                lambda,
                paid,
            })
        })
    })
}

impl Way {
    fn how(self, learning_rate: f64) -> How {
        How {
            paid: self.paid,
            critic: self.critic,
            lambda: self.lambda,
            learning_rate,
        }
    }
}

impl World {
    /// SFT, π_dpo, the optimum of the DPO reward at β₂, to which RTO and DPPO both go, and the optimum.
    fn untrained(&self, beta2: f64) -> Result<[(&'static str, Measured); 4]> {
        let problem = Problem::new(self.map.mdp(), &self.reference, Beta::try_new(beta2)?);
        let target = soft_value_iteration(problem, &self.paid)?.policy;
        Ok([
            ("sft", self.truth.measure(&self.reference)?),
            ("dpo", self.truth.measure(&self.dpo)?),
            ("target", self.truth.measure(&target)?),
            ("optimum", self.truth.best()?),
        ])
    }
}

fn row(
    (place, horizon, stage): (Place, usize, &str),
    method: &str,
    (way, rate, seed): (Option<Way>, Option<f64>, Option<u64>),
    found: [Cell; 4],
) -> Vec<Cell> {
    let mut row: Vec<Cell> = vec![
        place.name().into(),
        horizon.into(),
        stage.into(),
        way.map_or(Cell::Empty, |w| w.critic.name().into()),
        way.map_or(Cell::Empty, |w| w.lambda.into()),
        method.into(),
        rate.map_or(Cell::Empty, Cell::from),
        seed.map_or(Cell::Empty, Cell::from),
    ];
    row.extend(found);
    row
}
