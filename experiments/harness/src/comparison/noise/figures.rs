//! Figures of noise, from `noise_curves.csv` and `noise.csv` alone.

use std::path::Path;

use anyhow::Result;

use super::CHI_PO;
use crate::methods;
use crate::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use crate::table::Table;

/// The figures of noise by their names.
///
/// # Errors
/// A table that is missing.
pub fn all(dir: &Path) -> Result<Vec<(&'static str, Panels)>> {
    let curves = Table::from_csv(&dir.join("noise_curves.csv"))?;
    let noise = Table::from_csv(&dir.join("noise.csv"))?;
    Ok(vec![
        ("noise", along(&curves)?),
        ("noise_ends", ends(&noise)?),
    ])
}

/// What a reward is called.
pub fn label(variant: &str) -> &str {
    match variant {
        CHI_PO => "RTO, χPO's loss",
        other => methods::label(other),
    }
}

fn look(variant: &str, kind: Kind) -> SeriesStyle {
    match variant {
        CHI_PO => SeriesStyle::new(kind, 8, Marker::OpenCircle),
        other => methods::method(other).style(kind),
    }
}

/// True reward against KL along training.
fn along(curves: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    let sizes = curves.distinct("pairs")?;
    for instance in curves.distinct("instance")? {
        let here = curves.filter("instance", &instance)?;
        for pairs in &sizes {
            let here = here.filter("pairs", pairs)?;
            let mut figure = Figure::new(
                &format!("{instance} trees, {pairs} pairs"),
                Axis::linear("KL from SFT (nats per reply)"),
                Axis::linear("true reward, share"),
            );
            for variant in here.distinct("variant")? {
                let points = here.filter("variant", &variant)?.points("kl", "reward")?;
                let kind = match variant.as_str() {
                    CHI_PO => Kind::Dashed,
                    other => methods::method(other).line,
                };
                figure = figure.with(Series::new(label(&variant), points, look(&variant, kind)));
            }
            figures.push(figure);
        }
    }
    let mut panels = Panels::new("True reward along training, by the number of pairs that the reward comes from", sizes.len(), figures)
        .subtitle("the trees of ground (a), the same setting for all; every line runs from SFT to the end of training")
        .caption("Means over seeds of the true reward above SFT's as a share of the optimum's, and of KL. Where a line bends back or down, training loses true reward.");
    panels.panel_size = (330, 290);
    Ok(panels)
}

/// What is lost after the turn and what is kept at the end, against the number of pairs.
fn ends(noise: &Table) -> Result<Panels> {
    let mut figures = Vec::new();
    for instance in noise.distinct("instance")? {
        let here = noise.filter("instance", &instance)?;
        for (quantity, title, y) in [
            (
                "reward_loss",
                "true reward lost after the turn",
                "share of the optimum's lead",
            ),
            (
                "objective_loss",
                "J lost after the turn",
                "share of the optimum's lead",
            ),
            (
                "objective_end",
                "J at the end",
                "share of the optimum's lead",
            ),
        ] {
            let rows = here.filter("quantity", quantity)?;
            let mut figure = Figure::new(
                &format!("{instance} trees: {title}"),
                Axis::log10("pairs"),
                Axis::linear(y),
            );
            let variants = rows.distinct("variant")?;
            for (k, variant) in variants.iter().enumerate() {
                let rows = rows.filter("variant", variant)?;
                let aside = 1.1f64.powf(k as f64 - 0.5 * (variants.len() as f64 - 1.0));
                let points = rows.points("pairs", "estimate")?.into_iter();
                let points = points.map(|(n, v)| (n * aside, v)).collect();
                let bars = rows.points("low", "high")?;
                let series = Series::new(label(variant), points, look(variant, Kind::ErrorBars));
                figure = figure.with(series.band(bars));
            }
            let sizes = rows.floats("pairs")?;
            let least = sizes.iter().copied().fold(f64::INFINITY, f64::min);
            let most = sizes.iter().copied().fold(0.0, f64::max);
            let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
            figures.push(figure.with(Series::new("none", vec![(least, 0.0), (most, 0.0)], style)));
        }
    }
    let mut panels = Panels::new("What noise in the reward costs by the end of training", 3, figures)
        .subtitle("the trees of ground (a), the same setting for all")
        .caption("Means and 95% t-intervals over seeds, side by side around their number of pairs. Lost: from the time at which the mean of the other seeds is largest to the end.");
    panels.panel_size = (430, 320);
    Ok(panels)
}
