//! The one error type of the crate. Variants carry what was found and what was expected, so that a
//! caller can put the place (file, line, field) in front without parsing text.

/// Result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

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
    #[error("model: {0}")]
    Backend(String),
    /// A user's evaluator failed.
    #[error("evaluator: {0}")]
    Evaluator(String),
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
}
