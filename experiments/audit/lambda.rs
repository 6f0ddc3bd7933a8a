//! (d) Which λ is best for a dense and for a sparse reward, at π_ref?

use anyhow::Result;
use rto::algorithm2::KlPlacement;
use rto::audit::{Critic, Estimator, Kl, Recipe, Reward, Summary};
use rto::objective::{Ratio, Surrogate};
use rto::token_reward::KlEstimator;
use rto_harness::stats::{Sample, shown};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use rto_audit::problem::Family;

const COLUMNS: &[&str] = &[
    "family", "tree", "critic", "reward", "lambda", "bias2", "variance",
];

const BLOCK: u64 = 10;

const CRITICS: [&str; 2] = ["zero", "offset"];
const REWARDS: [(&str, Reward); 2] = [("dense", Reward::Dpo), ("sparse", Reward::DpoAtEnd)];

/// The families of trees, the first with more of them.
fn families() -> impl Iterator<Item = Family> {
    let wide = Family::JUDGED.into_iter().filter(|f| *f != Family::Small);
    std::iter::once(Family::Long).chain(wide)
}

fn n_trees(study: &Study, family: Family) -> u64 {
    match family {
        Family::Long => study.config.lambda_trees,
        _ => study.config.wide_trees,
    }
}

pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for family in families() {
        let trees = n_trees(study, family);
        for first in (0..trees).step_by(BLOCK as usize) {
            let id = format!("audit/d/{}", tasks.len());
            tasks.push(Task::new(id, COLUMNS, move || {
                let mut rows = Vec::new();
                for k in first..(first + BLOCK).min(trees) {
                    cell(study, family, k, &mut rows)?;
                }
                Ok(rows)
            }));
        }
    }
    tasks
}

fn cell(study: &Study, family: Family, k: u64, rows: &mut Vec<Vec<Cell>>) -> Result<()> {
    let c = &study.config;
    let instance = family.draw(k, c.beta, &study.seeds.child("lambda"))?;
    let problem = &instance.problem;
    for critic in CRITICS {
        for (name, reward) in REWARDS {
            for &lambda in &c.lambdas {
                let recipe = Recipe {
                    reward,
                    kl: Some(Kl {
                        placement: KlPlacement::Reward,
                        estimator: KlEstimator::K1,
                    }),
                    beta: c.beta,
                    advantage: Estimator::Gae {
                        gamma: 1.0,
                        lambda,
                        critic: match critic {
                            "zero" => Critic::Zero,
                            _ => Critic::Offset(0.5),
                        },
                    },
                    surrogate: Surrogate {
                        ratio: Ratio::LogProb,
                        ..Surrogate::default()
                    },
                    ..Recipe::default()
                };
                let at = Summary::at(problem, &recipe, problem.reference(), None, None)?;
                let gap = at
                    .field
                    .iter()
                    .zip(&at.target)
                    .map(|(g, t)| (g - t).powi(2));
                rows.push(vec![
                    family.name().into(),
                    k.into(),
                    critic.into(),
                    name.into(),
                    lambda.into(),
                    gap.sum::<f64>().into(),
                    at.trace_unit.into(),
                ]);
            }
        }
    }
    Ok(())
}

/// A row per family, critic, reward and number of responses: the best λ; and of 0.95 against 1 where both are there.
pub fn best(study: &Study, runs: &Table) -> Result<Table> {
    let mut out = Table::new(
        "best_lambda",
        &[
            "family",
            "critic",
            "reward",
            "responses",
            "median_best_lambda",
            "share_best_is_largest",
            "median_mse_095_over_1",
        ],
    );
    for_each(
        study,
        runs,
        |(family, critic, reward), n, lambdas, trees| {
            let best = |tree: &Vec<f64>| {
                let least = tree.iter().copied().fold(f64::INFINITY, f64::min);
                let at = tree.iter().position(|m| *m == least).unwrap_or(0);
                lambdas[at]
            };
            let best: Vec<f64> = trees.iter().map(best).collect();
            let largest = lambdas.last().copied().unwrap_or(1.0);
            let share = best.iter().filter(|l| **l == largest).count() as f64 / best.len() as f64;
            let at = |l: f64| lambdas.iter().position(|x| *x == l);
            let ratio = at(0.95).zip(at(1.0)).map(|(a, b)| {
                let ratios = trees.iter().map(|t| t[a] / t[b]).collect();
                Sample(ratios).quantile(0.5)
            });
            out.push([
                family.into(),
                critic.into(),
                reward.into(),
                (n as u64).into(),
                Sample(best).quantile(0.5).into(),
                share.into(),
                ratio.into(),
            ]);
        },
    )?;
    Ok(out)
}

