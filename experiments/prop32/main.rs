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
use config::Flags;
use rto_harness::cli::{Common, Reporter, run_main};
use rto_harness::progress::Progress;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::table::Table;
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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["redraw", "smoke", "config", "seed"])]
    tree: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

const EXAMPLES: &str = "\
Examples:
  prop32                                       the whole experiment, under a minute
  prop32 --smoke                               the same in seconds, small
  prop32 --text book.txt --unit words          your own text, word by word
  prop32 --text hh.jsonl.gz --prompt 'Human: ' dialogues in JSONL, gzipped
  prop32 --redraw runs/prop32-0001             figures again, from the CSV files
  prop32 --tree tree.json --json               one tree of your own, exactly, where tree.json is
      {\"n_actions\": 2, \"horizon\": 2, \"leaf_weights\": [0.5, 0.25, 0.125, 0.125], \"xi\": 1}";

fn main() -> ExitCode {
    run_main("prop32", || run(&Cli::parse()))
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
        return figures::draw_all(dir);
    }
    if let Some(file) = &cli.tree {
        return one_tree(cli, file, &reporter);
    }
    let config = config::resolve(&cli.common, &cli.flags)?;
    // Read before the run folder is made: a bad text file then leaves nothing behind.
    let corpus = text::Corpus::load(&config)?;
    let dir = RunDir::create("prop32", cli.common.out.as_deref())?;
    dir.write_config(&config)?;
    dir.write_versions(&BTreeMap::new())?;
    let mut timings = Timings::new();
    let progress = Progress::new(cli.common.quiet);
    let mut tables = Vec::new();

    let figure2 = timings.phase("figure2", figure2::run)?;
    say!(reporter, "{}", figure2.text)?;
    tables.push(figure2.nodes);

    let claim = sweeps::claim_table()?;
    say!(reporter, "{}\n{}", sweeps::CLAIM_TEXT, claim.render())?;
    tables.push(claim);

    let counts = timings.phase("sweeps", || sweeps::run(&config, &progress))?;
    say!(
        reporter,
        "{}\n{}",
        sweeps::SWEEP_TEXT,
        sweeps::summary(&counts)?.render()
    )?;
    tables.push(counts);

    let text = timings.phase("text", || text::run(&config, &corpus, &progress))?;
    say!(
        reporter,
        "{}\n{}",
        corpus.describe(&config),
        text::summary(&text)?.render()
    )?;
    tables.push(text);

    let noisy = timings.phase("preferences", || noisy::run(&config, &progress))?;
    say!(reporter, "{}\n{}", noisy::describe(&config), noisy.render())?;
    tables.push(noisy);

    save(&dir, &tables, &reporter)?;
    timings.phase("figures", || figures::draw_all(dir.root()))?;
    dir.write_timings(&timings)?;
    say!(reporter, "tables and figures in {}", dir.root().display())
}

/// Writes every table as CSV and all of them as one JSON, which `--json` also prints.
fn save(dir: &RunDir, tables: &[Table], reporter: &Reporter) -> Result<()> {
    let mut all = serde_json::Map::new();
    for table in tables {
        dir.write_table(&format!("{}.csv", table.name()), table)?;
        all.insert(table.name().to_string(), serde_json::to_value(table)?);
    }
    dir.write_json("results.json", &all)?;
    reporter.json(&json!({ "run": dir.root(), "results": all }))
}

fn one_tree(cli: &Cli, file: &std::path::Path, reporter: &Reporter) -> Result<()> {
    let report = tree::run(file)?;
    if let Some(out) = &cli.common.out {
        let dir = RunDir::create("prop32", Some(out))?;
        dir.write_versions(&BTreeMap::new())?;
        dir.write_json("results.json", &report)?;
    }
    say!(reporter, "{}", report.render())?;
    reporter.json(&report)
}
