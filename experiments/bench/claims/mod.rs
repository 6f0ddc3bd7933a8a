//! (e) Claims of papers, each judged by an exact experiment on instances that nothing was tuned on.

mod instances;
mod literature;
mod methods;
mod online;
mod sampling;

use anyhow::{Result, bail};
use rto::seed::SeedTree;
use rto_harness::stats::{Sample, Support};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;

const COLUMNS: &[&str] = &["claim", "setting", "quantity", "run", "value"];

/// One measured number: which setting, what was measured, on which instance.
struct Row {
    setting: String,
    quantity: &'static str,
    run: u64,
    value: f64,
}

fn row(setting: impl Into<String>, quantity: &'static str, run: u64, value: f64) -> Row {
    Row {
        setting: setting.into(),
        quantity,
        run,
        value,
    }
}

/// What an experiment is given: its own random streams, and how many instances it may take.
struct Budget {
    seeds: SeedTree,
    percent: u64,
}

impl Budget {
    /// The random stream of one instance of a part of the experiment.
    fn rng(&self, part: &str, run: u64) -> rand_chacha::ChaCha8Rng {
        self.seeds.child(part).index(run).rng()
    }

    /// The share of `full` instances that this run takes, at least four.
    fn runs(&self, full: u64) -> std::ops::Range<u64> {
        0..(full * self.percent / 100).max(4)
    }
}

type Experiment = fn(&Budget) -> Result<Vec<Row>>;

/// Every experiment under the name that the registry of claims has for it.
const EXPERIMENTS: &[(&str, Experiment)] = &[
    ("K1", methods::worst_tie),
    ("K1b", methods::random_trees),
    ("K2", sampling::best_of_n_bounds),
    ("K2b", sampling::soft_best_of_n_rate),
    ("K3", sampling::reward_against_kl),
    ("K4", online::rare_response),
    ("K5", online::greedy),
    ("K6", methods::additive),
    ("K7", methods::tdpo),
    ("K8", methods::adversarial_sft),
    ("K9", methods::components),
    ("K10", methods::kto),
    ("implicit_reward", literature::implicit_reward),
    ("r_to_q", literature::token_advantage),
    ("q_sharp", literature::soft_value),
    ("q_sharp_rto", literature::equal_rollouts),
    ("greedy_mle", literature::greedy_against_pessimistic),
    ("kl_fast_rate", literature::fast_rate),
    ("local_mix", literature::local_mix),
    ("displacement", literature::displacement),
    ("separable", literature::deterministic_preferences),
    ("nash", literature::cyclic_preferences),
    ("bon_near_optimal", sampling::win_rate_against_kl),
    ("bon_scaling", sampling::scaling_n),
    ("simpo_length", literature::length_bias),
    ("rdpo", literature::length_penalty),
    ("vpo", literature::value_incentive),
];

/// A cell for each claim.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    EXPERIMENTS
        .iter()
        .enumerate()
        .map(|(i, &(claim, experiment))| {
            Task::new(format!("bench/f/{i}"), COLUMNS, move || {
                let budget = Budget {
                    seeds: study.seeds.child("claims").child(claim),
                    percent: study.config.claims_percent,
                };
                let cells = |row: Row| -> Vec<Cell> {
                    vec![
                        claim.into(),
                        row.setting.into(),
                        row.quantity.into(),
                        row.run.into(),
                        row.value.into(),
                    ]
                };
                Ok(experiment(&budget)?.into_iter().map(cells).collect())
            })
        })
        .collect()
}

/// The values that a quantity can take, by its name: rewards, gains, differences and slopes may be negative.
fn support(quantity: &str) -> Support {
    const SIGNED: [&str; 6] = [
        "slope",
        "change of",
        "gain",
        "largest gain",
        "doubling ratio",
        "E length",
    ];
    const SHARES: [&str; 5] = [
        "chi-PO better",
        "Q-sharp better",
        "chosen fall",
        "peak inside",
        "linear law better",
    ];
    let begins = |names: &[&str]| names.iter().any(|name| quantity.starts_with(name));
    match quantity {
        _ if begins(&SIGNED) || quantity.contains(" minus ") => Support::Real,
        "worse than the reference" | "DPO without a minimiser" => Support::Share,
        _ if begins(&SHARES) => Support::Share,
        _ => Support::NonNegative,
    }
}

/// Mean with its 95% interval, median and range of each number over its instances.
pub fn summarise(runs: &Table) -> Result<Table> {
    let columns = [
        "claim", "setting", "quantity", "runs", "mean", "low", "high", "median", "least", "most",
    ];
    let mut table = Table::new("claims", &columns);
    let keys: Vec<Vec<String>> = ["claim", "setting", "quantity"]
        .iter()
        .map(|c| runs.texts(c))
        .collect::<Result<_>>()?;
    let values = runs.floats("value")?;
    let mut order: Vec<[&str; 3]> = Vec::new();
    let mut samples: std::collections::HashMap<[&str; 3], Vec<f64>> = Default::default();
    for i in 0..runs.len() {
        let key = [&*keys[0][i], &*keys[1][i], &*keys[2][i]];
        let sample = samples.entry(key).or_insert_with(|| {
            order.push(key);
            Vec::new()
        });
        sample.push(values[i]);
    }
    for key in order {
        let sample = Sample(samples.remove(&key).unwrap_or_default());
        let support = support(key[2]);
        // Of rounding at most; anything else is a quantity of another kind.
        if let Some(out) = sample
            .0
            .iter()
            .find(|v| (*v - support.cut(**v)).abs() > 1e-9)
        {
            bail!(
                "{}, {}: a run gives {out}, which is no value of {support:?}",
                key[0],
                key[2]
            );
        }
        let (mean, low, high) = sample.interval(support);
        let finite = |x: Option<f64>| Cell::from(x.filter(|x| x.is_finite()));
        table.push([
            key[0].into(),
            key[1].into(),
            key[2].into(),
            sample.len().into(),
            mean.into(),
            finite(low),
            finite(high),
            sample.quantile(0.5).into(),
            sample.quantile(0.0).into(),
            sample.quantile(1.0).into(),
        ]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn committed_numbers_lie_in_the_support_of_their_quantity() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../figures/bench/claims.csv");
        let table = Table::from_csv(&file).unwrap();
        let quantities = table.texts("quantity").unwrap();
        let columns = ["mean", "low", "high", "least", "most"].map(|c| table.floats(c).unwrap());
        for (i, quantity) in quantities.iter().enumerate() {
            let support = support(quantity);
            let [mean, low, high, least, most] = [0, 1, 2, 3, 4].map(|c| columns[c][i]);
            for end in [mean, low, high].into_iter().filter(|v| v.is_finite()) {
                assert_eq!(support.cut(end), end, "{quantity}");
            }
            for run in [least, most] {
                assert!((support.cut(run) - run).abs() < 1e-9, "{quantity}: {run}");
            }
        }
        for (quantity, expected) in [
            ("SubOpt, RTO", Support::NonNegative),
            ("DPO minus chi-PO", Support::Real),
            ("Q-sharp better", Support::Share),
        ] {
            assert_eq!(support(quantity), expected);
        }
    }
}
