//! All pairs of methods.

use super::{Comparison, holm};
use crate::{Error, Result};

/// Comparisons by row and column.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    names: Vec<String>,
    /// Row by row; `None` on the diagonal and where nothing was compared.
    cells: Vec<Option<Comparison>>,
}

impl Matrix {
    /// A matrix from comparisons `(row, column, row against column)`, each pair once in one of its directions. The other
    /// direction is filled in, and [`Comparison::p_holm`] is set for the number of pairs there are.
    ///
    /// # Errors
    /// [`Error::Request`]: a method that does not exist, a method against itself, a pair twice.
    pub fn try_new(names: Vec<String>, pairs: Vec<(usize, usize, Comparison)>) -> Result<Self> {
        let n = names.len();
        let mut matrix = Self {
            names,
            cells: vec![None; n * n],
        };
        let p_values: Vec<f64> = pairs.iter().map(|(_, _, c)| c.p_value).collect();
        for ((row, column, mut comparison), p) in pairs.into_iter().zip(holm(&p_values)) {
            let refuse = |why: &str| {
                let what = format!("win rate of method {row} against method {column}");
                Err(Error::request(what, why))
            };
            if row >= n || column >= n || row == column {
                return refuse(&format!("expected two different ones of {n} methods"));
            }
            if matrix.cells[row * n + column].is_some() {
                return refuse("found twice, expected each pair once");
            }
            comparison.p_holm = p;
            matrix.cells[column * n + row] = Some(comparison.reversed());
            matrix.cells[row * n + column] = Some(comparison);
        }
        Ok(matrix)
    }

    /// The methods, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Row beats column; `None` on the diagonal and where nothing was compared.
    ///
    /// # Panics
    /// If there is no such method.
    pub fn get(&self, row: usize, column: usize) -> Option<&Comparison> {
        let n = self.names.len();
        assert!(row < n && column < n, "{n} methods");
        self.cells[row * n + column].as_ref()
    }

    /// Every pair that was compared, row before column.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize, &Comparison)> {
        let n = self.names.len();
        let all = (0..n).flat_map(move |row| (row + 1..n).map(move |column| (row, column)));
        all.filter_map(|(row, column)| Some((row, column, self.get(row, column)?)))
    }
}
