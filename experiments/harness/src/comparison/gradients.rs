//! How noisy the estimates of the methods' gradients are along their runs, from `gradient_runs.csv` alone.

pub mod figures;

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{EXACT_CRITIC, LAMBDA_ONE, REPORT, differences, line};
use crate::stats::{Sample, Support};
use crate::table::{Cell, Table};

/// SFT with a critic of zero and one λ for all: the place of the reward alone differs.
pub const SFT: &str = "sft";
/// Advantages less their mean over the tokens of a large batch.
pub const WHITENED: &str = "mean removed";
/// Advantages as they are.
pub const NOT_WHITENED: &str = "as they are";

const COLUMNS: [&str; 12] = [
    "instance",
    "quantity",
    "stage",
    "method",
    "against",
    "lambda",
    "whitening",
    "iteration",
    "estimate",
    "low",
    "high",
    "p",
];

/// What is the same in all rows of one estimate: (method, stage, λ where it is one for all, whitening, iteration).
type Of = (String, String, String, String, u64);

/// `gradients`: noise (geometric mean), squared bias and cosines of every method at every time, and the noise of DPPO over that of RTO.
///
/// Noise is tr Cov of a reply over |E g|². A ratio is a geometric mean with its 95% t-interval over paired seeds; p is the exact sign-flip test.
///
/// # Errors
/// A run that is missing, a column or a number that is none.
pub fn conclude(runs: &Table) -> Result<Table> {
    let mut table = Table::new("gradients", &COLUMNS);
    for instance in runs.distinct("instance")? {
        let here = runs.filter("instance", &instance)?;
        let texts = ["method", "stage", "lambda", "whitening"].map(|c| here.texts(c));
        let [methods, stages, lambdas, whitening] = texts;
        let (methods, stages) = (methods?, stages?);
        let (lambdas, whitening) = (lambdas?, whitening?);
        let times = here.parsed::<u64>("iteration", "an iteration")?;
        let seeds = here.parsed::<u64>("seed", "a seed")?;
        let measured = ["noise", "bias2", "cosine", "cosine_true"];
        let floats: Vec<Vec<f64>> = (measured.iter())
            .map(|c| here.floats(c))
            .collect::<Result<_>>()?;
        // In the order of the runs.
        let mut order: Vec<Of> = Vec::new();
        let mut all: BTreeMap<Of, BTreeMap<u64, [f64; 4]>> = BTreeMap::new();
        for i in 0..here.len() {
            // Each method has its own λ where it is as tuned.
            let lambda = match stages[i] == SFT {
                true => lambdas[i].clone(),
                false => String::new(),
            };
            let of = (
                methods[i].clone(),
                stages[i].clone(),
                lambda,
                whitening[i].clone(),
                times[i],
            );
            if !order.contains(&of) {
                order.push(of.clone());
            }
            let values = std::array::from_fn(|k| floats[k][i]);
            all.entry(of).or_default().insert(seeds[i], values);
        }
        let key = |quantity: &str, of: &Of, against: &str| -> Vec<Cell> {
            let texts = [&instance, quantity, &of.1, &of.0, against, &of.2, &of.3];
            let mut key: Vec<Cell> = texts.map(Cell::from).into();
            key.push(of.4.into());
            key
        };
        for of in &order {
            for (k, quantity) in measured.iter().enumerate() {
                let values = all[of].values().map(|v| v[k]);
                let (sample, scale): (Sample, fn(f64) -> f64) = match k {
                    0 => (Sample(values.map(f64::ln).collect()), f64::exp),
                    _ => (Sample(values.collect()), |x| x),
                };
                let (mean, low, high) = sample.interval(Support::Real);
                let mut row = key(quantity, of, "");
                row.extend([
                    scale(mean).into(),
                    low.map(scale).into(),
                    high.map(scale).into(),
                    Cell::Empty,
                ]);
                table.push(row);
            }
        }
        for of in order.iter().filter(|of| of.0 == "rto") {
            let other = Of::from((
                "dppo".to_string(),
                of.1.clone(),
                of.2.clone(),
                of.3.clone(),
                of.4,
            ));
            let dppo = all.get(&other);
            let dppo = dppo.with_context(|| format!("gradient_runs: no rows of {other:?}"))?;
            let log =
                |runs: &BTreeMap<u64, [f64; 4]>| Sample(runs.values().map(|v| v[0].ln()).collect());
            anyhow::ensure!(
                dppo.keys().eq(all[of].keys()),
                "gradient_runs: seeds of rto and dppo differ at {of:?}"
            );
            let ratio = differences(&log(dppo), &log(&all[of]));
            let mut row = key("noise_ratio", of, "dppo");
            // Estimate, interval and p stand where a line of the conclusions has them.
            let said = line(
                std::array::from_fn(|_| Cell::Empty),
                &ratio,
                f64::exp,
                [Cell::Empty, Cell::Empty],
            );
            row.extend(said.into_iter().skip(5).take(4));
            table.push(row);
        }
    }
    Ok(table)
}

/// Stages along runs, with what they are called.
pub(super) const STAGES: [(&str, &str); 3] = [
    (REPORT, "as it stands"),
    (LAMBDA_ONE, "λ = 1, both"),
    (EXACT_CRITIC, "exact critic, both"),
];
