//! Proposition 3.2 end to end: the claim, the counterexample, the corrected theorem, measured counts.

mod config;
mod figure2;
mod figures;
mod noisy;
mod sweeps;
mod text;
mod tree;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use rto_harness::cli::{Common, Reporter, parse, run_main};
use rto_harness::progress::Progress;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::settings::Settings;
use rto_harness::study;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Proposition 3.2 of "DPO Meets PPO": how many responses must be scored to find the best one, with
/// token feedback and with sentence feedback?
///
/// Prints Figure 2 with its deletions, the claim with its counterexample and correction, measured
/// counts, the same question on real text, and the same question for noisy preferences. Tables (CSV,
/// JSON) and figures (SVG, PNG) go to a new folder below runs/.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Search one given tree, exactly, and print the result (see the example)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["redraw", "smoke", "config", "seed", "set"])]
    tree: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// The name of the binary and of its run folders.
const NAME: &str = "prop32";

const EXAMPLES: &str = "\
Examples:
  prop32                             the whole experiment, under a minute
  prop32 --smoke                     the same in seconds, small
  prop32 --horizons 1..20 --xis 0.5,1,2
  prop32 --out runs/prop32-0001      go on after a crash or Ctrl-C
  prop32 --redraw runs/prop32-0001   figures again, from the CSV files
Your own text, word by word; dialogues in JSONL, gzipped:
  prop32 --text book.txt --unit words
  prop32 --text hh.jsonl.gz --prompt 'Human: '
One tree of your own, exactly:
  prop32 --tree tree.json --json     where tree.json is
    {\"n_actions\": 2, \"horizon\": 2,
     \"leaf_weights\": [0.5, 0.25, 0.125, 0.125], \"xi\": 1}";

fn main() -> ExitCode {
    run_main(NAME, || run(&parse(Config::DEFAULTS)))
}

fn run(cli: &Cli) -> Result<()> {
    let reporter = cli.common.reporter();
    if cli.tree.is_some() || cli.common.redraw.is_some() {
        cli.flags.refuse(if cli.tree.is_some() {
            "--tree"
        } else {
            "--redraw"
        })?;
    }
    if let Some(dir) = &cli.common.redraw {
        return study::redraw(NAME, dir, figures::draw_all, &reporter);
    }
    if let Some(file) = &cli.tree {
        return one_tree(cli, file, &reporter);
    }
    let config = Config::resolve(&cli.common, &cli.flags)?;
    // Read before the run folder is made: a bad text file then leaves nothing behind.
    let corpus = text::Corpus::load(&config)?;
    let dir = RunDir::create_or_resume(NAME, cli.common.out.as_deref(), &config)?;
    let mut timings = Timings::new();
    let progress = Progress::whole(cli.common.quiet, WORK.iter().sum());
    let [sweeps, of_text, preferences, drawing] = WORK;

    let figure2 = timings.phase("figure2", figure2::run)?;
    let claim = sweeps::claim_table()?;
    let counts = timings.phase("sweeps", || sweeps::run(&config, &progress, sweeps))?;
    let text = timings.phase("text", || text::run(&config, &corpus, &progress, of_text))?;
    let noisy = timings.phase("preferences", || {
        noisy::run(&config, &progress, preferences)
    })?;

    // Files first: whoever stops reading loses no result.
    let tables = [figure2.nodes, claim, counts, text, noisy];
    let results = study::write_results(&dir, &[], &tables)?;
    let bar = progress.part(1, "drawing figures", drawing);
    timings.phase("figures", || figures::draw_all(dir.root()))?;
    dir.write_timings(&timings)?;
    drop((bar, progress));

    let [_, claim, counts, text, noisy] = &tables;
    say!(reporter, "{}", figure2.text)?;
    for (heading, table) in [
        (sweeps::CLAIM_TEXT.to_string(), claim.render()),
        (
            sweeps::SWEEP_TEXT.to_string(),
            sweeps::summary(counts)?.render(),
        ),
        (corpus.describe(&config), text::summary(text)?.render()),
        (noisy::describe(&config), noisy.render()),
    ] {
        say!(reporter, "{heading}\n{table}")?;
    }
    reporter.json(&json!({ "run": dir.root(), "results": results }))?;
    say!(reporter, "tables and figures in {}", dir.root().display())
}

/// Shares of a run's time that sweeps, text, preferences and figures take, measured at the default settings.
const WORK: [f64; 4] = [0.19, 0.12, 0.68, 0.01];

fn one_tree(cli: &Cli, file: &std::path::Path, reporter: &Reporter) -> Result<()> {
    let report = tree::run(file)?;
    if let Some(out) = &cli.common.out {
        let dir = RunDir::create(NAME, Some(out))?;
        dir.write_versions(&BTreeMap::new())?;
        dir.write_json("results.json", &report)?;
    }
    say!(reporter, "{}", report.render())?;
    reporter.json(&report)
}
