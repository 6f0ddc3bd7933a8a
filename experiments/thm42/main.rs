//! Theorems 4.2 and B.1 measured: suboptimality on one axis, the bound beside it.

mod config;
mod coverage;
mod curves;
mod figures;
mod inconsistency;
mod regimes;
mod setup;
mod summary;
mod sweeps;

use anyhow::Result;
use clap::Parser;
use config::{Config, Flags};
use rto::features::FeatureMap;
use rto::seed::SeedTree;
use rto_harness::cli::{parse, run_main};
use rto_harness::settings::Settings;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;
use setup::{Setup, random_setup};
use std::path::Path;
use std::process::ExitCode;

/// Theorems 4.2 and B.1 of "DPO Meets PPO": how far from optimal are the policies of Algorithm 1 and
/// of (B.1), and what do the bounds say?
///
/// (a) suboptimality and bounds against the number of pairs, (b) coverage of the confidence sets,
/// (c) where pessimism wins and where it hurts, (d) where Algorithm 1 does not converge, (e) the
/// constant of the fast rate, (f) sweeps over beta, lambda, d and H. Every finished cell is kept in the
/// run folder: a run that was stopped continues, and an array of jobs can share the work.
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
const NAME: &str = "thm42";

const EXAMPLES: &str = "\
Examples:
  thm42                              the whole experiment, under two minutes
  thm42 --smoke                      the same in seconds, small
  thm42 --actions 2 --horizon 6 --dim 16 --beta 0.1
  thm42 --out runs/thm42-0001        go on after a crash, Ctrl-C or a time limit
  thm42 --redraw runs/thm42-0001     figures again, from the CSV files
On a Slurm cluster, as an array of 20 jobs and a merge after them:
  thm42 --replicates 1000 --out shared --slurm 20 \\
    --sbatch \"--time=1:00:00 --cpus-per-task=4\"
  thm42 --resume shared --slurm 20  only what is missing; --dry-run prints the scripts
As an array of jobs of another kind, then once:
  thm42 --shard $INDEX/20 --replicates 1000 --out shared
  thm42 merge shared --out runs/merged
In folders of their own:
  thm42 --shard 1/2 --out one
  thm42 --shard 2/2 --out two
  thm42 merge one two --out both
RAYON_NUM_THREADS says how many threads, by default as many as there are cores;
no result depends on it.";

/// A config with what all cells share.
struct Study {
    config: Config,
    seeds: SeedTree,
    setup: Setup,
    /// (1/2β) tr(Cov I⁻¹).
    constant: f64,
    /// SubOpt(π_ref).
    reference: f64,
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
        let seeds = SeedTree::new(config.seed).child(NAME);
        let setup = random_setup(&config, &seeds.child("instance"))?;
        Ok(Self {
            constant: setup.constant()?,
            reference: setup.reference_suboptimality()?,
            seeds,
            setup,
            config,
        })
    }

    fn settings(&self) -> &Config {
        &self.config
    }

    fn tasks(&self) -> Vec<Task<'_>> {
        let mut all = curves::tasks(self);
        all.extend(coverage::tasks(self));
        all.extend(regimes::tasks(self));
        all.extend(inconsistency::tasks(self));
        all.extend(sweeps::tasks(self));
        all
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let curve_runs = cells.of_part('a', "curve_runs")?;
        let coverage_runs = cells.of_part('b', "coverage_runs")?;
        let regime_runs = cells.of_part('c', "regime_runs")?;
        let inconsistency_runs = cells.of_part('d', "inconsistency_runs")?;
        let sweep_runs = cells.of_part('f', "sweep_runs")?;

        let mut a = curves::summarise(self, &curve_runs)?;
        let b = coverage::summarise(self, &coverage_runs)?;
        a.slopes.push(b.slope.clone());
        let c = regimes::summarise(&regime_runs)?;
        let d = inconsistency::summarise(&inconsistency_runs)?;
        let f = sweeps::summarise(&sweep_runs)?;
        let texts = [
            a.text(self),
            b.text(self),
            c.text(self),
            d.text()?,
            b.constant_text(self),
            f.text(self),
        ];

        Ok(Results {
            texts: texts.map(|text| text.to_string()).into(),
            raw: vec![
                curve_runs,
                coverage_runs,
                regime_runs,
                inconsistency_runs,
                sweep_runs,
            ],
            tables: vec![
                self.setting(),
                a.curves,
                a.slopes,
                b.coverage,
                b.constant,
                c.curves,
                d.curves,
                f.curves,
            ],
        })
    }

    fn draw(dir: &Path) -> Result<()> {
        figures::draw_all(dir)
    }
}

impl Study {
    /// One row: what the figures say about the setting.
    fn setting(&self) -> Table {
        let c = &self.config;
        let radius = rto::estimate::RadiusInputs {
            horizon: c.horizon,
            feature_bound: self.setup.instance.features.bound(),
            param_bound: c.param_bound,
            ridge: c.ridge,
            fail_prob: c.fail_prob,
        };
        let mut table = Table::new(
            "setting",
            &[
                "prompts",
                "actions",
                "horizon",
                "dim",
                "beta",
                "param_bound",
                "theta_norm",
                "ridge",
                "fail_prob",
                "printed_constant",
                "replicates",
                "coverage_replicates",
                "regime_replicates",
                "sweep_replicates",
                "sweep_size",
                "reference_suboptimality",
                "constant",
                "upsilon",
            ],
        );
        table.push([
            c.prompts.into(),
            c.actions.into(),
            c.horizon.into(),
            c.dim.into(),
            c.beta.into(),
            c.param_bound.into(),
            c.theta_norm.into(),
            c.ridge.into(),
            c.fail_prob.into(),
            c.printed_constant.into(),
            c.replicates.into(),
            c.coverage_replicates.into(),
            c.regime_replicates.into(),
            c.sweep_replicates.into(),
            c.sweep_size.into(),
            self.reference.into(),
            self.constant.into(),
            rto::estimate::curvature_bound(&radius).into(),
        ]);
        table
    }
}
