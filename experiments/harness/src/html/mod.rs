//! A report as one HTML file: sections, a table of contents, styles for light and dark, wide and narrow; no network.

use crate::plot::{Figure, LegendPlace, Panels};
use anyhow::Result;
use std::fmt::Write;

/// A page being written.
#[derive(Debug)]
pub struct Page {
    title: String,
    contents: String,
    body: String,
}

const STYLE: &str = include_str!("style.css");

impl Page {
    /// An empty page; the title is plain text.
    pub fn new(title: &str) -> Self {
        Self {
            title: escape(title),
            contents: String::new(),
            body: String::new(),
        }
    }

    /// Begins a section: `id` for links, the title in plain text.
    pub fn section(&mut self, id: &str, title: &str) {
        let title = escape(title);
        let _ = write!(self.contents, "<a href=\"#{id}\">{title}</a> ");
        let _ = write!(self.body, "\n<h2 id=\"{id}\">{title}</h2>\n");
    }

    /// A paragraph of HTML.
    pub fn say(&mut self, html: &str) {
        let _ = writeln!(self.body, "<p>{html}</p>");
    }

    /// Any HTML.
    pub fn push(&mut self, html: &str) {
        self.body.push_str(html);
    }

    /// Instead of a section's contents: why they are missing, in plain text; `damaged` when a file is there but cannot be read.
    pub fn absent(&mut self, why: &str, damaged: bool) {
        let class = if damaged { "absent damaged" } else { "absent" };
        let _ = writeln!(self.body, "<p class=\"{class}\">{}</p>", escape(why));
    }

    /// A table in a box that scrolls by itself on a narrow screen. Cells are HTML; the first column is a heading.
    pub fn table(&mut self, class: &str, head: &[&str], rows: &[Vec<String>]) {
        let heads: String = head
            .iter()
            .map(|h| format!("<th scope=\"col\">{}</th>", escape(h)))
            .collect();
        let _ = writeln!(
            self.body,
            "<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{heads}</tr></thead><tbody>"
        );
        for row in rows {
            self.body.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let _ = match i {
                    0 => write!(self.body, "<th scope=\"row\">{cell}</th>"),
                    // A cell that brings its own tag has attributes.
                    _ if cell.starts_with("<td") => write!(self.body, "{cell}</td>"),
                    _ => write!(self.body, "<td>{cell}</td>"),
                };
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// A figure, drawn twice: a narrow screen would shrink the letters of the wide one beyond reading.
    ///
    /// # Errors
    /// As [`Figure::svg`].
    pub fn figure(&mut self, figure: &Figure) -> Result<()> {
        let narrow = Figure {
            size: (360, 480),
            legend: LegendPlace::Below,
            ..figure.clone()
        };
        self.drawings(&figure.svg()?, &narrow.svg()?);
        Ok(())
    }

    /// Figures side by side; below each other on a narrow screen.
    ///
    /// # Errors
    /// As [`Panels::svg`].
    pub fn panels(&mut self, panels: &Panels) -> Result<()> {
        let narrow = Panels {
            columns: 1,
            panel_size: (352, 290),
            ..panels.clone()
        };
        self.drawings(&panels.svg()?, &narrow.svg()?);
        Ok(())
    }

    fn drawings(&mut self, wide: &str, narrow: &str) {
        let _ = writeln!(
            self.body,
            "<figure><div class=\"wide\">{wide}</div><div class=\"narrow\">{narrow}</div></figure>"
        );
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let Self {
            title,
            contents,
            body,
        } = self;
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title><style>\n{STYLE}</style></head><body>\n\
             <h1>{title}</h1>\n<nav>{contents}</nav>\n{body}</body></html>\n"
        )
    }
}

/// Plain text as HTML.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            _ => html.push(c),
        }
    }
    html
}

/// A number with a sensible count of digits, and a proper minus sign.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let text = match value.abs() {
        0.0 => "0".into(),
        x if x < 1e-4 => format!("{value:.1e}"),
        x if x < 10.0 => format!("{value:.3}"),
        x if x < 100.0 => format!("{value:.2}"),
        x if x < 1e5 => format!("{value:.1}"),
        _ => format!("{value:.2e}"),
    };
    text.replace('-', "−")
}
