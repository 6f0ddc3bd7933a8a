//! The stages that train: `trainer` holds what they share, `fit` are those on a fixed data set, `rl` those of Algorithm 2 after DPO, and
//! `schedule` is their order.

mod fault;
mod fit;
mod journal;
mod memo;
mod rl;
mod schedule;
mod side_by_side;
mod trainer;

pub use journal::is_done;
pub use trainer::{Pace, Training};
