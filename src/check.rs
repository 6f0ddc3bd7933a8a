//! What every constructor refuses, in one set of words.
//!
//! Each function names the field as its caller's user knows it, what was found and what is accepted.

use crate::{Error, Result};

/// How far a probability vector's sum may be from 1.
pub const SUM_TOLERANCE: f64 = 1e-9;

/// Refuses a value that its caller finds wrong.
pub(crate) fn within(field: impl Into<String>, value: f64, ok: bool, must: &str) -> Result<()> {
    match ok {
        true => Ok(()),
        false => Err(Error::config(field, value, must)),
    }
}

/// Refuses anything but a finite number above 0.
pub(crate) fn positive(field: impl Into<String>, value: f64) -> Result<()> {
    within(field, value, is_positive(value), "finite and > 0")
}

/// Refuses anything but a finite number from 0 up.
pub(crate) fn not_negative(field: impl Into<String>, value: f64) -> Result<()> {
    within(field, value, is_not_negative(value), "finite and >= 0")
}

/// Refuses anything outside \[0, 1\].
pub(crate) fn unit(field: impl Into<String>, value: f64) -> Result<()> {
    within(field, value, (0.0..=1.0).contains(&value), "in [0, 1]")
}

/// Refuses a count of 0.
pub(crate) fn at_least_one(field: impl Into<String>, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::config(field, value, "at least 1")),
        _ => Ok(()),
    }
}

/// Whether a number is finite and above 0.
pub(crate) fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// Whether a number is finite and not below 0.
pub(crate) fn is_not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// Refuses NaN and infinities; `what` names the entry.
pub(crate) fn finite(what: impl Fn(usize) -> String, values: &[f64]) -> Result<()> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::NonFinite {
            what: what(i),
            value: values[i],
        }),
    }
}

/// Refuses a container of the wrong size.
pub(crate) fn len(what: impl Into<String>, expected: usize, got: usize) -> Result<()> {
    match expected == got {
        true => Ok(()),
        false => Err(Error::Shape {
            what: what.into(),
            expected,
            got,
        }),
    }
}

/// Refuses anything but a probability vector.
pub(crate) fn distribution(what: impl Fn() -> String, p: &[f64]) -> Result<()> {
    finite(|_| what(), p)?;
    let sum: f64 = p.iter().sum();
    if p.iter().any(|&x| x < 0.0) || (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(Error::NotADistribution { what: what(), sum });
    }
    Ok(())
}

/// Refuses a list that is not one finite number per row of a batch.
pub(crate) fn rows(what: &str, expected: usize, values: &[f64]) -> Result<()> {
    len(what, expected, values.len())?;
    finite(|i| format!("{what} of row 0, token {i}"), values)
}
