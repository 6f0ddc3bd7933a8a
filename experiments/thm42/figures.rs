//! Figures from the CSV files alone.

use anyhow::{Context, Result};
use rto_harness::plot::{Axis, Figure, Kind, LegendPlace, Marker, Panels, Series, SeriesStyle};
use rto_harness::table::Table;
use std::path::Path;

/// Draws every figure of a run folder.
pub fn draw_all(dir: &Path) -> Result<()> {
    let setting = Setting::read(dir)?;
    curves(dir, &setting)?;
    coverage(dir, &setting)?;
    regimes(dir, &setting)?;
    inconsistency(dir)?;
    constant(dir, &setting)?;
    sweeps(dir, &setting)
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

    fn number(&self, column: &str) -> Result<f64> {
        let first = self.0.floats(column)?.into_iter().next();
        first.with_context(|| format!("{}: no row, expected one", self.0.name()))
    }

    fn instance(&self) -> Result<String> {
        let t = |c| self.text(c);
        Ok(format!(
            "random token tree, P = {}, A = {}, H = {}, d = {}, β = {}, B = {}, ‖θ*‖ = {}, λ = {}, δ = {}",
            t("prompts")?,
            t("actions")?,
            t("horizon")?,
            t("dim")?,
            t("beta")?,
            t("param_bound")?,
            t("theta_norm")?,
            t("ridge")?,
            t("fail_prob")?
        ))
    }
}

/// Label and look of a radius, the same in every figure.
const RADII: [(&str, &str, usize, Marker); 6] = [
    ("printed", "(A.2) as printed", 5, Marker::Circle),
    ("theory_upsilon", "repaired proof, Υ", 3, Marker::Square),
    (
        "theory_kappa",
        "repaired proof, κ of the data",
        1,
        Marker::Triangle,
    ),
    ("self_concordant", "self-concordant", 0, Marker::Diamond),
    ("likelihood_ratio", "likelihood ratio", 6, Marker::Cross),
    ("wald", "Wald", 2, Marker::Circle),
];

const REFERENCE: (&str, SeriesStyle) = (
    "π_ref (do nothing)",
    SeriesStyle {
        kind: Kind::Dotted,
        color: 7,
        marker: Marker::Circle,
    },
);

fn greedy_style() -> SeriesStyle {
    SeriesStyle::new(Kind::LineMarkers, 7, Marker::Square)
}

/// Points (x, y) with the range of 95% of the replicates as a band.
fn series(
    rows: &Table,
    x: &str,
    y: &str,
    band: (&str, &str),
    label: &str,
    style: SeriesStyle,
) -> Result<Series> {
    let (low, high) = (rows.floats(band.0)?, rows.floats(band.1)?);
    let points = rows.points(x, y)?;
    let band = low.into_iter().zip(high).collect();
    Ok(Series::new(label, points, style).band(band))
}

const SPREAD: (&str, &str) = ("suboptimality_q025", "suboptimality_q975");
const MEAN: (&str, &str) = ("suboptimality_low", "suboptimality_high");

/// One range of whole decades for figures that are read beside each other, bands included on request.
fn share_decades(figures: &mut [Figure], bands: bool) {
    let series = || figures.iter().flat_map(|f| &f.series);
    let lows = series().flat_map(|s| s.band.iter().flatten().map(|b| b.0));
    let values = series().flat_map(|s| s.points.iter().map(|p| p.1));
    let values = values.chain(lows.filter(|_| bands));
    let logs = values.map(f64::log10).filter(|log| log.is_finite());
    let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| {
        (low.min(log), high.max(log))
    });
    if low > high {
        return;
    }
    let ends = (
        10f64.powf((low - 0.1).floor()),
        10f64.powf((high + 0.1).ceil()),
    );
    for figure in figures {
        figure.y = figure.y.clone().range(ends.0, ends.1);
    }
}

/// Mean suboptimality of a method at the largest n.
fn last_gap(table: &Table, method: &str, radius: &str) -> Result<f64> {
    let rows = table.filter("method", method)?.filter("radius", radius)?;
    let last = rows.floats("suboptimality")?.last().copied();
    Ok(last.unwrap_or(f64::NAN))
}

