//! The executable paper: every figure and table again, each checked against what is expected of it, on one page.

mod expectations;
mod markdown;
mod pages;
mod registry;
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
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Claims of papers on RLHF, executed: each with its verdict, its numbers, its figure and the command that redraws it.
///
/// Runs the experiments, compares their numbers with what is expected of them, and writes `index.html` with a tally,
/// a page for each paper under `papers/`, and for "DPO Meets PPO" `report.html` with every numbered statement
/// (no page needs a network) and `report.md`. Ends with an error when a verdict is not borne out.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// The published sizes, those of the committed figures, in place of sizes that take seconds
    #[arg(long)]
    full: bool,
    /// The small sizes, which a run without --full has anyway
    #[arg(long, conflicts_with = "full")]
    smoke: bool,
    /// One paper of the index alone, by its arXiv number or its short name, and only the experiments it needs
    #[arg(long, value_name = "PAPER")]
    only: Option<String>,
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
  paper --only chipo              one paper of the index
  paper --full                    the committed figures, a few minutes
  paper --full --out runs/paper   the same command again goes on
The experiments it runs are prop32, thm42, algorithm2, audit and bench, with their own
default settings; see their --help.";

/// What a run is made of; saved, so that a folder goes on only as what it was.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    full: bool,
    /// The short name of one paper; empty for all.
    only: String,
}

const DEFAULTS: &str = "full = false\nonly = \"\"\n";

/// What the command line says; the rest as in the run that goes on.
#[derive(Serialize)]
struct Flags {
    full: Option<bool>,
    only: Option<String>,
}

fn main() -> ExitCode {
    run_main(NAME, || run(&parse(DEFAULTS)))
}

fn run(cli: &Cli) -> Result<()> {
    let reporter = Reporter::new(cli.json);
    let registry = registry::load()?;
    let only = match &cli.only {
        Some(name) => Some(registry.paper(name)?.short.clone()),
        None => None,
    };
    let full = (cli.full || cli.smoke).then_some(cli.full);
    let layers = Layers::new("paper", DEFAULTS)?
        .going_on(NAME, cli.out.as_deref())?
        .flags(&Flags { full, only })?;
    let config: Config = config::resolve(&layers)?;
    let papers: Vec<&registry::Paper> = match config.only.as_str() {
        "" => registry.papers.iter().collect(),
        name => vec![registry.paper(name)?],
    };
    let experiments = experiments(&registry, &papers);
    let dir = RunDir::create_or_resume(NAME, cli.out.as_deref(), &config)?;
    let seconds = |experiment: &str| {
        let place = runs::EXPERIMENTS.iter().position(|e| *e == experiment);
        place.map_or(0.0, |i| runs::SECONDS[i])
    };
    let progress = Progress::whole(cli.quiet, experiments.iter().map(|e| seconds(e)).sum());
    let mut timings = Timings::new();
    for &experiment in &experiments {
        let seconds = seconds(experiment);
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
    let figures = expectations::check_all(dir.root(), &experiments)?;
    let claims = registry.judge(&dir, &papers, &figures)?;
    if papers.iter().any(|p| p.id == registry::SEED) {
        report::write(&dir, config.full, &figures, &experiments)?;
    }
    pages::write(&dir, &registry, &papers, &claims, config.full)?;
    dir.write_timings(&timings)?;
    let results = json!({ "figures": figures, "claims": claims });
    dir.write_json("results.json", &results)?;
    summary(&reporter, &dir, &registry, &figures, &claims)?;
    reporter.json(&results)?;
    let failed: Vec<&str> = figures
        .iter()
        .filter(|o| !o.holds)
        .map(|o| o.figure)
        .chain(claims.iter().filter(|c| !c.holds).map(|c| &*c.claim))
        .collect();
    if !failed.is_empty() {
        bail!(
            "{} of {} expectations do not hold: {}; see {}",
            failed.len(),
            figures.len() + claims.len(),
            failed.join(", "),
            dir.path("index.html").display()
        );
    }
    Ok(())
}

/// The experiments that these papers need, in their order.
fn experiments(registry: &registry::Registry, papers: &[&registry::Paper]) -> Vec<&'static str> {
    let needs = |experiment: &str| {
        papers.iter().any(|paper| {
            // The page of the seed paper shows the figures of all of its own experiments.
            (paper.id == registry::SEED && experiment != "bench")
                || registry
                    .claims_of(&paper.id)
                    .any(|c| c.experiment == experiment)
        })
    };
    runs::EXPERIMENTS.into_iter().filter(|e| needs(e)).collect()
}

fn summary(
    reporter: &Reporter,
    dir: &RunDir,
    registry: &registry::Registry,
    figures: &[expectations::Outcome],
    claims: &[registry::Judged],
) -> Result<()> {
    let yes = |holds: bool| if holds { "yes" } else { "NO" };
    let mut table = Table::new("checks", &["figure", "holds", "found"]);
    for o in figures {
        table.push([
            o.figure.into(),
            yes(o.holds).into(),
            o.found.as_str().into(),
        ]);
    }
    say!(reporter, "{}", table.render())?;
    let mut table = Table::new("claims", &["claim", "paper", "verdict", "borne out"]);
    for c in claims {
        table.push([
            c.claim.as_str().into(),
            c.paper.as_str().into(),
            c.verdict.word().into(),
            yes(c.holds).into(),
        ]);
    }
    say!(reporter, "{}", table.render())?;
    say!(reporter, "{}", report::tally_sentence())?;
    say!(reporter, "{}", pages::sentence(registry))?;
    say!(reporter, "All papers: {}", dir.path("index.html").display())
}
