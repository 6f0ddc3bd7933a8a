//! A figure: title, axes, series, legend, caption, and how they share the space.

use std::path::Path;

use anyhow::Result;

use super::axis::{Axis, Mapped, Scale, Tick};
use super::canvas::{Anchor, Font, LINE, Painter, Point, Stroke};
use super::clip::Rect;
use super::legend::{self, Entry};
use super::style::{Color, SeriesStyle};
use super::{render, series};

/// Where the legend lies; never on the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LegendPlace {
    /// To the right of the plot.
    #[default]
    Right,
    /// Below the plot, in rows; better for long labels.
    Below,
    /// No legend.
    Hidden,
}

/// One set of points with a name and a look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// The legend's text; empty for a series without an entry.
    pub label: String,
    /// The points; a point that is not finite is left out and interrupts a line.
    pub points: Vec<(f64, f64)>,
    /// Low and high value at each point: a shaded band, or the bars of [`super::Kind::ErrorBars`].
    pub band: Option<Vec<(f64, f64)>>,
    /// The look.
    pub style: SeriesStyle,
}

impl Series {
    /// A series without a band.
    pub fn new(label: &str, points: Vec<(f64, f64)>, style: SeriesStyle) -> Self {
        Self {
            label: label.to_string(),
            points,
            band: None,
            style,
        }
    }

    /// The same series with a band, one `(low, high)` per point.
    pub fn band(self, band: Vec<(f64, f64)>) -> Self {
        Self {
            band: Some(band),
            ..self
        }
    }
}

/// A plot. Change its fields freely; [`Figure::save`] draws whatever they hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// One sentence: what the figure shows.
    pub title: String,
    /// A second line, smaller: the setting.
    pub subtitle: Option<String>,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series, drawn in order.
    pub series: Vec<Series>,
    /// Text below the plot: how to read it, how many seeds, what the bands are.
    pub caption: Option<String>,
    /// Where the legend lies.
    pub legend: LegendPlace,
    /// Width and height in pixels of the SVG; the PNG has twice as many each way.
    pub size: (u32, u32),
}

impl Figure {
    /// An empty figure of 800 × 500 pixels.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self {
            title: title.to_string(),
            subtitle: None,
            x,
            y,
            series: Vec::new(),
            caption: None,
            legend: LegendPlace::default(),
            size: (800, 500),
        }
    }

    /// The same figure with a second line below its title.
    pub fn subtitle(self, text: &str) -> Self {
        Self {
            subtitle: Some(text.to_string()),
            ..self
        }
    }

    /// The same figure with text below the plot.
    pub fn caption(self, text: &str) -> Self {
        Self {
            caption: Some(text.to_string()),
            ..self
        }
    }

    /// The same figure with its legend elsewhere.
    pub fn legend(self, legend: LegendPlace) -> Self {
        Self { legend, ..self }
    }

    /// The same figure with one more series.
    pub fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// Writes `<name>.svg` and `<name>.png` into `dir`, replacing older ones.
    ///
    /// A figure without data says "no data" instead of failing.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        render::save(&self.paint(), &dir.join(name))
    }

    pub(crate) fn paint(&self) -> Painter {
        let mut painter = Painter::new(self.size.0.max(240), self.size.1.max(200));
        painter.describe(&self.title);
        let (right, bottom) = painter.size();
        let page = Rect {
            left: 0.0,
            top: 0.0,
            right,
            bottom,
        };
        draw(self, &mut painter, page, &Sizes::PAGE);
        painter
    }

    /// Points that a logarithmic axis has no place for.
    fn hidden(&self) -> usize {
        let finite = |p: &&Point| p.0.is_finite() && p.1.is_finite();
        let shown = |p: &Point| self.x.shows(p.0) && self.y.shows(p.1);
        self.series
            .iter()
            .flat_map(|s| &s.points)
            .filter(finite)
            .filter(|p| !shown(p))
            .count()
    }

    fn caption_text(&self) -> Option<String> {
        let hidden = match self.hidden() {
            0 => return self.caption.clone(),
            1 => "1 point at or below zero has no place on a logarithmic axis.".to_string(),
            n => format!("{n} points at or below zero have no place on a logarithmic axis."),
        };
        Some(match &self.caption {
            Some(caption) => format!("{caption} {hidden}"),
            None => hidden,
        })
    }
}

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
}