/// The n from which on Algorithm 1 with this radius has a mean below `level`, in words.
fn first_better(table: &Table, radius: &str, level: f64) -> Result<String> {
    let rows = table
        .filter("method", "algorithm1")?
        .filter("radius", radius)?;
    let points = rows.points("n", "suboptimality")?;
    let better = points.iter().rev().take_while(|p| p.1 < level);
    Ok(match better.last() {
        None => "at no n".into(),
        Some((n, _)) if *n == points[0].0 => "at every n".into(),
        Some((n, _)) if *n == points[points.len() - 1].0 => format!("at n = {n} alone"),
        Some((n, _)) => format!("from n = {n} on"),
    })
}

/// A dashed line of slope `power` through the last of `points`, moved by `factor`.
fn guide(points: &[(f64, f64)], power: f64, factor: f64, label: &str) -> Series {
    let line = points.last().map_or(Vec::new(), |last| {
        let at = |x: f64| (x, factor * last.1 * (x / last.0).powf(power));
        points.iter().map(|p| at(p.0)).collect()
    });
    let style = SeriesStyle::new(Kind::Dashed, 4, Marker::Circle);
    Series::new(label, line, style)
}

/// Why two bounds do not fall with slope −1/2 yet, with their fitted slopes; nothing where there is no fit.
fn transient_slopes(dir: &Path) -> Result<String> {
    let table = Table::from_csv(&dir.join("slopes.csv"))?;
    let rows = table.filter("method", "algorithm1")?;
    let slope = |radius: &str| -> Result<Option<f64>> {
        let values = rows.filter("radius", radius)?.floats("bound_slope")?;
        Ok(values.first().copied().filter(|s| s.is_finite()))
    };
    let fits = (slope("theory_kappa")?, slope("self_concordant")?);
    let (Some(kappa), Some(concordant)) = fits else {
        return Ok(String::new());
    };
    Ok(format!(
        "Fitted slopes of the bound of Algorithm 1: {} with κ, as κ falls with every longer difference seen, and {} with self-concordant, as its term of order 1/√n fades; both tend to −1/2, beyond these n.",
        signed(kappa),
        signed(concordant)
    ))
}

/// Two decimals with a minus sign proper.
fn signed(x: f64) -> String {
    format!("{x:.2}").replace('-', "−")
}

fn curves(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("curves.csv"))?;
    let methods = [
        ("algorithm1", "Algorithm 1"),
        ("b1", "(B.1)"),
        ("baselined", "(B.1) with baseline"),
    ];
    let greedy = table.filter("method", "greedy")?;
    let limit: Vec<(f64, f64)> = greedy
        .floats("n")?
        .into_iter()
        .map(|n| Ok((n, setting.number("constant")? / n)))
        .collect::<Result<_>>()?;
    let reference = table
        .filter("method", "reference")?
        .points("n", "suboptimality")?;
    let (mut gaps, mut bounds) = (Vec::new(), Vec::new());
    for (method, title) in methods {
        let rows = table.filter("method", method)?;
        let n = || Axis::log10("n = |D| (pairs)");
        let mut gap = Figure::new(
            &format!("{title}: SubOpt"),
            n(),
            Axis::log10("SubOpt (reward units)"),
        );
        let mut bound = Figure::new(
            &format!("{title}: its bound"),
            n(),
            Axis::log10("bound (reward units)"),
        );
        for (radius, label, color, marker) in RADII {
            let rows = rows.filter("radius", radius)?;
            let style = SeriesStyle::new(Kind::LineMarkers, color, marker);
            gap = gap.with(series(&rows, "n", "suboptimality", SPREAD, label, style)?);
            let points = rows.points("n", "bound")?;
            if radius == "wald" {
                bound = bound.with(guide(&points, -0.5, 0.5, "slope −1/2"));
            }
            bound = bound.with(Series::new(label, points, style));
        }
        let points = greedy.points("n", "suboptimality")?;
        gaps.push(
            gap.with(Series::new("plain MLE", points, greedy_style()))
                .with(Series::new(REFERENCE.0, reference.clone(), REFERENCE.1))
                .with(Series::new(
                    "(1/2β) tr(Cov I⁻¹)/n, slope −1",
                    limit.clone(),
                    SeriesStyle::new(Kind::DashDot, 4, Marker::Circle),
                )),
        );
        bounds.push(bound.with(Series::new(REFERENCE.0, reference.clone(), REFERENCE.1)));
    }
    share_decades(&mut gaps, true);
    share_decades(&mut bounds, false);
    gaps.extend(bounds);
    let (upsilon, wald, plain, nothing) = (
        last_gap(&table, "algorithm1", "theory_upsilon")?,
        last_gap(&table, "algorithm1", "wald")?,
        last_gap(&table, "greedy", "")?,
        last_gap(&table, "reference", "")?,
    );
    let title = if upsilon > nothing && wald < 1.5 * plain {
        format!(
            "The Wald radius costs little; (A.2) as printed beats π_ref {}, its repaired proof's radius nowhere",
            first_better(&table, "printed", nothing)?
        )
    } else {
        "Suboptimality and its bounds against the number of pairs".into()
    };
    let mut panels = Panels::new(&title, 3, gaps)
    .subtitle(&setting.instance()?)
    .caption(&format!(
        "Means over {} independent data sets at each n; bands are the range of 95% of the data sets. (A.2) as printed is drawn with C = {}; it has no proof. Upper row: measured SubOpt. Lower row: the right side of Theorem 4.2 (left) and of Theorem B.1. Where the curves of (B.1) coincide, the radius exceeds what the ball ‖θ‖ ≤ B leaves, and the policy does not depend on the data. {}",
        setting.text("replicates")?,
        setting.text("printed_constant")?,
        transient_slopes(dir)?
    ));
    panels.panel_size = (430, 350);
    panels.save(dir, "curves")
}

