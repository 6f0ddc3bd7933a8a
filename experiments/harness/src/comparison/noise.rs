//! Where the true reward turns down as π_dpo and r_φ come from fewer pairs, from `noise_runs.csv` and `worlds.csv` alone.

pub mod figures;

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::differences;
use super::world::World;
use crate::stats::{Sample, Support, sign_flip};
use crate::table::{Cell, Table};

/// RTO on π_dpo by χPO's loss, as runs name it.
pub const CHI_PO: &str = "rto_chi_po";

/// A measurement along a run, as shares: samples, J, true reward; and KL in nats.
#[derive(Debug, Clone, Copy)]
struct At {
    samples: f64,
    objective: f64,
    reward: f64,
    kl: f64,
}

/// (instance, pairs) and runs by variant, each of seeds in order.
type Runs = BTreeMap<String, Vec<Vec<At>>>;

const COLUMNS: [&str; 9] = [
    "instance", "pairs", "variant", "quantity", "estimate", "low", "high", "p", "seeds",
];

/// `noise_curves`: J, true reward and KL along training, in the mean; `noise`: for each number of pairs and each reward, where J and the true reward are largest along training and what is lost from there to the end.
///
/// Shares are of the optimum's lead over SFT, in J and in true reward. A maximum over noisy points is never below the end, so that a loss counted from
/// each run's own would never be negative; `*_loss` counts it from the time at which the mean of the *other* seeds is largest.
///
/// # Errors
/// A run or a world that is missing, a column or a number that is none.
pub fn conclude(runs: &Table, worlds: &Table, beta2: f64) -> Result<[Table; 2]> {
    let mut table = Table::new("noise", &COLUMNS);
    let mut curves = Table::new("noise_curves", &CURVES);
    for instance in runs.distinct("instance")? {
        let here = runs.filter("instance", &instance)?;
        let mut sizes: Vec<u64> = here.parsed("pairs", "a number of pairs")?;
        sizes.sort_unstable();
        sizes.dedup();
        let worlds = World::of(worlds, &instance)?;
        for pairs in sizes {
            let rows = here.filter("pairs", &pairs.to_string())?;
            let names = rows.distinct("variant")?;
            let found = read(&rows, &worlds, beta2)?;
            let rto = found.get("rto").context("noise_runs: no rto")?;
            for name in &names {
                let own = &found[name];
                curve(&mut curves, (&instance, pairs, name), own);
                for (quantity, sample) in quantities(own) {
                    push(&mut table, (&instance, pairs, name), &quantity, &sample);
                }
                if name == "rto" {
                    continue;
                }
                for ((quantity, own), (_, rto)) in quantities(own).iter().zip(quantities(rto)) {
                    // Against RTO: what is kept at the end, and what was lost on the way there.
                    if quantity.ends_with("_end")
                        || quantity.ends_with("_loss")
                        || quantity.starts_with("kl_")
                    {
                        let gap = differences(own, &rto);
                        push(
                            &mut table,
                            (&instance, pairs, name),
                            &format!("{quantity}_less_rto"),
                            &gap,
                        );
                    }
                }
            }
        }
    }
    Ok([curves, table])
}

const CURVES: [&str; 7] = [
    "instance",
    "pairs",
    "variant",
    "samples",
    "objective",
    "reward",
    "kl",
];

/// The means of runs along training.
fn curve(table: &mut Table, (instance, pairs, variant): (&str, u64, &str), runs: &[Vec<At>]) {
    for t in 0..runs[0].len() {
        let mean = |of: fn(&At) -> f64| Sample(runs.iter().map(|run| of(&run[t])).collect()).mean();
        table.push([
            instance.into(),
            pairs.into(),
            variant.into(),
            runs[0][t].samples.into(),
            mean(|at| at.objective).into(),
            mean(|at| at.reward).into(),
            mean(|at| at.kl).into(),
        ]);
    }
}

fn push(
    table: &mut Table,
    (instance, pairs, variant): (&str, u64, &str),
    quantity: &str,
    sample: &Sample,
) {
    let (mean, low, high) = sample.interval(Support::Real);
    // A level or a place is no difference, and has no test.
    let tested = quantity.ends_with("_loss") || quantity.ends_with("_less_rto");
    table.push([
        instance.into(),
        pairs.into(),
        variant.into(),
        quantity.into(),
        mean.into(),
        low.into(),
        high.into(),
        tested
            .then(|| sign_flip(&sample.0))
            .map_or(Cell::Empty, Cell::from),
        sample.len().into(),
    ]);
}

