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
use set::Cut;

/// The data for a method that is tuned on some seeds and reported on others: the prompts are cut by their text alone, whatever the seed,
/// and no reported seed is evaluated on prompts that the tuning saw.
///
/// # Errors
/// As [`read`].
pub fn for_tuning(config: &Config, seeds: &SeedTree, tuned: bool) -> Result<Data> {
    let cut = Cut::ByText { tuned };
    match config.on_world() {
        true => on_world::read(config, seeds, cut),
        false => files::read(config, seeds, cut),
    }
}

/// The data that the settings name.
///
/// # Errors
/// A file that cannot be read or holds no preferences; a model whose tokens or length do not fit.
pub fn read(config: &Config, seeds: &SeedTree) -> Result<Data> {
    let mut data = match config.on_world() {
        true => on_world::read(config, seeds, Cut::BySeed)?,
        false => files::read(config, seeds, Cut::BySeed)?,
    };
    if !config.token_rewards.is_empty() {
        token_rewards::read(&config.token_rewards, &mut data, seeds)?;
    }
    Ok(data)
}