fn coverage(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("coverage.csv"))?;
    let target = 1.0 - setting.number("fail_prob")?;
    let extra = [
        (
            "likelihood_ratio_finite",
            "likelihood ratio, finite n",
            4,
            Marker::Square,
        ),
        (
            "likelihood_set_finite",
            "set of high likelihood, finite n",
            7,
            Marker::Triangle,
        ),
        (
            "likelihood_set",
            "set of high likelihood, χ²",
            7,
            Marker::Diamond,
        ),
    ];
    let all: Vec<_> = RADII.into_iter().chain(extra).collect();
    let x = || Axis::log10("n = |D| (pairs)");
    let mut cover = Figure::new(
        "How often the truth is inside",
        x(),
        Axis::linear("coverage (share of data sets)"),
    );
    let mut used = Figure::new(
        "How much of the radius is used",
        x(),
        Axis::log10("median of ‖θ_MLE − θ*‖ / ϱ"),
    );
    let (mut ends, mut missed, mut never) = (Vec::<f64>::new(), 0, Vec::new());
    for (radius, label, color, marker) in &all {
        let rows = table.filter("radius", radius)?;
        let style = SeriesStyle::new(Kind::LineMarkers, *color, *marker);
        let points = rows.points("n", "coverage")?;
        ends = rows.floats("n")?;
        if points.iter().all(|p| p.1 == 1.0) {
            never.push(*label);
        } else {
            // Side by side, as bars of one n would hide each other. The legend is that of the other panel.
            let shift = 1.12f64.powi(missed);
            missed += 1;
            let points = points.iter().map(|(n, y)| (n * shift, *y)).collect();
            cover = cover.with(
                Series::new("", points, style.kind(Kind::ErrorBars))
                    .band(rows.points("coverage_low", "coverage_high")?),
            );
        }
        used = used.with(Series::new(label, rows.points("n", "median_ratio")?, style));
    }
    let flat = |y: f64| {
        let line = ends.iter().map(|n| (*n, y)).collect();
        SeriesLine(line)
    };
    let target_style = SeriesStyle::new(Kind::Dashed, 7, Marker::Circle);
    cover = cover.with(flat(target).series("promised: 1 − δ", target_style));
    used = used.with(flat(1.0).series("", target_style.kind(Kind::Dotted)));
    let low = table
        .floats("coverage_high")?
        .into_iter()
        .any(|high| high < target);
    let title = match low {
        false => "No set covers significantly less often than promised; most are far too large",
        true => "Some sets cover less often than promised",
    };
    let mut panels = Panels::new(title, 2, vec![cover, used])
    .subtitle(&setting.instance()?)
    .caption(&format!(
        "{} independent data sets at each n. Bars: exact (Clopper-Pearson) 95% intervals, points of one n drawn side by side. Covered in every data set, and not drawn on the left: {}. Every radius is measured in its own metric; for the sets of high likelihood the right panel shows the root of (L(θ_MLE) − L(θ*))/c.",
        setting.text("coverage_replicates")?,
        match never.is_empty() {
            true => "none".to_string(),
            false => never.join("; "),
        }
    ));
    panels.panel_size = (560, 420);
    panels.save(dir, "coverage")
}

