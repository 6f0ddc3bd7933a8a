//! Figures of length, from `lengths.csv` and `laws.csv` alone.

use std::path::Path;

use anyhow::Result;

use crate::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use crate::table::Table;

/// The figures of length by their names.
///
/// # Errors
/// A table that is missing.
pub fn all(dir: &Path) -> Result<Vec<(&'static str, Panels)>> {
    let lengths = Table::from_csv(&dir.join("lengths.csv"))?;
    let laws = Table::from_csv(&dir.join("laws.csv"))?;
    Ok(vec![
        ("length", ratios(&lengths, &laws)?),
        ("length_laws", slopes(&laws)?),
    ])
}

/// What a placement of the reward is called in a title.
fn place(name: &str) -> &str {
    match name {
        "early" => "reward early",
        "late" => "reward late",
        "spread" => "reward on every token",
        "rare" => "reward on one rare token",
        other => other,
    }
}

/// What a critic is called.
pub fn critic(name: &str) -> &str {
    match name {
        "zero" => "critic from zero",
        "reward_model" => "critic from the reward model",
        "values" => "critic from values of SFT",
        "state" => "critic of the state alone",
        other => other,
    }
}

const MARKERS: [Marker; 5] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::TriangleDown,
];

/// DPPO : RTO against H, a panel for each critic and placement, a colour for each λ.
fn ratios(lengths: &Table, laws: &Table) -> Result<Panels> {
    let placements = lengths.distinct("placement")?;
    let mut measured = lengths.floats("horizon")?;
    measured.sort_by(f64::total_cmp);
    measured.dedup();
    let held_out = (laws.floats("held_out")?.into_iter()).find(|h| h.is_finite());
    let mut figures = Vec::new();
    // From values both methods are one run, and there is nothing to see.
    let critics = lengths.distinct("critic")?.into_iter();
    for name in critics.filter(|c| c != "values") {
        for placement in &placements {
            let here = |t: &Table| t.filter("critic", &name)?.filter("placement", placement);
            let (rows, laws) = (here(lengths)?, here(laws)?);
            let mut figure = Figure::new(
                &format!("{}, {}", place(placement), critic(&name)),
                Axis::log10("H, tokens of a reply").ticks(measured.clone()),
                Axis::log10("samples, DPPO / RTO").range(LOW, HIGH),
            );
            if let Some(h) = held_out {
                // A shade without a line: its points have no place.
                let sides = [h / 1.25, h * 1.25].map(|h| (h, f64::NAN));
                let style = SeriesStyle::new(Kind::Markers, 7, Marker::Circle);
                let shade = Series::new("", sides.to_vec(), style);
                figure = figure.with(shade.band(vec![(LOW, HIGH); 2]));
            }
            let lambdas = rows.distinct("lambda")?;
            let mut ends = (f64::INFINITY, 0.0f64);
            for (k, lambda) in lambdas.iter().enumerate() {
                let rows = rows.filter("lambda", lambda)?;
                let law = laws.filter("lambda", lambda)?;
                // Side by side around their length.
                let aside = 1.05f64.powf(k as f64 - 0.5 * (lambdas.len() as f64 - 1.0));
                let points = rows.points("horizon", "ratio")?;
                let (first, last) = (points[0].0, points[points.len() - 1].0);
                ends = (ends.0.min(first), ends.1.max(last));
                let missed = [rows.floats("missed")?, rows.floats("missed_against")?];
                let bars = rows.points("low", "high")?;
                for cut in [false, true] {
                    let of = |i: &usize| missed.iter().any(|m| m[*i] > 0.0) == cut;
                    let these: Vec<usize> = (0..points.len()).filter(of).collect();
                    let at = |i: &usize| (points[*i].0 * aside, points[*i].1);
                    let (name, marker) = match cut {
                        false => (format!("λ = {lambda}"), MARKERS[k % 5]),
                        true => (String::new(), MARKERS[k % 5].open()),
                    };
                    let style = SeriesStyle::new(Kind::ErrorBars, COLORS[k % 5], marker);
                    let series = Series::new(&name, these.iter().map(at).collect(), style);
                    figure = figure.with(series.band(these.iter().map(|i| bars[*i]).collect()));
                }
                let at = |column: &str| -> Result<f64> { Ok(law.floats(column)?[0]) };
                let (a, b) = (at("a")?, at("b")?);
                let line = [first, last].map(|h| (h, (a + b * h.ln()).exp()));
                let style = SeriesStyle::new(Kind::Line, COLORS[k % 5], MARKERS[k % 5]);
                figure = figure.with(Series::new("", line.to_vec(), style));
            }
            let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
            let equal = vec![(ends.0, 1.0), (ends.1, 1.0)];
            figures.push(figure.with(Series::new("equal", equal, style)));
        }
    }
    let held_out = held_out.map_or(String::new(), |h| {
        format!(", fitted without H = {h}, which is shaded")
    });
    let mut panels = Panels::new("Samples to half of the optimum's lead over SFT, DPPO to RTO, against the length of a reply", placements.len(), figures)
        .subtitle("grammars whose states merge, drawn afresh for each seed, length and placement; a reply's reward has the same variance under SFT at every length")
        .caption(&format!("Means and 95% t-intervals over seeds, paired, on the log scale; above 1 RTO needs fewer. Lines: log ratio = a + b log H{held_out}. Points of one length are shifted sideways so as not to cover each other; the lengths are those of the ticks. Hollow: a run of either method does not reach the level and counts as its whole length, so that the ratio is a bound from below where DPPO's are cut, from above where RTO's are, and says nothing where both are; lengths.csv counts them. With a critic fitted to values of SFT the two methods are one run, and the ratio is 1."));
    panels.panel_size = (400, 300);
    Ok(panels)
}

