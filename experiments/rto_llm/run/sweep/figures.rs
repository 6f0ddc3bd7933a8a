//! Figures from the CSV files alone.

use std::path::Path;

use anyhow::Result;
use rto_harness::comparison::figures::{Words, frontier, objective};
use rto_harness::table::Table;

/// Draws every figure of a run folder.
pub fn draw_all(dir: &Path) -> Result<()> {
    let setting = Table::from_csv(&dir.join("setting.csv"))?;
    let of = |column: &str| setting.texts(column);
    let (worlds, settings) = (of("instance")?, of("settings")?.into_iter());
    let first =
        |column: &str| -> Result<String> { Ok(of(column)?.into_iter().next().unwrap_or_default()) };
    let words = Words {
        titles: worlds.into_iter().zip(settings.map(title)).collect(),
        subtitle: format!(
            "dialogue world, exact on its corner, over {} seeds; β₁ = {}, {} pairs, objective at β₂ = {}; every method tuned on {} points and {} other seeds",
            first("report_seeds")?,
            first("beta1")?,
            first("pairs")?,
            first("beta2")?,
            first("points")?,
            first("tuning_seeds")?
        ),
        envelope: match first("variants")?.contains("envelope") {
            true => "β₂ and training time",
            false => "training time",
        },
    };
    objective(dir, &words)?;
    frontier(dir, &words)
}

/// `disagreement=0.5 density=1.0` for people.
fn title(settings: String) -> String {
    let said = settings.replace('=', " = ");
    let words = said
        .split(' ')
        .map(|word| word.strip_suffix(".0").unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}
