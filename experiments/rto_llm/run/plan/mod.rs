//! What a run would do, and how long it would take: `estimate` and `memory` count, `card` counts what a card would
//! run, `print` says it.

mod card;
mod estimate;
mod memory;
mod print;

pub use card::{peak as peak_on_card, print as print_card};
pub use estimate::work;
pub use memory::Memory;
pub use print::print;
