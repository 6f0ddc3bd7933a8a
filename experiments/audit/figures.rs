//! Figures from the CSV files alone.

use anyhow::Result;
use rto_harness::plot::{Axis, Figure, Kind, LegendPlace, Marker, Panels, Series, SeriesStyle};
use rto_harness::table::Table;
use std::path::Path;

use crate::pictures::DRAWN;
use rto_audit::problem::Family;

/// Draws every figure of a run folder.
pub fn draw_all(dir: &Path) -> Result<()> {
    ends(dir)?;
    noise(dir)?;
    beta(dir)?;
    lambda(dir)?;
    simplex(dir)?;
    length(dir)
}

fn read(dir: &Path, name: &str) -> Result<Table> {
    Table::from_csv(&dir.join(format!("{name}.csv")))
}

/// Below this a ratio is drawn at the edge: it is 0 up to rounding.
const FLOOR: f64 = 1e-6;

fn ends(dir: &Path) -> Result<()> {
    let all = read(dir, "ends")?.filter("family", "small")?;
    let names = all.distinct("recipe")?;
    let mut figures = Vec::new();
    for beta in all.distinct("beta")? {
        let rows = all.filter("beta", &beta)?;
        let lift = |v: Vec<f64>| v.into_iter().map(|x| x.max(FLOOR)).collect::<Vec<_>>();
        let (median, best) = (
            lift(rows.floats("median")?),
            lift(rows.floats("median_best_beta")?),
        );
        let (low, high) = (
            lift(rows.floats("quarter")?),
            lift(rows.floats("three_quarters")?),
        );
        let at = |y: &[f64]| {
            y.iter()
                .enumerate()
                .map(|(i, y)| (i as f64, *y))
                .collect::<Vec<_>>()
        };
        let trees = rows.floats("trees")?.first().copied().unwrap_or(0.0);
        let worse = rows.floats("worse_than_reference")?;
        let label = |(name, worse): (&String, &f64)| match worse / trees {
            0.0 => short(name).to_string(),
            share => format!("{} ({:.0}%)", short(name), 100.0 * share),
        };
        let labels: Vec<String> = names.iter().zip(&worse).map(label).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let x = Axis::category("", &labels);
        let y = Axis::log10("SubOpt / SubOpt of the reference").range(FLOOR, 30.0);
        let bars = SeriesStyle::new(Kind::ErrorBars, 2, Marker::Circle);
        let mut figure = Figure::new(&format!("β = {beta}, {trees} random trees"), x, y)
            .with(
                Series::new("quarter to three quarters", at(&median), bars)
                    .band(low.into_iter().zip(high).collect()),
            )
            .with(Series::new(
                "median",
                at(&median),
                SeriesStyle::new(Kind::Markers, 2, Marker::Circle),
            ))
            .with(Series::new(
                "median at the most favourable β",
                at(&best),
                SeriesStyle::new(Kind::Markers, 3, Marker::Diamond),
            ));
        let level = vec![(-0.5, 1.0), (names.len() as f64 - 0.5, 1.0)];
        figure = figure.with(Series::new(
            "no better than π_ref",
            level,
            SeriesStyle::new(Kind::Dotted, 5, Marker::Circle),
        ));
        figures.push(figure);
    }
    let mut panels = Panels::new("Where the KL goes decides where a recipe ends", 1, figures)
        .caption(&format!(
            "SubOpt at the end of the flow from π_ref, over that of π_ref. Points on the lowest line are at or below {FLOOR:e}: k1 in the reward ends at the optimum. The most favourable β is the β' within e² of β for which the same policy looks best. In brackets: on how many trees the end is worse than π_ref, where there are any."
        ));
    panels.panel_size = (1250, 400);
    panels.save(dir, "ends")
}

/// A name that fits below an axis.
fn short(name: &str) -> &str {
    match name {
        "reference: REINFORCE, k1 in reward" => "k1 in reward",
        "TRL GRPO, bias-corrected k3" => "GRPO, corr. k3",
        "GRPO (paper), TRL loss_type=grpo" => "GRPO (paper)",
        "OpenRLHF REINFORCE++" => "REINFORCE ++",
        "mean-centred, exact KL in loss" => "exact in loss",
        "mean-centred, k2 in loss" => "k2 in loss",
        "REINFORCE, exact KL in reward" => "exact in reward",
        "REINFORCE, k3 in reward" => "k3 in reward",
        "REINFORCE, k2 in reward" => "k2 in reward",
        "Dr. GRPO, k3 loss" => "Dr. GRPO",
        "OpenRLHF RLOO" => "RLOO (OpenRLHF)",
        "TRL RLOO" => "RLOO (TRL)",
        "OpenRLHF PPO" => "PPO (OpenRLHF)",
        other => other,
    }
}