/// The points of a reference line.
struct SeriesLine(Vec<(f64, f64)>);

impl SeriesLine {
    fn series(self, label: &str, style: SeriesStyle) -> Series {
        Series::new(label, self.0, style)
    }
}

/// Label and look of a method at one radius, the same in every figure.
const METHODS: [(&str, &str, &str, usize, Marker); 4] = [
    ("greedy", "", "plain MLE", 7, Marker::Square),
    ("algorithm1", "wald", "Algorithm 1, Wald", 2, Marker::Circle),
    ("b1", "wald", "(B.1), Wald", 1, Marker::Triangle),
    (
        "baselined",
        "wald",
        "(B.1) with baseline, Wald",
        0,
        Marker::Diamond,
    ),
];

fn regimes(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("regimes.csv"))?;
    let regimes = [
        ("wins", "wins: bad arms seen once"),
        ("neutral", "neutral: all pairs equally often"),
        ("hurts", "hurts: best arm seen 3 times"),
    ];
    let mut panels = Vec::new();
    for (regime, title) in regimes {
        let rows = table.filter("regime", regime)?;
        let mut figure = Figure::new(
            title,
            Axis::log10("n = |D| (pairs)"),
            Axis::log10("SubOpt (reward units)"),
        );
        for (method, radius, label, color, marker) in METHODS {
            let rows = rows.filter("method", method)?.filter("radius", radius)?;
            let style = SeriesStyle::new(Kind::LineMarkers, color, marker);
            figure = figure.with(series(&rows, "n", "suboptimality", MEAN, label, style)?);
        }
        let bound = |method: &str| rows.filter("method", method)?.points("n", "bound");
        let reference = rows
            .filter("method", "reference")?
            .points("n", "suboptimality")?;
        panels.push(
            figure
                .with(Series::new(
                    "bound of Theorem 4.2 (Algorithm 1)",
                    bound("algorithm1")?,
                    SeriesStyle::new(Kind::Dashed, 2, Marker::Circle),
                ))
                .with(Series::new(
                    "bound of Theorem B.1 with baseline",
                    bound("baselined")?,
                    SeriesStyle::new(Kind::Dashed, 0, Marker::Circle),
                ))
                .with(Series::new(REFERENCE.0, reference, REFERENCE.1)),
        );
    }
    share_decades(&mut panels, false);
    let title = "Pessimism for each arm (Algorithm 1) wins where the best arm is well covered, and hurts where it is not";
    let mut panels = Panels::new(title, 3, panels)
    .subtitle("bandits of 12 arms (H = 1), β = 0.1, uniform π_ref, Wald radius")
    .caption(&format!(
        "Means over {} data sets; bands are 95% intervals of the mean. The joint pessimism of (B.1) guards the gain over the whole of π_ref, bad arms included: it is safe, and slow to leave π_ref. The bound of Theorem 4.2 does not vanish even where all pairs are seen: the sum over all arms shows in no comparison, and its bonus stays.",
        setting.text("regime_replicates")?
    ));
    panels.panel_size = (430, 360);
    panels.save(dir, "regimes")
}

