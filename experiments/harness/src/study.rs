//! An experiment made of sweeps, from its command line to its figures: run, resumed, split into shards, merged and redrawn in the
//! same way in every binary.
//!
//! A binary says what its cells are and what tables and texts they give ([`Experiment`]); [`run()`], [`merge()`] and [`redraw()`] do
//! the rest.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::atomic;
use crate::cli::{Common, Reporter};
use crate::lock::Sharing;
use crate::machine::Machine;
use crate::plot;
use crate::progress::Progress;
use crate::run_dir::{self, RunDir, Timings};
use crate::say;
use crate::settings::Settings;
use crate::slurm::{self, Array, SlurmArgs};
use crate::sweep::{CellStore, Shard, Task};
use crate::table::Table;

/// An experiment made of sweeps.
pub trait Experiment: Sized {
    /// What its config files hold.
    type Settings: Settings;

    /// Whether there are [`Experiment::later`] cells, so that shards are begun twice unless the last finds all others done.
    const TWICE: bool = false;

    /// The experiment with these settings. Anything that can be wrong with them is found here, before there is a run folder.
    ///
    /// # Errors
    /// One line about the setting.
    fn new(settings: Self::Settings) -> Result<Self>;

    /// The settings.
    fn settings(&self) -> &Self::Settings;

    /// Told the run folder, before anything is computed there: for cells that keep files of their own in it.
    fn in_folder(&self, _folder: &Path) {}

    /// Computes what the cells share and what takes long, once, before the first of them. `timings` gets its phases.
    ///
    /// # Errors
    /// The experiment's own.
    fn prepare(&self, _timings: &mut Timings) -> Result<()> {
        Ok(())
    }

    /// All cells, part by part. The id of a cell is `NAME/letter/…`, where the letter names the part.
    fn tasks(&self) -> Vec<Task<'_>>;

    /// Cells that can be named only once all those of [`Experiment::tasks`] are there, such as those of a setting that these chose.
    /// They are parts of their own; none by default.
    ///
    /// # Errors
    /// A cell that cannot be read.
    fn later(&self, _cells: &Cells<'_>) -> Result<Vec<Task<'_>>> {
        Ok(Vec::new())
    }

    /// Tables and text from the finished cells.
    ///
    /// # Errors
    /// A cell that cannot be read.
    fn results(&self, cells: &Cells<'_>) -> Result<Results>;

    /// Draws every figure of a run folder from its CSV files alone.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    fn draw(dir: &Path) -> Result<()>;

    /// The report of a run folder as one HTML page, from its CSV files and config: `report.html`. None by default.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    fn page(_dir: &Path) -> Result<Option<String>> {
        Ok(None)
    }
}

/// The report in a run folder.
const REPORT: &str = "report.html";

/// The finished cells of a run, all of them.
#[derive(Debug)]
pub struct Cells<'a> {
    experiment: &'static str,
    store: &'a CellStore,
    tasks: &'a [Task<'a>],
}

impl Cells<'_> {
    /// The rows of one part, the cells in order, as a table with this name.
    ///
    /// # Errors
    /// Those of [`CellStore::collect`].
    pub fn of_part(&self, letter: char, name: &str) -> Result<Table> {
        self.store
            .collect(name, part(self.experiment, self.tasks, letter))
    }
}

/// What an experiment says and saves.
#[derive(Debug, Default)]
pub struct Results {
    /// What is printed, one after the other.
    pub texts: Vec<String>,
    /// Tables that may be large: saved as CSV alone.
    pub raw: Vec<Table>,
    /// Tables saved as CSV, in `results.json` and in the answer of `--json`.
    pub tables: Vec<Table>,
}

/// The flags of an experiment made of sweeps; put it in the binary's own struct with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StudyArgs {
    /// The flags that every binary has.
    #[command(flatten)]
    pub common: Common,
    /// Go on with the run in this folder, as --out does, and make none if it is not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "seed", "set", "out", "smoke", "redraw"])]
    pub resume: Option<PathBuf>,
    /// Compute only share I of N of the cells (I from 0 to N-1, or from 1 to N); `merge` puts them together
    #[arg(long, value_name = "I/N", conflicts_with = "redraw")]
    pub shard: Option<String>,
    /// An array of jobs on a cluster.
    #[command(flatten)]
    pub slurm: SlurmArgs,
    /// With --slurm: print the scripts, make and submit nothing
    #[arg(long, requires = "slurm")]
    pub dry_run: bool,
}

