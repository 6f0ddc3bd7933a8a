//! Drawing a token from logits: inverse distribution function in f64, one uniform number per token.
//!
//! The draw is a function of the logits and of the number alone. Weights come from the polynomial exponential of all passes, every step of
//! which is rounded alike whatever the machine's vector width.

use crate::ops::simd::exp;
use crate::{Error, Result};
use pulp::Arch;
use rto::Token;

/// Tokens whose weights are summed together before the search looks inside.
const BLOCK: usize = 512;

/// The highest logit, and ln Σ e^((l − highest)/T).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normaliser {
    /// The highest logit.
    pub highest: f32,
    /// ln Σ over the vocabulary of e^((l − highest)/T).
    pub log_sum: f64,
}

impl Normaliser {
    /// log π(token) of the softmax at temperature T, from the token's logit.
    pub fn log_prob(&self, logit: f32, temperature: f64) -> f64 {
        (f64::from(logit) - f64::from(self.highest)) / temperature - self.log_sum
    }
}

/// The highest logit, the first where several are; NaN is passed over (and caught by the sums).
pub fn argmax(logits: &[f32]) -> usize {
    let highest = highest(logits);
    logits.iter().position(|&l| l == highest).unwrap_or(0)
}

/// The normaliser of the softmax at `temperature` over all of `logits`.
///
/// # Errors
/// [`Error::Request`] where a logit is NaN or infinite.
pub fn normaliser(logits: &[f32], temperature: f64) -> Result<Normaliser> {
    let highest = highest(logits);
    let sum = logits
        .chunks(BLOCK)
        .map(|block| block_sum(block, highest, temperature))
        .sum::<f64>();
    check(highest, sum)?;
    Ok(Normaliser {
        highest,
        log_sum: sum.ln(),
    })
}

/// A token of softmax(logits / temperature), for a number `uniform` in [0, 1), and its log-probability.
///
/// # Errors
/// [`Error::Request`] where a logit is NaN or infinite.
pub fn sample(logits: &[f32], temperature: f64, uniform: f64) -> Result<(Token, f64)> {
    let highest = highest(logits);
    let sums: Vec<f64> = logits
        .chunks(BLOCK)
        .map(|block| block_sum(block, highest, temperature))
        .collect();
    let total = sums.iter().sum::<f64>();
    check(highest, total)?;
    let mut rest = uniform * total;
    let mut chosen = sums.iter().rposition(|&s| s > 0.0).unwrap_or(0);
    for (block, sum) in sums.iter().enumerate() {
        if rest < *sum {
            chosen = block;
            break;
        }
        rest -= sum;
    }
    let block = &logits[chosen * BLOCK..logits.len().min((chosen + 1) * BLOCK)];
    let mut weights = [0.0; BLOCK];
    let weights = &mut weights[..block.len()];
    weigh(block, highest, temperature, weights);
    let index = chosen * BLOCK + walk(weights.iter().map(|&w| f64::from(w)), rest);
    let normaliser = Normaliser {
        highest,
        log_sum: total.ln(),
    };
    Ok((
        index as Token,
        normaliser.log_prob(logits[index], temperature),
    ))
}

/// The first index at which the running sum of `weights` passes `rest`; rounding at the end falls on the last
/// that has a weight.
pub(crate) fn walk(weights: impl Iterator<Item = f64>, mut rest: f64) -> usize {
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = index;
            if rest < weight {
                break;
            }
        }
        rest -= weight;
    }
    last
}

pub(crate) fn check(highest: f32, sum: f64) -> Result<()> {
    if highest.is_finite() && sum.is_finite() {
        return Ok(());
    }
    Err(Error::request(
        "logits",
        "found NaN or infinity: the network's weights overflow",
    ))
}

pub(crate) fn highest(logits: &[f32]) -> f32 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut lanes = [f32::NEG_INFINITY; 16];
            let (chunks, rest) = logits.as_chunks::<16>();
            for chunk in chunks {
                for (lane, v) in lanes.iter_mut().zip(chunk) {
                    *lane = if *v > *lane { *v } else { *lane };
                }
            }
            lanes
                .into_iter()
                .chain(rest.iter().copied())
                .fold(f32::NEG_INFINITY, f32::max)
        },
    )
}

/// e^((l − highest)/T) of a block's logits.
fn weigh(block: &[f32], highest: f32, temperature: f64, weights: &mut [f32]) {
    let scale = (1.0 / temperature) as f32;
    // Handed over, so that this loop is what is dispatched and compiled for this processor.
    let all = weights.iter_mut().zip(block);
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (w, l) in all {
                *w = exp((l - highest) * scale);
            }
        },
    );
}

/// Σ e^((l − highest)/T) of a block, in sixteen f64 sums.
fn block_sum(block: &[f32], highest: f32, temperature: f64) -> f64 {
    let scale = (1.0 / temperature) as f32;
    // Handed over, as above.
    let (chunks, rest) = block.as_chunks::<16>();
    let (chunks, rest) = (chunks.iter(), rest.iter());
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut lanes = [0.0_f64; 16];
            for chunk in chunks {
                for (lane, v) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(exp((v - highest) * scale));
                }
            }
            let tail: f64 = rest.map(|v| f64::from(exp((v - highest) * scale))).sum();
            lanes.iter().sum::<f64>() + tail
        },
    )
}
