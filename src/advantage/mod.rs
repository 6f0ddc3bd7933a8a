//! Advantages of sampled responses from rewards per token.
//!
//! Why a dense reward is a start for the critic: paying at once with V = 0, or at the end with V the sum paid so far, gives the same
//! advantages for every λ (γ = 1).
//!
//! ```
//! use rto::advantage::gae;
//! use rto::seq::Ragged;
//!
//! let (dense, at_end) = (Ragged::from_rows([[0.3, -0.1, 0.5]]), Ragged::from_rows([[0.0, 0.0, 0.7]]));
//! let (zero, paid_so_far) = (Ragged::from_rows([[0.0; 3]]), Ragged::from_rows([[0.0, 0.3, 0.2]]));
//! for lambda in [0.0, 0.5, 0.95, 1.0] {
//!     let rto = gae(&dense, &zero, &[0.0], 1.0, lambda)?;
//!     let dppo = gae(&at_end, &paid_so_far, &[0.0], 1.0, lambda)?;
//!     for (a, b) in rto.advantages.values().iter().zip(dppo.advantages.values()) {
//!         assert!((a - b).abs() < 1e-12);
//!     }
//! }
//! # Ok::<(), rto::Error>(())
//! ```

use std::ops::Range;

use crate::check;
use crate::seq::{Channel, Episode, Finish, PerToken, Ragged};
use crate::{Error, Result};

pub(crate) mod kernels;
mod masked;
#[cfg(test)]
mod tests;

pub use kernels::{MaskRule, ReturnRule, WhitenStd};
pub use masked::{gae_masked, leave_one_out_of_score, remax, reward_to_go_masked};

/// Added to the variance in [`whiten`].
pub const WHITEN_EPS: f64 = 1e-8;

/// GAE (Schulman et al., 2016): Advantages and the returns a critic is fitted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Gae {
    /// Â_h, `[B][H_i]`.
    pub advantages: Ragged,
    /// R_h = Â_h + V(s_h), `[B][H_i]`.
    pub returns: Ragged,
}

/// Generalised advantage estimation (Schulman et al., 2016): δ_h = r_h + γV(s_{h+1}) − V(s_h), Â_h = Σ_{k≥h} (γλ)^{k−h} δ_k.
///
/// `rewards` and `values` are `[B][H_i]`; `final_values` are V(s_{H_i+1}), `[B]`, see [`final_values`]: 0 for a terminal state.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], and [`Error::Config`] on γ or λ outside \[0, 1\].
pub fn gae(
    rewards: &Ragged,
    values: &Ragged,
    final_values: &[f64],
    gamma: f64,
    lambda: f64,
) -> Result<Gae> {
    check::unit("gamma", gamma)?;
    check::unit("lambda", lambda)?;
    values.check_same_shape("reward", rewards)?;
    rewards.check_finite("reward")?;
    values.check_finite("value")?;
    check::rows("final values", rewards.n_rows(), final_values)?;
    let mut advantages = rewards.map(|_| 0.0);
    for (i, &last) in final_values.iter().enumerate() {
        let (r, v) = (rewards.row(i), values.row(i));
        kernels::gae_row(r, v, None, last, gamma, lambda, advantages.row_mut(i));
    }
    let returns = advantages.zip("value", values, |a, v| a + v)?;
    Ok(Gae {
        advantages,
        returns,
    })
}

/// GAE's last state: V(s_{H_i+1}) of every row, `[B]`: 0 after the end-of-sentence token, and 0 for a response cut at its
/// longest length unless
/// `bootstrap_truncated`, which reads [`Channel::FinalValue`].
///
/// # Errors
/// The channel is asked for and missing.
pub fn final_values(
    batch: &[Episode],
    scores: &PerToken,
    bootstrap_truncated: bool,
) -> Result<Vec<f64>> {
    if !bootstrap_truncated {
        return Ok(vec![0.0; batch.len()]);
    }
    let last = scores.get(Channel::FinalValue)?;
    check::rows("final values", batch.len(), last.values())?;
    let value = |(e, v): (&Episode, &f64)| match e.finish {
        Finish::Eos => 0.0,
        Finish::Length => *v,
    };
    Ok(batch.iter().zip(last.values()).map(value).collect())
}

/// REINFORCE (Williams, 1992): Σ_{k≥h} γ^{k−h} r_k, `[B][H_i]`.
///
/// # Errors
/// [`Error::NonFinite`]; [`Error::Config`] on γ outside \[0, 1\].
pub fn reward_to_go(rewards: &Ragged, gamma: f64) -> Result<Ragged> {
    check::unit("gamma", gamma)?;
    rewards.check_finite("reward")?;
    let mut out = rewards.clone();
    for i in 0..out.n_rows() {
        kernels::reward_to_go_row(out.row_mut(i), None, gamma);
    }
    Ok(out)
}

/// As in published PPO code; not stated in the paper (Table 4): x / √(var + ε) over the tokens of a mask, with the mean
/// removed first if `shift_mean`; tokens off the mask become 0.
///
/// The variance is the biased one, 1/n Σ(x − x̄)², and ε = [`WHITEN_EPS`]. Without `shift_mean` the mean is scaled with the rest
/// and keeps its sign, which is what rewards need.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NonFinite`]; [`Error::Config`] when no token counts.
pub fn whiten(x: &Ragged, mask: Option<&Ragged>, shift_mean: bool) -> Result<Ragged> {
    whiten_by(x, mask, shift_mean, WhitenStd::Biased)
}

