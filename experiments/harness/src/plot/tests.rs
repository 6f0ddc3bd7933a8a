//! Whole figures: bytes, texts, and the odd data a run may produce.

use super::canvas::Shape;
use super::*;

fn sample(title: &str) -> Figure {
    let exhaustive: Vec<_> = (1..=10).map(|h| (f64::from(h), 4f64.powi(h))).collect();
    let paper: Vec<_> = (1..=10)
        .map(|h| (f64::from(h), f64::from(h * h * 4)))
        .collect();
    let band = paper.iter().map(|p| (p.1 * 0.6, p.1 * 1.7)).collect();
    Figure::new(
        title,
        Axis::linear("horizon H (tokens)"),
        Axis::log10("oracle queries (count)"),
    )
    .subtitle("Token tree with A = 4 actions, ξ = 1; 20 instances per point")
    .caption(
        "Bands: 10% to 90% of instances. Dashed: the bound of Proposition 3.2, A·min(ξ + 1, H)·H.",
    )
    .with(Series::new(
        "exhaustive, sentence reward",
        exhaustive,
        SeriesStyle::nth(0),
    ))
    .with(Series::new("Algorithm of Prop. 3.2", paper.clone(), SeriesStyle::nth(1)).band(band))
    .with(Series::new(
        "theory",
        paper.iter().map(|p| (p.0, p.1 * 3.0)).collect(),
        SeriesStyle::nth(3).kind(Kind::Dashed),
    ))
}

