//! (c) One setting changed at a time, on random instances with preference data of their own.

use anyhow::Result;
use rto_harness::methods::{Method, method};
use rto_harness::on_tree::setup::{Setup, Size};
use rto_harness::stats::shown;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use crate::method::{Knobs, Yardsticks, mean_over_run, run};
use crate::tables::{Group, Ratio, differences, gap_text, groups, interval_text, means};

const COLUMNS: &[&str] = &[
    "sweep",
    "value",
    "replicate",
    "method",
    "lambda",
    "tokens",
    "mean_gap",
    "final_gap",
    "true_gap",
    "matched_gap",
    "mean_matched",
];

/// λ at which RTO and DPPO are compared: GAE that leans on the critic, and the config's.
const LEANING: f64 = 0.5;

/// What changes, with its values.
const SWEEPS: [&str; 5] = ["N", "beta2", "H", "A", "pairs"];

/// A cell for each instance: a replicate with all N and β₂, which share it, or one of another size.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let c = &study.config;
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for replicate in 0..c.sweep_replicates {
        let id = format!("algorithm2/c/{}", tasks.len());
        tasks.push(Task::new(id, COLUMNS, move || base_cell(study, replicate)));
        let horizons = c.horizons.iter().map(|h| ("H", *h));
        let actions = c.action_counts.iter().map(|a| ("A", *a));
        let pairs = c.pair_counts.iter().map(|n| ("pairs", *n));
        for (sweep, value) in horizons.chain(actions).chain(pairs) {
            let id = format!("algorithm2/c/{}", tasks.len());
            tasks.push(Task::new(id, COLUMNS, move || {
                sized_cell(study, sweep, value, replicate)
            }));
        }
    }
    tasks
}

fn size(study: &Study) -> Size {
    let c = &study.config;
    Size {
        actions: c.sweep_actions,
        horizon: c.sweep_horizon,
        pairs: c.sweep_pairs,
    }
}

fn knobs(study: &Study) -> Knobs {
    let c = &study.config;
    Knobs {
        beta2: c.ppo.beta2,
        lambda: c.ppo.lambda,
        critic_learning_rate: c.ppo.critic_learning_rate,
        responses: c.sweep_responses,
        iterations: c.sweep_iterations,
    }
}

fn base_cell(study: &Study, replicate: u64) -> Result<Vec<Vec<Cell>>> {
    let seeds = study.seeds.child("sweeps").index(replicate);
    let setup = Setup::new(study.config.draw(), &study.config.dpo, size(study), &seeds)?;
    let mut rows = Vec::new();
    for &responses in &study.config.responses {
        let knobs = Knobs {
            responses,
            ..knobs(study)
        };
        rows.extend(setting(
            study,
            &setup,
            &knobs,
            ("N", responses.into()),
            replicate,
        )?);
    }
    for &beta2 in &study.config.beta2s {
        let knobs = Knobs {
            beta2,
            ..knobs(study)
        };
        rows.extend(setting(
            study,
            &setup,
            &knobs,
            ("beta2", beta2.into()),
            replicate,
        )?);
    }
    Ok(rows)
}

fn sized_cell(
    study: &Study,
    sweep: &'static str,
    value: usize,
    replicate: u64,
) -> Result<Vec<Vec<Cell>>> {
    let mut size = size(study);
    match sweep {
        "H" => size.horizon = value,
        "A" => size.actions = value,
        _ => size.pairs = value,
    }
    let seeds = study.seeds.child("sweeps").index(replicate);
    let setup = Setup::new(study.config.draw(), &study.config.dpo, size, &seeds)?;
    setting(
        study,
        &setup,
        &knobs(study),
        (sweep, value.into()),
        replicate,
    )
}

