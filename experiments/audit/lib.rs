//! What the gradient of each training recipe climbs, on one tree: the numbers of `audit --tree` and of the Python package.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod explain;
pub mod input;
pub mod problem;
pub mod report;
pub mod sampled;
