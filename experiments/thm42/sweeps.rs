//! (f) One setting changed at a time, random instances.

use anyhow::Result;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use crate::config::Config;
use crate::coverage::blocks;
use crate::setup::{named_radii, random_setup};
use crate::summary::{Group, curves, groups, of, violations, wide};
use rto_harness::stats::clopper_pearson;

const COLUMNS: &[&str] = &[
    "sweep",
    "value",
    "replicate",
    "method",
    "radius",
    "rho",
    "covered",
    "suboptimality",
    "bound",
];

/// Instances of one cell.
const BLOCK: u64 = 5;

/// The settings as data: which sweep, the value, and the config with that value.
fn settings(config: &Config) -> Vec<(&'static str, f64, Config)> {
    let mut out = Vec::new();
    let mut add = |sweep, value: f64, change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        out.push((sweep, value, config));
    };
    for beta in &config.betas {
        add("beta", *beta, &|c| c.beta = *beta);
    }
    for ridge in &config.ridges {
        add("lambda", *ridge, &|c| c.ridge = *ridge);
    }
    for dim in &config.dims {
        add("d", *dim as f64, &|c| c.dim = *dim);
    }
    for horizon in &config.horizons {
        add("H", *horizon as f64, &|c| c.horizon = *horizon);
    }
    out
}

/// A cell for each setting and block of replicates.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for (sweep, value, config) in settings(&study.config) {
        for block in blocks(config.sweep_replicates, BLOCK) {
            let id = format!("thm42/f/{}", tasks.len());
            let config = config.clone();
            tasks.push(Task::new(id, COLUMNS, move || {
                let mut rows = Vec::new();
                for replicate in block.clone() {
                    let key: [Cell; 3] = [sweep.into(), value.into(), replicate.into()];
                    rows.extend(run(study, &config, &key, replicate)?);
                }
                Ok(rows)
            }));
        }
    }
    tasks
}

/// One instance with one data set. Replicate i has the same random streams at every setting, so that
/// settings are compared on the same draws where shapes allow it.
fn run(study: &Study, config: &Config, key: &[Cell], replicate: u64) -> Result<Vec<Vec<Cell>>> {
    let seeds = study.seeds.child("sweeps").index(replicate);
    let setup = random_setup(config, &seeds.child("instance"))?;
    let design = setup.sample(config.sweep_size, &seeds.child("data"))?;
    let [printed, upsilon, _, concordant, _, wald] = named_radii(config.printed_constant);
    let kinds = [wald, concordant, printed, upsilon];
    let outcomes = setup.fit(&design)?.outcomes(&kinds)?;
    let mut rows: Vec<Vec<Cell>> = outcomes.iter().map(|o| o.cells(key)).collect();
    let predicted = setup.constant()? / config.sweep_size as f64;
    let mut row = key.to_vec();
    row.extend([
        "predicted".into(),
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
        predicted.into(),
        Cell::Empty,
    ]);
    rows.push(row);
    Ok(rows)
}

/// Tables, and what they say.
pub struct Sweeps {
    groups: Vec<Group>,
    pub curves: Table,
}

pub fn summarise(runs: &Table) -> Result<Sweeps> {
    let keys = ["sweep", "value"];
    let groups = groups(runs, &keys)?;
    let all = curves("sweeps", &groups, &keys);
    let mut columns: Vec<&str> = all.columns().iter().map(String::as_str).collect();
    columns.push("better_than_reference");
    let mut table = Table::new("sweeps", &columns);
    for (row, group) in all.rows().iter().zip(&groups) {
        let mut row = row.clone();
        // A prediction is a number for a setting, and a policy is not better than itself.
        row.push(match group.method.as_str() {
            "predicted" | "reference" => Cell::Empty,
            _ => better(group, &groups).into(),
        });
        table.push(row);
    }
    Ok(Sweeps {
        curves: table,
        groups,
    })
}

/// Runs in which the method has a smaller suboptimality than π_ref on the same instance.
fn better(group: &Group, groups: &[Group]) -> Option<usize> {
    let reference = of(groups, "reference", "").find(|g| g.key == group.key)?;
    // Both in the order of the replicates.
    let pairs = group.suboptimality.0.iter().zip(&reference.suboptimality.0);
    Some(pairs.filter(|(a, b)| a < b).count())
}

impl Sweeps {
    pub fn text(&self, study: &Study) -> String {
        let shown = [
            ("reference", "", "pi_ref"),
            ("greedy", "", "plain MLE"),
            ("predicted", "", "predicted"),
            ("algorithm1", "wald", "Algorithm 1"),
            ("bound of algorithm1", "wald", "its bound"),
            ("covered by algorithm1", "wald", "covered"),
            ("baselined", "wald", "(B.1) baselined"),
            ("bound of baselined", "wald", "its bound "),
            ("algorithm1", "self_concordant", "Alg. 1 self-conc."),
            ("algorithm1", "printed", "Alg. 1 as printed"),
            ("algorithm1", "theory_upsilon", "Alg. 1 repaired"),
        ];
        let c = &study.config;
        format!(
            "(f) One setting changed at a time from beta = {}, lambda = {}, d = {}, H = {}; n = {}, {} random instances each, Wald radius\n\
             unless said otherwise. Mean SubOpt; predicted = (1/2 beta) tr(Cov I^-1)/n:\n{}{}=> Bounds that failed although their premise held: {}.\n",
            c.beta,
            c.ridge,
            c.dim,
            c.horizon,
            c.sweep_size,
            c.sweep_replicates,
            wide("sweeps", &self.groups, &["sweep", "value"], &shown).render(),
            self.conclusion(c.fail_prob),
            violations(&self.groups)
        )
    }

    /// How close plain MLE is to its prediction, and where the Wald radius is too short.
    fn conclusion(&self, fail_prob: f64) -> String {
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for predicted in of(&self.groups, "predicted", "") {
            let mut greedy = of(&self.groups, "greedy", "");
            let Some(greedy) = greedy.find(|g| g.key == predicted.key) else {
                continue;
            };
            let ratio = greedy.suboptimality.mean() / predicted.suboptimality.mean();
            (least, most) = (least.min(ratio), most.max(ratio));
        }
        let low: Vec<String> = of(&self.groups, "algorithm1", "wald")
            .filter(|g| clopper_pearson(g.covered as u64, g.bound.len() as u64).1 < 1.0 - fail_prob)
            .map(|g| g.key.join(" = "))
            .collect();
        let low = match low.is_empty() {
            true => "nowhere".to_string(),
            false => low.join(", "),
        };
        let wins = |radius: &str| {
            let (wins, all) = self.better_than_reference(radius);
            format!("{wins} of {all}")
        };
        format!(
            "=> Algorithm 1 is better than pi_ref in {} runs with the radius (A.2) as printed, in {} with that of the repaired proof (Upsilon).\n\
             => Plain MLE has {least:.2} to {most:.2} times its predicted SubOpt. The Wald radius covers significantly less than promised: {low}.\n",
            wins("printed"),
            wins("theory_upsilon"),
        )
    }

    /// Runs in which Algorithm 1 has a smaller suboptimality than π_ref on the same instance, and all runs.
    fn better_than_reference(&self, radius: &str) -> (usize, usize) {
        let (mut wins, mut all) = (0, 0);
        for group in of(&self.groups, "algorithm1", radius) {
            if let Some(count) = better(group, &self.groups) {
                wins += count;
                all += group.suboptimality.len();
            }
        }
        (wins, all)
    }
}
