//! (b) Where RTO is ahead of DPPO: λ of GAE against the learning rate of the critic.

use anyhow::Result;
use rto_harness::methods::method;
use rto_harness::stats::shown;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::method::{Knobs, mean_over_run, run};
use crate::tables::{Group, Ratio, blocks, groups};
use crate::{Instance, Study};

const COLUMNS: &[&str] = &[
    "lambda",
    "critic_rate",
    "replicate",
    "rto_mean",
    "dppo_mean",
    "rto_final",
    "dppo_final",
];

/// Pairs of runs in one cell.
const BLOCK: u64 = 6;

/// A cell for each setting and block of replicates.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let c = &study.config;
    let mut tasks = Vec::new();
    for &lambda in &c.lambdas {
        for &rate in &c.critic_learning_rates {
            for block in blocks(c.map_replicates, BLOCK) {
                let id = format!("algorithm2/b/{}", tasks.len());
                tasks.push(Task::new(id, COLUMNS, move || {
                    let rows = block.clone().map(|r| pair(study, lambda, rate, r));
                    rows.collect()
                }));
            }
        }
    }
    tasks
}

fn pair(study: &Study, lambda: f64, rate: f64, replicate: u64) -> Result<Vec<Cell>> {
    let c = &study.config;
    let knobs = Knobs {
        beta2: c.ppo.beta2,
        lambda,
        critic_learning_rate: rate,
        responses: c.long_responses,
        iterations: c.map_iterations,
    };
    // The same streams at every setting: differences between settings are paired too.
    let seeds = study.seeds.child("map").index(replicate);
    let setup = study.setup(Instance::Long);
    let mut ends = Vec::new();
    for method in [method("rto"), method("dppo")] {
        let points = run(method, setup, &knobs, c, &seeds)?;
        let last = points.last().map_or(f64::NAN, |p| p.objective_gap);
        ends.push((mean_over_run(&points, |p| p.objective_gap), last));
    }
    Ok(vec![
        lambda.into(),
        rate.into(),
        replicate.into(),
        ends[0].0.into(),
        ends[1].0.into(),
        ends[0].1.into(),
        ends[1].1.into(),
    ])
}

/// Tables, and what they say.
pub struct Map {
    pub map: Table,
    groups: Vec<Group>,
}

pub fn summarise(runs: &Table) -> Result<Map> {
    let measures = ["rto_mean", "dppo_mean", "rto_final", "dppo_final"];
    let groups = groups(runs, &["lambda", "critic_rate"], &measures)?;
    let columns = [
        "lambda",
        "critic_rate",
        "replicates",
        "rto_mean",
        "dppo_mean",
        "mean_ratio",
        "mean_ratio_low",
        "mean_ratio_high",
        "rto_final",
        "dppo_final",
        "final_ratio",
        "final_ratio_low",
        "final_ratio_high",
    ];
    let mut map = Table::new("map", &columns);
    for group in &groups {
        let [a, b, c, d] = &group.samples[..] else {
            unreachable!("four measures")
        };
        let number = |text: &str| Cell::from(text.parse::<f64>().unwrap_or(f64::NAN));
        let mut row = vec![number(&group.key[0]), number(&group.key[1]), a.len().into()];
        for (rto, dppo) in [(a, b), (c, d)] {
            row.extend([rto.mean().into(), dppo.mean().into()]);
            row.extend(Ratio::of(rto, dppo).cells());
        }
        map.push(row);
    }
    Ok(Map { map, groups })
}

impl Map {
    fn ratio(group: &Group) -> Ratio {
        Ratio::of(&group.samples[0], &group.samples[1])
    }

    pub fn text(&self, study: &Study) -> String {
        let c = &study.config;
        let titles: Vec<String> = c
            .critic_learning_rates
            .iter()
            .map(|r| format!("critic rate {r}"))
            .collect();
        let mut columns = vec!["lambda"];
        columns.extend(titles.iter().map(String::as_str));
        let mut table = Table::new("map", &columns);
        for row in self.groups.chunks(c.critic_learning_rates.len()) {
            let mut cells: Vec<Cell> = vec![row[0].key[0].as_str().into()];
            cells.extend(row.iter().map(|g| Cell::from(Self::ratio(g).text())));
            table.push(cells);
        }
        format!(
            "(b) {}: SubOpt over the run, RTO / DPPO, with 95% intervals of {} paired runs of {} iterations:\n{}{}",
            Instance::Long.title(c),
            c.map_replicates,
            c.map_iterations,
            table.render(),
            self.conclusion()
        )
    }

    fn conclusion(&self) -> String {
        let ratios: Vec<(&Group, Ratio)> =
            self.groups.iter().map(|g| (g, Self::ratio(g))).collect();
        let (wins, loses) = (
            ratios.iter().filter(|r| r.1.is_less()).count(),
            ratios.iter().filter(|r| r.1.is_more()).count(),
        );
        let by = |better: fn(f64, f64) -> bool| {
            let mut best: Option<&(&Group, Ratio)> = None;
            for r in &ratios {
                if best.is_none_or(|b| better(r.1.value, b.1.value)) {
                    best = Some(r);
                }
            }
            best.map_or(String::new(), |(g, r)| {
                format!("{} at lambda = {}, rate {}", r.text(), g.key[0], g.key[1])
            })
        };
        let groups = self.groups.iter();
        let best = |k: usize| {
            let means = groups.clone().map(|g| (g.samples[k].mean(), &g.key));
            means.min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let tuned = match (best(0), best(1)) {
            (Some((rto, at)), Some((dppo, there))) => format!(
                "=> Each at its best setting: RTO {} (lambda = {}, rate {}), DPPO {} (lambda = {}, rate {}).\n",
                shown(rto).text(),
                at[0],
                at[1],
                shown(dppo).text(),
                there[0],
                there[1]
            ),
            _ => String::new(),
        };
        format!(
            "=> RTO is significantly better in {wins} of {} settings, DPPO in {loses}. Lowest ratio {}; highest {}.\n{tuned}",
            ratios.len(),
            by(|a, b| a < b),
            by(|a, b| a > b)
        )
    }
}
