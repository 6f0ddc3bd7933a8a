//! Colours, line styles and markers that stay apart in grey and for colour-blind readers.

/// A colour; `alpha` is 1 for opaque.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Color {
    /// Red, 0 to 255.
    pub red: u8,
    /// Green, 0 to 255.
    pub green: u8,
    /// Blue, 0 to 255.
    pub blue: u8,
    /// Opacity, 0 to 1.
    pub alpha: f64,
}

impl Color {
    /// Text and axes.
    pub const INK: Color = Color::rgb(0x22, 0x22, 0x22);
    /// Secondary text: subtitle and caption.
    pub const MUTED: Color = Color::rgb(0x55, 0x55, 0x55);
    /// Grid lines.
    pub const GRID: Color = Color::rgb(0xdd, 0xdd, 0xdd);
    /// Background.
    pub const WHITE: Color = Color::rgb(0xff, 0xff, 0xff);

    /// An opaque colour.
    pub const fn rgb(red: u8, green: u8, blue: u8) -> Self {
        Self {
            red,
            green,
            blue,
            alpha: 1.0,
        }
    }

    /// The same colour with another opacity.
    pub const fn alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    /// The palette, by index; it starts over after [`PALETTE_LEN`].
    pub fn palette(index: usize) -> Self {
        PALETTE[index % PALETTE.len()]
    }

    /// How light the colour looks in grey, 0 to 100 (CIE L*).
    pub fn lightness(self) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        };
        let y =
            0.2126 * linear(self.red) + 0.7152 * linear(self.green) + 0.0722 * linear(self.blue);
        if y <= 0.008856 {
            903.3 * y
        } else {
            116.0 * y.cbrt() - 16.0
        }
    }
}

/// How many colours the palette has.
pub const PALETTE_LEN: usize = 10;

/// Neighbours differ in lightness by at least 12, so that they stay apart in grey.
const PALETTE: [Color; PALETTE_LEN] = [
    Color::rgb(0x1b, 0x4f, 0x9c), // blue
    Color::rgb(0xe0, 0x7b, 0x00), // orange
    Color::rgb(0x0b, 0x7a, 0x55), // green
    Color::rgb(0x8c, 0x12, 0x4c), // crimson
    Color::rgb(0x4f, 0xae, 0xe8), // sky
    Color::rgb(0x6a, 0x3d, 0x9a), // purple
    Color::rgb(0xa8, 0x84, 0x1c), // ochre
    Color::rgb(0x3c, 0x3c, 0x3c), // grey
    Color::rgb(0xe0, 0x6f, 0xa8), // pink
    Color::rgb(0x6e, 0x3b, 0x12), // brown
];

/// How the points of a series are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A solid line.
    Line,
    /// A solid line with markers.
    #[default]
    LineMarkers,
    /// Markers only.
    Markers,
    /// A dashed line; by convention the theory's curve.
    Dashed,
    /// A dotted line.
    Dotted,
    /// A dashed line with markers: the same method in another setting.
    DashedMarkers,
    /// A dotted line with markers.
    DottedMarkers,
    /// Dashes and dots in turn.
    DashDot,
    /// Dashes and dots in turn, with markers.
    DashDotMarkers,
    /// Markers with vertical bars from `band` (low, high).
    ErrorBars,
}

impl Kind {
    pub(crate) fn has_line(self) -> bool {
        !matches!(self, Kind::Markers | Kind::ErrorBars)
    }

    pub(crate) fn has_marker(self) -> bool {
        self == self.marked()
    }

    /// The same line with a marker at every point; what has no line stays what it is.
    pub fn marked(self) -> Self {
        match self {
            Kind::Line => Kind::LineMarkers,
            Kind::Dashed => Kind::DashedMarkers,
            Kind::Dotted => Kind::DottedMarkers,
            Kind::DashDot => Kind::DashDotMarkers,
            other => other,
        }
    }

