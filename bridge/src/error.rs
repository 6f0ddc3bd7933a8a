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
        /// The path, as the user named it.
        name: String,
        /// What is wrong, and what would help.
        why: String,
    },
    /// A file or folder that is missing, damaged or not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What was found and what was expected, with the field or tensor it is about.
        why: String,
    },
    /// A request that the model cannot serve: a token outside the vocabulary, a prompt longer than the context.
    #[error("{what}: {why}")]
    Request {
        /// What was asked, for example `prompt 3`.
        what: String,
        /// What was found and what is possible.
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
        /// The name, as in the checkpoint.
        name: String,
        /// What was found and expected.
        what: String,
    },
    /// A setting outside its range.
    #[error("{field}: found {found}, expected {expected}")]
    Setting {
        /// The field of the configuration or call.
        field: &'static str,
        /// The value that was found.
        found: String,
        /// The values that are possible.
        expected: String,
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

impl Error {
    /// An [`Error::File`] from anything printable, cut to its first line.
    pub fn file(path: impl Into<std::path::PathBuf>, why: impl std::fmt::Display) -> Self {
        let why = first_line(why);
        Self::File {
            path: path.into(),
            why,
        }
    }

    /// An [`Error::Request`] from anything printable, cut to its first line.
    pub fn request(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::Request {
            what: what.to_string(),
            why: first_line(why),
        }
    }
}

/// Errors of libraries can span lines (candle appends a backtrace); users get one line.
fn first_line(text: impl std::fmt::Display) -> String {
    text.to_string()
        .lines()
        .next()
        .unwrap_or("unknown")
        .to_string()
}
