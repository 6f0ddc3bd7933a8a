//! One experiment under several seeds: what holds for a method, not for one trained policy.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rto_bridge::win_rate::{Estimate, WinRates, over_seeds};
use rto_harness::cli::Reporter;
use rto_harness::html::{Page, escape, number};
use rto_harness::say;
use rto_harness::stats::Sample;
use rto_harness::table::Table;
use serde_json::json;

use super::Args;

/// `1,2,5` or `1..5`, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |t: &str| {
            let n: u64 = t
                .trim()
                .parse()
                .map_err(|_| format!("found {t:?}, expected a whole number"))?;
            // TOML integers stop there.
            match i64::try_from(n) {
                Ok(_) => Ok(n),
                Err(_) => Err(format!("found {n}, expected at most {}", i64::MAX)),
            }
        };
        let seeds: Vec<u64> = match text.split_once("..") {
            Some((first, last)) => (number(first)?..=number(last.trim_start_matches('='))?)
                .take(1001)
                .collect(),
            None => text
                .split(',')
                .map(number)
                .collect::<std::result::Result<_, _>>()?,
        };
        let mut distinct = seeds.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != seeds.len() || seeds.len() < 2 || seeds.len() > 1000 {
            return Err("expected two or more different seeds, as 1,2,5 or 1..5".into());
        }
        Ok(Self(seeds))
    }
}

/// Runs each seed in a folder of its own, then compares. A sweep that was stopped goes on with the same command.
pub fn run(args: &Args, seeds: &Seeds, reporter: &Reporter) -> Result<()> {
    if args.dry_run {
        let mut one = args.clone();
        one.common.seed = seeds.0.first().copied();
        say!(
            reporter,
            "# for each of {} seeds, the first:",
            seeds.0.len()
        )?;
        return super::run_one(&one, reporter);
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
    for &seed in &seeds.0 {
        let mut one = args.clone();
        one.seeds = None;
        one.common.seed = Some(seed);
        one.common.out = Some(folder(out, seed));
        one.common.json = false;
        super::run_one(&one, reporter).with_context(|| format!("seed {seed}"))?;
    }
    if args.stage < super::Last::Evaluate {
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
    let frontier = frontier(&means, runs.len(), measure)?;
    crate::report::frontier::write(out, &frontier)?;
    write(
        "report.html",
        page(&frontier, &names, &cells, &means, &seeds.0)?,
    )?;
    say!(reporter, "{}", means.render())?;
    say!(
        reporter,
        "win rates over {} seeds, row beats column, with 95% intervals",
        runs.len()
    )?;
    say!(reporter, "{}", matrix(&names, &cells).render())?;
    say!(reporter, "results in {}", out.display())?;
    let rates = long(&names, &cells);
    reporter.json(&json!({ "run": out, "seeds": seeds.0, "win_rates": rates, "methods": means }))
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

/// Mean, lower and upper end of what is measured, in the order of columns.
const NUMBERS: [&str; 9] = [
    "reward",
    "reward_low",
    "reward_high",
    "kl",
    "kl_low",
    "kl_high",
    "length",
    "length_low",
    "length_high",
];

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
        for column in &columns {
            let (mean, low, high) = column.interval();
            row.extend([
                mean.into(),
                low.unwrap_or(mean).into(),
                high.unwrap_or(mean).into(),
            ]);
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

/// Means over seeds.
fn frontier(means: &Table, seeds: usize, measure: Measure) -> Result<Table> {
    use crate::report::frontier::{Row, empty};
    let caption = format!(
        "Means over {seeds} seeds and their held-out prompts; bars: Student's 95% interval of the reward over seeds."
    );
    let measure = measure.name();
    let column = |name: &str| means.floats(name);
    let (kl, reward) = (column("kl")?, column("reward")?);
    let (low, high) = (column("reward_low")?, column("reward_high")?);
    let mut table = empty();
    for (i, method) in means.texts("method")?.iter().enumerate() {
        let row = Row {
            kind: "mean",
            method,
            kl: kl[i],
            reward: [reward[i], low[i], high[i]],
            measure,
            caption: &caption,
        };
        row.push(&mut table);
    }
    Ok(table)
}

type Cells = [Vec<Option<Estimate>>];

fn long(names: &[&str], cells: &Cells) -> Table {
    let mut table = Table::new("win_rates", &["row", "column", "rate", "low", "high"]);
    for (row, line) in cells.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            if let Some(e) = cell {
                table.push([
                    names[row].into(),
                    names[column].into(),
                    e.value.into(),
                    e.low.into(),
                    e.high.into(),
                ]);
            }
        }
    }
    table
}

fn percent(cell: &Option<Estimate>) -> String {
    let Some(e) = cell else { return "–".into() };
    let [value, low, high] = [e.value, e.low, e.high].map(|x| format!("{:.1}", 100.0 * x));
    format!("{value} [{low}, {high}]")
}

fn matrix(names: &[&str], cells: &Cells) -> Table {
    let head: Vec<&str> = std::iter::once("row beats column, %")
        .chain(names.iter().copied())
        .collect();
    let mut table = Table::new("win_rates", &head);
    for (name, line) in names.iter().zip(cells) {
        let row =
            std::iter::once((*name).into()).chain(line.iter().map(|c| percent(c).as_str().into()));
        table.push(row.collect::<Vec<_>>());
    }
    table
}

/// Links the runs' own pages.
fn page(
    frontier: &Table,
    names: &[&str],
    cells: &Cells,
    means: &Table,
    seeds: &[u64],
) -> Result<String> {
    let mut page = Page::new(&format!("rto_llm over {} seeds", seeds.len()));
    page.section("win-rates", "Win rates (Table 1)");
    page.say("How often the row's answer has a higher reward than the column's, in percent: means over seeds with Student's 95% interval over seeds, which holds for the methods and not for single trained policies.");
    let head: Vec<&str> = std::iter::once("row beats column")
        .chain(names.iter().copied())
        .collect();
    let row = |(name, line): (&&str, &Vec<Option<Estimate>>)| {
        std::iter::once(escape(name))
            .chain(line.iter().map(percent))
            .collect()
    };
    page.table(
        "matrix",
        &head,
        &names.iter().zip(cells).map(row).collect::<Vec<_>>(),
    );
    page.section("methods", "Methods");
    page.say("Means over held-out prompts and seeds, with 95% intervals over seeds.");
    let columns: Vec<Vec<f64>> = NUMBERS
        .iter()
        .map(|name| means.floats(name))
        .collect::<Result<_>>()?;
    let shown = |i: usize, c: usize| {
        let [value, low, high] = [0, 1, 2].map(|k| number(columns[3 * c + k][i]));
        format!("{value} [{low}, {high}]")
    };
    let rows = names
        .iter()
        .enumerate()
        .map(|(i, name)| vec![escape(name), shown(i, 0), shown(i, 1), shown(i, 2)]);
    page.table(
        "",
        &[
            "method",
            "reward",
            "KL to the reference (nats)",
            "length (tokens)",
        ],
        &rows.collect::<Vec<_>>(),
    );
    page.section("frontier", "Reward against KL");
    page.figure(&crate::report::frontier::figure(frontier)?)?;
    page.section("runs", "Runs");
    let link = |seed: &u64| format!("<a href=\"seed-{seed}/report.html\">seed {seed}</a>");
    page.say(&seeds.iter().map(link).collect::<Vec<_>>().join(", "));
    Ok(page.finish())
}
