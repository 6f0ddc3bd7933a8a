//! Reward against KL: what each method paid for what it got. As a table first, so that the figure can be drawn again from it.

use super::charts::{TRUE_REWARD, thinned};
use super::finding;
use super::load::{Curves, KL, Results};
use anyhow::{Result, bail};
use rto_harness::html::Page;
use rto_harness::methods::{curves, label};
use rto_harness::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use rto_harness::table::Table;
use std::path::Path;

/// The table's file, and the figure's without its ending.
pub const NAME: &str = "frontier";
/// The number of points on a method's way through the frontier: single batches are mostly noise.
const WAY: usize = 16;
/// Rows of held-out prompts, with an interval of the reward.
const MEAN: &str = "mean";
/// Rows of batches during training.
const WAY_KIND: &str = "way";
/// Rows of policies on the part of the world that can be enumerated.
const CORNER: &str = "corner";
/// Rows of the best policies there, one for each β.
const OPTIMUM: &str = "optimum";

/// Rows of what needs no training of PPO there, a kind a curve: which baselines lie on it, its name and its look.
const UNTRAINED: [(&str, &[&str], &str, Kind, usize); 3] = [
    (
        "sharpened",
        &["sft", "sharpened", "greedy"],
        "SFT sharpened",
        Kind::Dotted,
        7,
    ),
    (
        "best_of_dpo",
        &["sft", "best_of_dpo"],
        "best-of-n, DPO reward",
        Kind::DashDot,
        7,
    ),
    (
        "best_of_reward_model",
        &["sft", "best_of_reward_model"],
        "best-of-n, reward model",
        Kind::DashDot,
        9,
    ),
];

/// An empty table. `title` and `caption` are those of the figure, in every row.
pub fn empty() -> Table {
    Table::new(
        NAME,
        &[
            "kind", "method", "kl", "reward", "low", "high", "measure", "caption", "title",
        ],
    )
}

/// The table of a figure being filled.
pub struct Filler<'a> {
    pub table: Table,
    pub measure: &'a str,
    pub caption: &'a str,
    pub title: &'a str,
}

impl Filler<'_> {
    fn push(&mut self, kind: &str, method: &str, kl: f64, reward: [f64; 3]) {
        let [reward, low, high] = reward.map(Into::into);
        self.table.push([
            kind.into(),
            method.into(),
            kl.into(),
            reward,
            low,
            high,
            self.measure.into(),
            self.caption.into(),
            self.title.into(),
        ]);
    }

    /// A method on held-out prompts, its reward with its interval.
    pub fn mean(&mut self, method: &str, kl: f64, reward: [f64; 3]) {
        self.push(MEAN, method, kl, reward);
    }

    /// A policy on the corner that can be enumerated, its reward with its interval, if it has one.
    pub fn corner(&mut self, method: &str, kl: f64, reward: [f64; 3]) {
        self.push(CORNER, method, kl, reward);
    }

    /// What needs no training of PPO there: baselines with their KL and reward.
    pub fn untrained(&mut self, baselines: &[(&str, f64, f64)]) {
        for (kind, policies, ..) in UNTRAINED {
            let on = baselines.iter().filter(|b| policies.contains(&b.0));
            let mut points: Vec<(f64, f64)> = on.map(|b| (b.1, b.2)).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (kl, reward) in points {
                self.push(kind, kind, kl, [reward; 3]);
            }
        }
    }

    /// The best reward there at a KL.
    pub fn optimum(&mut self, kl: f64, reward: f64) {
        self.push(OPTIMUM, OPTIMUM, kl, [reward; 3]);
    }
}

