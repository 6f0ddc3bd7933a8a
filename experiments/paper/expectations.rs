//! What each figure must show, checked on the CSV files it is drawn from.

mod algorithm2;
mod audit;
mod bench;
mod prop32;
mod thm42;

use anyhow::{Context, Result};
use rto_harness::table::Table;
use serde::Serialize;
use std::path::Path;

/// A figure with what is expected of it.
pub struct Figure {
    /// Folder and name, as below `figures/`.
    pub name: &'static str,
    /// One sentence that can fail.
    pub expectation: &'static str,
    /// Measures it on the run folder of the experiment.
    check: fn(&Run<'_>) -> Result<Found>,
}

/// What a check measured.
struct Found {
    holds: bool,
    found: String,
}

impl Found {
    fn new(holds: bool, found: String) -> Self {
        Self { holds, found }
    }
}

/// A [`Figure`] after its check.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The figure, as [`Figure::name`] has it.
    pub figure: &'static str,
    /// What it must show, as [`Figure::expectation`] has it.
    pub expectation: &'static str,
    /// The numbers it was judged by.
    pub found: String,
    /// Whether they are as expected.
    pub holds: bool,
}

/// Every figure, in the order of the paper.
pub fn figures() -> impl Iterator<Item = &'static Figure> {
    prop32::FIGURES
        .iter()
        .chain(&thm42::FIGURES)
        .chain(&algorithm2::FIGURES)
        .chain(&audit::FIGURES)
        .chain(&bench::FIGURES)
}

/// Checks every figure of these experiments on the runs below `root`.
pub fn check_all(root: &Path, experiments: &[&str]) -> Result<Vec<Outcome>> {
    let drawn = |figure: &&Figure| {
        let experiment = figure.name.split('/').next();
        experiment.is_some_and(|e| experiments.contains(&e))
    };
    figures()
        .filter(drawn)
        .map(|figure| {
            let experiment = figure.name.split('/').next().unwrap_or_default();
            let run = Run(&root.join(experiment));
            let Found { holds, found } = (figure.check)(&run).context(figure.name)?;
            Ok(Outcome {
                figure: figure.name,
                expectation: figure.expectation,
                found,
                holds,
            })
        })
        .collect()
}

/// The folder of one experiment.
struct Run<'a>(&'a Path);

impl Run<'_> {
    fn table(&self, name: &str) -> Result<Table> {
        Table::from_csv(&self.0.join(name))
    }
}

/// The rows where every named column has its text.
fn rows(table: &Table, conditions: &[(&str, &str)]) -> Result<Table> {
    let mut kept = table.clone();
    for (column, text) in conditions {
        kept = kept.filter(column, text)?;
    }
    Ok(kept)
}

/// The number of the last row that fits.
fn last(table: &Table, conditions: &[(&str, &str)], column: &str) -> Result<f64> {
    let values = rows(table, conditions)?.floats(column)?;
    values
        .last()
        .copied()
        .with_context(|| format!("{}: no row with {conditions:?}", table.name()))
}
