//! (d) Figure 3 of the paper compares RTO and DPPO at different β₂: that comparison, and the fair ones.

use anyhow::Result;
use rto::mdp::Beta;
use rto::plan::rto_optimum;
use rto_harness::methods::{Method, method};
use rto_harness::stats::Sample;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::method::{Knobs, Yardsticks, run};
use crate::tables::{Group, blocks, differences, gain, groups, interval_text, means};
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
    "implicit_reward",
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
    for method in [method("rto"), method("dppo")] {
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

fn curve(
    study: &Study,
    method: &'static Method,
    beta2: f64,
    replicate: u64,
) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let knobs = Knobs {
        beta2,
        lambda: c.ppo.lambda,
        critic_learning_rate: c.ppo.critic_learning_rate,
        responses: c.long_responses,
        iterations: c.ppo.iterations,
    };
    let seeds = study.seeds.child("figure3").index(replicate);
    let points = run(method, study.setup(Instance::Long), &knobs, c, &seeds)?;
    let key: [Cell; 3] = [method.name.into(), beta2.into(), replicate.into()];
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

const MEASURES: [&str; 4] = ["objective_gap", "reward", "implicit_reward", "kl"];

pub fn summarise(study: &Study, runs: &Table) -> Result<Figure3> {
    let keys = ["method", "beta2", "iteration", "tokens"];
    let all = groups(runs, &keys, &MEASURES)?;
    let last = runs.filter("iteration", &study.config.ppo.iterations.to_string())?;
    let setup = study.setup(Instance::Long);
    let mut optima = Table::new(
        "figure3_optima",
        &["beta2", "reward", "implicit_reward", "kl"],
    );
    for &beta2 in &study.config.figure3_beta2s {
        let dpo = setup.dpo.table()?;
        let best = rto_optimum(
            setup.map.mdp(),
            &dpo,
            &setup.reference,
            setup.beta1,
            Beta::try_new(beta2)?,
        )?;
        let p = Yardsticks::new(setup, beta2)?.measure(&best.policy)?;
        optima.push([beta2, p.reward, p.implicit_reward, p.kl].map(Cell::from));
    }
    Ok(Figure3 {
        figure3: means("figure3", &all, &keys, &MEASURES),
        optima,
        ends: groups(&last, &["method", "beta2"], &MEASURES)?,
    })
}

impl Figure3 {
    /// RTO − DPPO at two β₂ of the config, at the end, in one of [`MEASURES`].
    fn effect(&self, betas: [f64; 2], measure: usize) -> Sample {
        let of = |method: &'static Method, beta2: f64| {
            let has = |g: &&Group| g.key[0] == method.name && g.key[1].parse::<f64>() == Ok(beta2);
            let found = self.ends.iter().find(has);
            found.map_or(Sample::default(), |g| g.samples[measure].clone())
        };
        differences(&of(method("rto"), betas[0]), &of(method("dppo"), betas[1]))
    }

    pub fn text(&self, study: &Study) -> Result<String> {
        let betas = &study.config.figure3_beta2s;
        let (small, large) = (betas[0], betas[1]);
        let optima = [
            self.optima.floats("reward")?,
            self.optima.floats("implicit_reward")?,
        ];
        let columns = [
            "RTO at beta2",
            "DPPO at beta2",
            "implicit reward, RTO - DPPO",
            "of the optima",
            "true reward, RTO - DPPO",
            "of their optima",
        ];
        let mut table = Table::new("figure3", &columns);
        for (i, k) in [(0, 1), (0, 0), (1, 1)] {
            let at = [betas[i], betas[k]];
            let exact = |o: &[f64]| rto_harness::stats::shown(o[i] - o[k]);
            table.push([
                Cell::from(at[0]),
                at[1].into(),
                interval_text(&self.effect(at, 2)).into(),
                exact(&optima[1]),
                interval_text(&self.effect(at, 1)).into(),
                exact(&optima[0]),
            ]);
        }
        let gain = |rto, dppo| gain(&self.effect([rto, dppo], 2), "RTO", "DPPO");
        Ok(format!(
            "(d) Figure 3 of the paper shows the implicit reward, with the smaller beta2 for RTO ({small} here) and the larger for DPPO ({large}); {} paired runs, at their end:\n{}\
             => Implicit reward at the end, RTO - DPPO, at different beta2: {}.\n\
             => At equal beta2: {} at {small}, {} at {large}.\n",
            study.config.replicates,
            table.render(),
            gain(small, large),
            gain(small, small),
            gain(large, large),
        ))
    }
}
