//! The networks of a run: `networks` makes, loads and keeps them, `adapters` says how each stage starts on them, `oracle` is what judges.

mod adapters;
mod networks;
mod oracle;

pub use adapters::{check as check_adapters, check_executor};
pub use networks::Models;
pub use oracle::{Oracle, check as check_oracle, weights as weights_of_oracle};
