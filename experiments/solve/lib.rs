//! Everything the theory says about a user's own token MDP.
//!
//! [`Instance`] is the file that `solve` reads, checked; [`solve`] computes its [`Report`], whose keys are those of the
//! JSON that `solve --json` prints. [`fit_data`] is `solve --data`: the estimate alone, of rows that are in a file. The file's format is described by `solve --help`.

mod arrays;
mod closed_form;
mod coverage;
mod data;
mod estimate;
mod instance;
mod json;
#[cfg(test)]
mod mutations;
mod notes;
mod npy;
mod pessimism;
mod policies;
mod population;
mod preferences;
mod render;
mod report;
mod solve;
mod solver;
mod transitions;
mod world;

pub use data::{Certificate, Data, DataReport, fit_data};
pub use instance::{Instance, RADIUS_KINDS, radius_kind};
pub use render::render;
pub use report::Report;
pub use solve::solve;
