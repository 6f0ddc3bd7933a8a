//! Evaluator policies π\* (Section 3.3), evaluated lazily: nothing of size A^H is stored unless given.

mod callback;
mod chains;
mod leaf_weights;
mod ngram;
mod random;

pub use callback::{CallbackEvaluator, LogProbModel};
pub use chains::{Chains, NeedleChain, Uniform};
pub use leaf_weights::LeafWeights;
pub use ngram::{NgramModel, NgramPolicy, Smoothing};
pub use random::{DirichletTree, SoftmaxTree};

use super::mass::Mass;
use super::oracle::{Scored, SentenceOracle, TokenOracle};
use crate::{Result, Token};

/// An autoregressive policy π\* over responses of length H to one prompt.
pub trait Evaluator {
    /// Exact or log-space masses.
    type Mass: Mass;

    /// What is needed to go on from a prefix.
    type State: Clone;

    /// A, the size of the vocabulary.
    fn n_actions(&self) -> usize;

    /// H, the length of a response.
    fn horizon(&self) -> usize;

    /// The empty prefix, with the mass of all responses.
    ///
    /// # Errors
    /// Whatever evaluating the policy reports.
    fn root(&self) -> Result<Scored<Self::Mass, Self::State>>;

    /// The prefix `at` followed by `token`: mass π\*(prefix | x)·π\*(token | x, prefix).
    ///
    /// # Errors
    /// Whatever evaluating the policy reports.
    fn child(
        &self,
        at: &Scored<Self::Mass, Self::State>,
        token: Token,
    ) -> Result<Scored<Self::Mass, Self::State>>;

    /// Bound on the absolute error of Σ_a π\*(a | prefix); 0 for exact masses.
    fn slack(&self) -> f64 {
        0.0
    }
}

impl<E: Evaluator + ?Sized> Evaluator for &E {
    type Mass = E::Mass;
    type State = E::State;

    fn n_actions(&self) -> usize {
        (**self).n_actions()
    }

    fn horizon(&self) -> usize {
        (**self).horizon()
    }

    fn root(&self) -> Result<Scored<E::Mass, E::State>> {
        (**self).root()
    }

    #[inline]
    fn child(
        &self,
        at: &Scored<E::Mass, E::State>,
        token: Token,
    ) -> Result<Scored<E::Mass, E::State>> {
        (**self).child(at, token)
    }

    fn slack(&self) -> f64 {
        (**self).slack()
    }
}

/// Rounding of a softmax or smoothed count over `n_actions` tokens, as [`Evaluator::slack`].
pub(crate) fn float_slack(n_actions: usize) -> f64 {
    4.0 * f64::EPSILON * (n_actions as f64 + 4.0)
}

/// Both feedbacks of (3.6) from one evaluator.
///
/// For sentence feedback it keeps the path of the last response, so that enumerating responses in
/// lexicographic order evaluates each node of the tree once.
#[derive(Debug, Clone)]
pub struct EvaluatorOracle<E: Evaluator> {
    evaluator: E,
    path: Vec<Scored<E::Mass, E::State>>,
    last: Vec<Token>,
}

impl<E: Evaluator> EvaluatorOracle<E> {
    /// Answers from `evaluator`.
    pub fn new(evaluator: E) -> Self {
        Self {
            evaluator,
            path: Vec::new(),
            last: Vec::new(),
        }
    }
}

impl<E: Evaluator> TokenOracle for EvaluatorOracle<E> {
    type Mass = E::Mass;
    type Prefix = E::State;

    fn n_actions(&self) -> usize {
        self.evaluator.n_actions()
    }

    fn horizon(&self) -> usize {
        self.evaluator.horizon()
    }

    fn root(&mut self) -> Result<Scored<E::Mass, E::State>> {
        self.evaluator.root()
    }

    fn slack(&self) -> f64 {
        self.evaluator.slack()
    }

    #[inline]
    fn token_rewards(
        &mut self,
        at: &Scored<E::Mass, E::State>,
        suffix: &[Token],
        scored: &mut Vec<Scored<E::Mass, E::State>>,
    ) -> Result<()> {
        let start = scored.len();
        for (i, &token) in suffix.iter().enumerate() {
            let parent = if i == 0 { at } else { &scored[start + i - 1] };
            let child = self.evaluator.child(parent, token)?;
            scored.push(child);
        }
        Ok(())
    }
}

impl<E: Evaluator> SentenceOracle for EvaluatorOracle<E> {
    type Mass = E::Mass;

    fn n_actions(&self) -> usize {
        self.evaluator.n_actions()
    }

    fn horizon(&self) -> usize {
        self.evaluator.horizon()
    }

    fn total(&self) -> Result<E::Mass> {
        Ok(self.evaluator.root()?.mass)
    }

    /// A response is a product of H conditionals, so the error of their sum compounds: (1 + s)^H − 1.
    fn slack(&self) -> f64 {
        let per_prefix = self.evaluator.slack();
        (self.evaluator.horizon() as f64 * per_prefix.ln_1p()).exp_m1()
    }

    #[inline]
    fn sentence_reward(&mut self, response: &[Token]) -> Result<E::Mass> {
        let shared = self
            .last
            .iter()
            .zip(response)
            .take_while(|(a, b)| a == b)
            .count();
        if self.path.is_empty() {
            self.path.push(self.evaluator.root()?);
        }
        self.path.truncate(shared + 1);
        self.last.truncate(shared);
        for &token in &response[shared..] {
            let child = self
                .evaluator
                .child(&self.path[self.path.len() - 1], token)?;
            self.path.push(child);
            self.last.push(token);
        }
        Ok(self.path[response.len()].mass.clone())
    }
}
