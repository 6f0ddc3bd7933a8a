//! Does a token reward pay? The study of `paper-notes/protocol.md` on tables, where everything is exact: trees, replies of growing length, and fewer
//! pairs.

mod config;
mod figures;
mod gradients;
mod length;
mod memo;
mod noise;
mod runs;
mod train;
mod world;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use memo::Memo;
use rto::seed::SeedTree;
use rto_harness::cli::{note, parse, run_main};
use rto_harness::comparison::{self, Reading};
use rto_harness::on_tree::setup::Setup;
use rto_harness::run_dir::Timings;
use rto_harness::settings::Settings;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;

/// Does a token reward pay? RTO against DPPO and their baselines, everything else equal, on token trees.
///
/// Each method chooses a point of its grid on the tuning seeds; the chosen points are reported on seeds that
/// no tuning saw, with exact tests: the objective's value at the end, samples to a level, true reward at
/// matched KL, what is left of each when lambda is 1 or the critic exact for both, and how noisy each method's
/// gradient is along its runs. Then on a grammar with
/// replies of 4 to 128 tokens, how the ratio of samples grows with their length; and on the trees with 250 to
/// 64,000 pairs, where the true reward turns down. The protocol is paper-notes/protocol.md. Every finished cell
/// is kept in the run folder: a run that was stopped continues.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<study::Command>,
    #[command(flatten)]
    study: StudyArgs,
    #[command(flatten)]
    flags: Flags,
}

/// The name of the binary, of its run folders, cells and random streams.
const NAME: &str = "study";

const EXAMPLES: &str = "\
Examples:
  study                              the whole study
  study --smoke                      the same in seconds, small
  study --methods rto,dppo,rloo --report-seeds 1..20 --pairs 1000
  study --set 'length.placements=[]' --set 'noise.pairs=[]' --set 'gradients.iterations=[]'
                                     the trees alone, in a minute
  study --out runs/study-0001        go on after a crash, Ctrl-C or a time limit
  study --redraw runs/study-0001     figures again, from the CSV files
As an array of jobs, then once:
  study --shard $INDEX/16 --out shared
  study merge shared --out runs/merged
RAYON_NUM_THREADS says how many threads, by default as many as there are cores;
no result depends on it.";

/// A config with what all cells share.
struct Study {
    config: Config,
    seeds: SeedTree,
    worlds: Memo<(Instance, u64), Setup>,
    tunings: Memo<(Instance, &'static str), runs::Tuned>,
}

/// The trees of the protocol.
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

impl Experiment for Study {
    type Settings = Config;

    fn new(config: Config) -> Result<Self> {
        Ok(Self {
            seeds: SeedTree::new(config.seed).child(NAME),
            config,
            worlds: Memo::default(),
            tunings: Memo::default(),
        })
    }

    fn settings(&self) -> &Config {
        &self.config
    }

    fn prepare(&self, _timings: &mut Timings) -> Result<()> {
        for biased in self.config.ppo.biased() {
            note(&format!("warning: {biased}"));
        }
        Ok(())
    }

