//! Figures from the CSV files alone.

use anyhow::{Context, Result};
use rto_harness::methods::{self, label, method};
use rto_harness::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle};
use rto_harness::table::Table;
use std::path::Path;

use crate::heatmaps::{credit, map};
use crate::sweep_figure::sweeps;

/// Draws every figure of a run folder.
pub fn draw_all(dir: &Path) -> Result<()> {
    let setting = Setting::read(dir)?;
    curves(dir, &setting)?;
    map(dir, &setting)?;
    frontier(dir, &setting)?;
    figure3(dir, &setting)?;
    sweeps(dir, &setting)?;
    credit(dir, &setting)
}

/// The one row of `setting.csv`.
pub struct Setting(Table);

impl Setting {
    fn read(dir: &Path) -> Result<Self> {
        Ok(Self(Table::from_csv(&dir.join("setting.csv"))?))
    }

    pub fn text(&self, column: &str) -> Result<String> {
        let first = self.0.texts(column)?.into_iter().next();
        first.with_context(|| format!("{}: no row, expected one", self.0.name()))
    }

    pub fn instance(&self, name: &str) -> Result<String> {
        let t = |c: &str| self.text(&format!("{name}_{c}"));
        Ok(format!(
            "A = {}, H = {}, N = {}",
            t("actions")?,
            t("horizon")?,
            t("responses")?
        ))
    }

    fn betas(&self) -> Result<String> {
        Ok(format!(
            "β = β₁ = {}, β₂ = {}, |D| = {} pairs, λ = {}, critic rate {}",
            self.text("beta1")?,
            self.text("beta2")?,
            self.text("pairs")?,
            self.text("lambda")?,
            self.text("critic_learning_rate")?
        ))
    }
}

/// The methods with the kind of their lines. RTO comes before what coincides with it.
const METHODS: [(&str, Kind); 7] = [
    ("rto", Kind::LineMarkers),
    ("dppo_offset", Kind::Dashed),
    ("dppo", Kind::LineMarkers),
    ("rloo", Kind::LineMarkers),
    ("ppo", Kind::LineMarkers),
    ("ppo_dense", Kind::Line),
    ("rto_released", Kind::LineMarkers),
];

/// The methods of a table: those above that are there, then what else the table of methods has.
fn methods_of(rows: &Table) -> Result<Vec<(&'static str, Kind)>> {
    let names = rows.distinct("method")?;
    let usual = METHODS.iter().copied();
    let other = methods::trained()
        .filter(|m| METHODS.iter().all(|(name, _)| *name != m.name))
        .map(|m| (m.name, m.line));
    let all = usual.chain(other);
    Ok(all
        .filter(|(name, _)| names.iter().any(|n| n == name))
        .collect())
}

const INSTANCES: [(&str, &str); 2] = [("long", "long"), ("wide", "wide")];

pub const DPPO: &str = "DPPO is the paper's name for PPO with the DPO reward of the whole response paid at its last token (5.1), not the later divergence PPO.";

/// A measure of every method against sampled tokens, with 95% intervals of the mean.
fn panel(rows: &Table, measure: &str, title: &str, y: Axis) -> Result<Figure> {
    let mut figure = Figure::new(title, Axis::linear("sampled response tokens"), y);
    for (name, kind) in methods_of(rows)? {
        let rows = thinned(&rows.filter("method", name)?, kind)?;
        let points = rows.points("tokens", measure)?;
        if points.iter().all(|p| p.1.is_nan()) {
            continue;
        }
        let ends = rows.points(&format!("{measure}_low"), &format!("{measure}_high"))?;
        let series = Series::new(label(name), points, method(name).style(kind));
        // The same run as RTO needs no second band.
        figure = figure.with(match name {
            "dppo_offset" => series,
            _ => series.band(ends),
        });
    }
    Ok(figure)
}

