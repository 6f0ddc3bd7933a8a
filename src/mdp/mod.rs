//! Section 3.1: token Markov decision processes as integer tables.
//!
//! Every planner works on a [`TabularMdp`]: a finite *acyclic* table whose states are numbered so that
//! a transition always leads to a larger index or to the end of the episode ([`StateIx::END`]). A
//! state is then met at most once in an episode, so V, Q, π and d^π are functions of the state alone,
//! with no step argument, and one pass in decreasing (increasing) order of the index solves a backward
//! (forward) recursion.
//!
//! | what the user has | type | becomes a table by |
//! |---|---|---|
//! | all token sequences up to length H | [`TokenTree`] | [`TokenTree::compile`] |
//! | a deterministic graph with shared suffixes | [`LayeredGraph`] | [`LayeredGraph::compile`] |
//! | a time-homogeneous table and a horizon (Proposition C.2) | [`GeneralMdp`] | [`GeneralMdp::unroll`] |
//!
//! Footnote 2 of the paper (responses of different lengths): the state after the end-of-sentence
//! token is absorbing with zero reward, zero features and zero KL. Here that state is
//! [`StateIx::END`]; it has no row in any table, and its value is 0.
//!
//! A tree of one prompt whose action 1 ends the response, as a table:
//!
//! ```
//! use rto::mdp::{ActionIx, StateIx, TokenTree};
//!
//! let tree = TokenTree::try_new(1, 3, 4, Some(ActionIx(1)))?;
//! let mdp = tree.compile(&[1.0])?;
//! assert_eq!((mdp.n_states(), mdp.horizon()), (1 + 3 + 9 + 27, 4));
//! let root = tree.root(0);
//! assert_eq!(mdp.next_state(root, ActionIx(1)), Some(StateIx::END)); // over after one token
//! assert_eq!(mdp.next_state(root, ActionIx(2)), Some(tree.state(0, &[2])?));
//! # Ok::<(), rto::Error>(())
//! ```

mod general;
mod layered;
mod policy;
mod problem;
mod reachable;
mod tabular;
mod token_tree;
mod trajectory;

pub use general::{GeneralMdp, Unrolled};
pub use layered::LayeredGraph;
pub use policy::TabularPolicy;
pub use problem::Problem;
pub use reachable::Reachable;
pub use tabular::{SparseRows, TabularMdp, Transition};
pub use token_tree::TokenTree;
pub(crate) use trajectory::pick;
pub use trajectory::{PreferencePair, Trajectory, for_each_trajectory, sample_trajectory};

pub use crate::check::SUM_TOLERANCE;
use crate::{Error, Result};

/// A row of the state tables, s ∈ 𝒮.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateIx(pub u32);

impl StateIx {
    /// The absorbing state in which an episode has ended (footnote 2). It has no row in any table.
    pub const END: Self = Self(u32::MAX);

    /// The row number.
    #[inline]
    pub fn ix(self) -> usize {
        self.0 as usize
    }
}

/// A column of the action tables, a ∈ 𝒜; in a token MDP the token itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionIx(pub u32);

impl ActionIx {
    /// The column number.
    #[inline]
    pub fn ix(self) -> usize {
        self.0 as usize
    }
}

/// The coefficient β ≥ 0 of the KL term in (3.2). β = 0 is allowed and means plain reward maximisation.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Beta(f64);

impl Beta {
    /// A checked β.
    ///
    /// # Errors
    /// [`Error::Config`] unless β is finite and at least 0.
    pub fn try_new(beta: f64) -> Result<Self> {
        if beta.is_finite() && beta >= 0.0 {
            Ok(Self(beta))
        } else {
            Err(Error::config("beta", beta, "a finite number >= 0"))
        }
    }

    /// β as a number.
    #[inline]
    pub fn get(self) -> f64 {
        self.0
    }

    /// β, or an error where a statement of the paper needs β > 0.
    ///
    /// # Errors
    /// [`Error::Config`] when β = 0.
    pub fn positive(self) -> Result<f64> {
        if self.0 > 0.0 {
            Ok(self.0)
        } else {
            Err(Error::config("beta", self.0, "> 0 here"))
        }
    }
}
