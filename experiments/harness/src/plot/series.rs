//! Draws series: bands, lines, error bars, markers.

use super::canvas::{Painter, Point, Stroke};
use super::clip::Rect;
use super::figure::Series;
use super::style::{Color, Kind, Marker, SeriesStyle};

pub(crate) const LINE_WIDTH: f64 = 2.0;
pub(crate) const MARKER_SIZE: f64 = 4.0;

/// Maps a point to pixels, or a value of the vertical axis (with: is it the upper end?).
type At<'a> = &'a dyn Fn(Point) -> Option<Point>;
type Level<'a> = &'a dyn Fn(f64, bool) -> Option<f64>;

/// Bands lie below all lines, lines below all markers, so that no series hides another's points.
pub(crate) fn draw(painter: &mut Painter, all: &[Series], area: Rect, at: At, level: Level) {
    for series in all.iter().filter(|s| s.style.kind != Kind::ErrorBars) {
        band(painter, series, area, at, level);
    }
    for series in all.iter().filter(|s| s.style.kind.has_line()) {
        let stroke = stroke(series.style);
        for run in runs(series.points.iter().map(|p| at(*p))) {
            for piece in area.path(&run) {
                painter.path(&piece, stroke);
            }
            // A line of one point would be invisible.
            if let ([only], false) = (run.as_slice(), series.style.kind.has_marker())
                && area.contains(*only)
            {
                painter.circle(*only, LINE_WIDTH, stroke.color);
            }
        }
    }
    for series in all.iter().filter(|s| s.style.kind == Kind::ErrorBars) {
        error_bars(painter, series, area, at, level);
    }
    for series in all.iter().filter(|s| s.style.kind.has_marker()) {
        for point in series
            .points
            .iter()
            .filter_map(|p| at(*p))
            .filter(|p| area.contains(*p))
        {
            marker(painter, point, series.style);
        }
    }
}

pub(crate) fn stroke(style: SeriesStyle) -> Stroke {
    Stroke {
        color: Color::palette(style.color),
        width: LINE_WIDTH,
        dash: style.kind.dash(),
    }
}

/// The longest stretches without a gap.
fn runs<T>(items: impl Iterator<Item = Option<T>>) -> Vec<Vec<T>> {
    let mut runs = vec![Vec::new()];
    for item in items {
        match (item, runs.last_mut()) {
            (Some(item), Some(run)) => run.push(item),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// Pixel column, low and high of each point with a band.
fn edges<'a>(
    series: &'a Series,
    at: At<'a>,
    level: Level<'a>,
) -> impl Iterator<Item = Option<(f64, f64, f64)>> + 'a {
    let band = series.band.as_deref().unwrap_or_default();
    series
        .points
        .iter()
        .zip(band)
        .map(move |(point, (low, high))| {
            let x = at(*point).or_else(|| at((point.0, *high)))?.0;
            Some((x, level(*low, false)?, level(*high, true)?))
        })
}

fn band(painter: &mut Painter, series: &Series, area: Rect, at: At, level: Level) {
    for run in runs(edges(series, at, level)) {
        let upper = run.iter().map(|e| (e.0, e.2));
        let lower = run.iter().rev().map(|e| (e.0, e.1));
        let ring: Vec<Point> = upper.chain(lower).collect();
        painter.polygon(
            &area.polygon(&ring),
            Color::palette(series.style.color).alpha(0.18),
        );
    }
}

fn error_bars(painter: &mut Painter, series: &Series, area: Rect, at: At, level: Level) {
    let stroke = Stroke::solid(Color::palette(series.style.color), 1.4);
    for (x, low, high) in edges(series, at, level).flatten() {
        for piece in area.path(&[(x, low), (x, high)]) {
            painter.path(&piece, stroke);
        }
        for end in [low, high] {
            if area.contains((x, end)) {
                painter.line((x - 4.0, end), (x + 4.0, end), stroke);
            }
        }
    }
}

/// A marker with a thin white edge, so that touching markers stay apart.
pub(crate) fn marker(painter: &mut Painter, at: Point, style: SeriesStyle) {
    let color = Color::palette(style.color);
    let s = MARKER_SIZE;
    if matches!(style.marker, Marker::Cross | Marker::Plus) {
        return cross(painter, at, style.marker == Marker::Plus, color);
    }
    shape(painter, at, style.marker, s + 1.1, Color::WHITE);
    shape(painter, at, style.marker, s, color);
    if is_open(style.marker) {
        // Drawn over: a drawing has no holes.
        shape(painter, at, style.marker, 0.52 * s, Color::WHITE);
    }
}

fn is_open(marker: Marker) -> bool {
    use Marker::{OpenCircle, OpenDiamond, OpenSquare, OpenTriangle, OpenTriangleUp};
    matches!(
        marker,
        OpenCircle | OpenSquare | OpenTriangle | OpenTriangleUp | OpenDiamond
    )
}

/// Two bars, diagonal or upright.
fn cross(painter: &mut Painter, at: Point, upright: bool, color: Color) {
    // As long upright as diagonal.
    let arm = MARKER_SIZE * if upright { 1.2 } else { 0.9 };
    for (width, color) in [(4.2, Color::WHITE), (2.2, color)] {
        let r = arm + (width - 2.2) * 0.35;
        let stroke = Stroke::solid(color, width);
        let bars = match upright {
            true => [((-r, 0.0), (r, 0.0)), ((0.0, -r), (0.0, r))],
            false => [((-r, -r), (r, r)), ((-r, r), (r, -r))],
        };
        for (from, to) in bars {
            painter.line(
                (at.0 + from.0, at.1 + from.1),
                (at.0 + to.0, at.1 + to.1),
                stroke,
            );
        }
    }
}

/// A filled shape of a size.
fn shape(painter: &mut Painter, at: Point, marker: Marker, size: f64, color: Color) {
    let corner = |dx: f64, dy: f64| (at.0 + dx * size, at.1 + dy * size);
    match marker {
        Marker::Square | Marker::OpenSquare => {
            let r = 0.9;
            painter.polygon(
                &[corner(-r, -r), corner(r, -r), corner(r, r), corner(-r, r)],
                color,
            );
        }
        Marker::Triangle | Marker::OpenTriangleUp => {
            painter.polygon(
                &[corner(0.0, -1.25), corner(1.15, 0.8), corner(-1.15, 0.8)],
                color,
            );
        }
        Marker::TriangleDown | Marker::OpenTriangle => {
            painter.polygon(
                &[corner(0.0, 1.25), corner(1.15, -0.8), corner(-1.15, -0.8)],
                color,
            );
        }
        Marker::Diamond | Marker::OpenDiamond => {
            let r = 1.3;
            painter.polygon(
                &[
                    corner(0.0, -r),
                    corner(r, 0.0),
                    corner(0.0, r),
                    corner(-r, 0.0),
                ],
                color,
            );
        }
        // Crosses are drawn by bars.
        Marker::Circle | Marker::OpenCircle | Marker::Cross | Marker::Plus => {
            painter.circle(at, size, color);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_split_runs() {
        let items = [Some(1), Some(2), None, None, Some(3)];
        assert_eq!(runs(items.into_iter()), [vec![1, 2], vec![3]]);
        assert!(runs([None::<i32>].into_iter()).is_empty());
    }
}
