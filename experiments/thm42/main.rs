//! Theorems 4.2 and B.1 measured: suboptimality on one axis, the bound beside it.

mod config;
mod coverage;
mod curves;
mod figures;
mod inconsistency;
mod problem;
mod regimes;
mod summary;
mod sweeps;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use problem::{Problem, random_problem};
use rto::features::FeatureMap;
use rto::seed::SeedTree;
use rto_harness::cli::{Common, Reporter, parse, run_main};
use rto_harness::lock::Sharing;
use rto_harness::progress::Progress;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::study::{self, MergeArgs};
use rto_harness::sweep::{CellStore, Shard, Task};
use rto_harness::table::Table;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Theorems 4.2 and B.1 of "DPO Meets PPO": how far from optimal are the policies of Algorithm 1 and
/// of (B.1), and what do the bounds say?
///
/// (a) suboptimality and bounds against the number of pairs, (b) coverage of the confidence sets,
/// (c) where pessimism wins and where it hurts, (d) where Algorithm 1 does not converge, (e) the
/// constant of the fast rate, (f) sweeps over beta, lambda, d and H. Every finished cell is kept in the
/// run folder: a run that was stopped continues, and an array of jobs can share the work.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// Go on with the run in this folder, as --out does, and make none if it is not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "seed", "out", "smoke", "redraw"])]
    resume: Option<PathBuf>,
    /// Compute only share I of N of the cells (I from 0 to N-1, or from 1 to N); `merge` puts them together
    #[arg(long, value_name = "I/N", conflicts_with = "redraw")]
    shard: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put the cells of sharded runs together: tables, figures and results as of one run
    Merge(MergeArgs),
}

/// Of the binary, its runs, its cells and its streams.
const NAME: &str = "thm42";

const EXAMPLES: &str = "\
Examples:
  thm42                              the whole experiment, under two minutes
  thm42 --smoke                      the same in seconds, small
  thm42 --actions 2 --horizon 6 --dim 16 --beta 0.1
  thm42 --out runs/thm42-0001        go on after a crash, Ctrl-C or a time limit
  thm42 --redraw runs/thm42-0001     figures again, from the CSV files
As an array of 20 Slurm jobs in one folder (sbatch --array=1-20), then once:
  thm42 --shard $SLURM_ARRAY_TASK_ID/20 --replicates 1000 --out shared
  thm42 merge shared --out runs/merged
In folders of their own:
  thm42 --shard 1/2 --out one
  thm42 --shard 2/2 --out two
  thm42 merge one two --out both
RAYON_NUM_THREADS says how many threads, by default as many as there are cores;
no result depends on it.";

/// A config with what all cells share.
struct Study {
    config: Config,
    seeds: SeedTree,
    problem: Problem,
    /// (1/2β) tr(Cov I⁻¹).
    constant: f64,
    /// SubOpt(π_ref).
    reference: f64,
}

fn main() -> ExitCode {
    run_main(NAME, || run(&parse(config::DEFAULTS)))
}

fn run(cli: &Cli) -> Result<()> {
    if let Some(Command::Merge(merge)) = &cli.command {
        return run_merge(merge);
    }
    let common = &cli.common;
    let reporter = common.reporter();
    if let Some(dir) = &common.redraw {
        return study::redraw(NAME, dir, figures::draw_all, &reporter);
    }
    let shard = study::shard(cli.shard.as_deref(), common, cli.resume.as_deref())?;
    let (config, out) = match &cli.resume {
        Some(dir) => (config::saved(dir, &cli.flags)?, Some(dir.as_path())),
        None => (config::resolve(common, &cli.flags)?, common.out.as_deref()),
    };
    let study = Study::new(config)?;
    // Read and checked before the run folder is made: a bad setting then leaves nothing behind.
    let sharing = match shard {
        Some(_) => Sharing::WithShards,
        None => Sharing::Alone,
    };
    let dir = RunDir::open(NAME, out, &study.config, sharing)?;
    let tasks = tasks(&study);
    let store = CellStore::open(&dir)?;
    let share = shard.unwrap_or(Shard::WHOLE);
    let progress = study::progress(common.quiet, &tasks, share);
    let mut timings = Timings::new();
    let new = timings.phase("cells", || store.run(&tasks, share, &progress))?;
    if let Some(shard) = shard {
        return study::report_shard(NAME, &dir, &store, &tasks, (shard, new), &reporter);
    }
    finish(&dir, &study, &store, &tasks, timings, progress, &reporter)
}

