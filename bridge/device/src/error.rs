//! What can go wrong.

/// What can go wrong between a program and its device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No C++ compiler, so that kernels cannot be emulated.
    #[error("no C++ compiler: {0}")]
    NoCompiler(String),
    /// The compiler refused the kernels.
    #[error("the kernels do not compile: {0}")]
    Compile(String),
    /// A compiled library could not be written, read or loaded.
    #[error("{path}: {why}")]
    Library {
        /// The library or its folder.
        path: String,
        /// What was wrong.
        why: String,
    },
    /// A launch whose arguments or shape do not fit its kernel.
    #[error("kernel {kernel}: {why}")]
    Launch {
        /// The kernel's name.
        kernel: String,
        /// What did not fit.
        why: String,
    },
    /// A kernel that did what no kernel may: write outside of its buffers, or wait where others do not.
    #[error("kernel {kernel} is wrong: {why}")]
    Fault {
        /// The kernel's name.
        kernel: String,
        /// What it did.
        why: String,
    },
    /// A buffer that is too short, of another type or of another device.
    #[error("{what}: found {found}, expected {expected}")]
    Buffer {
        /// Which buffer.
        what: String,
        /// Its type and length.
        found: String,
        /// What was needed.
        expected: String,
    },
    /// A network, a batch or a request that does not fit.
    #[error("{0}")]
    Network(String),
    /// What the driver reports.
    #[error("device: {0}")]
    Driver(String),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