fn inconsistency(dir: &Path) -> Result<()> {
    let table = Table::from_csv(&dir.join("inconsistency.csv"))?;
    let methods = [
        ("algorithm1", "Algorithm 1", 3, Marker::Square),
        (
            "projected",
            "Algorithm 1, bonus projected on the row space of X",
            2,
            Marker::Circle,
        ),
        (
            "projected_differences",
            "Algorithm 1, bonus projected on response differences",
            6,
            Marker::Cross,
        ),
        ("b1", "(B.1)", 1, Marker::Triangle),
        ("baselined", "(B.1) with baseline", 0, Marker::Diamond),
    ];
    let mut panels = Vec::new();
    for (data, title) in [
        ("exact", "telescoping: exact data, θ_MLE = θ*, ϱ = 2"),
        ("sampled", "telescoping: sampled data, radius with κ"),
        (
            "uncompared",
            "one of 3 arms never compared: exact data, ϱ = 2",
        ),
    ] {
        let rows = table.filter("data", data)?;
        let mut figure = Figure::new(
            title,
            Axis::log10("n = |D| (pairs)"),
            Axis::log10("SubOpt (reward units)"),
        );
        for (i, (method, label, color, marker)) in methods.into_iter().enumerate() {
            let rows = rows.filter("method", method)?;
            let style = SeriesStyle::new(Kind::LineMarkers, color, marker);
            let mut curve = series(&rows, "n", "suboptimality", SPREAD, label, style)?;
            let exact = data != "sampled";
            if exact {
                curve.band = None;
            }
            // Curves that coincide would hide one another.
            let shift = if exact { 1.25f64 } else { 1.1 }.powi(i as i32);
            curve.points.iter_mut().for_each(|p| p.0 *= shift);
            figure = figure.with(curve);
            if ["algorithm1", "b1"].contains(&method) {
                let label = format!("bound of {label}");
                let points = rows.points("n", "bound")?;
                figure = figure.with(Series::new(&label, points, style.kind(Kind::Dashed)));
            }
        }
        panels.push(figure);
    }
    share_decades(&mut panels, false);
    let mut panels = Panels::new(
        "Algorithm 1 does not converge where a feature is invisible to comparisons; a projected bonus must keep what responses differ in",
        3,
        panels,
    )
    .subtitle("λ = B = 1, β = 0.1, uniform π_ref; telescoping instance: A = 2, H = 2; arms: A = 3, H = 1, θ* = (0.1, −0.1, −0.9), θ_MLE = (0.1, −0.1, 0)")
    .caption("Telescoping: on exact data Algorithm 1 tends to SubOpt 0.70719167592 although its estimate is the truth: the bonus of the second coordinate, which cancels in every comparison, does not shrink. The curves of (B.1), its baselined form and both projected bonuses coincide; points of one n are drawn side by side. Sampled data: means, bands are the range of 95% of the data sets. Arms: the row space leaves out what sets the third arm apart, so that nothing warns of it; the right side of Theorem 4.2 is then negative from n = 10⁴ on, and its premise is false. The span of the response differences keeps it.");
    panels.panel_size = (450, 400);
    panels.save(dir, "inconsistency")
}

fn constant(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("constant.csv"))?;
    let measured = Series::new(
        "measured, plain MLE",
        table.points("n", "n_suboptimality")?,
        SeriesStyle::new(Kind::ErrorBars, 7, Marker::Square),
    )
    .band(table.points("n_suboptimality_low", "n_suboptimality_high")?);
    let predicted = Series::new(
        "predicted: (1/2β) tr(Cov I⁻¹)",
        table.points("n", "predicted")?,
        SeriesStyle::new(Kind::Dashed, 5, Marker::Circle),
    );
    let curves = Table::from_csv(&dir.join("curves.csv"))?;
    let mut figure = Figure::new(
        "The fast rate and its constant: SubOpt of plain MLE is C/n",
        Axis::log10("n = |D| (pairs)"),
        Axis::log10("n · SubOpt (reward units × pairs)"),
    )
    .subtitle(&setting.instance()?)
    .caption(&format!(
        "Plain MLE: {} data sets at each n; pessimistic policies: {}. Bars: 95% intervals of the mean, points of one n drawn side by side. The prediction is exact for this instance: covariance of the trajectory features under π*, Fisher information I of one pair.",
        setting.text("coverage_replicates")?,
        setting.text("replicates")?
    ))
    .legend(LegendPlace::Below)
    .with(predicted)
    .with(measured);
    for (i, (method, radius, label, color, marker)) in METHODS.iter().enumerate().skip(1) {
        let rows = curves.filter("method", method)?.filter("radius", radius)?;
        let shift = 1.05f64.powi(i as i32);
        let scale = |column: &str| -> Result<Vec<(f64, f64)>> {
            let points = rows.points("n", column)?;
            Ok(points.iter().map(|(n, y)| (n * shift, n * y)).collect())
        };
        let ends = scale(MEAN.0)?.into_iter().zip(scale(MEAN.1)?);
        figure = figure.with(
            Series::new(
                label,
                scale("suboptimality")?,
                SeriesStyle::new(Kind::ErrorBars, *color, *marker),
            )
            .band(ends.map(|(low, high)| (low.1, high.1)).collect()),
        );
    }
    figure.size = (820, 560);
    figure.save(dir, "constant")
}

