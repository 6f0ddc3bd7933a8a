//! The stages that train: `trainer` holds what they share, `fit` are those on a fixed data set, `rl` those of Algorithm 2 after DPO, and
//! `token_reward` is the fit to a file of token rewards, `schedule` is their order.

mod fault;
mod fit;
mod journal;
mod memo;
mod rl;
mod schedule;
mod side_by_side;
mod token_reward;
mod trainer;

pub use journal::is_done;
pub use rl::{MissingEos, SAMPLER_CLIPPED, SAMPLER_KL};
pub use token_reward::TokenRewardModel;
pub use trainer::{Pace, Training, Watch};
