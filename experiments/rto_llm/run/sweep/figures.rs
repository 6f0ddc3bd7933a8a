//! Figures from the CSV files alone.

use std::path::Path;

use anyhow::Result;
use rto_harness::comparison::figures::{Words, frontier, objective, removals};
use rto_harness::comparison::{ENVELOPE, LAMBDA_ONE, REPORT};
use rto_harness::table::Table;

/// Draws every figure of a run folder.
pub fn draw_all(dir: &Path) -> Result<()> {
    let setting = Table::from_csv(&dir.join("setting.csv"))?;
    let of = |column: &str| setting.texts(column);
    let (worlds, settings) = (of("instance")?, of("settings")?.into_iter());
    let first =
        |column: &str| -> Result<String> { Ok(of(column)?.into_iter().next().unwrap_or_default()) };
    let exact = setting.distinct("data")?.iter().all(|d| d == "world");
    let ground = match exact {
        true => "dialogue world, exact on its corner",
        false => "preferences of files, judged by the oracle",
    };
    let words = Words {
        titles: worlds.into_iter().zip(settings.map(title)).collect(),
        exact,
        subtitle: format!(
            "{ground}, over {} seeds; β₁ = {}, {} pairs, objective at β₂ = {}; every method tuned on {} points and {} other seeds",
            first("report_seeds")?,
            first("beta1")?,
            first("pairs")?,
            first("beta2")?,
            first("points")?,
            first("tuning_seeds")?
        ),
        envelope: match first("variants")?.split(' ').any(|stage| stage == ENVELOPE) {
            true => "β₂ and training time",
            false => "training time",
        },
    };
    objective(dir, &words)?;
    frontier(dir, &words)?;
    let conclusions = Table::from_csv(&dir.join("conclusions.csv"))?;
    let of_pair = conclusions.filter("method", "rto")?;
    let stages = of_pair.filter("against", "dppo")?.distinct("variant")?;
    let changes: Vec<(&str, String)> = stages.iter().map(|s| (s.as_str(), change(s))).collect();
    let changes: Vec<(&str, &str)> = changes.iter().map(|(s, n)| (*s, n.as_str())).collect();
    match changes.len() {
        // Nothing was changed.
        1 => Ok(()),
        _ => removals(dir, &words, &changes, ""),
    }
}

/// What a variant is called in a figure.
fn change(stage: &str) -> String {
    match stage {
        REPORT => "as tuned".into(),
        LAMBDA_ONE => "λ = 1".into(),
        other => other.replace('_', " "),
    }
}

/// `disagreement=0.5 density=1.0` for people.
fn title(settings: String) -> String {
    let said = settings.replace('=', " = ");
    let words = said
        .split(' ')
        .map(|word| word.strip_suffix(".0").unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}
