//! A drawing made once and rendered twice: the same shapes as SVG and as PNG.
//!
//! Coordinates are pixels of the drawing at its own size, fractions allowed, `y` downwards. The PNG
//! has twice the pixels in each direction.

use super::font;
use super::style::Color;

/// A position, `(x, y)`.
pub type Point = (f64, f64);

/// Where a text lies relative to its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anchor {
    /// The text begins there.
    Start,
    /// The text is centred there.
    #[default]
    Middle,
    /// The text ends there.
    End,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stroke {
    /// Colour.
    pub color: Color,
    /// Width in pixels.
    pub width: f64,
    /// Lengths of dashes and gaps in turn; empty for a solid line.
    pub dash: &'static [f64],
}

impl Stroke {
    /// A solid line.
    pub fn solid(color: Color, width: f64) -> Self {
        Self {
            color,
            width,
            dash: &[],
        }
    }
}

/// How a text is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Font {
    /// Font size in pixels.
    pub size: f64,
    /// Colour.
    pub color: Color,
    /// Bold or regular.
    pub bold: bool,
    /// Which part of the text lies at its position.
    pub anchor: Anchor,
}

impl Font {
    /// Text that is regular and centred.
    pub fn new(size: f64, color: Color) -> Self {
        Self {
            size,
            color,
            bold: false,
            anchor: Anchor::Middle,
        }
    }

    /// The same, bold.
    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// The same, with another anchor.
    pub fn anchor(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    /// Width of `text` in pixels.
    pub fn width(&self, text: &str) -> f64 {
        font::width(text, self.size, self.bold)
    }

    /// Splits `text` into lines no wider than `width`, at spaces where possible.
    pub fn wrap(&self, text: &str, width: f64) -> Vec<String> {
        font::wrap(text, self.size, self.bold, width)
    }
}

/// One shape, ready for any backend.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Path {
        points: Vec<Point>,
        color: Color,
        width: f64,
    },
    Polygon {
        points: Vec<Point>,
        color: Color,
    },
    Circle {
        center: Point,
        radius: f64,
        color: Color,
    },
    Text {
        text: String,
        baseline: Point,
        font: Font,
        upward: bool,
    },
}

/// Collects the shapes of one drawing.
#[derive(Debug, Clone)]
pub struct Painter {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) description: String,
    /// The numbers of every plot in it.
    pub(crate) plots: Vec<serde_json::Value>,
}

impl Painter {
    /// An empty white drawing.
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            shapes: Vec::new(),
            description: String::new(),
            plots: Vec::new(),
        }
    }

    /// Width and height.
    pub fn size(&self) -> (f64, f64) {
        (self.width.into(), self.height.into())
    }

    /// Says what the drawing shows, for readers who cannot see it (the SVG's title).
    pub fn describe(&mut self, text: &str) {
        self.description = text.to_string();
    }

    /// A straight line.
    pub fn line(&mut self, from: Point, to: Point, stroke: Stroke) {
        self.path(&[from, to], stroke);
    }

    /// A line through many points.
    pub fn path(&mut self, points: &[Point], stroke: Stroke) {
        if stroke.width <= 0.0 || points.iter().any(|p| !p.0.is_finite() || !p.1.is_finite()) {
            return;
        }
        let Stroke { color, width, dash } = stroke;
        let pieces = if dash.is_empty() {
            vec![points.to_vec()]
        } else {
            dashes(points, dash)
        };
        let long = pieces.into_iter().filter(|piece| piece.len() > 1);
        self.shapes.extend(long.map(|points| Shape::Path {
            points,
            color,
            width,
        }));
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: &[Point], color: Color) {
        if points.len() > 2 && points.iter().all(|p| p.0.is_finite() && p.1.is_finite()) {
            self.shapes.push(Shape::Polygon {
                points: points.to_vec(),
                color,
            });
        }
    }

    /// A filled circle.
    pub fn circle(&mut self, center: Point, radius: f64, color: Color) {
        if radius > 0.0 && center.0.is_finite() && center.1.is_finite() {
            self.shapes.push(Shape::Circle {
                center,
                radius,
                color,
            });
        }
    }

    /// A filled box with rounded corners around `center`, with an outline of its own colour.
    ///
    /// It hides what lies below it, so draw the lines that lead to it first.
    pub fn rounded_box(
        &mut self,
        center: Point,
        size: (f64, f64),
        radius: f64,
        fill: Color,
        outline: Stroke,
    ) {
        let mut edge = rounded(center, size, radius);
        if fill.alpha < 1.0 {
            self.polygon(&edge, Color::WHITE);
        }
        self.polygon(&edge, fill);
        edge.extend_from_within(..2);
        self.path(&edge, outline);
    }

    /// Text centred vertically on `at` (by its capitals); `\n` starts a new line.
    pub fn text(&mut self, at: Point, text: &str, font: Font) {
        let lines: Vec<&str> = text.split('\n').collect();
        let step = font.size * LINE;
        let first = at.1 - step * (lines.len() - 1) as f64 / 2.0 + font.size * font::HALF_CAP;
        for (i, line) in lines.into_iter().enumerate() {
            self.push_text((at.0, first + step * i as f64), line, font, false);
        }
    }

    /// The same with a white ground, to write on a line.
    pub fn label(&mut self, at: Point, text: &str, font: Font) {
        let width = text
            .split('\n')
            .map(|line| font.width(line))
            .fold(0.0, f64::max);
        let height = text.split('\n').count() as f64 * font.size * LINE;
        let left = match font.anchor {
            Anchor::Start => at.0,
            Anchor::Middle => at.0 - width / 2.0,
            Anchor::End => at.0 - width,
        };
        let (left, right) = (left - 2.0, left + width + 2.0);
        let (top, bottom) = (at.1 - height / 2.0, at.1 + height / 2.0);
        let ground = [(left, top), (right, top), (right, bottom), (left, bottom)];
        self.polygon(&ground, Color::WHITE);
        self.text(at, text, font);
    }

    /// One line of text that reads upwards, centred horizontally on `at`.
    pub fn text_upward(&mut self, at: Point, text: &str, font: Font) {
        self.push_text((at.0 + font.size * font::HALF_CAP, at.1), text, font, true);
    }

    fn push_text(&mut self, baseline: Point, text: &str, font: Font, upward: bool) {
        if !text.trim().is_empty() && baseline.0.is_finite() && baseline.1.is_finite() {
            let text = text.to_string();
            self.shapes.push(Shape::Text {
                text,
                baseline,
                font,
                upward,
            });
        }
    }
}

