//! Cuts lines and areas at the edge of the plot, where an axis has a fixed range.

use super::canvas::Point;

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rect {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
}

impl Rect {
    pub(crate) fn width(&self) -> f64 {
        self.right - self.left
    }

    pub(crate) fn height(&self) -> f64 {
        self.bottom - self.top
    }

    pub(crate) fn contains(&self, p: Point) -> bool {
        let slack = 0.01;
        p.0 >= self.left - slack
            && p.0 <= self.right + slack
            && p.1 >= self.top - slack
            && p.1 <= self.bottom + slack
    }

    /// The part of a segment inside (Liang and Barsky).
    fn segment(&self, a: Point, b: Point) -> Option<(Point, Point)> {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let (mut start, mut end) = (0.0f64, 1.0f64);
        let sides = [
            (-dx, a.0 - self.left),
            (dx, self.right - a.0),
            (-dy, a.1 - self.top),
            (dy, self.bottom - a.1),
        ];
        for (p, q) in sides {
            if p == 0.0 {
                if q < 0.0 {
                    return None;
                }
            } else if p < 0.0 {
                start = start.max(q / p);
            } else {
                end = end.min(q / p);
            }
        }
        let at = |t: f64| (a.0 + dx * t, a.1 + dy * t);
        (start <= end).then(|| (at(start), at(end)))
    }

    /// The parts of a path inside.
    pub(crate) fn path(&self, points: &[Point]) -> Vec<Vec<Point>> {
        let mut pieces: Vec<Vec<Point>> = Vec::new();
        for pair in points.windows(2) {
            let Some((a, b)) = self.segment(pair[0], pair[1]) else {
                continue;
            };
            match pieces.last_mut() {
                Some(piece) if piece.last() == Some(&a) => piece.push(b),
                _ => pieces.push(vec![a, b]),
            }
        }
        pieces
    }

    /// The part of a polygon inside (Sutherland and Hodgman).
    pub(crate) fn polygon(&self, points: &[Point]) -> Vec<Point> {
        // The signed distance from each side, positive inside.
        type Side<'a> = &'a dyn Fn(Point) -> f64;
        let sides: [Side; 4] = [
            &|p| p.0 - self.left,
            &|p| self.right - p.0,
            &|p| p.1 - self.top,
            &|p| self.bottom - p.1,
        ];
        let mut ring = points.to_vec();
        for side in sides {
            let mut next = Vec::new();
            for (i, &b) in ring.iter().enumerate() {
                let a = ring[(i + ring.len() - 1) % ring.len()];
                let (from, to) = (side(a), side(b));
                if (from >= 0.0) != (to >= 0.0) {
                    let t = from / (from - to);
                    next.push((a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t));
                }
                if to >= 0.0 {
                    next.push(b);
                }
            }
            ring = next;
        }
        ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Rect = Rect {
        left: 0.0,
        top: 0.0,
        right: 1.0,
        bottom: 1.0,
    };

    #[test]
    fn paths_are_cut_at_the_edge() {
        let pieces = UNIT.path(&[(-1.0, 0.5), (0.5, 0.5), (0.5, 3.0), (0.6, 3.0), (0.6, 0.0)]);
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0], [(0.0, 0.5), (0.5, 0.5), (0.5, 1.0)]);
        assert!(UNIT.path(&[(2.0, 0.0), (2.0, 1.0)]).is_empty());
    }

    #[test]
    fn polygons_are_cut_at_the_edge() {
        let ring = UNIT.polygon(&[(-1.0, 0.25), (2.0, 0.25), (2.0, 0.75), (-1.0, 0.75)]);
        assert_eq!(ring.len(), 4);
        assert!(ring.iter().all(|p| UNIT.contains(*p)));
        assert!(
            UNIT.polygon(&[(2.0, 2.0), (3.0, 2.0), (3.0, 3.0)])
                .is_empty()
        );
    }
}