/// Every second point of a curve with markers, its ends included.
fn thinned(rows: &Table, kind: Kind) -> Result<Table> {
    if kind != Kind::LineMarkers || rows.len() < 20 {
        return Ok(rows.clone());
    }
    let mut out = Table::new(
        rows.name(),
        &rows
            .columns()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    for (i, row) in rows.rows().iter().enumerate() {
        if i % 2 == 0 || i + 1 == rows.len() {
            out.push(row.clone());
        }
    }
    Ok(out)
}

/// A level over the range of tokens.
fn level(rows: &Table, y: f64, label: &str, style: SeriesStyle) -> Result<Series> {
    let tokens = rows.floats("tokens")?;
    let last = tokens.into_iter().fold(0.0, f64::max);
    Ok(Series::new(label, vec![(0.0, y), (last, y)], style))
}

fn curves(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("curves.csv"))?;
    let exact = Table::from_csv(&dir.join("exact.csv"))?;
    let rows_of_panels = [
        (
            "objective_gap",
            "SubOpt for (β₁, β₂)",
            "SubOpt (reward units)",
        ),
        (
            "matched_gap",
            "SubOpt for the true reward at β₂",
            "SubOpt (reward units)",
        ),
        (
            "critic_error",
            "error of the critic",
            "RMS error of V (reward units)",
        ),
    ];
    let mut figures = Vec::new();
    for (measure, title, axis) in rows_of_panels {
        for (instance, name) in INSTANCES {
            let rows = table.filter("instance", instance)?;
            let title = format!("{name} ({}): {title}", setting.instance(instance)?);
            let mut figure = panel(&rows, measure, &title, Axis::log10(axis))?;
            if measure != "critic_error" {
                let own = exact.filter("instance", instance)?;
                for (policy, name) in [("reference", "sft"), ("dpo", "dpo")] {
                    let y = own.filter("policy", policy)?.floats(measure)?;
                    let y = y.first().copied().unwrap_or(f64::NAN);
                    figure = figure.with(level(&rows, y, label(name), method(name).curve())?);
                }
            }
            figures.push(figure);
        }
    }
    let mut panels = Panels::new(
        "A token reward is a critic that starts right: RTO is DPPO with its critic from C(s)",
        2,
        figures,
    )
    .subtitle(&setting.betas()?)
    .caption(&format!(
        "Exact values of the policy after every few iterations; means and 95% intervals of {} runs that share their streams. Upper row: the objective that RTO, DPPO and RLOO share. SFT is π_ref. PPO and RTO as released have rewards of their own, so they are judged by the true reward (middle row). C(s): DPO rewards of the prefix. {DPPO}",
        setting.text("replicates")?
    ));
    panels.panel_size = (600, 340);
    panels.save(dir, "curves")
}

fn frontier(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("curves.csv"))?;
    let best = Table::from_csv(&dir.join("frontier.csv"))?;
    let exact = Table::from_csv(&dir.join("exact.csv"))?;
    let mut figures = Vec::new();
    let mut below = true;
    for (instance, name) in INSTANCES {
        let rows = table.filter("instance", instance)?;
        let mut figure = Figure::new(
            &format!("{name} ({})", setting.instance(instance)?),
            Axis::linear("KL(π ‖ π_ref) (nats per response)"),
            Axis::linear("true reward (units per response)"),
        );
        let reach = rows.floats("kl")?.into_iter().fold(0.0, f64::max);
        let line = best.filter("instance", instance)?.points("kl", "reward")?;
        let optimum = exact
            .filter("instance", instance)?
            .filter("policy", "rto_optimum")?
            .points("kl", "reward")?;
        below &= optimum.first().is_some_and(|p| clearly_below(*p, &line));
        let line = line.into_iter().filter(|p| p.0 <= 1.15 * reach).collect();
        figure = figure.with(Series::new(
            "exact optimal frontier",
            line,
            SeriesStyle::new(Kind::Dashed, 7, Marker::Circle),
        ));
        for (name, kind) in methods_of(&rows)? {
            if name == "dppo_offset" {
                continue;
            }
            let rows = rows.filter("method", name)?;
            figure = figure.with(Series::new(
                label(name),
                rows.points("kl", "reward")?,
                method(name).style(kind),
            ));
        }
        let own = exact.filter("instance", instance)?;
        let dpo = method("dpo").style(Kind::Markers);
        let optimum = SeriesStyle::new(Kind::Markers, 7, Marker::OpenSquare);
        for (policy, label, style) in [
            ("dpo", label("dpo"), dpo),
            ("rto_optimum", "exact optimum of RTO and DPPO", optimum),
        ] {
            let points = own.filter("policy", policy)?.points("kl", "reward")?;
            figure = figure.with(Series::new(label, points, style));
        }
        figures.push(figure);
    }
    let title = match below {
        true => {
            "Finitely many pairs keep even the exact optimum of RTO and DPPO below the best reward at its KL"
        }
        false => {
            "Reward against KL: what is lost to the preference data, and what to the optimiser"
        }
    };
    let mut panels = Panels::new(
        title,
        2,
        figures,
    )
    .subtitle(&setting.betas()?)
    .caption(&format!(
        "Means over {} runs, one point per evaluation, from π_ref at KL = 0. No policy lies above the dashed line. The exact optimum of (β₁, β₂) is what RTO, DPPO and RLOO tend to; it lies below the line because π_dpo was fitted to finitely many pairs. {DPPO}",
        setting.text("replicates")?
    ));
    panels.panel_size = (600, 440);
    panels.save(dir, "frontier")
}

