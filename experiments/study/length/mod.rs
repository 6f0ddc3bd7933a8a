//! How the ratio of samples DPPO to RTO grows with the length of a reply: a cell is a placement of the reward and a length.

mod critic;
mod run;
mod settings;

use anyhow::Result;
use rto::mdp::{Beta, Problem};
use rto::plan::soft_value_iteration;
use rto_harness::comparison::{Point, REPORT, TUNE, WORLD, choose};
use rto_harness::methods::{Method, method};
use rto_harness::on_tree::untrained::{Measured, rounded};
use rto_harness::stats::Sample;
use rto_harness::table::Cell;

use crate::Study;
use run::{End, How, World};
pub use settings::{Length, Place, Start};

/// The columns of `length_runs.csv`, after the cell's id. A row of stage `world` is a policy that needs no training: SFT, π_dpo, the optimum, and
/// `target`, the optimum of the DPO reward, to which both methods go. One of stage `tune` is a learning rate over all tuning seeds: the geometric mean
/// of the samples, and how many runs reached the level.
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

/// Who is compared.
const METHODS: [&str; 2] = ["rto", "dppo"];

/// A method with its critic, before its learning rate is chosen.
#[derive(Clone, Copy)]
struct Way {
    critic: Start,
    lambda: f64,
    method: &'static Method,
}

/// Every row of a placement and a length: each method, λ and critic chooses a learning rate on the tuning seeds, and is reported at it.
pub fn cell(study: &Study, place: Place, horizon: usize) -> Result<Vec<Vec<Cell>>> {
    let (c, l) = (&study.config, &study.config.length);
    let world = |seed: &u64| World::new(study, place, horizon, *seed);
    let mut rows = Vec::new();
    let mut chosen: Vec<(Way, f64)> = Vec::new();
    {
        let worlds: Vec<World> = c.tuning_seeds.iter().map(world).collect::<Result<_>>()?;
        for way in ways(l) {
            let mut points = Vec::new();
            let mut ends = Vec::new();
            for &learning_rate in &l.learning_rates {
                let mut logs = Sample::default();
                let mut reached = 0;
                for world in &worlds {
                    let end = world.run(study, way.how(learning_rate))?;
                    logs.0.push(-end.samples.ln());
                    reached += usize::from(end.reached);
                }
                let key = (Some(way), Some(learning_rate), None);
                let found = [
                    rounded((-logs.mean()).exp()).into(),
                    reached.into(),
                    Cell::Empty,
                    Cell::Empty,
                ];
                rows.push(row((place, horizon, TUNE), way.method.name, key, found));
                points.push(Point {
                    learning_rate,
                    lambda: way.lambda,
                    critic_learning_rate: l.critic_learning_rate,
                    clip: c.ppo.clip,
                });
                ends.push(logs);
            }
            chosen.push((way, points[choose(&points, &ends)].learning_rate));
        }
    }
    for &seed in &c.report_seeds {
        let world = world(&seed)?;
        for (name, m) in world.untrained(study)? {
            let found = [
                Cell::Empty,
                Cell::Empty,
                rounded(m.reward - c.ppo.beta2 * m.kl).into(),
                rounded(m.kl).into(),
            ];
            rows.push(row(
                (place, horizon, WORLD),
                name,
                (None, None, Some(seed)),
                found,
            ));
        }
        for &(way, rate) in &chosen {
            let End {
                samples,
                reached,
                measured,
            } = world.run(study, way.how(rate))?;
            let found = [
                rounded(samples).into(),
                usize::from(reached).into(),
                rounded(measured.reward - c.ppo.beta2 * measured.kl).into(),
                rounded(measured.kl).into(),
            ];
            let key = (Some(way), Some(rate), Some(seed));
            rows.push(row((place, horizon, REPORT), way.method.name, key, found));
        }
    }
    Ok(rows)
}

fn ways(l: &Length) -> impl Iterator<Item = Way> + '_ {
    let critics = l.critics.iter().copied();
    critics.flat_map(move |critic| {
        l.lambdas.iter().flat_map(move |&lambda| {
            METHODS.map(|name| Way {
                critic,
                lambda,
                method: method(name),
            })
        })
    })
}

impl Way {
    fn how(self, learning_rate: f64) -> How {
        How {
            method: self.method,
            critic: self.critic,
            lambda: self.lambda,
            learning_rate,
        }
    }
}

impl World {
    /// SFT, π_dpo, the optimum of the DPO reward at β₂, to which RTO and DPPO both go, and the optimum.
    fn untrained(&self, study: &Study) -> Result<[(&'static str, Measured); 4]> {
        let setup = &self.setup;
        let beta2 = Beta::try_new(study.config.ppo.beta2)?;
        let problem = Problem::new(setup.map.mdp(), &setup.reference, beta2);
        let target = soft_value_iteration(problem, &self.dpo_reward()?)?.policy;
        Ok([
            ("sft", self.truth.measure(&setup.reference)?),
            ("dpo", self.truth.measure(&setup.dpo.table()?)?),
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
