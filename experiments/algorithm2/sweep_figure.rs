//! The figure of the sweeps.

use anyhow::Result;
use rto_harness::methods::{label, method};
use rto_harness::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use rto_harness::table::Table;
use std::path::Path;

use crate::figures::{DPPO, Setting};

const SWEEPS: [(&str, &str, bool); 5] = [
    ("N", "N (responses per iteration)", true),
    ("H", "H (tokens in a response)", false),
    ("A", "A (vocabulary)", false),
    ("beta2", "β₂ (coefficient of the KL term)", true),
    ("pairs", "|D| (preference pairs)", true),
];

pub fn sweeps(dir: &Path, setting: &Setting) -> Result<()> {
    let ratios = Table::from_csv(&dir.join("sweep_ratios.csv"))?;
    let table = Table::from_csv(&dir.join("sweeps.csv"))?;
    let own = setting.text("lambda")?;
    let looks = [
        (
            "rto_leaning",
            "RTO / DPPO, λ = 0.5".to_string(),
            method("rto").style(Kind::DashedMarkers),
        ),
        (
            "rto",
            format!("RTO / DPPO, λ = {own}"),
            method("rto").style(Kind::LineMarkers),
        ),
        (
            "rloo",
            format!("RLOO / DPPO, λ = {own}"),
            method("rloo").style(Kind::LineMarkers),
        ),
        (
            "ppo_true_reward",
            format!("PPO / DPPO, λ = {own}, for the true reward"),
            method("ppo").style(Kind::LineMarkers),
        ),
    ];
    let axis = |label: &str, log: bool| match log {
        true => Axis::log10(label),
        false => Axis::linear(label),
    };
    let mut figures = Vec::new();
    for (sweep, label, log) in SWEEPS {
        let rows = ratios.filter("sweep", sweep)?;
        let x = label.split(' ').next().unwrap_or(label);
        let mut figure = Figure::new(
            &format!("against {x}"),
            axis(label, log),
            Axis::log10("SubOpt over the run, ratio"),
        );
        for (name, label, style) in &looks {
            let rows = rows.filter("comparison", name)?;
            let ends = rows.points("mean_ratio_low", "mean_ratio_high")?;
            figure = figure
                .with(Series::new(label, rows.points("value", "mean_ratio")?, *style).band(ends));
        }
        let xs = rows.floats("value")?;
        let one = xs.iter().map(|x| (*x, 1.0)).collect();
        let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
        figures.push(figure.with(Series::new("equal", one, style)));
    }
    figures.push(against_data(&table, &own)?);
    let leaning = ratios
        .filter("sweep", "H")?
        .filter("comparison", "rto_leaning")?;
    let leaning = leaning.points("mean_ratio", "mean_ratio_high")?;
    let falls = leaning.windows(2).all(|w| w[1].0 < w[0].0);
    let title = match falls && leaning.last().is_some_and(|last| last.1 < 1.0) {
        true => {
            "Dense reward wins where credit has far to travel: long responses, and GAE that leans on an untrained critic"
        }
        false => "RTO, RLOO and PPO against DPPO, one setting changed at a time",
    };
    let mut panels = Panels::new(
        title,
        3,
        figures,
    )
    .subtitle(&format!(
        "random instances, A = {}, H = {}, N = {}, |D| = {}, β₂ = {} where not swept; critic rate {}",
        setting.text("sweep_actions")?,
        setting.text("sweep_horizon")?,
        setting.text("sweep_responses")?,
        setting.text("sweep_pairs")?,
        setting.text("beta2")?,
        setting.text("critic_learning_rate")?
    ))
    .caption(&format!(
        "Ratios of SubOpt averaged over {} iterations; geometric means and 95% intervals of {} instances with data of their own, paired. Below 1: better than DPPO. PPO has a reward of its own, so it and DPPO are compared by SubOpt for the true reward at β₂. {DPPO}",
        setting.text("sweep_iterations")?,
        setting.text("sweep_replicates")?
    ));
    panels.panel_size = (440, 360);
    panels.save(dir, "sweeps")
}

/// SubOpt for the true reward against the number of pairs.
fn against_data(table: &Table, own: &str) -> Result<Figure> {
    let rows = table.filter("sweep", "pairs")?;
    let mut data = Figure::new(
        "true reward against |D|",
        Axis::log10("|D| (preference pairs)"),
        Axis::log10("SubOpt at β₂, at the end"),
    );
    for name in ["sft", "dpo", "rto", "dppo", "rloo", "ppo"] {
        let (column, kind) = match name {
            "sft" => ("reference", Kind::Dotted),
            "dpo" => ("dpo", Kind::DashDot),
            _ => (name, Kind::LineMarkers),
        };
        let mut rows = rows.filter("method", column)?;
        if kind == Kind::LineMarkers {
            rows = rows.filter("lambda", own)?;
        }
        let ends = rows.points("matched_gap_low", "matched_gap_high")?;
        let points = rows.points("value", "matched_gap")?;
        let series = Series::new(label(name), points, method(name).style(kind));
        data = data.with(series.band(ends));
    }
    Ok(data)
}
