//! Figures from the CSV files alone.

use anyhow::{Context, Result};
use rto_harness::plot::{Axis, Figure, Kind, Marker, Panels, Series, SeriesStyle, canvas};
use rto_harness::table::Table;
use std::path::Path;

use crate::heatmap::{Grid, Shown, caption, heading, legend};

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
struct Setting(Table);

impl Setting {
    fn read(dir: &Path) -> Result<Self> {
        Ok(Self(Table::from_csv(&dir.join("setting.csv"))?))
    }

    fn text(&self, column: &str) -> Result<String> {
        let first = self.0.texts(column)?.into_iter().next();
        first.with_context(|| format!("{}: no row, expected one", self.0.name()))
    }

    fn instance(&self, name: &str) -> Result<String> {
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

/// Label and look of a method, the same in every figure. RTO comes before what coincides with it.
const METHODS: [(&str, &str, Kind, usize, Marker); 7] = [
    ("rto", "RTO (4.6)", Kind::LineMarkers, 2, Marker::Circle),
    (
        "dppo_offset",
        "DPPO, critic from C(s)",
        Kind::Dashed,
        7,
        Marker::Circle,
    ),
    ("dppo", "DPPO (5.1)", Kind::LineMarkers, 3, Marker::Square),
    ("rloo", "RLOO", Kind::LineMarkers, 1, Marker::Triangle),
    (
        "ppo",
        "PPO (2.3), sentence reward r_φ",
        Kind::LineMarkers,
        0,
        Marker::Diamond,
    ),
    (
        "ppo_dense",
        "PPO, token reward r_φ",
        Kind::Line,
        4,
        Marker::Circle,
    ),
    (
        "rto_released",
        "RTO as released",
        Kind::LineMarkers,
        6,
        Marker::Cross,
    ),
];

const INSTANCES: [(&str, &str); 2] = [("long", "long"), ("wide", "wide")];

const DPPO: &str = "DPPO is the paper's name for PPO with the DPO reward of the whole response paid at its last token (5.1), not the later divergence PPO.";

/// A measure of every method against sampled tokens, with 95% intervals of the mean.
fn panel(rows: &Table, measure: &str, title: &str, y: Axis) -> Result<Figure> {
    let mut figure = Figure::new(title, Axis::linear("sampled response tokens"), y);
    for (method, label, kind, color, marker) in METHODS {
        let rows = thinned(&rows.filter("method", method)?, kind)?;
        let points = rows.points("tokens", measure)?;
        if points.iter().all(|p| p.1.is_nan()) {
            continue;
        }
        let ends = rows.points(&format!("{measure}_low"), &format!("{measure}_high"))?;
        let series = Series::new(label, points, SeriesStyle::new(kind, color, marker));
        // The same run as RTO needs no second band.
        figure = figure.with(match method {
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
fn level(rows: &Table, y: f64, label: &str, kind: Kind, color: usize) -> Result<Series> {
    let tokens = rows.floats("tokens")?;
    let last = tokens.into_iter().fold(0.0, f64::max);
    Ok(Series::new(
        label,
        vec![(0.0, y), (last, y)],
        SeriesStyle::new(kind, color, Marker::Circle),
    ))
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
                for (policy, label, kind) in [
                    ("reference", "π_ref (SFT)", Kind::Dotted),
                    ("dpo", "π_dpo (DPO)", Kind::DashDot),
                ] {
                    let y = own.filter("policy", policy)?.floats(measure)?;
                    let y = y.first().copied().unwrap_or(f64::NAN);
                    figure = figure.with(level(&rows, y, label, kind, 5)?);
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
        "Exact values of the policy after every few iterations; means and 95% intervals of {} runs that share their streams. Upper row: the objective that RTO, DPPO and RLOO share. PPO and RTO as released have rewards of their own, so they are judged by the true reward (middle row). C(s): DPO rewards of the prefix. {DPPO}",
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
    for (instance, name) in INSTANCES {
        let rows = table.filter("instance", instance)?;
        let mut figure = Figure::new(
            &format!("{name} ({})", setting.instance(instance)?),
            Axis::linear("KL(π ‖ π_ref) (nats per response)"),
            Axis::linear("true reward (units per response)"),
        );
        let reach = rows.floats("kl")?.into_iter().fold(0.0, f64::max);
        let line = best.filter("instance", instance)?.points("kl", "reward")?;
        let line = line.into_iter().filter(|p| p.0 <= 1.15 * reach).collect();
        figure = figure.with(Series::new(
            "exact optimal frontier",
            line,
            SeriesStyle::new(Kind::Dashed, 7, Marker::Circle),
        ));
        for (method, label, kind, color, marker) in METHODS {
            if method == "dppo_offset" {
                continue;
            }
            let kind = match kind {
                Kind::Line => Kind::Line,
                _ => Kind::LineMarkers,
            };
            let rows = rows.filter("method", method)?;
            figure = figure.with(Series::new(
                label,
                rows.points("kl", "reward")?,
                SeriesStyle::new(kind, color, marker),
            ));
        }
        let own = exact.filter("instance", instance)?;
        for (policy, label, marker) in [
            ("dpo", "π_dpo (DPO)", Marker::Square),
            (
                "rto_optimum",
                "exact optimum of RTO and DPPO",
                Marker::Diamond,
            ),
        ] {
            let style = SeriesStyle::new(Kind::Markers, 5, marker);
            let points = own.filter("policy", policy)?.points("kl", "reward")?;
            figure = figure.with(Series::new(label, points, style));
        }
        figures.push(figure);
    }
    let mut panels = Panels::new(
        "Reward against KL: what is lost to the preference data, and what to the optimiser",
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
            for (method, i) in [(METHODS[0], rto), (METHODS[2], dppo)] {
                let rows = table
                    .filter("method", method.0)?
                    .filter("beta2", &betas[i])?;
                figure = against_optimum(figure, &rows, measure, method, best[i])?;
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
    method: (&str, &str, Kind, usize, Marker),
    optimum: f64,
) -> Result<Figure> {
    let (name, label, kind, color, marker) = method;
    let rows = thinned(rows, kind)?;
    let ends = rows.points(&format!("{measure}_low"), &format!("{measure}_high"))?;
    let style = SeriesStyle::new(kind, color, marker);
    let curve = Series::new(label, rows.points("tokens", measure)?, style).band(ends);
    let (what, line) = match name {
        "rto" => ("exact optimum of RTO", Kind::Dashed),
        _ => ("exact optimum of DPPO", Kind::Dotted),
    };
    Ok(figure
        .with(curve)
        .with(level(&rows, optimum, what, line, color)?))
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

const SWEEPS: [(&str, &str, bool); 5] = [
    ("N", "N (responses per iteration)", true),
    ("H", "H (tokens in a response)", false),
    ("A", "A (vocabulary)", false),
    ("beta2", "β₂ (coefficient of the KL term)", true),
    ("pairs", "|D| (preference pairs)", true),
];

fn sweeps(dir: &Path, setting: &Setting) -> Result<()> {
    let ratios = Table::from_csv(&dir.join("sweep_ratios.csv"))?;
    let table = Table::from_csv(&dir.join("sweeps.csv"))?;
    let own = setting.text("lambda")?;
    let looks = [
        (
            "rto_leaning",
            "RTO / DPPO, λ = 0.5".to_string(),
            4,
            Marker::Triangle,
        ),
        ("rto", format!("RTO / DPPO, λ = {own}"), 2, Marker::Circle),
        (
            "rloo",
            format!("RLOO / DPPO, λ = {own}"),
            1,
            Marker::Diamond,
        ),
        (
            "ppo_true_reward",
            format!("PPO with r_φ / DPPO, λ = {own}, for the true reward"),
            0,
            Marker::Square,
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
        for (name, label, color, marker) in &looks {
            let rows = rows.filter("comparison", name)?;
            let style = SeriesStyle::new(Kind::LineMarkers, *color, *marker);
            let ends = rows.points("mean_ratio_low", "mean_ratio_high")?;
            figure = figure
                .with(Series::new(label, rows.points("value", "mean_ratio")?, style).band(ends));
        }
        let xs = rows.floats("value")?;
        let one = xs.iter().map(|x| (*x, 1.0)).collect();
        let style = SeriesStyle::new(Kind::Dotted, 7, Marker::Circle);
        figures.push(figure.with(Series::new("equal", one, style)));
    }
    let rows = table.filter("sweep", "pairs")?;
    let mut data = Figure::new(
        "true reward against |D|",
        Axis::log10("|D| (preference pairs)"),
        Axis::log10("SubOpt at β₂, at the end"),
    );
    for (method, label, color, marker) in [
        ("reference", "π_ref (SFT)", 5, Marker::Triangle),
        ("dpo", "π_dpo (DPO)", 5, Marker::Square),
        ("rto", "RTO", 2, Marker::Circle),
        ("dppo", "DPPO", 3, Marker::Square),
        ("rloo", "RLOO", 1, Marker::Diamond),
        ("ppo", "PPO with r_φ", 0, Marker::Square),
    ] {
        let mut rows = rows.filter("method", method)?;
        if !["reference", "dpo"].contains(&method) {
            rows = rows.filter("lambda", &own)?;
        }
        let kind = match method {
            "reference" => Kind::Dotted,
            "dpo" => Kind::Dashed,
            _ => Kind::LineMarkers,
        };
        let ends = rows.points("matched_gap_low", "matched_gap_high")?;
        let style = SeriesStyle::new(kind, color, marker);
        let series = Series::new(label, rows.points("value", "matched_gap")?, style);
        data = data.with(series.band(ends));
    }
    figures.push(data);
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

fn map(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("map.csv"))?;
    let columns = table.distinct("critic_rate")?;
    let mut rows = table.distinct("lambda")?;
    rows.reverse();
    let cells = |what: &str| -> Result<Vec<Shown>> {
        let mut out = Vec::new();
        for lambda in &rows {
            let own = table.filter("lambda", lambda)?;
            let column = |end: &str| own.floats(&format!("{what}_ratio{end}"));
            let (ratio, low, high) = (column("")?, column("_low")?, column("_high")?);
            for ((ratio, low), high) in ratio.into_iter().zip(low).zip(high) {
                // No interval, no claim.
                let clear = high < 1.0 || low > 1.0;
                out.push(Shown {
                    value: ratio.log10(),
                    text: format!("{ratio:.2}{}", if clear { "" } else { " ns" }),
                    muted: !clear,
                });
            }
        }
        Ok(out)
    };
    let (run, end) = (cells("mean")?, cells("final")?);
    // Whole decades, at least one.
    let full = run
        .iter()
        .chain(&end)
        .fold(0.1f64, |m, c| m.max(c.value.abs()));
    let full = full.ceil();
    let grid = |title| Grid {
        title,
        axes: (
            "learning rate of the critic (share of its error per step)",
            "λ of GAE",
        ),
        columns: &columns,
        rows: &rows,
        cell: (66.0, 44.0),
        full,
    };
    let size = grid("").size();
    let (width, ten) = (2.0 * size.0 + 80.0, 10f64.powf(full));
    let ahead = |lambda: Option<&String>| -> Result<bool> {
        let own = table.filter("lambda", lambda.map_or("", String::as_str))?;
        Ok(own
            .floats("mean_ratio_high")?
            .iter()
            .all(|high| *high < 0.5))
    };
    let title = match ahead(rows.last())? && !ahead(rows.first())? {
        true => "Dense reward wins where GAE bootstraps through a critic that knows nothing yet",
        false => "RTO against DPPO over λ of GAE and the learning rate of the critic",
    };
    let subtitle = format!(
        "long ({}), β₁ = {}, β₂ = {}; SubOpt of RTO / SubOpt of DPPO",
        setting.instance("long")?,
        setting.text("beta1")?,
        setting.text("beta2")?
    );
    let text = format!(
        "Geometric means of {} paired runs of {} iterations; “ns”: the 95% interval holds 1. {DPPO}",
        setting.text("map_replicates")?,
        setting.text("map_iterations")?
    );
    canvas(
        &dir.join("map"),
        width as u32,
        (size.1 + 168.0) as u32,
        |p| {
            let top = heading(p, title, &subtitle);
            grid("averaged over the run").draw(p, (16.0, top), &run);
            grid("at the end").draw(p, (16.0 + size.0 + 40.0, top), &end);
            let y = top + size.1 + 8.0;
            legend(
                p,
                (width / 2.0 - 200.0, y),
                400.0,
                [
                    &format!("1/{ten}: RTO better"),
                    "1",
                    &format!("{ten}: DPPO better"),
                ],
            );
            caption(p, y + 50.0, &text);
        },
    )
}

/// One decimal with a minus sign proper, and no negative zero.
fn tenth(v: f64) -> String {
    let rounded = (10.0 * v).round() / 10.0;
    format!("{:.1}", rounded + 0.0).replace('-', "−")
}

fn credit(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("credit.csv"))?;
    let (responses, steps) = (table.distinct("response")?, table.distinct("h")?);
    let blocks = [
        ("credit", "paid by (4.5): β₁ log(π_dpo/π_ref)"),
        ("advantage", "true advantage: r + V*(s′) − V*(s)"),
        ("reward", "true reward r"),
    ];
    let mut all = Vec::new();
    for (column, _) in blocks {
        all.push(table.floats(column)?);
    }
    let full = all.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
    let grid = |title| Grid {
        title,
        axes: ("h (place of the token in the response)", "response"),
        columns: &steps,
        rows: &responses,
        cell: (42.0, 30.0),
        full,
    };
    let size = grid("").size();
    let width = 3.0 * size.0 + 60.0;
    let title = "(4.5) pays each token the advantage, not the reward";
    let subtitle = format!(
        "{} responses of π_ref on the long instance ({}), best return first; β = β₁ = {}, |D| = {} pairs",
        responses.len(),
        setting.instance("long")?,
        setting.text("beta1")?,
        setting.text("pairs")?
    );
    let text = "One cell per token, its value in reward units; a row is a response. V* is the optimal soft value at β under the true reward. A row of the middle table sums to the return minus V* at the prompt, which no response can change; the left one does too where π_dpo is optimal, and differs here because π_dpo was fitted to finitely many pairs.";
    canvas(
        &dir.join("credit"),
        width as u32,
        (size.1 + 168.0) as u32,
        |p| {
            let top = heading(p, title, &subtitle);
            for (k, (values, (_, title))) in all.iter().zip(blocks).enumerate() {
                let cells: Vec<Shown> = values
                    .iter()
                    .map(|v| Shown {
                        value: *v,
                        text: tenth(*v),
                        muted: false,
                    })
                    .collect();
                grid(title).draw(p, (12.0 + (size.0 + 16.0) * k as f64, top), &cells);
            }
            let y = top + size.1 + 8.0;
            let (low, high) = (tenth(-full), tenth(full));
            legend(
                p,
                (width / 2.0 - 200.0, y),
                400.0,
                [&low, "0 (reward units)", &high],
            );
            caption(p, y + 50.0, text);
        },
    )
}
