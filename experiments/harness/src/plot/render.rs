//! Renders a [`Painter`] through the plotters backends: SVG text, and PNG with smoothed edges.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color as _, FontFamily, FontStyle, FontTransform, RGBAColor, ShapeStyle, TextStyle,
};

use super::canvas::{Anchor, Font, Painter, Point, Shape};
use super::font;
use super::style::Color;
use crate::atomic;

/// SVG coordinates are whole numbers in plotters, so draw ten times larger under a `viewBox`.
const SVG_SCALE: f64 = 10.0;
/// The PNG has 2 × 2 pixels per pixel of the drawing, each the mean of `SMOOTH`² samples.
const PNG_SCALE: usize = 2;
const SMOOTH: usize = 2;

/// Draws with `paint` and writes `<stem>.svg` and `<stem>.png`, replacing older ones.
///
/// The same shapes give the same bytes. Use it for what a [`Figure`](super::Figure) cannot draw,
/// such as a labelled tree.
pub fn canvas(
    stem: &Path,
    width: u32,
    height: u32,
    paint: impl FnOnce(&mut Painter),
) -> Result<()> {
    let mut painter = Painter::new(width.max(1), height.max(1));
    paint(&mut painter);
    save(&painter, stem)
}

/// The files of figures that are saved meanwhile, where someone wants to know.
static SAVED: Mutex<Option<Vec<PathBuf>>> = Mutex::new(None);

fn saved() -> MutexGuard<'static, Option<Vec<PathBuf>>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `draw`, and names the files of the figures it saved, in order.
///
/// # Errors
/// Those of `draw`.
pub fn drawn(draw: impl FnOnce() -> Result<()>) -> Result<Vec<PathBuf>> {
    *saved() = Some(Vec::new());
    let done = draw();
    let files = saved().take().unwrap_or_default();
    done.map(|()| files)
}

pub(crate) fn save(painter: &Painter, stem: &Path) -> Result<()> {
    let with = |extension: &str| {
        let mut name = stem.as_os_str().to_os_string();
        name.push(extension);
        PathBuf::from(name)
    };
    if let Some(parent) = stem.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)
            .map_err(|e| anyhow!("{}: cannot make the directory: {e}", parent.display()))?;
    }
    let (svg_path, png_path) = (with(".svg"), with(".png"));
    let text = svg(painter).with_context(|| format!("{}: cannot draw", svg_path.display()))?;
    atomic::replace(&svg_path, text.as_bytes())?;
    let image = pixels(painter).with_context(|| format!("{}: cannot draw", png_path.display()))?;
    let size = (
        painter.width * PNG_SCALE as u32,
        painter.height * PNG_SCALE as u32,
    );
    atomic::replace_by(&png_path, |temp| {
        let mut backend = BitMapBackend::new(temp, size);
        backend
            .blit_bitmap((0, 0), size, &image)
            .map_err(|e| anyhow!("{e}"))?;
        backend.present().map_err(|e| anyhow!("{e}"))
    })?;
    if let Some(files) = saved().as_mut() {
        files.extend([svg_path, png_path]);
    }
    Ok(())
}

/// The drawing as SVG text.
pub(crate) fn svg(painter: &Painter) -> Result<String> {
    let scale = SVG_SCALE as u32;
    let big = (painter.width * scale, painter.height * scale);
    let mut text = String::new();
    let mut backend = SVGBackend::with_string(&mut text, big);
    let done = draw(&mut backend, painter, SVG_SCALE, true)
        .and_then(|()| backend.present().map_err(plain));
    drop(backend);
    done?;
    let head = format!("<svg width=\"{}\" height=\"{}\"", big.0, big.1);
    let body = text
        .strip_prefix(&head)
        .context("plotters wrote an unexpected SVG header")?;
    let (attributes, body) = body
        .split_once('>')
        .context("plotters wrote an unexpected SVG header")?;
    let title = painter
        .description
        .replace('&', "&amp;")
        .replace('<', "&lt;");
    let title = if title.is_empty() {
        title
    } else {
        format!("\n<title>{title}</title>")
    };
    let (w, h) = (painter.width, painter.height);
    Ok(format!(
        "<svg width=\"{w}\" height=\"{h}\" role=\"img\"{attributes}>{title}{body}"
    ))
}

/// The drawing as RGB bytes at the PNG's size.
fn pixels(painter: &Painter) -> Result<Vec<u8>> {
    let factor = PNG_SCALE * SMOOTH;
    let (w, h) = (
        painter.width as usize * factor,
        painter.height as usize * factor,
    );
    let mut fine = vec![255u8; w * h * 3];
    let mut backend = BitMapBackend::with_buffer(&mut fine, (w as u32, h as u32));
    let done = draw(&mut backend, painter, factor as f64, false);
    drop(backend);
    done?;
    let (out_w, out_h) = (w / SMOOTH, h / SMOOTH);
    let mut out = Vec::with_capacity(out_w * out_h * 3);
    for y in 0..out_h {
        for x in 0..out_w {
            for channel in 0..3 {
                let mut sum = 0;
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let at = ((y * SMOOTH + dy) * w + x * SMOOTH + dx) * 3 + channel;
                    sum += u32::from(fine[at]);
                }
                out.push(((sum + 2) / 4) as u8);
            }
        }
    }
    Ok(out)
}

