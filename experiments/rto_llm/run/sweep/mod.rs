//! `rto_llm sweep`: methods compared with everything else equal, each at the point of its grid that it chose on other seeds.
//!
//! | module | owns |
//! |---|---|
//! | `plan` | what is compared, and what is refused |
//! | `base` | data, SFT, reward model and DPO of a world and seed, made once for all methods |
//! | `replies` | what a policy is worth where it cannot be known exactly |
//! | `cell` | the runs of a method, and what needs no training of PPO |
//! | `figures` | what figures and page say of the setting |

mod base;
mod cell;
mod figures;
mod plan;
mod replies;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use rto_harness::cli::Common;
use rto_harness::comparison::{self, REPORT, Reading, TUNE, choose};
use rto_harness::methods::Method;
use rto_harness::run_dir::Timings;
use rto_harness::say;
use rto_harness::settings::Settings;
use rto_harness::stats::Sample;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;
use serde_json::{Map, json};

use base::Bases;
use plan::{Plan, Point};

/// `rto_llm sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<study::Command>,
    /// What is compared: a TOML file with methods, seeds, samples and the tables settings, world.NAME and grid.METHOD
    #[arg(value_name = "PLAN.toml")]
    plan: Option<PathBuf>,
    /// Write results here: a new or empty directory, or an unfinished sweep to go on with
    /// [default: the next free runs/sweep-0001]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compute only share I of N of the seeds (I from 0 to N-1, or from 1 to N); `sweep merge` puts them together
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Print how many cells, runs and replies the plan has; compute and write nothing
    #[arg(long, conflicts_with = "shard")]
    dry_run: bool,
    /// Change one key of the plan, `samples=4608` say; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A small sweep that ends within seconds, before what the plan says
    #[arg(long)]
    smoke: bool,
    /// Print the results as JSON on standard output; text for people goes to standard error
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long)]
    quiet: bool,
    /// Draw the figures of a finished sweep again, from the CSV files in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["plan", "set", "out", "smoke", "shard", "dry_run"])]
    redraw: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  rto_llm sweep plan.toml --dry-run          how many runs are that?
  rto_llm sweep plan.toml --out runs/mine    and the same again after a crash or Ctrl-C
  rto_llm sweep --smoke                      a sweep in seconds; nothing is learned
As an array of jobs in one folder, the first line twice (tuning, then what it chose), then:
  rto_llm sweep plan.toml --shard $INDEX/5 --out shared
  rto_llm sweep merge shared --out runs/merged
