//! The exact bench of preference optimisation: offline, online, over-optimised.

mod config;
mod coverage;
mod figures;
mod instance;
mod offline;
mod online;
mod overopt;

use anyhow::{Context, Result};
use clap::Parser;
use config::{Config, Flags};
use rto::seed::SeedTree;
use rto_harness::cli::{Common, Reporter, parse, run_main};
use rto_harness::lock::Sharing;
use rto_harness::progress::Progress;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::study::{self, MergeArgs};
use rto_harness::sweep::{CellStore, Shard, Task};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Preference optimisation without optimisation error: every method run to its exact minimiser, so that
/// regret, KL, SubOpt and coverage carry none.
///
/// (a) offline methods against the number of pairs, (b) online learners against rounds, with the exact
/// lower bound of the exponential trap, (c) true against proxy reward for best-of-N, tilts and chi-PO,
/// (d) coverage coefficients against H. With --instance, one tree of your own under every method.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// Solve the instance in this JSON file instead, and judge your policies beside the methods
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "seed", "out", "smoke", "redraw", "shard", "resume"])]
    instance: Option<PathBuf>,
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

/// The name of the binary, of its run folders, cells and random streams.
const NAME: &str = "bench";

const EXAMPLES: &str = "\
Examples:
  bench                                     the whole experiment, under two minutes on two cores
  bench --smoke                             the same in seconds, small
  bench --offline-seeds 200 --out runs/large
  bench --instance experiments/data/preference.json --json
  bench --resume runs/bench-0001            continue after a crash, Ctrl-C or a time limit
  bench --shard 1/2 --out one; bench --shard 2/2 --out two; bench merge one two --out both

An instance is one object:
  {\"A\": 2, \"H\": 2, \"eos\": null, \"beta\": 0.5, \"ref\": [[0.6, 0.4], ...], \"reward\": [[0.2, -0.1], ...],
   \"pairs\": \"ref\", \"uniform\" or [[winner, loser], ...], \"policies\": {\"mine\": [0.1, ...]}}
  Rows are prefixes, shortest first, then in the order of their tokens; responses are in the order of their
  tokens, and pairs name their places. \"ref\" and \"uniform\" are populations of pairs. Constants of the
  methods are keys: simpo_beta, simpo_gamma, rdpo_alpha, tdpo2_alpha, rpo_eta, xpo_alpha, hypo_lambda.";

/// A config with the random streams.
struct Study {
    config: Config,
    seeds: SeedTree,
}

impl Study {
    fn new(config: Config) -> Self {
        Self {
            seeds: SeedTree::new(config.seed).child(NAME),
            config,
        }
    }
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
    if let Some(file) = &cli.instance {
        let answer = instance::Instance::read(file)?
            .solve()
            .with_context(|| file.display().to_string())?;
        say!(reporter, "{}", instance::table(&answer).render())?;
        return reporter.json(&answer);
    }
    if let Some(dir) = &common.redraw {
        return study::redraw(NAME, dir, figures::draw_all, &reporter);
    }
    let shard = study::shard(cli.shard.as_deref(), common, cli.resume.as_deref())?;
    let (config, out) = match &cli.resume {
        Some(dir) => (config::saved(dir, &cli.flags)?, Some(dir.as_path())),
        None => (config::resolve(common, &cli.flags)?, common.out.as_deref()),
    };
    let study = Study::new(config);
    let sharing = match shard {
        Some(_) => Sharing::WithShards,
        None => Sharing::Alone,
    };
    let dir = RunDir::open(NAME, out, &study.config, sharing)?;
    let mut timings = Timings::new();
    let tasks = tasks(&study);
    let store = CellStore::open(&dir)?;
    let share = shard.unwrap_or(Shard::WHOLE);
    let progress = study::progress(common.quiet, &tasks, share);
    let new = timings.phase("cells", || store.run(&tasks, share, &progress))?;
    if let Some(shard) = shard {
        return study::report_shard(NAME, &dir, &store, &tasks, (shard, new), &reporter);
    }
    finish(&dir, &study, &store, &tasks, timings, progress, &reporter)
}

/// All cells, part by part.
fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut all = offline::tasks(study);
    all.extend(online::tasks(study));
    all.extend(overopt::tasks(study));
    all.extend(overopt::fit_tasks(study));
    all.extend(coverage::tasks(study));
    all
}

fn run_merge(args: &MergeArgs) -> Result<()> {
    let reporter = Reporter::new(args.json);
    let study = Study::new(config::saved(&args.runs[0], &Flags::default())?);
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
    let offline = offline::summarise(study, &runs('a', "offline_runs")?)?;
    let (online, doubling) = online::summarise(study, &runs('b', "online_runs")?)?;
    let overopt = overopt::summarise(study, &runs('c', "overopt_runs")?)?;
    let laws = overopt::summarise_fits(&runs('d', "overopt_fits")?)?;
    let coverage = coverage::summarise(&runs('e', "coverage_runs")?)?;
    let results = [offline, online, doubling, overopt, laws, coverage];
    let all = study::write_results(dir, &[], &results)?;
    study::draw(&progress, tasks, &mut timings, || {
        figures::draw_all(dir.root())
    })?;
    drop(progress);
    dir.write_timings(&timings)?;
    store.tidy();
    dir.tidy();
    for (title, table) in [
        (
            "(b) regret at the end, and the ratio of its last two doublings: 1 is log T, 1.41 sqrt T, 2 is T",
            &results[2],
        ),
        (
            "(c) which law fits true reward against d = sqrt KL: d(a - bd) or d(a - b log d); medians of the largest residual",
            &results[4],
        ),
        ("(d) coverage on layered graphs, medians", &results[5]),
    ] {
        say!(reporter, "{title}\n{}", table.render())?;
    }
    reporter.json(&json!({ "run": dir.root(), "results": all }))?;
    say!(reporter, "tables and figures in {}", dir.root().display())
}
