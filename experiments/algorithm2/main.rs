//! Algorithm 2 and its baselines, where suboptimality is exact.

mod config;
mod credit;
mod curves;
mod figure3;
mod figures;
mod heatmap;
mod heatmaps;
mod map;
mod method;
mod problem;
mod sweep_figure;
mod sweeps;
mod tables;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use problem::{Problem, Size};
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
use std::sync::OnceLock;

/// Algorithm 2 of "DPO Meets PPO" (RTO) and its baselines on token trees small enough to enumerate: when
/// does a token reward help, and when can it not?
///
/// (a) exact suboptimality against sampled tokens, (b) RTO against the sentence-level DPO reward over
/// lambda of GAE and the critic's learning rate, (c) sweeps over N, beta2, H, A and the number of pairs,
/// (d) Figure 3 of the paper at different and at equal beta2, (e) the credit of (4.5), token by token.
/// The paper calls the sentence-level DPO reward DPPO; it is not the later divergence PPO. Every finished
/// cell is kept in the run folder: a run that was stopped continues, and an array of jobs can share the work.
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
const NAME: &str = "algorithm2";

const EXAMPLES: &str = "\
Examples:
  algorithm2                         the whole experiment, about a minute
  algorithm2 --smoke                 the same in seconds, small
  algorithm2 --long-horizon 12 --lambda 0.5 --beta2 0.2
  algorithm2 --out runs/algorithm2-0001
                                     go on after a crash, Ctrl-C or a time limit
  algorithm2 --redraw runs/algorithm2-0001
                                     figures again, from the CSV files
As an array of 20 Slurm jobs in one folder (sbatch --array=1-20), then once:
  algorithm2 --shard $SLURM_ARRAY_TASK_ID/20 --replicates 500 --out shared
  algorithm2 merge shared --out runs/merged
In folders of their own:
  algorithm2 --shard 1/2 --out one
  algorithm2 --shard 2/2 --out two
  algorithm2 merge one two --out both
RAYON_NUM_THREADS says how many threads, by default as many as there are cores;
no result depends on it.";

/// A config with what all cells share.
struct Study {
    config: Config,
    seeds: SeedTree,
    /// Fitted once, and only when a cell asks.
    problems: [OnceLock<Problem>; 2],
}

/// The instances of parts (a), (b), (d) and (e).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instance {
    Long,
    Wide,
}

impl Instance {
    const BOTH: [Self; 2] = [Self::Long, Self::Wide];

