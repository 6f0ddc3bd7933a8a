//! The one error type of the crate. Variants carry what was found and what was expected, so that a
//! caller can put the place (file, line, field) in front without parsing text.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of any kind, as a function of the caller's may report it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Everything that can go wrong in the theory half.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A container has the wrong number of elements.
    #[error("{what}: expected {expected} values, got {got}")]
    Shape {
        /// The container, named as the user knows it.
        what: String,
        /// Elements it must have.
        expected: usize,
        /// Elements it has.
        got: usize,
    },
    /// A setting or field has a value outside its domain.
    #[error("{field}: found {value}, must be {must}")]
    Config {
        /// The field, named as the user knows it.
        field: String,
        /// What was found.
        value: String,
        /// What is accepted.
        must: String,
    },
    /// NaN or infinity where a finite number is needed.
    #[error("{what} is not finite (found {value})")]
    NonFinite {
        /// The quantity.
        what: String,
        /// What was found.
        value: f64,
    },
    /// A row that should be a probability distribution is not one.
    #[error("{what}: probabilities must be non-negative and sum to 1, their sum is {sum}")]
    NotADistribution {
        /// The row, for example `transition[3][1]`.
        what: String,
        /// The sum that was found.
        sum: f64,
    },
    /// An iterative method stopped before it reached its tolerance.
    #[error("{what} did not converge: residual {residual:e} after {iterations} iterations")]
    NotConverged {
        /// The method.
        what: String,
        /// Iterations done.
        iterations: usize,
        /// The residual it stopped at.
        residual: f64,
    },
    /// A premise of a statement of the paper does not hold for the given instance.
    #[error("{assumption} does not hold: {why}")]
    Assumption {
        /// The assumption, numbered as in the paper.
        assumption: String,
        /// What was found.
        why: String,
    },
    /// The oracle's query budget is used up.
    #[error("query budget of {budget} responses is used up")]
    BudgetExhausted {
        /// Responses that could be scored.
        budget: u64,
    },
    /// A model behind the seam failed (out of memory, an unknown token, a device error).
    #[error("model: {why}")]
    Backend {
        /// What failed, in one line.
        why: String,
        /// The error of the model, where it reported one.
        source: Option<Cause>,
    },
    /// A user's evaluator failed.
    #[error("evaluator: {why}")]
    Evaluator {
        /// What failed, in one line.
        why: String,
        /// The error of the evaluator, where it reported one.
        source: Option<Cause>,
    },
    /// A function of the caller's, told of each step, ended the run.
    #[error("{source}")]
    Stopped {
        /// The error that it reported.
        source: Cause,
    },
}

/// The error of another library that is behind one of ours, as [`std::error::Error::source`] hands it on.
///
/// Errors can be copied and compared, so a cause is shared, and two causes are equal where they read the same.
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl Deref for Cause {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(Arc::new(error))
    }
}

impl Error {
    /// A [`Error::Config`] from anything printable.
    pub fn config(field: impl Into<String>, value: impl ToString, must: impl Into<String>) -> Self {
        Self::Config {
            field: field.into(),
            value: value.to_string(),
            must: must.into(),
        }
    }

    /// The error of a caller's function: one of this crate's is itself, any other an [`Error::Stopped`].
    pub fn stopped(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::Stopped {
                source: Cause(error.into()),
            },
        }
    }

    /// An [`Error::Backend`] without a cause.
    pub fn backend(why: impl ToString) -> Self {
        Self::Backend {
            why: first_line(&why),
            source: None,
        }
    }

    /// An [`Error::Backend`] with its cause, of which it says the first line.
    pub fn backend_because(cause: impl Into<Cause>) -> Self {
        let source = cause.into();
        Self::Backend {
            why: first_line(&source),
            source: Some(source),
        }
    }

    /// An [`Error::Evaluator`] without a cause.
    pub fn evaluator(why: impl ToString) -> Self {
        Self::Evaluator {
            why: first_line(&why),
            source: None,
        }
    }

    /// An [`Error::Evaluator`] with its cause: where it failed, and the first line of why.
    pub fn evaluator_because(place: impl fmt::Display, cause: impl Into<Cause>) -> Self {
        let source = cause.into();
        Self::Evaluator {
            why: format!("{place}: {}", first_line(&source)),
            source: Some(source),
        }
    }
}

/// Errors of libraries can span lines; users get one.
fn first_line(text: &impl ToString) -> String {
    let text = text.to_string();
    text.lines().next().unwrap_or("unknown").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_kept_and_said_in_one_line() {
        let cause = || std::io::Error::other("out of memory\n  at some depth");
        let error = Error::backend_because(cause());
        assert_eq!(error.to_string(), "model: out of memory");
        let source = error.source().unwrap().downcast_ref::<std::io::Error>();
        assert!(source.unwrap().to_string().ends_with("at some depth"));
        assert_eq!(error, error.clone());
        assert_ne!(error, Error::backend("out of memory"));
        let error = Error::evaluator_because("after prefix [1, 0]", cause());
        assert_eq!(
            error.to_string(),
            "evaluator: after prefix [1, 0]: out of memory"
        );
        assert!(error.source().unwrap().is::<std::io::Error>());
        assert!(Error::evaluator("no weights").source().is_none());
        let error = Error::stopped(Box::new(cause()));
        assert!(error.source().unwrap().is::<std::io::Error>());
        let ours = Error::backend("a device");
        assert_eq!(Error::stopped(ours.clone().into()), ours);
    }
}
