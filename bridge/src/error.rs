//! The one error type of the bridge.

/// Result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between the theory and a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device that does not exist or cannot be used.
    #[error("device {name}: {why}")]
    Device {
        /// As the user named it.
        name: String,
        /// What is wrong, and what would help.
        why: String,
    },
    /// A text that cannot be scored.
    #[error("row {row} of the batch: {what}")]
    Batch {
        /// 0-based.
        row: usize,
        /// What was found and expected.
        what: String,
    },
    /// A weight or a tensor of the optimiser that does not fit.
    #[error("weight {name}: {what}")]
    Weight {
        /// As in the checkpoint.
        name: String,
        /// What was found and expected.
        what: String,
    },
    /// A setting outside its range, or a request that the model cannot serve.
    #[error("{field}: found {found}, expected {expected}")]
    Setting {
        /// Of the configuration or call.
        field: &'static str,
        /// What it was.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {why}")]
    File {
        /// As given.
        path: String,
        /// What went wrong.
        why: String,
    },
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The theory half reported an error.
    #[error(transparent)]
    Theory(#[from] rto::Error),
}