/// Which recipes have a curve of error over responses.
const CURVES: [&str; 6] = [
    "TRL RLOO",
    "GRPO (paper), TRL loss_type=grpo",
    "TRL GRPO",
    "OpenRLHF PPO",
    "Dr. GRPO, k3 loss",
    "mean-centred, exact KL in loss",
];

fn noise(dir: &Path) -> Result<()> {
    let rows = read(dir, "noise")?.filter("family", "small")?;
    let trees = rows.floats("trees")?.first().copied().unwrap_or(0.0);
    let mut figure = Figure::new(
        "At a few hundred responses a step, the bias of a z-score outweighs its variance",
        Axis::log10("responses per step"),
        Axis::log10("squared error of the gradient / |∇J|²"),
    );
    figure.size = (900, 520);
    for (i, name) in CURVES.iter().enumerate() {
        let one = rows.filter("recipe", name)?;
        let (bias, variance) = (one.floats("median_bias2")?, one.floats("median_variance")?);
        let (Some(b), Some(v)) = (bias.first(), variance.first()) else {
            continue;
        };
        let b = if *b < 1e-20 { 0.0 } else { *b };
        let n = |k: i32| 10f64.powf(f64::from(k) / 8.0);
        let curve: Vec<_> = (0..=36).map(|k| (n(k), b + v / n(k))).collect();
        let style = SeriesStyle::new(Kind::Line, i, Marker::Circle);
        figure = figure.with(Series::new(short(name), curve, style));
        if b > 0.0 {
            let star = vec![(v / b, 2.0 * b)];
            figure = figure.with(Series::new(
                "",
                star,
                SeriesStyle::new(Kind::Markers, i, Marker::Diamond),
            ));
        }
    }
    figure
        .caption(&format!(
            "b + v/n with b and v the medians over {trees} random trees of squared bias and variance per response, both under the scale that makes the bias least. Diamonds: n = v/b. RLOO of TRL is unbiased."
        ))
        .save(dir, "noise")
}

fn beta(dir: &Path) -> Result<()> {
    let rows = read(dir, "over_beta")?;
    let mut figure = Figure::new(
        "How far off the optimum recipes end, whatever β",
        Axis::log10("β"),
        Axis::log10("SubOpt / SubOpt of the reference"),
    );
    figure.size = (900, 520);
    for (i, name) in rows.distinct("recipe")?.iter().enumerate() {
        let one = rows.filter("recipe", name)?;
        let (end, start) = (one.floats("subopt")?, one.floats("subopt_reference")?);
        let ratio = end.iter().zip(start).map(|(e, s)| (e / s).max(FLOOR));
        let points = one.floats("beta")?.into_iter().zip(ratio).collect();
        figure = figure.with(Series::new(short(name), points, SeriesStyle::nth(i)));
    }
    figure
        .caption("End of the flow from π_ref on the tree A2H3eos1x2 (two prompts, responses of one to three tokens). k1 in the reward ends at 0 for every β and has no place on this axis.")
        .save(dir, "beta")
}

fn lambda(dir: &Path) -> Result<()> {
    let rows = read(dir, "lambda")?
        .filter("family", Family::Long.name())?
        .filter("critic", "zero")?;
    let mut figures = Vec::new();
    for (reward, title) in [
        ("dense", "dense reward (RTO)"),
        ("sparse", "sparse reward (the paper's DPPO)"),
    ] {
        let of = rows.filter("reward", reward)?;
        let y = Axis::log10("error / error at the largest λ").range(0.3, 2000.0);
        let mut figure = Figure::new(title, Axis::linear("λ of GAE"), y);
        for (i, n) in of.distinct("responses")?.iter().enumerate() {
            let one = of.filter("responses", n)?;
            let band = one.points("quarter", "three_quarters")?;
            let points = one.points("lambda", "median")?;
            figure = figure
                .with(Series::new(&format!("n = {n}"), points, SeriesStyle::nth(i)).band(band));
        }
        figures.push(figure);
    }
    Panels::new("From a zero critic, a dense reward bears a small λ; a sparse one does not", 2, figures)
        .caption("|bias|² + tr Cov/n at π_ref with n responses, over its value at the largest λ: median and quartiles over random trees. With an exact critic plus a constant the two rewards agree for every λ and n.")
        .save(dir, "lambda")
}