/// All methods at one setting, on the same streams.
fn setting(
    study: &Study,
    setup: &Setup,
    knobs: &Knobs,
    what: (&str, Cell),
    replicate: u64,
) -> Result<Vec<Vec<Cell>>> {
    let seeds = study.seeds.child("sweep_runs").index(replicate);
    let key = |method: &str, lambda: Option<f64>| -> Vec<Cell> {
        let (sweep, value) = &what;
        let (sweep, lambda) = ((*sweep).into(), lambda.into());
        vec![
            sweep,
            value.clone(),
            replicate.into(),
            method.into(),
            lambda,
        ]
    };
    let yardsticks = Yardsticks::new(setup, knobs.beta2)?;
    let mut rows = Vec::new();
    let dpo = setup.dpo.table()?;
    for (name, policy) in [("reference", &setup.reference), ("dpo", &dpo)] {
        let p = yardsticks.measure(policy)?;
        let gap = Cell::from(p.objective_gap);
        let mut row = key(name, None);
        row.extend([0u64.into(), gap.clone(), gap]);
        row.extend([p.true_gap, p.matched_gap, p.matched_gap].map(Cell::from));
        rows.push(row);
    }
    let methods = [method("rto"), method("dppo"), method("ppo"), method("rloo")];
    let mut runs: Vec<(&'static Method, f64)> = methods.map(|m| (m, knobs.lambda)).to_vec();
    if knobs.lambda != LEANING {
        runs.extend([(method("rto"), LEANING), (method("dppo"), LEANING)]);
    }
    for (method, lambda) in runs {
        let knobs = Knobs { lambda, ..*knobs };
        let points = run(method, setup, &knobs, &study.config, &seeds)?;
        let Some(last) = points.last() else { continue };
        let mut row = key(method.name, Some(lambda));
        row.extend([
            last.tokens.into(),
            mean_over_run(&points, |p| p.objective_gap).into(),
            last.objective_gap.into(),
            last.true_gap.into(),
            last.matched_gap.into(),
            mean_over_run(&points, |p| p.matched_gap).into(),
        ]);
        rows.push(row);
    }
    Ok(rows)
}

/// Tables, and what they say.
pub struct Sweeps {
    groups: Vec<Group>,
    pub sweeps: Table,
    pub ratios: Table,
}

const KEYS: [&str; 4] = ["sweep", "value", "method", "lambda"];
const MEASURES: [&str; 5] = [
    "mean_gap",
    "final_gap",
    "true_gap",
    "matched_gap",
    "mean_matched",
];

pub fn summarise(study: &Study, runs: &Table) -> Result<Sweeps> {
    let mut groups = groups(runs, &KEYS, &MEASURES)?;
    // Cells come replicate by replicate; tables sweep by sweep.
    groups.sort_by_key(|g| SWEEPS.iter().position(|s| *s == g.key[0]));
    let mut ratios = Table::new(
        "sweep_ratios",
        &[
            "sweep",
            "value",
            "comparison",
            "mean_ratio",
            "mean_ratio_low",
            "mean_ratio_high",
            "final_ratio",
            "final_ratio_low",
            "final_ratio_high",
        ],
    );
    for setting in settings(&groups) {
        for comparison in comparisons(study) {
            let ratio = |when| comparison.ratio(&groups, &setting, when);
            let (Some(run), Some(end)) = (ratio(0), ratio(1)) else {
                continue;
            };
            let (sweep, value) = &setting;
            let number = value.parse::<f64>().unwrap_or(f64::NAN);
            let mut row: Vec<Cell> = vec![
                sweep.as_str().into(),
                number.into(),
                comparison.name.as_str().into(),
            ];
            row.extend(run.cells());
            row.extend(end.cells());
            ratios.push(row);
        }
    }
    Ok(Sweeps {
        sweeps: means("sweeps", &groups, &KEYS, &MEASURES),
        ratios,
        groups,
    })
}

/// What is compared with DPPO at the same λ.
struct Comparison {
    name: String,
    method: &'static Method,
    lambda: f64,
    /// Places in [`MEASURES`], over the run and at the end. PPO has an objective of its own, so that it and
    /// DPPO are measured by the true reward.
    measures: [usize; 2],
}

fn comparisons(study: &Study) -> Vec<Comparison> {
    let own = study.config.ppo.lambda;
    let make = |name: &str, method, lambda, measures| Comparison {
        name: name.to_string(),
        method,
        lambda,
        measures,
    };
    let mut all = vec![make("rto_leaning", method("rto"), LEANING, [0, 1])];
    if own != LEANING {
        all.push(make("rto", method("rto"), own, [0, 1]));
    }
    all.push(make("rloo", method("rloo"), own, [0, 1]));
    all.push(make("ppo_true_reward", method("ppo"), own, [4, 3]));
    all
}

impl Comparison {
    /// The ratio of two methods over the run (0) or at the end (1).
    fn ratio(&self, groups: &[Group], setting: &(String, String), when: usize) -> Option<Ratio> {
        let find = |m| find(groups, &setting.0, &setting.1, m, self.lambda);
        let (a, b) = (find(self.method)?, find(method("dppo"))?);
        let k = self.measures[when];
        Some(Ratio::of(&a.samples[k], &b.samples[k]))
    }

    fn label(&self) -> String {
        let what = match self.method.name {
            "ppo" => ", true reward",
            _ => "",
        };
        let name = self.method.label;
        format!("{name}, lambda {}{what}", self.lambda)
    }
}

fn settings(groups: &[Group]) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    for g in groups {
        let setting = (g.key[0].clone(), g.key[1].clone());
        if !seen.contains(&setting) {
            seen.push(setting);
        }
    }
    seen
}

