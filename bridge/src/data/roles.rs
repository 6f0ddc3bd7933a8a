//! Who may see which pairs, where an oracle is trained from the same data as the policies it judges.

use rto::seed::SeedTree;

use super::{HasPrompt, Split, SplitKey};
use crate::Result;

/// Pairs by what they are for. No conversation is in two parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Roles<T> {
    /// SFT, DPO, the reward model of PPO, and the prompts of PPO and RTO.
    pub train: Vec<T>,
    /// Prompts that win rates are measured on; its labels also measure how often the oracle agrees with people.
    pub held_out: Vec<T>,
    /// The oracle reward model, which must not have seen what trained the policies.
    pub oracle: Vec<T>,
}

/// Deals out pairs: a third to the oracle, `held_out_share` of all to evaluation, the others to training.
///
/// The part of a pair is read off a hash of the seed and the user's first turn ([`SplitKey::FirstTurn`]), because HH-RLHF
/// has many prompts that grew from one conversation. Order and other pairs do not matter.
///
/// # Errors
/// [`rto::Error::Config`]: `held_out_share` outside (0, 2/3), or a part stays empty.
pub fn roles<T: HasPrompt>(
    pairs: Vec<T>,
    held_out_share: f64,
    seeds: &SeedTree,
) -> Result<Roles<T>> {
    let oracle_share = 1.0 / 3.0;
    let train_share = 1.0 - oracle_share - held_out_share;
    if !(held_out_share > 0.0 && train_share > 0.0) {
        let must = "between 0 and 2/3, both excluded";
        return Err(rto::Error::config("held_out_share", held_out_share, must).into());
    }
    let split = Split::try_new(&[train_share, held_out_share, oracle_share])?;
    let mut parts = split.parts(pairs, &seeds.child("roles"), SplitKey::FirstTurn)?;
    let mut next = || parts.remove(0);
    Ok(Roles {
        train: next(),
        held_out: next(),
        oracle: next(),
    })
}
