//! Several runs of one experiment.

use super::{Estimate, WinRates, mean_interval};
use crate::{Error, Result};

/// Win rates of runs that differ in their seed: per pair the mean over runs with Student's t interval over runs.
///
/// The interval of one run holds for its trained policies; this one holds for the training procedure, and is what a claim
/// about a method needs. `cells[row][column]`; `None` on the diagonal. Equal rates in all runs give an interval without width.
///
/// # Errors
/// [`Error::Request`]: fewer than two runs, or runs with other methods or another order of them.
pub fn over_seeds(runs: &[WinRates]) -> Result<Vec<Vec<Option<Estimate>>>> {
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
        let of = |run: &WinRates| Some(run.get(row, column)?.rate.value);
        let rates: Option<Vec<f64>> = runs.iter().map(of).collect();
        rates.map(|rates| mean_interval(&rates))
    };
    let n = expected.len();
    let row = |row: usize| (0..n).map(|column| cell(row, column)).collect();
    Ok((0..n).map(row).collect())
}
