//! A prompt and the response to it.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use crate::seed::SeedTree;
use crate::{Error, Result, Token};

/// How a response came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The last token is the end-of-sentence token; the state after it is absorbing, with zero reward and zero KL (footnote 2).
    Eos,
    /// The response was cut at its longest allowed length. Its final state is terminal unless a learner bootstraps it.
    Length,
}

/// Section 3.1: A trajectory of a deterministic token MDP: s_h = (x, y_{1:h−1}), a_h = y_h, h = 1..H_i with H_i ≥ 1.
///
/// The end-of-sentence token, where there is one, is part of the response: its action is scored, trained and can carry reward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Episode {
    /// x. Shared, because many responses answer one prompt.
    pub prompt: Arc<[Token]>,
    /// y, with the end-of-sentence token if it was written.
    pub response: Vec<Token>,
    /// Whether the response ended by itself.
    pub finish: Finish,
}

impl Episode {
    /// An episode.
    ///
    /// # Errors
    /// [`Error::Config`] when the response has no token: there is no action to score.
    pub fn try_new(prompt: Arc<[Token]>, response: Vec<Token>, finish: Finish) -> Result<Self> {
        let episode = Self {
            prompt,
            response,
            finish,
        };
        match episode.is_empty() {
            true => Err(empty_response("response".into())),
            false => Ok(episode),
        }
    }

    /// H_i, the number of actions.
    #[inline]
    pub fn len(&self) -> usize {
        self.response.len()
    }

    /// Always false for an episode made by [`Episode::try_new`]; see [`check_batch`] for others.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.response.is_empty()
    }
}

fn empty_response(field: String) -> Error {
    let must = "at least one token (the end-of-sentence token counts)";
    Error::config(field, "an empty response", must)
}

/// Refuses a batch that holds nothing to learn from, and responses without a token, which an [`Episode`] written out by hand can have.
///
/// # Errors
/// [`Error::Config`] naming the row.
pub fn check_batch(batch: &[Episode]) -> Result<()> {
    if batch.is_empty() {
        return Err(Error::config("batch", "no response", "at least one"));
    }
    match batch.iter().position(Episode::is_empty) {
        None => Ok(()),
        Some(i) => Err(empty_response(format!("response of row {i}"))),
    }
}

/// The random stream of one response. Sampling takes one key per prompt, so neither batch order nor thread count changes a draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamKey(SeedTree);

impl StreamKey {
    /// The stream of a node of the seed tree, for example `seeds.child("rollout").index(step).index(i)`.
    pub fn new(node: SeedTree) -> Self {
        Self(node)
    }

    /// `n` keys below a node, one per prompt of a batch.
    pub fn batch(node: &SeedTree, n: usize) -> Vec<Self> {
        (0..n as u64).map(|i| Self(node.index(i))).collect()
    }

    /// What every sampler checks first.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one key per prompt.
    pub fn check_one_per_prompt(prompts: &[Arc<[Token]>], keys: &[Self]) -> Result<()> {
        if prompts.len() == keys.len() {
            return Ok(());
        }
        Err(Error::Shape {
            what: "stream keys, one per prompt".into(),
            expected: prompts.len(),
            got: keys.len(),
        })
    }

    /// The stream, from its beginning. A sampler draws exactly one uniform number per token.
    pub fn rng(&self) -> ChaCha8Rng {
        self.0.rng()
    }
}

/// The token that the uniform number u ∈ [0, 1) draws from log-probabilities, by inversion in token order.
///
/// Every sampler of the seam uses it, so that backends with equal scores draw equal responses from equal keys.
/// Where rounding leaves u above the total, the last token with mass is drawn.
#[inline]
pub fn inverse_cdf(log_probs: &[f64], u: f64) -> usize {
    let (mut cumulative, mut last) = (0.0, 0);
    for (i, l) in log_probs.iter().enumerate() {
        let p = l.exp();
        if p > 0.0 {
            last = i;
            cumulative += p;
            if u < cumulative {
                return i;
            }
        }
    }
    last
}
