//! What is said of the trees in figures and on the page, from the CSV files alone.

use std::path::Path;

use anyhow::Result;
use rto_harness::comparison::figures::Words;
use rto_harness::comparison::{EXACT_CRITIC, LAMBDA_ONE};
use rto_harness::table::Table;

/// What the figures and the page of a run folder say.
pub fn words(dir: &Path) -> Result<Words> {
    let setting = Table::from_csv(&dir.join("setting.csv"))?;
    let titles = setting.distinct("instance")?.into_iter();
    Ok(Words {
        titles: titles
            .map(|instance| Ok((instance.clone(), title(&setting, &instance)?)))
            .collect::<Result<_>>()?,
        subtitle: subtitle(&setting)?,
        envelope: "β₂ and training time",
        exact: true,
        changes: vec![
            (LAMBDA_ONE.into(), "λ = 1, both".into()),
            (EXACT_CRITIC.into(), "exact critic, both".into()),
        ],
        of_changes: "With the exact critic the two have the same advantages at the same learning rate and λ, and are one run; what differs there is the point that each had chosen.",
        command: "study --config config.toml",
    })
}

fn title(setting: &Table, instance: &str) -> Result<String> {
    let row = setting.filter("instance", instance)?;
    let text = |column: &str| -> Result<String> {
        Ok(row.texts(column)?.into_iter().next().unwrap_or_default())
    };
    Ok(format!(
        "{instance}: A = {}, H = {}, {} replies per iteration",
        text("actions")?,
        text("horizon")?,
        text("responses")?
    ))
}

fn subtitle(setting: &Table) -> Result<String> {
    let text = |column: &str| -> Result<String> {
        Ok(setting
            .texts(column)?
            .into_iter()
            .next()
            .unwrap_or_default())
    };
    Ok(format!(
        "random trees, one for each of {} seeds; β₁ = {}, {} pairs, objective at β₂ = {}; every method tuned on {} points and {} other seeds",
        text("report_seeds")?,
        text("beta1")?,
        text("pairs")?,
        text("beta2")?,
        text("points")?,
        text("tuning_seeds")?
    ))
}