/// A row per critic, reward, number of responses and λ: the median of the mean squared error over its value at the largest λ.
pub fn errors(study: &Study, runs: &Table) -> Result<Table> {
    let mut out = Table::new(
        "lambda",
        &[
            "family",
            "critic",
            "reward",
            "responses",
            "lambda",
            "median",
            "quarter",
            "three_quarters",
        ],
    );
    for_each(
        study,
        runs,
        |(family, critic, reward), n, lambdas, trees| {
            for (i, lambda) in lambdas.iter().enumerate() {
                let ratio = |t: &Vec<f64>| t[i] / t[t.len() - 1];
                let ratios = Sample(trees.iter().map(ratio).collect());
                out.push([
                    family.into(),
                    critic.into(),
                    reward.into(),
                    (n as u64).into(),
                    (*lambda).into(),
                    ratios.quantile(0.5).into(),
                    ratios.quantile(0.25).into(),
                    ratios.quantile(0.75).into(),
                ]);
            }
        },
    )?;
    Ok(out)
}

/// |bias|² + tr Cov/n of every λ, tree by tree, for every family, critic, reward and n.
fn for_each(
    study: &Study,
    runs: &Table,
    mut each: impl FnMut((&str, &str, &str), usize, &[f64], &[Vec<f64>]),
) -> Result<()> {
    let lambdas = &study.config.lambdas;
    for family in families() {
        let of_family = runs.filter("family", family.name())?;
        for critic in CRITICS {
            for (reward, _) in REWARDS {
                let rows = of_family
                    .filter("critic", critic)?
                    .filter("reward", reward)?;
                let parts = rows.points("bias2", "variance")?;
                for &n in &study.config.steps {
                    let of =
                        |tree: &[(f64, f64)]| tree.iter().map(|(b, v)| b + v / n as f64).collect();
                    let trees: Vec<Vec<f64>> = parts.chunks(lambdas.len()).map(of).collect();
                    each((family.name(), critic, reward), n, lambdas, &trees);
                }
            }
        }
    }
    Ok(())
}

pub fn text(best: &Table, study: &Study) -> Result<String> {
    let mut out = String::new();
    for family in families() {
        let best = best.filter("family", family.name())?;
        let mut table = Table::new(
            "lambda",
            &[
                "critic",
                "reward",
                "responses",
                "best lambda (median)",
                "MSE(.95)/MSE(1) (median)",
            ],
        );
        let (critic, reward) = (best.texts("critic")?, best.texts("reward")?);
        let (n, lambda) = (best.texts("responses")?, best.floats("median_best_lambda")?);
        let ratio = best.floats("median_mse_095_over_1")?;
        for i in 0..critic.len() {
            table.push([
                match critic[i].as_str() {
                    "zero" => "zero",
                    _ => "exact + constant",
                }
                .into(),
                reward[i].as_str().into(),
                n[i].as_str().into(),
                shown(lambda[i]),
                shown(ratio[i]),
            ]);
        }
        out += &format!(
            "(d) lambda of GAE that minimises |bias|^2 + tr Cov/n at pi_ref, {} trees ({}), beta = {}. Dense: RTO; sparse: the paper's DPPO.\n{}",
            n_trees(study, family),
            family.about(),
            study.config.beta,
            table.render()
        );
    }
    Ok(out)
}
