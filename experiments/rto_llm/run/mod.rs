//! The paper's experiment: SFT, reward model, DPO, then PPO, DPPO, RTO and RTO as released, and what they are worth.
//!
//! A run is read from top to bottom; each module reads only modules above it:
//!
//! | module | owns |
//! |---|---|
//! | `stage`, `choices`, `args` | the words of the command line |
//! | `place` | where networks are trained, score and write |
//! | `config` | the settings, resolved and checked |
//! | `ranks` | the processes of a run, and how they end together |
//! | `data` | what is learned from and tested on: the synthetic world, or files |
//! | `models` | networks: first weights, adapters, what is loaded and kept; the oracle |
//! | `plan` | what a run would cost |
//! | `training` | the stages, each with its log and checkpoint |
//! | `evaluation` | what the policies are worth, and their cards |
//! | `ledger` | what is said and written of a run as a whole: times, the page |
//! | `one`, `seeds` | a run; a run per seed |
//! | `submit` | both as Slurm jobs |
//! | `sweep` | methods at the points of their grids, on shared data and networks |

mod args;
pub mod choices;
mod config;
mod data;
mod evaluation;
mod ledger;
mod models;
mod one;
mod place;
mod plan;
mod ranks;
mod seeds;
mod stage;
mod submit;
mod sweep;
mod training;

pub use args::Args;
pub use config::TINY as DEFAULTS;
pub use sweep::{Args as SweepArgs, run as sweep};

use anyhow::Result;
use rto_harness::study;

/// Trains what is not trained yet.
pub fn run(args: &Args) -> Result<()> {
    let reporter = args.common.reporter();
    if let Some(folder) = &args.common.redraw {
        return study::redraw(
            args::NAME,
            folder,
            crate::report::frontier::redraw,
            &reporter,
        );
    }
    if let Some(count) = args.slurm {
        return submit::run(args, count, &reporter);
    }
    let engine = ranks::join(args)?;
    let reporter = match engine.rank() {
        0 => reporter,
        _ => reporter.silent(),
    };
    ranks::all_or_none(&engine, || match &args.seeds {
        Some(seeds) => seeds::run(args, seeds, &engine, &reporter),
        None => one::run(args, &engine, &reporter),
    })
}
