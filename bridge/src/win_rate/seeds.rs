//! Several runs of one experiment.

use rto::numerics::sigmoid;

use super::{Estimate, WinRates, half_width, mean, wilson};
use crate::{Error, Result};

/// A pair of methods over several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverSeeds {
    /// The mean win rate of the row.
    pub rate: Estimate,
    /// The mean of the rates at equal length, where every run has one.
    pub length_controlled: Option<Estimate>,
}

/// Win rates of runs that differ in their seed: per pair the mean over k runs with an interval over runs.
///
/// The interval of one run holds for its trained policies; this one holds for the training procedure, and is what a claim
/// about a method needs. It is Student's on the log-odds: with p̄ the mean and s the standard deviation of the rates,
///
/// σ(logit p̄ ± t_{k−1} (s/√k) / (p̄(1−p̄))),
///
/// which lies in (0, 1) (the delta method; on the rates themselves few runs give intervals beyond 0 and 1). Rates that are
/// equal in all runs say nothing about their spread: then it is Wilson's interval at the prompts of all runs.
/// `cells[row][column]`; `None` on the diagonal.
///
/// # Errors
/// [`Error::Request`]: fewer than two runs, or runs with other methods or another order of them.
pub fn over_seeds(runs: &[WinRates]) -> Result<Vec<Vec<Option<OverSeeds>>>> {
    let names =
        |run: &WinRates| -> Vec<String> { run.methods.iter().map(|m| m.name.clone()).collect() };
    let refuse = |why: String| Err(Error::request("win rates over seeds", why));
    let [first, _, ..] = runs else {
        return refuse(format!("found {} runs, expected two or more", runs.len()));
    };
    let expected = names(first);
    if let Some(i) = runs.iter().position(|run| names(run) != expected) {
        let found = names(&runs[i]).join(", ");
        let why = format!(
            "run {i} has the methods {found}, expected {}",
            expected.join(", ")
        );
        return refuse(why);
    }
    let cell = |row: usize, column: usize| {
        let of = |run: &WinRates| run.get(row, column).cloned();
        let compared: Vec<_> = runs.iter().map(of).collect::<Option<_>>()?;
        let prompts = compared.iter().map(|c| c.prompts).sum();
        let rates: Vec<f64> = compared.iter().map(|c| c.rate.value).collect();
        let equal = compared.iter().map(|c| Some(c.length_controlled?.value));
        let equal: Option<Vec<f64>> = equal.collect();
        Some(OverSeeds {
            rate: share(&rates, prompts),
            length_controlled: equal.map(|equal| share(&equal, prompts)),
        })
    };
    let n = expected.len();
    let row = |row: usize| (0..n).map(|column| cell(row, column)).collect();
    Ok((0..n).map(row).collect())
}

fn share(rates: &[f64], prompts: usize) -> Estimate {
    let value = mean(rates);
    if rates.iter().all(|r| *r == rates[0]) {
        return wilson(rates[0], prompts as f64);
    }
    // Rates that differ have their mean strictly inside (0, 1).
    let half = half_width(rates) / (value * (1.0 - value));
    let logit = (value / (1.0 - value)).ln();
    Estimate {
        value,
        // Rounding must not put the estimate outside its own interval.
        low: sigmoid(logit - half).min(value),
        high: sigmoid(logit + half).max(value),
    }
}