/// [`whiten`] with the standard deviation of another framework.
///
/// # Errors
/// Those of [`whiten`].
pub fn whiten_by(
    x: &Ragged,
    mask: Option<&Ragged>,
    shift_mean: bool,
    std: WhitenStd,
) -> Result<Ragged> {
    x.check_finite("what is whitened")?;
    let n = match mask {
        None => x.n_tokens() as f64,
        Some(m) => {
            x.check_same_shape("mask", m)?;
            m.values().iter().sum()
        }
    };
    if n <= 0.0 {
        return Err(Error::config(
            "mask",
            "no token",
            "at least one token that counts",
        ));
    }
    let mut out = x.clone();
    let mask = mask.map(Ragged::values);
    kernels::whiten_tokens(out.values_mut(), mask, n, shift_mean, std);
    Ok(out)
}

/// RLOO (Ahmadian et al., 2024): R_i − mean of the other returns of its group, `[B]`.
///
/// # Errors
/// [`Error::Config`] on a group of one; [`Error::Shape`]; [`Error::NonFinite`].
pub fn leave_one_out(returns: &[f64], groups: &[Range<usize>]) -> Result<Vec<f64>> {
    grouped(returns, groups, kernels::leave_one_out_group)
}

/// What the distance of a return from its group's mean is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
pub enum Spread {
    /// 1: Dr. GRPO (Liu et al., 2025).
    #[default]
    One,
    /// The standard deviation of the group plus ε (GRPO). ε is 1e-4 in TRL, 1e-6 in verl, 1e-9 in OpenRLHF.
    Group {
        /// ε > 0.
        eps: f64,
    },
    /// The standard deviation of all returns of the batch plus ε (`scale_rewards = batch` of TRL).
    Batch {
        /// ε > 0.
        eps: f64,
    },
}

impl Spread {
    /// Refuses ε that is not positive.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(self) -> Result<()> {
        match self {
            Self::Group { eps } | Self::Batch { eps } if !(eps.is_finite() && eps > 0.0) => {
                Err(Error::config("spread.eps", eps, "finite and > 0"))
            }
            _ => Ok(()),
        }
    }
}

/// GRPO (Shao et al., 2024): (R_i − mean)/(std + 1e-4) over the group, `[B]`, with the unbiased standard deviation;
/// without the division it is Dr. GRPO (Liu et al., 2025). [`group_relative_by`] has other spreads.
///
/// # Errors
/// [`Error::Config`] on a group of one; [`Error::Shape`]; [`Error::NonFinite`].
pub fn group_relative(
    returns: &[f64],
    groups: &[Range<usize>],
    divide_by_std: bool,
) -> Result<Vec<f64>> {
    let spread = match divide_by_std {
        true => Spread::Group { eps: 1e-4 },
        false => Spread::One,
    };
    group_relative_by(returns, groups, spread)
}

/// R_i − mean over the group, over a [`Spread`], `[B]`, with unbiased standard deviations; 0 in a group of equal returns.
///
/// The mean includes R_i, which shrinks the expected gradient by (G − 1)/G but no KL term in the loss: β there acts as
/// βG/(G − 1). A division by a standard deviation makes the expected gradient that of no function, unless rewards are binary
/// (`paper-notes/estimators.md`, claims 07b, 08b, 08c, 17b).
///
/// # Errors
/// [`Error::Config`] on a group of one or ε; [`Error::Shape`]; [`Error::NonFinite`].
pub fn group_relative_by(
    returns: &[f64],
    groups: &[Range<usize>],
    spread: Spread,
) -> Result<Vec<f64>> {
    spread.check()?;
    let of_batch = match spread {
        Spread::Batch { eps } if !returns.is_empty() => Some(kernels::inverse_std(returns, eps)),
        _ => None,
    };
    grouped(returns, groups, |group, out| {
        let scale = match spread {
            Spread::One => None,
            Spread::Group { eps } => Some(kernels::inverse_std(group, eps)),
            Spread::Batch { .. } => of_batch,
        };
        kernels::group_row(group, scale, out);
    })
}

/// One number per row given to all its tokens, in the shape of another array.
///
/// # Errors
/// [`Error::Shape`].
pub fn broadcast(per_row: &[f64], like: &Ragged) -> Result<Ragged> {
    check::rows("numbers per row", like.n_rows(), per_row)?;
    let mut out = like.map(|_| 0.0);
    for (i, v) in per_row.iter().enumerate() {
        out.row_mut(i).fill(*v);
    }
    Ok(out)
}

fn grouped(
    returns: &[f64],
    groups: &[Range<usize>],
    mut each: impl FnMut(&[f64], &mut [f64]),
) -> Result<Vec<f64>> {
    Ragged::from_rows([returns]).check_finite("return")?;
    let covered = groups.iter().map(Range::len).sum();
    check::rows("returns of the groups", covered, returns)?;
    let mut out = Vec::with_capacity(returns.len());
    for (k, g) in groups.iter().enumerate() {
        if g.len() < 2 || g.start != out.len() {
            let must = "at least two consecutive rows that follow the group before";
            return Err(Error::config(format!("group {k}"), format!("{g:?}"), must));
        }
        out.resize(g.end, 0.0);
        each(&returns[g.clone()], &mut out[g.clone()]);
    }
    Ok(out)
}
