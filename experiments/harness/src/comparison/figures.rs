//! Figures of a comparison, from its CSV files alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::{REPORT, gradients, length, noise};
use crate::methods::{label, method};
use crate::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use crate::table::Table;

/// What figures say of a ground.
#[derive(Debug, Clone)]
pub struct Words {
    /// The title of each instance's panel.
    pub titles: BTreeMap<String, String>,
    /// Under the title of a figure.
    pub subtitle: String,
    /// What the envelopes of reward at KL are taken over.
    pub envelope: &'static str,
    /// Whether J of the optimum is known, so that shares are of its lead over SFT and not of the largest that was seen.
    pub exact: bool,
    /// Stages beside the reported one in which one thing is changed, with what they are called, in the order in which they are drawn.
    pub changes: Vec<(String, String)>,
    /// What is said of them under their figure.
    pub of_changes: &'static str,
    /// The command that made the run, for its page.
    pub command: &'static str,
}

/// Every figure by its name, from the tables in a folder.
///
/// # Errors
/// A table that is missing.
pub fn all(dir: &Path, words: &Words) -> Result<Vec<(&'static str, Panels)>> {
    let mut all = vec![
        ("objective", objective(dir, words)?),
        ("frontier", frontier(dir, words)?),
    ];
    if !words.changes.is_empty() {
        all.push(("removals", removals(dir, words)?));
    }
    // What trees alone have, and tables of longer replies.
    if dir.join("lengths.csv").is_file() {
        all.extend(length::figures::all(dir)?);
    }
    if dir.join("noise.csv").is_file() {
        all.extend(noise::figures::all(dir)?);
    }
    if dir.join("gradients.csv").is_file() {
        all.push(("gradients", gradients::figures::noise(dir, words)?));
    }
    Ok(all)
}

/// Draws them into that folder.
///
/// # Errors
/// A table that is missing, a file that cannot be written.
pub fn draw_all(dir: &Path, words: &Words) -> Result<()> {
    for (name, panels) in all(dir, words)? {
        panels.save(dir, name)?;
    }
    Ok(())
}

impl Words {
    /// What r is: known, or what an oracle says.
    pub(super) fn reward(&self) -> &'static str {
        match self.exact {
            true => "true reward",
            false => "reward by the oracle",
        }
    }

    /// An instance in a table or a legend: its title where that is short, its name elsewhere.
    pub(super) fn short<'a>(&'a self, instance: &'a str) -> &'a str {
        match self.title(instance) {
            title if (1..=24).contains(&title.chars().count()) => title,
            _ => instance,
        }
    }

    pub(super) fn title<'a>(&'a self, instance: &'a str) -> &'a str {
        self.titles.get(instance).map_or(instance, String::as_str)
    }
}

/// Share of the optimum's lead over SFT against samples.
fn objective(dir: &Path, words: &Words) -> Result<Panels> {
    let curves = Table::from_csv(&dir.join("curves.csv"))?;
    let ends = Table::from_csv(&dir.join("ends.csv"))?;
    let mut figures = Vec::new();
    for instance in curves.distinct("instance")? {
        let rows = curves.filter("instance", &instance)?;
        let share = match words.exact {
            true => "(J − J(SFT)) / (J(optimum) − J(SFT))",
            false => "(J − J(SFT)) / largest mean lead seen",
        };
        let mut figure = Figure::new(
            words.title(&instance),
            Axis::linear("replies sampled in training"),
            Axis::linear(share),
        );
        for name in rows.distinct("method")? {
            let rows = rows.filter("method", &name)?;
            let points = rows.points("samples", "share")?;
            let ends = rows.points("share_low", "share_high")?;
            let series = Series::new(label(&name), points, method(&name).curve());
            // Two bands are what the question needs; nine hide it.
            figure = figure.with(match name.as_str() {
                "rto" | "dppo" => series.band(ends),
                _ => series,
            });
        }
        let most = rows.floats("samples")?.into_iter().fold(0.0, f64::max);
        let ends = ends.filter("instance", &instance)?;
        let best = |policies: &[&str]| -> Result<f64> {
            let (names, shares) = (ends.texts("policy")?, ends.floats("share")?);
            let all = names.iter().zip(shares);
            let of = all.filter(|(name, _)| policies.contains(&name.as_str()));
            Ok(of.map(|(_, share)| share).fold(f64::NEG_INFINITY, f64::max))
        };
        for (name, policies, style) in [
            (label("dpo"), &["dpo"][..], method("dpo").curve()),
            (
                "SFT, best temperature",
                &["sharpened", "greedy", "sft"],
                method("sft").curve(),
            ),
            (
                "best-of-n, best n",
                &["best_of_dpo", "best_of_reward_model"],
                SeriesStyle::new(Kind::Dashed, 7, Marker::Circle),
            ),
        ] {
            let level = best(policies)?;
            let line = vec![(0.0, level), (most, level)];
            figure = figure.with(Series::new(name, line, style));
        }
        figures.push(figure);
    }
    let mut panels = Panels::new("Value of the objective against samples, every method at its own tuned settings", words.titles.len(), figures)
        .subtitle(&words.subtitle)
        .caption("Means over seeds, with 95% t-intervals for RTO and DPPO. DPPO is the paper's name for PPO with the DPO reward of the whole response paid at its last token (5.1), not the later divergence PPO. Levels without training: the best temperature of SFT and the best n of best-of-n, by their means.");
    panels.panel_size = (520, 420);
    Ok(panels)
}

