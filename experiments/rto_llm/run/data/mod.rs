//! What a run learns from and is tested on: `set` is its type, `on_world` and `files` make it, `base` and `codec` are the model it
//! starts from and how its tokens read, `token_rewards` is a file of rewards.

mod base;
mod codec;
mod files;
mod on_world;
mod set;
mod token_rewards;

pub use codec::Codec;
pub use on_world::world;
pub use set::{Data, Feedback};
pub use token_rewards::Paid;

use anyhow::Result;
use rto::seed::SeedTree;

use super::config::Config;
use on_world::Cut;

/// The data of the world for a method that is tuned: the prompts are cut by their text alone.
///
/// # Errors
/// Too few prompts, a network that they do not fit.
pub fn of_world_for_tuning(config: &Config, seeds: &SeedTree) -> Result<Data> {
    on_world::read(config, seeds, Cut::ByText)
}

/// The data that the settings name.
///
/// # Errors
/// A file that cannot be read or holds no preferences; a model whose tokens or length do not fit.
pub fn read(config: &Config, seeds: &SeedTree) -> Result<Data> {
    let mut data = match config.on_world() {
        true => on_world::read(config, seeds, Cut::BySeed)?,
        false => files::read(config, seeds)?,
    };
    if !config.token_rewards.is_empty() {
        token_rewards::read(&config.token_rewards, &mut data, seeds)?;
    }
    Ok(data)
}
