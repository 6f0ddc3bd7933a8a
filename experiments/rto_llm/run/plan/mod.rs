//! What a run would do, and how long it would take: `estimate` counts, `print` says it.

mod estimate;
mod print;

pub use estimate::work;
pub use print::print;
