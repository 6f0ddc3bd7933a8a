//! How a figure's title, plot, legend and caption share a page.

use super::axis::{Axis, Mapped, Scale, Tick};
use super::canvas::{Anchor, Font, LINE, Painter, Point, Stroke};
use super::clip::Rect;
use super::figure::{Figure, LegendPlace};
use super::style::Color;
use super::{legend, series, tags};

/// Text sizes of a page or a panel.
pub(crate) struct Sizes {
    pub(crate) title: f64,
    pub(crate) subtitle: f64,
    pub(crate) label: f64,
    pub(crate) tick: f64,
    pub(crate) caption: f64,
    pub(crate) pad: f64,
}

impl Sizes {
    pub(crate) const PAGE: Sizes = Sizes {
        title: 17.0,
        subtitle: 13.0,
        label: 13.5,
        tick: 12.0,
        caption: 11.5,
        pad: 16.0,
    };
    pub(crate) const PANEL: Sizes = Sizes {
        title: 13.5,
        subtitle: 11.5,
        label: 12.0,
        tick: 11.0,
        caption: 10.5,
        pad: 10.0,
    };

    fn tick_step(&self) -> f64 {
        self.tick * LINE
    }

    fn label_step(&self) -> f64 {
        self.label * LINE
    }
}

/// The data's rectangle is at least this high.
const MIN_HEIGHT: f64 = 150.0;

/// A block of lines from `top` down; returns where it ends.
fn block(painter: &mut Painter, left: f64, top: f64, lines: &[String], font: Font) -> f64 {
    let step = font.size * LINE;
    for (i, line) in lines.iter().enumerate() {
        painter.text(
            (left, top + step * (i as f64 + 0.5)),
            line,
            font.anchor(Anchor::Start),
        );
    }
    top + step * lines.len() as f64
}

/// Title and subtitle from the top of `page`; returns where the plot may begin.
pub(crate) fn heading(
    painter: &mut Painter,
    page: Rect,
    title: &str,
    subtitle: Option<&str>,
    sizes: &Sizes,
) -> f64 {
    let width = page.width() - 2.0 * sizes.pad;
    let left = page.left + sizes.pad;
    let font = Font::new(sizes.title, Color::INK).bold();
    let mut top = page.top + sizes.pad * 0.75;
    top = block(painter, left, top, &font.wrap(title, width), font);
    if let Some(subtitle) = subtitle {
        let font = Font::new(sizes.subtitle, Color::MUTED);
        top = block(painter, left, top + 1.0, &font.wrap(subtitle, width), font);
    }
    top + sizes.pad * 0.5 + 5.0
}

/// Caption up from the bottom of `page`; returns where the plot must end.
pub(crate) fn footer(
    painter: &mut Painter,
    page: Rect,
    caption: Option<&str>,
    sizes: &Sizes,
) -> f64 {
    let Some(caption) = caption else {
        return page.bottom - sizes.pad * 0.6;
    };
    let font = Font::new(sizes.caption, Color::MUTED);
    let lines = font.wrap(caption, page.width() - 2.0 * sizes.pad);
    let top = page.bottom - sizes.pad * 0.6 - lines.len() as f64 * font.size * LINE;
    block(painter, page.left + sizes.pad, top, &lines, font);
    top - sizes.pad * 0.4
}

/// Draws a figure into `page`; returns how many pixels of height it lacks, 0 when all fits.
pub(crate) fn draw(figure: &Figure, painter: &mut Painter, page: Rect, sizes: &Sizes) -> f64 {
    let top = heading(
        painter,
        page,
        &figure.title,
        figure.subtitle.as_deref(),
        sizes,
    );
    let mut bottom = footer(painter, page, figure.caption_text().as_deref(), sizes);
    let mut right = page.right - sizes.pad;
    let entries = legend::entries(&figure.series);
    let limit = page.width() * 0.3;
    let mut end = top;
    match figure.legend {
        LegendPlace::Below if !entries.is_empty() => {
            bottom = legend::below(painter, &entries, page, bottom, sizes);
        }
        LegendPlace::Right if !entries.is_empty() => {
            right -= legend::width(&entries, limit, sizes);
            end = legend::right(
                painter,
                &entries,
                (right + sizes.pad * 0.9, top),
                limit,
                sizes,
            );
        }
        _ => {}
    }
    let inner = Rect {
        left: page.left + sizes.pad * 0.6,
        top,
        right,
        bottom,
    };
    let area = plot(figure, painter, inner, sizes);
    (end - bottom).max(MIN_HEIGHT - area.height()).max(0.0)
}

