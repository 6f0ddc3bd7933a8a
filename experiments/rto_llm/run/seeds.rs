//! One experiment under several seeds: what holds for a method, not for one trained policy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rto_bridge::win_rate::{Estimate, OverSeeds, WinRates, over_seeds};
use rto_harness::cli::Reporter;
use rto_harness::interrupt;
use rto_harness::list::List;
use rto_harness::lock::{self, Hold, Sharing};
use rto_harness::methods::label;
use rto_harness::say;
use rto_harness::stats::{Sample, Support};
use rto_harness::sweep::Shard;
use rto_harness::table::Table;
use serde_json::json;

use super::args::Args;
use super::one;
use super::ranks::Engine;
use super::stage::Stage;
use crate::report::over_seeds::{Cells, NUMBERS, OverSeedsPage, frontier_table};

/// The most seeds of a sweep; more are a slip of the keyboard.
const MOST: usize = 1000;

pub fn check(List(seeds): &List<u64>) -> Result<()> {
    let distinct: BTreeSet<&u64> = seeds.iter().collect();
    if distinct.len() != seeds.len() || seeds.len() < 2 || seeds.len() > MOST {
        bail!(
            "--seeds: found {} seeds, {} of them different, expected 2 to {MOST} different ones, as 1,2,5 or 1..5",
            seeds.len(),
            distinct.len()
        );
    }
    Ok(())
}

/// Runs each seed in a folder of its own, then compares. A sweep that was stopped goes on with the same command.
pub fn run(args: &Args, seeds: &List<u64>, engine: &Engine, reporter: &Reporter) -> Result<()> {
    check(seeds)?;
    if args.dry_run {
        let mut one = args.clone();
        one.common.seed = seeds.0.first().copied();
        say!(
            reporter,
            "# for each of {} seeds, the first:",
            seeds.0.len()
        )?;
        return one::run(&one, engine, reporter);
    }
    let Some(out) = &args.common.out else {
        bail!("--seeds: needs --out, the folder that holds a run per seed");
    };
    if out.join("config.toml").exists() {
        bail!(
            "--out {}: holds a single run, expected a folder for a run per seed",
            out.display()
        );
    }
    let first = engine.rank() == 0;
    let share = args.shard.unwrap_or(Shard::WHOLE);
    if args.compare {
        let lacking: Vec<String> = seeds
            .0
            .iter()
            .filter(|seed| !is_done(out, **seed))
            .map(u64::to_string)
            .collect();
        if !lacking.is_empty() {
            bail!(
                "--compare: no finished run of seed {}; the same command without --compare makes it",
                lacking.join(", ")
            );
        }
    }
    let _hold = match first {
        true => Some(begin(out, share)?),
        false => None,
    };
    let like = begun(out, seeds);
    // Every rank has looked before the first begins a run.
    engine.barrier()?;
    let mine = seeds.0.iter().enumerate().filter(|(i, _)| share.has(*i));
    for (_, &seed) in mine {
        let mut one = args.clone();
        one.seeds = None;
        one.shard = None;
        one.like.clone_from(&like);
        one.common.seed = Some(seed);
        one.common.out = Some(folder(out, seed));
        one.common.json = false;
        one::run(&one, engine, reporter).with_context(|| format!("seed {seed}"))?;
    }
    if !Stage::Evaluate.is_within(args.stage) || !share.is_whole() || !first {
        return Ok(());
    }
    let rates = |&seed: &u64| crate::report::win_rates(&folder(out, seed));
    let runs: Vec<WinRates> = seeds.0.iter().map(rates).collect::<Result<_>>()?;
    let cells = over_seeds(&runs)?;
    let names: Vec<&str> = runs[0].methods.iter().map(|m| m.name.as_str()).collect();
    let measure = Measure::of(&folder(out, seeds.0[0]));
    let (means, each) = methods(&runs, &seeds.0, measure);
    let write = |name: &str, text: String| {
        rto_bridge::checkpoint::atomic::replace_file(&out.join(name), text.as_bytes())
    };
    write("seeds.csv", each.to_csv())?;
    write("methods.csv", means.to_csv())?;
    write("win_rates.csv", long(&names, &cells).to_csv())?;
    let folders: Vec<PathBuf> = seeds.0.iter().map(|&seed| folder(out, seed)).collect();
    let too_small = folders.iter().find_map(|f| crate::report::too_small(f));
    let frontier = frontier_table(&means, &folders, measure.name(), too_small.is_some())?;
    crate::report::frontier::write(out, &frontier)?;
    let page = OverSeedsPage {
        names: &names,
        cells: &cells,
        means: &means,
        frontier: &frontier,
        seeds: &seeds
            .0
            .iter()
            .map(|&s| (s, format!("seed-{s}")))
            .collect::<Vec<_>>(),
        measure: measure.name(),
        pays: crate::report::over_seeds::pays(&folders),
        too_small,
    };
    write("report.html", page.html()?)?;
    say!(reporter, "{}", means.render())?;
    if let (Some(text), None) = (&page.pays, &page.too_small) {
        say!(reporter, "{text}")?;
    }
    say!(
        reporter,
        "win rates over {} seeds in percent, row beats column, with 95% intervals; = at equal length",
        runs.len()
    )?;
    say!(reporter, "{}", matrix(&names, &cells).render())?;
    let report = out.join("report.html");
    say!(reporter, "everything on one page: {}", report.display())?;
    say!(reporter, "results in {}", out.display())?;
    let rates = long(&names, &cells);
    reporter.json(&json!({ "run": out, "seeds": seeds.0, "win_rates": rates, "methods": means }))
}

