//! Several figures on one page, with one title and one legend.

use std::path::Path;

use anyhow::Result;

use super::canvas::Painter;
use super::clip::Rect;
use super::figure::{Figure, LegendPlace};
use super::layout::{self, Sizes};
use super::{legend, render};

/// Figures side by side. The legend is shared: a look with the same label appears once.
#[derive(Debug, Clone, PartialEq)]
pub struct Panels {
    /// One sentence for the whole page.
    pub title: String,
    /// A second line, smaller.
    pub subtitle: Option<String>,
    /// The panels, row by row. Their own legend places and sizes are not looked at.
    pub figures: Vec<Figure>,
    /// Panels in a row.
    pub columns: usize,
    /// Text below everything.
    pub caption: Option<String>,
    /// Width and height of one panel in pixels.
    pub panel_size: (u32, u32),
}

impl Panels {
    /// Panels of 460 × 360 pixels, `columns` in a row.
    pub fn new(title: &str, columns: usize, figures: Vec<Figure>) -> Self {
        let title = title.to_string();
        Self {
            title,
            subtitle: None,
            figures,
            columns,
            caption: None,
            panel_size: (460, 360),
        }
    }

    /// The same panels with a second line below the title.
    pub fn subtitle(self, text: &str) -> Self {
        Self {
            subtitle: Some(text.to_string()),
            ..self
        }
    }

    /// The same panels with text below.
    pub fn caption(self, text: &str) -> Self {
        Self {
            caption: Some(text.to_string()),
            ..self
        }
    }

    /// Writes `<name>.svg` and `<name>.png` into `dir`, replacing older ones.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        render::save(&self.paint(), &dir.join(name))
    }

    /// The page as SVG text, for a document that needs no other file.
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
        let mut height = f64::from(self.panel_size.1.max(200));
        loop {
            let (painter, lacking) = self.paint_with(height);
            if lacking <= 0.0 {
                return painter;
            }
            height += lacking.ceil();
        }
    }

    /// Draws panels of this height; also returns how much height some panel lacks.
    fn paint_with(&self, panel_height: f64) -> (Painter, f64) {
        let columns = self.columns.clamp(1, self.figures.len().max(1));
        let rows = self.figures.len().div_ceil(columns).max(1);
        let panel_width = f64::from(self.panel_size.0.max(240));
        let sizes = &Sizes::PAGE;
        let width = panel_width * columns as f64 + sizes.pad;
        // Title, legend and caption go first onto a tall page, to learn their heights.
        let tall = Rect {
            left: 0.0,
            top: 0.0,
            right: width,
            bottom: 1e5,
        };
        let (top, bottom) = self.surround(&mut Painter::new(1, 1), tall);
        let height = (top + panel_height * rows as f64 + (tall.bottom - bottom)).ceil();

        let mut painter = Painter::new(width as u32, height as u32);
        painter.describe(&self.title);
        self.surround(
            &mut painter,
            Rect {
                bottom: height,
                ..tall
            },
        );
        let mut lacking: f64 = 0.0;
        for (i, figure) in self.figures.iter().enumerate() {
            let left = sizes.pad / 2.0 + panel_width * (i % columns) as f64;
            let top = top + panel_height * (i / columns) as f64;
            let (right, bottom) = (left + panel_width, top + panel_height);
            let cell = Rect {
                left,
                top,
                right,
                bottom,
            };
            let figure = Figure {
                legend: LegendPlace::Hidden,
                ..figure.clone()
            };
            lacking = lacking.max(layout::draw(&figure, &mut painter, cell, &Sizes::PANEL));
        }
        (painter, lacking)
    }

    /// Draws what is around the panels; returns where they begin and end.
    fn surround(&self, painter: &mut Painter, page: Rect) -> (f64, f64) {
        let sizes = &Sizes::PAGE;
        let top = layout::heading(painter, page, &self.title, self.subtitle.as_deref(), sizes);
        let mut bottom = layout::footer(painter, page, self.caption.as_deref(), sizes);
        let entries = legend::entries(self.figures.iter().flat_map(|f| &f.series));
        if !entries.is_empty() {
            bottom = legend::below(painter, &entries, page, bottom, sizes);
        }
        (top, bottom)
    }
}
