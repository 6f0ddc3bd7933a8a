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
mod sweep_figure;
mod sweeps;
mod tables;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use rto::seed::SeedTree;
use rto_harness::cli::{note, parse, run_main};
use rto_harness::on_tree::setup::{Setup, Size};
use rto_harness::run_dir::Timings;
use rto_harness::settings::Settings;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;
use std::path::Path;
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
    command: Option<study::Command>,
    #[command(flatten)]
    study: StudyArgs,
    #[command(flatten)]
    flags: Flags,
}

/// The name of the binary, of its run folders, cells and random streams.
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
On a Slurm cluster, as an array of 20 jobs and a merge after them:
  algorithm2 --replicates 500 --out shared --slurm 20 \\
    --sbatch \"--time=1:00:00 --cpus-per-task=4\"
  algorithm2 --resume shared --slurm 20  only what is missing; --dry-run prints the scripts
As an array of jobs of another kind, then once:
  algorithm2 --shard $INDEX/20 --replicates 500 --out shared
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
    setups: [OnceLock<Setup>; 2],
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

    /// N, the responses of an iteration.
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
            setups: Default::default(),
        })
    }

    fn settings(&self) -> &Config {
        &self.config
    }

    fn prepare(&self, timings: &mut Timings) -> Result<()> {
        // A setting may be a choice whose expected gradient is not that of the objective: said once, with its claim.
        for biased in self.config.ppo.biased() {
            note(&format!("warning: {biased}"));
        }
        timings.phase("instances", || self.fit_instances())
    }

    fn tasks(&self) -> Vec<Task<'_>> {
        let mut all = curves::tasks(self);
        all.extend(map::tasks(self));
        all.extend(sweeps::tasks(self));
        all.extend(figure3::tasks(self));
        all
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let curve_runs = cells.of_part('a', "curve_runs")?;
        let map_runs = cells.of_part('b', "map_runs")?;
        let sweep_runs = cells.of_part('c', "sweep_runs")?;
        let figure3_runs = cells.of_part('d', "figure3_runs")?;

        let a = curves::summarise(self, &curve_runs)?;
        let b = map::summarise(&map_runs)?;
        let c = sweeps::summarise(self, &sweep_runs)?;
        let d = figure3::summarise(self, &figure3_runs)?;
        let e = credit::summarise(self)?;
        Ok(Results {
            texts: vec![
                a.text().to_string(),
                b.text(self),
                c.text(self),
                d.text(self)?,
                e.text().to_string(),
            ],
            raw: vec![curve_runs, map_runs, sweep_runs, figure3_runs],
            tables: vec![
                self.setting(),
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
            ],
        })
    }

    fn draw(dir: &Path) -> Result<()> {
        figures::draw_all(dir)
    }
}

impl Study {
    /// Fits both instances, unless they are.
    fn fit_instances(&self) -> Result<()> {
        for (instance, slot) in Instance::BOTH.into_iter().zip(&self.setups) {
            if slot.get().is_none() {
                let seeds = self.seeds.child("instance").child(instance.name());
                let size = instance.size(&self.config);
                slot.get_or_init({
                    let setup = Setup::new(self.config.draw(), &self.config.dpo, size, &seeds)?;
                    || setup
                });
            }
        }
        Ok(())
    }

    /// A prepared instance.
    fn setup(&self, instance: Instance) -> &Setup {
        let slot = &self.setups[instance as usize];
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
            c.dpo.beta.into(),
            c.ppo.beta2.into(),
            c.pairs.into(),
            c.ppo.lambda.into(),
            c.ppo.critic_learning_rate.into(),
            c.ppo.iterations.into(),
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
