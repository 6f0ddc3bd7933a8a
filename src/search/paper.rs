//! The algorithm in the proof of Proposition 3.2, literally.
//!
//! It knows τ = A^{−ξ}. Each query of a response finds the first light prefix on it, a node of
//! N = {y₁…y_h : π\*(y₁…y_h) < τ ≤ π\*(y₁…y_{h−1})} (3.7), and every response through that node is deleted. The
//! proof does not say what happens on a response without a light prefix (a heavy leaf): as written it
//! would be asked for again for ever. Here such a response is recorded and deleted by itself, so the
//! count is |N| + m_H in every order (errata, A2).

use super::check_size;
use super::mass::Mass;
use super::oracle::{Scored, TokenOracle};
use crate::{Error, Result, Token};
use std::collections::HashMap;

use super::best_first::{Found, Pick};

/// Proof of Proposition 3.2: What one query deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Deletion<M> {
    /// The response that was scored.
    pub query: Vec<Token>,
    /// The prefix all of whose responses are deleted: a node of N, or the response itself when it is heavy.
    pub deleted: Vec<Token>,
    /// Whether the deleted prefix is a node of N.
    pub in_frontier: bool,
    /// The mass of the response.
    pub mass: M,
}

/// Proof of Proposition 3.2 (errata, A2): The learner's state: the heavy prefixes passed, and which children of each are deleted.
pub struct PaperSearch<M, P> {
    n_actions: usize,
    horizon: usize,
    /// Arena; node 0 is the root.
    nodes: Vec<HeavyNode<M, P>>,
    best: Option<(Vec<Token>, M)>,
}

struct HeavyNode<M, P> {
    at: Scored<M, P>,
    parent: usize,
    children: HashMap<Token, Child>,
    deleted: usize,
}

#[derive(Clone, Copy)]
enum Child {
    Heavy(usize),
    Deleted,
}

impl<M: Mass, P: Clone> PaperSearch<M, P> {
    /// A learner that has asked nothing yet.
    ///
    /// # Errors
    /// [`Error::Config`] for a size out of range, or whatever the oracle reports.
    pub fn new<O: TokenOracle<Mass = M, Prefix = P>>(oracle: &mut O) -> Result<Self> {
        check_size(oracle.n_actions(), oracle.horizon())?;
        let at = oracle.root()?;
        let root = HeavyNode {
            at,
            parent: 0,
            children: HashMap::new(),
            deleted: 0,
        };
        Ok(Self {
            n_actions: oracle.n_actions(),
            horizon: oracle.horizon(),
            nodes: vec![root],
            best: None,
        })
    }

    /// Whether a response is deleted.
    pub fn is_deleted(&self, response: &[Token]) -> bool {
        let mut node = 0;
        for token in response {
            match self.nodes[node].children.get(token) {
                Some(Child::Heavy(child)) => node = *child,
                Some(Child::Deleted) => return true,
                None => return false,
            }
        }
        unreachable!("a recorded response is deleted at its last token")
    }

    /// A response that is not deleted, the first or last in lexicographic order.
    pub fn next_response(&self, pick: Pick) -> Option<Vec<Token>> {
        if self.nodes[0].deleted == self.n_actions {
            return None;
        }
        let (mut node, mut response) = (Some(0), Vec::with_capacity(self.horizon));
        while response.len() < self.horizon {
            let open = |token: &Token| {
                node.is_none_or(|n: usize| {
                    !matches!(self.nodes[n].children.get(token), Some(Child::Deleted))
                })
            };
            let tokens = 0..self.n_actions as Token;
            let token = match pick {
                Pick::Lowest => tokens.into_iter().find(open),
                Pick::Highest => tokens.rev().find(open),
            };
            let token = token.expect("a node with every child deleted is deleted in its parent");
            response.push(token);
            node = match node.and_then(|n| self.nodes[n].children.get(&token)) {
                Some(Child::Heavy(child)) => Some(*child),
                _ => None,
            };
        }
        Some(response)
    }

    /// Scores a response that is not deleted, and deletes what it shows to be light (or itself).
    ///
    /// # Errors
    /// Whatever the oracle reports.
    pub fn query<O: TokenOracle<Mass = M, Prefix = P>>(
        &mut self,
        oracle: &mut O,
        response: &[Token],
        is_heavy: impl Fn(&M) -> bool,
    ) -> Result<Deletion<M>> {
        let (mut node, mut depth) = (0, 0);
        while let Some(Child::Heavy(child)) = self.nodes[node].children.get(&response[depth]) {
            (node, depth) = (*child, depth + 1);
        }
        let mut scored = Vec::with_capacity(self.horizon - depth);
        oracle.token_rewards(&self.nodes[node].at, &response[depth..], &mut scored)?;
        let mass = scored[scored.len() - 1].mass.clone();
        if self
            .best
            .as_ref()
            .is_none_or(|(known, best)| mass > *best || (mass == *best && *response < known[..]))
        {
            self.best = Some((response.to_vec(), mass.clone()));
        }
        let mut in_frontier = false;
        for at in scored {
            in_frontier = !is_heavy(&at.mass);
            if in_frontier || depth + 1 == self.horizon {
                break;
            }
            self.nodes.push(HeavyNode {
                at,
                parent: node,
                children: HashMap::new(),
                deleted: 0,
            });
            let child = self.nodes.len() - 1;
            self.nodes[node]
                .children
                .insert(response[depth], Child::Heavy(child));
            (node, depth) = (child, depth + 1);
        }
        self.delete(node, response, depth);
        Ok(Deletion {
            query: response.to_vec(),
            deleted: response[..=depth].to_vec(),
            in_frontier,
            mass,
        })
    }

    /// Deletes the child of `node`, and every ancestor that has no response left.
    fn delete(&mut self, mut node: usize, response: &[Token], mut depth: usize) {
        loop {
            self.nodes[node]
                .children
                .insert(response[depth], Child::Deleted);
            self.nodes[node].deleted += 1;
            if self.nodes[node].deleted < self.n_actions || depth == 0 {
                return;
            }
            (node, depth) = (self.nodes[node].parent, depth - 1);
        }
    }
}

/// Runs the algorithm to its end, querying the lexicographically first or last response that is left.
///
/// `certified` holds when some leaf is heavy; with a ξ that is too small for Assumption 3.1 the
/// optimum may have been deleted.
///
/// # Errors
/// [`Error::Assumption`] naming Assumption 3.1 if no response is heavy, or whatever the oracle reports.
pub fn paper_search<O: TokenOracle>(
    oracle: &mut O,
    is_heavy: impl Fn(&O::Mass) -> bool,
    pick: Pick,
    mut report: impl FnMut(Deletion<O::Mass>),
) -> Result<Found<O::Mass>> {
    let mut search = PaperSearch::new(oracle)?;
    if !is_heavy(&search.nodes[0].at.mass) {
        return Err(no_heavy_response());
    }
    while let Some(response) = search.next_response(pick) {
        report(search.query(oracle, &response, &is_heavy)?);
    }
    match search.best {
        Some((response, mass)) if is_heavy(&mass) => Ok(Found {
            response,
            mass,
            certified: true,
        }),
        _ => Err(no_heavy_response()),
    }
}

/// The error for a ξ that no response meets.
pub fn no_heavy_response() -> Error {
    Error::Assumption {
        assumption: "Assumption 3.1".into(),
        why: "no response has probability at least A^(-xi)".into(),
    }
}
