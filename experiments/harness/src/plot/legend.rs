//! Legends: beside the plot or in rows below it.

use super::canvas::{Anchor, Font, LINE, Painter, Stroke};
use super::clip::Rect;
use super::figure::Series;
use super::layout::Sizes;
use super::series;
use super::style::{Color, Kind, SeriesStyle};

/// One line of a legend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    label: String,
    style: SeriesStyle,
    band: bool,
}

const SAMPLE: f64 = 36.0;
const GAP: f64 = 8.0;

/// The entries of some series: those with a label and no tag, each look once.
pub(crate) fn entries<'a>(series: impl IntoIterator<Item = &'a Series>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let named = |s: &&Series| !s.label.trim().is_empty() && s.tag.is_none();
    for s in series.into_iter().filter(named) {
        let band = s.band.is_some() && s.style.kind != Kind::ErrorBars;
        match entries
            .iter_mut()
            .find(|e| e.label == s.label && e.style == s.style)
        {
            Some(entry) => entry.band |= band,
            None => entries.push(Entry {
                label: s.label.clone(),
                style: s.style,
                band,
            }),
        }
    }
    entries
}

fn font(sizes: &Sizes) -> Font {
    Font::new(sizes.tick, Color::INK).anchor(Anchor::Start)
}

fn wrapped(entry: &Entry, limit: f64, sizes: &Sizes) -> Vec<String> {
    font(sizes).wrap(&entry.label, (limit - SAMPLE - GAP).max(40.0))
}

/// Width that a legend beside the plot needs, at most about `limit`.
pub(crate) fn width(entries: &[Entry], limit: f64, sizes: &Sizes) -> f64 {
    let lines = entries
        .iter()
        .flat_map(|entry| wrapped(entry, limit, sizes));
    let text = lines
        .map(|line| font(sizes).width(&line))
        .fold(0.0, f64::max);
    SAMPLE + GAP + text + sizes.pad * 0.9
}

/// Draws the legend beside the plot from `at` down; returns where it ends.
pub(crate) fn right(
    painter: &mut Painter,
    entries: &[Entry],
    at: (f64, f64),
    limit: f64,
    sizes: &Sizes,
) -> f64 {
    let step = sizes.tick * LINE;
    let mut y = at.1 + 4.0;
    for entry in entries {
        let lines = wrapped(entry, limit, sizes);
        sample(painter, (at.0, y + step / 2.0), entry);
        for (i, line) in lines.iter().enumerate() {
            painter.text(
                (at.0 + SAMPLE + GAP, y + step * (i as f64 + 0.5)),
                line,
                font(sizes),
            );
        }
        y += step * lines.len() as f64 + 6.0;
    }
    y
}

/// A row of a legend below the plot: its width and its texts, each with its sample unless it
/// continues the row above.
type Row<'a> = (f64, Vec<(Option<&'a Entry>, String)>);

const BETWEEN: f64 = 22.0;

fn rows<'a>(entries: &'a [Entry], full: f64, sizes: &Sizes) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for entry in entries {
        for (i, line) in wrapped(entry, full, sizes).into_iter().enumerate() {
            let width = SAMPLE + GAP + font(sizes).width(&line);
            match rows.last_mut() {
                Some((used, row)) if i == 0 && *used + BETWEEN + width <= full => {
                    *used += BETWEEN + width;
                    row.push((Some(entry), line));
                }
                _ => rows.push((width, vec![((i == 0).then_some(entry), line)])),
            }
        }
    }
    rows
}

/// Draws the legend in rows that end at `bottom`; returns where the plot must end.
pub(crate) fn below(
    painter: &mut Painter,
    entries: &[Entry],
    page: Rect,
    bottom: f64,
    sizes: &Sizes,
) -> f64 {
    let rows = rows(entries, page.width() - 2.0 * sizes.pad, sizes);
    let step = sizes.tick * LINE + 5.0;
    let top = bottom - rows.len() as f64 * step;
    // All rows begin where the widest one does, so that samples line up.
    let widest = rows.iter().map(|row| row.0).fold(0.0, f64::max);
    for (r, (_, row)) in rows.iter().enumerate() {
        let y = top + step * (r as f64 + 0.5);
        let mut x = page.left + (page.width() - widest) / 2.0;
        for (entry, text) in row {
            if let Some(entry) = entry {
                sample(painter, (x, y), entry);
            }
            painter.text((x + SAMPLE + GAP, y), text, font(sizes));
            x += SAMPLE + GAP + font(sizes).width(text) + BETWEEN;
        }
    }
    top - sizes.pad * 0.4
}

/// A short piece of the series: band, line, bar and marker as in the plot.
fn sample(painter: &mut Painter, at: (f64, f64), entry: &Entry) {
    let (x, y) = at;
    let color = Color::palette(entry.style.color);
    let middle = (x + SAMPLE / 2.0, y);
    if entry.band {
        let (top, bottom, right) = (y - 6.0, y + 6.0, x + SAMPLE);
        painter.polygon(
            &[(x, top), (right, top), (right, bottom), (x, bottom)],
            color.alpha(0.18),
        );
    }
    if entry.style.kind.has_line() {
        painter.line((x, y), (x + SAMPLE, y), series::stroke(entry.style));
    }
    if entry.style.kind == Kind::ErrorBars {
        let stroke = Stroke::solid(color, 1.4);
        painter.line((middle.0, y - 8.0), (middle.0, y + 8.0), stroke);
        for end in [y - 8.0, y + 8.0] {
            painter.line((middle.0 - 4.0, end), (middle.0 + 4.0, end), stroke);
        }
    }
    if entry.style.kind.has_marker() {
        series::marker(painter, middle, entry.style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_share_one_entry_per_look() {
        let a = Series::new("paper", vec![], SeriesStyle::nth(0));
        let b = Series::new("paper", vec![], SeriesStyle::nth(1));
        let unnamed = Series::new("", vec![], SeriesStyle::nth(2));
        let banded = a.clone().band(vec![]);
        let found = entries([&a, &banded, &b, &unnamed]);
        assert_eq!(found.len(), 2);
        assert!(found[0].band && !found[1].band);
    }

    #[test]
    fn rows_below_stay_on_the_page() {
        let series: Vec<_> = (0..9)
            .map(|i| Series::new(&format!("series number {i}"), vec![], SeriesStyle::nth(i)))
            .collect();
        let mut painter = Painter::new(400, 300);
        let page = Rect {
            left: 0.0,
            top: 0.0,
            right: 400.0,
            bottom: 300.0,
        };
        let top = below(&mut painter, &entries(&series), page, 290.0, &Sizes::PANEL);
        assert!(top < 230.0 && top > 150.0, "{top}");
    }
}
