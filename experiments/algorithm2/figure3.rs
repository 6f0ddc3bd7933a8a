//! (d) Figure 3 of the paper compares RTO and DPPO at different β₂: that comparison, and the fair ones.

use anyhow::Result;
use rto::mdp::Beta;
use rto::plan::rto_optimum;
use rto_harness::stats::Sample;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::method::{Knobs, Method, Yardsticks, run};
use crate::tables::{Group, blocks, differences, groups, interval_text, means};
use crate::{Instance, Study};

const COLUMNS: &[&str] = &[
    "method",
    "beta2",
    "replicate",
    "iteration",
    "tokens",
    "objective_gap",
    "own_gap",
    "true_gap",
    "matched_gap",
    "reward",
    "kl",
    "entropy",
    "critic_error",
];

/// Runs of one cell.
const BLOCK: u64 = 5;

/// A cell for each method, β₂ and block of replicates.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let c = &study.config;
    let mut tasks = Vec::new();
    for method in [Method::Rto, Method::Dppo] {
        for &beta2 in &c.figure3_beta2s {
            for block in blocks(c.replicates, BLOCK) {
                let id = format!("algorithm2/d/{}", tasks.len());
                tasks.push(Task::new(id, COLUMNS, move || {
                    let mut rows = Vec::new();
                    for replicate in block.clone() {
                        rows.extend(curve(study, method, beta2, replicate)?);
                    }
                    Ok(rows)
                }));
            }
        }
    }
    tasks
}

fn curve(study: &Study, method: Method, beta2: f64, replicate: u64) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let knobs = Knobs {
        beta2,
        lambda: c.lambda,
        critic_learning_rate: c.critic_learning_rate,
        responses: c.long_responses,
        iterations: c.iterations,
    };
    let seeds = study.seeds.child("figure3").index(replicate);
    let points = run(method, study.problem(Instance::Long), &knobs, c, &seeds)?;
    let key: [Cell; 3] = [method.name().into(), beta2.into(), replicate.into()];
    let rows = points.iter().map(|p| key.iter().cloned().chain(p.cells()));
    Ok(rows.map(Iterator::collect).collect())
}

/// Tables, and what they say.
pub struct Figure3 {
    pub figure3: Table,
    /// What both methods tend to at each β₂.
    pub optima: Table,
    /// Runs at their end: (method, β₂) → reward, KL.
    ends: Vec<Group>,
}

const MEASURES: [&str; 3] = ["objective_gap", "reward", "kl"];

pub fn summarise(study: &Study, runs: &Table) -> Result<Figure3> {
    let keys = ["method", "beta2", "iteration", "tokens"];
    let all = groups(runs, &keys, &MEASURES)?;
    let last = runs.filter("iteration", &study.config.iterations.to_string())?;
    let problem = study.problem(Instance::Long);
    let mut optima = Table::new("figure3_optima", &["beta2", "reward", "kl"]);
    for &beta2 in &study.config.figure3_beta2s {
        let dpo = problem.dpo.table()?;
        let best = rto_optimum(
            problem.map.mdp(),
            &dpo,
            &problem.reference,
            problem.beta1,
            Beta::try_new(beta2)?,
        )?;
        let p = Yardsticks::new(problem, beta2)?.measure(&best.policy)?;
        optima.push([Cell::from(beta2), p.reward.into(), p.kl.into()]);
    }
    Ok(Figure3 {
        figure3: means("figure3", &all, &keys, &MEASURES),
        optima,
        ends: groups(&last, &["method", "beta2"], &MEASURES)?,
    })
}

impl Figure3 {
    fn reward(&self, method: Method, beta2: f64) -> Sample {
        let has = |g: &&Group| g.key[0] == method.name() && g.key[1].parse::<f64>() == Ok(beta2);
        let found = self.ends.iter().find(has);
        found.map_or(Sample::default(), |g| g.samples[1].clone())
    }

    pub fn text(&self, study: &Study) -> Result<String> {
        let betas = &study.config.figure3_beta2s;
        let (small, large) = (betas[0], betas[1]);
        let optimum = self.optima.floats("reward")?;
        let mut table = Table::new(
            "figure3",
            &[
                "RTO at beta2",
                "DPPO at beta2",
                "true reward, RTO - DPPO",
                "of the exact optima",
            ],
        );
        let comparisons = [(0, 1), (0, 0), (1, 1)];
        for (i, k) in comparisons {
            let d = differences(
                &self.reward(Method::Rto, betas[i]),
                &self.reward(Method::Dppo, betas[k]),
            );
            let exact = rto_harness::stats::shown(optimum[i] - optimum[k]);
            let row: [Cell; 4] = [
                betas[i].into(),
                betas[k].into(),
                interval_text(&d).into(),
                exact,
            ];
            table.push(row);
        }
        let effect = |i: usize, k: usize| {
            differences(
                &self.reward(Method::Rto, betas[i]),
                &self.reward(Method::Dppo, betas[k]),
            )
        };
        Ok(format!(
            "(d) Figure 3 of the paper gives RTO the smaller beta2 ({small} here) and DPPO the larger ({large}); {} paired runs, at their end:\n{}\
             => Confounded, RTO gains {} in reward; at equal beta2 {} ({small}) and {} ({large}).\n",
            study.config.replicates,
            table.render(),
            interval_text(&effect(0, 1)),
            interval_text(&effect(0, 0)),
            interval_text(&effect(1, 1)),
        ))
    }
}
