//! A report as one HTML file: sections, a table of contents, styles for light and dark, wide and narrow; no network.
//!
//! What the page holds can be read without its script. With it, tables are sorted by a click on a column's head, and plots
//! give their numbers under the pointer and can be looked at more closely.

use crate::plot::{Figure, LegendPlace, Panels};
use crate::table::{Cell, Table};
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
const SCRIPT: &str = include_str!("script.js");

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

    /// What came out, in larger letters. HTML.
    pub fn lead(&mut self, html: &str) {
        let _ = writeln!(self.body, "<p class=\"lead\">{html}</p>");
    }

    /// What a reader must know before anything else. HTML.
    pub fn banner(&mut self, html: &str) {
        let _ = writeln!(self.body, "<p class=\"banner\" role=\"note\">{html}</p>");
    }

    /// A script of this page's own; it must not contain a closing tag.
    pub fn script(&mut self, code: &str) {
        let _ = writeln!(self.body, "<script>\n{code}</script>");
    }

    /// Values for a script, by the id of their element.
    pub fn data(&mut self, id: &str, value: &serde_json::Value) {
        let _ = writeln!(
            self.body,
            "<script type=\"application/json\" id=\"{id}\">{}</script>",
            script_json(value)
        );
    }

    /// Adds any HTML.
    pub fn push(&mut self, html: &str) {
        self.body.push_str(html);
    }

    /// Instead of a section's contents: why they are missing, in plain text; `damaged` when a file is there but cannot be read.
    pub fn absent(&mut self, why: &str, damaged: bool) {
        let class = if damaged { "absent damaged" } else { "absent" };
        let _ = writeln!(self.body, "<p class=\"{class}\">{}</p>", escape(why));
    }

    /// A table in a box that scrolls by itself on a narrow screen. Cells are HTML; the first column is a heading. Of the class
    /// `sortable` a reader may sort it.
    pub fn table(&mut self, class: &str, head: &[&str], rows: &[Vec<String>]) {
        self.table_head(class, head);
        for row in rows {
            self.row("", row);
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// The rows of a table as they are, numbers as [`number`] shows them.
    pub fn rows_of(&mut self, table: &Table) {
        let head: Vec<&str> = table.columns().iter().map(String::as_str).collect();
        let cell = |cell: &Cell| match cell {
            Cell::Float(x) => number(*x),
            other => escape(&other.text()),
        };
        let rows: Vec<Vec<String>> = (table.rows().iter())
            .map(|row| row.iter().map(cell).collect())
            .collect();
        self.table("sortable", &head, &rows);
    }

    /// [`Page::table`] with a kind for each row, by which a bar of the class `filters` shows some alone.
    pub fn table_of_kinds(&mut self, class: &str, head: &[&str], rows: &[(&str, Vec<String>)]) {
        self.table_head(class, head);
        for (kind, row) in rows {
            self.row(&format!(" data-kind=\"{}\"", escape(kind)), row);
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    fn table_head(&mut self, class: &str, head: &[&str]) {
        let heads: String = head
            .iter()
            .map(|h| format!("<th scope=\"col\">{}</th>", escape(h)))
            .collect();
        let _ = writeln!(
            self.body,
            "<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{heads}</tr></thead><tbody>"
        );
    }

    fn row(&mut self, attributes: &str, cells: &[String]) {
        let _ = write!(self.body, "<tr{attributes}>");
        for (i, cell) in cells.iter().enumerate() {
            let _ = match i {
                0 => write!(self.body, "<th scope=\"row\">{cell}</th>"),
                // A cell that brings its own tag has attributes.
                _ if cell.starts_with("<td") => write!(self.body, "{cell}</td>"),
                _ => write!(self.body, "<td>{cell}</td>"),
            };
        }
        self.body.push_str("</tr>\n");
    }

    /// A figure, drawn twice: a narrow screen would shrink the letters of the wide one beyond reading.
    ///
    /// # Errors
    /// As [`Figure::svg`].
    pub fn figure(&mut self, figure: &Figure) -> Result<()> {
        let legend = match figure.legend {
            LegendPlace::Hidden => LegendPlace::Hidden,
            _ => LegendPlace::Below,
        };
        let narrow = Figure {
            size: (360, 480),
            legend,
            ..figure.clone()
        };
        self.drawings(figure.svg_and_data()?, narrow.svg_and_data()?);
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
        self.drawings(panels.svg_and_data()?, narrow.svg_and_data()?);
        Ok(())
    }

    fn drawings(&mut self, wide: (String, serde_json::Value), narrow: (String, serde_json::Value)) {
        self.body.push_str("<figure>");
        let mut drawing = |class: &str, (svg, plots): (String, serde_json::Value)| {
            let _ = write!(
                self.body,
                "<div class=\"{class} plot\">{svg}<script type=\"application/json\">{}</script></div>",
                script_json(&plots)
            );
        };
        drawing("wide", wide);
        drawing("narrow", narrow);
        let _ = writeln!(self.body, "</figure>");
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
             <h1>{title}</h1>\n<nav>{contents}</nav>\n{body}<script>\n{SCRIPT}</script>\n</body></html>\n"
        )
    }
}

/// JSON that ends no script element early, whatever its texts hold.
fn script_json(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Axis, Series, SeriesStyle};

    /// Texts of data end no element, and a page is whole: every tag it opens it closes.
    #[test]
    fn scripts_hold_what_they_are_given() {
        let nasty = "</script><!-- <b> & \"x\" \u{2028}";
        let mut page = Page::new(nasty);
        page.section("one", nasty);
        page.banner("<b>small</b>");
        page.table("sortable", &["a"], &[vec![escape(nasty)]]);
        page.table_of_kinds("x", &["a"], &[("kind", vec![escape(nasty)])]);
        page.data("given", &serde_json::json!([nasty]));
        let series = Series::new(nasty, vec![(0.0, 1.0), (1.0, 2.0)], SeriesStyle::nth(0));
        let figure = Figure::new("t", Axis::linear("x"), Axis::linear("y")).with(series);
        page.figure(&figure).unwrap();
        let html = page.finish();
        for tag in ["script", "table", "figure", "svg", "div"] {
            let open = html.matches(&format!("<{tag}")).count();
            assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        let given = html.split_once("id=\"given\">").unwrap().1;
        let given: serde_json::Value =
            serde_json::from_str(&given[..given.find("</script>").unwrap()]).unwrap();
        assert_eq!(given[0], nasty);
        assert!(html.contains("<tr data-kind=\"kind\">"));
    }
}
