//! A problem of preferences of a user's own under every method: the numbers of `bench --instance` and of the Python package.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod instance;
mod own_loss;

pub use instance::{Instance, table};
