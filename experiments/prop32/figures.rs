//! Figures from the CSV files alone.

use anyhow::{Result, bail};
use rto_harness::plot::{
    Axis, Color, Figure, Font, Kind, LegendPlace, Marker, Painter, Panels, Series, SeriesStyle,
    Stroke, canvas,
};
use rto_harness::table::Table;
use std::path::Path;

/// Draws every figure of a run folder.
pub fn draw_all(dir: &Path) -> Result<()> {
    figure2(dir)?;
    queries_vs_horizon(dir)?;
    queries_vs_xi(dir)?;
    real_text(dir)?;
    noisy_preferences(dir)
}

const FRONTIER: Color = Color::rgb(0xc4, 0x2b, 0x2b);
const OTHER: Color = Color::rgb(0x7f, 0xa8, 0xd6);
const OPTIMAL: Color = Color::rgb(0x12, 0x2f, 0x6b);

/// Figure 2 of the paper: N in red, the optimal leaf in dark blue, and the order of deletions.
fn figure2(dir: &Path) -> Result<()> {
    let table = Table::from_csv(&dir.join("figure2.csv"))?;
    let (prefixes, masses) = (
        table.texts("prefix")?,
        table.parsed::<u32>("mass_32nds", "an integer")?,
    );
    let (frontier, optimal, deleted) = (
        table.texts("in_frontier")?,
        table.texts("optimal")?,
        table.texts("deleted_by_query")?,
    );
    for (row, prefix) in prefixes.iter().enumerate() {
        let digits = prefix
            .strip_prefix('y')
            .filter(|d| d.len() <= 3 && d.bytes().all(|b| b == b'0' || b == b'1'));
        if digits.is_none() || !(1..=32).contains(&masses[row]) {
            bail!(
                "figure2.csv: row {}: found prefix {prefix:?} and mass {}, expected y with up to three 0 or 1, and 1 to 32",
                row + 2,
                masses[row]
            );
        }
    }
    let position = |prefix: &str| {
        let depth = prefix.len() - 1;
        let code = prefix[1..]
            .bytes()
            .fold(0, |code, b| 2 * code + u32::from(b == b'1'));
        (
            80.0 + 700.0 * (f64::from(code) + 0.5) / f64::from(1u32 << depth),
            92.0 + 88.0 * depth as f64,
        )
    };
    canvas(&dir.join("figure2"), 860, 470, |p: &mut Painter| {
        p.describe("Figure 2 of the paper with the nodes of N and the order of deletions");
        p.text(
            (430.0, 24.0),
            "Figure 2: N has three nodes; the algorithm asks four queries",
            Font::new(17.0, Color::INK).bold(),
        );
        p.text(
            (430.0, 47.0),
            "A = 2, H = 3, ξ = 1: a node is heavy when its probability is at least A^(−ξ) = 1/2",
            Font::new(13.0, Color::MUTED),
        );
        for prefix in prefixes.iter().filter(|prefix| prefix.len() > 1) {
            let (from, to) = (position(&prefix[..prefix.len() - 1]), position(prefix));
            p.line(from, to, Stroke::solid(Color::MUTED, 1.3));
            let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
            p.label(
                middle,
                &prefix[prefix.len() - 1..],
                Font::new(11.0, Color::MUTED),
            );
        }
        for (i, prefix) in prefixes.iter().enumerate() {
            let at = position(prefix);
            let (fill, ink) = match (frontier[i].as_str(), optimal[i].as_str()) {
                ("yes", _) => (FRONTIER, Color::WHITE),
                (_, "yes") => (OPTIMAL, Color::WHITE),
                _ => (OTHER, Color::INK),
            };
            p.rounded_box(at, (54.0, 30.0), 8.0, fill, Stroke::solid(Color::INK, 1.0));
            p.text(at, &fraction(masses[i]), Font::new(14.0, ink).bold());
            if !deleted[i].is_empty() {
                let place = if prefix.len() == 4 {
                    (at.0, at.1 + 28.0)
                } else {
                    (at.0 + 62.0, at.1)
                };
                p.text(
                    place,
                    &format!("query {}", deleted[i]),
                    Font::new(
                        12.0,
                        if optimal[i] == "yes" {
                            OPTIMAL
                        } else {
                            FRONTIER
                        },
                    )
                    .bold(),
                );
            }
        }
        let legend = [
            (FRONTIER, "node of N: deleted with everything below it"),
            (OPTIMAL, "optimal response y* = 000"),
            (OTHER, "other node"),
        ];
        for ((color, text), x) in legend.into_iter().zip([60.0, 400.0, 640.0]) {
            p.rounded_box(
                (x, 425.0),
                (22.0, 14.0),
                4.0,
                color,
                Stroke::solid(Color::INK, 1.0),
            );
            p.text(
                (x + 20.0, 425.0),
                text,
                Font::new(12.0, Color::INK).anchor(rto_harness::plot::Anchor::Start),
            );
        }
        let note = "Boxes show π*(y₁…y_h | x). The heavy response 000 has no node of N on its path, so a fourth query is needed.";
        p.text((430.0, 452.0), note, Font::new(12.0, Color::MUTED));
    })
}

