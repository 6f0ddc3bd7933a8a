//! (a) Every method on two instances, measured exactly as it samples.

use anyhow::Result;
use rto::mdp::{Beta, Problem, TabularPolicy};
use rto::plan::{rto_optimum, soft_value_iteration};
use rto_harness::methods::{Method, method};
use rto_harness::on_tree::setup::Setup;
use rto_harness::stats::{Sample, shown};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::method::{Knobs, Point, Yardsticks, mean_over_run, run};
use crate::tables::{Group, Ratio, blocks, gap_text, groups, means};
use crate::{Instance, Study};

const COLUMNS: &[&str] = &[
    "instance",
    "method",
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

/// What [`means`] averages.
const MEASURES: &[&str] = COLUMNS.split_at(5).1;

/// Runs of one cell.
const BLOCK: u64 = 5;

/// A cell for each instance, method and block of replicates.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for instance in Instance::BOTH {
        for method in study.config.methods.iter().copied() {
            for block in blocks(study.config.replicates, BLOCK) {
                let id = format!("algorithm2/a/{}", tasks.len());
                tasks.push(Task::new(id, COLUMNS, move || {
                    let mut rows = Vec::new();
                    for replicate in block.clone() {
                        for point in curve(study, instance, method, replicate)? {
                            let key: [Cell; 3] =
                                [instance.name().into(), method.name.into(), replicate.into()];
                            rows.push(key.into_iter().chain(point.cells()).collect());
                        }
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
    instance: Instance,
    method: &'static Method,
    replicate: u64,
) -> Result<Vec<Point>> {
    let c = &study.config;
    let knobs = Knobs {
        beta2: c.ppo.beta2,
        lambda: c.ppo.lambda,
        critic_learning_rate: c.ppo.critic_learning_rate,
        responses: instance.responses(c),
        iterations: c.ppo.iterations,
    };
    // One stream for all methods.
    let seeds = study.seeds.child("curves").child(instance.name());
    run(
        method,
        study.setup(instance),
        &knobs,
        c,
        &seeds.index(replicate),
    )
}

/// Tables, and what they say.
pub struct Curves {
    pub curves: Table,
    pub exact: Table,
    pub frontier: Table,
    pub against_dppo: Table,
    text: String,
}

pub fn summarise(study: &Study, runs: &Table) -> Result<Curves> {
    let keys = ["instance", "method", "iteration", "tokens"];
    let groups = groups(runs, &keys, MEASURES)?;
    let exact = exact(study)?;
    let per_run = per_run(runs)?;
    let against_dppo = against_dppo(&per_run);
    Ok(Curves {
        text: text(study, &groups, &exact, &per_run)?,
        curves: means("curves", &groups, &keys, MEASURES),
        exact,
        frontier: frontier(study)?,
        against_dppo,
    })
}

/// The policies that need no sampling, one row each.
fn exact(study: &Study) -> Result<Table> {
    let columns = [
        "instance",
        "policy",
        "objective_gap",
        "true_gap",
        "matched_gap",
        "reward",
        "kl",
        "entropy",
    ];
    let mut table = Table::new("exact", &columns);
    for instance in Instance::BOTH {
        let setup = study.setup(instance);
        let yardsticks = Yardsticks::new(setup, study.config.ppo.beta2)?;
        for (name, policy) in policies(setup, study.config.ppo.beta2)? {
            let p = yardsticks.measure(&policy)?;
            table.push([
                instance.name().into(),
                name.into(),
                p.objective_gap.into(),
                p.true_gap.into(),
                p.matched_gap.into(),
                p.reward.into(),
                p.kl.into(),
                p.entropy.into(),
            ]);
        }
    }
    Ok(table)
}

fn policies(setup: &Setup, beta2: f64) -> Result<Vec<(&'static str, TabularPolicy)>> {
    let (mdp, reference, beta2) = (setup.map.mdp(), &setup.reference, Beta::try_new(beta2)?);
    let dpo = setup.dpo.table()?;
    let optimum = rto_optimum(mdp, &dpo, reference, setup.beta1, beta2)?.policy;
    let truth = |beta| soft_value_iteration(Problem::new(mdp, reference, beta), &setup.reward);
    Ok(vec![
        ("reference", reference.clone()),
        ("dpo", dpo),
        ("rto_optimum", optimum),
        ("optimal_beta1", truth(setup.beta1)?.policy),
        ("optimal_beta2", truth(beta2)?.policy),
    ])
}

/// (reward, KL) of the policies that no policy beats: π*_b over b.
fn frontier(study: &Study) -> Result<Table> {
    let mut table = Table::new("frontier", &["instance", "beta", "kl", "reward"]);
    for instance in Instance::BOTH {
        let setup = study.setup(instance);
        let (mdp, reference) = (setup.map.mdp(), &setup.reference);
        let yardsticks = Yardsticks::new(setup, study.config.ppo.beta2)?;
        for i in 0..=48 {
            let beta = 20.0 * 0.001f64.powf(f64::from(i) / 48.0);
            let best = soft_value_iteration(
                Problem::new(mdp, reference, Beta::try_new(beta)?),
                &setup.reward,
            )?;
            let p = yardsticks.measure(&best.policy)?;
            let row: [Cell; 4] = [
                instance.name().into(),
                beta.into(),
                p.kl.into(),
                p.reward.into(),
            ];
            table.push(row);
        }
    }
    Ok(table)
}

/// Mean over a run and end of it, one sample each for (instance, method).
fn per_run(runs: &Table) -> Result<Vec<Group>> {
    let keys = ["instance", "method", "replicate"];
    let texts: Vec<Vec<String>> = keys.iter().map(|k| runs.texts(k)).collect::<Result<_>>()?;
    let (tokens, gaps) = (runs.floats("tokens")?, runs.floats("objective_gap")?);
    let mut flat = Table::new("per_run", &["instance", "method", "mean", "final"]);
    let mut start = 0;
    for i in 1..=runs.len() {
        if i < runs.len() && texts.iter().all(|t| t[i] == t[start]) {
            continue;
        }
        let points: Vec<Point> = (start..i)
            .map(|k| Point::gap_only(tokens[k] as u64, gaps[k]))
            .collect();
        let row: [Cell; 4] = [
            texts[0][start].as_str().into(),
            texts[1][start].as_str().into(),
            mean_over_run(&points, |p| p.objective_gap).into(),
            gaps[i - 1].into(),
        ];
        flat.push(row);
        start = i;
    }
    groups(&flat, &["instance", "method"], &["mean", "final"])
}

fn against_dppo(per_run: &[Group]) -> Table {
    let columns = [
        "instance",
        "method",
        "replicates",
        "mean_gap",
        "mean_ratio",
        "mean_ratio_low",
        "mean_ratio_high",
        "final_gap",
        "final_ratio",
        "final_ratio_low",
        "final_ratio_high",
    ];
    let mut table = Table::new("against_dppo", &columns);
    for group in per_run {
        let base = find(per_run, &group.key[0], method("dppo"));
        let ratio = |k: usize| Ratio::of(&group.samples[k], &base.samples[k]).cells();
        let mut row: Vec<Cell> = vec![
            group.key[0].as_str().into(),
            group.key[1].as_str().into(),
            group.samples[0].len().into(),
        ];
        for k in 0..2 {
            row.push(group.samples[k].mean().into());
            row.extend(ratio(k));
        }
        table.push(row);
    }
    table
}

fn find<'a>(groups: &'a [Group], instance: &str, method: &'static Method) -> &'a Group {
    let found = groups
        .iter()
        .find(|g| g.key[0] == instance && g.key[1] == method.name);
    found.expect("every method runs on every instance")
}

fn text(study: &Study, curves: &[Group], exact: &Table, per_run: &[Group]) -> Result<String> {
    let c = &study.config;
    let mut out = format!(
        "(a) Exact SubOpt for the objective (beta1, beta2) = ({}, {}); lambda = {}, critic rate {}, {} iterations, {} runs.\n\
         DPPO is the paper's sentence-level DPO reward (5.1), not the later divergence PPO; ratios are paired, with 95% intervals:\n",
        c.dpo.beta,
        c.ppo.beta2,
        c.ppo.lambda,
        c.ppo.critic_learning_rate,
        c.ppo.iterations,
        c.replicates
    );
    for instance in Instance::BOTH {
        out += &one_instance(study, instance, curves, exact, per_run)?;
    }
    Ok(out)
}

fn one_instance(
    study: &Study,
    instance: Instance,
    curves: &[Group],
    exact: &Table,
    per_run: &[Group],
) -> Result<String> {
    let name = instance.name();
    let title = instance.title(&study.config);
    let columns = [
        title.as_str(),
        "SubOpt over the run",
        "to DPPO's, over the run",
        "SubOpt at the end",
        "to DPPO's, at the end",
        "true r, at beta1",
        "KL",
    ];
    let mut table = Table::new("curves", &columns);
    let dpo = study.config.dpo_label();
    for (policy, label) in [("reference", "SFT"), ("dpo", dpo.as_str())] {
        let row = exact.filter("instance", name)?.filter("policy", policy)?;
        let cell = |column: &str| -> Result<Cell> { Ok(shown(row.floats(column)?[0])) };
        let empty = || Cell::Empty;
        let (gap, truth, kl) = (cell("objective_gap")?, cell("true_gap")?, cell("kl")?);
        table.push([label.into(), empty(), empty(), gap, empty(), truth, kl]);
    }
    let base = find(per_run, name, method("dppo"));
    for method in study.config.methods.iter().copied() {
        let group = find(per_run, name, method);
        let last = curves
            .iter()
            .rfind(|g| g.key[0] == name && g.key[1] == method.name);
        let end = |k: usize| last.map_or(Cell::Empty, |g| shown(g.samples[k].mean()));
        let ratio = |k: usize| Ratio::of(&group.samples[k], &base.samples[k]).text();
        table.push([
            method.label.into(),
            gap_text(&group.samples[0]).into(),
            ratio(0).into(),
            gap_text(&group.samples[1]).into(),
            ratio(1).into(),
            end(2),
            end(6),
        ]);
    }
    Ok(table.render() + &conclusion(name, per_run, curves))
}

fn conclusion(name: &str, per_run: &[Group], curves: &[Group]) -> String {
    let sample = |m: &'static Method, k: usize| &find(per_run, name, m).samples[k];
    let against = |m: &'static Method, k: usize| Ratio::of(sample(m, k), sample(method("dppo"), k));
    let verdict = |r: Ratio| r.verdict("RTO", "DPPO");
    let (run, end) = (against(method("rto"), 0), against(method("rto"), 1));
    format!(
        "=> {name}: RTO / DPPO {} over the run ({}), {} at the end ({}).\n{}",
        run.text(),
        verdict(run),
        end.text(),
        verdict(end),
        identity(name, curves)
    )
}

/// How long RTO and DPPO with C(s) are the same run. They are in exact arithmetic; rounding may turn a
/// draw or a clipped ratio, and from there on two runs are two runs.
fn identity(name: &str, curves: &[Group]) -> String {
    let of = |m: &'static Method| {
        curves
            .iter()
            .filter(move |g| g.key[0] == name && g.key[1] == m.name)
    };
    let furthest = |a: &Sample, b: &Sample| {
        let pairs = a.0.iter().zip(&b.0);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let (mut same, mut worst) = (None, 0.0f64);
    for (a, b) in of(method("rto")).zip(of(method("dppo_offset"))) {
        let off = furthest(&a.samples[0], &b.samples[0]);
        // NaN fails too.
        if !off.le(&1e-6) {
            break;
        }
        (same, worst) = (Some(a.key[2].clone()), worst.max(off));
    }
    let last = of(method("rto")).next_back().map(|g| g.key[2].clone());
    let ends = [method("rto"), method("dppo_offset")]
        .map(|m| of(m).next_back().map(|g| g.samples[0].mean()));
    let ends = ends.map(|e| shown(e.unwrap_or(f64::NAN)).text());
    let what = identity_text(same.as_deref(), last.as_deref().unwrap_or_default(), worst);
    let [rto, dppo] = ends;
    format!("=> {name}: {what}; means at the end {rto} and {dppo}.\n")
}

/// `same`: the last iteration up to which no run differs, of `last`.
fn identity_text(same: Option<&str>, last: &str, worst: f64) -> String {
    match same {
        Some(same) if same == last => {
            format!("DPPO + C(s) is RTO: SubOpt of every run within {worst:.0e} to the end")
        }
        Some(same) => format!(
            "DPPO + C(s) is RTO: SubOpt of every run within {worst:.0e} up to iteration {same}, where rounding turns a draw or a cut"
        ),
        None => "DPPO + C(s) is not RTO here: SubOpt differs from the start".into(),
    }
}

impl Curves {
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_claimed_as_far_as_it_holds() {
        let says = |same, last| identity_text(same, last, 1e-12);
        assert!(
            says(Some("30"), "30").contains("is RTO")
                && says(Some("30"), "30").contains("to the end")
        );
        assert!(
            says(Some("10"), "30").contains("is RTO")
                && says(Some("10"), "30").contains("up to iteration 10")
        );
        assert!(says(None, "30").contains("is not RTO"));
    }
}