    fn tasks(&self) -> Vec<Task<'_>> {
        let mut tasks = Vec::new();
        for instance in Instance::BOTH {
            for method in self.config.methods.iter().copied() {
                let id = format!("{NAME}/a/{}.{}", instance.name(), method.name);
                let work = move || runs::cell(self, instance, method);
                tasks.push(Task::new(id, runs::COLUMNS, work));
            }
        }
        for instance in Instance::BOTH {
            for &seed in &self.config.report_seeds {
                let id = format!("{NAME}/b/{}.{seed}", instance.name());
                let work = move || world::rows(self, instance, seed);
                tasks.push(Task::new(id, world::COLUMNS, work));
            }
        }
        let length = &self.config.length;
        for &place in &length.placements {
            // The longest first, so that no thread is left with one of them at the end.
            for &horizon in length.horizons.iter().rev() {
                let id = format!("{NAME}/c/{}.{horizon}", place.name());
                let work = move || length::cell(self, place, horizon);
                tasks.push(Task::new(id, length::COLUMNS, work));
            }
        }
        for instance in Instance::BOTH {
            for &pairs in &self.config.noise.pairs {
                let id = format!("{NAME}/d/{}.{pairs}", instance.name());
                let work = move || noise::cell(self, instance, pairs);
                tasks.push(Task::new(id, noise::COLUMNS, work));
            }
        }
        if !self.config.gradients.iterations.is_empty() {
            for instance in Instance::BOTH {
                for method in self.config.methods.iter().copied() {
                    let id = format!("{NAME}/e/{}.{}", instance.name(), method.name);
                    let work = move || gradients::cell(self, instance, method);
                    tasks.push(Task::new(id, gradients::COLUMNS, work));
                }
            }
        }
        tasks
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let runs = cells.of_part('a', "runs")?;
        let worlds = cells.of_part('b', "worlds")?;
        let how = Reading {
            beta2: self.config.ppo.beta2,
            every: self.config.every(),
            report_in_envelope: false,
        };
        let measured = comparison::Study::read(&runs, &worlds, how)?;
        let found = measured.conclude()?;
        let mut tables = vec![self.setting()?];
        tables.extend(found.tables);
        let mut raw = vec![runs, worlds];
        // A part that is switched off has no table.
        if !self.config.length.placements.is_empty() {
            let lengths = cells.of_part('c', "length_runs")?;
            let held_out = self.config.length.held_out;
            tables.extend(comparison::length::conclude(&lengths, held_out)?);
            raw.push(lengths);
        }
        if !self.config.noise.pairs.is_empty() {
            let noisy = cells.of_part('d', "noise_runs")?;
            let beta2 = self.config.ppo.beta2;
            tables.extend(comparison::noise::conclude(&noisy, &raw[1], beta2)?);
            raw.push(noisy);
        }
        if !self.config.gradients.iterations.is_empty() {
            let estimates = cells.of_part('e', "gradient_runs")?;
            tables.push(comparison::gradients::conclude(&estimates)?);
            raw.push(estimates);
        }
        Ok(Results {
            texts: vec![found.text],
            raw,
            tables,
        })
    }

    fn draw(dir: &Path) -> Result<()> {
        comparison::figures::draw_all(dir, &figures::words(dir)?)
    }

    fn page(dir: &Path) -> Result<Option<String>> {
        comparison::page(dir, &figures::words(dir)?).map(Some)
    }
}

impl Study {
    /// The streams of a tree, its pairs and what is fitted to them.
    fn world_seeds(&self, instance: Instance, seed: u64) -> SeedTree {
        self.seeds.child("world").child(instance.name()).index(seed)
    }

    /// The streams of a run on a tree: one for all methods and points.
    fn run_seeds(&self, instance: Instance, seed: u64) -> SeedTree {
        self.seeds.child("runs").child(instance.name()).index(seed)
    }

    /// What the figures say about the setting, one row for each instance.
    fn setting(&self) -> Result<Table> {
        let c = &self.config;
        let columns = [
            "instance",
            "actions",
            "horizon",
            "responses",
            "pairs",
            "beta1",
            "beta2",
            "iterations",
            "every",
            "points",
            "tuning_seeds",
            "report_seeds",
        ];
        let mut table = Table::new("setting", &columns);
        for instance in Instance::BOTH {
            let size = c.size(instance);
            table.push([
                instance.name().into(),
                size.actions.into(),
                size.horizon.into(),
                c.responses(instance).into(),
                c.pairs.into(),
                c.dpo.beta.into(),
                c.ppo.beta2.into(),
                c.ppo.iterations.into(),
                c.every().into(),
                c.grid(rto_harness::methods::method("rto"))?.len().into(),
                c.tuning_seeds.len().into(),
                c.report_seeds.len().into(),
            ]);
        }
        Ok(table)
    }
}
