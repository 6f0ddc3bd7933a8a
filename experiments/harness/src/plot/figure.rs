//! A figure: what it holds. How it is laid out is in `layout`.

use std::path::Path;

use anyhow::Result;

use super::axis::Axis;
use super::canvas::{Painter, Point};
use super::clip::Rect;
use super::layout::{self, Sizes};
use super::render;
use super::style::SeriesStyle;

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
    /// Its name, written beside its last point in place of a legend's entry.
    pub tag: Option<String>,
}

impl Series {
    /// A series without a band.
    pub fn new(label: &str, points: Vec<(f64, f64)>, style: SeriesStyle) -> Self {
        Self {
            label: label.to_string(),
            points,
            band: None,
            style,
            tag: None,
        }
    }

    /// The same series with its name beside its last point.
    pub fn tag(self, name: &str) -> Self {
        Self {
            tag: Some(name.to_string()),
            ..self
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

    /// The figure as SVG text, for a page that needs no other file.
    ///
    /// # Errors
    /// The drawing library fails.
    pub fn svg(&self) -> Result<String> {
        render::svg(&self.paint())
    }

    /// The same, and what it shows as JSON, for a page whose reader can point at it.
    pub(crate) fn svg_and_data(&self) -> Result<(String, serde_json::Value)> {
        let painter = self.paint();
        Ok((render::svg(&painter)?, painter.plots.into()))
    }

    pub(crate) fn paint(&self) -> Painter {
        let (width, mut height) = (self.size.0.max(240), self.size.1.max(200));
        loop {
            let mut painter = Painter::new(width, height);
            painter.describe(&self.title);
            let (right, bottom) = painter.size();
            let page = Rect {
                left: 0.0,
                top: 0.0,
                right,
                bottom,
            };
            let lacking = layout::draw(self, &mut painter, page, &Sizes::PAGE);
            // Long texts or legends make the page taller rather than the plot flat.
            match lacking.ceil() as u32 {
                0 => return painter,
                more => height += more,
            }
        }
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

    /// The caption, with a word on points that cannot be shown.
    pub(crate) fn caption_text(&self) -> Option<String> {
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
