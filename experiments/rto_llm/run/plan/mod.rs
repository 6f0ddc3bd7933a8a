//! What a run would do, and how long it would take: `estimate` and `memory` count, `print` says it.

mod estimate;
mod memory;
mod print;

pub use estimate::work;
pub use memory::Memory;
pub use print::print;
