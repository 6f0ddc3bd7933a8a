use super::{Evaluator, float_slack};
use crate::search::check_size;
use crate::search::mass::FractionMass;
use crate::search::oracle::Scored;
use crate::{Error, Result, Token};
use std::marker::PhantomData;

/// Denominator of the small conditional probabilities of [`Chains`], and of ε in [`NeedleChain::with_optimum`].
const UNIT: u64 = 1 << 60;

/// The uniform policy, π\*(a | prefix) = 1/A.
#[derive(Debug, Clone)]
pub struct Uniform<M> {
    n_actions: usize,
    horizon: usize,
    mass: PhantomData<M>,
}

impl<M: FractionMass> Uniform<M> {
    /// The uniform policy over `n_actions` tokens and `horizon` steps.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range.
    pub fn new(n_actions: usize, horizon: usize) -> Result<Self> {
        check_size(n_actions, horizon)?;
        Ok(Self {
            n_actions,
            horizon,
            mass: PhantomData,
        })
    }
}

impl<M: FractionMass> Evaluator for Uniform<M> {
    type Mass = M;
    type State = ();

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&self) -> Result<Scored<M, ()>> {
        Ok(Scored {
            mass: M::whole(),
            prefix: (),
        })
    }

    fn child(&self, at: &Scored<M, ()>, _token: Token) -> Result<Scored<M, ()>> {
        Ok(Scored {
            mass: at.mass.times(1, self.n_actions as u64),
            prefix: (),
        })
    }

    fn slack(&self) -> f64 {
        float_slack(self.n_actions)
    }
}

/// One heavy path: at each of its prefixes the main child has probability 1 − (A−1)ε and every
/// other child ε; off the path the policy is uniform.
#[derive(Debug, Clone)]
pub struct NeedleChain<M> {
    n_actions: usize,
    main: Vec<Token>,
    epsilon: (u64, u64),
    mass: PhantomData<M>,
}

/// State of a [`NeedleChain`] prefix: its depth while on the heavy path.
pub type NeedlePrefix = Option<u32>;

impl<M: FractionMass> NeedleChain<M> {
    /// `main[h]` is the main child at depth h, ε = `epsilon.0 / epsilon.1`.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range, a main child outside the vocabulary, or ε outside (0, 1/A].
    pub fn new(n_actions: usize, main: Vec<Token>, epsilon: (u64, u64)) -> Result<Self> {
        check_size(n_actions, main.len())?;
        if let Some(token) = main.iter().find(|t| **t as usize >= n_actions) {
            return Err(Error::config(
                "main child",
                token,
                format!("a token below {n_actions}"),
            ));
        }
        let (numerator, denominator) = epsilon;
        if numerator == 0 || u128::from(numerator) * n_actions as u128 > u128::from(denominator) {
            let found = format!("{numerator}/{denominator}");
            return Err(Error::config(
                "epsilon",
                found,
                format!("above 0 and at most 1/{n_actions}"),
            ));
        }
        Ok(Self {
            n_actions,
            main,
            epsilon,
            mass: PhantomData,
        })
    }

    /// The chain whose optimal response has probability `p_star` (to 2⁻⁶⁰ in ε): ε = (1 − p\*^{1/H})/(A−1).
    ///
    /// # Errors
    /// As [`NeedleChain::new`], and [`Error::Config`] unless A^{−H} < p\* < 1.
    pub fn with_optimum(n_actions: usize, main: Vec<Token>, p_star: f64) -> Result<Self> {
        check_size(n_actions, main.len())?;
        if !(p_star > 0.0 && p_star < 1.0) {
            return Err(Error::config(
                "p_star",
                p_star,
                "a probability strictly between 0 and 1",
            ));
        }
        let epsilon = -(p_star.ln() / main.len() as f64).exp_m1() / (n_actions - 1) as f64;
        Self::new(n_actions, main, ((epsilon * UNIT as f64) as u64, UNIT))
    }