/// How often the Wald set held the truth at the largest ridge, beside the smallest.
fn ridge_coverage(table: &Table) -> Result<String> {
    let rows = table.filter("sweep", "lambda")?;
    let rows = rows
        .filter("method", "algorithm1")?
        .filter("radius", "wald")?;
    let points = rows.points("value", "covered")?;
    Ok(match (points.first(), points.last()) {
        (Some(small), Some(large)) if small.0 < large.0 => format!(
            " The Wald set held the truth in {:.1}% of the data sets at λ = {} and in {:.1}% at λ = {}: its radius has no term for λ‖θ_MLE − θ*‖².",
            100.0 * small.1,
            small.0,
            100.0 * large.1,
            large.0
        ),
        _ => String::new(),
    })
}

fn sweeps(dir: &Path, setting: &Setting) -> Result<()> {
    let table = Table::from_csv(&dir.join("sweeps.csv"))?;
    let sweeps = [
        ("beta", Axis::log10("β (coefficient of the KL term)")),
        ("lambda", Axis::log10("λ (ridge of the metric)")),
        ("d", Axis::log10("d (features)")),
        ("H", Axis::linear("H (tokens in a response)")),
    ];
    let mut panels = Vec::new();
    for (sweep, axis) in sweeps {
        let rows = table.filter("sweep", sweep)?;
        let title = match sweep {
            "beta" => "β",
            "lambda" => "λ",
            other => other,
        };
        let mut figure = Figure::new(
            &format!("against {title}"),
            axis,
            Axis::log10("SubOpt, bounds (reward units)"),
        );
        for (method, radius, label, color, marker) in METHODS {
            let rows = rows.filter("method", method)?.filter("radius", radius)?;
            let style = SeriesStyle::new(Kind::LineMarkers, color, marker);
            figure = figure.with(series(&rows, "value", "suboptimality", MEAN, label, style)?);
        }
        let printed = rows
            .filter("method", "algorithm1")?
            .filter("radius", "printed")?;
        let style = SeriesStyle::new(Kind::LineMarkers, 5, Marker::Circle);
        let label = "Algorithm 1, (A.2) as printed";
        figure = figure.with(series(
            &printed,
            "value",
            "suboptimality",
            MEAN,
            label,
            style,
        )?);
        let predicted = rows.filter("method", "predicted")?;
        let bound = |method: &str| -> Result<Vec<(f64, f64)>> {
            let rows = rows.filter("method", method)?.filter("radius", "wald")?;
            rows.points("value", "bound")
        };
        let reference = rows.filter("method", "reference")?;
        panels.push(
            figure
                .with(Series::new(
                    "predicted for plain MLE",
                    predicted.points("value", "suboptimality")?,
                    SeriesStyle::new(Kind::DashDot, 4, Marker::Circle),
                ))
                .with(Series::new(
                    "bound of Theorem 4.2, Wald",
                    bound("algorithm1")?,
                    SeriesStyle::new(Kind::Dashed, 2, Marker::Circle),
                ))
                .with(Series::new(
                    "bound of Theorem B.1 with baseline, Wald",
                    bound("baselined")?,
                    SeriesStyle::new(Kind::Dashed, 0, Marker::Circle),
                ))
                .with(Series::new(
                    REFERENCE.0,
                    reference.points("value", "suboptimality")?,
                    REFERENCE.1,
                )),
        );
    }
    share_decades(&mut panels, false);
    let mut panels = Panels::new(
        "How suboptimality and bounds move with β, λ, d and H",
        2,
        panels,
    )
    .subtitle(&format!(
        "{}; n = {}; one setting changed at a time",
        setting.instance()?,
        setting.text("sweep_size")?
    ))
    .caption(&format!(
        "Means over {} random instances, one data set each; bands are 95% intervals of the mean. (A.2) as printed has C = {}.{}",
        setting.text("sweep_replicates")?,
        setting.text("printed_constant")?,
        ridge_coverage(&table)?
    ));
    panels.panel_size = (560, 400);
    panels.save(dir, "sweeps")
}