/// Distance between lines of text, in font sizes.
pub(crate) const LINE: f64 = 1.32;

fn rounded(center: Point, size: (f64, f64), radius: f64) -> Vec<Point> {
    let (w, h) = (size.0 / 2.0, size.1 / 2.0);
    let r = radius.clamp(0.0, w.min(h));
    let corners = [
        (w - r, h - r, 0.0),
        (r - w, h - r, 90.0),
        (r - w, r - h, 180.0),
        (w - r, r - h, 270.0),
    ];
    let corner = |(dx, dy, start): (f64, f64, f64)| {
        (0..=8).map(move |i| {
            let angle = (start + 90.0 * f64::from(i) / 8.0_f64).to_radians();
            (
                center.0 + dx + r * angle.cos(),
                center.1 + dy + r * angle.sin(),
            )
        })
    };
    corners.into_iter().flat_map(corner).collect()
}

/// Cuts a path into its dashes; the pattern runs on around corners.
fn dashes(points: &[Point], pattern: &[f64]) -> Vec<Vec<Point>> {
    let total: f64 = pattern.iter().sum();
    if !(total > 0.5 && total.is_finite()) {
        return vec![points.to_vec()];
    }
    let mut pieces = Vec::new();
    let (mut index, mut left) = (0, pattern[0]);
    let mut piece: Vec<Point> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let mut done = 0.0;
        while length - done >= left {
            done += left;
            let t = done / length;
            let at = (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t);
            if index % 2 == 0 {
                piece.push(at);
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece = vec![at];
            }
            index = (index + 1) % pattern.len();
            left = pattern[index];
        }
        left -= length - done;
        if index % 2 == 0 && piece.last() != Some(&to) {
            piece.push(to);
        }
    }
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_cover_their_share_and_turn_corners() {
        let path = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)];
        let pieces = dashes(&path, &[4.0, 2.0]);
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[1], [(6.0, 0.0), (10.0, 0.0)]);
        assert_eq!(pieces[2], [(10.0, 2.0), (10.0, 6.0)]);
        assert_eq!(pieces[3], [(10.0, 8.0), (10.0, 10.0)]);
    }

    #[test]
    fn broken_coordinates_draw_nothing() {
        let mut painter = Painter::new(10, 10);
        painter.line((0.0, f64::NAN), (1.0, 1.0), Stroke::solid(Color::INK, 1.0));
        painter.circle((f64::INFINITY, 0.0), 1.0, Color::INK);
        painter.text((0.0, 0.0), " ", Font::new(10.0, Color::INK));
        assert!(painter.shapes.is_empty());
    }

    #[test]
    fn text_breaks_into_lines_around_its_centre() {
        let mut painter = Painter::new(100, 100);
        painter.text((50.0, 50.0), "a\nb", Font::new(10.0, Color::INK));
        let ys: Vec<f64> = painter
            .shapes
            .iter()
            .map(|shape| match shape {
                Shape::Text { baseline, .. } => baseline.1 - 10.0 * font::HALF_CAP,
                _ => f64::NAN,
            })
            .collect();
        assert!((ys[0] + ys[1] - 100.0).abs() < 1e-9 && ys[1] - ys[0] > 10.0);
    }
}
