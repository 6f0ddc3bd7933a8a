//! NumPy arrays in and out. What is wrong with an argument is said in one line that begins with its name.

use ndarray::{Array2, ArrayView2};
use numpy::{
    AllowTypeChange, IntoPyArray, PyArray1, PyArray2, PyArrayLike1, PyArrayLike2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rto::mdp::{ActionIx, StateIx};
use rto::reward::RewardFunction;
use std::borrow::Cow;

/// A `[rows, columns]` argument of numbers: an array that is C-contiguous float64 is looked at where it lies, all else is copied once.
pub type Table<'py> = PyArrayLike2<'py, f64, AllowTypeChange>;

/// A `[n]` argument of numbers.
pub type Vector<'py> = PyArrayLike1<'py, f64, AllowTypeChange>;

/// `ValueError` with the line of an error of the library. What it quotes of the caller's may hold line breaks, which are shown as `\n`.
pub fn value_error(error: impl std::fmt::Display) -> PyErr {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().collect(),
        false => String::from(c),
    };
    let line: String = error.to_string().chars().map(shown).collect();
    PyValueError::new_err(line)
}

/// What an argument is, for an error.
pub fn found(value: &Bound<'_, PyAny>) -> String {
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        let shape: Vec<String> = array.shape().iter().map(usize::to_string).collect();
        return format!(
            "an array of shape ({}) and type {}",
            shape.join(", "),
            array.dtype()
        );
    }
    let name = value.get_type().name();
    name.map_or_else(
        |_| "another object".into(),
        |n| format!("a value of type {n}"),
    )
}

/// The argument as a table; `expected` names its shape.
pub fn table<'py>(name: &str, expected: &str, value: &Bound<'py, PyAny>) -> PyResult<Table<'py>> {
    let wrong = |_| {
        value_error(format!(
            "{name}: found {}, expected numbers of shape {expected}",
            found(value)
        ))
    };
    value.extract::<Table<'py>>().map_err(wrong)
}

/// The argument as a vector; `expected` names its shape.
pub fn vector<'py>(name: &str, expected: &str, value: &Bound<'py, PyAny>) -> PyResult<Vector<'py>> {
    let wrong = |_| {
        value_error(format!(
            "{name}: found {}, expected numbers of shape {expected}",
            found(value)
        ))
    };
    value.extract::<Vector<'py>>().map_err(wrong)
}

/// Refuses NaN and infinity by their place.
pub fn finite(name: &str, values: ArrayView2<'_, f64>) -> PyResult<()> {
    // x·0 is 0 for every number and NaN for all else: one pass without a branch tells whether there is anything to look for.
    if let Some(all) = values.as_slice() {
        let lanes = all.chunks(8).fold([0.0; 8], |mut sums, chunk| {
            sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += v * 0.0);
            sums
        });
        if lanes.iter().sum::<f64>() == 0.0 {
            return Ok(());
        }
    }
    match values.indexed_iter().find(|(_, v)| !v.is_finite()) {
        None => Ok(()),
        Some(((i, j), v)) => Err(value_error(format!(
            "{name}[{i}, {j}]: found {v}, expected a finite number"
        ))),
    }
}

/// A reward table that is read where NumPy keeps it.
pub struct RewardView<'a>(ArrayView2<'a, f64>);

impl<'a> RewardView<'a> {
    /// A reward without NaN and infinity.
    pub fn new(values: ArrayView2<'a, f64>) -> PyResult<Self> {
        finite("reward", values)?;
        Ok(Self(values))
    }

    /// The numbers in row order: as they lie, or copied.
    pub fn values(&self) -> Cow<'_, [f64]> {
        match self.0.as_slice() {
            Some(values) => values.into(),
            None => self.0.iter().copied().collect(),
        }
    }
}

impl RewardFunction for RewardView<'_> {
    fn shape(&self) -> (usize, usize) {
        self.0.dim()
    }

    fn reward(&self, s: StateIx, a: ActionIx) -> f64 {
        self.0[[s.ix(), a.ix()]]
    }
}

/// A vector of results.
pub fn out1(py: Python<'_>, values: Vec<f64>) -> Py<PyArray1<f64>> {
    values.into_pyarray(py).unbind()
}

/// A table of results.
pub fn out2(py: Python<'_>, values: Array2<f64>) -> Py<PyArray2<f64>> {
    values.into_pyarray(py).unbind()
}

/// The elements of a vector argument, in order.
pub fn elements(values: &Vector<'_>) -> Vec<f64> {
    values.as_array().iter().copied().collect()
}

/// A result as a notebook shows it: names beside numbers.
pub fn html(rows: &[(&str, String)]) -> String {
    let row = |(name, value): &(&str, String)| {
        format!("<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>")
    };
    format!(
        "<table>{}</table>",
        rows.iter().map(row).collect::<String>()
    )
}

/// True or False, as Python writes it.
pub fn truth(value: bool) -> String {
    if value { "True" } else { "False" }.into()
}
