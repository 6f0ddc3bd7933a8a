//! The grid of every method: what each point came to on the tuning seeds, and which was chosen.

use anyhow::Result;
use rto_harness::stats::{Sample, Support};
use rto_harness::table::{Cell, Table};

use super::differences;
use crate::config::Point;
use crate::runs::{TUNE, choose};

/// The grid: what each point came to on the tuning seeds, and which was chosen.
pub fn points(runs: &Table) -> Result<Table> {
    let columns = [
        "instance",
        "method",
        "point",
        "learning_rate",
        "lambda",
        "critic_learning_rate",
        "clip",
        "objective",
        "objective_low",
        "objective_high",
        "chosen",
    ];
    let mut table = Table::new("points", &columns);
    let tuned = runs.filter("stage", TUNE)?;
    for instance in tuned.distinct("instance")? {
        let here = tuned.filter("instance", &instance)?;
        for method in here.distinct("method")? {
            let rows = here.filter("method", &method)?;
            let (mut points, mut ends) = (Vec::new(), Vec::new());
            for point in rows.distinct("point")? {
                let rows = rows.filter("point", &point)?;
                let first = |column: &str| -> Result<f64> { Ok(rows.floats(column)?[0]) };
                points.push(Point {
                    learning_rate: first("learning_rate")?,
                    lambda: first("lambda")?,
                    critic_learning_rate: first("critic_learning_rate")?,
                    clip: first("clip")?,
                });
                ends.push(Sample(rows.floats("objective")?));
            }
            let chosen = choose(&points, &ends);
            for (i, (p, end)) in points.iter().zip(&ends).enumerate() {
                let (mean, low, high) = end.interval(Support::Real);
                table.push([
                    instance.as_str().into(),
                    method.as_str().into(),
                    i.into(),
                    p.learning_rate.into(),
                    p.lambda.into(),
                    p.critic_learning_rate.into(),
                    p.clip.into(),
                    mean.into(),
                    low.into(),
                    high.into(),
                    u64::from(i == chosen).into(),
                ]);
            }
        }
    }
    Ok(table)
}

/// RTO less DPPO at the end, at the same point of the grid, on the tuning seeds: where in the grid a token reward pays.
pub fn same_point(runs: &Table) -> Result<Table> {
    let keys = [
        "instance",
        "learning_rate",
        "lambda",
        "critic_learning_rate",
    ];
    let columns = [
        &keys[..],
        &["rto", "dppo", "difference", "low", "high", "seeds"],
    ]
    .concat();
    let mut table = Table::new("same_point", &columns);
    let tuned = runs.filter("stage", TUNE)?;
    let [rto, dppo] = ["rto", "dppo"].map(|m| tuned.filter("method", m));
    let (rto, dppo) = (rto?, dppo?);
    for instance in rto.distinct("instance")? {
        let of = |t: &Table| t.filter("instance", &instance);
        let (rto, dppo) = (of(&rto)?, of(&dppo)?);
        for point in rto.distinct("point")? {
            let at = |t: &Table| t.filter("point", &point);
            let (rto, dppo) = (at(&rto)?, at(&dppo)?);
            let [a, b] = [&rto, &dppo].map(|t| t.floats("objective").map(Sample));
            let (a, b) = (a?, b?);
            let gap = differences(&a, &b);
            let (mean, low, high) = gap.interval(Support::Real);
            let mut row: Vec<Cell> = Vec::new();
            for key in keys {
                row.push(match key {
                    "instance" => instance.as_str().into(),
                    _ => rto.floats(key)?[0].into(),
                });
            }
            row.extend([a.mean(), b.mean(), mean].map(Cell::from));
            row.extend([low.into(), high.into(), gap.len().into()]);
            table.push(row);
        }
    }
    Ok(table)
}
