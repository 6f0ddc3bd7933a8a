//! What every experiment made of sweeps does with its cells: report a shard, merge shards, write results.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::{Common, Reporter};
use crate::plot;
use crate::progress::Progress;
use crate::run_dir::{self, RunDir, Timings};
use crate::say;
use crate::sweep::{CellStore, Shard, Task};
use crate::table::Table;

/// The arguments of `merge`: put the cells of sharded runs together.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Run folders of shards, all with the same settings
    #[arg(required = true, value_name = "DIR")]
    pub runs: Vec<PathBuf>,
    /// Write results here: a new or empty directory, or an unfinished merge to go on with
    /// [default: the next free folder in runs/]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the results as JSON on standard output; text for people goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Draw no progress bar
    #[arg(long)]
    pub quiet: bool,
}

/// Drawing the figures takes about this share of the time of the cells, at the default settings.
const DRAWING: f64 = 0.05;

/// The progress of a run: its share of the cells, and the figures where it draws any.
pub fn progress(quiet: bool, tasks: &[Task<'_>], share: Shard) -> Progress {
    let cells = (0..tasks.len()).filter(|i| share.has(*i)).count() as f64;
    let figures = match share.is_whole() {
        true => DRAWING * cells,
        false => 0.0,
    };
    Progress::whole(quiet, cells + figures)
}

/// Draws the figures of a run, as its last phase.
///
/// # Errors
/// Those of `draw`.
pub fn draw(
    progress: &Progress,
    tasks: &[Task<'_>],
    timings: &mut Timings,
    draw: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let _bar = progress.part(1, "drawing figures", DRAWING * tasks.len() as f64);
    timings.phase("figures", draw)
}

/// Reads `--shard`. Shards share a folder that somebody named: in a numbered folder of its own each would be alone.
///
/// # Errors
/// A text that is no share; no folder.
pub fn shard(text: Option<&str>, common: &Common, resume: Option<&Path>) -> Result<Option<Shard>> {
    let Some(text) = text else { return Ok(None) };
    let shard = text.parse().context("--shard")?;
    if common.out.is_none() && resume.is_none() {
        bail!(
            "--shard {text}: needs --out DIR (or --resume DIR), the folder in which `merge` finds the cells of this share"
        );
    }
    Ok(Some(shard))
}

/// `--redraw DIR`: draws the figures of a run of this program again, and says which files that wrote.
///
/// # Errors
/// A folder of another program; what `draw` says.
pub fn redraw(
    experiment: &str,
    dir: &Path,
    draw: impl FnOnce(&Path) -> Result<()>,
    reporter: &Reporter,
) -> Result<()> {
    if !dir.is_dir() {
        bail!("--redraw {}: no such directory", dir.display());
    }
    // The committed figures, for one, are CSV files alone.
    if dir.join(run_dir::VERSIONS).is_file() {
        run_dir::check_program(experiment, dir)?;
    }
    let files = plot::drawn(|| draw(dir))?;
    for file in &files {
        say!(reporter, "wrote {}", file.display())?;
    }
    reporter.json(&json!({ "run": dir, "figures": files }))
}

/// The cells of one part: those with ids `experiment/letter/…`, which stand together in the list.
pub fn part<'t, 'a>(experiment: &str, tasks: &'t [Task<'a>], letter: char) -> &'t [Task<'a>] {
    let prefix = format!("{experiment}/{letter}/");
    let is_in = |task: &Task| task.id().starts_with(&prefix);
    let start = tasks.iter().position(is_in).unwrap_or(0);
    let count = tasks[start..].iter().take_while(|task| is_in(task)).count();
    &tasks[start..start + count]
}

/// Says what a shard has computed (`new` cells) and how to go on.
///
/// # Errors
/// When the report cannot be written.
pub fn report_shard(
    experiment: &str,
    dir: &RunDir,
    store: &CellStore,
    tasks: &[Task<'_>],
    (shard, new): (Shard, usize),
    reporter: &Reporter,
) -> Result<()> {
    let present = tasks.len() - store.missing(tasks).len();
    let root = dir.root().display();
    say!(
        reporter,
        "shard {shard}: {new} cells computed; {present} of {} cells are in {root}\n\
         when all shards are done: {experiment} merge {root} [DIR...] --out DIR",
        tasks.len()
    )?;
    reporter.json(&json!({
        "run": dir.root(), "shard": shard.to_string(), "computed": new,
        "present": present, "cells": tasks.len(),
    }))
}

/// A run folder that holds the cells of all shards.
///
/// # Errors
/// A folder that is no run with these settings, a cell that is in none of them; nothing is made then.
pub fn merge(
    experiment: &str,
    merge: &MergeArgs,
    config: &impl Serialize,
    tasks: &[Task<'_>],
    timings: &mut Timings,
) -> Result<(RunDir, CellStore)> {
    for run in &merge.runs {
        RunDir::verify(experiment, run, config)?;
    }
    let missing = CellStore::missing_in(&merge.runs, tasks);
    if let Some(first) = missing.first() {
        bail!(
            "merge: {} of {} cells are in none of these runs, the first is {first}; run the shards that are missing, or `{experiment} --resume {}`",
            missing.len(),
            tasks.len(),
            merge.runs[0].display()
        );
    }
    let dir = RunDir::create_or_resume(experiment, merge.out.as_deref(), config)?;
    let store = CellStore::open(&dir)?;
    timings.phase("merge", || -> Result<()> {
        for run in &merge.runs {
            store.copy_from(run, tasks)?;
        }
        Ok(())
    })?;
    Ok((dir, store))
}

/// Writes every table as CSV, and `results` (not `raw`, which may be large) into `results.json` and the answer.
///
/// # Errors
/// When a file cannot be written.
pub fn write_results(dir: &RunDir, raw: &[Table], results: &[Table]) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    for table in results {
        all.insert(table.name().to_string(), serde_json::to_value(table)?);
    }
    for table in raw.iter().chain(results) {
        dir.write_table(&format!("{}.csv", table.name()), table)?;
    }
    dir.write_json("results.json", &all)?;
    Ok(all)
}
