//! What the gradient of each training recipe climbs, on one tree: the numbers of `audit --tree` and of the Python package.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

/// Asked between the parts of a long answer; its error ends the work (a program that was interrupted).
pub type GoOn<'a> = &'a (dyn Fn() -> rto::Result<()> + Sync);

pub mod explain;
pub mod input;
pub mod problem;
pub mod report;
pub mod sampled;