/// A corner of the triangle for each response: end, 0 0, 0 end.
fn place(p: [f64; 3]) -> (f64, f64) {
    let (zero_zero, zero_end) = (p[0], p[1]);
    (zero_end + 0.5 * zero_zero, zero_zero * 0.75f64.sqrt())
}

fn simplex(dir: &Path) -> Result<()> {
    let rows = read(dir, "simplex")?;
    let mut figures = Vec::new();
    for (_, label) in DRAWN {
        let one = rows.filter("recipe", label)?;
        let column = |c: &str| one.floats(c);
        let p: Vec<[f64; 3]> = triples(&column("p1")?, &column("p2")?, &column("p3")?);
        let v: Vec<[f64; 3]> = triples(&column("v1")?, &column("v2")?, &column("v3")?);
        let none = |name: &str| Axis::linear(name).range(-0.05, 1.05);
        let mut figure = Figure::new(label, none("← end … 0 end →"), none("0 0 →"));
        let corners = [
            [0.0, 0.0, 1.0],
            [0.0, 1.0, 0.0],
            [1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0],
        ];
        let edge = corners.iter().map(|c| place(*c)).collect();
        figure = figure.with(Series::new(
            "",
            edge,
            SeriesStyle::new(Kind::Line, 5, Marker::Circle),
        ));
        let most = v
            .iter()
            .map(speed)
            .filter(|s| s.is_finite())
            .fold(0.0, f64::max);
        for (p, v) in p.iter().zip(&v) {
            let from = place(*p);
            if !speed(v).is_finite() {
                let style = SeriesStyle::new(Kind::Markers, 3, Marker::Diamond);
                figure = figure.with(Series::new("end of the flow from π_ref", vec![from], style));
                continue;
            }
            let (dx, dy) = direction(v);
            // Short arrows stay visible: length grows as the root of the speed.
            let length = 0.075 * (speed(v) / most).sqrt();
            let tip = (from.0 + length * dx, from.1 + length * dy);
            let barb = |side: f64| {
                let (c, s) = (0.45f64.cos(), side * 0.45f64.sin());
                let back = 0.4 * length;
                (
                    tip.0 - back * (dx * c - dy * s),
                    tip.1 - back * (dx * s + dy * c),
                )
            };
            let arrow = vec![from, tip, barb(1.0), tip, barb(-1.0)];
            figure = figure.with(Series::new(
                "",
                arrow,
                SeriesStyle::new(Kind::Line, 0, Marker::Circle),
            ));
        }
        figures.push(figure);
    }
    let mut panels = Panels::new("What moves a policy over three responses: ∇J, and two fields that are not it", 3, figures)
        .caption("Policies over the responses «end» (left corner), «0 end» (right) and «0 0» (top); arrows: where gradient flow on logits moves them, length by the root of the speed. Rewards .35, -.5 and .7.");
    panels.panel_size = (400, 380);
    panels.save(dir, "simplex")
}

fn triples(a: &[f64], b: &[f64], c: &[f64]) -> Vec<[f64; 3]> {
    a.iter()
        .zip(b)
        .zip(c)
        .map(|((a, b), c)| [*a, *b, *c])
        .collect()
}

fn moved(v: &[f64; 3]) -> (f64, f64) {
    (v[1] + 0.5 * v[0], v[0] * 0.75f64.sqrt())
}

fn speed(v: &[f64; 3]) -> f64 {
    let (x, y) = moved(v);
    x.hypot(y)
}

fn direction(v: &[f64; 3]) -> (f64, f64) {
    let ((x, y), size) = (moved(v), speed(v).max(1e-300));
    (x / size, y / size)
}

fn length(dir: &Path) -> Result<()> {
    let rows = read(dir, "length_bias")?;
    let mut figures = Vec::new();
    for baseline in rows.distinct("baseline")? {
        let of = rows.filter("baseline", &baseline)?;
        let y = Axis::linear("bias / |∇E[R]|, under the best scale");
        let mut figure = Figure::new(
            &format!("baseline: {baseline}"),
            Axis::linear("G, responses of a group"),
            y,
        );
        for (i, name) in of.distinct("aggregation")?.iter().enumerate() {
            let points = of.filter("aggregation", name)?.points("group", "bias")?;
            figure = figure.with(Series::new(name, points, SeriesStyle::nth(i)));
        }
        figure = figure.legend(LegendPlace::Right);
        figures.push(figure);
    }
    Panels::new("Larger groups bring the token mean to the sum, not the sequence mean", 2, figures)
        .caption("The reward's part alone, on-policy, on the tree A2H3eos1x2 with its first prompt alone: responses of one to three tokens. With several prompts a token mean over one group also weighs each prompt by its mean length.")
        .save(dir, "length_bias")
}
