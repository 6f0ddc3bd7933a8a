//! The page that compares methods over seeds: what holds for a method, and not for one trained policy.

use super::finding::{self, number_of, over_seeds, percent, share_range};
use super::frontier::{self, CORNER_CAPTION, Filler};
use super::load::{Baseline, Results};
use super::tables::{self, Cell, heat_map};
use anyhow::Result;
use rto_bridge::win_rate::OverSeeds;
use rto_harness::html::{Page, escape, number};
use rto_harness::methods::label;
use rto_harness::stats::{Sample, Support};
use rto_harness::table::Table;
use std::path::PathBuf;

/// Row against column, `None` on the diagonal.
pub type Cells = [Vec<Option<OverSeeds>>];

/// What the page is made of.
pub struct OverSeedsPage<'a> {
    /// Methods in order.
    pub names: &'a [&'a str],
    pub cells: &'a Cells,
    /// A row a method: [`NUMBERS`].
    pub means: &'a Table,
    pub frontier: &'a Table,
    /// Seeds with the folders of their runs, as links from the page.
    pub seeds: &'a [(u64, String)],
    /// What rewards are called.
    pub measure: &'a str,
    /// Why the runs say nothing about which method is better, where that is so.
    pub too_small: Option<String>,
    /// Whether training pays by the means of exact values, where they are known: [`pays`].
    pub pays: Option<String>,
}

/// Mean, lower and upper end of what is measured, in the order of columns.
pub const NUMBERS: [&str; 9] = [
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

impl OverSeedsPage<'_> {
    /// The whole file.
    pub fn html(&self) -> Result<String> {
        let k = self.seeds.len();
        let mut page = Page::new(&format!("rto_llm over {k} seeds"));
        match &self.too_small {
            Some(few) => page.banner(&tables::small(few)),
            None => page.lead(&self.lead()?),
        }
        self.win_rates(&mut page);
        self.methods(&mut page)?;
        page.section("frontier", "Reward against KL");
        page.panels(&frontier::figure(self.frontier)?)?;
        page.section("runs", "Runs");
        let link = |(seed, folder): &(u64, String)| {
            format!("<a href=\"{}/report.html\">seed {seed}</a>", escape(folder))
        };
        let links: Vec<String> = self.seeds.iter().map(link).collect();
        page.say(&format!(
            "Each seed has a page of its own, with samples, token credits and curves: {}.",
            links.join(", ")
        ));
        Ok(page.finish())
    }

    fn lead(&self) -> Result<String> {
        let rewards = self.means.floats("reward")?;
        let k = self.seeds.len();
        let best = finding::best_over_seeds(self.names, &rewards, self.cells);
        let mut sentences =
            Vec::from_iter(self.pays.as_deref().map(escape).into_iter().chain(best));
        let index = |name: &str| self.names.iter().position(|n| *n == name);
        if let Some(rto) = index("rto") {
            let against = ["dppo", "dpo", "ppo", "sft"].iter().filter_map(|name| {
                let cell = self.cells[rto][index(name)?]?;
                Some(over_seeds("rto", name, &cell))
            });
            sentences.extend(against);
        }
        Ok(format!(
            "Over {}: {} Intervals are over seeds, at 95% each; “ahead” and “behind” mean that one excludes a half.",
            number_of(k, "seed"),
            sentences.join(" ")
        ))
    }

    fn win_rates(&self, page: &mut Page) {
        page.section("win-rates", "Win rates (Table 1)");
        page.say("How often the row's answer has a higher reward than the column's, in percent; ties count half. Means over seeds with 95% intervals over seeds (Student's, on the log-odds), which hold for the methods and not for single trained policies; “=” the win rate at equal length, “–” where lengths decide everything or all prompts go one way. <b>Bold</b>: the interval excludes a half, without a correction for the number of pairs.");
        let names: Vec<String> = self.names.iter().map(|n| (*n).to_string()).collect();
        tables::legend(page, &names);
        heat_map(page, &names, &|row, column| {
            let cell = self.cells[row][column]?;
            Some(Cell {
                rate: cell.rate,
                equal_length: cell.length_controlled,
                bold: finding::side(&cell.rate) != finding::Standing::Open,
                plain: self.too_small.is_some(),
            })
        });
    }

    fn methods(&self, page: &mut Page) -> Result<()> {
        page.section("methods", "Methods");
        page.say("Means over held-out prompts and seeds, with 95% intervals over seeds.");
        let columns: Vec<Vec<f64>> = NUMBERS
            .iter()
            .map(|name| self.means.floats(name))
            .collect::<Result<_>>()?;
        let shown = |i: usize, c: usize| {
            let [value, low, high] = [0, 1, 2].map(|k| number(columns[3 * c + k][i]));
            format!("<td>{value}<small>{low} to {high}</small>")
        };
        let sft = self.names.iter().position(|n| *n == "sft");
        let against_sft = |i: usize| {
            let cell = sft.and_then(|sft| self.cells[i][sft]);
            let equal =
                |c: &OverSeeds| c.length_controlled.map_or("–".into(), |e| percent(e.value));
            cell.map_or("–".into(), |c| {
                format!("<td>{}<small>= {}</small>", share_range(c.rate), equal(&c))
            })
        };
        let rows = self.names.iter().enumerate().map(|(i, name)| {
            vec![
                escape(label(name)),
                shown(i, 0),
                shown(i, 1),
                shown(i, 2),
                against_sft(i),
            ]
        });
        page.table(
            "sortable",
            &[
                "method",
                self.measure,
                "KL to the reference (nats)",
                "length (tokens)",
                "win rate against SFT",
            ],
            &rows.collect::<Vec<_>>(),
        );
        Ok(())
    }
}

