//! The figure of gradients, from `gradients.csv` alone.

use std::path::Path;

use anyhow::Result;

use super::super::REPORT;
use super::super::figures::Words;
use super::{NOT_WHITENED, SFT, STAGES, WHITENED};
use crate::methods::{label, method};
use crate::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use crate::table::Table;

/// Noise of every method along its runs, and DPPO's to RTO's with one thing changed.
///
/// # Errors
/// A table that is missing.
pub fn noise(dir: &Path, words: &Words) -> Result<Panels> {
    let table = Table::from_csv(&dir.join("gradients.csv"))?;
    let mut figures = Vec::new();
    // One scale for the ratios of all instances, with a margin.
    let ends = (table.filter("quantity", "noise_ratio")?).points("low", "high")?;
    let low = ends.iter().fold(1.0, |low: f64, e| low.min(e.0));
    let high = ends.iter().fold(1.0, |high: f64, e| high.max(e.1));
    for instance in table.distinct("instance")? {
        let here = table.filter("instance", &instance)?;
        figures.push(along(&here, words.title(&instance))?);
        figures.push(ratios(&here, (low / 1.1, high * 1.1))?);
    }
    let mut panels = Panels::new("How noisy the gradient of a method is, along its own runs and at SFT", 2, figures)
        .subtitle(&words.subtitle)
        .caption("Noise: trace of the covariance of one reply's gradient over the squared mean, exact (GRPO: from groups that are drawn); geometric means over seeds. Left, lines: methods, measured at the markers along their reported runs, 95% t-intervals for RTO and DPPO. Right, bars: DPPO's noise over RTO's, paired by seed, with 95% t-intervals; above 1 DPPO's estimate is the noisier one. After iterations each is at the policy that its own run has by then; in the columns of SFT both are at that one policy, with a critic of zero and one λ, the mean of the advantages removed as in training or left in.");
    panels.panel_size = (560, 380);
    Ok(panels)
}

fn along(here: &Table, title: &str) -> Result<Figure> {
    let rows = here.filter("quantity", "noise")?.filter("stage", REPORT)?;
    let mut figure = Figure::new(
        title,
        Axis::linear("iterations"),
        Axis::log10("noise of one reply"),
    );
    for name in rows.distinct("method")? {
        let rows = rows.filter("method", &name)?;
        let points = rows.points("iteration", "estimate")?;
        let ends = rows.points("low", "high")?;
        let look = method(&name);
        let series = Series::new(label(&name), points, look.style(look.line.marked()));
        figure = figure.with(match name.as_str() {
            "rto" | "dppo" => series.band(ends),
            _ => series,
        });
    }
    Ok(figure)
}

/// Colours that no method has: one legend serves both sides.
const OF_RATIOS: [usize; 3] = [5, 8, 9];
const OF_SFT: usize = 7;

fn ratios(here: &Table, (low, high): (f64, f64)) -> Result<Figure> {
    let rows = here.filter("quantity", "noise_ratio")?;
    let times = rows.filter("stage", REPORT)?.distinct("iteration")?;
    let lambdas = rows.filter("stage", SFT)?.distinct("lambda")?;
    let mut names: Vec<String> = times.iter().map(|t| format!("after {t}")).collect();
    names.extend(lambdas.iter().map(|l| format!("SFT, λ {l}")));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut figure = Figure::new(
        "DPPO against RTO, along their runs and at SFT",
        Axis::category("", &names),
        Axis::log10("noise of DPPO / noise of RTO").range(low, high),
    );
    let of = |name: &str,
              rows: &Table,
              column: &str,
              first: usize,
              keys: &[String],
              shift: f64,
              style|
     -> Result<Series> {
        let (mut points, mut ends) = (Vec::new(), Vec::new());
        for (i, key) in keys.iter().enumerate() {
            let row = rows.filter(column, key)?;
            let at = |column: &str| -> Result<f64> {
                Ok(row.floats(column)?.into_iter().next().unwrap_or(f64::NAN))
            };
            points.push(((first + i) as f64 + shift, at("estimate")?));
            ends.push((at("low")?, at("high")?));
        }
        Ok(Series::new(name, points, style).band(ends))
    };
    for (k, (stage, name)) in STAGES.into_iter().enumerate() {
        let marker = [Marker::Circle, Marker::Square, Marker::Triangle][k];
        let style = SeriesStyle::new(Kind::ErrorBars, OF_RATIOS[k], marker);
        let rows = rows.filter("stage", stage)?;
        let shift = 0.16 * (k as f64 - 1.0);
        figure = figure.with(of(name, &rows, "iteration", 0, &times, shift, style)?);
    }
    for (k, (whitening, name)) in [
        (WHITENED, "SFT, mean removed"),
        (NOT_WHITENED, "SFT, mean left"),
    ]
    .into_iter()
    .enumerate()
    {
        let marker = [Marker::Diamond, Marker::OpenDiamond][k];
        let style = SeriesStyle::new(Kind::ErrorBars, OF_SFT, marker);
        let rows = rows.filter("stage", SFT)?.filter("whitening", whitening)?;
        let shift = 0.16 * (k as f64 - 0.5);
        figure = figure.with(of(
            name,
            &rows,
            "lambda",
            times.len(),
            &lambdas,
            shift,
            style,
        )?);
    }
    let ends = vec![(-0.45, 1.0), (names.len() as f64 - 0.55, 1.0)];
    let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
    Ok(figure.with(Series::new("equal", ends, style)))
}
