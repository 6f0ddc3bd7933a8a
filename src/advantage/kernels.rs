//! The formulas of this module on plain slices, over any [`Real`]: what training and the audit share.

use crate::dual::Real;

/// What a token off the mask (a tool's, which the policy did not write) is to the tokens around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum MaskRule {
    /// Passed over: the advantages are those of the response without it, and a reward placed on it is lost (verl).
    #[default]
    PassOver,
    /// A step like others, with its reward and its value.
    Step,
    /// A step like others, with its reward and the value 0 (OpenRLHF).
    StepOfValueZero,
}

/// What becomes of the running return at a token off the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ReturnRule {
    /// It is carried over to the tokens before.
    #[default]
    Carry,
    /// It starts again from 0: tokens before a tool call get none of the reward after it (verl's REINFORCE++ before 0.9).
    Reset,
}

/// The standard deviation that whitening divides by; ε = [`WHITEN_EPS`](super::WHITEN_EPS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum WhitenStd {
    /// √(var + ε), var = 1/n Σ(x − x̄)².
    #[default]
    Biased,
    /// √(var·n/(n − 1) + ε), Bessel's correction (verl).
    Unbiased,
    /// √(max{var, ε}) (OpenRLHF).
    BiasedClamped,
    /// 1: the mean is removed and nothing is divided.
    One,
}

/// GAE of one row into `out`, see [`gae`](super::gae). With a mask, `rule` says what a token off it is.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // One row's data and the two constants of GAE.
pub(crate) fn gae_row<T: Real>(
    r: &[T],
    v: &[T],
    mask: Option<(&[f64], MaskRule)>,
    last: T,
    gamma: f64,
    lambda: f64,
    out: &mut [T],
) {
    let (mut next, mut carried) = (last, T::constant(0.0));
    for h in (0..r.len()).rev() {
        let off = mask.is_some_and(|(m, _)| m[h] == 0.0);
        match mask {
            Some((_, MaskRule::PassOver)) if off => out[h] = T::constant(0.0),
            Some((_, MaskRule::StepOfValueZero)) if off => {
                carried = r[h] + next * gamma + carried * (gamma * lambda);
                next = T::constant(0.0);
                out[h] = T::constant(0.0);
            }
            _ => {
                carried = r[h] + next * gamma - v[h] + carried * (gamma * lambda);
                next = v[h];
                out[h] = if off { T::constant(0.0) } else { carried };
            }
        }
    }
}

/// Σ_{k≥h} γ^{k−h} r_k of one row, in place. With a mask, rewards off it are lost.
#[inline(always)]
pub(crate) fn reward_to_go_row<T: Real>(
    row: &mut [T],
    mask: Option<(&[f64], ReturnRule)>,
    gamma: f64,
) {
    let mut carried = T::constant(0.0);
    for (h, r) in row.iter_mut().enumerate().rev() {
        match mask {
            Some((m, rule)) if m[h] == 0.0 => {
                if rule == ReturnRule::Reset {
                    carried = T::constant(0.0);
                }
                *r = T::constant(0.0);
            }
            _ => {
                carried = *r + carried * gamma;
                *r = carried;
            }
        }
    }
}

/// Whitening of the tokens of a unit, in place; see [`whiten`](super::whiten). `n` is the number of tokens that count, > 0.
#[inline(always)]
pub(crate) fn whiten_tokens<T: Real>(
    x: &mut [T],
    mask: Option<&[f64]>,
    n: f64,
    shift_mean: bool,
    std: WhitenStd,
) {
    let m = |k: usize| mask.map_or(1.0, |m| m[k]);
    let mut mean = T::constant(0.0);
    for (k, v) in x.iter().enumerate() {
        mean += *v * m(k);
    }
    mean = mean / T::constant(n);
    let mut var = T::constant(0.0);
    if std != WhitenStd::One {
        for (k, v) in x.iter().enumerate() {
            let c = *v - mean;
            var += c * c * m(k);
        }
        var = var / T::constant(n);
    }
    let scale = whitening_scale(var, n, std);
    for (k, v) in x.iter_mut().enumerate() {
        let shifted = if shift_mean { *v - mean } else { *v };
        *v = shifted * m(k) * scale;
    }
}

/// What whitening multiplies by: 1 over the standard deviation of n tokens of (biased) variance `var`.
#[inline(always)]
pub(crate) fn whitening_scale<T: Real>(var: T, n: f64, std: WhitenStd) -> T {
    let eps = super::WHITEN_EPS;
    match std {
        WhitenStd::Biased => (var + eps).sqrt().recip(),
        WhitenStd::Unbiased => (var * (n / (n - 1.0).max(1.0)) + eps).sqrt().recip(),
        WhitenStd::BiasedClamped if var.value() < eps => T::constant(eps.sqrt().recip()),
        WhitenStd::BiasedClamped => var.sqrt().recip(),
        WhitenStd::One => T::constant(1.0),
    }
}

/// R_i − mean of the other returns of the group.
#[inline(always)]
pub(crate) fn leave_one_out_group<T: Real>(group: &[T], out: &mut [T]) {
    let n = group.len() as f64;
    let mut sum = T::constant(0.0);
    for r in group {
        sum += *r;
    }
    for (o, r) in out.iter_mut().zip(group) {
        *o = *r - (sum - *r) / T::constant(n - 1.0);
    }
}

/// R_i − mean of the group, itself included.
#[inline(always)]
pub(crate) fn centre_group<T: Real>(group: &[T], out: &mut [T]) {
    let mut mean = T::constant(0.0);
    for r in group {
        mean += *r;
    }
    mean = mean / T::constant(group.len() as f64);
    for (o, r) in out.iter_mut().zip(group) {
        *o = *r - mean;
    }
}

/// 1/(std + ε) of some returns, with the unbiased standard deviation; 1/ε where all of them are equal, whatever rounding does to
/// their mean.
#[inline(always)]
pub(crate) fn inverse_std<T: Real>(returns: &[T], eps: f64) -> T {
    let first = returns[0].value();
    if returns.iter().all(|r| r.value() == first) {
        return T::constant(1.0 / eps);
    }
    let n = returns.len() as f64;
    let mut mean = T::constant(0.0);
    for r in returns {
        mean += *r;
    }
    mean = mean / T::constant(n);
    let mut var = T::constant(0.0);
    for r in returns {
        let c = *r - mean;
        var += c * c;
    }
    ((var / T::constant(n - 1.0)).sqrt() + eps).recip()
}

/// Whether all returns of a group are equal: their advantage is then 0, and not what rounding leaves of the mean.
#[inline(always)]
pub(crate) fn no_spread<T: Real>(group: &[T]) -> bool {
    let first = group[0].value();
    group.iter().all(|r| r.value() == first)
}

/// (R_i − mean) over a standard deviation, or R_i − mean without one; exactly 0 in value where all are equal.
#[inline(always)]
pub(crate) fn group_row<T: Real>(group: &[T], scale: Option<T>, out: &mut [T]) {
    centre_group(group, out);
    let equal = no_spread(group);
    for o in out.iter_mut() {
        if equal {
            // Only the derivatives stay.
            *o = *o - o.value();
        }
        if let Some(s) = scale {
            *o = *o * s;
        }
    }
}
