//! Feedback of the evaluator on a response: (3.6), and the wrapper that counts queries.

use super::mass::Mass;
use crate::{Error, Result, Token};

/// Sentence feedback r_s(x, y) = log π\*(y | x) of (3.6), given as the mass of the response.
pub trait SentenceOracle {
    /// Exact or log-space masses.
    type Mass: Mass;

    /// A, the size of the vocabulary.
    fn n_actions(&self) -> usize;

    /// H, the length of a response.
    fn horizon(&self) -> usize;

    /// The mass of all responses together (what Σ π\* = 1 means in the oracle's units).
    ///
    /// # Errors
    /// Whatever the evaluator reports.
    fn total(&self) -> Result<Self::Mass>;

    /// Bound on the absolute error of a sum of the probabilities this oracle reports; 0 when exact.
    fn slack(&self) -> f64 {
        0.0
    }

    /// One query: the mass of `response`, of length H.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`] or whatever the evaluator reports.
    fn sentence_reward(&mut self, response: &[Token]) -> Result<Self::Mass>;
}

/// (3.6): A prefix the oracle has been asked about: its mass, and the oracle's own handle for going on from it.
#[derive(Debug, Clone)]
pub struct Scored<M, P> {
    /// π\*(y₁…y_h | x) in the oracle's units.
    pub mass: M,
    /// Where to go on from.
    pub prefix: P,
}

/// Token feedback r_t = log π\*(y_h | x, y₁…y_{h−1}) of (3.6) for every h, given as the masses of the
/// prefixes of the response; their log-ratios are the token rewards.
pub trait TokenOracle {
    /// Exact or log-space masses.
    type Mass: Mass;

    /// Handle of a scored prefix: lets a policy go on from a prefix without starting over
    /// (a node index, a hash, a key–value cache).
    type Prefix: Clone;

    /// A, the size of the vocabulary.
    fn n_actions(&self) -> usize;

    /// H, the length of a response.
    fn horizon(&self) -> usize;

    /// The empty prefix; knowing its mass is knowing that π\* is a distribution.
    ///
    /// # Errors
    /// Whatever the evaluator reports.
    fn root(&mut self) -> Result<Scored<Self::Mass, Self::Prefix>>;

    /// Bound on the absolute error of a sum of conditional probabilities at one prefix; 0 when exact.
    fn slack(&self) -> f64 {
        0.0
    }

    /// One query: the response made of the prefix `at`, which has been scored before, and `suffix`.
    /// Appends to `scored` one entry for each token of the suffix.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`] or whatever the evaluator reports.
    fn token_rewards(
        &mut self,
        at: &Scored<Self::Mass, Self::Prefix>,
        suffix: &[Token],
        scored: &mut Vec<Scored<Self::Mass, Self::Prefix>>,
    ) -> Result<()>;
}

/// Proposition 3.2: Counts queries, here and nowhere else: no search counts its own.
#[derive(Debug, Clone)]
pub struct CountingOracle<O> {
    inner: O,
    queries: u64,
    budget: u64,
}

impl<O> CountingOracle<O> {
    /// Counts the queries put to `inner`.
    pub fn new(inner: O) -> Self {
        Self::with_budget(inner, u64::MAX)
    }

    /// As [`CountingOracle::new`], and answers [`Error::BudgetExhausted`] after `budget` queries.
    pub fn with_budget(inner: O, budget: u64) -> Self {
        Self {
            inner,
            queries: 0,
            budget,
        }
    }

    /// Responses scored so far.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    /// The wrapped oracle.
    pub fn into_inner(self) -> O {
        self.inner
    }

    /// The wrapped oracle, to look at.
    pub fn inner(&self) -> &O {
        &self.inner
    }

    /// Counts `queries` and hands out the wrapped oracle to answer them.
    #[inline]
    pub(super) fn count(&mut self, queries: u64) -> Result<&mut O> {
        if queries > self.budget - self.queries {
            let budget = self.budget;
            return Err(Error::BudgetExhausted { budget });
        }
        self.queries += queries;
        Ok(&mut self.inner)
    }
}

impl<O: SentenceOracle> SentenceOracle for CountingOracle<O> {
    type Mass = O::Mass;

    fn n_actions(&self) -> usize {
        self.inner.n_actions()
    }

    fn horizon(&self) -> usize {
        self.inner.horizon()
    }

    fn total(&self) -> Result<O::Mass> {
        self.inner.total()
    }

    fn slack(&self) -> f64 {
        self.inner.slack()
    }

    #[inline]
    fn sentence_reward(&mut self, response: &[Token]) -> Result<O::Mass> {
        self.count(1)?.sentence_reward(response)
    }
}

impl<O: TokenOracle> TokenOracle for CountingOracle<O> {
    type Mass = O::Mass;
    type Prefix = O::Prefix;

    fn n_actions(&self) -> usize {
        self.inner.n_actions()
    }

    fn horizon(&self) -> usize {
        self.inner.horizon()
    }

    fn root(&mut self) -> Result<Scored<O::Mass, O::Prefix>> {
        self.inner.root()
    }

    fn slack(&self) -> f64 {
        self.inner.slack()
    }

    #[inline]
    fn token_rewards(
        &mut self,
        at: &Scored<O::Mass, O::Prefix>,
        suffix: &[Token],
        scored: &mut Vec<Scored<O::Mass, O::Prefix>>,
    ) -> Result<()> {
        self.count(1)?.token_rewards(at, suffix, scored)
    }
}
