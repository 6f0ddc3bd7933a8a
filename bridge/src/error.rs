//! The one error type of the bridge, and what caused an error where another library reported it.

use std::error::Error as StdError;
use std::fmt::Display;
use std::path::PathBuf;

/// What caused an error, where another library reported it.
pub type Source = Box<dyn StdError + Send + Sync>;

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
        /// Its cause.
        source: Option<Source>,
    },
    /// A file or folder that is missing, damaged or not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected, with the field or tensor it is about; or what failed, and the first line of its cause.
        why: String,
        /// Its cause.
        source: Option<Source>,
    },
    /// Input that cannot be served, whatever the settings: a token outside the vocabulary, a prompt longer than the context, answers that
    /// cannot be compared, a server that refuses.
    #[error("{what}: {why}")]
    Request {
        /// What was asked, for example `prompt 3`.
        what: String,
        /// What was found and what is possible.
        why: String,
        /// Its cause.
        source: Option<Source>,
    },
    /// A text that cannot be scored.
    #[error("row {row} of the batch: {what}")]
    Batch {
        /// The row, 0-based.
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
    /// A setting outside its range: what a configuration or an option of a call says, never what is computed from data.
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
    pub fn file(path: impl Into<PathBuf>, why: impl Display) -> Self {
        Self::File {
            path: path.into(),
            why: first_line(why),
            source: None,
        }
    }

    /// An [`Error::File`] with its cause: what could not be done, and the error that says why.
    pub fn file_because(path: impl Into<PathBuf>, what: &str, cause: impl Into<Source>) -> Self {
        let source = cause.into();
        Self::File {
            path: path.into(),
            why: because(what, &source),
            source: Some(source),
        }
    }

    /// An [`Error::Request`] from anything printable, cut to its first line.
    pub fn request(what: impl Display, why: impl Display) -> Self {
        Self::Request {
            what: what.to_string(),
            why: first_line(why),
            source: None,
        }
    }

    /// An [`Error::Request`] that says what was found and what was expected.
    pub fn unexpected(what: impl Display, found: impl Display, expected: impl Display) -> Self {
        Self::request(what, format!("found {found}, expected {expected}"))
    }

    /// An [`Error::Request`] with its cause.
    pub fn request_because(what: impl Display, cause: impl Into<Source>) -> Self {
        let source = cause.into();
        Self::Request {
            what: what.to_string(),
            why: because("", &source),
            source: Some(source),
        }
    }
}

/// `what: cause`, in one line.
fn because(what: &str, cause: &Source) -> String {
    let cause = first_line(cause);
    match what {
        "" => cause,
        what => format!("{what}: {cause}"),
    }
}

/// Errors of libraries can span lines (candle appends a backtrace); users get one line.
fn first_line(text: impl Display) -> String {
    let text = text.to_string();
    text.lines().next().unwrap_or("unknown").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_cause_and_says_it_in_one_line() {
        let cause = std::io::Error::other("the disk is full\n  at some depth");
        let error = Error::file_because("a/b", "cannot write", cause);
        assert_eq!(error.to_string(), "a/b: cannot write: the disk is full");
        let cause = error
            .source()
            .and_then(|c| c.downcast_ref::<std::io::Error>());
        assert!(cause.is_some_and(|c| c.to_string().ends_with("at some depth")));
        let error = Error::request_because("prompt 3", Error::file("c", "is empty"));
        assert_eq!(error.to_string(), "prompt 3: c: is empty");
        assert_eq!(error.source().unwrap().to_string(), "c: is empty");
        assert!(Error::file("c", "is empty").source().is_none());
    }
}
