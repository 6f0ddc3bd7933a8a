//! Losses of pairs, trained on a table, a log-linear network and a transformer, against their exact minimisers.

mod config;
mod figures;
mod learners;
mod world;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use rto::seed::SeedTree;
use rto_harness::cli::{parse, run_main};
use rto_harness::settings::Settings;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;
use std::path::Path;
use std::process::ExitCode;

/// Does a transformer, trained through the losses that `rto_llm` trains with, end where theory says?
///
/// On prompts whose responses can all be enumerated, every loss below has an exact minimiser. Each is minimised from
/// one pi_ref by gradient steps in three classes of policies: a table, the head of a network whose trunk is frozen
/// (log-linear), and all weights of the transformer. What is left between the SubOpt of the trained policy and that of
/// the exact minimiser is optimisation error, and it shrinks with steps.
#[derive(Debug, Parser)]
#[command(name = "converge", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<study::Command>,
    #[command(flatten)]
    study: StudyArgs,
    #[command(flatten)]
    flags: Flags,
}

/// The name of the binary, of its run folders, cells and random streams.
const NAME: &str = "converge";

const EXAMPLES: &str = "\
Examples:
  converge                              the whole experiment
  converge --smoke                      the same in seconds, small
  converge --steps 16,64,256 --beta 1
  converge --resume runs/converge-0001  continue after a crash or Ctrl-C
  converge --shard 1/2 --out one; converge --shard 2/2 --out two
  converge merge one two --out both";

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
        learners::tasks(self)
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let runs = cells.of_part('a', "converge")?;
        let text = learners::last(&runs)?;
        Ok(Results {
            texts: vec![format!(
                "SubOpt after the longest training, and of the exact minimiser; KL between the two policies\n{}",
                text.render()
            )],
            raw: Vec::new(),
            tables: vec![runs],
        })
    }

    fn draw(dir: &Path) -> Result<()> {
        figures::draw(&Table::from_csv(&dir.join("converge.csv"))?, dir)
    }
}

fn main() -> ExitCode {
    run_main(NAME, || {
        let cli: Cli = parse(Config::DEFAULTS);
        match &cli.command {
            Some(study::Command::Merge(args)) => study::merge::<Study>(args),
            None => study::run::<Study>(&cli.study, &cli.flags),
        }
    })
}
