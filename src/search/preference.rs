//! The question as RLHF asks it: feedback is a noisy pairwise preference, not a number.
//!
//! The evaluator of Section 3.3 answers through the Bradley–Terry model. With sentence feedback one
//! query compares two responses by (2.1) with r_s = log π\*(y|x):
//! P(y¹ ≻ y²) = σ(r_s(y¹) − r_s(y²)) = π\*(y¹)/(π\*(y¹) + π\*(y²)).
//! With token feedback one query compares two responses that agree up to a prefix s and differ in the
//! next token, and the label says which of these tokens is better:
//! P(a ≻ b | s) = σ(r_t(s, a) − r_t(s, b)) = π\*(a|s)/(π\*(a|s) + π\*(b|s)).
//!
//! Both learners repeat every comparison `times` times and take the estimates at face value, so both
//! are consistent as `times` grows and differ only in what a label is about.

use super::evaluator::Evaluator;
use super::mass::LogMass;
use super::oracle::CountingOracle;
use crate::numerics::sigmoid;
use crate::{Error, Result, Token};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// (2.1), (3.1): Noisy pairwise preferences about responses and about tokens. A query is one label.
///
/// A response or prefix is named by its code, the base-A number of its tokens, first token most significant.
pub trait PreferenceOracle {
    /// A, the size of the vocabulary.
    fn n_actions(&self) -> usize;

    /// H, the length of a response.
    fn horizon(&self) -> usize;

    /// Of `times` labels, how many prefer response `a` to response `b`.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    fn prefer_response(&mut self, a: u64, b: u64, times: u64) -> Result<u64>;

    /// Of `times` labels, how many prefer token `a` to token `b` after the prefix with `depth` tokens and code `prefix`.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    fn prefer_token(
        &mut self,
        depth: usize,
        prefix: u64,
        a: Token,
        b: Token,
        times: u64,
    ) -> Result<u64>;
}

impl<O: PreferenceOracle> PreferenceOracle for CountingOracle<O> {
    fn n_actions(&self) -> usize {
        self.inner().n_actions()
    }

    fn horizon(&self) -> usize {
        self.inner().horizon()
    }

    fn prefer_response(&mut self, a: u64, b: u64, times: u64) -> Result<u64> {
        self.count(times)?.prefer_response(a, b, times)
    }

    fn prefer_token(
        &mut self,
        depth: usize,
        prefix: u64,
        a: Token,
        b: Token,
        times: u64,
    ) -> Result<u64> {
        self.count(times)?.prefer_token(depth, prefix, a, b, times)
    }
}

/// (2.1), (3.1): An annotator that follows the Bradley–Terry model of a tabulated evaluator.
#[derive(Debug, Clone)]
pub struct BradleyTerryAnnotator<'a> {
    table: &'a LogMassTable,
    rng: ChaCha8Rng,
}

/// log π\*(y₁…y_h | x) of every prefix, for trees small enough to enumerate.
#[derive(Debug, Clone)]
pub struct LogMassTable {
    n_actions: usize,
    /// `levels[h][code]`.
    levels: Vec<Vec<f64>>,
}

impl LogMassTable {
    /// The most responses that are tabulated.
    pub const MOST_RESPONSES: u64 = 1 << 24;

    /// Evaluates every prefix once.
    ///
    /// # Errors
    /// [`Error::Config`] if A^H exceeds [`Self::MOST_RESPONSES`], or whatever the evaluator reports.
    pub fn new<E: Evaluator<Mass = LogMass>>(evaluator: &E) -> Result<Self> {
        let (n_actions, horizon) = (evaluator.n_actions(), evaluator.horizon());
        super::check_size(n_actions, horizon)?;
        let n = super::bounds::power_at_most(n_actions, horizon, u128::MAX);
        if n > Self::MOST_RESPONSES.into() {
            return Err(Error::config(
                "horizon",
                horizon,
                format!("small enough that A^H is at most {}", Self::MOST_RESPONSES),
            ));
        }
        let mut level = vec![evaluator.root()?];
        let mut levels = vec![vec![0.0]];
        for _ in 0..horizon {
            let mut below = Vec::with_capacity(level.len() * n_actions);
            for at in &level {
                for token in 0..n_actions as Token {
                    below.push(evaluator.child(at, token)?);
                }
            }
            level = below;
            levels.push(level.iter().map(|at| at.mass.0).collect());
        }
        Ok(Self { n_actions, levels })
    }

