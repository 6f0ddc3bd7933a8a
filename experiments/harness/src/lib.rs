//! What every rto experiment shares: command line, config, run folder, progress, tables, figures.
//!
//! A binary is: flags and a config with the same keys, a run that fills tables, and figures drawn
//! from the saved CSV files alone, so that `--redraw DIR` gives the same figures again.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::path::Path;
//!
//! use clap::Parser;
//! use rto_harness::cli::Common;
//! use rto_harness::config::within;
//! use rto_harness::list::List;
//! use rto_harness::plot::{Axis, Figure, Kind, Series, SeriesStyle};
//! use rto_harness::progress::Progress;
//! use rto_harness::run_dir::{RunDir, Timings};
//! use rto_harness::say;
//! use rto_harness::settings::Settings;
//! use rto_harness::table::Table;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     seed: u64,
//!     horizons: Vec<u32>,
//!     tree: Tree,
//! }
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Tree {
//!     actions: u64,
//! }
//!
//! impl Settings for Config {
//!     const NAME: &'static str = "demo";
//!     // include_str!("../configs/demo.toml") in a real binary; it holds every key.
//!     const DEFAULTS: &'static str = "seed = 1\nhorizons = [1, 2, 3, 4, 5, 6]\n[tree]\nactions = 4\n";
//!     const SMOKE: &'static str = "horizons = [1, 2, 3]\n";
//!
//!     fn check(&self) -> anyhow::Result<()> {
//!         within("tree.actions", self.tree.actions as f64, 2.0, 1e3)
//!     }
//! }
//!
//! /// Flags named like config keys; what is not given stays as the config has it.
//! #[derive(Debug, clap::Args, Serialize)]
//! struct Flags {
//!     /// Horizons to run, in tokens
//!     #[arg(long, value_name = "LIST")]
//!     horizons: Option<List<u32>>,
//! }
//!
//! #[derive(Debug, Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     common: Common,
//!     #[command(flatten)]
//!     flags: Flags,
//! }
//!
//! fn run(cli: &Cli) -> anyhow::Result<()> {
//!     let common = &cli.common;
//!     let reporter = common.reporter();
//!     if let Some(dir) = &common.redraw {
//!         return draw(dir);
//!     }
//!     let config = Config::resolve(common, &cli.flags)?;
//!
//!     let run = RunDir::create_or_resume(Config::NAME, common.out.as_deref(), &config)?;
//!     let mut timings = Timings::new();
//!     let mut table = Table::new("queries", &["horizon", "queries", "theory"]);
//!     let bar = Progress::new(common.quiet).bar(config.horizons.len() as u64, "searching");
//!     timings.phase("search", || {
//!         for &h in &config.horizons {
//!             let queries = u128::from(config.tree.actions).pow(h); // measured, in a real binary
//!             table.push([h.into(), queries.into(), (config.tree.actions as f64).powf(h.into()).into()]);
//!             bar.inc(1);
//!         }
//!     });
//!     drop(bar);
//!     run.write_table("queries.csv", &table)?;
//!     timings.phase("draw", || draw(run.root()))?;
//!     run.write_timings(&timings)?;
//!
//!     // Printed last: nobody has to read on for the files to be there.
//!     say!(reporter, "{}", table.render())?;
//!     say!(reporter, "results in {}", run.root().display())?;
//!     reporter.json(&BTreeMap::from([("rows", table.len())]))
//! }
//!
//! /// Figures come from the CSV files alone.
//! fn draw(dir: &Path) -> anyhow::Result<()> {
//!     let table = Table::from_csv(&dir.join("queries.csv"))?;
//!     let look = SeriesStyle::nth(0);
//!     Figure::new(
//!         "Exhaustive search asks once per response",
//!         Axis::linear("horizon H (tokens)"),
//!         Axis::log10("oracle queries (count)"),
//!     )
//!     .subtitle("Token tree")
//!     .with(Series::new("measured", table.points("horizon", "queries")?, look))
//!     .with(Series::new("theory, A^H", table.points("horizon", "theory")?, look.kind(Kind::Dashed)))
//!     .save(dir, "queries")
//! }
//!
//! // In a binary:
//! // fn main() -> std::process::ExitCode {
//! //     rto_harness::cli::run_main("demo", || run(&rto_harness::cli::parse(Config::DEFAULTS)))
//! // }
//! # let temp = std::env::temp_dir().join(format!("rto-harness-doc-{}", std::process::id()));
//! # let out = temp.join("run");
//! # let cli = Cli::parse_from(["demo", "--smoke", "--out", out.to_str().unwrap(), "--horizons", "2,3"]);
//! # run(&cli).unwrap();
//! # let files = ["config.toml", "versions.json", "timings.json", "queries.csv", "queries.svg", "queries.png"];
//! # assert!(files.iter().all(|file| out.join(file).is_file()));
//! # run(&cli).unwrap();
//! # let other = Cli::parse_from(["demo", "--out", out.to_str().unwrap(), "--horizons", "2"]);
//! # assert!(run(&other).is_err(), "a run was overwritten");
//! # let before = std::fs::read(out.join("queries.png")).unwrap();
//! # run(&Cli::parse_from(["demo", "--redraw", out.to_str().unwrap()])).unwrap();
//! # assert_eq!(before, std::fs::read(out.join("queries.png")).unwrap());
//! # std::fs::remove_dir_all(&temp).unwrap();
//! ```
//!
//! A sweep that takes long is a [`study::Experiment`], a list of [`sweep::Task`]s: it can be killed and continued, split over the
//! jobs of an array, and submitted as one ([`slurm`]). What every such binary must do is tested for all of them in `experiments/tests/cli_sweeps/`.
//!
//! Errors are `anyhow` and read as one line that names the file, the line or field, what was found
//! and what was expected; [`cli::run_main`] prints it. User input never causes a panic.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod arguments;
mod atomic;
mod cell;
pub mod cli;
pub mod comparison;
pub mod config;
pub mod event_file;
pub mod html;
pub mod interrupt;
pub mod json_error;
pub mod jsonl;
pub mod list;
pub mod lock;
pub mod machine;
pub mod manifest;
pub mod methods;
pub mod on_tree;
pub mod plot;
pub mod progress;
mod render;
pub mod run_dir;
pub mod serde_words;
pub mod settings;
pub mod slurm;
pub mod stats;
pub mod study;
pub mod sweep;
pub mod table;
mod terminal;
pub mod text;
mod timings;