/// Reward at KL: envelopes over β₂ and training time.
fn frontier(dir: &Path, words: &Words) -> Result<Panels> {
    let table = Table::from_csv(&dir.join("frontier.csv"))?;
    let mut figures = Vec::new();
    for instance in table.distinct("instance")? {
        let rows = table.filter("instance", &instance)?;
        let mut figure = Figure::new(
            words.title(&instance),
            Axis::linear("KL from SFT (nats per reply)"),
            Axis::linear(&format!("{} above SFT's", words.reward())),
        );
        for (curve, name, style, band) in [
            (
                "frontier",
                "exact optimum",
                SeriesStyle::new(Kind::Line, 0, Marker::Circle),
                false,
            ),
            ("rto", label("rto"), method("rto").curve(), true),
            ("dppo", label("dppo"), method("dppo").curve(), true),
            (
                "best_of_dpo",
                "best-of-n, DPO reward",
                SeriesStyle::new(Kind::Dashed, 7, Marker::Circle),
                false,
            ),
            (
                "best_of_reward_model",
                "best-of-n, reward model",
                SeriesStyle::new(Kind::DashDot, 9, Marker::Circle),
                false,
            ),
            ("sharpened", "SFT sharpened", method("sft").curve(), false),
        ] {
            let rows = rows.filter("curve", curve)?;
            if rows.is_empty() {
                // No exact optimum is known here.
                continue;
            }
            let series = Series::new(name, rows.points("kl", "gain")?, style);
            let ends = rows.points("gain_low", "gain_high")?;
            figure = figure.with(if band { series.band(ends) } else { series });
        }
        figures.push(figure);
    }
    let mut panels = Panels::new(&format!("The most {} at a KL from SFT", words.reward()), words.titles.len(), figures)
        .subtitle(&words.subtitle)
        .caption(&format!("Concave envelopes over {over} for RTO and DPPO, over n and temperature for the others; means over seeds, 95% t-intervals for RTO and DPPO. An envelope is flat past its most reward.", over = words.envelope));
    panels.panel_size = (520, 400);
    Ok(panels)
}

/// RTO : DPPO as tuned, and with one thing changed.
fn removals(dir: &Path, words: &Words) -> Result<Panels> {
    let table = Table::from_csv(&dir.join("conclusions.csv"))?;
    let table = table.filter("method", "rto")?.filter("against", "dppo")?;
    let changed = words.changes.iter().map(|(s, n)| (s.as_str(), n.as_str()));
    let changes: Vec<(&str, &str)> = [(REPORT, "as tuned")].into_iter().chain(changed).collect();
    let names: Vec<&str> = changes.iter().map(|change| change.1).collect();
    let share = match words.exact {
        true => "RTO − DPPO, share of optimum − SFT",
        false => "RTO − DPPO, share of the largest lead",
    };
    let mut figures = Vec::new();
    for (quantities, head, y, none) in [
        (
            &["objective_end"][..],
            "objective at the end",
            Axis::linear(share),
            0.0,
        ),
        (
            &["samples_25", "samples_50", "samples_75"],
            "samples to a level",
            Axis::log10("samples of DPPO / samples of RTO"),
            1.0,
        ),
    ] {
        let mut figure = Figure::new(head, Axis::category("", &names), y);
        let instances = table.distinct("instance")?;
        let series = instances.len() * quantities.len();
        let mut drawn = 0;
        for (color, instance) in instances.iter().enumerate() {
            for quantity in quantities {
                let rows = table
                    .filter("instance", instance)?
                    .filter("quantity", quantity)?;
                // Side by side around the place of the category.
                let step = f64::min(0.12, 0.7 / series as f64);
                let shift = step * (drawn as f64 - 0.5 * (series as f64 - 1.0));
                drawn += 1;
                let (mut points, mut ends) = (Vec::new(), Vec::new());
                for (i, (stage, _)) in changes.iter().enumerate() {
                    let row = rows.filter("variant", stage)?;
                    let at = |column: &str| -> Result<f64> {
                        Ok(row.floats(column)?.into_iter().next().unwrap_or(f64::NAN))
                    };
                    points.push((i as f64 + shift, at("estimate")?));
                    ends.push((at("low")?, at("high")?));
                }
                let instance = words.short(instance);
                let (name, marker) = match quantity.strip_prefix("samples_") {
                    Some("25") => (format!("{instance}, 25%"), Marker::Diamond),
                    Some("75") => (format!("{instance}, 75%"), Marker::Square),
                    Some(level) => (format!("{instance}, {level}%"), Marker::Circle),
                    None => (instance.to_string(), Marker::Triangle),
                };
                let style = SeriesStyle::new(Kind::ErrorBars, [2, 3, 0, 5][color % 4], marker);
                figure = figure.with(Series::new(&name, points, style).band(ends));
            }
        }
        let ends = vec![(-0.45, none), (changes.len() as f64 - 0.55, none)];
        let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
        figures.push(figure.with(Series::new("equal", ends, style)));
    }
    let mut panels = Panels::new("RTO against DPPO, as tuned and with one thing changed", 2, figures)
        .subtitle(&words.subtitle)
        .caption(format!("Means and 95% t-intervals over seeds, paired. Left, above 0: RTO ends higher. Right, above 1: RTO needs fewer samples to reach that share of the lead over SFT; a level that is not reached counts as the end of the run. {}", words.of_changes).trim_end());
    panels.panel_size = (520, 400);
    Ok(panels)
}
