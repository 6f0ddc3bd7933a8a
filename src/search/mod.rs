//! Section 3.3: how many responses must be scored to find the most probable one?
//!
//! A response y = (y₁, …, y_H) over A tokens is a leaf of the A-ary tree of depth H; an evaluator π\*
//! puts the mass π\*(y₁…y_h | x) on every node. The learner names a response and is told either
//! r_s(x, y) = log π\*(y|x) (sentence feedback) or r_t = log π\*(y_h | x, y₁…y_{h−1}) for every h
//! (token feedback), both of (3.6). Proposition 3.2 compares the two.
//!
//! | module | content |
//! |---|---|
//! | [`mass`] | exact and log-space masses, and what is left of a node |
//! | [`oracle`] | the two feedbacks, and the wrapper in which queries are counted |
//! | [`evaluator`] | policies π\*: given weights, chains, random trees, n-gram models, callbacks |
//! | [`best_first`] | the search that attains the exact minimax, knowing neither ξ nor τ |
//! | [`paper`] | the algorithm in the proof of Proposition 3.2, which needs ξ |
//! | [`exhaustive`] | the sentence-level learner |
//! | [`adversary`] | the adaptive adversary of the lower bound |
//! | [`bounds`] | closed forms |
//! | [`preference`] | the same question when feedback is noisy pairwise preference |
//!
//! What holds and what does not is told, with proofs, in `paper-notes/errata.md`.
//!
//! ```
//! use rto::search::best_first::{BestFirst, best_first};
//! use rto::search::evaluator::{EvaluatorOracle, LeafWeights};
//! use rto::search::oracle::CountingOracle;
//!
//! // Figure 2 of the paper, in thirty-seconds: the most probable response is 000.
//! let figure2 = LeafWeights::figure2();
//! let mut oracle = CountingOracle::new(EvaluatorOracle::new(figure2));
//! let found = best_first(&mut oracle, &BestFirst::default()).unwrap();
//! assert_eq!((found.response, found.mass, found.certified), (vec![0, 0, 0], 16, true));
//! assert_eq!(oracle.queries(), 1); // one scored response certifies it, against 2³ − 1 at sentence level
//! ```

pub mod adversary;
pub mod best_first;
pub mod bounds;
pub mod evaluator;
pub mod exhaustive;
pub mod mass;
pub mod oracle;
pub mod paper;
pub mod preference;
pub mod profile;

use crate::error::{Error, Result};

/// Checks the size of a response tree: A ≥ 2 and 1 ≤ H, with both small enough to index.
///
/// # Errors
/// [`Error::Config`] naming `n_actions` or `horizon`.
pub fn check_size(n_actions: usize, horizon: usize) -> Result<()> {
    if n_actions < 2 || n_actions > u32::MAX as usize {
        return Err(Error::config(
            "n_actions",
            n_actions,
            "an integer from 2 to 4294967295",
        ));
    }
    if horizon < 1 || horizon > u32::MAX as usize {
        return Err(Error::config(
            "horizon",
            horizon,
            "an integer from 1 to 4294967295",
        ));
    }
    Ok(())
}
