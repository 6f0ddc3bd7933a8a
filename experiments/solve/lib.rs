//! Everything the theory says about a user's own token MDP.
//!
//! [`Instance`] is the file that `solve` reads, checked; [`solve`] computes its [`Report`], whose keys are those of the
//! JSON that `solve --json` prints. The file's format is described by `solve --help`.

mod arrays;
mod closed_form;
mod coverage;
mod estimate;
mod instance;
mod json;
#[cfg(test)]
mod mutations;
mod notes;
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

pub use instance::{Instance, RADIUS_KINDS, radius_kind};
pub use render::render;
pub use report::Report;
pub use solve::solve;
