//! Tables: the one form in which results are printed, saved as CSV and read back for figures.

use std::path::Path;
use std::str::FromStr;

use crate::atomic;
pub use crate::cell::Cell;
use crate::{render, terminal};
use anyhow::{Result, anyhow, bail};

/// Named columns of cells. `name` is what errors call the table: a file path, or a title.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    name: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// JSON: a list of rows, each an object from column to value.
impl serde::Serialize for Table {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|row| Record(&self.columns, row)))
    }
}

struct Record<'a>(&'a [String], &'a [Cell]);

impl serde::Serialize for Record<'_> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

impl Table {
    /// A table without rows.
    ///
    /// # Panics
    /// When two columns share a name: the columns are the program's own.
    pub fn new(name: &str, columns: &[&str]) -> Self {
        let columns: Vec<String> = columns.iter().map(|c| c.to_string()).collect();
        if let Some(twice) = repeated(&columns) {
            panic!("table {name}: column `{twice}` appears twice");
        }
        Self {
            name: name.to_string(),
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row; write `table.push([n.into(), "greedy".into(), 0.5.into()])`.
    ///
    /// # Panics
    /// When the row does not have one cell per column: the rows are the program's own.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let row: Vec<Cell> = row.into_iter().collect();
        assert_eq!(
            row.len(),
            self.columns.len(),
            "table {}: cells in a row",
            self.name
        );
        self.rows.push(row);
    }

    /// What errors call this table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The column names.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A column as numbers: integers are rounded to `f64`, empty cells are NaN.
    pub fn floats(&self, column: &str) -> Result<Vec<f64>> {
        self.read(column, "a number", |cell| match cell {
            Cell::Empty => Some(f64::NAN),
            Cell::Float(value) => Some(*value),
            Cell::Text(text) | Cell::Integer(text) => text.parse().ok(),
        })
    }

    /// A column as text, exactly as in CSV.
    pub fn texts(&self, column: &str) -> Result<Vec<String>> {
        self.read(column, "text", |cell| Some(cell.text()))
    }

    /// A column parsed as any type; `what` is what an error says was expected (`"an integer"`).
    pub fn parsed<T: FromStr>(&self, column: &str, what: &str) -> Result<Vec<T>> {
        self.read(column, what, |cell| cell.text().parse().ok())
    }

    /// Two numeric columns as points, ready for a figure's series.
    pub fn points(&self, x: &str, y: &str) -> Result<Vec<(f64, f64)>> {
        Ok(self.floats(x)?.into_iter().zip(self.floats(y)?).collect())
    }

    /// The different texts of a column, in the order they first appear.
    pub fn distinct(&self, column: &str) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for text in self.texts(column)? {
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        Ok(seen)
    }

    /// The rows whose `column` has this text.
    pub fn filter(&self, column: &str, text: &str) -> Result<Table> {
        let at = self.position(column)?;
        let rows = self
            .rows
            .iter()
            .filter(|row| row[at].text() == text)
            .cloned()
            .collect();
        Ok(Table {
            name: self.name.clone(),
            columns: self.columns.clone(),
            rows,
        })
    }

    fn position(&self, column: &str) -> Result<usize> {
        self.columns
            .iter()
            .position(|c| c == column)
            .ok_or_else(|| {
                anyhow!(
                    "{}: no column `{column}`, found `{}`",
                    self.name,
                    self.columns.join("`, `")
                )
            })
    }

    fn read<T>(&self, column: &str, what: &str, f: impl Fn(&Cell) -> Option<T>) -> Result<Vec<T>> {
        let at = self.position(column)?;
        let cell = |(i, row): (usize, &Vec<Cell>)| {
            f(&row[at]).ok_or_else(|| {
                let found = row[at].text();
                let (name, row) = (&self.name, i + 1);
                anyhow!("{name}: row {row}, column `{column}`: found `{found}`, expected {what}")
            })
        };
        self.rows.iter().enumerate().map(cell).collect()
    }

    /// The table as CSV (RFC 4180 quoting, `\n` line ends). The same table gives the same bytes.
    pub fn to_csv(&self) -> String {
        let mut out = String::new();
        let mut line = |fields: &mut dyn Iterator<Item = String>| {
            let fields: Vec<String> = fields.map(|f| quote(&f)).collect();
            // A lone empty field would be a blank line, which readers skip.
            let text = if fields == [""] {
                "\"\"".to_string()
            } else {
                fields.join(",")
            };
            out.push_str(&text);
            out.push('\n');
        };
        line(&mut self.columns.iter().cloned());
        for row in &self.rows {
            line(&mut row.iter().map(Cell::text));
        }
        out
    }

    /// Reads a CSV file.
    ///
    /// # Errors
    /// One line that names the file, and the line where there is one.
    pub fn from_csv(path: &Path) -> Result<Self> {
        Self::parse_csv(&path.display().to_string(), &atomic::read_text(path)?)
    }

    /// Reads CSV text; `name` is what errors call it.
    pub fn parse_csv(name: &str, text: &str) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .from_reader(text.as_bytes());
        let fail = |e: csv::Error| anyhow!("{name}: not valid CSV: {e}");
        let columns: Vec<String> = reader
            .headers()
            .map_err(fail)?
            .iter()
            .map(Into::into)
            .collect();
        if columns.is_empty() {
            bail!("{name}: empty, expected a line of column names");
        }
        if let Some(twice) = repeated(&columns) {
            bail!("{name}:1: column `{twice}` appears twice, expected different names");
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(fail)?;
            if record.len() != columns.len() {
                let line = record.position().map_or(0, |p| p.line());
                let (found, expected) = (record.len(), columns.len());
                bail!("{name}:{line}: {found} fields, expected {expected} as in the first line");
            }
            rows.push(record.iter().map(Cell::from_csv).collect());
        }
        Ok(Self {
            name: name.to_string(),
            columns,
            rows,
        })
    }

    /// The table as aligned text: words to the left, numbers to the right. On a terminal that is too narrow, long words
    /// break into lines, and columns that do not fit stand below, beside the first one again.
    pub fn render(&self) -> String {
        render::render(self, terminal::width())
    }
}

fn quote(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) || field.starts_with('\u{feff}') {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_string()
    }
}

fn repeated(columns: &[String]) -> Option<&String> {
    columns
        .iter()
        .enumerate()
        .find(|(i, c)| columns[..*i].contains(c))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests;
