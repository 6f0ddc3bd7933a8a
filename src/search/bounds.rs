//! Closed forms around Proposition 3.2: what the paper claims and what is true.
//!
//! Throughout, A = `n_actions`, H = `horizon`, and K bounds the number of prefixes of one length h < H with
//! mass at least τ = A^{−ξ}: K = ⌈A^ξ⌉ − 1 when π\* > 0 everywhere (then ξ > 0), K = ⌊A^ξ⌋ when zeros are allowed.
//! Counts are `u128` and saturate; K is exact while A^ξ < 2⁵³.

use super::best_first::Pick;
use crate::Token;
use num_bigint::BigUint;

/// Relative slack within which A^ξ counts as an integer.
pub const XI_SLACK: f64 = 1e-12;

/// min(base^exponent, cap).
pub(crate) fn power_at_most(base: usize, exponent: usize, cap: u128) -> u128 {
    let mut power = 1u128;
    for _ in 0..exponent {
        match power.checked_mul(base as u128) {
            Some(next) if next < cap => power = next,
            _ => return cap,
        }
    }
    power.min(cap)
}

/// Σ_{h<levels} min(A^h, K), saturating.
fn sum_of_widths(n_actions: usize, levels: usize, k: u128) -> u128 {
    let mut sum = 0u128;
    for h in 0..levels {
        let width = power_at_most(n_actions, h, k);
        if width == k {
            return sum.saturating_add(k.saturating_mul((levels - h) as u128));
        }
        sum = sum.saturating_add(width);
    }
    sum
}

/// K of the module header, from ξ of Assumption 3.1 (A^ξ within [`XI_SLACK`] of an integer counts as that integer).
pub fn chains_for_xi(n_actions: usize, xi: f64, zeros_allowed: bool) -> u128 {
    let inverse_threshold = (n_actions as f64).powf(xi);
    if zeros_allowed {
        ((inverse_threshold * (1.0 + XI_SLACK)).floor() as u128).max(1)
    } else {
        ((inverse_threshold * (1.0 - XI_SLACK)).ceil() as u128)
            .saturating_sub(1)
            .max(1)
    }
}

/// The paper's Proposition 3.2, token feedback: A^{min(ξ+1, H)}, unrounded. **False as a bound**: see
/// [`minimax`] and `paper-notes/errata.md`.
pub fn paper_bound(n_actions: usize, horizon: usize, xi: f64) -> f64 {
    (n_actions as f64).powf((xi + 1.0).min(horizon as f64))
}

/// The exact deterministic minimax number of queries with token feedback (errata, A3):
///
/// M(A, H, K) = 1 + (A−1) Σ_{h=0}^{H−2} min(A^h, K) + (A−2) min(A^{H−1}, K).
///
/// Upper bound: [`super::best_first`] on every tree. Lower bound (K ≤ A^{H−1}): [`super::adversary`].
pub fn minimax(n_actions: usize, horizon: usize, k: u128) -> u128 {
    let a = n_actions as u128;
    let inner = (a - 1).saturating_mul(sum_of_widths(n_actions, horizon - 1, k));
    let last = (a - 2).saturating_mul(power_at_most(n_actions, horizon - 1, k));
    inner.saturating_add(last).saturating_add(1)
}

/// The largest possible |N| of (3.7): (A−1) Σ_{h<H} min(A^h, K) (errata, A1; the paper claims A^{ξ+1}).
pub fn frontier_max(n_actions: usize, horizon: usize, k: u128) -> u128 {
    (n_actions as u128 - 1).saturating_mul(sum_of_widths(n_actions, horizon, k))
}

/// The largest number of queries of the paper's algorithm: 1 + (A−1) Σ_{h<H} min(A^h, K) (errata, A2).
pub fn paper_queries_max(n_actions: usize, horizon: usize, k: u128) -> u128 {
    frontier_max(n_actions, horizon, k).saturating_add(1)
}

/// |N| of (3.7) from the profile m_h = #{nodes at depth h with mass ≥ τ}, h = 0..=H (errata, A1):
/// Σ_{h<H} (A·m_h − m_{h+1}).
pub fn frontier_size(n_actions: usize, profile: &[u64]) -> u128 {
    profile
        .windows(2)
        .map(|m| n_actions as u128 * u128::from(m[0]) - u128::from(m[1]))
        .sum()
}

/// The queries of the paper's algorithm, in whichever order (errata, A2): |N| + m_H.
pub fn paper_queries(n_actions: usize, profile: &[u64]) -> u128 {
    frontier_size(n_actions, profile) + profile.last().map_or(0, |m| u128::from(*m))
}

/// The instance bound of best-first search (errata, A3), from the profile m_h(p\*), h = 0..=H:
/// 1 + (A−1) Σ_{h≤H−2} m_h(p\*) + (A−2) m_{H−1}(p\*); without inference of last leaves
/// 1 + (A−1) Σ_{h≤H−1} m_h(p\*).
pub fn instance_bound(n_actions: usize, profile: &[u64], infer_last_leaf: bool) -> u128 {
    let (a, horizon) = (n_actions as u128, profile.len() - 1);
    let sum = |levels: usize| {
        profile[..levels]
            .iter()
            .map(|m| u128::from(*m))
            .sum::<u128>()
    };
    let last = u128::from(profile[horizon - 1]);
    1 + (a - 1) * sum(horizon - 1) + if infer_last_leaf { a - 2 } else { a - 1 } * last
}

/// Errata, A3: What best-first search asks on a [`super::evaluator::NeedleChain`] with p\* > 1/2: one query, and one
/// more for each light child opened before the main one; a main leaf that is last is inferred.
pub fn needle_queries(n_actions: usize, main: &[Token], pick: Pick) -> u64 {
    let last = n_actions as u64 - 1;
    let before = |token: &Token| match pick {
        Pick::Lowest => u64::from(*token),
        Pick::Highest => last - u64::from(*token),
    };
    let inferred = main.last().is_some_and(|token| before(token) == last);
    1 + main.iter().map(before).sum::<u64>() - u64::from(inferred)
}

/// Sentence feedback, worst case of every deterministic learner: A^H − 1 when Σ π\* = 1 may be used, A^H
/// when it may not (errata, A4). The paper says A^H.
pub fn sentence_worst_case(n_actions: usize, horizon: usize, use_normalisation: bool) -> BigUint {
    BigUint::from(n_actions).pow(horizon as u32) - u32::from(use_normalisation)
}

/// Sentence feedback in uniformly random order, p\* ≥ 1/2: expected queries (n+2)(n−1)/(2n), n = A^H (errata, A4).
pub fn sentence_random_order(n_actions: usize, horizon: usize) -> f64 {
    let n = (n_actions as f64).powi(horizon as i32);
    if n.is_infinite() {
        n
    } else {
        0.5 * (n + 2.0) * (1.0 - 1.0 / n)
    }
}

/// A lower bound on the expected queries of every randomised learner with token feedback, from a
/// uniformly random needle (errata, A3): 1 + H(A−1)/2 − 1/A.
pub fn randomised_lower_bound(n_actions: usize, horizon: usize) -> f64 {
    1.0 + horizon as f64 * (n_actions as f64 - 1.0) / 2.0 - 1.0 / n_actions as f64
}

#[cfg(test)]
mod tests;
