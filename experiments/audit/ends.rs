//! (b) Where the flow from π_ref ends, on random trees: SubOpt of the fixed point as a ratio to that of π_ref.

use anyhow::Result;
use rto::audit::{FixedPoint, Named, Problem, Recipe, Reward, named};
use rto_harness::stats::{Sample, shown};
use rto_harness::sweep::Task;
use rto_harness::table::Table;

use crate::Study;
use rto_audit::problem::Family;
use rto_audit::report::status;

const COLUMNS: &[&str] = &[
    "family",
    "beta",
    "tree",
    "recipe",
    "status",
    "ratio",
    "ratio_best_beta",
    "residual",
    "largest_eigenvalue",
];

/// Trees of a cell.
const BLOCK: u64 = 10;

/// The recipes that are compared: a KL term, and the sentence's reward.
fn compared(beta: f64, group: usize, batch: usize, horizon: usize) -> Vec<Named> {
    let all = named(beta, group, batch, horizon).into_iter();
    all.filter(|n| n.recipe.kl.is_some() && n.recipe.reward == Reward::Sentence)
        .collect()
}

pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let c = &study.config;
    let mut tasks = Vec::new();
    for family in Family::JUDGED {
        let trees = match family {
            Family::Small => c.end_trees,
            _ => c.wide_trees,
        };
        for &beta in &c.betas {
            for first in (0..trees).step_by(BLOCK as usize) {
                let id = format!("audit/b/{}", tasks.len());
                let last = (first + BLOCK).min(trees);
                tasks.push(Task::new(id, COLUMNS, move || {
                    let mut rows = Vec::new();
                    for k in first..last {
                        cell(study, family, beta, k, &mut rows)?;
                    }
                    Ok(rows)
                }));
            }
        }
    }
    tasks
}

fn cell(
    study: &Study,
    family: Family,
    beta: f64,
    k: u64,
    rows: &mut Vec<Vec<rto_harness::table::Cell>>,
) -> Result<()> {
    let c = &study.config;
    let instance = family.draw(k, beta, &study.seeds.child("ends"))?;
    let problem = &instance.problem;
    for n in compared(beta, c.group, c.batch, problem.tree().horizon()) {
        let end = FixedPoint::find(problem, &n.recipe, None)?;
        let start = problem.suboptimality(&n.recipe, problem.reference())?;
        rows.push(vec![
            family.name().into(),
            beta.into(),
            k.into(),
            n.name.into(),
            status(end.status).into(),
            (end.suboptimality / start).into(),
            at_best_beta(problem, &n.recipe, &end.theta)?.into(),
            end.residual.into(),
            end.largest_eigenvalue.into(),
        ]);
    }
    Ok(())
}

/// The ratio for the β' in [e⁻²β, e²β] that flatters the policy most: what is left is not a wrong scale.
fn at_best_beta(problem: &Problem, recipe: &Recipe, theta: &[f64]) -> Result<f64> {
    let mut least = f64::INFINITY;
    for k in 0..41 {
        let judged = Recipe {
            meant_beta: Some(recipe.beta * (-2.0 + 0.1 * f64::from(k)).exp()),
            ..recipe.clone()
        };
        let here = problem.suboptimality(&judged, theta)?;
        let start = problem.suboptimality(&judged, problem.reference())?;
        least = least.min(here / start);
    }
    Ok(least)
}

/// A row per family, β and recipe.
pub fn summarise(runs: &Table) -> Result<Table> {
    let mut out = Table::new(
        "ends",
        &[
            "family",
            "beta",
            "recipe",
            "trees",
            "median",
            "quarter",
            "three_quarters",
            "median_best_beta",
            "max",
            "worse_than_reference",
            "interior",
            "boundary",
            "singular",
        ],
    );
    for family in runs.distinct("family")? {
        let of_family = runs.filter("family", &family)?;
        for beta in of_family.distinct("beta")? {
            let of_beta = of_family.filter("beta", &beta)?;
            for recipe in of_beta.distinct("recipe")? {
                let rows = of_beta.filter("recipe", &recipe)?;
                let ratio = Sample(rows.floats("ratio")?);
                let status = rows.texts("status")?;
                let count = |s: &str| status.iter().filter(|t| *t == s).count() as u64;
                out.push([
                    family.as_str().into(),
                    beta.parse::<f64>()?.into(),
                    recipe.as_str().into(),
                    (rows.len() as u64).into(),
                    ratio.quantile(0.5).into(),
                    ratio.quantile(0.25).into(),
                    ratio.quantile(0.75).into(),
                    Sample(rows.floats("ratio_best_beta")?).quantile(0.5).into(),
                    ratio.quantile(1.0).into(),
                    (ratio.0.iter().filter(|r| **r > 1.0).count() as u64).into(),
                    count("interior").into(),
                    count("boundary").into(),
                    count("singular").into(),
                ]);
            }
        }
    }
    Ok(out)
}

pub fn text(table: &Table) -> Result<String> {
    let mut out = String::from(
        "(b) SubOpt where the flow from pi_ref ends, as a ratio to that of pi_ref (0 is the optimum, 1 no better than pi_ref):\n",
    );
    for family in Family::JUDGED {
        let of_family = table.filter("family", family.name())?;
        for beta in of_family.distinct("beta")? {
            let rows = of_family.filter("beta", &beta)?;
            let mut shown_table = Table::new(
                "ends",
                &[
                    "recipe",
                    "median",
                    "at best beta",
                    "max",
                    "worse than pi_ref",
                    "at the boundary",
                ],
            );
            let (names, trees) = (rows.texts("recipe")?, rows.floats("trees")?);
            let numbers = |c: &str| rows.floats(c);
            let (median, best, max) = (
                numbers("median")?,
                numbers("median_best_beta")?,
                numbers("max")?,
            );
            let (worse, boundary) = (numbers("worse_than_reference")?, numbers("boundary")?);
            let small = |v: f64| if v.abs() < 1e-9 { "0".into() } else { shown(v) };
            for (i, name) in names.iter().enumerate() {
                shown_table.push([
                    name.as_str().into(),
                    small(median[i]),
                    small(best[i]),
                    small(max[i]),
                    (worse[i] as u64).into(),
                    (boundary[i] as u64).into(),
                ]);
            }
            let n = trees.first().copied().unwrap_or(0.0);
            out += &format!(
                "{}: {n} trees, beta = {beta}\n{}",
                family.about(),
                shown_table.render()
            );
        }
    }
    Ok(out)
}
