//! What replies to held-out prompts earn at the end of the reported runs, where a ground measures that.

use anyhow::Result;

use super::{REPORT, differences};
use crate::stats::{Sample, Support, sign_flip};
use crate::table::{Cell, Table};

/// Columns of `runs.csv` that only the end of a reported run has.
pub const MEASURED: [&str; 5] = [
    "held_out",
    "held_out_greedy",
    "held_out_kl",
    "length",
    "ended",
];

/// These columns, NaN where there are none.
pub fn columns(runs: &Table) -> Result<[Vec<f64>; 5]> {
    let mut all = MEASURED.map(|_| vec![f64::NAN; runs.len()]);
    for (name, column) in MEASURED.iter().zip(&mut all) {
        if runs.columns().iter().any(|c| c == name) {
            *column = runs.floats(name)?;
        }
    }
    Ok(all)
}

/// Means over seeds with 95% t-intervals, and RTO less each other method with the exact test of the pairs. Secondary, not corrected. None
/// without these columns.
pub fn held_out(runs: &Table) -> Result<Option<Table>> {
    if !MEASURED
        .iter()
        .all(|c| runs.columns().iter().any(|d| d == c))
    {
        return Ok(None);
    }
    let columns = [
        "instance",
        "method",
        "quantity",
        "mean",
        "low",
        "high",
        "rto_less_it",
        "rto_low",
        "rto_high",
        "p",
    ];
    let mut table = Table::new("held_out", &columns);
    let report = runs.filter("stage", REPORT)?;
    for instance in report.distinct("instance")? {
        let here = report.filter("instance", &instance)?;
        for quantity in MEASURED {
            let of = |method: &str| -> Result<Sample> {
                let all = here.filter("method", method)?.floats(quantity)?;
                Ok(Sample(all.into_iter().filter(|v| v.is_finite()).collect()))
            };
            let rto = of("rto")?;
            for method in here.distinct("method")? {
                let found = of(&method)?;
                let (mean, low, high) = found.interval(Support::Real);
                let mut row: Vec<Cell> = vec![
                    instance.as_str().into(),
                    method.as_str().into(),
                    quantity.into(),
                ];
                row.extend([mean.into(), low.into(), high.into()]);
                match method == "rto" {
                    true => row.extend([Cell::Empty, Cell::Empty, Cell::Empty, Cell::Empty]),
                    false => {
                        let gap = differences(&rto, &found);
                        let (mean, low, high) = gap.interval(Support::Real);
                        row.extend([mean.into(), low.into(), high.into()]);
                        row.push(sign_flip(&gap.0).into());
                    }
                }
                table.push(row);
            }
        }
    }
    Ok(Some(table))
}