    pub(crate) fn dash(self) -> &'static [f64] {
        match self {
            Kind::Dashed | Kind::DashedMarkers => &[8.0, 4.5],
            Kind::Dotted | Kind::DottedMarkers => &[2.0, 3.5],
            Kind::DashDot | Kind::DashDotMarkers => &[10.0, 3.5, 2.0, 3.5],
            _ => &[],
        }
    }
}

/// A marker's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Marker {
    /// A disc.
    #[default]
    Circle,
    /// A square.
    Square,
    /// A triangle, tip up.
    Triangle,
    /// A diagonal cross.
    Cross,
    /// A triangle, tip down.
    TriangleDown,
    /// A square on its tip.
    Diamond,
    /// An upright cross.
    Plus,
    /// The outline of a disc.
    OpenCircle,
    /// The outline of a square.
    OpenSquare,
    /// The outline of a triangle, tip down.
    OpenTriangle,
    /// The outline of a triangle, tip up.
    OpenTriangleUp,
    /// The outline of a square on its tip.
    OpenDiamond,
}

impl Marker {
    /// Its outline; what is one, and a cross, stays what it is.
    pub fn open(self) -> Self {
        match self {
            Marker::Circle => Marker::OpenCircle,
            Marker::Square => Marker::OpenSquare,
            Marker::Triangle => Marker::OpenTriangleUp,
            Marker::TriangleDown => Marker::OpenTriangle,
            Marker::Diamond => Marker::OpenDiamond,
            other => other,
        }
    }
}

/// How a series looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeriesStyle {
    /// Line, markers or both.
    pub kind: Kind,
    /// Index into the palette.
    pub color: usize,
    /// The marker, where `kind` has one.
    pub marker: Marker,
}

impl SeriesStyle {
    /// A style.
    pub fn new(kind: Kind, color: usize, marker: Marker) -> Self {
        Self {
            kind,
            color,
            marker,
        }
    }

    /// The `i`-th style of measured series: colour and marker change together.
    pub fn nth(i: usize) -> Self {
        use Marker::{Circle, Cross, Diamond, Square, Triangle};
        let marker = [Circle, Square, Triangle, Diamond, Cross][i % 5];
        Self {
            kind: Kind::LineMarkers,
            color: i,
            marker,
        }
    }

    /// The `i`-th style of series with too many points for markers: colour and dashes change.
    pub fn nth_line(i: usize) -> Self {
        let kind = [Kind::Line, Kind::Dashed, Kind::DashDot, Kind::Dotted][i % 4];
        Self {
            kind,
            color: i,
            marker: Marker::Circle,
        }
    }

    /// The same colour and marker with another kind, for the theory beside a measurement.
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ_in_grey_and_all_read_on_white() {
        for i in 0..PALETTE_LEN {
            let (a, b) = (
                Color::palette(i).lightness(),
                Color::palette(i + 1).lightness(),
            );
            assert!(
                (a - b).abs() >= 12.0 || i + 1 == PALETTE_LEN,
                "{i}: {a} {b}"
            );
            assert!(a < 72.0, "{i}: {a}");
        }
        assert!((Color::WHITE.lightness() - 100.0).abs() < 0.1);
    }

    #[test]
    fn a_marked_line_is_the_same_line() {
        for kind in [Kind::Line, Kind::Dashed, Kind::Dotted, Kind::DashDot] {
            let marked = kind.marked();
            assert!(!kind.has_marker() && marked.has_marker() && marked.has_line());
            assert_eq!(marked.dash(), kind.dash());
        }
        assert!(Kind::Markers.has_marker() && Kind::ErrorBars.has_marker());
    }

    #[test]
    fn the_first_styles_are_all_different() {
        for i in 0..5 {
            for j in 0..i {
                assert_ne!(SeriesStyle::nth(i).marker, SeriesStyle::nth(j).marker);
                assert_ne!(SeriesStyle::nth(i).color, SeriesStyle::nth(j).color);
            }
        }
        assert_ne!(
            SeriesStyle::nth_line(0).kind.dash(),
            SeriesStyle::nth_line(1).kind.dash()
        );
    }
}