/// One axis ready to draw: its map, its ticks, and their labels broken into lines.
struct Ready {
    map: Mapped,
    ticks: Vec<Tick>,
    names: Vec<Vec<String>>,
}

impl Ready {
    fn new(axis: &Axis, map: Mapped, target: usize, whole: bool, font: Font, limit: f64) -> Self {
        let ticks: Vec<Tick> = match &axis.scale {
            Scale::Category(names) => {
                let tick = |(i, name): (usize, &String)| {
                    Some(Tick {
                        at: map.unit(i as f64)?,
                        label: Some(name.clone()),
                        major: true,
                    })
                };
                names.iter().enumerate().filter_map(tick).collect()
            }
            _ => match &axis.ticks {
                Some(values) => map.ticks_at(values),
                None => map.ticks(target, whole),
            },
        };
        let lines = |tick: &Tick| font.wrap(tick.label.as_deref().unwrap_or(""), limit);
        let names = ticks.iter().map(lines).collect();
        Self { map, ticks, names }
    }

    fn widest(&self, font: Font) -> f64 {
        self.names
            .iter()
            .flatten()
            .map(|name| font.width(name))
            .fold(0.0, f64::max)
    }

    fn most_lines(&self) -> f64 {
        self.names.iter().map(Vec::len).max().unwrap_or(0) as f64
    }
}

/// Axes and series within `inner`; returns the rectangle of the data.
fn plot(figure: &Figure, painter: &mut Painter, inner: Rect, sizes: &Sizes) -> Rect {
    let shown = |p: &&Point| figure.x.shows(p.0) && figure.y.shows(p.1);
    let points: Vec<Point> = figure
        .series
        .iter()
        .flat_map(|s| &s.points)
        .filter(shown)
        .copied()
        .collect();
    let whole = |pick: fn(&Point) -> f64| points.iter().map(pick).all(|v| v.fract() == 0.0);
    let bands = figure
        .series
        .iter()
        .filter_map(|s| s.band.as_ref())
        .flatten();
    let x_map = Mapped::new(&figure.x, points.iter().map(|p| p.0));
    let y_values = points
        .iter()
        .map(|p| p.1)
        .chain(bands.flat_map(|b| [b.0, b.1]));
    let y_map = Mapped::new(&figure.y, y_values);

    let font = Font::new(sizes.tick, Color::INK);
    let label_font = Font::new(sizes.label, Color::INK);
    // A logarithmic label is short and every decade should have one.
    let room = if figure.y.scale == Scale::Log10 {
        22.0
    } else {
        38.0
    };
    let target = (inner.height() / room) as usize;
    let y = Ready::new(
        &figure.y,
        y_map,
        target,
        whole(|p| p.1),
        font,
        inner.width() * 0.25,
    );
    let y_label = label_font.wrap(&figure.y.label, inner.height());
    let left = inner.left + y_label.len() as f64 * sizes.label_step() + y.widest(font) + 14.0;
    // Half of the last label of the horizontal axis may stand out to the right.
    let right = (inner.right - sizes.tick * 1.2).max(left + 40.0);

    let x_whole = whole(|p| p.0);
    let room = match x_map.largest() {
        largest if x_whole && largest < 1000.0 => 42.0,
        _ if figure.x.scale == Scale::Log10 => 46.0,
        _ => 72.0,
    };
    let slot = match &figure.x.scale {
        Scale::Category(labels) => (right - left) / labels.len().max(1) as f64 - 6.0,
        _ => f64::INFINITY,
    };
    let x = Ready::new(
        &figure.x,
        x_map,
        ((right - left) / room) as usize,
        x_whole,
        font,
        slot,
    );
    let x_label = label_font.wrap(&figure.x.label, right - left);
    let names_height = 9.0 + x.most_lines() * sizes.tick_step();
    let below = names_height + 1.0 + x_label.len() as f64 * sizes.label_step();
    let area = Rect {
        left,
        top: inner.top,
        right,
        bottom: (inner.bottom - below).max(inner.top),
    };

    grid(painter, area, &x.ticks, &y.ticks, figure);
    tick_names(painter, area, &x, &y, font);
    for (i, line) in x_label.iter().enumerate() {
        let top = area.bottom + names_height + sizes.label_step() * (i as f64 + 0.5);
        painter.text(((left + right) / 2.0, top), line, label_font);
    }
    for (i, line) in y_label.iter().enumerate() {
        let at = inner.left + sizes.label_step() * (i as f64 + 0.5);
        painter.text_upward((at, (area.top + area.bottom) / 2.0), line, label_font);
    }
    data(figure, painter, area, (&x.map, &y.map), sizes.tick);
    let cover = Rect {
        left: inner.left + y_label.len() as f64 * sizes.label_step(),
        top: area.top - 7.0,
        right: inner.right,
        bottom: area.bottom + names_height,
    };
    let maps = (&x.map, &y.map);
    painter
        .plots
        .extend(super::data::of(figure, (area, cover), maps));
    if points.is_empty() {
        let middle = ((left + right) / 2.0, (area.top + area.bottom) / 2.0);
        painter.text(
            middle,
            "no data",
            Font::new(sizes.label + 2.0, Color::MUTED),
        );
    }
    area
}