/// The table of a run; no row where nothing is known.
fn table(run: &Results) -> Table {
    let methods = run.evaluation.iter().flat_map(|e| &e.win_rates.methods);
    let means: Vec<finding::Mean<'_>> = methods
        .filter_map(|m| {
            let reward = m.score;
            Some(finding::Mean {
                name: &m.name,
                kl: m.kl?.value,
                reward: [reward.value, reward.low, reward.high],
            })
        })
        .collect();
    let mut caption = "Markers are held-out means with 95% intervals by prompt; lines are the way there during training: means of batches on training prompts, at its temperature and with its estimate of the KL, so that they need not end at the markers.".to_string();
    let known = run.exact_frontier.is_ok();
    if known {
        caption += CORNER_CAPTION;
    }
    let title = match run.too_small() {
        Some(_) => finding::NO_FINDING.to_string(),
        None => finding::title(&means),
    };
    let mut filler = Filler {
        table: empty(),
        measure: run.reward_name(),
        caption: &caption,
        title: &title,
    };
    for stage in run.stages.iter().flatten() {
        for (kl, reward) in way(stage) {
            filler.push(WAY_KIND, &stage.name, kl, [reward; 3]);
        }
    }
    for m in means {
        filler.mean(m.name, m.kl, m.reward);
    }
    for (kl, reward) in run.exact_frontier.iter().flatten() {
        filler.optimum(*kl, *reward);
    }
    let baselines = run.exact_baselines.iter().flatten();
    let baselines: Vec<(&str, f64, f64)> = baselines
        .map(|b| (b.policy.as_str(), b.numbers[1], b.numbers[2]))
        .collect();
    filler.untrained(&baselines);
    for e in run.exact.iter().flatten().filter(|_| known) {
        if let (Some(reward), true) = (e.reward, e.method != OPTIMUM) {
            filler.corner(&e.method, e.numbers[2], [reward; 3]);
        }
    }
    filler.table
}

/// What the right half of the figure is.
pub const CORNER_CAPTION: &str = " Right: the corner of the world that can be enumerated, without sampling; no policy lies above the dashed line, the largest reward at each KL to the SFT policy. The other lines need no training of PPO: SFT at lower temperatures down to greedy decoding, and the best of 2 to 16 of its replies.";

/// Reward against KL during training.
fn way(stage: &Curves) -> Vec<(f64, f64)> {
    let (Some(kl), Some(reward)) = (stage.series.get(KL), stage.get(&TRUE_REWARD)) else {
        return Vec::new();
    };
    // A step may lack one of the two.
    let at = |step: f64| Some(reward.iter().find(|r| r.0 == step)?.1);
    let path = kl.iter().filter_map(|k| Some((k.1, at(k.0)?)));
    thinned(&path.collect::<Vec<_>>(), WAY)
}

/// The columns of a table of [`empty`]'s form, x already the root of the KL.
struct Columns {
    kinds: Vec<String>,
    methods: Vec<String>,
    points: Vec<(f64, f64)>,
    ends: Vec<(f64, f64)>,
}

impl Columns {
    fn read(table: &Table) -> Result<Self> {
        let (kl, reward) = (table.floats("kl")?, table.floats("reward")?);
        let (low, high) = (table.floats("low")?, table.floats("high")?);
        // An estimate below zero is noise about a number that is not.
        let root = |kl: f64| if kl < 0.0 { 0.0 } else { kl.sqrt() };
        Ok(Self {
            kinds: table.texts("kind")?,
            methods: table.texts("method")?,
            points: kl.into_iter().map(root).zip(reward).collect(),
            ends: low.into_iter().zip(high).collect(),
        })
    }

    fn rows(&self, kind: &str, method: &str) -> Vec<usize> {
        let fits = |i: &usize| self.kinds[*i] == kind && self.methods[*i] == method;
        (0..self.kinds.len()).filter(fits).collect()
    }

    fn points(&self, rows: &[usize]) -> Vec<(f64, f64)> {
        rows.iter().map(|&i| self.points[i]).collect()
    }

    /// Methods of a kind of row, as markers with their names.
    fn markers(&self, kind: &str, looks: &[(&str, SeriesStyle)]) -> Vec<Series> {
        let one = |(name, look): &(&str, SeriesStyle)| {
            let rows = self.rows(kind, name);
            let bars = rows.iter().map(|&i| self.ends[i]).collect();
            let look = look.kind(Kind::ErrorBars);
            let series = Series::new("", self.points(&rows), look).band(bars);
            (!rows.is_empty()).then(|| series.tag(label(name)))
        };
        looks.iter().filter_map(one).collect()
    }
}