    /// The code of the most probable response, the smallest when tied.
    pub fn best(&self) -> u64 {
        let leaves = &self.levels[self.levels.len() - 1];
        let mut best = 0;
        for (code, mass) in leaves.iter().enumerate() {
            if *mass > leaves[best] {
                best = code;
            }
        }
        best as u64
    }

    /// An annotator whose labels come in exactly their expected proportions (rounded to whole labels).
    pub fn noiseless_annotator(&self) -> NoiselessAnnotator<'_> {
        NoiselessAnnotator(self)
    }

    /// P(a ≻ b) for two prefixes of length `depth`, by (2.1) or (3.1).
    fn preference(&self, depth: usize, a: u64, b: u64) -> f64 {
        let level = &self.levels[depth];
        // Two responses of mass zero are a coin flip.
        let margin = level[a as usize] - level[b as usize];
        if margin.is_nan() {
            0.5
        } else {
            sigmoid(margin)
        }
    }

    /// An annotator with its own stream of noise.
    pub fn annotator(&self, rng: ChaCha8Rng) -> BradleyTerryAnnotator<'_> {
        BradleyTerryAnnotator { table: self, rng }
    }
}

/// What [`BradleyTerryAnnotator`] tends to with many labels, without drawing any.
#[derive(Debug, Clone)]
pub struct NoiselessAnnotator<'a>(&'a LogMassTable);

/// How many of `times` labels prefer one of two prefixes of length `depth`.
trait Labels {
    fn table(&self) -> &LogMassTable;

    fn labels(&mut self, depth: usize, a: u64, b: u64, times: u64) -> u64;
}

impl Labels for BradleyTerryAnnotator<'_> {
    fn table(&self) -> &LogMassTable {
        self.table
    }

    fn labels(&mut self, depth: usize, a: u64, b: u64, times: u64) -> u64 {
        let p = self.table.preference(depth, a, b);
        Binomial::new(times, p)
            .expect("a probability")
            .sample(&mut self.rng)
    }
}

impl Labels for NoiselessAnnotator<'_> {
    fn table(&self) -> &LogMassTable {
        self.0
    }

    fn labels(&mut self, depth: usize, a: u64, b: u64, times: u64) -> u64 {
        (self.0.preference(depth, a, b) * times as f64).round() as u64
    }
}

impl<L: Labels> PreferenceOracle for L {
    fn n_actions(&self) -> usize {
        self.table().n_actions
    }

    fn horizon(&self) -> usize {
        self.table().levels.len() - 1
    }

    fn prefer_response(&mut self, a: u64, b: u64, times: u64) -> Result<u64> {
        Ok(self.labels(self.horizon(), a, b, times))
    }

    fn prefer_token(
        &mut self,
        depth: usize,
        prefix: u64,
        a: Token,
        b: Token,
        times: u64,
    ) -> Result<u64> {
        let first = prefix * self.table().n_actions as u64;
        Ok(self.labels(depth + 1, first + u64::from(a), first + u64::from(b), times))
    }
}

/// (2.1): Sentence feedback: a knockout among all A^H responses, each match decided by the majority of
/// `times` labels; (A^H − 1)·`times` queries. Returns the code of the winner.
///
/// # Errors
/// [`Error::Config`] if A^H does not fit a `u64`, or whatever the oracle reports.
pub fn sentence_knockout<O: PreferenceOracle>(oracle: &mut O, times: u64) -> Result<u64> {
    let (a, h) = (oracle.n_actions(), oracle.horizon());
    let n = (a as u64)
        .checked_pow(h as u32)
        .ok_or_else(|| Error::config("horizon", h, "small enough that A^H is below 2^64"))?;
    knockout(
        &mut (0..n).collect::<Vec<_>>(),
        |a, b| oracle.prefer_response(a, b, times),
        times,
        |_, _, _| {},
    )
}