/// A sweep that goes on has one setting: seeds that are not there yet take that of those that are.
pub fn begun(out: &Path, seeds: &List<u64>) -> Option<PathBuf> {
    let begun = |seed: &&u64| folder(out, **seed).join("config.toml").is_file();
    seeds.0.iter().find(begun).map(|seed| folder(out, *seed))
}

/// Whether the run of a seed is finished.
pub fn is_done(out: &Path, seed: u64) -> bool {
    folder(out, seed).join("done").is_file()
}

/// Makes the folder of the sweep and holds it, beside those who make other shares of it.
fn begin(out: &Path, share: Shard) -> Result<Hold> {
    std::fs::create_dir_all(out).with_context(|| format!("--out {}", out.display()))?;
    let sharing = match share.is_whole() {
        true => Sharing::Alone,
        false => Sharing::WithShards,
    };
    let hold = lock::hold(out, sharing)?;
    interrupt::works_in(out);
    Ok(hold)
}

fn folder(out: &Path, seed: u64) -> std::path::PathBuf {
    out.join(format!("seed-{seed}"))
}

/// What rewards are worth across seeds.
#[derive(Clone, Copy)]
enum Measure {
    /// The same in every run.
    Known(&'static str),
    /// Each run trained an oracle of its own, whose zero is arbitrary: rewards are taken above those of SFT.
    AboveSft,
}

impl Measure {
    fn of(run: &Path) -> Self {
        let known = crate::report::reward_name(run);
        match known {
            "true reward" => Self::Known(known),
            _ => Self::AboveSft,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Known(name) => name,
            Self::AboveSft => "reward by the oracle above SFT",
        }
    }

    fn score(self, run: &WinRates, method: usize) -> f64 {
        let score = |i: usize| run.methods[i].score.value;
        let sft = run.methods.iter().position(|m| m.name == "sft");
        match (self, sft) {
            (Self::AboveSft, Some(sft)) => score(method) - score(sft),
            _ => score(method),
        }
    }
}

/// Means over seeds with Student's t intervals, and the numbers behind them.
fn methods(runs: &[WinRates], seeds: &[u64], measure: Measure) -> (Table, Table) {
    let columns: Vec<&str> = std::iter::once("method").chain(NUMBERS).collect();
    let mut means = Table::new("methods", &columns);
    let mut each = Table::new("seeds", &["seed", "method", "reward", "kl", "length"]);
    for (i, method) in runs[0].methods.iter().enumerate() {
        let of = |f: &dyn Fn(&rto_bridge::win_rate::Summary) -> f64| {
            Sample(runs.iter().map(|run| f(&run.methods[i])).collect())
        };
        let columns = [
            Sample(runs.iter().map(|run| measure.score(run, i)).collect()),
            of(&|m| m.kl.map_or(f64::NAN, |kl| kl.value)),
            of(&|m| m.length.value),
        ];
        let mut row = vec![method.name.as_str().into()];
        for (c, column) in columns.iter().enumerate() {
            // A reward may be negative, a KL and a length may not.
            let support = match c {
                0 => Support::Real,
                _ => Support::NonNegative,
            };
            let (value, low, high) = column.interval(support);
            let (low, high) = (low.unwrap_or(value), high.unwrap_or(value));
            row.extend([value.into(), low.into(), high.into()]);
        }
        means.push(row);
        for (k, seed) in seeds.iter().enumerate() {
            let [reward, kl, length] = [0, 1, 2].map(|c| columns[c].0[k]);
            each.push([
                (*seed).into(),
                method.name.as_str().into(),
                reward.into(),
                kl.into(),
                length.into(),
            ]);
        }
    }
    (means, each)
}

fn long(names: &[&str], cells: &Cells) -> Table {
    let columns = ["row", "column", "rate", "low", "high"];
    let equal = ["equal_length", "equal_length_low", "equal_length_high"];
    let mut table = Table::new("win_rates", &[&columns[..], &equal[..]].concat());
    for (row, line) in cells.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            let Some(OverSeeds {
                rate,
                length_controlled,
            }) = cell
            else {
                continue;
            };
            let equal = |of: fn(&Estimate) -> f64| length_controlled.as_ref().map(of).into();
            table.push([
                names[row].into(),
                names[column].into(),
                rate.value.into(),
                rate.low.into(),
                rate.high.into(),
                equal(|e| e.value),
                equal(|e| e.low),
                equal(|e| e.high),
            ]);
        }
    }
    table
}

fn percent(cell: &Option<OverSeeds>) -> String {
    let Some(c) = cell else { return "–".into() };
    let text = |x: f64| format!("{:.1}", 100.0 * x);
    let [value, low, high] = [c.rate.value, c.rate.low, c.rate.high].map(text);
    let equal = c.length_controlled.map(|e| text(e.value));
    format!(
        "{value} [{low}, {high}] = {}",
        equal.unwrap_or_else(|| "–".into())
    )
}

fn matrix(names: &[&str], cells: &Cells) -> Table {
    let head: Vec<&str> = std::iter::once("row beats column, %")
        .chain(names.iter().map(|n| label(n)))
        .collect();
    let mut table = Table::new("win_rates", &head);
    for (name, line) in names.iter().zip(cells) {
        let row = std::iter::once(label(name).into())
            .chain(line.iter().map(|c| percent(c).as_str().into()));
        table.push(row.collect::<Vec<_>>());
    }
    table
}
