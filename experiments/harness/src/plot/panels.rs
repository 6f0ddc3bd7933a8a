//! Several figures on one page, with one title and one legend.

use std::path::Path;

use anyhow::Result;

use super::canvas::Painter;
use super::clip::Rect;
use super::figure::{self, Figure, LegendPlace, Sizes};
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

    pub(crate) fn paint(&self) -> Painter {
        let columns = self.columns.clamp(1, self.figures.len().max(1));
        let rows = self.figures.len().div_ceil(columns).max(1);
        let (w, h) = (
            f64::from(self.panel_size.0.max(240)),
            f64::from(self.panel_size.1.max(200)),
        );
        let sizes = &Sizes::PAGE;
        let entries = legend::entries(self.figures.iter().flat_map(|f| &f.series));
        let width = w * columns as f64 + sizes.pad;
        // Draw heading, legend and caption once on a page that is tall enough to learn their heights.
        let tall = Rect {
            left: 0.0,
            top: 0.0,
            right: width,
            bottom: 4000.0,
        };
        let frame = |painter: &mut Painter, page: Rect| {
            let top = figure::heading(painter, page, &self.title, self.subtitle.as_deref(), sizes);
            let mut bottom = figure::footer(painter, page, self.caption.as_deref(), sizes);
            if !entries.is_empty() {
                bottom = legend::below(painter, &entries, page, bottom, sizes);
            }
            (top, bottom)
        };
        let (top, bottom) = frame(&mut Painter::new(1, 1), tall);
        let height = (top + h * rows as f64 + (tall.bottom - bottom)).ceil();

        let mut painter = Painter::new(width as u32, height as u32);
        painter.describe(&self.title);
        let page = Rect {
            bottom: height,
            ..tall
        };
        frame(&mut painter, page);
        for (i, figure) in self.figures.iter().enumerate() {
            let (column, row) = ((i % columns) as f64, (i / columns) as f64);
            let (left, up) = (sizes.pad / 2.0 + w * column, top + h * row);
            let cell = Rect {
                left,
                top: up,
                right: left + w,
                bottom: up + h,
            };
            let figure = Figure {
                legend: LegendPlace::Hidden,
                ..figure.clone()
            };
            figure::draw(&figure, &mut painter, cell, &Sizes::PANEL);
        }
        painter
    }
}