impl Study {
    fn new(config: Config) -> Result<Self> {
        let seeds = SeedTree::new(config.seed).child(NAME);
        let problem = random_problem(&config, &seeds.child("instance"))?;
        Ok(Self {
            constant: problem.constant()?,
            reference: problem.reference_suboptimality()?,
            seeds,
            problem,
            config,
        })
    }

    /// One row: what the figures say about the setting.
    fn setting(&self) -> Table {
        let c = &self.config;
        let radius = rto::estimate::RadiusInputs {
            horizon: c.horizon,
            feature_bound: self.problem.instance.features.bound(),
            param_bound: c.param_bound,
            ridge: c.ridge,
            fail_prob: c.fail_prob,
        };
        let mut table = Table::new(
            "setting",
            &[
                "prompts",
                "actions",
                "horizon",
                "dim",
                "beta",
                "param_bound",
                "theta_norm",
                "ridge",
                "fail_prob",
                "printed_constant",
                "replicates",
                "coverage_replicates",
                "regime_replicates",
                "sweep_replicates",
                "sweep_size",
                "reference_suboptimality",
                "constant",
                "upsilon",
            ],
        );
        table.push([
            c.prompts.into(),
            c.actions.into(),
            c.horizon.into(),
            c.dim.into(),
            c.beta.into(),
            c.param_bound.into(),
            c.theta_norm.into(),
            c.ridge.into(),
            c.fail_prob.into(),
            c.printed_constant.into(),
            c.replicates.into(),
            c.coverage_replicates.into(),
            c.regime_replicates.into(),
            c.sweep_replicates.into(),
            c.sweep_size.into(),
            self.reference.into(),
            self.constant.into(),
            rto::estimate::curvature_bound(&radius).into(),
        ]);
        table
    }
}

/// All cells, part by part.
fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut all = curves::tasks(study);
    all.extend(coverage::tasks(study));
    all.extend(regimes::tasks(study));
    all.extend(inconsistency::tasks(study));
    all.extend(sweeps::tasks(study));
    all
}

fn run_merge(args: &MergeArgs) -> Result<()> {
    let reporter = Reporter::new(args.json);
    let study = Study::new(config::saved(&args.runs[0], &Flags::default())?)?;
    let tasks = tasks(&study);
    let mut timings = Timings::new();
    let (dir, store) = study::merge(NAME, args, &study.config, &tasks, &mut timings)?;
    let progress = Progress::new(args.quiet);
    finish(&dir, &study, &store, &tasks, timings, progress, &reporter)
}

/// Tables, text and figures from the cells.
fn finish(
    dir: &RunDir,
    study: &Study,
    store: &CellStore,
    tasks: &[Task<'_>],
    mut timings: Timings,
    progress: Progress,
    reporter: &Reporter,
) -> Result<()> {
    let runs = |letter, name: &str| store.collect(name, study::part(NAME, tasks, letter));
    let curve_runs = runs('a', "curve_runs")?;
    let coverage_runs = runs('b', "coverage_runs")?;
    let regime_runs = runs('c', "regime_runs")?;
    let inconsistency_runs = runs('d', "inconsistency_runs")?;
    let sweep_runs = runs('f', "sweep_runs")?;

    let mut a = curves::summarise(study, &curve_runs)?;
    let b = coverage::summarise(study, &coverage_runs)?;
    a.slopes.push(b.slope.clone());
    let c = regimes::summarise(&regime_runs)?;
    let d = inconsistency::summarise(&inconsistency_runs)?;
    let f = sweeps::summarise(&sweep_runs)?;
    let texts = [
        a.text(study),
        b.text(study),
        c.text(study),
        d.text()?,
        b.constant_text(study),
        f.text(study),
    ];

    let raw = [
        curve_runs,
        coverage_runs,
        regime_runs,
        inconsistency_runs,
        sweep_runs,
    ];
    let results = [
        study.setting(),
        a.curves,
        a.slopes,
        b.coverage,
        b.constant,
        c.curves,
        d.curves,
        f.curves,
    ];
    let all = study::write_results(dir, &raw, &results)?;
    study::draw(&progress, tasks, &mut timings, || {
        figures::draw_all(dir.root())
    })?;
    drop(progress);
    dir.write_timings(&timings)?;
    store.tidy();
    dir.tidy();
    // Files first: whoever stops reading loses no result.
    for text in texts {
        say!(reporter, "{text}")?;
    }
    reporter.json(&json!({ "run": dir.root(), "results": all }))?;
    say!(reporter, "tables and figures in {}", dir.root().display())
}