fn data(figure: &Figure, painter: &mut Painter, area: Rect, maps: (&Mapped, &Mapped), size: f64) {
    // Far beyond the page, coordinates would overflow; lines keep their direction well enough.
    let far = |t: f64| t.clamp(-1e3, 1e3);
    let level = |value: f64, upper: bool| {
        // A band that reaches below zero runs to the bottom of a logarithmic axis.
        if figure.y.scale == Scale::Log10 && value <= 0.0 && !upper {
            return Some(area.bottom);
        }
        Some(area.bottom - far(maps.1.unit(value)?) * area.height())
    };
    let at = |p: Point| {
        let u = far(maps.0.unit(p.0)?);
        Some((
            area.left + u * area.width(),
            area.bottom - far(maps.1.unit(p.1)?) * area.height(),
        ))
    };
    series::draw(painter, &figure.series, area, &at, &level);
    tags::draw(painter, &figure.series, area, &at, size);
}

fn grid(painter: &mut Painter, area: Rect, x: &[Tick], y: &[Tick], figure: &Figure) {
    let faint = Stroke::solid(Color::rgb(0xef, 0xef, 0xef), 1.0);
    let plain = Stroke::solid(Color::GRID, 1.0);
    let frame = Stroke::solid(Color::rgb(0x66, 0x66, 0x66), 1.0);
    let is_category = |axis: &Axis| matches!(axis.scale, Scale::Category(_));
    let across = |tick: &Tick| area.left + tick.at * area.width();
    let up = |tick: &Tick| area.bottom - tick.at * area.height();
    // Faint lines first, so that they never cross over the stronger ones.
    for (major, stroke) in [(false, faint), (true, plain)] {
        for at in x
            .iter()
            .filter(|t| t.major == major && !is_category(&figure.x))
            .map(across)
        {
            painter.line((at, area.top), (at, area.bottom), stroke);
        }
        for at in y
            .iter()
            .filter(|t| t.major == major && !is_category(&figure.y))
            .map(up)
        {
            painter.line((area.left, at), (area.right, at), stroke);
        }
    }
    let corner = (area.left, area.bottom);
    painter.path(
        &[(area.left, area.top), corner, (area.right, area.bottom)],
        frame,
    );
    let length = |tick: &Tick| if tick.major { 5.0 } else { 2.5 };
    for tick in x {
        let at = across(tick);
        painter.line((at, area.bottom), (at, area.bottom + length(tick)), frame);
    }
    for tick in y {
        let at = up(tick);
        painter.line((area.left - length(tick), at), (area.left, at), frame);
    }
}

fn tick_names(painter: &mut Painter, area: Rect, x: &Ready, y: &Ready, font: Font) {
    let mut free_from = f64::NEG_INFINITY;
    for (tick, lines) in x.ticks.iter().zip(&x.names) {
        let at = area.left + tick.at * area.width();
        let half = lines
            .iter()
            .map(|line| font.width(line))
            .fold(0.0, f64::max)
            / 2.0;
        // A label that would touch its neighbour is left out.
        if lines.is_empty() || at - half < free_from {
            continue;
        }
        free_from = at + half + 5.0;
        for (i, line) in lines.iter().enumerate() {
            let y = area.bottom + 8.0 + font.size * LINE * (i as f64 + 0.5);
            painter.text((at, y), line, font);
        }
    }
    let mut free_below = f64::INFINITY;
    for (tick, lines) in y.ticks.iter().zip(&y.names) {
        let at = area.bottom - tick.at * area.height();
        let half = lines.len() as f64 * font.size * LINE / 2.0;
        if lines.is_empty() || at + half > free_below {
            continue;
        }
        free_below = at - half + 2.0;
        painter.text(
            (area.left - 8.0, at),
            &lines.join("\n"),
            font.anchor(Anchor::End),
        );
    }
}