fn plain(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// Draws all shapes `scale` times larger; `vector` leaves lines and letters to the backend.
fn draw<B: DrawingBackend>(
    backend: &mut B,
    painter: &Painter,
    scale: f64,
    vector: bool,
) -> Result<()> {
    let at = |p: &Point| ((p.0 * scale).round() as i32, (p.1 * scale).round() as i32);
    let paint = |color: Color, width: f64| ShapeStyle {
        color: rgba(color, 1.0),
        filled: true,
        stroke_width: ((width * scale).round() as u32).max(1),
    };
    if vector {
        let all = at(&painter.size());
        backend
            .draw_rect((0, 0), all, &paint(Color::WHITE, 1.0), true)
            .map_err(plain)?;
    }
    for shape in &painter.shapes {
        match shape {
            Shape::Path {
                points,
                color,
                width,
            } => {
                let points: Vec<_> = points.iter().map(at).collect();
                let style = paint(*color, *width);
                if vector {
                    backend.draw_path(points, &style).map_err(plain)?;
                } else {
                    bitmap_path(backend, &points, &style, width * scale)?;
                }
            }
            Shape::Polygon { points, color } => {
                let ring: Vec<_> = points.iter().map(at).collect();
                backend
                    .fill_polygon(ring, &paint(*color, 1.0))
                    .map_err(plain)?;
            }
            Shape::Circle {
                center,
                radius,
                color,
            } => {
                let radius = (radius * scale).round().max(1.0) as u32;
                let style = paint(*color, 1.0);
                backend
                    .draw_circle(at(center), radius, &style, true)
                    .map_err(plain)?;
            }
            Shape::Text {
                text,
                baseline,
                font,
                upward,
            } if vector => {
                svg_text(backend, text, *baseline, *font, *upward, scale)?;
            }
            Shape::Text {
                text,
                baseline,
                font,
                upward,
            } => {
                bitmap_text(backend, text, at(baseline), *font, *upward, scale)?;
            }
        }
    }
    Ok(())
}

fn rgba(color: Color, coverage: f64) -> RGBAColor {
    RGBAColor(color.red, color.green, color.blue, color.alpha * coverage)
}

/// One quadrilateral per segment and a disc per corner: exact round joins.
fn bitmap_path<B: DrawingBackend>(
    backend: &mut B,
    points: &[(i32, i32)],
    style: &ShapeStyle,
    width: f64,
) -> Result<()> {
    for pair in points.windows(2) {
        backend
            .fill_polygon(segment(pair[0], pair[1], width), style)
            .map_err(plain)?;
    }
    let radius = (width / 2.0).floor() as u32;
    for &corner in points.iter().skip(1).take(points.len().saturating_sub(2)) {
        if radius > 1 {
            backend
                .draw_circle(corner, radius, style, true)
                .map_err(plain)?;
        }
    }
    Ok(())
}

/// plotters drops the space on the left of each glyph, so letters are set here.
fn bitmap_text<B: DrawingBackend>(
    backend: &mut B,
    text: &str,
    origin: (i32, i32),
    font: Font,
    upward: bool,
    scale: f64,
) -> Result<()> {
    let shift = match font.anchor {
        Anchor::Start => 0.0,
        Anchor::Middle => font.width(text) / 2.0,
        Anchor::End => font.width(text),
    };
    let shift = (shift * scale).round() as i32;
    let mut result = Ok(());
    font::rasterize(text, font.size * scale, font.bold, |dx, dy, coverage| {
        let dx = dx - shift;
        let (dx, dy) = if upward { (dy, -dx) } else { (dx, dy) };
        let color = rgba(font.color, coverage).to_backend_color();
        if result.is_ok() {
            result = backend
                .draw_pixel((origin.0 + dx, origin.1 + dy), color)
                .map_err(plain);
        }
    });
    result
}

/// The four corners of a thick line.
fn segment(from: (i32, i32), to: (i32, i32), width: f64) -> Vec<(i32, i32)> {
    let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let length = dx.hypot(dy);
    if length == 0.0 {
        return Vec::new();
    }
    let (nx, ny) = (-dy / length * width / 2.0, dx / length * width / 2.0);
    let corner = |p: (i32, i32), side: f64| {
        (
            (f64::from(p.0) + side * nx).round() as i32,
            (f64::from(p.1) + side * ny).round() as i32,
        )
    };
    vec![
        corner(from, 1.0),
        corner(to, 1.0),
        corner(to, -1.0),
        corner(from, -1.0),
    ]
}

fn svg_text<B: DrawingBackend>(
    backend: &mut B,
    text: &str,
    baseline: Point,
    font: Font,
    upward: bool,
    scale: f64,
) -> Result<()> {
    // plotters writes `size / 1.24` as the font size and puts a top anchor 0.76 em above the
    // baseline: both are undone here, since they depend on no font.
    let rise = 0.76 * font.size;
    let (x, y) = if upward {
        (baseline.0 - rise, baseline.1)
    } else {
        (baseline.0, baseline.1 - rise)
    };
    let h_pos = match font.anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let style = if font.bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    let turn = if upward {
        FontTransform::Rotate270
    } else {
        FontTransform::None
    };
    let size = (font.size * scale).round() * 1.24;
    let ink = rgba(font.color, 1.0);
    let style = TextStyle::from((FontFamily::Name(font::FAMILY), size, style))
        .color(&ink)
        .pos(Pos::new(h_pos, VPos::Top))
        .transform(turn);
    let at = ((x * scale).round() as i32, (y * scale).round() as i32);
    backend.draw_text(text, &style, at).map_err(plain)
}