/// Plays rounds until one of `players` is left; `lost(loser, winner, wins of the winner)` reports each match.
fn knockout(
    players: &mut Vec<u64>,
    mut labels: impl FnMut(u64, u64) -> Result<u64>,
    times: u64,
    mut lost: impl FnMut(u64, u64, u64),
) -> Result<u64> {
    while players.len() > 1 {
        let mut winners = Vec::with_capacity(players.len().div_ceil(2));
        for pair in players.chunks(2) {
            let &[a, b] = pair else {
                winners.push(pair[0]); // a bye
                continue;
            };
            let wins = labels(a, b)?;
            let (winner, loser, wins) = if 2 * wins >= times {
                (a, b, wins)
            } else {
                (b, a, times - wins)
            };
            lost(loser, winner, wins);
            winners.push(winner);
        }
        *players = winners;
    }
    players
        .first()
        .copied()
        .ok_or_else(|| Error::config("n_actions", 0, "at least 1"))
}

/// (3.1): Token feedback: the most probable response of an estimated policy, by best-first expansion of
/// prefixes. At each expanded prefix the A tokens play a knockout with `times` labels a match, and
/// the log-odds of each loser against its winner, log((wins + ½)/(losses + ½)), give the estimated
/// conditional; (A−1)·`times` queries for each expanded prefix. Returns the code of the response.
///
/// # Errors
/// Whatever the oracle reports.
pub fn token_plug_in<O: PreferenceOracle>(oracle: &mut O, times: u64) -> Result<u64> {
    let (a, horizon) = (oracle.n_actions(), oracle.horizon());
    let mut open = BinaryHeap::from([Prefix {
        log_mass: 0.0,
        depth: 0,
        code: 0,
    }]);
    while let Some(Prefix {
        log_mass,
        depth,
        code,
    }) = open.pop()
    {
        if depth == horizon {
            return Ok(code);
        }
        for (token, log_prob) in estimate_conditional(oracle, depth, code, times)?
            .into_iter()
            .enumerate()
        {
            let code = code * a as u64 + token as u64;
            open.push(Prefix {
                log_mass: log_mass + log_prob,
                depth: depth + 1,
                code,
            });
        }
    }
    unreachable!("an expanded prefix always leaves its children open")
}

/// log π̂(· | prefix) from a knockout among the tokens.
fn estimate_conditional<O: PreferenceOracle>(
    oracle: &mut O,
    depth: usize,
    prefix: u64,
    times: u64,
) -> Result<Vec<f64>> {
    let a = oracle.n_actions();
    let mut matches = Vec::with_capacity(a - 1);
    knockout(
        &mut (0..a as u64).collect(),
        |x, y| oracle.prefer_token(depth, prefix, x as Token, y as Token, times),
        times,
        |loser, winner, wins| matches.push((loser as usize, winner as usize, wins)),
    )?;
    // The champion has logit 0; a later match is between players closer to it.
    let mut logits = vec![0.0; a];
    for (loser, winner, wins) in matches.into_iter().rev() {
        let odds = (wins as f64 + 0.5) / ((times - wins) as f64 + 0.5);
        logits[loser] = logits[winner] - odds.ln();
    }
    let normaliser = crate::numerics::log_sum_exp(&logits);
    Ok(logits.into_iter().map(|l| l - normaliser).collect())
}

#[derive(Debug, PartialEq)]
struct Prefix {
    log_mass: f64,
    depth: usize,
    code: u64,
}

impl Eq for Prefix {}

impl Ord for Prefix {
    /// Larger estimated mass first; ties by depth, then by smaller code, so that a run is reproducible.
    fn cmp(&self, other: &Self) -> Ordering {
        self.log_mass
            .total_cmp(&other.log_mass)
            .then(self.depth.cmp(&other.depth))
            .then(other.code.cmp(&self.code))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests;