/// n/32 in lowest terms.
fn fraction(n: u32) -> String {
    let shift = n.trailing_zeros().min(5);
    match 32 >> shift {
        1 => (n >> shift).to_string(),
        denominator => format!("{}/{denominator}", n >> shift),
    }
}

/// Adds the rows of one method as a series.
fn with_method(
    figure: Figure,
    rows: &Table,
    x: &str,
    method: &str,
    label: &str,
    style: SeriesStyle,
) -> Result<Figure> {
    let points = rows.filter("method", method)?.points(x, "queries")?;
    Ok(figure.with(Series::new(label, points, style)))
}

fn counts_figure(dir: &Path, sweep: &str, x: &str, figure: Figure) -> Result<Figure> {
    let rows = Table::from_csv(&dir.join("counts.csv"))?.filter("sweep", sweep)?;
    let line = |kind, color| SeriesStyle::new(kind, color, Marker::Circle);
    let dots = |color, marker| SeriesStyle::new(Kind::Markers, color, marker);
    let series = [
        (
            "sentence, A^H - 1",
            "sentence feedback, Aᴴ − 1",
            line(Kind::Line, 0),
        ),
        (
            "sentence",
            "sentence feedback, run",
            dots(0, Marker::Square),
        ),
        (
            "paper's algorithm, maximum",
            "paper's algorithm, maximum",
            line(Kind::DashDot, 3),
        ),
        (
            "paper's algorithm",
            "paper's algorithm, run",
            dots(3, Marker::Triangle),
        ),
        (
            "exact minimax",
            "exact minimax M(A, H, K)",
            line(Kind::Line, 1),
        ),
        (
            "best-first, adversary",
            "best-first against the adversary, run",
            dots(1, Marker::Circle),
        ),
        (
            "best-first, luckiest order",
            "best-first, luckiest order, run",
            dots(4, Marker::Diamond),
        ),
        (
            "paper's bound",
            "claimed: A^min(ξ+1, H)",
            line(Kind::Dashed, 2),
        ),
    ];
    series
        .into_iter()
        .try_fold(figure, |figure, (method, label, style)| {
            with_method(figure, &rows, x, method, label, style)
        })
}

fn value(table: &Table, column: &str) -> Result<String> {
    Ok(table.texts(column)?.into_iter().next().unwrap_or_default())
}

fn queries_vs_horizon(dir: &Path) -> Result<()> {
    let rows = Table::from_csv(&dir.join("counts.csv"))?.filter("sweep", "horizon")?;
    let (a, xi, k) = (
        value(&rows, "n_actions")?,
        value(&rows, "xi")?,
        value(&rows, "chains")?,
    );
    let figure = Figure::new(
        "Token feedback needs a number of queries linear in H, not a constant",
        Axis::linear("horizon H (tokens)"),
        Axis::log10("responses scored until the optimum is certain"),
    )
    .subtitle(&format!("A = {a}, ξ = {xi}, K = {k} chains of heavy prefixes"))
    .caption("Lines are closed forms, markers are runs. The dashed line is the bound of Proposition 3.2; no deterministic learner stays below the exact minimax.")
    .legend(LegendPlace::Right);
    let mut figure = counts_figure(dir, "horizon", "horizon", figure)?;
    figure.size = (960, 520);
    figure.save(dir, "queries_vs_horizon")
}

fn queries_vs_xi(dir: &Path) -> Result<()> {
    let rows = Table::from_csv(&dir.join("counts.csv"))?.filter("sweep", "xi")?;
    let (a, h) = (value(&rows, "n_actions")?, value(&rows, "horizon")?);
    let figure = Figure::new(
        "The less concentrated the policy, the smaller the gain from token feedback",
        Axis::linear("ξ, where the best response has probability at least A^(−ξ)"),
        Axis::log10("responses scored until the optimum is certain"),
    )
    .subtitle(&format!("A = {a}, H = {h}, K = ⌈A^ξ⌉ − 1 chains"))
    .caption("Lines are closed forms, markers are runs. The claimed bound is exceeded where the minimax lies above the dashed line, and loose where it lies below.");
    let mut figure = counts_figure(dir, "xi", "xi", figure)?;
    figure.size = (960, 520);
    figure.save(dir, "queries_vs_xi")
}