fn gallery() -> Vec<(&'static str, Painter)> {
    let bars: Vec<_> = (0..6)
        .map(|i| (f64::from(i) * 0.2, 1.0 / f64::from(i + 1)))
        .collect();
    let spread = |s: f64| bars.iter().map(|p| (p.1 - s, p.1 + s)).collect::<Vec<_>>();
    let long = "A rather long title about suboptimality against sample size that has to be broken into two lines to fit on the page";
    let many = (0..8).fold(
        Figure::new(
            long,
            Axis::linear("N (pairs)"),
            Axis::linear("SubOpt (reward)"),
        )
        .legend(LegendPlace::Below),
        |f, i| {
            let points = (0..9)
                .map(|n| (f64::from(n) * 25_000.0, f64::from(i) - f64::from(n) * 0.2))
                .collect();
            f.with(Series::new(
                &format!("setting number {i}"),
                points,
                SeriesStyle::nth(i as usize),
            ))
        },
    );
    let lines = (0..5).fold(
        Figure::new(
            "Lines without markers",
            Axis::log10("step"),
            Axis::linear("loss (nats)"),
        ),
        |f, i| {
            let points = (1..300)
                .map(|n| {
                    (
                        f64::from(n),
                        (f64::from(n) / 40.0 + f64::from(i)).sin() * 1e7,
                    )
                })
                .collect();
            f.with(Series::new(
                &format!("β = 0.{i}"),
                points,
                SeriesStyle::nth_line(i as usize),
            ))
        },
    );
    let category = Figure::new(
        "Methods",
        Axis::category(
            "method",
            &[
                "SFT",
                "DPO",
                "PPO",
                "DPPO (paper's sentence-level DPO reward)",
                "RTO",
            ],
        ),
        Axis::linear("win rate (fraction)").range(0.0, 1.0),
    )
    .with(
        Series::new(
            "5 seeds, 95% interval",
            (0..5)
                .map(|i| (f64::from(i), 0.3 + 0.1 * f64::from(i)))
                .collect(),
            SeriesStyle::new(Kind::ErrorBars, 0, Marker::Square),
        )
        .band(
            (0..5)
                .map(|i| (0.22 + 0.1 * f64::from(i), 0.36 + 0.1 * f64::from(i)))
                .collect(),
        ),
    )
    .with(Series::new(
        "chance",
        vec![(-0.5, 0.5), (4.5, 0.5)],
        SeriesStyle::new(Kind::Dotted, 7, Marker::Circle),
    ));
    let odd = Figure::new("Odd data", Axis::log10("x"), Axis::log10("y"))
        .with(Series::new(
            "with gaps",
            vec![
                (1.0, 2.0),
                (2.0, f64::NAN),
                (3.0, 3.0),
                (4.0, 0.0),
                (5.0, -1.0),
                (6.0, 6.0),
                (8.0, 9.0),
            ],
            SeriesStyle::nth(2),
        ))
        .with(
            Series::new(
                "band below zero",
                vec![(1.0, 5.0), (8.0, 7.0)],
                SeriesStyle::nth(3),
            )
            .band(vec![(-1.0, 9.0), (2.0, 12.0)]),
        );
    let clipped = Figure::new(
        "Clipped",
        Axis::linear("x").range(2.0, 6.0),
        Axis::linear("y").range(0.0, 20.0),
    )
    .with(
        Series::new(
            "square",
            (0..10).map(|i| (f64::from(i), f64::from(i * i))).collect(),
            SeriesStyle::nth(0),
        )
        .band(
            (0..10)
                .map(|i| (f64::from(i * i) - 5.0, f64::from(i * i) + 5.0))
                .collect(),
        ),
    );
    let errors = Figure::new(
        "Error bars on a linear axis",
        Axis::linear("β"),
        Axis::linear("gap (nats)"),
    )
    .with(
        Series::new(
            "measured",
            bars.clone(),
            SeriesStyle::new(Kind::ErrorBars, 1, Marker::Diamond),
        )
        .band(spread(0.05)),
    )
    .with(Series::new(
        "1/(i+1)",
        bars.clone(),
        SeriesStyle::new(Kind::DashDot, 0, Marker::Circle),
    ));
    let single = Figure::new("One point", Axis::linear("x"), Axis::log10("y")).with(Series::new(
        "a",
        vec![(3.0, 7.0)],
        SeriesStyle::nth(4),
    ));
    let empty = Figure::new("Empty", Axis::linear("x"), Axis::log10("y"));
    let panels = Panels::new(
        "Two panels share one legend",
        2,
        vec![
            sample("A = 4"),
            sample("A = 8, the same data again for want of others"),
        ],
    )
    .subtitle("a subtitle")
    .caption("A caption for both panels.");
    let crowd = (0..30).fold(
        Figure::new("Thirty series", Axis::linear("x"), Axis::linear("y")),
        |f, i| {
            let points = vec![(0.0, f64::from(i)), (1.0, f64::from(i * i) * 1e-5)];
            f.with(Series::new(
                &format!("series {i} with a label of some length"),
                points,
                SeriesStyle::nth(i as usize),
            ))
        },
    );
    let four = Panels::new(
        "Four panels",
        2,
        vec![
            sample("A = 2").caption("c"),
            sample("A = 4"),
            clipped.clone(),
            errors.clone(),
        ],
    );
    let mut tree = Painter::new(520, 300);
    for (from, to) in [
        ((260.0, 50.0), (130.0, 150.0)),
        ((260.0, 50.0), (390.0, 150.0)),
        ((130.0, 150.0), (60.0, 250.0)),
    ] {
        tree.line(from, to, Stroke::solid(Color::MUTED, 1.5));
        tree.label(
            ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0),
            "0.5",
            Font::new(12.0, Color::MUTED),
        );
    }
    for (at, text) in [
        ((260.0, 50.0), "root\nV = 1.5"),
        ((130.0, 150.0), "a₁"),
        ((390.0, 150.0), "a₂"),
        ((60.0, 250.0), "EOS"),
    ] {
        tree.rounded_box(
            at,
            (76.0, 40.0),
            8.0,
            Color::palette(4).alpha(0.35),
            Stroke::solid(Color::palette(0), 1.5),
        );
        tree.text(at, text, Font::new(13.0, Color::INK));
    }
    vec![
        (
            "log",
            sample("Queries until the best response is known").paint(),
        ),
        ("many", many.paint()),
        ("lines", lines.paint()),
        ("category", category.paint()),
        ("odd", odd.paint()),
        ("clipped", clipped.paint()),
        ("errors", errors.paint()),
        ("single", single.paint()),
        ("empty", empty.paint()),
        ("crowd", crowd.paint()),
        ("grid", four.paint()),
        ("panels", panels.paint()),
        ("tree", tree),
    ]
}

fn texts(painter: &Painter) -> Vec<(String, clip::Rect)> {
    let of = |shape: &Shape| match shape {
        Shape::Text {
            text,
            baseline,
            font,
            upward,
        } => {
            let (w, s) = (font.width(text), font.size);
            let left = match font.anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => w / 2.0,
                Anchor::End => w,
            };
            let (x, y) = *baseline;
            // From a capital's top to the baseline: accents and tails may touch, letters may not.
            let cap = 2.0 * font::HALF_CAP * s;
            let rect = if *upward {
                clip::Rect {
                    left: x - cap,
                    right: x,
                    top: y + left - w,
                    bottom: y + left,
                }
            } else {
                clip::Rect {
                    left: x - left,
                    right: x - left + w,
                    top: y - cap,
                    bottom: y,
                }
            };
            Some((text.clone(), rect))
        }
        _ => None,
    };
    painter.shapes.iter().filter_map(of).collect()
}