/// The subcommands of an experiment made of sweeps.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Put the cells of sharded runs together: tables, figures and results as of one run
    Merge(MergeArgs),
}

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

/// Runs an experiment, a share of it, or what is missing of it; or draws its figures again.
///
/// `flags` are the binary's own: `Option` fields named like the keys of its config.
///
/// # Errors
/// A setting, a folder or a cell that cannot be used; those of the experiment.
pub fn run<E: Experiment>(args: &StudyArgs, flags: &impl Serialize) -> Result<()> {
    let common = &args.common;
    let reporter = common.reporter();
    let name = E::Settings::NAME;
    if let Some(dir) = &common.redraw {
        redraw(name, dir, E::draw, &reporter)?;
        // A run folder's report shows its figures; the committed figures stand without one.
        let report = dir.join(REPORT);
        if report.is_file()
            && let Some(html) = E::page(dir)?
        {
            atomic::replace(&report, html.as_bytes())?;
            say!(reporter, "wrote {}", report.display())?;
        }
        return Ok(());
    }
    let shard = shard(args)?;
    let (settings, out) = match &args.resume {
        Some(dir) => (E::Settings::saved(dir, flags)?, Some(dir.as_path())),
        None => (E::Settings::resolve(common, flags)?, common.out.as_deref()),
    };
    // Read and checked before the run folder is made: a bad setting then leaves nothing behind.
    let experiment = E::new(settings)?;
    if let Some(count) = args.slurm.slurm {
        return submit(&experiment, args, count, out, &reporter);
    }
    let sharing = match shard {
        Some(_) => Sharing::WithShards,
        None => Sharing::Alone,
    };
    let dir = RunDir::open(name, out, experiment.settings(), sharing)?;
    let mut timings = Timings::new();
    experiment.in_folder(dir.root());
    experiment.prepare(&mut timings)?;
    let mut tasks = experiment.tasks();
    let store = CellStore::open(&dir)?;
    let share = shard.unwrap_or(Shard::WHOLE);
    let progress = progress(common.quiet, &tasks, share);
    let mut new = timings.phase("cells", || store.run(&tasks, share, &progress))?;
    // Of several shards, the last that ends here finds all cells that others are chosen by.
    let whole = store.missing(&tasks).is_empty();
    if whole {
        let later = later(&experiment, &store, &tasks)?;
        if !later.is_empty() {
            new += timings.phase("later cells", || store.run(&later, share, &progress))?;
            tasks.extend(later);
        }
    }
    if let Some(shard) = shard {
        return report_shard::<E>(&dir, &store, &tasks, (shard, new, whole), &reporter);
    }
    dir.made_on_machines_of(&[dir.root().to_path_buf()], &mut timings)?;
    finish(
        &experiment,
        &dir,
        (&store, &tasks),
        timings,
        progress,
        &reporter,
    )
}

/// Puts the cells of sharded runs together, with the tables, figures and results of one run.
///
/// # Errors
/// A folder that is no run with these settings, a cell that is in none of them; nothing is made then.
pub fn merge<E: Experiment>(args: &MergeArgs) -> Result<()> {
    let reporter = Reporter::new(args.json);
    let no_flags = Map::new();
    let experiment = E::new(E::Settings::saved(&args.runs[0], &no_flags)?)?;
    let mut tasks = experiment.tasks();
    let mut timings = Timings::new();
    let (dir, store) = merged::<E>(args, experiment.settings(), &tasks, &mut timings)?;
    let later = later(&experiment, &store, &tasks)?;
    take_over::<E>(args, &store, &later, &mut timings)?;
    tasks.extend(later);
    experiment.prepare(&mut timings)?;
    let progress = Progress::new(args.quiet);
    finish(
        &experiment,
        &dir,
        (&store, &tasks),
        timings,
        progress,
        &reporter,
    )
}

/// The cells that those of `tasks`, all of which are there, ask for.
fn later<'e, E: Experiment>(
    experiment: &'e E,
    store: &CellStore,
    tasks: &[Task<'_>],
) -> Result<Vec<Task<'e>>> {
    experiment.later(&Cells {
        experiment: E::Settings::NAME,
        store,
        tasks,
    })
}

