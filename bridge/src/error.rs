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
    /// A data file does not hold what it should.
    #[error("{place}: {why}")]
    Data {
        /// The file, with the line or row where there is one.
        place: String,
        /// What was found, and what was expected.
        why: String,
    },
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The theory half reported an error.
    #[error(transparent)]
    Theory(#[from] rto::Error),
}