fn real_text(dir: &Path) -> Result<()> {
    let table = Table::from_csv(&dir.join("text.csv"))?;
    let most = table.floats("queries")?.into_iter().fold(1.0, f64::max);
    let a = value(&table, "n_actions")?;
    let mut figure = Figure::new(
        "Real text: scored responses to certify the most probable one",
        Axis::linear("horizon H (symbols)"),
        Axis::log10("responses scored until the optimum is certain").range(1.0, 10.0 * most),
    )
    .subtitle(&format!("n-gram models over A = {a} symbols, best-first search, most frequent symbol first"))
    .caption("A curve ends at the longest horizon that was certified within the budget of the run. Sentence feedback needs Aᴴ − 1 responses in the worst case (dashed).")
    .legend(LegendPlace::Right);
    let certified = table.filter("certified", "yes")?;
    for (i, order) in table.distinct("order")?.iter().enumerate() {
        let points = certified
            .filter("order", order)?
            .points("horizon", "queries")?;
        figure = figure.with(Series::new(
            &format!("{order}-gram"),
            points,
            SeriesStyle::nth(i),
        ));
    }
    let sentence: Vec<(f64, f64)> = (1..=8)
        .map(f64::from)
        .map(|h| (h, a.parse::<f64>().unwrap_or(f64::NAN).powf(h) - 1.0))
        .collect();
    figure = figure.with(Series::new(
        "sentence feedback",
        sentence,
        SeriesStyle::new(Kind::Dashed, 7, Marker::Circle),
    ));
    figure.save(dir, "real_text")
}

fn noisy_preferences(dir: &Path) -> Result<()> {
    let table = Table::from_csv(&dir.join("preferences.csv"))?;
    let families = [
        ("needle", "needle chains: one response has most of the mass"),
        ("softmax", "random softmax trees"),
    ];
    let mut panels = Vec::new();
    for (family, title) in families {
        let rows = table.filter("family", family)?;
        let mut figure = Figure::new(
            title,
            Axis::linear("horizon H (tokens)"),
            Axis::log10("labels (comparisons)"),
        );
        for (i, feedback) in ["sentence", "token"].into_iter().enumerate() {
            let rows = rows.filter("feedback", feedback)?;
            let look = SeriesStyle::nth(i);
            // Set apart, so that equal counts do not hide each other.
            let aside = 0.16 * (i as f64 - 0.5);
            let measured = rows
                .points("horizon", "queries")?
                .into_iter()
                .map(|(h, q)| (h + aside, q))
                .collect();
            let (label, exact) = (
                format!("{feedback} labels"),
                format!("{feedback}, without noise"),
            );
            figure = figure
                .with(
                    Series::new(&label, measured, look.kind(Kind::ErrorBars))
                        .band(rows.points("queries_low", "queries_high")?),
                )
                .with(Series::new(
                    &exact,
                    rows.points("horizon", "noiseless")?,
                    look.kind(Kind::Dashed),
                ));
        }
        panels.push(figure);
    }
    let (a, target) = (value(&table, "n_actions")?, value(&table, "target")?);
    let title = match separated(&table)? {
        true => "The separation survives when feedback is a noisy preference",
        false => "Sentence and token feedback when it is a noisy preference",
    };
    Panels::new(title, 2, panels)
        .subtitle(&format!("A = {a}; labels until the best response is found with probability {target}"))
        .caption("Bars: 95% interval from the success rate over replicates. Dashed: comparisons when labels come without noise (sentence: Aᴴ − 1).")
        .save(dir, "noisy_preferences")
}

/// Whether token labels need fewer comparisons at the longest horizon of the chains, beyond both intervals.
fn separated(table: &Table) -> Result<bool> {
    let rows = table.filter("family", "needle")?;
    let last = |feedback: &str, column: &str| -> Result<Option<f64>> {
        let rows = rows
            .filter("feedback", feedback)?
            .points("horizon", column)?;
        let last = rows.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        Ok(last.map(|p| p.1))
    };
    // An end that is not known is NaN, and decides nothing.
    Ok(last("token", "queries_high")?
        .zip(last("sentence", "queries_low")?)
        .is_some_and(|(token, sentence)| token < sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separation_is_claimed_beyond_both_intervals() {
        let claimed = |token_high: f64, sentence_low: f64| {
            let columns = [
                "family",
                "feedback",
                "horizon",
                "queries_low",
                "queries_high",
            ];
            let mut table = Table::new("preferences", &columns);
            for (feedback, low, high) in
                [("token", 1.0, token_high), ("sentence", sentence_low, 1e9)]
            {
                for (horizon, factor) in [(5, 1.0), (1, 100.0)] {
                    table.push([
                        "needle".into(),
                        feedback.into(),
                        horizon.into(),
                        (low * factor).into(),
                        high.into(),
                    ]);
                }
            }
            separated(&table).unwrap()
        };
        assert!(claimed(10.0, 11.0));
        assert!(!claimed(10.0, 10.0) && !claimed(10.0, 9.0) && !claimed(f64::NAN, 9.0));
    }
}
