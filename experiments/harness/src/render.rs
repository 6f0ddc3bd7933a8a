//! Tables as text, as wide as there is room.

use std::collections::BTreeSet;

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

    /// The least width, that of the longest word where words break; a number with its interval stays in one piece.
    fn least(&self) -> usize {
        let words = |text: &str| match is_number(text) {
            true => text.width(),
            false => text.split(' ').map(|w| w.width()).max().unwrap_or(0),
        };
        let texts = self.cells.iter().chain([&self.head]);
        let longest = texts.map(|text| words(text)).max().unwrap_or(0);
        let least = if self.numeric { 0 } else { NARROW };
        longest.max(least).min(self.width)
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

/// `0.73 [0.61, 0.88]`, `-1`, `<0.001`, `1e-5`; a formula is none.
fn is_number(text: &str) -> bool {
    let part = |c: char| c.is_ascii_digit() || "+-−<>≤≥~.,e[]% ".contains(c);
    text.contains(|c: char| c.is_ascii_digit()) && text.chars().all(part)
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

/// Columns that fit beside one another; the columns that tell the rows apart lead every block.
fn blocks(columns: &[Column], width: usize) -> Vec<Vec<&Column>> {
    let (key, rest) = columns.split_at(key(columns, width));
    let lead = || key.iter().collect::<Vec<&Column>>();
    let mut blocks = vec![lead()];
    let mut used = total(key);
    for column in rest {
        let with = used.saturating_add(GAP.len() + column.width);
        match blocks.last_mut() {
            Some(block) if with <= width || block.len() == key.len() => {
                block.push(column);
                used = with;
            }
            _ => {
                let mut block = lead();
                block.push(column);
                blocks.push(block);
                used = total(key) + GAP.len() + column.width;
            }
        }
    }
    blocks
}

/// How many of the first columns tell the rows apart, where they leave half of the width; else one.
fn key(columns: &[Column], width: usize) -> usize {
    let rows = columns.first().map_or(0, |c| c.cells.len());
    let apart = |n: &usize| {
        let row = |i: usize| {
            columns[..*n]
                .iter()
                .map(|c| &c.cells[i])
                .collect::<Vec<_>>()
        };
        (0..rows).map(row).collect::<BTreeSet<_>>().len() == rows
    };
    let n = (1..columns.len()).find(apart).unwrap_or(1);
    match n <= columns.len() && total(&columns[..n.min(columns.len())]) <= width / 2 {
        true => n,
        false => columns.len().min(1),
    }
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
mod tests;