/// The table of the figure: means of methods over runs, and what runs of a known world know exactly.
pub fn frontier_table(
    means: &Table,
    folders: &[PathBuf],
    measure: &str,
    too_small: bool,
) -> Result<Table> {
    let mut caption = format!(
        "Means over {} seeds and their held-out prompts; bars: Student's 95% interval of the reward over seeds.",
        folders.len()
    );
    let corner = Corner::mean(folders);
    if corner.is_some() {
        caption += CORNER_CAPTION;
    }
    let names = means.texts("method")?;
    let column = |name: &str| means.floats(name);
    let (kl, reward) = (column("kl")?, column("reward")?);
    let (low, high) = (column("reward_low")?, column("reward_high")?);
    let rows: Vec<finding::Mean<'_>> = names
        .iter()
        .enumerate()
        .map(|(i, name)| finding::Mean {
            name,
            kl: kl[i],
            reward: [reward[i], low[i], high[i]],
        })
        .collect();
    let title = match too_small {
        true => finding::NO_FINDING.to_string(),
        false => finding::title(&rows),
    };
    let mut filler = Filler {
        table: frontier::empty(),
        measure,
        caption: &caption,
        title: &title,
    };
    for row in &rows {
        filler.mean(row.name, row.kl, row.reward);
    }
    if let Some(corner) = corner {
        for (kl, reward) in corner.frontier {
            filler.optimum(kl, reward);
        }
        let baselines: Vec<(&str, f64, f64)> = corner
            .baselines
            .iter()
            .map(|b| (b.policy.as_str(), b.numbers[1], b.numbers[2]))
            .collect();
        filler.untrained(&baselines);
        for (name, kl, reward) in corner.methods {
            filler.corner(&name, kl, reward);
        }
    }
    Ok(filler.table)
}

/// What is known exactly, averaged over seeds.
struct Corner {
    frontier: Vec<(f64, f64)>,
    methods: Vec<(String, f64, [f64; 3])>,
    /// None where a run lacks them, as those of an earlier version do.
    baselines: Vec<Baseline>,
}

