use super::Evaluator;
use crate::search::check_size;
use crate::search::mass::Mass;
use crate::search::oracle::Scored;
use crate::{Error, Result, Token};
use std::iter::Sum;

/// A policy given by a weight for each of the A^H responses, exact: p(y) = w(y) / Σ w.
#[derive(Debug, Clone)]
pub struct LeafWeights<M> {
    n_actions: usize,
    /// `levels[h][code]`, code = base-A number of y₁…y_h, y₁ most significant.
    levels: Vec<Vec<M>>,
}

impl LeafWeights<u128> {
    /// The tree of Figure 2 (A = 2, H = 3), in units of 1/32: leaves 1/2, 1/4, 1/16, 1/16 and four of 1/32.
    pub fn figure2() -> Self {
        Self::new(2, 3, vec![16, 8, 2, 2, 1, 1, 1, 1]).expect("eight positive weights")
    }
}

impl<M: Mass + for<'a> Sum<&'a M>> LeafWeights<M> {
    /// From `weights[code]`, code = base-A number of y₁…y_H with y₁ most significant.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are A^H weights; [`Error::Config`] if all are zero or the size is out of range.
    pub fn new(n_actions: usize, horizon: usize, weights: Vec<M>) -> Result<Self> {
        check_size(n_actions, horizon)?;
        let expected = u32::try_from(horizon)
            .ok()
            .and_then(|h| n_actions.checked_pow(h))
            .unwrap_or(usize::MAX);
        if weights.len() != expected {
            return Err(Error::Shape {
                what: "leaf_weights".into(),
                expected,
                got: weights.len(),
            });
        }
        if weights.iter().all(Mass::is_zero) {
            return Err(Error::config(
                "leaf_weights",
                "only zeros",
                "weights of which at least one is positive",
            ));
        }
        let mut levels = vec![weights];
        for _ in 0..horizon {
            let below = &levels[levels.len() - 1];
            levels.push(
                below
                    .chunks(n_actions)
                    .map(|children| children.iter().sum())
                    .collect(),
            );
        }
        levels.reverse();
        Ok(Self { n_actions, levels })
    }

    /// The mass of every node at depth `h`, indexed by code.
    pub fn level(&self, h: usize) -> &[M] {
        &self.levels[h]
    }

    /// W, the sum of the weights.
    pub fn total(&self) -> &M {
        &self.levels[0][0]
    }

    /// The largest weight and its first index: the lexicographically smallest optimal response.
    pub fn best(&self) -> (usize, &M) {
        let leaves = &self.levels[self.levels.len() - 1];
        let mut best = 0;
        for (code, weight) in leaves.iter().enumerate() {
            if *weight > leaves[best] {
                best = code;
            }
        }
        (best, &leaves[best])
    }

    /// Whether some response has weight zero.
    pub fn has_zeros(&self) -> bool {
        self.levels[self.levels.len() - 1].iter().any(Mass::is_zero)
    }

    /// y₁…y_h of a code at depth `h`.
    pub fn tokens(&self, code: usize, h: usize) -> Vec<Token> {
        let mut tokens = vec![0; h];
        let mut rest = code;
        for token in tokens.iter_mut().rev() {
            *token = (rest % self.n_actions) as Token;
            rest /= self.n_actions;
        }
        tokens
    }
}

impl<M: Mass + for<'a> Sum<&'a M>> Evaluator for LeafWeights<M> {
    type Mass = M;
    /// (depth, code).
    type State = (u32, usize);

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.levels.len() - 1
    }

    fn root(&self) -> Result<Scored<M, (u32, usize)>> {
        Ok(Scored {
            mass: self.levels[0][0].clone(),
            prefix: (0, 0),
        })
    }

    #[inline]
    fn child(&self, at: &Scored<M, (u32, usize)>, token: Token) -> Result<Scored<M, (u32, usize)>> {
        let (depth, code) = (
            at.prefix.0 + 1,
            at.prefix.1 * self.n_actions + token as usize,
        );
        Ok(Scored {
            mass: self.levels[depth as usize][code].clone(),
            prefix: (depth, code),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure2_has_the_masses_of_the_paper() {
        let tree = LeafWeights::figure2();
        assert_eq!(tree.level(1), [28, 4]);
        assert_eq!(tree.level(2), [24, 4, 2, 2]);
        assert_eq!((*tree.total(), tree.best().0), (32, 0));
        assert_eq!(tree.tokens(0b011, 3), [0, 1, 1]);
    }

    #[test]
    fn wrong_lengths_and_all_zero_weights_are_refused() {
        assert!(matches!(
            LeafWeights::new(2, 2, vec![1u128; 3]),
            Err(Error::Shape {
                expected: 4,
                got: 3,
                ..
            })
        ));
        assert!(matches!(
            LeafWeights::new(2, 2, vec![0u128; 4]),
            Err(Error::Config { .. })
        ));
        assert!(matches!(
            LeafWeights::new(1, 2, vec![1u128]),
            Err(Error::Config { .. })
        ));
        assert!(matches!(
            LeafWeights::new(2, 64, vec![1u128; 4]),
            Err(Error::Shape { .. })
        ));
    }
}
