//! Names written beside the points they belong to, in place of a legend.

use super::canvas::{Anchor, Font, LINE, Painter, Point};
use super::clip::Rect;
use super::figure::Series;
use super::series::MARKER_SIZE;
use super::style::Color;

/// From a point to the nearest edge of its name.
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
mod tests {
    use super::*;
    use crate::plot::{Kind, SeriesStyle};

    /// Twelve points close together: no two names overlap, and none leaves the plot.
    #[test]
    fn names_keep_apart_and_inside() {
        let area = Rect {
            left: 0.0,
            top: 0.0,
            right: 600.0,
            bottom: 400.0,
        };
        let series: Vec<Series> = (0..12)
            .map(|i| {
                let angle = f64::from(i);
                let p = (560.0 - 18.0 * angle, 200.0 + 30.0 * angle.sin());
                let style = SeriesStyle::nth(i as usize).kind(Kind::Markers);
                Series::new("", vec![p], style).tag(&format!("method {i}"))
            })
            .collect();
        let mut painter = Painter::new(600, 400);
        draw(&mut painter, &series, area, &|p| Some(p), 12.0);
        let mut rects: Vec<Rect> = Vec::new();
        for shape in &painter.shapes {
            let crate::plot::canvas::Shape::Text {
                text,
                baseline,
                font,
                ..
            } = shape
            else {
                continue;
            };
            rects.push(Rect {
                left: baseline.0,
                right: baseline.0 + font.width(text),
                top: baseline.1 - font.size * 0.7,
                bottom: baseline.1,
            });
        }
        assert_eq!(rects.len(), 12);
        for (i, a) in rects.iter().enumerate() {
            assert!(outside(a, &area) == 0.0, "{a:?}");
            assert!(rects[..i].iter().all(|b| shared(a, b) == 0.0), "{a:?}");
        }
    }
}