/// Ends of the axis of ratios.
const LOW: f64 = 0.1;
const HIGH: f64 = 400.0;

const COLORS: [usize; 5] = [3, 1, 5, 0, 2];

/// b against λ, a panel for each placement, a colour for each critic.
fn slopes(laws: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    // One scale for all panels, with a margin.
    let critics = laws.texts("critic")?.into_iter();
    let ends = laws.points("b_low", "b_high")?.into_iter().zip(critics);
    let (low, high) = ends
        .filter(|(_, critic)| critic != "values")
        .fold((0.0f64, 0.0f64), |(low, high), (e, _)| {
            (low.min(e.0), high.max(e.1))
        });
    let margin = 0.04 * (high - low);
    for placement in laws.distinct("placement")? {
        let rows = laws.filter("placement", &placement)?;
        let lambdas = rows.distinct("lambda")?;
        let names: Vec<&str> = lambdas.iter().map(String::as_str).collect();
        let mut figure = Figure::new(
            place(&placement),
            Axis::category("λ", &names),
            Axis::linear("b of log ratio = a + b log H").range(low - margin, high + margin),
        );
        let critics = rows.distinct("critic")?.into_iter();
        let critics: Vec<String> = critics.filter(|c| c != "values").collect();
        for (k, name) in critics.iter().enumerate() {
            let rows = rows.filter("critic", name)?;
            let aside = 0.14 * (k as f64 - 0.5 * (critics.len() as f64 - 1.0));
            let slopes = rows.floats("b")?.into_iter().enumerate();
            let points = slopes.map(|(i, b)| (i as f64 + aside, b)).collect();
            let style = SeriesStyle::new(Kind::ErrorBars, [2, 0, 3][k % 3], MARKERS[k % 5]);
            let bars = rows.points("b_low", "b_high")?;
            figure = figure.with(Series::new(critic(name), points, style).band(bars));
        }
        let ends = vec![(-0.45, 0.0), (lambdas.len() as f64 - 0.55, 0.0)];
        let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
        figures.push(figure.with(Series::new("no growth", ends, style)));
    }
    let mut panels = Panels::new("How fast the ratio DPPO : RTO grows with the length of a reply", 2, figures)
        .subtitle("b = 1: the ratio doubles with the length; 0: it does not change")
        .caption("Least squares of each seed without the length that is held out; means and 95% t-intervals over seeds. Cut runs make a ratio a bound: where DPPO is cut at every length b is not DPPO's.");
    panels.panel_size = (460, 330);
    Ok(panels)
}