where plan.toml is, say,
  methods = [\"dppo\", \"rto\"]
  samples = 4608
  [settings]
  disagreement = 0.5
  [grid.dppo]
  ppo.learning_rate = [3e-4, 1e-3]
  [grid.rto]
  ppo.learning_rate = [3e-4, 1e-3]
A method of your own is a row in the table of methods; name it in the plan beside rto and dppo.";

/// A plan with its bases.
pub struct Sweep {
    plan: Plan,
    /// Set once the folder is known.
    at: OnceLock<(PathBuf, Bases)>,
}

/// A point of a method that is run on every report seed.
#[derive(Clone)]
struct Told {
    method: &'static Method,
    stage: String,
    /// The number of the point in the grid, before a variant's own settings.
    number: usize,
    point: Point,
    measure_first: u64,
}

/// Runs a sweep, a share of it, or what is missing of it.
pub fn run(args: &Args) -> Result<()> {
    if let Some(study::Command::Merge(merge)) = &args.command {
        return study::merge::<Sweep>(merge);
    }
    let common = Common {
        config: args.plan.clone(),
        set: args.set.clone(),
        out: args.out.clone(),
        smoke: args.smoke,
        json: args.json,
        quiet: args.quiet,
        redraw: args.redraw.clone(),
        ..Common::default()
    };
    if args.redraw.is_none() {
        let plan = Plan::resolve(&common, &Map::new()).map_err(|e| in_file(args, e))?;
        if args.dry_run {
            return print(&plan, &common);
        }
    }
    let study = StudyArgs {
        common,
        shard: args.shard.clone(),
        ..StudyArgs::default()
    };
    study::run::<Sweep>(&study, &Map::new())
}

/// Says which file a mistake is in, where that is not said.
fn in_file(args: &Args, error: anyhow::Error) -> anyhow::Error {
    let file = args.plan.as_ref().map(|p| p.display().to_string());
    match file.filter(|file| !error.to_string().contains(file)) {
        Some(file) => error.context(file),
        None => error,
    }
}

fn print(plan: &Plan, common: &Common) -> Result<()> {
    let reporter = common.reporter();
    let runs = plan.runs()?;
    let bases = plan.worlds().len() * plan.report_seeds.len() + plan.tuned().len();
    let sweep = Sweep::new(plan.clone())?;
    let cells = sweep.tasks().len() + sweep.reports(&|_| Ok((0, Point::new())))?.len();
    let drawn = runs as u64 * plan.samples;
    let points = plan.points(plan.methods[0])?.len();
    say!(
        reporter,
        "{cells} cells: {runs} runs of {} methods, each of {} replies, {drawn} in all; {points} points of each grid on {} seeds, the chosen one on {} seeds in {} worlds; {bases} times SFT, reward model and DPO",
        plan.methods.len(),
        plan.samples,
        plan.tuned().len(),
        plan.report_seeds.len(),
        plan.worlds().len()
    )?;
    reporter.json(&json!({
        "cells": cells, "runs": runs, "samples_each": plan.samples, "samples": drawn, "points": points, "bases": bases,
    }))
}

impl Sweep {
    fn root(&self) -> Result<&Path> {
        let at = self.at.get();
        Ok(&at.context("the folder of the sweep is not known yet")?.0)
    }

    fn bases(&self) -> Result<&Bases> {
        let at = self.at.get();
        Ok(&at.context("the folder of the sweep is not known yet")?.1)
    }

    /// The cells of what is reported, at the points that were chosen.
    fn reports(
        &self,
        chosen: &dyn Fn(&'static Method) -> Result<(usize, Point)>,
    ) -> Result<Vec<Task<'_>>> {
        let mut tasks = Vec::new();
        for world in self.plan.worlds().into_keys() {
            for (name, told) in self.told(&world, chosen)? {
                for &seed in &self.plan.report_seeds {
                    let method = told.method;
                    let id = format!("{}/c/{world}.{}.{name}.{seed}", Plan::NAME, method.name);
                    let (world, name, told) = (world.clone(), name.clone(), told.clone());
                    let work = move || {
                        let run = cell::Run {
                            world: &world,
                            method,
                            name: &name,
                            stage: &told.stage,
                            point: (told.number, &told.point),
                            measure_first: told.measure_first,
                            seed,
                        };
                        cell::alone(|| run.rows(self))
                    };
                    tasks.push(Task::new(id, cell::RUNS, work).in_group(seed));
                }
            }
        }
        Ok(tasks)
    }

    /// What is run in a world on every seed, by name: the chosen points, then the variants.
    fn told(
        &self,
        world: &str,
        chosen: &dyn Fn(&'static Method) -> Result<(usize, Point)>,
    ) -> Result<Vec<(String, Told)>> {
        let mut all = Vec::new();
        for &method in &self.plan.methods {
            let (number, point) = chosen(method)?;
            let stage = REPORT.to_string();
            let told = Told {
                method,
                stage: stage.clone(),
                number,
                point: point.clone(),
                measure_first: 0,
            };
            all.push((stage, told));
        }
        for (name, variant) in self.plan.variant.iter().filter(|v| v.1.is_in(world)) {
            for &method in &variant.methods {
                let (number, point) = match self.plan.methods.contains(&method) {
                    true => chosen(method)?,
                    false => (0, Point::new()),
                };
                let told = Told {
                    method,
                    stage: variant.stage.clone().unwrap_or_else(|| name.clone()),
                    number,
                    point: self.plan.upon(&point, name, method)?,
                    measure_first: variant.measure_first.unwrap_or(0),
                };
                all.push((name.clone(), told));
            }
        }
        Ok(all)
    }

    /// What the figures say about the setting, one row for each world.
    fn setting(&self) -> Result<Table> {
        let plan = &self.plan;
        let columns = [
            "instance",
            "settings",
            "data",
            "beta1",
            "beta2",
            "pairs",
            "samples",
            "every",
            "points",
            "tuning_seeds",
            "report_seeds",
            "variants",
        ];
        let mut table = Table::new("setting", &columns);
        for (world, settings) in plan.worlds() {
            let config = plan.config(&world, plan.methods[0], &Point::new(), 0)?;
            let here = plan.variant.iter().filter(|v| v.1.is_in(&world));
            let mut stages: Vec<&str> = here
                .map(|(name, v)| v.stage.as_deref().unwrap_or(name))
                .collect();
            stages.sort_unstable();
            stages.dedup();
            table.push([
                world.as_str().into(),
                plan::shown(&settings).into(),
                match config.on_world() {
                    true => "world",
                    false => "files",
                }
                .into(),
                config.beta1.into(),
                config.ppo.beta2.into(),
                config.pairs.into(),
                plan.samples.into(),
                plan.every(plan.methods[0])?.into(),
                plan.points(plan.methods[0])?.len().into(),
                plan.tuned().len().into(),
                plan.report_seeds.len().into(),
                stages.join(" ").into(),
            ]);
        }
        Ok(table)
    }

    /// The grid of a method on one seed.
    fn tune(
        &self,
        method: &'static Method,
        seed: u64,
    ) -> Result<Vec<Vec<rto_harness::table::Cell>>> {
        let mut rows = Vec::new();
        for (number, point) in self.plan.points(method)?.iter().enumerate() {
            let run = cell::Run {
                world: &self.plan.tuned_on,
                method,
                name: TUNE,
                stage: TUNE,
                point: (number, point),
                measure_first: 0,
                seed,
            };
            rows.extend(run.rows(self)?);
        }
        Ok(rows)
    }

    /// The point of a method that did best on the tuning seeds.
    fn chosen(&self, tuned: Option<&Table>, method: &'static Method) -> Result<(usize, Point)> {
        let points = self.plan.points(method)?;
        let Some(tuned) = tuned else {
            return Ok((0, points[0].clone()));
        };
        let rows = tuned.filter("method", method.name)?;
        let end = |i: usize| -> Result<Sample> {
            Ok(Sample(
                rows.filter("point", &i.to_string())?.floats("objective")?,
            ))
        };
        let ends = (0..points.len()).map(end).collect::<Result<Vec<_>>>()?;
        let numbers = points.iter().map(|p| cell::numbers(self, method, p));
        let number = choose(&numbers.collect::<Result<Vec<_>>>()?, &ends);
        Ok((number, points[number].clone()))
    }
}

impl Experiment for Sweep {
    type Settings = Plan;

    const TWICE: bool = true;

    fn new(plan: Plan) -> Result<Self> {
        Ok(Self {
            plan,
            at: OnceLock::new(),
        })
    }

    fn settings(&self) -> &Plan {
        &self.plan
    }

    fn in_folder(&self, folder: &Path) {
        self.at
            .get_or_init(|| (folder.to_path_buf(), Bases::inside(folder)));
    }

    fn prepare(&self, _: &mut Timings) -> Result<()> {
        Ok(())
    }

    fn tasks(&self) -> Vec<Task<'_>> {
        let mut tasks = Vec::new();
        for &method in &self.plan.methods {
            for &seed in self.plan.tuned() {
                let id = format!("{}/a/{}.{seed}", Plan::NAME, method.name);
                let work = move || cell::alone(|| self.tune(method, seed));
                tasks.push(Task::new(id, cell::RUNS, work).in_group(seed));
            }
        }
        for world in self.plan.worlds().into_keys() {
            for &seed in &self.plan.report_seeds {
                let id = format!("{}/b/{world}.{seed}", Plan::NAME);
                let world = world.clone();
                let work = move || cell::alone(|| cell::worlds(self, &world, seed));
                tasks.push(Task::new(id, cell::WORLDS, work).in_group(seed));
            }
        }
        tasks
    }

    fn later(&self, cells: &Cells<'_>) -> Result<Vec<Task<'_>>> {
        let tuned = match self.plan.tuned() {
            [] => None,
            _ => Some(cells.of_part('a', "tuned")?),
        };
        self.reports(&|method| self.chosen(tuned.as_ref(), method))
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let mut runs = Table::new("runs", &[&["id"], cell::RUNS].concat());
        for part in ['a', 'c'] {
            for row in cells.of_part(part, "runs")?.rows() {
                runs.push(row.clone());
            }
        }
        let worlds = cells.of_part('b', "worlds")?;
        let how = Reading {
            beta2: self.plan.beta2()?,
            every: self.plan.every(self.plan.methods[0])?,
            report_in_envelope: true,
        };
        let found = comparison::Study::read(&runs, &worlds, how)?.conclude()?;
        let mut tables = vec![self.setting()?];
        tables.extend(found.tables);
        Ok(Results {
            texts: vec![found.text],
            raw: vec![runs, worlds],
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
