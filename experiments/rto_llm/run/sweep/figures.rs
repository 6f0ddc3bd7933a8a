//! What is said of a sweep in figures and on the page, from the CSV files alone.

use std::path::Path;

use anyhow::Result;
use rto_harness::comparison::figures::Words;
use rto_harness::comparison::{ENVELOPE, LAMBDA_ONE, REPORT};
use rto_harness::methods::find;
use rto_harness::table::Table;

use super::plan::{Point, shown};

/// What the figures and the page of a run folder say.
pub fn words(dir: &Path) -> Result<Words> {
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
    let conclusions = Table::from_csv(&dir.join("conclusions.csv"))?;
    let of_pair = conclusions.filter("method", "rto")?;
    let stages = of_pair.filter("against", "dppo")?.distinct("variant")?;
    let changed = stages.into_iter().filter(|stage| stage != REPORT);
    Ok(Words {
        titles: worlds.into_iter().zip(settings.map(title)).collect(),
        exact,
        subtitle: format!(
            "{ground}, over {} seeds; β₁ = {}, {}objective at β₂ = {}; every method tuned on {} points and {} other seeds",
            first("report_seeds")?,
            first("beta1")?,
            // Of files the setting is a limit.
            match exact {
                true => format!("{} pairs, ", first("pairs")?),
                false => String::new(),
            },
            first("beta2")?,
            first("points")?,
            first("tuning_seeds")?
        ),
        envelope: match first("variants")?.split(' ').any(|stage| stage == ENVELOPE) {
            true => "β₂ and training time",
            false => "training time",
        },
        changes: changed
            .map(|stage| (stage.clone(), change(&stage)))
            .collect(),
        of_changes: "Where one of the two has the changed settings as tuned, it stands as reported.",
        command: "rto_llm sweep config.toml",
    })
}

/// What a variant is called in a figure.
fn change(stage: &str) -> String {
    // `rto_point`: both at the point that RTO had chosen.
    let whose = stage.strip_suffix("_point").and_then(find);
    match (stage, whose) {
        (LAMBDA_ONE, _) => "λ = 1, both".into(),
        (_, Some(method)) => format!("{}'s point, both", method.label),
        (other, None) => other.replace('_', " "),
    }
}

/// `disagreement=0.5 density=1.0` for people; nothing of the only world.
fn title(settings: String) -> String {
    if settings == shown(&Point::new()) {
        return String::new();
    }
    let said = settings.replace('=', " = ");
    let words = said
        .split(' ')
        .map(|word| word.strip_suffix(".0").unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}
