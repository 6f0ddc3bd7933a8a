//! Names written beside the points they belong to, in place of a legend.

use super::canvas::{Anchor, Font, LINE, Painter, Point};
use super::clip::Rect;
use super::figure::Series;
use super::series::MARKER_SIZE;
use super::style::Color;

/// The distance from a point to the nearest edge of its name.
const GAP: f64 = 9.0;

type At<'a> = &'a dyn Fn(Point) -> Option<Point>;

/// Writes the tag of each series beside its last point, where it lies on nothing else.
pub(crate) fn draw(painter: &mut Painter, all: &[Series], area: Rect, at: At, size: f64) {
    let points = |series: &Series| -> Vec<Point> {
        let inside = series.points.iter().filter_map(|p| at(*p));
        inside.filter(|p| area.contains(*p)).collect()
    };
    let mut taken: Vec<Rect> = Vec::new();
    for series in all {
        let reach = if series.style.kind.has_marker() {
            MARKER_SIZE + 1.0
        } else {
            1.0
        };
        if series.style.kind.has_line() {
            // A line is in the way all along, not only where its points are.
            for ends in points(series).windows(2) {
                taken.extend(along(ends[0], ends[1]));
            }
        }
        for (i, p) in points(series).into_iter().enumerate() {
            taken.push(around(p, reach));
            // A bar is as much in the way as its marker.
            let ends = series.band.as_ref().and_then(|b| b.get(i)).copied();
            if let (Some((low, high)), true) = (ends, series.style.kind.has_marker()) {
                let x = series.points[i].0;
                if let (Some(low), Some(high)) = (at((x, low)), at((x, high))) {
                    taken.push(Rect {
                        left: p.0 - 3.0,
                        right: p.0 + 3.0,
                        top: high.1,
                        bottom: low.1,
                    });
                }
            }
        }
    }
    for series in all {
        let (Some(tag), Some(&point)) = (&series.tag, points(series).last()) else {
            continue;
        };
        let font = Font::new(size, Color::palette(series.style.color)).bold();
        let (width, height) = (font.width(tag), size * LINE);
        let cost = |place: &(Rect, usize)| {
            let (rect, rank) = place;
            let over: f64 = taken.iter().map(|other| shared(rect, other)).sum();
            over + 50.0 * outside(rect, &area) + *rank as f64
        };
        let best = places(point, width, height)
            .into_iter()
            .enumerate()
            .map(|(rank, rect)| (rect, rank))
            .min_by(|a, b| cost(a).total_cmp(&cost(b)));
        if let Some((rect, _)) = best {
            let middle = (rect.left, (rect.top + rect.bottom) / 2.0);
            painter.text(middle, tag, font.anchor(Anchor::Start));
            taken.push(rect);
        }
    }
}

/// Where a name may lie, best first.
fn places(p: Point, width: f64, height: f64) -> Vec<Rect> {
    let mut all = Vec::new();
    for gap in [GAP, 2.2 * GAP, 4.0 * GAP] {
        let (right, left) = (p.0 + gap, p.0 - gap - width);
        let (above, below) = (p.1 - gap - height, p.1 + gap);
        let (centre, middle) = (p.0 - width / 2.0, p.1 - height / 2.0);
        let corners = [
            (right, middle),
            (left, middle),
            (right, above + gap),
            (right, below - gap),
            (left, above + gap),
            (left, below - gap),
            (centre, above),
            (centre, below),
        ];
        all.extend(corners.map(|(left, top)| Rect {
            left,
            top,
            right: left + width,
            bottom: top + height,
        }));
    }
    all
}

/// A segment as small squares, close enough to leave no gap for a name.
fn along(from: Point, to: Point) -> impl Iterator<Item = Rect> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let n = (dx.hypot(dy) / 4.0).ceil().max(1.0);
    (0..=n as usize).map(move |k| {
        let t = k as f64 / n;
        around((from.0 + t * dx, from.1 + t * dy), 2.0)
    })
}

fn around(p: Point, reach: f64) -> Rect {
    Rect {
        left: p.0 - reach,
        right: p.0 + reach,
        top: p.1 - reach,
        bottom: p.1 + reach,
    }
}

/// The area of what two rectangles share.
fn shared(a: &Rect, b: &Rect) -> f64 {
    let width = a.right.min(b.right) - a.left.max(b.left);
    let height = a.bottom.min(b.bottom) - a.top.max(b.top);
    width.max(0.0) * height.max(0.0)
}

/// How far a rectangle stands out of another, in pixels.
fn outside(a: &Rect, area: &Rect) -> f64 {
    let over = [
        area.left - a.left,
        a.right - area.right,
        area.top - a.top,
        a.bottom - area.bottom,
    ];
    over.iter().map(|o| o.max(0.0)).sum()
}

#[cfg(test)]
mod tests;
