//! (c) Bandits on which pessimism wins, does not matter, or hurts.

use anyhow::Result;
use rand::Rng;
use rto::estimate::Design;
use rto::numerics::sigmoid;
use rto::seed::SeedTree;
use rto::zoo::{Comparison, Instance, pessimism_hurts, pessimism_is_neutral, pessimism_wins};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use crate::coverage::blocks;
use crate::setup::{Setup, WALD};
use crate::summary::{Group, curves, groups, of, violations, wide};
use rto_harness::stats::shown;

const COLUMNS: &[&str] = &[
    "regime",
    "n",
    "replicate",
    "method",
    "radius",
    "rho",
    "covered",
    "suboptimality",
    "bound",
];

type Make = fn(usize) -> rto::Result<(Instance, Vec<Comparison>)>;

const REGIMES: [(&str, Make); 3] = [
    ("wins", pessimism_wins),
    ("neutral", pessimism_is_neutral),
    ("hurts", pessimism_hurts),
];

/// Data sets of one cell.
const BLOCK: u64 = 10;

/// A cell for each regime, size and block of replicates.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for (regime, make) in REGIMES {
        for &n in &study.config.regime_sizes {
            for block in blocks(study.config.regime_replicates, BLOCK) {
                let id = format!("thm42/c/{}", tasks.len());
                tasks.push(Task::new(id, COLUMNS, move || {
                    cell(study, regime, make, n, block.clone())
                }));
            }
        }
    }
    tasks
}

fn cell(
    study: &Study,
    regime: &'static str,
    make: Make,
    n: usize,
    block: std::ops::Range<u64>,
) -> Result<Vec<Vec<Cell>>> {
    let (instance, comparisons) = make(n)?;
    let setup = Setup {
        instance,
        param_bound: study.config.regime_param_bound,
        ridge: study.config.regime_ridge,
        fail_prob: study.config.fail_prob,
    };
    let seeds = study.seeds.child("regimes").child(regime).index(n as u64);
    let mut rows = Vec::new();
    for replicate in block {
        let design = sample(&setup.instance, &comparisons, &seeds.index(replicate))?;
        let outcomes = setup.fit(&design)?.outcomes(&[("wald", WALD)])?;
        let key: [Cell; 3] = [regime.into(), n.into(), replicate.into()];
        rows.extend(outcomes.iter().map(|o| o.cells(&key)));
    }
    Ok(rows)
}

/// Winners of a fixed list of comparisons.
fn sample(g: &Instance, comparisons: &[Comparison], seeds: &SeedTree) -> Result<Design> {
    let mut rng = seeds.rng();
    let mut pairs = Vec::new();
    for c in comparisons {
        let margin = g.theta_star[c.first as usize] - g.theta_star[c.second as usize];
        for _ in 0..c.count {
            pairs.push(c.pair(rng.random::<f64>() < sigmoid(margin))?);
        }
    }
    Ok(Design::from_pairs(&g.mdp, &g.features, &pairs)?)
}

/// Tables, and what they say.
pub struct Regimes {
    groups: Vec<Group>,
    pub curves: Table,
}

pub fn summarise(runs: &Table) -> Result<Regimes> {
    let keys = ["regime", "n"];
    let groups = groups(runs, &keys)?;
    Ok(Regimes {
        curves: curves("regimes", &groups, &keys),
        groups,
    })
}

impl Regimes {
    pub fn text(&self, study: &Study) -> String {
        let methods = [
            ("reference", "", "pi_ref"),
            ("greedy", "", "plain MLE"),
            ("algorithm1", "wald", "Algorithm 1"),
            ("b1", "wald", "(B.1)"),
            ("baselined", "wald", "(B.1) baselined"),
        ];
        let table = wide("regimes", &self.groups, &["regime", "n"], &methods);
        format!(
            "(c) Three bandits of 12 arms, Wald radius, B = {}, lambda = {}, {} data sets each: bad arms seen once; every pair equally often; the best arm\n\
             seen three times. Mean SubOpt:\n{}{}",
            study.config.regime_param_bound,
            study.config.regime_ridge,
            study.config.regime_replicates,
            table.render(),
            self.conclusion()
        )
    }

    fn conclusion(&self) -> String {
        let mut lines = String::new();
        for (regime, _) in REGIMES {
            let last = |method: &str, radius: &str| {
                of(&self.groups, method, radius)
                    .filter(|g| g.key[0] == regime)
                    .last()
                    .map_or(f64::NAN, |g| g.suboptimality.mean())
            };
            let greedy = last("greedy", "");
            let against = |gap: f64| ratio_text(gap / greedy);
            lines += &format!(
                "=> {regime}: at the largest n, against plain MLE, Algorithm 1 is {}, (B.1) with baseline {}.\n",
                against(last("algorithm1", "wald")),
                against(last("baselined", "wald"))
            );
        }
        lines
            + &format!(
                "=> Bounds that failed although their premise held: {}.\n",
                violations(&self.groups)
            )
    }
}

/// A ratio of mean suboptimalities in words; within a factor of 1.5 it is none.
fn ratio_text(ratio: f64) -> String {
    match ratio {
        r if !r.is_finite() || r <= 0.0 => "not comparable".into(),
        r if r * 1.5 < 1.0 => format!("{} times better", shown(1.0 / r).text()),
        r if r <= 1.5 => "about equal".into(),
        r => format!("{} times worse", shown(r).text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_and_worse_are_told_apart() {
        for (ratio, says) in [
            (0.5, "2.000 times better"),
            (0.66, "1.515 times better"),
            (0.67, "about equal"),
            (1.0, "about equal"),
            (1.5, "about equal"),
            (1.51, "1.510 times worse"),
            (f64::NAN, "not comparable"),
            (f64::INFINITY, "not comparable"),
            (0.0, "not comparable"),
        ] {
            assert_eq!(ratio_text(ratio), says);
        }
    }
}
