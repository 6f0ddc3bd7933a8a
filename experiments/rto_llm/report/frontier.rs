//! Reward against KL: what each method paid for what it got. As a table first, so that the figure can be drawn again from it.

use super::charts::{KL, TRUE_REWARD, thinned};
use super::load::{Run, Stage};
use anyhow::{Result, bail};
use rto_harness::html::Page;
use rto_harness::plot::{Axis, Figure, Kind, Series, SeriesStyle};
use rto_harness::table::Table;
use std::path::Path;

/// The table's file, and the figure's without its ending.
pub const NAME: &str = "frontier";
/// Of the way through the frontier, where single batches are mostly noise.
const WAY: usize = 16;
const MEAN: &str = "mean";

/// An empty table: `kind` is `mean` (held-out prompts, with an interval of the reward) or `way` (a batch during training).
pub fn empty() -> Table {
    Table::new(
        NAME,
        &[
            "kind", "method", "kl", "reward", "low", "high", "measure", "caption",
        ],
    )
}

/// A row of [`empty`].
pub struct Row<'a> {
    pub kind: &'a str,
    pub method: &'a str,
    pub kl: f64,
    pub reward: [f64; 3],
    pub measure: &'a str,
    pub caption: &'a str,
}

impl Row<'_> {
    pub fn push(&self, table: &mut Table) {
        let [reward, low, high] = self.reward.map(Into::into);
        table.push([
            self.kind.into(),
            self.method.into(),
            self.kl.into(),
            reward,
            low,
            high,
            self.measure.into(),
            self.caption.into(),
        ]);
    }
}

/// Of a run; no row where nothing is known.
fn table(run: &Run) -> Table {
    let mut table = empty();
    let caption = "Markers are held-out means with 95% intervals by prompt; lines are the way there during training: means of batches on training prompts, at its temperature and with its estimate of the KL, so that they need not end at the markers.";
    let mut push = |kind, method: &str, kl, reward| {
        let measure = run.reward_name();
        Row {
            kind,
            method,
            kl,
            reward,
            measure,
            caption,
        }
        .push(&mut table);
    };
    for stage in run.stages.iter().flatten() {
        for (kl, reward) in way(stage) {
            push("way", &stage.name, kl, [reward; 3]);
        }
    }
    let methods = run.evaluation.iter().flat_map(|e| &e.win_rates.methods);
    for method in methods {
        if let Some(kl) = method.kl {
            let e = method.score;
            push(MEAN, &method.name, kl.value, [e.value, e.low, e.high]);
        }
    }
    table
}

/// Reward against KL during training.
fn way(stage: &Stage) -> Vec<(f64, f64)> {
    let (Some(kl), Some(reward)) = (stage.series.get(KL), stage.get(&TRUE_REWARD)) else {
        return Vec::new();
    };
    // A step may lack one of the two.
    let at = |step: f64| Some(reward.iter().find(|r| r.0 == step)?.1);
    let path = kl.iter().filter_map(|k| Some((k.1, at(k.0)?)));
    thinned(&path.collect::<Vec<_>>(), WAY)
}

/// What a table of [`empty`]'s form shows.
pub fn figure(table: &Table) -> Result<Figure> {
    let (kinds, methods) = (table.texts("kind")?, table.texts("method")?);
    let numbers = ["kl", "reward", "low", "high"].map(|name| table.floats(name));
    let [kl, reward, low, high] = numbers;
    let (kl, reward, low, high) = (kl?, reward?, low?, high?);
    let texts = |name: &str| Ok::<_, anyhow::Error>(table.texts(name)?.into_iter().next());
    let rows = |kind: &str, method: &str| -> Vec<usize> {
        let fits = |i: &usize| (kinds[*i] == kind) && methods[*i] == method;
        (0..table.len()).filter(fits).collect()
    };
    let measure = texts("measure")?.unwrap_or_else(|| "reward".into());
    let mut figure = Figure::new(
        "What each method pays in KL for its reward",
        Axis::linear("KL to the reference per response (nats)"),
        Axis::linear(&format!("{measure} per response")),
    );
    figure.caption = texts("caption")?;
    figure.size = (800, 460);
    let all = table.distinct("method")?;
    let evaluated = all.iter().filter(|m| !rows(MEAN, m).is_empty());
    let names: Vec<&String> = evaluated.collect();
    for method in &all {
        let points: Vec<_> = rows("way", method)
            .iter()
            .map(|&i| (kl[i], reward[i]))
            .collect();
        let color = names.iter().position(|n| *n == method).unwrap_or(0);
        if !points.is_empty() {
            let look = SeriesStyle::nth(color).kind(Kind::Line);
            figure = figure.with(Series::new("", points, look));
        }
    }
    for (color, method) in names.into_iter().enumerate() {
        let of = rows(MEAN, method);
        let look = SeriesStyle::nth(color).kind(Kind::ErrorBars);
        let points = of.iter().map(|&i| (kl[i], reward[i])).collect();
        let bars = of.iter().map(|&i| (low[i], high[i])).collect();
        figure = figure.with(Series::new(method, points, look).band(bars));
    }
    Ok(figure)
}

/// The section of the page.
pub fn section(page: &mut Page, run: &Run) -> Result<()> {
    page.section("frontier", "Reward against KL");
    if let Err(absent) = &run.evaluation {
        page.absent(&absent.why, absent.damaged);
        return Ok(());
    }
    let figure = figure(&table(run))?;
    if figure.series.is_empty() {
        page.say("<span class=\"absent\">evaluation.csv gives no KL.</span>");
        return Ok(());
    }
    page.figure(&figure)
}

/// Writes table and figure of a run into its folder.
pub fn save(folder: &Path) -> Result<()> {
    write(folder, &table(&Run::load(folder)))
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
