//! Advantages where a mask cuts tokens out of a response, and the baselines of other frameworks.

use std::ops::Range;

use super::kernels::{self, MaskRule, ReturnRule};
use super::{Gae, broadcast, leave_one_out};
use crate::check;
use crate::seq::Ragged;
use crate::{Error, Result};

/// [`gae`](super::gae) of responses with tokens that the policy did not write, `mask` 0: advantages and returns there are 0.
///
/// At γ = λ = 1 the three rules agree on the other tokens when no reward stands off the mask; below they differ
/// (`paper-notes/estimators.md`, claims 21a to 21d).
///
/// # Errors
/// Those of [`gae`](super::gae); a mask of another shape or with numbers other than 0 and 1.
pub fn gae_masked(
    rewards: &Ragged,
    values: &Ragged,
    (mask, rule): (&Ragged, MaskRule),
    final_values: &[f64],
    gamma: f64,
    lambda: f64,
) -> Result<Gae> {
    check::unit("gamma", gamma)?;
    check::unit("lambda", lambda)?;
    values.check_same_shape("reward", rewards)?;
    check_mask(rewards, mask)?;
    rewards.check_finite("reward")?;
    values.check_finite("value")?;
    check::rows("final values", rewards.n_rows(), final_values)?;
    let mut advantages = rewards.map(|_| 0.0);
    for (i, &last) in final_values.iter().enumerate() {
        let (r, v, m) = (rewards.row(i), values.row(i), mask.row(i));
        let out = advantages.row_mut(i);
        kernels::gae_row(r, v, Some((m, rule)), last, gamma, lambda, out);
    }
    let returns = advantages.zip("value", values, |a, v| a + v)?;
    Ok(Gae {
        returns: returns.zip("mask", mask, |r, m| r * m)?,
        advantages,
    })
}

/// [`reward_to_go`](super::reward_to_go) with a mask: 0 off it, and rewards there are lost.
///
/// # Errors
/// Those of [`reward_to_go`](super::reward_to_go); a mask of another shape or with numbers other than 0 and 1.
pub fn reward_to_go_masked(
    rewards: &Ragged,
    mask: &Ragged,
    rule: ReturnRule,
    gamma: f64,
) -> Result<Ragged> {
    check::unit("gamma", gamma)?;
    rewards.check_finite("reward")?;
    check_mask(rewards, mask)?;
    let mut out = rewards.clone();
    for i in 0..out.n_rows() {
        kernels::reward_to_go_row(out.row_mut(i), Some((mask.row(i), rule)), gamma);
    }
    Ok(out)
}

/// ReMax (Li et al., 2024) as verl has it: the reward to go of each token, minus the score of the greedy response to the same prompt,
/// `[B]`. The baseline has no KL term and is the same for every token.
///
/// Summed over tokens its expected gradient is unbiased (claim 13): the greedy response does not depend on the sampled one.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NonFinite`].
pub fn remax(rewards: &Ragged, greedy_scores: &[f64], mask: Option<&Ragged>) -> Result<Ragged> {
    let baseline: Vec<f64> = greedy_scores.iter().map(|g| -g).collect();
    to_go_and(rewards, &baseline, mask)
}

/// RLOO as OpenRLHF has it: the leave-one-out baseline is taken of the scores alone, `[B]`, and the KL term of `rewards` (scores and KL,
/// token by token) enters as a reward to go.
///
/// # Errors
/// Those of [`leave_one_out`]; [`Error::Shape`].
pub fn leave_one_out_of_score(
    rewards: &Ragged,
    scores: &[f64],
    groups: &[Range<usize>],
    mask: Option<&Ragged>,
) -> Result<Ragged> {
    let baseline: Vec<f64> = leave_one_out(scores, groups)?
        .iter()
        .zip(scores)
        .map(|(a, s)| a - s)
        .collect();
    to_go_and(rewards, &baseline, mask)
}

fn to_go_and(rewards: &Ragged, per_row: &[f64], mask: Option<&Ragged>) -> Result<Ragged> {
    let ones = rewards.map(|_| 1.0);
    let mask = mask.unwrap_or(&ones);
    let to_go = reward_to_go_masked(rewards, mask, ReturnRule::Carry, 1.0)?;
    let added = broadcast(per_row, rewards)?;
    added.check_finite("baseline")?;
    let sum = to_go.zip("baseline", &added, |a, b| a + b)?;
    sum.zip("mask", mask, |a, m| a * m)
}

fn check_mask(like: &Ragged, mask: &Ragged) -> Result<()> {
    like.check_same_shape("mask", mask)?;
    match mask.values().iter().find(|v| **v != 0.0 && **v != 1.0) {
        None => Ok(()),
        Some(bad) => Err(Error::config("mask", bad, "0 or 1")),
    }
}
