//! Splits that no prompt straddles, and orders that depend on the seed alone.

use rand::seq::SliceRandom;
use rto::seed::SeedTree;

use super::{HasPrompt, first_turn};
use crate::Result;

/// What must not land in two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitKey {
    /// The prompt.
    #[default]
    Prompt,
    /// The user's first turn ([`first_turn`]): also keeps the prompts grown from one conversation together.
    FirstTurn,
}

/// A division into parts of given weights.
///
/// The part of a prompt x is read off u(x) = key(seed, x)/2⁶⁴ ∈ [0, 1), with key a SHA-256 hash: it depends on
/// neither the other prompts nor their order, and adding data moves no prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The upper end of each part in [0, 1]; the last is 1.
    ends: Vec<f64>,
}

impl Split {
    /// Parts in proportion to `weights`.
    ///
    /// # Errors
    /// [`rto::Error::Config`] unless there is a weight and all are finite and positive.
    pub fn try_new(weights: &[f64]) -> Result<Self> {
        let bad = weights.iter().find(|w| !(w.is_finite() && **w > 0.0));
        if let Some(weight) = bad {
            return Err(rto::Error::config("split weight", weight, "finite and > 0").into());
        }
        let total: f64 = weights.iter().sum();
        if weights.is_empty() || !total.is_finite() {
            let must = "one finite weight or more, with a finite sum";
            return Err(rto::Error::config("split weights", format!("{weights:?}"), must).into());
        }
        let mut sum = 0.0;
        let mut end = |w: &f64| {
            sum += w;
            sum / total
        };
        let mut ends: Vec<f64> = weights.iter().map(&mut end).collect();
        *ends.last_mut().expect("checked above") = 1.0;
        Ok(Self { ends })
    }

    /// Three equal parts: for training, for an oracle that has seen none of it, for evaluation.
    pub fn thirds() -> Self {
        Self {
            ends: vec![1.0 / 3.0, 2.0 / 3.0, 1.0],
        }
    }

    /// The number of parts.
    pub fn n_parts(&self) -> usize {
        self.ends.len()
    }

    /// The part of a prompt.
    pub fn part(&self, prompt: &str, seeds: &SeedTree, key: SplitKey) -> usize {
        let what = match key {
            SplitKey::Prompt => prompt,
            SplitKey::FirstTurn => first_turn(prompt),
        };
        // The 53 leading bits, so that u < 1 after rounding.
        let bits = seeds.child("split").child(what).key64() >> 11;
        let u = bits as f64 / (1u64 << 53) as f64;
        self.ends.partition_point(|end| *end <= u)
    }

    /// The items of each part, in their order.
    ///
    /// # Errors
    /// [`rto::Error::Config`] when a part stays empty.
    pub fn parts<T: HasPrompt>(
        &self,
        items: Vec<T>,
        seeds: &SeedTree,
        key: SplitKey,
    ) -> Result<Vec<Vec<T>>> {
        let total = items.len();
        let mut parts: Vec<Vec<T>> = (0..self.n_parts()).map(|_| Vec::new()).collect();
        for item in items {
            parts[self.part(item.prompt(), seeds, key)].push(item);
        }
        if let Some(empty) = parts.iter().position(Vec::is_empty) {
            let must = format!(
                "enough to fill part {empty} of the split; those that begin alike stay together"
            );
            return Err(rto::Error::config("dataset", format!("{total} records"), must).into());
        }
        Ok(parts)
    }
}

/// The order of `n` items in an epoch: a uniform permutation, the same for the same seed and epoch, so that a run
/// continues at a position without having drawn what came before it.
pub fn shuffled(n: usize, seeds: &SeedTree, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut seeds.child("shuffle").index(epoch).rng());
    order
}