fn find<'a>(
    groups: &'a [Group],
    sweep: &str,
    value: &str,
    method: &'static Method,
    lambda: f64,
) -> Option<&'a Group> {
    let has = |g: &&Group| {
        g.key[0] == sweep
            && g.key[1] == value
            && g.key[2] == method.name
            && g.key[3].parse::<f64>() == Ok(lambda)
    };
    groups.iter().find(has)
}

impl Sweeps {
    pub fn text(&self, study: &Study) -> String {
        let c = &study.config;
        let compared = comparisons(study);
        let titles: Vec<String> = compared
            .iter()
            .map(|c| format!("{} / DPPO", c.label()))
            .collect();
        let mut columns = vec!["sweep", "value"];
        columns.extend(titles.iter().map(String::as_str));
        let dpo = c.dpo_label();
        let differences_to_dpo = [
            format!("{dpo}: true r, at beta1"),
            format!("RTO - {dpo}: true r, at beta1"),
        ];
        columns.extend(differences_to_dpo.iter().map(String::as_str));
        let mut table = Table::new("sweeps", &columns);
        for setting in settings(&self.groups) {
            let (sweep, value) = &setting;
            let mut row: Vec<Cell> = vec![sweep.as_str().into(), value.as_str().into()];
            for comparison in &compared {
                let ratio = comparison.ratio(&self.groups, &setting, 0);
                row.push(ratio.map(Ratio::text).into());
            }
            let dpo = self
                .groups
                .iter()
                .find(|g| g.key[0] == *sweep && g.key[1] == *value && g.key[2] == "dpo");
            row.push(dpo.map_or(Cell::Empty, |g| gap_text(&g.samples[2]).into()));
            let rto = find(&self.groups, sweep, value, method("rto"), c.ppo.lambda);
            let both = rto.zip(dpo);
            row.push(both.map_or(Cell::Empty, |(rto, dpo)| {
                interval_text(&differences(&rto.samples[2], &dpo.samples[2])).into()
            }));
            table.push(row);
        }
        format!(
            "(c) Random instances (A = {}, H = {}, N = {}, |D| = {}, beta2 = {}; one changed at a time), {} each, {} iterations.\n\
             SubOpt over the run as a ratio to DPPO's, with 95% intervals; at the end, SubOpt for the true reward:\n{}{}",
            c.sweep_actions,
            c.sweep_horizon,
            c.sweep_responses,
            c.sweep_pairs,
            c.ppo.beta2,
            c.sweep_replicates,
            c.sweep_iterations,
            table.render(),
            self.conclusion(study)
        )
    }

    /// The number of settings in which each comparison is decided, and the range of its ratios.
    fn conclusion(&self, study: &Study) -> String {
        let mut out = String::new();
        for comparison in comparisons(study) {
            let ratios: Vec<Ratio> = settings(&self.groups)
                .iter()
                .filter_map(|setting| comparison.ratio(&self.groups, setting, 0))
                .collect();
            let ends = ratios.iter().fold((f64::INFINITY, 0.0f64), |ends, r| {
                (ends.0.min(r.value), ends.1.max(r.value))
            });
            out += &format!(
                "=> {}: significantly ahead of DPPO in {} of {} settings, behind in {}; ratios from {} to {}.\n",
                comparison.label(),
                ratios.iter().filter(|r| r.is_less()).count(),
                ratios.len(),
                ratios.iter().filter(|r| r.is_more()).count(),
                shown(ends.0).text(),
                shown(ends.1).text()
            );
        }
        out
    }
}
