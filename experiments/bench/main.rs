//! The exact bench of preference optimisation: offline, online, over-optimised.

mod claims;
mod config;
mod coverage;
mod figures;
mod offline;
mod online;
mod overopt;
mod page;

use anyhow::{Context, Result};
use clap::Parser;
use config::{Config, Flags};
use rto::seed::SeedTree;
use rto_harness::cli::{Reporter, parse, run_main};
use rto_harness::say;
use rto_harness::settings::Settings;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Preference optimisation without optimisation error: every method run to its exact minimiser (Cal-DPO,
/// TDPO-2, XPO and KTO: to a stationary or fixed point), so that regret, KL, SubOpt and coverage carry none.
///
/// (a) offline methods against the number of pairs, (b) online learners against rounds, with the exact
/// lower bound of the exponential trap, (c) true against proxy reward for best-of-N, tilts and chi-PO,
/// (d) coverage coefficients against H, (e) claims of papers, each with its numbers. With --instance, trees of
/// your own under every method, with policies and losses of your own.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<study::Command>,
    #[command(flatten)]
    study: StudyArgs,
    /// Solve the instance in this JSON file instead, and judge your policies beside the methods
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "seed", "set", "out", "smoke", "redraw", "shard", "resume"])]
    instance: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// The name of the binary, of its run folders, cells and random streams.
const NAME: &str = "bench";

const EXAMPLES: &str = "\
Examples:
  bench                                     the whole experiment, under two minutes on two cores
  bench --smoke                             the same in seconds, small
  bench --parts online,claims
  bench --parts offline --offline-seeds 200 --out runs/large
  bench --instance experiments/data/preference.json --json
  bench --resume runs/bench-0001            continue after a crash, Ctrl-C or a time limit
  bench --shard 1/2 --out one; bench --shard 2/2 --out two; bench merge one two --out both

An instance is one object:
  {\"A\": 2, \"H\": 2, \"eos\": null, \"beta\": 0.5, \"ref\": [[0.6, 0.4], ...], \"reward\": [[0.2, -0.1], ...],
   \"pairs\": \"ref\", \"uniform\" or [[winner, loser], ...], \"policies\": {\"mine\": [0.1, ...]},
   \"losses\": {\"hinge\": \"square(relu(1 - beta*(lw - ll)))\"}}
  Rows are prefixes, shortest first, then in the order of their tokens; responses are in the order of their
  tokens, and pairs name their places. \"ref\" and \"uniform\" are populations of pairs. Several prompts:
  {\"beta\": 0.5, \"prompts\": [{\"weight\": 0.3, \"A\": ...}, ...]}. Constants of the methods are keys (default):
  simpo_beta (2), simpo_gamma (0.5), rdpo_alpha (0.2), tdpo2_alpha (0.5), rpo_eta (0.1), xpo_alpha (0.01),
  hypo_lambda (0.05), dpop_lambda (5), kto_z0 (0), ipo_beta (beta).
  A loss of your own is a formula of one comparison: lw, ll are log pi/pi_ref of winner and loser, uw, ul their
  log pi, nw, nl their lengths, beta; with + - * / ^ and exp, log, sqrt, sigmoid, logsigmoid, softplus, relu,
  abs, square.";

/// A config with the random streams.
struct Study {
    config: Config,
    seeds: SeedTree,
}

impl Experiment for Study {
    type Settings = Config;

    fn new(config: Config) -> Result<Self> {
        Ok(Self {
            seeds: SeedTree::new(config.seed).child(NAME),
            config,
        })
    }

    fn settings(&self) -> &Config {
        &self.config
    }

    fn tasks(&self) -> Vec<Task<'_>> {
        let part = |name: &str, tasks: fn(&Self) -> Vec<Task<'_>>| match self.config.has(name) {
            true => tasks(self),
            false => Vec::new(),
        };
        let mut all = part("offline", offline::tasks);
        all.extend(part("online", online::tasks));
        all.extend(part("overopt", overopt::tasks));
        all.extend(part("overopt", overopt::fit_tasks));
        all.extend(part("coverage", coverage::tasks));
        all.extend(part("claims", claims::tasks));
        all
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let (mut tables, mut texts) = (Vec::new(), Vec::new());
        let titled = |title: &str, table: &Table| format!("{title}\n{}", table.render());
        if self.config.has("offline") {
            let runs = cells.of_part('a', "offline_runs")?;
            tables.push(offline::summarise(self, &runs)?);
            tables.push(offline::by_coverage(self, &runs)?);
        }
        if self.config.has("online") {
            let (online, doubling) = online::summarise(self, &cells.of_part('b', "online_runs")?)?;
            texts.push(titled(
                "(b) regret at the end, and the ratio of its last two doublings: 1 is log T, 1.41 sqrt T, 2 is T",
                &doubling,
            ));
            tables.extend([online, doubling]);
        }
        if self.config.has("overopt") {
            let laws = overopt::summarise_fits(&cells.of_part('d', "overopt_fits")?)?;
            tables.push(overopt::summarise(
                self,
                &cells.of_part('c', "overopt_runs")?,
            )?);
            texts.push(titled(
                "(c) which law fits true reward against d = sqrt KL: d(a - bd) or d(a - b log d); medians of the largest residual",
                &laws,
            ));
            tables.push(laws);
        }
        if self.config.has("coverage") {
            let coverage = coverage::summarise(&cells.of_part('e', "coverage_runs")?)?;
            texts.push(titled("(d) coverage on layered graphs, medians", &coverage));
            tables.push(coverage);
        }
        if self.config.has("claims") {
            tables.push(claims::summarise(&cells.of_part('f', "claims_runs")?)?);
        }
        Ok(Results {
            texts,
            raw: Vec::new(),
            tables,
        })
    }

    fn draw(dir: &Path) -> Result<()> {
        figures::draw_all(dir)
    }

    fn page(dir: &Path) -> Result<Option<String>> {
        Ok(Some(page::page(dir)?))
    }
}

fn main() -> ExitCode {
    run_main(NAME, || run(&parse(Config::DEFAULTS)))
}

fn run(cli: &Cli) -> Result<()> {
    match (&cli.command, &cli.instance) {
        (Some(study::Command::Merge(args)), _) => study::merge::<Study>(args),
        (None, Some(file)) => one_instance(file, &cli.study.common.reporter()),
        (None, None) => study::run::<Study>(&cli.study, &cli.flags),
    }
}

/// The answers about one instance, which go to the terminal alone.
fn one_instance(file: &Path, reporter: &Reporter) -> Result<()> {
    let answer = rto_bench::Instance::read(file)?
        .solve()
        .with_context(|| file.display().to_string())?;
    say!(reporter, "{}", rto_bench::table(&answer).render())?;
    reporter.json(&answer)
}
