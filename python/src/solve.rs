//! `solve`: the same JSON in, the same JSON out.

use crate::arrays::value_error;
use pyo3::prelude::*;
use rto_solve::Instance;
use std::path::Path;

fn line(error: &anyhow::Error) -> PyErr {
    value_error(format!("{error:#}"))
}

fn answer(py: Python<'_>, instance: &Instance) -> PyResult<String> {
    let report = py
        .detach(|| rto_solve::solve(instance))
        .map_err(|e| line(&e))?;
    serde_json::to_string(&report).map_err(value_error)
}

/// The report on the instance in a file, as JSON text.
#[pyfunction]
pub fn solve_file(py: Python<'_>, path: &str) -> PyResult<String> {
    let instance = Instance::read(Path::new(path)).map_err(|e| line(&e))?;
    answer(py, &instance)
}

/// The report on an instance given as JSON text; the files that it names lie below `folder`.
#[pyfunction]
pub fn solve_text(py: Python<'_>, text: &str, folder: &str) -> PyResult<String> {
    let instance = Instance::parse(text, Path::new(folder)).map_err(|e| line(&e))?;
    answer(py, &instance)
}
