use super::*;
use crate::plot::{Kind, SeriesStyle};

/// Where the names of the series are written.
fn written(series: &[Series], area: Rect) -> Vec<Rect> {
    let mut painter = Painter::new(600, 400);
    draw(&mut painter, series, area, &|p| Some(p), 12.0);
    let texts = painter.shapes.iter().filter_map(|shape| match shape {
        crate::plot::canvas::Shape::Text {
            text,
            baseline,
            font,
            ..
        } => Some(Rect {
            left: baseline.0,
            right: baseline.0 + font.width(text),
            top: baseline.1 - font.size * 0.7,
            bottom: baseline.1,
        }),
        _ => None,
    });
    texts.collect()
}

/// The name of a curve that ends near the edge stands clear of the whole curve, not of its points alone.
#[test]
fn a_name_keeps_off_its_line() {
    let area = Rect {
        left: 0.0,
        top: 0.0,
        right: 600.0,
        bottom: 400.0,
    };
    let curve = vec![(40.0, 300.0), (400.0, 212.0), (560.0, 200.0)];
    let style = SeriesStyle::nth(0).kind(Kind::Dashed);
    let series = [Series::new("", curve.clone(), style).tag("exact optimum")];
    let names = written(&series, area);
    assert_eq!(names.len(), 1);
    for ends in curve.windows(2) {
        for t in 0..=200 {
            let t = f64::from(t) / 200.0;
            let x = ends[0].0 + t * (ends[1].0 - ends[0].0);
            let y = ends[0].1 + t * (ends[1].1 - ends[0].1);
            assert!(!names[0].contains((x, y)), "{:?} at {x}, {y}", names[0]);
        }
    }
}

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
    let rects = written(&series, area);
    assert_eq!(rects.len(), 12);
    for (i, a) in rects.iter().enumerate() {
        assert!(outside(a, &area) == 0.0, "{a:?}");
        assert!(rects[..i].iter().all(|b| shared(a, b) == 0.0), "{a:?}");
    }
}