/// Tables, figures and text from the cells.
fn finish<E: Experiment>(
    experiment: &E,
    dir: &RunDir,
    (store, tasks): (&CellStore, &[Task<'_>]),
    mut timings: Timings,
    progress: Progress,
    reporter: &Reporter,
) -> Result<()> {
    let results = experiment.results(&Cells {
        experiment: E::Settings::NAME,
        store,
        tasks,
    })?;
    let all = write_results(dir, &results.raw, &results.tables)?;
    {
        let _bar = progress.part(1, "drawing figures", DRAWING * tasks.len() as f64);
        timings.phase("figures", || E::draw(dir.root()))?;
        if let Some(html) = timings.phase("report", || E::page(dir.root()))? {
            dir.write_text(REPORT, &html)?;
        }
    }
    drop(progress);
    dir.write_timings(&timings)?;
    Machine::forget_shards(dir.root());
    store.tidy();
    dir.tidy();
    // Files first: whoever stops reading loses no result.
    for text in &results.texts {
        say!(reporter, "{text}")?;
    }
    reporter.json(&json!({ "run": dir.root(), "results": all }))?;
    let root = dir.root();
    match root.join(REPORT).is_file() {
        true => say!(reporter, "report: {}", root.join(REPORT).display()),
        false => say!(reporter, "tables and figures in {}", root.display()),
    }
}

/// Drawing the figures takes about this share of the time of the cells, at the default settings.
const DRAWING: f64 = 0.05;

/// The progress of a run: its share of the cells, and the figures where it draws any.
fn progress(quiet: bool, tasks: &[Task<'_>], share: Shard) -> Progress {
    let cells = share.of(tasks).count() as f64;
    let figures = match share.is_whole() {
        true => DRAWING * cells,
        false => 0.0,
    };
    Progress::whole(quiet, cells + figures)
}

/// Reads `--shard`. Shards share a folder that somebody named: in a numbered folder of its own each would be alone.
fn shard(args: &StudyArgs) -> Result<Option<Shard>> {
    let Some(text) = &args.shard else {
        return Ok(None);
    };
    let shard = text.parse().context("--shard")?;
    if args.common.out.is_none() && args.resume.is_none() {
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
    let files = plot::drawn(|| draw(dir)).with_context(|| format!("--redraw {}", dir.display()))?;
    for file in &files {
        say!(reporter, "wrote {}", file.display())?;
    }
    reporter.json(&json!({ "run": dir, "figures": files }))
}

/// `--slurm N`: makes the run folder and submits the shares that lack cells, and the merge; or prints what that would be.
fn submit<E: Experiment>(
    experiment: &E,
    args: &StudyArgs,
    count: u64,
    out: Option<&Path>,
    reporter: &Reporter,
) -> Result<()> {
    let name = E::Settings::NAME;
    let sbatch = args.slurm.sbatch()?;
    let tasks = experiment.tasks();
    let folder = match args.dry_run {
        true => run_dir::planned(name, out),
        false => {
            slurm::check()?;
            let dir = RunDir::open(name, out, experiment.settings(), Sharing::WithShards)?;
            dir.root().to_path_buf()
        }
    };
    let folder = std::path::absolute(&folder)
        .with_context(|| format!("{}: cannot be found", folder.display()))?;
    let runs = [folder.clone()];
    let missing: HashSet<&str> = CellStore::missing_in(&runs, &tasks).into_iter().collect();
    let lacks = |index: &u64| {
        let share = Shard::new(*index, count);
        share.of(&tasks).any(|task| missing.contains(task.id()))
    };
    let text = folder
        .to_str()
        .with_context(|| format!("{}: not valid UTF-8 text", folder.display()))?;
    let words = |list: &[&str]| list.iter().map(|w| w.to_string()).collect();
    let array = Array {
        name,
        count,
        indices: (0..count).filter(lacks).collect(),
        task: words(&["--resume", text, "--quiet"]),
        shares: true,
        ranks: None,
        after: words(&["merge", text, "--out", text, "--quiet"]),
        sbatch,
        folder: folder.clone(),
    };
    if args.dry_run {
        let scripts = array.scripts()?;
        if let Some(script) = &scripts.array {
            say!(
                reporter,
                "# {}/array.sh\n{script}",
                scripts.folder.display()
            )?;
        }
        say!(
            reporter,
            "# {}/merge.sh, after the array\n{}",
            scripts.folder.display(),
            scripts.merge.as_deref().unwrap_or_default()
        )?;
        return reporter.json(&json!({
            "run": folder, "cells": tasks.len(), "missing": missing.len(), "tasks": array.indices,
            "array": scripts.array, "merge": scripts.merge,
        }));
    }
    let jobs = array.submit()?;
    let merge = jobs.merge.as_deref().unwrap_or_default();
    match &jobs.array {
        Some(id) => say!(
            reporter,
            "{} of {} cells to compute: job {id}, {} tasks; the merge is job {}",
            missing.len(),
            tasks.len(),
            array.indices.len(),
            merge
        )?,
        None => say!(reporter, "every cell is there; the merge is job {merge}")?,
    }
    say!(
        reporter,
        "results will be in {}, logs are in {}",
        folder.display(),
        jobs.scripts.display()
    )?;
    reporter.json(&json!({
        "run": folder, "cells": tasks.len(), "missing": missing.len(), "tasks": array.indices, "jobs": jobs,
    }))
}

/// The cells of one part: those with ids `experiment/letter/…`, which stand together in the list.
fn part<'t, 'a>(experiment: &str, tasks: &'t [Task<'a>], letter: char) -> &'t [Task<'a>] {
    let prefix = format!("{experiment}/{letter}/");
    let is_in = |task: &Task| task.id().starts_with(&prefix);
    let start = tasks.iter().position(is_in).unwrap_or(0);
    let count = tasks[start..].iter().take_while(|task| is_in(task)).count();
    &tasks[start..start + count]
}

/// Says what a shard has computed (`new` cells) and how to go on; `whole` when the cells that others are chosen by are all there.
fn report_shard<E: Experiment>(
    dir: &RunDir,
    store: &CellStore,
    tasks: &[Task<'_>],
    (shard, new, whole): (Shard, usize, bool),
    reporter: &Reporter,
) -> Result<()> {
    let present = tasks.len() - store.missing(tasks).len();
    let (root, program) = (dir.root().display(), E::Settings::PROGRAM);
    say!(
        reporter,
        "shard {shard}: {new} cells computed; {present} of {} cells are in {root}",
        tasks.len()
    )?;
    match whole || !E::TWICE {
        true => say!(
            reporter,
            "when all shards are done: {program} merge {root} [DIR...] --out DIR"
        )?,
        false => say!(
            reporter,
            "when all shards have come this far, the same commands again compute what these cells choose"
        )?,
    }
    reporter.json(&json!({
        "run": dir.root(), "shard": shard.to_string(), "computed": new,
        "present": present, "cells": tasks.len(),
    }))
}

/// A run folder that holds the cells of all shards.
fn merged<E: Experiment>(
    merge: &MergeArgs,
    settings: &impl Serialize,
    tasks: &[Task<'_>],
    timings: &mut Timings,
) -> Result<(RunDir, CellStore)> {
    let name = E::Settings::NAME;
    for run in &merge.runs {
        RunDir::verify(name, run, settings)?;
    }
    lacking::<E>(merge, tasks)?;
    let dir = RunDir::create_or_resume(name, merge.out.as_deref(), settings)?;
    dir.made_on_machines_of(&merge.runs, timings)?;
    let store = CellStore::open(&dir)?;
    take_over::<E>(merge, &store, tasks, timings)?;
    Ok((dir, store))
}

/// Refuses cells that none of the runs has.
fn lacking<E: Experiment>(merge: &MergeArgs, tasks: &[Task<'_>]) -> Result<()> {
    let missing = CellStore::missing_in(&merge.runs, tasks);
    if let Some(first) = missing.first() {
        bail!(
            "merge: {} of {} cells are in none of these runs, the first is {first}; run the shards that are missing, or `{} --resume {}`",
            missing.len(),
            tasks.len(),
            E::Settings::PROGRAM,
            merge.runs[0].display()
        );
    }
    Ok(())
}

/// Copies the cells of all runs.
fn take_over<E: Experiment>(
    merge: &MergeArgs,
    store: &CellStore,
    tasks: &[Task<'_>],
    timings: &mut Timings,
) -> Result<()> {
    lacking::<E>(merge, tasks)?;
    timings.phase("merge", || -> Result<()> {
        for run in &merge.runs {
            store.copy_from(run, tasks)?;
        }
        Ok(())
    })
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