#[test]
fn no_text_overlaps_another_or_leaves_the_page() {
    for (name, painter) in gallery() {
        let (w, h) = painter.size();
        let all = texts(&painter);
        for (i, (text, a)) in all.iter().enumerate() {
            let inside = a.left >= 0.0 && a.right <= w && a.top >= 0.0 && a.bottom <= h - 2.0;
            assert!(inside, "{name}: `{text}` at {a:?} leaves {w} × {h}");
            for (other, b) in &all[..i] {
                let apart = a.right <= b.left
                    || b.right <= a.left
                    || a.bottom <= b.top
                    || b.bottom <= a.top;
                assert!(apart, "{name}: `{text}` overlaps `{other}`");
            }
        }
    }
}

#[test]
fn every_figure_is_saved_twice_with_the_same_bytes_each_time() {
    let keep = std::env::var_os("RTO_HARNESS_GALLERY").map(std::path::PathBuf::from);
    let dir = tempfile::tempdir().unwrap();
    let root = keep.unwrap_or_else(|| dir.path().to_path_buf());
    for (name, painter) in gallery() {
        render::save(&painter, &root.join(name)).unwrap();
        let read =
            |extension: &str| std::fs::read(root.join(format!("{name}.{extension}"))).unwrap();
        let (svg, png) = (read("svg"), read("png"));
        assert!(png.starts_with(b"\x89PNG"), "{name}");
        let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        assert_eq!(
            (side(16), side(20)),
            (painter.width * 2, painter.height * 2)
        );
        if name == "log" {
            render::save(&painter, &root.join(name)).unwrap();
            assert!(
                svg == read("svg") && png == read("png"),
                "{name}: bytes differ"
            );
        }
    }
    let files = std::fs::read_dir(&root).unwrap().count();
    assert_eq!(files, 2 * gallery().len(), "a temporary file was left");
}

#[test]
fn svg_keeps_its_size_words_and_escapes() {
    let text = render::svg(&sample("Queries & <answers>").paint()).unwrap();
    assert!(
        text.starts_with(
            "<svg width=\"800\" height=\"500\" role=\"img\" viewBox=\"0 0 8000 5000\""
        ),
        "{}",
        &text[..120]
    );
    for part in [
        "<title>Queries &amp; &lt;answers></title>",
        "horizon H (tokens)",
        "10³",
        "DejaVu Sans",
    ] {
        assert!(text.contains(part), "{part} is missing");
    }
}

#[test]
fn odd_data_is_counted_and_empty_figures_say_so() {
    let words = |name: &str| {
        let (_, painter) = gallery().into_iter().find(|(n, _)| *n == name).unwrap();
        texts(&painter)
            .into_iter()
            .map(|t| t.0)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(words("odd").contains("2 points at or below zero have no place"));
    assert!(words("empty").contains("no data"));
    assert!(!words("single").contains("no data"));
    assert!(words("many").contains("100\u{202f}000"));
    assert!(words("lines").contains("×10⁶"));
}

#[test]
fn data_stay_inside_the_axes() {
    let (_, painter) = gallery()
        .into_iter()
        .find(|(n, _)| *n == "clipped")
        .unwrap();
    for shape in &painter.shapes {
        if let Shape::Path { points, .. } | Shape::Polygon { points, .. } = shape {
            assert!(
                points
                    .iter()
                    .all(|p| p.0 > 0.0 && p.0 < 800.0 && p.1 > 0.0 && p.1 < 500.0)
            );
        }
    }
}

#[test]
fn a_failed_save_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = sample("x").save(&file, "a").unwrap_err().to_string();
    assert!(error.contains("file") && !error.contains('\n'), "{error}");
}

#[test]
fn the_svg_text_is_the_saved_file() {
    let dir = tempfile::tempdir().unwrap();
    let figure = sample("A figure");
    figure.save(dir.path(), "figure").unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(figure.svg().unwrap(), read("figure.svg"));
    let panels = Panels::new("Two panels", 2, vec![figure.clone(), figure]);
    panels.save(dir.path(), "panels").unwrap();
    assert_eq!(panels.svg().unwrap(), read("panels.svg"));
}
