//! The executable paper: every figure and table again, each checked against what is expected of it, on one page.

mod expectations;
mod markdown;
mod report;
mod runs;
mod verdict;

use anyhow::{Result, bail};
use clap::Parser;
use rto_harness::cli::{Reporter, parse, run_main};
use rto_harness::config::{self, Layers};
use rto_harness::progress::Progress;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::table::Table;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::ExitCode;

/// Every numbered statement of "DPO Meets PPO" with its verdict, its figure and the command that redraws it.
///
/// Runs the experiments, compares each figure's numbers with what is expected of them, and writes `report.html`
/// (one file, no network) and `report.md`. Ends with an error when an expectation does not hold.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// The published sizes, those of the committed figures, in place of sizes that take seconds
    #[arg(long)]
    full: bool,
    /// Write results here: a new or empty directory, or an unfinished run to go on with, in its
    /// settings [default: the next free runs/paper-0001]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the results as JSON on standard output; text for people goes to standard error
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long)]
    quiet: bool,
}

const NAME: &str = "paper";

const EXAMPLES: &str = "\
Examples:
  paper                           small sizes, under a minute after the build
  paper --full                    the committed figures, a few minutes
  paper --full --out runs/paper   the same command again goes on
The experiments it runs are prop32, thm42, algorithm2 and audit, with their own
default settings; see their --help.";

/// What a run is made of; saved, so that a folder goes on only as what it was.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    full: bool,
}

const DEFAULTS: &str = "full = false\n";

/// What the command line says; the rest as in the run that goes on.
#[derive(Serialize)]
struct Flags {
    full: Option<bool>,
}

fn main() -> ExitCode {
    run_main(NAME, || run(&parse(DEFAULTS)))
}

fn run(cli: &Cli) -> Result<()> {
    let reporter = Reporter::new(cli.json);
    let full = cli.full.then_some(true);
    let layers = Layers::new("paper", DEFAULTS)?
        .going_on(NAME, cli.out.as_deref())?
        .flags(&Flags { full })?;
    let config: Config = config::resolve(&layers)?;
    let dir = RunDir::create_or_resume(NAME, cli.out.as_deref(), &config)?;
    let progress = Progress::whole(cli.quiet, runs::SECONDS.iter().sum());
    let mut timings = Timings::new();
    for (experiment, seconds) in runs::EXPERIMENTS.into_iter().zip(runs::SECONDS) {
        if runs::is_finished(experiment, &dir) {
            progress.restored(seconds);
            continue;
        }
        timings.phase(experiment, || {
            let bar = progress.part(1, experiment, seconds);
            runs::run(experiment, &dir, config.full)?;
            bar.inc(1);
            anyhow::Ok(())
        })?;
    }
    drop(progress);
    let outcomes = expectations::check_all(dir.root())?;
    report::write(&dir, config.full, &outcomes)?;
    dir.write_timings(&timings)?;
    dir.write_json("results.json", &outcomes)?;
    summary(&reporter, &dir, &outcomes)?;
    reporter.json(&outcomes)?;
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|o| !o.holds)
        .map(|o| o.figure)
        .collect();
    if !failed.is_empty() {
        bail!(
            "{} of {} expectations do not hold: {}; see {}",
            failed.len(),
            outcomes.len(),
            failed.join(", "),
            dir.path("report.html").display()
        );
    }
    Ok(())
}

fn summary(reporter: &Reporter, dir: &RunDir, outcomes: &[expectations::Outcome]) -> Result<()> {
    let mut table = Table::new("checks", &["figure", "holds", "found"]);
    for o in outcomes {
        let holds = if o.holds { "yes" } else { "NO" };
        table.push([o.figure.into(), holds.into(), o.found.as_str().into()]);
    }
    say!(reporter, "{}", table.render())?;
    say!(reporter, "{}", report::tally_sentence())?;
    say!(
        reporter,
        "The whole paper on one page: {}",
        dir.path("report.html").display()
    )
}