/// A block of lines from `top` down; returns where it ends.
pub(crate) fn block(
    painter: &mut Painter,
    left: f64,
    top: f64,
    lines: &[String],
    font: Font,
) -> f64 {
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
    top + sizes.pad * 0.6
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

/// Draws a figure into `page`.
pub(crate) fn draw(figure: &Figure, painter: &mut Painter, page: Rect, sizes: &Sizes) {
    let top = heading(
        painter,
        page,
        &figure.title,
        figure.subtitle.as_deref(),
        sizes,
    );
    let mut bottom = footer(painter, page, figure.caption_text().as_deref(), sizes);
    let mut right = page.right - sizes.pad;
    let entries: Vec<Entry> = legend::entries(&figure.series);
    let mut legend_at = None;
    match figure.legend {
        LegendPlace::Below if !entries.is_empty() => {
            bottom = legend::below(painter, &entries, page, bottom, sizes);
        }
        LegendPlace::Right if !entries.is_empty() => {
            right -= legend::width(&entries, page.width() * 0.3, sizes);
            legend_at = Some(right + sizes.pad * 0.9);
        }
        _ => {}
    }
    let inner = Rect {
        left: page.left + sizes.pad * 0.6,
        top,
        right,
        bottom,
    };
    let plot = plot(figure, painter, inner, sizes);
    if let Some(left) = legend_at {
        legend::right(painter, &entries, left, plot.top, page.width() * 0.3, sizes);
    }
}

/// Axes and series within `inner`; returns the rectangle of the data.
fn plot(figure: &Figure, painter: &mut Painter, inner: Rect, sizes: &Sizes) -> Rect {
    let shown = |p: &&Point| figure.x.shows(p.0) && figure.y.shows(p.1);
    let points = || figure.series.iter().flat_map(|s| &s.points).filter(shown);
    let bands = figure
        .series
        .iter()
        .filter_map(|s| s.band.as_ref())
        .flatten();
    let x = Mapped::new(&figure.x, points().map(|p| p.0));
    let y = Mapped::new(
        &figure.y,
        points().map(|p| p.1).chain(bands.flat_map(|b| [b.0, b.1])),
    );
    let whole = |mut values: Box<dyn Iterator<Item = f64> + '_>| values.all(|v| v.fract() == 0.0);
    let x_whole = whole(Box::new(points().map(|p| p.0)));
    let y_whole = whole(Box::new(points().map(|p| p.1)));

    let tick_font = Font::new(sizes.tick, Color::INK);
    let y_ticks = axis_ticks(&figure.y, &y, (inner.height() / 48.0) as usize, y_whole);
    let names = |ticks: &[Tick], limit: f64| -> Vec<Vec<String>> {
        let lines = |tick: &Tick| tick_font.wrap(tick.label.as_deref().unwrap_or(""), limit);
        ticks.iter().map(lines).collect()
    };
    let y_names = names(&y_ticks, inner.width() * 0.25);
    let widest = y_names
        .iter()
        .flatten()
        .map(|name| tick_font.width(name))
        .fold(0.0, f64::max);
    let label_font = Font::new(sizes.label, Color::INK);
    let label_step = sizes.label * LINE;
    let y_label = label_font.wrap(&figure.y.label, inner.height());
    let left = inner.left + y_label.len() as f64 * label_step + widest + 14.0;
    // Half of the last label of the horizontal axis may stand out to the right.
    let right = (inner.right - sizes.tick * 1.2).max(left + 40.0);

    let x_ticks = axis_ticks(&figure.x, &x, ((right - left) / 72.0) as usize, x_whole);
    let slot = match &figure.x.scale {
        Scale::Category(labels) => (right - left) / labels.len().max(1) as f64 - 6.0,
        _ => f64::INFINITY,
    };
    let x_names = names(&x_ticks, slot);
    let tick_lines = x_names.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let x_label = label_font.wrap(&figure.x.label, right - left);
    let below = 10.0 + tick_lines * sizes.tick * LINE + x_label.len() as f64 * label_step;
    let bottom = (inner.bottom - below).max(inner.top + 40.0);
    let area = Rect {
        left,
        top: inner.top,
        right,
        bottom,
    };

    grid(painter, area, &x_ticks, &y_ticks, figure);
    axis_names(
        painter,
        area,
        (&x_ticks, &x_names),
        (&y_ticks, &y_names),
        tick_font,
    );
    let middle = (area.left + area.right) / 2.0;
    let top = area.bottom + 9.0 + tick_lines * sizes.tick * LINE;
    for (i, line) in x_label.iter().enumerate() {
        painter.text(
            (middle, top + label_step * (i as f64 + 0.5)),
            line,
            label_font,
        );
    }
    let middle = (area.top + area.bottom) / 2.0;
    for (i, line) in y_label.iter().enumerate() {
        painter.text_upward(
            (inner.left + label_step * (i as f64 + 0.5), middle),
            line,
            label_font,
        );
    }

    let at = |p: Point| {
        let (u, v) = (x.unit(p.0)?, y.unit(p.1)?);
        Some((
            area.left + u * area.width(),
            area.bottom - v * area.height(),
        ))
    };
    let clamp = |value: f64, up: bool| {
        // A band that reaches below zero runs to the bottom of a logarithmic axis.
        let low = figure.y.scale == Scale::Log10 && value <= 0.0 && !up;
        if low {
            Some(area.bottom)
        } else {
            y.unit(value).map(|v| area.bottom - v * area.height())
        }
    };
    series::draw(painter, &figure.series, area, &at, &clamp);
    if points().next().is_none() {
        let font = Font::new(sizes.label + 2.0, Color::MUTED);
        painter.text(
            (
                (area.left + area.right) / 2.0,
                (area.top + area.bottom) / 2.0,
            ),
            "no data",
            font,
        );
    }
    area
}

fn axis_ticks(axis: &Axis, mapped: &Mapped, target: usize, whole: bool) -> Vec<Tick> {
    match &axis.scale {
        Scale::Category(names) => names
            .iter()
            .enumerate()
            .filter_map(|(i, name)| {
                Some(Tick {
                    at: mapped.unit(i as f64)?,
                    label: Some(name.clone()),
                })
            })
            .collect(),
        _ => mapped.ticks(target.clamp(2, 10), whole),
    }
}

fn grid(painter: &mut Painter, area: Rect, x: &[Tick], y: &[Tick], figure: &Figure) {
    let faint = Stroke::solid(Color::rgb(0xef, 0xef, 0xef), 1.0);
    let plain = Stroke::solid(Color::GRID, 1.0);
    let frame = Stroke::solid(Color::rgb(0x66, 0x66, 0x66), 1.0);
    let is_category = |axis: &Axis| matches!(axis.scale, Scale::Category(_));
    // Faint lines first, so that they never cross over the stronger ones.
    for labelled in [false, true] {
        let stroke = if labelled { plain } else { faint };
        for tick in x
            .iter()
            .filter(|t| t.label.is_some() == labelled && !is_category(&figure.x))
        {
            let at = area.left + tick.at * area.width();
            painter.line((at, area.top), (at, area.bottom), stroke);
        }
        for tick in y
            .iter()
            .filter(|t| t.label.is_some() == labelled && !is_category(&figure.y))
        {
            let at = area.bottom - tick.at * area.height();
            painter.line((area.left, at), (area.right, at), stroke);
        }
    }
    painter.path(
        &[
            (area.left, area.top),
            (area.left, area.bottom),
            (area.right, area.bottom),
        ],
        frame,
    );
    for tick in x {
        let at = area.left + tick.at * area.width();
        let length = if tick.label.is_some() { 5.0 } else { 2.5 };
        painter.line((at, area.bottom), (at, area.bottom + length), frame);
    }
    for tick in y {
        let at = area.bottom - tick.at * area.height();
        let length = if tick.label.is_some() { 5.0 } else { 2.5 };
        painter.line((area.left - length, at), (area.left, at), frame);
    }
}

type Named<'a> = (&'a [Tick], &'a [Vec<String>]);

fn axis_names(painter: &mut Painter, area: Rect, x: Named<'_>, y: Named<'_>, font: Font) {
    let mut free_from = f64::NEG_INFINITY;
    for (tick, lines) in x.0.iter().zip(x.1) {
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
    for (tick, lines) in y.0.iter().zip(y.1) {
        let at = area.bottom - tick.at * area.height();
        painter.text(
            (area.left - 8.0, at),
            &lines.join("\n"),
            font.anchor(Anchor::End),
        );
    }
}