const ROOT_KL: &str = "√KL to the reference (√nats per response)";

/// What a table of [`empty`]'s form shows.
pub fn figure(table: &Table) -> Result<Panels> {
    let columns = Columns::read(table)?;
    let first = |name: &str| Ok::<_, anyhow::Error>(table.texts(name)?.into_iter().next());
    let measure = first("measure")?.unwrap_or_else(|| "reward".into());
    let all = table.distinct("method")?;
    let untrained = |name: &str| UNTRAINED.iter().any(|u| u.0 == name);
    let trained = all.iter().map(String::as_str);
    let looks = curves(trained.filter(|m| *m != OPTIMUM && !untrained(m)));
    let axes = |title: &str| {
        Figure::new(
            title,
            Axis::linear(ROOT_KL),
            Axis::linear(&format!("{measure} per response")),
        )
    };
    let optimum = columns.points(&columns.rows(OPTIMUM, OPTIMUM));
    let corner = columns.markers(CORNER, &looks);
    let means = columns.markers(MEAN, &looks);
    let mut figures = Vec::new();
    if !means.is_empty() {
        let mut figure = axes(match corner.is_empty() {
            true => "",
            false => "held-out prompts",
        });
        for (name, look) in &looks {
            let points = columns.points(&columns.rows(WAY_KIND, name));
            if !points.is_empty() {
                let look = look.kind(Kind::Line);
                figure = figure.with(Series::new("", points, look));
            }
        }
        figure.series.extend(means);
        figures.push(figure);
    }
    if !corner.is_empty() {
        let mut figure = axes("the corner that can be enumerated, exactly");
        let points = corner.iter().flat_map(|s| &s.points);
        let reach = 1.15 * points.map(|p| p.0).fold(0.0, f64::max);
        let line: Vec<(f64, f64)> = optimum.into_iter().filter(|p| p.0 <= reach).collect();
        let look = SeriesStyle::new(Kind::Dashed, 7, Marker::Circle);
        figure = figure.with(Series::new("", line, look).tag("exact optimum"));
        for (kind, _, name, line, colour) in UNTRAINED {
            let points = columns.points(&columns.rows(kind, kind));
            let points: Vec<(f64, f64)> = points.into_iter().filter(|p| p.0 <= reach).collect();
            if !points.is_empty() {
                let look = SeriesStyle::new(line, colour, Marker::Circle);
                figure = figure.with(Series::new(name, points, look));
            }
        }
        figure.series.extend(corner);
        figures.push(figure);
    }
    let title = first("title")?.unwrap_or_else(|| finding::NO_FINDING.into());
    let columns = figures.len().max(1);
    let mut panels = Panels::new(&title, columns, figures);
    panels.caption = first("caption")?;
    panels.panel_size = if columns == 1 { (800, 420) } else { (500, 420) };
    Ok(panels)
}

/// The section of the page.
pub fn section(page: &mut Page, run: &Results) -> Result<()> {
    page.section("frontier", "Reward against KL");
    if let Err(absent) = &run.evaluation {
        page.absent(&absent.why, absent.damaged);
        return Ok(());
    }
    let figure = figure(&table(run))?;
    if figure.figures.is_empty() {
        page.say("<span class=\"absent\">evaluation.csv gives no KL.</span>");
        return Ok(());
    }
    page.panels(&figure)
}

/// Writes table and figure of a run into its folder.
pub fn save(folder: &Path) -> Result<()> {
    write(folder, &table(&Results::load(folder)))
}

/// Writes a table and what it shows into a folder.
pub fn write(folder: &Path, table: &Table) -> Result<()> {
    let path = folder.join(NAME).with_extension("csv");
    rto_bridge::checkpoint::atomic::replace_file(&path, table.to_csv().as_bytes())?;
    figure(table)?.save(folder, NAME)
}

/// Draws the figure of a folder again.
pub fn redraw(folder: &Path) -> Result<()> {
    let path = folder.join(NAME).with_extension("csv");
    if !path.is_file() {
        bail!("--redraw {}: holds no {NAME}.csv", folder.display());
    }
    figure(&Table::from_csv(&path)?)?.save(folder, NAME)
}
