//! `rto_llm report`: a run as one page that needs nothing else.
//!
//! The page is made from the files of the run folder alone; a file that is not there, or damaged, is named where its
//! section would be.
//!
//! | file | holds |
//! |---|---|
//! | `config.toml`, `versions.json` | the resolved config; what made the run |
//! | `metrics/<stage>.jsonl` | one object a step: `step` and numbers; `objective/beta2` tells which runs Figure 3 may compare |
//! | `evaluation.csv` | `method,prompt_id,reward,kl,length,finished`, one row an answer |
//! | `judge.csv` | `row,column,prompt_id,preference,length_difference`: 1, 0.5 or 0 for the row's answer, empty where the judge gave no verdict; only where one was asked |
//! | `samples.jsonl` | `{"method", "prompt", "response", "reward"}` |
//! | `responses.jsonl` | the same with `prompt_id` for every held-out prompt; what a reader filters, where it is there |
//! | `exact.csv` | `method,subopt,value,kl` and perhaps `reward` on a world small enough to enumerate |
//! | `exact_baselines.csv` | `policy,parameter,value,kl,reward` of SFT at other temperatures and of best-of-n there |
//! | `exact_frontier.csv` | `kl,reward` of the best policies there, one for each β |
//! | `agreement.csv` | `model,accuracy,low,high,pairs` where people's labels are known |
//! | `metrics/<stage>.jsonl`: `sampler/kl`, `sampler/clipfrac` | how far what was sampled is off what is scored, in runs where it is |
//! | `token_reward.csv` | `rows,tokens,r2,rmse` of the fit to a file of token rewards, on rows that were held out |
//! | `credit.jsonl` | `{"prompt", "tokens", "dpo_reward", "true_reward"}`, as long as the response |

mod charts;
mod credit;
pub mod finding;
pub mod frontier;
mod load;
pub mod over_seeds;
mod samples;
mod tables;

use anyhow::{Result, bail};
use rto_bridge::checkpoint::atomic;
use std::path::{Path, PathBuf};

use load::Results;
use rto_harness::html::Page;

/// Write report.html into a run folder: tables, curves, samples and token credit in one page that opens offline.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Where the page goes [default: report.html in the run folder]
    #[arg(long, value_name = "FILE", alias = "out")]
    html: Option<PathBuf>,
    /// Print no notes on standard error
    #[arg(long)]
    quiet: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let path = args.html.clone();
    let path = path.unwrap_or_else(|| args.run.join("report.html"));
    let left_out = write(&args.run, &path)?;
    if !args.quiet {
        for why in left_out {
            eprintln!("left out: {why}");
        }
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// Writes the page of a run folder; says what had to be left out.
pub fn write(folder: &Path, path: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        bail!("--run {}: no such folder", folder.display());
    }
    if folder.join("versions.json").is_file() {
        rto_harness::run_dir::check_program("rto_llm", folder)?;
    }
    let run = Results::load(folder);
    if run.is_empty() {
        bail!(
            "--run {}: none of the files of a run is here; expected config.toml, metrics/<stage>.jsonl, evaluation.csv, samples.jsonl, exact.csv or credit.jsonl",
            folder.display()
        );
    }
    let mut page = Page::new(&title(&run));
    tables::summary(&mut page, &run);
    tables::win_rates(&mut page, &run);
    tables::judged(&mut page, &run);
    tables::methods(&mut page, &run);
    charts::figure3(&mut page, &run)?;
    frontier::section(&mut page, &run)?;
    tables::exact(&mut page, &run);
    tables::agreement(&mut page, &run);
    tables::token_reward(&mut page, &run);
    tables::sampler(&mut page, &run);
    samples::section(&mut page, &run);
    credit::section(&mut page, &run);
    charts::training(&mut page, &run)?;
    tables::config(&mut page, &run);
    tables::versions(&mut page, &run);
    atomic::replace_file(path, page.finish().as_bytes())?;
    Ok(run.problems())
}

/// Table 1 of a finished run.
pub fn win_rates(folder: &Path) -> Result<rto_bridge::win_rate::WinRates> {
    match Results::load(folder).evaluation {
        Ok(evaluation) => Ok(evaluation.win_rates),
        Err(absent) => bail!("{}: {}", folder.display(), absent.why),
    }
}

/// Why a run says nothing about which method is better, where that is so.
pub fn too_small(folder: &Path) -> Option<String> {
    Results::load(folder).too_small()
}

/// Whether training pays, where that is known exactly and the run is not too small to say anything.
pub fn pays(folder: &Path) -> Option<String> {
    let run = Results::load(folder);
    match run.too_small() {
        Some(_) => None,
        None => tables::pays(&run),
    }
}

/// What the policies of a run are compared by.
pub fn reward_name(folder: &Path) -> &'static str {
    Results::load(folder).reward_name()
}

/// What a judge decided, a line a pair.
#[cfg(feature = "judge")]
pub fn judged_text(folder: &Path) -> Result<String> {
    let judged = match Results::load(folder).judged {
        Ok(judged) => judged,
        Err(absent) => bail!("{}: {}", folder.display(), absent.why),
    };
    let names = judged.matrix.names();
    let line = |(row, column, c): (usize, usize, &rto_bridge::win_rate::Comparison)| {
        let equal = c.length_controlled.map(finding::share_range);
        format!(
            "{} is preferred to {} on {}, at equal length on {}",
            names[row],
            names[column],
            finding::share_range(c.rate),
            equal.unwrap_or_else(|| "–".into())
        )
    };
    let lines: Vec<String> = judged.matrix.pairs().map(line).collect();
    Ok(format!(
        "{}\n{} replies without a verdict",
        lines.join("\n"),
        judged.unreadable
    ))
}

/// The title, from the settings alone: the same run in another folder has the same page.
fn title(run: &Results) -> String {
    match (run.setting("preset"), run.setting("seed")) {
        (Some(preset), Some(seed)) => format!("rto_llm, preset {preset}, seed {seed}"),
        _ => "A run of rto_llm".into(),
    }
}