    /// The optimal response.
    pub fn optimum(&self) -> &[Token] {
        &self.main
    }
}

impl<M: FractionMass> Evaluator for NeedleChain<M> {
    type Mass = M;
    type State = NeedlePrefix;

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.main.len()
    }

    fn root(&self) -> Result<Scored<M, NeedlePrefix>> {
        Ok(Scored {
            mass: M::whole(),
            prefix: Some(0),
        })
    }

    #[inline]
    fn child(&self, at: &Scored<M, NeedlePrefix>, token: Token) -> Result<Scored<M, NeedlePrefix>> {
        let (epsilon, one) = self.epsilon;
        Ok(match at.prefix {
            Some(depth) if self.main[depth as usize] == token => {
                let others = (self.n_actions as u64 - 1) * epsilon;
                Scored {
                    mass: at.mass.times(one - others, one),
                    prefix: Some(depth + 1),
                }
            }
            Some(_) => Scored {
                mass: at.mass.times(epsilon, one),
                prefix: None,
            },
            None => Scored {
                mass: at.mass.times(1, self.n_actions as u64),
                prefix: None,
            },
        })
    }

    fn slack(&self) -> f64 {
        float_slack(self.n_actions)
    }
}

/// K heavy paths of nearly equal mass, spread as evenly as the tree allows and kept alive to depth
/// H−1, of which one ends in a heavy leaf: the tree on which |N| and the paper's algorithm reach
/// their maxima (errata, A1 and A2). Strictly positive everywhere.
#[derive(Debug, Clone)]
pub struct Chains<M> {
    n_actions: usize,
    horizon: usize,
    n_chains: u64,
    mass: PhantomData<M>,
}

/// State of a [`Chains`] prefix: how many chains run through it, the first of them, its depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainsPrefix {
    chains: u64,
    first: u64,
    depth: u32,
}

impl<M: FractionMass> Chains<M> {
    /// `n_chains` = K, with 1 ≤ K ≤ A^{H−1}.
    ///
    /// # Errors
    /// [`Error::Config`] for a size or a number of chains out of range.
    pub fn new(n_actions: usize, horizon: usize, n_chains: u64) -> Result<Self> {
        check_size(n_actions, horizon)?;
        let most =
            super::super::bounds::power_at_most(n_actions, horizon - 1, u64::MAX.into()) as u64;
        // The losses to light siblings must stay far below the gap between a chain and half a chain.
        let room = (UNIT >> 20) / (n_actions as u64 * horizon as u64).max(1);
        if n_chains == 0 || n_chains > most || n_chains > room {
            return Err(Error::config(
                "n_chains",
                n_chains,
                format!("from 1 to {}", most.min(room)),
            ));
        }
        Ok(Self {
            n_actions,
            horizon,
            n_chains,
            mass: PhantomData,
        })
    }

    /// Child `token` of a prefix with `chains` ≥ 1 above depth H−1: the lighter children come first.
    fn split(&self, at: ChainsPrefix, token: u64) -> ChainsPrefix {
        let (n, (share, extra)) = (
            self.n_actions as u64,
            (
                at.chains / self.n_actions as u64,
                at.chains % self.n_actions as u64,
            ),
        );
        let larger_before = token.saturating_sub(n - extra);
        let chains = share + u64::from(token >= n - extra);
        ChainsPrefix {
            chains,
            first: at.first + token * share + larger_before,
            depth: at.depth + 1,
        }
    }

    /// Leaf `token` of a prefix at depth H−1 with one chain, as a fraction of 2⁻⁶⁰.
    fn leaf(&self, chain: u64, token: u64) -> u64 {
        let n = self.n_actions as u64;
        if token < n - 2 {
            return 1;
        }
        // The last chain keeps its mass in one leaf, short of it by more than all losses on the way
        // down, so that every chain is at least as heavy as that leaf; the others halve theirs.
        let rest = UNIT - (n - 2);
        let small = if chain + 1 == self.n_chains {
            8 * n * self.horizon as u64
        } else {
            rest / 2
        };
        if token == n - 2 { small } else { rest - small }
    }
}

