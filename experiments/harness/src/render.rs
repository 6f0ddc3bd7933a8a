//! Tables as text, as wide as there is room.

use unicode_width::UnicodeWidthStr;

use crate::table::{Cell, Table};
use crate::terminal::fold;

const GAP: &str = "  ";

/// A text column is not made narrower than this, unless the terminal is.
const NARROW: usize = 16;

/// A column as it is printed.
struct Column {
    head: String,
    cells: Vec<String>,
    width: usize,
    /// Numbers stand to the right, words may break.
    numeric: bool,
}

impl Column {
    fn new(table: &Table, at: usize) -> Self {
        let cells: Vec<&Cell> = table.rows().iter().map(|row| &row[at]).collect();
        let mut filled = cells.iter().filter(|c| ***c != Cell::Empty).peekable();
        let numeric = filled.peek().is_some() && filled.all(|c| !matches!(c, Cell::Text(_)));
        let head = table.columns()[at].clone();
        let cells: Vec<String> = cells.iter().map(|cell| cell.shown()).collect();
        let body = cells.iter().map(|c| c.width()).max().unwrap_or(0);
        Self {
            width: body.max(head.width()),
            head,
            cells,
            numeric,
        }
    }

    /// Where its words break, it can be as narrow as its longest word.
    fn least(&self) -> usize {
        if self.numeric {
            return self.width;
        }
        let texts = self.cells.iter().chain([&self.head]);
        let words = texts.flat_map(|text| text.split(' ')).map(|w| w.width());
        words.max().unwrap_or(0).max(NARROW).min(self.width)
    }

    fn lines(&self, text: &str) -> Vec<String> {
        match text.width() <= self.width {
            true => vec![text.to_string()],
            false => fold(text, self.width),
        }
    }

    fn pad(&self, text: &str) -> String {
        let pad = " ".repeat(self.width.saturating_sub(text.width()));
        match self.numeric {
            true => pad + text,
            false => text.to_string() + &pad,
        }
    }
}

/// The table in at most `width` columns, or as wide as it is.
pub(crate) fn render(table: &Table, width: Option<usize>) -> String {
    let mut columns: Vec<Column> = (0..table.columns().len())
        .map(|at| Column::new(table, at))
        .collect();
    let width = width.unwrap_or(usize::MAX);
    shrink(&mut columns, width);
    let mut out = String::new();
    for block in blocks(&columns, width) {
        if !out.is_empty() {
            out.push('\n');
        }
        print(&block, table.len(), &mut out);
    }
    out
}

fn total(columns: &[Column]) -> usize {
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    columns.iter().map(|c| c.width).sum::<usize>() + gaps
}

/// Breaks words of the widest text columns, while that helps.
fn shrink(columns: &mut [Column], width: usize) {
    while total(columns) > width {
        let over = total(columns) - width;
        let room = |c: &&mut Column| c.width - c.least();
        let Some(widest) = columns.iter_mut().filter(|c| room(c) > 0).max_by_key(room) else {
            return;
        };
        widest.width = widest.least().max(widest.width.saturating_sub(over));
    }
}

/// Columns that fit beside one another; the first column leads every block.
fn blocks(columns: &[Column], width: usize) -> Vec<Vec<&Column>> {
    let Some((first, rest)) = columns.split_first() else {
        return Vec::new();
    };
    let mut blocks = vec![vec![first]];
    let mut used = first.width;
    for column in rest {
        let with = used.saturating_add(GAP.len() + column.width);
        match blocks.last_mut() {
            Some(block) if with <= width || block.len() == 1 => {
                block.push(column);
                used = with;
            }
            _ => {
                blocks.push(vec![first, column]);
                used = first.width + GAP.len() + column.width;
            }
        }
    }
    blocks
}

fn print(columns: &[&Column], rows: usize, out: &mut String) {
    let mut row = |text: &dyn Fn(&Column) -> String| {
        let cells: Vec<Vec<String>> = columns.iter().map(|c| c.lines(&text(c))).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for i in 0..height {
            let part = |(c, lines): (&&Column, &Vec<String>)| {
                c.pad(lines.get(i).map_or("", String::as_str))
            };
            let line: Vec<String> = columns.iter().zip(&cells).map(part).collect();
            out.push_str(line.join(GAP).trim_end());
            out.push('\n');
        }
    };
    row(&|c| c.head.clone());
    row(&|c| "-".repeat(c.width));
    for i in 0..rows {
        row(&|c| c.cells[i].clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("demo", &["method", "found", "reward", "length"]);
        table.push([
            "rto".into(),
            "a ratio of 0.73, which lies in the interval".into(),
            1.5.into(),
            12.into(),
        ]);
        table.push(["dppo".into(), "nothing".into(), (-0.25).into(), 7.into()]);
        table
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|l| l.width()).max().unwrap_or(0)
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let wide = render(&table(), None);
        assert_eq!(wide.lines().count(), 4);
        assert_eq!(render(&table(), Some(widest(&wide))), wide);
    }

    #[test]
    fn words_break_before_columns_do() {
        let text = render(&table(), Some(60));
        assert!(widest(&text) <= 60, "{text}");
        assert_eq!(text.matches("method").count(), 1, "{text}");
        let joined: Vec<&str> = text.split_whitespace().collect();
        assert!(
            joined.contains(&"interval") && joined.contains(&"1.5"),
            "{text}"
        );
    }

    #[test]
    fn columns_that_do_not_fit_stand_below() {
        let mut wide = Table::new("wide", &["method", "alpha", "beta", "gamma", "delta"]);
        wide.push(["rto".into(), 1.into(), 2.into(), 3.into(), 4.into()]);
        wide.push(["dppo".into(), 5.into(), 6.into(), 7.into(), 8.into()]);
        let text = render(&wide, Some(20));
        assert!(widest(&text) <= 20, "{text}");
        assert_eq!(text.matches("method").count(), 2, "{text}");
        assert_eq!(text.matches("dppo").count(), 2, "{text}");
        for name in ["alpha", "beta", "gamma", "delta", "8"] {
            assert_eq!(text.matches(name).count(), 1, "{name}\n{text}");
        }
        // A column that is wider than the terminal keeps its numbers whole.
        let mut long = Table::new("long", &["n", "a column with a long name"]);
        long.push([1.into(), 123456.into()]);
        assert!(render(&long, Some(20)).contains("123456"));
    }
}