/// Means over runs that have the same baselines; none of runs that have others.
fn mean_baselines(runs: &[Results]) -> Vec<Baseline> {
    let all: Option<Vec<&Vec<Baseline>>> = runs
        .iter()
        .map(|r| r.exact_baselines.as_ref().ok())
        .collect();
    let Some(all) = all.filter(|all| !all.is_empty()) else {
        return Vec::new();
    };
    let mean = |(i, first): (usize, &Baseline)| {
        let same = |b: &&Baseline| b.policy == first.policy && b.parameter == first.parameter;
        let own: Option<Vec<&Baseline>> = all.iter().map(|run| run.get(i).filter(same)).collect();
        let own = own?;
        let numbers = std::array::from_fn(|k| {
            let values = own.iter().map(|b| b.numbers[k]).collect();
            Sample(values).mean()
        });
        Some(Baseline {
            policy: first.policy.clone(),
            parameter: first.parameter,
            numbers,
        })
    };
    let means: Option<Vec<Baseline>> = all[0].iter().enumerate().map(mean).collect();
    means.unwrap_or_default()
}

/// Whether training pays, by the means of exact values over runs. Plain text.
pub fn pays(folders: &[PathBuf]) -> Option<String> {
    let runs: Vec<Results> = folders.iter().map(|f| Results::load(f)).collect();
    let exact: Option<Vec<_>> = runs.iter().map(|r| r.exact.as_ref().ok()).collect();
    let exact = exact?;
    let value = |name: &str| -> Option<f64> {
        let own: Option<Vec<f64>> = exact
            .iter()
            .map(|run| run.iter().find(|e| e.method == name).map(|e| e.numbers[1]))
            .collect();
        Some(Sample(own?).mean())
    };
    let names = exact.first()?.iter().map(|e| e.method.as_str());
    let methods: Vec<(&str, f64)> = names
        .map(|name| Some((name, value(name)?)))
        .collect::<Option<_>>()?;
    let baselines: Vec<(String, f64)> = mean_baselines(&runs)
        .iter()
        .filter_map(|b| Some((finding::baseline(&b.policy, b.parameter)?, b.numbers[0])))
        .collect();
    let beta = runs.first()?.setting("exact_beta");
    finding::pays(&methods, &baselines, beta.as_deref())
}

impl Corner {
    /// `None` unless every run has it. At equal β the mean of the runs' best points is the best of the runs together, so that
    /// no mean of a method lies above it.
    fn mean(folders: &[PathBuf]) -> Option<Self> {
        let runs: Vec<Results> = folders.iter().map(|f| Results::load(f)).collect();
        let exact: Vec<_> = runs
            .iter()
            .map(|r| r.exact.as_ref().ok())
            .collect::<Option<_>>()?;
        let frontiers: Vec<_> = runs
            .iter()
            .map(|r| r.exact_frontier.as_ref().ok())
            .collect::<Option<_>>()?;
        let points = frontiers.first()?.len();
        if frontiers.iter().any(|f| f.len() != points) {
            return None;
        }
        let at = |i: usize| {
            let mean = |of: fn(&(f64, f64)) -> f64| {
                Sample(frontiers.iter().map(|f| of(&f[i])).collect()).mean()
            };
            (mean(|p| p.0), mean(|p| p.1))
        };
        let mut methods = Vec::new();
        for row in exact.first()?.iter().filter(|e| e.method != "optimum") {
            let own: Vec<_> = exact
                .iter()
                .map(|run| run.iter().find(|e| e.method == row.method))
                .collect::<Option<_>>()?;
            let rewards: Option<Vec<f64>> = own.iter().map(|e| e.reward).collect();
            let (mean, low, high) = Sample(rewards?).interval(Support::Real);
            let kl = Sample(own.iter().map(|e| e.numbers[2]).collect()).mean();
            let reward = [mean, low.unwrap_or(mean), high.unwrap_or(mean)];
            methods.push((row.method.clone(), kl, reward));
        }
        Some(Self {
            frontier: (0..points).map(at).collect(),
            methods,
            baselines: mean_baselines(&runs),
        })
    }
}