    fn name(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Wide => "wide",
        }
    }

    /// N.
    fn responses(self, c: &Config) -> usize {
        match self {
            Self::Long => c.long_responses,
            Self::Wide => c.wide_responses,
        }
    }

    fn size(self, c: &Config) -> Size {
        let (actions, horizon) = match self {
            Self::Long => (c.long_actions, c.long_horizon),
            Self::Wide => (c.wide_actions, c.wide_horizon),
        };
        Size {
            actions,
            horizon,
            pairs: c.pairs,
        }
    }

    /// `long: A = 2, H = 10, N = 16`.
    fn title(self, c: &Config) -> String {
        let size = self.size(c);
        format!(
            "{}: A = {}, H = {}, N = {}",
            self.name(),
            size.actions,
            size.horizon,
            self.responses(c)
        )
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
    if let Some(dir) = &common.redraw {
        return study::redraw(NAME, dir, figures::draw_all, &reporter);
    }
    let shard = study::shard(cli.shard.as_deref(), common, cli.resume.as_deref())?;
    let (config, out) = match &cli.resume {
        Some(dir) => (config::saved(dir, &cli.flags)?, Some(dir.as_path())),
        None => (config::resolve(common, &cli.flags)?, common.out.as_deref()),
    };
    let study = Study::new(config);
    // Read and checked before the run folder is made: a bad setting then leaves nothing behind.
    let sharing = match shard {
        Some(_) => Sharing::WithShards,
        None => Sharing::Alone,
    };
    let dir = RunDir::open(NAME, out, &study.config, sharing)?;
    let mut timings = Timings::new();
    timings.phase("instances", || study.prepare())?;
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

impl Study {
    fn new(config: Config) -> Self {
        Self {
            seeds: SeedTree::new(config.seed).child(NAME),
            config,
            problems: Default::default(),
        }
    }

    /// Fits both instances, unless they are.
    fn prepare(&self) -> Result<()> {
        for (instance, slot) in Instance::BOTH.into_iter().zip(&self.problems) {
            if slot.get().is_none() {
                let seeds = self.seeds.child("instance").child(instance.name());
                let size = instance.size(&self.config);
                slot.get_or_init({
                    let problem = Problem::new(&self.config, size, &seeds)?;
                    || problem
                });
            }
        }
        Ok(())
    }

    /// A prepared instance.
    fn problem(&self, instance: Instance) -> &Problem {
        let slot = &self.problems[instance as usize];
        slot.get().expect("prepared before any cell runs")
    }

    /// One row: what the figures say about the setting.
    fn setting(&self) -> Table {
        let c = &self.config;
        let columns = [
            "long_actions",
            "long_horizon",
            "long_responses",
            "wide_actions",
            "wide_horizon",
            "wide_responses",
            "beta1",
            "beta2",
            "pairs",
            "lambda",
            "critic_learning_rate",
            "iterations",
            "replicates",
            "map_iterations",
            "map_replicates",
            "sweep_actions",
            "sweep_horizon",
            "sweep_responses",
            "sweep_pairs",
            "sweep_iterations",
            "sweep_replicates",
        ];
        let mut table = Table::new("setting", &columns);
        table.push([
            c.long_actions.into(),
            c.long_horizon.into(),
            c.long_responses.into(),
            c.wide_actions.into(),
            c.wide_horizon.into(),
            c.wide_responses.into(),
            c.beta1.into(),
            c.beta2.into(),
            c.pairs.into(),
            c.lambda.into(),
            c.critic_learning_rate.into(),
            c.iterations.into(),
            c.replicates.into(),
            c.map_iterations.into(),
            c.map_replicates.into(),
            c.sweep_actions.into(),
            c.sweep_horizon.into(),
            c.sweep_responses.into(),
            c.sweep_pairs.into(),
            c.sweep_iterations.into(),
            c.sweep_replicates.into(),
        ]);
        table
    }
}

/// All cells, part by part.
fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut all = curves::tasks(study);
    all.extend(map::tasks(study));
    all.extend(sweeps::tasks(study));
    all.extend(figure3::tasks(study));
    all
}

fn run_merge(args: &MergeArgs) -> Result<()> {
    let reporter = Reporter::new(args.json);
    let study = Study::new(config::saved(&args.runs[0], &Flags::default())?);
    let tasks = tasks(&study);
    let mut timings = Timings::new();
    let (dir, store) = study::merge(NAME, args, &study.config, &tasks, &mut timings)?;
    timings.phase("instances", || study.prepare())?;
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
    let map_runs = runs('b', "map_runs")?;
    let sweep_runs = runs('c', "sweep_runs")?;
    let figure3_runs = runs('d', "figure3_runs")?;

    let a = curves::summarise(study, &curve_runs)?;
    let b = map::summarise(&map_runs)?;
    let c = sweeps::summarise(study, &sweep_runs)?;
    let d = figure3::summarise(study, &figure3_runs)?;
    let e = credit::summarise(study)?;
    let texts = [
        a.text().to_string(),
        b.text(study),
        c.text(study),
        d.text(study)?,
        e.text().to_string(),
    ];

    let raw = [curve_runs, map_runs, sweep_runs, figure3_runs];
    let results = [
        study.setting(),
        a.exact,
        a.curves,
        a.frontier,
        a.against_dppo,
        b.map,
        c.sweeps,
        c.ratios,
        d.figure3,
        d.optima,
        e.credit,
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