/// Whether a point lies below a frontier (KL rising) by more than a hundredth of the frontier's whole gain.
fn clearly_below(point: (f64, f64), frontier: &[(f64, f64)]) -> bool {
    let (Some(first), Some(last)) = (frontier.first(), frontier.last()) else {
        return false;
    };
    // A concave curve lies above its chords, so that what is below a chord is below the curve.
    let chord = frontier
        .windows(2)
        .find(|w| w[0].0 <= point.0 && point.0 <= w[1].0);
    chord.is_some_and(|w| {
        let share = (point.0 - w[0].0) / (w[1].0 - w[0].0);
        let level = w[0].1 + share * (w[1].1 - w[0].1);
        level - point.1 > 0.01 * (last.1 - first.1)
    })
}

fn figure3(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("figure3.csv"))?;
    let optima = Table::from_csv(&dir.join("figure3_optima.csv"))?;
    let betas = optima.texts("beta2")?;
    let (Some(small), Some(large)) = (betas.first(), betas.last()) else {
        anyhow::bail!("{}: no rows, expected two", optima.name());
    };
    let high = betas.len() - 1;
    let mut figures = Vec::new();
    for (measure, axis) in [
        ("implicit_reward", "E β₁ log(π_dpo/π_ref) (per response)"),
        ("reward", "true reward (per response)"),
    ] {
        let mut row = Vec::new();
        for (title, rto, dppo) in [
            (
                format!("as in the paper: {small} for RTO, {large} for DPPO"),
                0,
                high,
            ),
            (format!("fair: β₂ = {small} for both"), 0, 0),
            (format!("fair: β₂ = {large} for both"), high, high),
        ] {
            let x = Axis::linear("sampled response tokens");
            let mut figure = Figure::new(&title, x, Axis::linear(axis));
            let best = optima.floats(measure)?;
            for (name, i) in [("rto", rto), ("dppo", dppo)] {
                let rows = table.filter("method", name)?.filter("beta2", &betas[i])?;
                figure = against_optimum(figure, &rows, measure, name, best[i])?;
            }
            row.push(figure);
        }
        share_range(&mut row);
        figures.extend(row);
    }
    let mut panels = Panels::new(
        "Figure 3 of the paper gives RTO a smaller β₂; at equal β₂ both methods have one optimum",
        3,
        figures,
    )
    .subtitle(&format!(
        "long ({}), β = β₁ = {}; the paper's β₂ = 0.03 and 0.05 with β₁ = 0.1 are the same ratios",
        setting.instance("long")?,
        setting.text("beta1")?
    ))
    .caption(&format!(
        "Exact expectations under the current policy; means and 95% intervals of {} runs that share their streams. Upper row: the reward that Figure 3 of the paper shows. {DPPO}",
        setting.text("replicates")?
    ));
    panels.panel_size = (440, 330);
    panels.save(dir, "figure3")
}

/// A method's curve, and the level it tends to.
fn against_optimum(
    figure: Figure,
    rows: &Table,
    measure: &str,
    name: &str,
    optimum: f64,
) -> Result<Figure> {
    let look = method(name).style(Kind::LineMarkers);
    let rows = thinned(rows, look.kind)?;
    let ends = rows.points(&format!("{measure}_low"), &format!("{measure}_high"))?;
    let points = rows.points("tokens", measure)?;
    let curve = Series::new(label(name), points, look).band(ends);
    let (what, line) = match name {
        "rto" => ("exact optimum of RTO", Kind::Dashed),
        _ => ("exact optimum of DPPO", Kind::Dotted),
    };
    Ok(figure
        .with(curve)
        .with(level(&rows, optimum, what, look.kind(line))?))
}

/// One range for figures that are read beside each other.
fn share_range(figures: &mut [Figure]) {
    let points = figures
        .iter()
        .flat_map(|f| f.series.iter().flat_map(|s| &s.points));
    let (low, high) = points.fold((f64::INFINITY, f64::NEG_INFINITY), |ends, p| {
        (ends.0.min(p.1), ends.1.max(p.1))
    });
    if low > high {
        return;
    }
    let margin = 0.06 * (high - low);
    for figure in figures {
        figure.y = figure.y.clone().range(low - margin, high + margin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_below_a_frontier_or_it_is_not() {
        let frontier = [(0.0, 0.0), (1.0, 1.0), (4.0, 2.0)];
        assert!(clearly_below((0.5, 0.4), &frontier));
        assert!(clearly_below((2.5, 1.47), &frontier));
        for point in [
            (0.5, 0.5),
            (2.5, 1.49),
            (2.5, 1.6),
            (5.0, 0.0),
            (f64::NAN, 0.0),
        ] {
            assert!(!clearly_below(point, &frontier), "{point:?}");
        }
        assert!(!clearly_below((0.5, 0.0), &[]));
    }
}
