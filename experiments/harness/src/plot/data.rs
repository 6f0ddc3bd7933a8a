//! What a drawn plot shows, as numbers: a page lets its reader point at them and look closer.

use serde_json::{Value, json};

use super::axis::{Mapped, Scale};
use super::clip::Rect;
use super::figure::{Figure, Series};
use super::style::Color;

/// Digits of a number that a screen can tell apart.
const DIGITS: i32 = 6;

/// A plot's rectangle, the one it covers with its ticks, its axes and its series. `None` where an axis has names in place of numbers, or there are no data.
pub(crate) fn of(
    figure: &Figure,
    (area, cover): (Rect, Rect),
    maps: (&Mapped, &Mapped),
) -> Option<Value> {
    let axis = |scale: &Scale, map: &Mapped| -> Option<Value> {
        if matches!(scale, Scale::Category(_)) || !map.known {
            return None;
        }
        // A position is affine in the value or in its logarithm.
        let log = *scale == Scale::Log10;
        let (zero, one) = match log {
            true => (map.unit(1.0)?, map.unit(10.0)?),
            false => (map.unit(0.0)?, map.unit(1.0)?),
        };
        let size = 1.0 / (one - zero);
        let low = -zero * size;
        Some(json!([u8::from(log), short(low), short(low + size)]))
    };
    let x = axis(&figure.x.scale, maps.0)?;
    let y = axis(&figure.y.scale, maps.1)?;
    let ends = |r: Rect| [r.left, r.top, r.right, r.bottom].map(short);
    let all = &figure.series;
    let series: Vec<Value> = all.iter().map(|s| one(s, all)).collect();
    Some(json!({
        "area": ends(area),
        "cover": ends(cover),
        "x": x,
        "y": y,
        "names": [figure.x.label, figure.y.label],
        "series": series,
    }))
}

/// A series without a name is taken for what has its look: the way to a marker.
fn one(series: &Series, all: &[Series]) -> Value {
    let Color {
        red, green, blue, ..
    } = Color::palette(series.style.color);
    let own = |s: &Series| s.tag.clone().unwrap_or_else(|| s.label.clone());
    let alike = |s: &&Series| s.style.color == series.style.color && !own(s).is_empty();
    let name = match own(series) {
        name if name.is_empty() => all.iter().find(alike).map(own).unwrap_or_default(),
        name => name,
    };
    let points = series
        .points
        .iter()
        .filter(|p| p.0.is_finite() && p.1.is_finite());
    let mut value = json!({
        "name": name,
        "color": format!("#{red:02X}{green:02X}{blue:02X}"),
        "line": u8::from(series.style.kind.has_line()),
        "dash": series.style.kind.dash(),
        "points": points.map(|p| json!([short(p.0), short(p.1)])).collect::<Vec<_>>(),
    });
    let all = series
        .points
        .iter()
        .all(|p| p.0.is_finite() && p.1.is_finite());
    if let (Some(band), true) = (&series.band, all) {
        value["band"] = band
            .iter()
            .map(|b| json!([short(b.0), short(b.1)]))
            .collect();
    }
    value
}

/// Rounded to [`DIGITS`] significant digits; null where there is no number.
fn short(value: f64) -> Value {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { json!(0) } else { Value::Null };
    }
    let text = format!("{value:.*e}", DIGITS as usize - 1);
    text.parse::<f64>().map_or(Value::Null, |v| json!(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Axis, SeriesStyle};

    #[test]
    fn a_plot_says_where_it_lies_and_what_it_shows() {
        let points = vec![(0.0, 1.0), (10.0, 1234567.0), (f64::NAN, 1.0)];
        let figure = Figure::new(
            "t",
            Axis::linear("x").range(0.0, 10.0),
            Axis::log10("y").range(1.0, 1e7),
        )
        .with(Series::new("a", points, SeriesStyle::nth(0)));
        let maps = (
            Mapped::new(&figure.x, [].into_iter()),
            Mapped::new(&figure.y, [].into_iter()),
        );
        let area = Rect {
            left: 1.0,
            top: 2.0,
            right: 3.0,
            bottom: 4.0,
        };
        let value = of(&figure, (area, area), (&maps.0, &maps.1)).unwrap();
        assert_eq!(value["x"], json!([0, 0, 10.0]));
        assert_eq!(value["y"][0], json!(1));
        assert!((value["y"][2].as_f64().unwrap() - 7.0).abs() < 1e-9);
        assert_eq!(
            value["series"][0]["points"],
            json!([[0, 1.0], [10.0, 1234570.0]])
        );
    }
}
