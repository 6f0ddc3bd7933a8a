//! (c) At which number of responses does bias outweigh variance? At random logits of random trees.

use anyhow::Result;
use rto::algorithm2::KlPlacement;
use rto::audit::{Estimator, Kl, Recipe, Reward, Summary, named};
use rto::token_reward::KlEstimator;
use rto_harness::stats::{Sample, shown};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use rto_audit::problem::Family;

const COLUMNS: &[&str] = &["family", "tree", "recipe", "bias2", "variance", "n_star"];

const BLOCK: u64 = 10;

pub const K1: &str = "RLOO, k1 in reward";
pub const BOTH: &str = "RLOO, exact KL in reward and loss";

/// Named recipes of the sentence's reward with a KL term, and two unbiased ones that differ in their KL term alone.
fn compared(study: &Study, horizon: usize) -> Vec<(&'static str, Recipe)> {
    let c = &study.config;
    let all = named(c.beta, c.group, c.batch, horizon).into_iter();
    let mut out: Vec<(&'static str, Recipe)> = all
        .filter(|n| n.recipe.kl.is_some() && n.recipe.reward == Reward::Sentence)
        .map(|n| (n.name, n.recipe))
        .collect();
    for (name, placement, estimator) in [
        (K1, KlPlacement::Reward, KlEstimator::K1),
        (BOTH, KlPlacement::Both, KlEstimator::Exact),
    ] {
        let recipe = Recipe {
            advantage: Estimator::LeaveOneOut,
            responses: c.group,
            kl: Some(Kl {
                placement,
                estimator,
            }),
            beta: c.beta,
            ..Recipe::default()
        };
        out.push((name, recipe));
    }
    out
}

pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let c = &study.config;
    let mut tasks = Vec::new();
    for family in Family::JUDGED {
        let trees = match family {
            Family::Small => c.noise_trees,
            _ => c.wide_trees,
        };
        for first in (0..trees).step_by(BLOCK as usize) {
            let id = format!("audit/c/{}", tasks.len());
            let last = (first + BLOCK).min(trees);
            tasks.push(Task::new(id, COLUMNS, move || {
                let mut rows = Vec::new();
                for k in first..last {
                    cell(study, family, k, &mut rows)?;
                }
                Ok(rows)
            }));
        }
    }
    tasks
}

fn cell(study: &Study, family: Family, k: u64, rows: &mut Vec<Vec<Cell>>) -> Result<()> {
    let instance = family.draw(k, study.config.beta, &study.seeds.child("noise"))?;
    for (name, recipe) in compared(study, instance.problem.tree().horizon()) {
        let at = Summary::at(&instance.problem, &recipe, &instance.theta, None, None)?;
        let scaled = at.scaled();
        rows.push(vec![
            family.name().into(),
            k.into(),
            name.into(),
            scaled.bias2.into(),
            scaled.variance.into(),
            scaled.n_star().into(),
        ]);
    }
    Ok(())
}

/// A row per family and recipe.
pub fn summarise(runs: &Table) -> Result<Table> {
    let mut out = Table::new(
        "noise",
        &[
            "family",
            "recipe",
            "trees",
            "median_bias2",
            "median_variance",
            "median_n_star",
            "quarter_n_star",
            "three_quarters_n_star",
            "unbiased",
        ],
    );
    for family in runs.distinct("family")? {
        let of_family = runs.filter("family", &family)?;
        for recipe in of_family.distinct("recipe")? {
            let rows = of_family.filter("recipe", &recipe)?;
            // A tree without a bias is one at which it never takes over.
            let star = rows.floats("n_star")?.into_iter();
            let star = Sample(
                star.map(|n| if n.is_nan() { f64::INFINITY } else { n })
                    .collect(),
            );
            let at = |p: f64| Some(quantile(&star, p)).filter(|v| v.is_finite());
            let unbiased = star.0.iter().filter(|n| n.is_infinite()).count();
            out.push([
                family.as_str().into(),
                recipe.as_str().into(),
                (rows.len() as u64).into(),
                Sample(rows.floats("bias2")?).quantile(0.5).into(),
                Sample(rows.floats("variance")?).quantile(0.5).into(),
                at(0.5).into(),
                at(0.25).into(),
                at(0.75).into(),
                (unbiased as u64).into(),
            ]);
        }
    }
    Ok(out)
}

/// A quantile of numbers that may be infinite, between which no mean is taken.
fn quantile(sample: &Sample, p: f64) -> f64 {
    let value = sample.quantile(p);
    if value.is_nan() { f64::INFINITY } else { value }
}

/// Medians over trees of (variance of exact in both)/(variance of k1), both unbiased.
pub fn both_over_k1(runs: &Table, family: &str) -> Result<f64> {
    let rows = runs.filter("family", family)?;
    let of = |name: &str| rows.filter("recipe", name)?.floats("variance");
    let ratio = of(BOTH)?.into_iter().zip(of(K1)?).map(|(a, b)| a / b);
    Ok(Sample(ratio.collect()).quantile(0.5))
}

pub fn text(table: &Table, runs: &Table, beta: f64) -> Result<String> {
    let mut out = format!(
        "(c) n*, responses per step at which squared bias (under the best scale) equals variance, at random logits, beta = {beta}:\n"
    );
    for family in Family::JUDGED {
        let rows = table.filter("family", family.name())?;
        let mut shown_table = Table::new(
            "noise",
            &[
                "recipe",
                "median n*",
                "quarter",
                "three quarters",
                "median squared bias",
                "median variance",
            ],
        );
        let names = rows.texts("recipe")?;
        let numbers = |c: &str| rows.floats(c);
        let (star, low, high) = (
            numbers("median_n_star")?,
            numbers("quarter_n_star")?,
            numbers("three_quarters_n_star")?,
        );
        let (bias, variance) = (numbers("median_bias2")?, numbers("median_variance")?);
        let or_none = |v: f64| if v.is_nan() { "none".into() } else { shown(v) };
        for (i, name) in names.iter().enumerate() {
            shown_table.push([
                name.as_str().into(),
                or_none(star[i]),
                or_none(low[i]),
                or_none(high[i]),
                if bias[i] < 1e-20 {
                    "0".into()
                } else {
                    shown(bias[i])
                },
                shown(variance[i]),
            ]);
        }
        let trees = rows.floats("trees")?.first().copied().unwrap_or(0.0);
        out += &format!(
            "{}: {trees} trees\n{}=> exact KL in reward and loss has {} of the variance of k1 in the reward (median).\n",
            family.about(),
            shown_table.render(),
            shown(both_over_k1(runs, family.name())?).text()
        );
    }
    Ok(out)
}