impl<M: FractionMass> Evaluator for Chains<M> {
    type Mass = M;
    type State = ChainsPrefix;

    fn n_actions(&self) -> usize {
        self.n_actions
    }

    fn horizon(&self) -> usize {
        self.horizon
    }

    fn root(&self) -> Result<Scored<M, ChainsPrefix>> {
        Ok(Scored {
            mass: M::whole(),
            prefix: ChainsPrefix {
                chains: self.n_chains,
                first: 0,
                depth: 0,
            },
        })
    }

    fn child(&self, at: &Scored<M, ChainsPrefix>, token: Token) -> Result<Scored<M, ChainsPrefix>> {
        let (n, prefix, token) = (self.n_actions as u64, at.prefix, u64::from(token));
        if prefix.chains == 0 {
            let below = ChainsPrefix {
                depth: prefix.depth + 1,
                ..prefix
            };
            return Ok(Scored {
                mass: at.mass.times(1, n),
                prefix: below,
            });
        }
        if prefix.depth as usize == self.horizon - 1 {
            let below = ChainsPrefix {
                chains: 0,
                depth: prefix.depth + 1,
                ..prefix
            };
            return Ok(Scored {
                mass: at.mass.times(self.leaf(prefix.first, token), UNIT),
                prefix: below,
            });
        }
        let below = self.split(prefix, token);
        let empty = n.saturating_sub(prefix.chains);
        let mass = match below.chains {
            0 => at.mass.times(1, UNIT),
            c => at.mass.times(UNIT - empty, UNIT).times(c, prefix.chains),
        };
        Ok(Scored {
            mass,
            prefix: below,
        })
    }

    fn slack(&self) -> f64 {
        float_slack(self.n_actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::mass::LogMass;
    use num_rational::BigRational;
    use num_traits::One;

    fn leaf_sum<E: Evaluator<Mass = BigRational>>(tree: &E) -> BigRational {
        let mut level = vec![tree.root().unwrap()];
        for _ in 0..tree.horizon() {
            level = level
                .iter()
                .flat_map(|n| {
                    (0..tree.n_actions()).map(move |a| tree.child(n, a as Token).unwrap())
                })
                .collect();
        }
        level.iter().map(|leaf| &leaf.mass).sum()
    }

    #[test]
    fn chain_trees_sum_to_one_exactly() {
        assert_eq!(
            leaf_sum(&NeedleChain::new(3, vec![2, 0, 1], (1, 1000)).unwrap()),
            BigRational::one()
        );
        assert_eq!(leaf_sum(&Uniform::new(3, 4).unwrap()), BigRational::one());
        for (a, h) in [(2, 4), (3, 3), (4, 2), (5, 3)] {
            for k in 1..=(a as u64).pow(h as u32 - 1) {
                assert_eq!(leaf_sum(&Chains::new(a, h, k).unwrap()), BigRational::one());
            }
        }
    }

    #[test]
    fn the_needle_has_the_probability_asked_for() {
        let chain = NeedleChain::<LogMass>::with_optimum(50_257, vec![7; 128], 0.6).unwrap();
        let leaf = chain
            .optimum()
            .iter()
            .fold(chain.root().unwrap(), |at, t| chain.child(&at, *t).unwrap());
        assert!((leaf.mass.0.exp() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        assert!(NeedleChain::<LogMass>::new(2, vec![0, 2], (1, 10)).is_err());
        assert!(NeedleChain::<LogMass>::new(2, vec![0], (6, 10)).is_err());
        assert!(NeedleChain::<LogMass>::with_optimum(2, vec![0], f64::NAN).is_err());
        assert!(Chains::<LogMass>::new(2, 3, 5).is_err());
        assert!(Chains::<LogMass>::new(2, 3, 0).is_err());
    }
}
