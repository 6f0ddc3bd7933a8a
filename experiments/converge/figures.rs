//! The figure, from the CSV file alone.

use anyhow::Result;
use rto_harness::plot::{Axis, Figure, LegendPlace, Panels, Series, SeriesStyle};
use rto_harness::stats::Sample;
use rto_harness::table::Table;
use std::path::Path;

use crate::learners::{CLASSES, Loss};

/// Differences below this are rounding of `f32` weights; a log axis ends somewhere.
const FLOOR: f64 = 1e-9;

fn label(loss: &str) -> &'static str {
    match loss {
        "dpo" => "DPO",
        "rdpo" => "R-DPO",
        "ipo" => "IPO",
        "simpo" => "SimPO, γ = ½",
        "chi_po" => "χPO",
        "rpo" => "RPO, η = 0.1",
        _ => "TDPO-1",
    }
}

/// What the figure shows, with the losses whose training in the transformer has not arrived by the last step.
fn finding(table: &Table) -> Result<String> {
    const ARRIVED: f64 = 1e-3;
    let network = table.filter("class", "network")?;
    let mut short = Vec::new();
    for loss in Loss::all(1.0) {
        let rows = network.filter("loss", loss.name)?;
        let steps = rows.distinct("steps")?;
        if let Some(last) = steps.last() {
            let gaps = Sample(rows.filter("steps", last)?.floats("gap")?);
            if gaps.quantile(0.5) > ARRIVED {
                short.push(label(loss.name).split(',').next().unwrap_or_default());
            }
        }
    }
    Ok(match (short.len(), Loss::all(1.0).len()) {
        (0, _) => {
            "Training ends at the exact minimiser of its loss: what is left shrinks with steps"
                .into()
        }
        (n, all) if n < all => format!(
            "Training ends at the exact minimiser of its loss; in the transformer {} has not arrived yet",
            short.join(", ")
        ),
        _ => "What training leaves to the exact minimiser of its loss, by steps".into(),
    })
}

/// The gap of SubOpt against steps, a panel for each class of policies.
pub fn draw(table: &Table, dir: &Path) -> Result<()> {
    let mut figures = Vec::new();
    for class in CLASSES {
        let rows = table.filter("class", class)?;
        let title = match class {
            "table" => "table",
            "head" => "head of the network: log-linear",
            _ => "all weights of the transformer",
        };
        let mut figure = Figure::new(
            title,
            Axis::log10("steps"),
            Axis::log10("|SubOpt − SubOpt of the exact minimiser|"),
        );
        for (i, loss) in Loss::all(1.0).iter().enumerate() {
            let rows = rows.filter("loss", loss.name)?;
            let (mut points, mut band) = (Vec::new(), Vec::new());
            for steps in rows.distinct("steps")? {
                let gaps = rows.filter("steps", &steps)?.floats("gap")?;
                let gaps = Sample(gaps.into_iter().map(|g| g.max(FLOOR)).collect());
                points.push((steps.parse::<f64>()?, gaps.quantile(0.5)));
                band.push((gaps.quantile(0.0), gaps.quantile(1.0)));
            }
            figure =
                figure.with(Series::new(label(loss.name), points, SeriesStyle::nth(i)).band(band));
        }
        figures.push(figure.legend(LegendPlace::Below));
    }
    let worlds = table.distinct("world")?.len();
    let mut panels = Panels::new(
        &finding(table)?,
        3,
        figures,
    )
    .subtitle("two prompts of seven responses each; every point is a training of its own, with a learning rate that falls to 0")
    .caption(&format!(
        "Medians over {worlds} networks, bands from the least to the largest. Networks train in f32; differences below {FLOOR:.0e} are drawn there."
    ));
    panels.panel_size = (400, 360);
    panels.save(dir, "converge")
}