/// The runs of an instance and a number of pairs, as shares.
fn read(rows: &Table, worlds: &BTreeMap<u64, World>, beta2: f64) -> Result<Runs> {
    let variants = rows.texts("variant")?;
    let seeds = rows.parsed::<u64>("seed", "a seed")?;
    let floats = ["samples", "objective", "reward", "kl"].map(|c| rows.floats(c));
    let [samples, objective, reward, kl] = floats;
    let (samples, objective, reward, kl) = (samples?, objective?, reward?, kl?);
    let mut by_seed: BTreeMap<(String, u64), Vec<At>> = BTreeMap::new();
    for i in 0..rows.len() {
        let world = worlds.get(&seeds[i]);
        let world = world.with_context(|| format!("worlds: no seed {}", seeds[i]))?;
        let (sft, best) = (world.reward("sft")?, world.reward("optimum")?);
        let at = At {
            samples: samples[i],
            objective: world.share(objective[i], beta2)?,
            reward: (reward[i] - sft) / (best - sft),
            kl: kl[i],
        };
        let of = (variants[i].clone(), seeds[i]);
        by_seed.entry(of).or_default().push(at);
    }
    let mut all = Runs::new();
    for ((variant, _), run) in by_seed {
        all.entry(variant).or_default().push(run);
    }
    Ok(all)
}

/// What is said of the runs of one reward, seed by seed.
fn quantities(runs: &[Vec<At>]) -> Vec<(String, Sample)> {
    let mut all = Vec::new();
    for (name, of) in [
        ("reward", (|at: &At| at.reward) as fn(&At) -> f64),
        ("objective", |at: &At| at.objective),
    ] {
        let each =
            |value: &dyn Fn(&[At]) -> f64| Sample(runs.iter().map(|run| value(run)).collect());
        let most = |run: &[At]| run[largest(run.iter().map(of))];
        let end = |run: &[At]| *run.last().expect("a run has an end");
        all.push((
            format!("samples_at_most_{name}"),
            each(&|run| most(run).samples),
        ));
        all.push((format!("kl_at_most_{name}"), each(&|run| most(run).kl)));
        all.push((format!("most_{name}"), each(&|run| of(&most(run)))));
        all.push((format!("{name}_end"), each(&|run| of(&end(run)))));
        let loss = |i: usize| {
            let others = runs.iter().enumerate().filter(|(j, _)| *j != i);
            let others: Vec<&Vec<At>> = others.map(|(_, run)| run).collect();
            let mean = |t: usize| others.iter().map(|run| of(&run[t])).sum::<f64>();
            let at = largest((0..runs[i].len()).map(mean));
            of(&runs[i][at]) - of(&end(&runs[i]))
        };
        all.push((
            format!("{name}_loss"),
            Sample((0..runs.len()).map(loss).collect()),
        ));
    }
    all.push((
        "kl_end".into(),
        Sample(runs.iter().map(|run| run[run.len() - 1].kl).collect()),
    ));
    all
}

/// The first of the largest.
fn largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, v) in values.enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs that turn down at their third point lose what they lose; runs that wander around a level lose nothing in the mean.
    #[test]
    fn a_loss_is_counted_from_where_the_other_seeds_turn() {
        let at = |t: usize, reward: f64| At {
            samples: 10.0 * t as f64,
            objective: 2.0 * reward,
            reward,
            kl: t as f64,
        };
        let run = |values: [f64; 5]| -> Vec<At> {
            values.iter().enumerate().map(|(t, r)| at(t, *r)).collect()
        };
        let turning = [
            [0.0, 0.5, 0.9, 0.7, 0.4],
            [0.0, 0.4, 0.8, 0.85, 0.5],
            [0.0, 0.6, 0.7, 0.5, 0.3],
        ];
        let found = quantities(&turning.map(run));
        let of = |name: &str| found.iter().find(|q| q.0 == name).unwrap().1.clone();
        let close = |sample: Sample, values: [f64; 3]| {
            assert!(
                sample
                    .0
                    .iter()
                    .zip(values)
                    .all(|(a, b)| (a - b).abs() < 1e-12),
                "{sample:?}"
            );
        };
        close(of("reward_loss"), [0.5, 0.3, 0.4]);
        close(of("objective_loss"), [1.0, 0.6, 0.8]);
        close(of("samples_at_most_reward"), [20.0, 30.0, 20.0]);
        close(of("kl_at_most_objective"), [2.0, 3.0, 2.0]);
        close(of("most_reward"), [0.9, 0.85, 0.7]);
        close(of("reward_end"), [0.4, 0.5, 0.3]);
        // Without a turn: each run has its own accident, and the mean of the others ends where it is largest or elsewhere.
        let level = [
            [0.0, 1.2, 1.0, 1.0, 1.0],
            [0.0, 1.0, 1.0, 1.0, 1.0],
            [0.0, 1.0, 1.0, 1.0, 1.2],
        ];
        let found = quantities(&level.map(run));
        let loss = &found.iter().find(|q| q.0 == "reward_loss").unwrap().1;
        assert!(loss.0[0] <= 0.2 && loss.0[2] <= 0.0, "{loss:?}");
    }
}
