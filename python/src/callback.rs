//! Functions written in Python in the places of the library's own.
//!
//! What one raises, or returns that is no answer, becomes one exception that begins with the argument's name; what was raised is its cause.

use crate::arrays::{found, value_error, vector};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rto::objective::{PairLoss, PairSlopes, SequencePairs};
use rto::seq::{Episode, Ragged, TokenObjective, TokenReward};
use rto::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// A Python function with the name of the argument that it came in.
#[derive(Clone)]
pub struct Callback {
    name: &'static str,
    function: Arc<Py<PyAny>>,
    failed: Arc<Mutex<Option<PyErr>>>,
}

impl Callback {
    /// The argument `name`.
    pub fn new(name: &'static str, function: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !function.is_callable() {
            return Err(value_error(format!(
                "{name}: found {}, expected a function",
                found(function)
            )));
        }
        Ok(Self {
            name,
            function: Arc::new(function.clone().unbind()),
            failed: Arc::default(),
        })
    }

    /// Calls it and reads its answer.
    pub fn call<T>(
        &self,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
        read: impl for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    ) -> Result<T> {
        Python::attach(|py| {
            let arguments = arguments(py)?;
            let answer = self.function.bind(py).call1(arguments);
            let answer = answer.map_err(|e| self.raised(py, e))?;
            read(&answer)
        })
        .map_err(|e| {
            let line = format!("{}: failed", self.name);
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            Error::evaluator(line)
        })
    }

    /// `name: raised KIND: text`, with what was raised as its cause. What is no `Exception` (the end of the program) stays what it is.
    fn raised(&self, py: Python<'_>, error: PyErr) -> PyErr {
        if !error.is_instance_of::<PyException>(py) {
            return error;
        }
        let kind = error.get_type(py).name();
        let kind = kind.map_or_else(|_| "an exception".into(), |k| k.to_string());
        let text = error.value(py).to_string();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let named = value_error(format!("{}: raised {kind}: {line}", self.name));
        named.set_cause(py, Some(error));
        named
    }

    /// What the function failed with, or else the other error.
    pub fn or(&self, other: PyErr) -> PyErr {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take().unwrap_or(other)
    }

    /// The line of an answer that is none.
    pub fn wrong(&self, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> PyErr {
        value_error(format!("{}: found {found}, expected {expected}", self.name))
    }
}

/// A reward per token: `f(prompts, responses)` returns a row of numbers for each response.
pub struct PythonReward(pub Callback);

impl TokenReward for PythonReward {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let callback = &self.0;
        let prompts: Vec<u32> = batch.iter().map(|e| e.prompt[0]).collect();
        let responses: Vec<&[u32]> = batch.iter().map(|e| e.response.as_slice()).collect();
        callback.call(
            |py| (prompts, responses).into_pyobject(py),
            |answer| {
                let rows = answer.try_iter().map_err(|_| {
                    callback.wrong(found(answer), "a row of numbers for each response")
                })?;
                let mut out: Vec<Vec<f64>> = Vec::with_capacity(batch.len());
                for (i, row) in rows.enumerate() {
                    let row = row.map_err(|e| callback.raised(answer.py(), e))?;
                    let Some(episode) = batch.get(i) else {
                        let expected = format!("{}, one for each response", batch.len());
                        return Err(callback.wrong("more rows", expected));
                    };
                    let name = format!("{}, row {i}", callback.name);
                    let row = vector(&name, "(number of tokens,)", &row)?;
                    let row: Vec<f64> = row.as_array().iter().copied().collect();
                    if row.len() != episode.len() {
                        return Err(value_error(format!(
                            "{name}: found {} numbers, expected {}, one for each token",
                            row.len(),
                            episode.len()
                        )));
                    }
                    if let Some((h, v)) = row.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                        return Err(value_error(format!(
                            "{name}, token {h}: found {v}, expected a finite number"
                        )));
                    }
                    out.push(row);
                }
                match out.len() == batch.len() {
                    true => Ok(Ragged::from_rows(out)),
                    false => Err(callback.wrong(
                        format!("{} rows", out.len()),
                        format!("{}, one for each response", batch.len()),
                    )),
                }
            },
        )
    }
}

/// A loss of pairs: `f(log_prob, reference, length)` gets two numbers each, of the winner and the loser, and returns
/// (loss, (slope in log π(winner), slope in log π(loser))).
pub struct PythonLoss(pub Callback);

impl PairLoss for PythonLoss {
    fn objective(
        &self,
        batch: &[Episode],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>> {
        let callback = self.0.clone();
        SequencePairs::boxed(batch, reference, beta, move |pair| {
            let two = |x: [f64; 2]| (x[0], x[1]);
            let answer = callback.call(
                |py| (two(pair.log_prob), two(pair.reference), two(pair.length)).into_pyobject(py),
                |answer| {
                    let (loss, (winner, loser)) = answer
                        .extract::<(f64, (f64, f64))>()
                        .map_err(|_| callback.wrong(found(answer), "(loss, (slope, slope))"))?;
                    match [loss, winner, loser].into_iter().find(|v| !v.is_finite()) {
                        None => Ok((loss, [winner, loser])),
                        Some(v) => Err(callback.wrong(v, "finite numbers")),
                    }
                },
            );
            // NaN ends the step; the error itself waits in the callback.
            let (loss, slope) = answer.unwrap_or((f64::NAN, [f64::NAN; 2]));
            PairSlopes { loss, slope }
        })
    }
}
