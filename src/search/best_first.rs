//! Best-first search with residual mass: the token-feedback learner that attains the exact minimax
//! M(A, H, K) of [`super::bounds::minimax`] and needs neither ξ nor τ (errata, A3).
//!
//! Every prefix that has been passed keeps its residual R(v) = π\*(v|x) − Σ π\*(known children). Query
//! through an unopened child of a prefix with the largest residual; stop when no residual exceeds
//! the best known leaf. At depth H−1 the last unknown leaf has the residual as its mass, so it is
//! inferred, not queried.
//!
//! Why it is right: an unknown response lies under an unopened child of some passed prefix v, so its
//! mass is at most R(v). Why it is fast: while the optimum p\* is unknown some residual is at least p\*,
//! so every query opens a child of a prefix with mass ≥ p\*, at most A−1 times each.

use super::check_size;
use super::mass::Mass;
use super::oracle::{Scored, TokenOracle};
use crate::{Error, Result, Token};

/// Errata, A3: Which unopened child a query goes through, at every level of the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pick {
    /// The unopened child with the lowest index.
    #[default]
    Lowest,
    /// The unopened child with the highest index.
    Highest,
}

impl Pick {
    /// The next child of a node of which `opened` children are known.
    #[inline]
    fn next(self, opened: u32, n_actions: u32) -> Token {
        match self {
            Self::Lowest => opened,
            Self::Highest => n_actions - 1 - opened,
        }
    }
}

/// Errata, A3: Settings of [`best_first`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BestFirst {
    /// Order among the children of a prefix.
    pub pick: Pick,
    /// Whether the last unknown leaf below a prefix is inferred rather than queried.
    pub infer_last_leaf: bool,
}

impl Default for BestFirst {
    fn default() -> Self {
        Self {
            pick: Pick::Lowest,
            infer_last_leaf: true,
        }
    }
}

/// Errata, A3: What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<M> {
    /// The most probable response found; the lexicographically smallest of those known when tied.
    pub response: Vec<Token>,
    /// Its mass.
    pub mass: M,
    /// Whether no response can be more probable: always for exact masses; in floating point only
    /// where no residual too small to be told from rounding could hide a better one, and never when the budget ran out.
    pub certified: bool,
}

/// Errata, A3: The state of a search after one query, for tracing.
#[derive(Debug, Clone, PartialEq)]
pub struct Step<M> {
    /// The response that was scored.
    pub query: Vec<Token>,
    /// The best response known now, inferred ones included.
    pub best: Vec<Token>,
    /// Its mass.
    pub best_mass: M,
    /// Prefixes with residual mass, in the order they were passed.
    pub slots: Vec<(Vec<Token>, M)>,
}

/// Proposition 3.2 (errata, A3): Searches for the most probable response with token feedback.
///
/// Ties between residuals go to the lexicographically smallest prefix. Memory: one node for each
/// prefix passed; nothing of size A.
///
/// # Errors
/// Whatever the oracle reports, except that a used-up budget ends the search with `certified: false`
/// (an error only if not one response could be scored).
pub fn best_first<O: TokenOracle>(oracle: &mut O, options: &BestFirst) -> Result<Found<O::Mass>> {
    run(oracle, options, None)
}

/// Proposition 3.2 (errata, A3): As [`best_first`], reporting the state after every query.
///
/// # Errors
/// As [`best_first`].
pub fn best_first_traced<O: TokenOracle>(
    oracle: &mut O,
    options: &BestFirst,
    trace: &mut dyn FnMut(Step<O::Mass>),
) -> Result<Found<O::Mass>> {
    run(oracle, options, Some(trace))
}

type Trace<'a, M> = Option<&'a mut dyn FnMut(Step<M>)>;

fn run<O: TokenOracle>(
    oracle: &mut O,
    options: &BestFirst,
    mut trace: Trace<'_, O::Mass>,
) -> Result<Found<O::Mass>> {
    check_size(oracle.n_actions(), oracle.horizon())?;
    let root = oracle.root()?;
    let mut search = Search::new(oracle, *options, root);
    let mut exhausted = false;
    while let Some(slot) = search.next_slot() {
        match search.query(oracle, slot) {
            Ok(()) => {}
            Err(Error::BudgetExhausted { .. }) if search.best.is_some() => {
                exhausted = true;
                break;
            }
            Err(other) => return Err(other),
        }
        if let Some(report) = trace.as_mut() {
            report(search.step(slot));
        }
    }
    Ok(search.finish(exhausted))
}

/// A prefix that has been passed.
struct Node<M: Mass, P> {
    at: Scored<M, P>,
    residual: M::Residual,
    parent: u32,
    token: Token,
    depth: u32,
    opened: u32,
}

/// The best leaf known: its parent node, its token, its mass.
struct Leaf<M> {
    parent: u32,
    token: Token,
    mass: M,
}

struct Search<M: Mass, P> {
    options: BestFirst,
    n_actions: u32,
    horizon: u32,
    slack: f64,
    nodes: Vec<Node<M, P>>,
    /// Binary max-heap of (residual, node); only the top ever changes its key.
    heap: Vec<(M, u32)>,
    best: Option<Leaf<M>>,
    suffix: Vec<Token>,
    scored: Vec<Scored<M, P>>,
}

impl<M: Mass, P: Clone> Search<M, P> {
    fn new<O: TokenOracle<Mass = M, Prefix = P>>(
        oracle: &O,
        options: BestFirst,
        root: Scored<M, P>,
    ) -> Self {
        let mut search = Self {
            options,
            n_actions: oracle.n_actions() as u32,
            horizon: oracle.horizon() as u32,
            slack: oracle.slack(),
            nodes: Vec::new(),
            heap: Vec::new(),
            best: None,
            suffix: Vec::new(),
            scored: Vec::new(),
        };
        search.push_node(root, 0, 0, 0);
        search.heap.push((search.nodes[0].at.mass.clone(), 0));
        search
    }

    fn push_node(&mut self, at: Scored<M, P>, parent: u32, token: Token, depth: u32) -> u32 {
        let residual = at.mass.residual();
        self.nodes.push(Node {
            at,
            residual,
            parent,
            token,
            depth,
            opened: 0,
        });
        (self.nodes.len() - 1) as u32
    }

    /// The slot to query through, `None` when no residual exceeds the best leaf.
    fn next_slot(&self) -> Option<u32> {
        let (residual, node) = self.heap.first()?;
        let open = self.best.as_ref().is_none_or(|best| *residual > best.mass);
        open.then_some(*node)
    }

    /// One query through the next unopened child of the node on top of the heap.
    fn query<O: TokenOracle<Mass = M, Prefix = P>>(
        &mut self,
        oracle: &mut O,
        slot: u32,
    ) -> Result<()> {
        let top = &self.nodes[slot as usize];
        let first_depth = top.depth;
        self.suffix.clear();
        self.suffix
            .push(self.options.pick.next(top.opened, self.n_actions));
        let fresh = self.options.pick.next(0, self.n_actions);
        self.suffix
            .resize((self.horizon - first_depth) as usize, fresh);
        self.scored.clear();
        oracle.token_rewards(&top.at, &self.suffix, &mut self.scored)?;

        let first_new = self.nodes.len() as u32;
        let (mut parent, mut depth) = (slot, first_depth);
        let mut scored = std::mem::take(&mut self.scored);
        for (child, i) in scored.drain(..).zip(0..) {
            let token = self.suffix[i];
            let node = &mut self.nodes[parent as usize];
            M::subtract(&mut node.residual, &node.at.mass, &child.mass);
            node.opened += 1;
            depth += 1;
            if depth == self.horizon {
                self.consider(parent, token, child.mass);
                self.infer(parent);
            } else if self
                .best
                .as_ref()
                .is_some_and(|best| child.mass < best.mass)
            {
                break; // Nothing below a child lighter than the best leaf can matter.
            } else {
                parent = self.push_node(child, parent, token, depth);
            }
        }
        self.scored = scored;
        self.refresh_top(slot);
        for node in first_new..self.nodes.len() as u32 {
            self.open_slot(node);
        }
        Ok(())
    }

    /// A leaf is known: keep it if it is better, or as good and lexicographically smaller.
    fn consider(&mut self, parent: u32, token: Token, mass: M) {
        let better = match &self.best {
            None => true,
            Some(best) => {
                mass > best.mass
                    || (mass == best.mass
                        && self.response(parent, token) < self.response(best.parent, best.token))
            }
        };
        if better {
            self.best = Some(Leaf {
                parent,
                token,
                mass,
            });
        }
    }

    /// With one leaf unknown below a node at depth H−1, its mass is the residual.
    fn infer(&mut self, node: u32) {
        let Node { opened, .. } = self.nodes[node as usize];
        if !self.options.infer_last_leaf || opened + 1 != self.n_actions {
            return;
        }
        let mass = self.left(node);
        let inferable = &self.nodes[node as usize];
        let at_most = M::left_at_most(&inferable.residual, &inferable.at.mass, self.slack);
        // Where the evaluator's own error makes the residual vague, the leaf is left to be queried.
        if !mass.is_zero() && !at_most.exceeds(&mass) {
            let token = self.options.pick.next(opened, self.n_actions);
            let inferred = &mut self.nodes[node as usize];
            inferred.opened += 1;
            self.consider(node, token, mass);
        }
    }

    /// R(v), zero once every child is known.
    fn left(&self, node: u32) -> M {
        let node = &self.nodes[node as usize];
        M::left(&node.residual, &node.at.mass, self.slack)
    }

    /// The residual of a node if a query through it can still pay.
    fn useful(&self, node: u32) -> Option<M> {
        if self.nodes[node as usize].opened == self.n_actions {
            return None;
        }
        let left = self.left(node);
        let pays = !left.is_zero() && self.best.as_ref().is_none_or(|best| left > best.mass);
        pays.then_some(left)
    }

    fn open_slot(&mut self, node: u32) {
        if let Some(left) = self.useful(node) {
            self.heap.push((left, node));
            self.sift_up(self.heap.len() - 1);
        }
    }

    /// Gives the top of the heap, which is `slot`, its new residual, or removes it.
    fn refresh_top(&mut self, slot: u32) {
        match self.useful(slot) {
            Some(left) => self.heap[0].0 = left,
            None => {
                self.heap.swap_remove(0);
            }
        }
        self.sift_down();
    }

    fn sift_up(&mut self, mut i: usize) {
        while i > 0 && self.before(i, (i - 1) / 2) {
            self.heap.swap(i, (i - 1) / 2);
            i = (i - 1) / 2;
        }
    }

    fn sift_down(&mut self) {
        let mut i = 0;
        loop {
            let (left, right) = (2 * i + 1, 2 * i + 2);
            if left >= self.heap.len() {
                return;
            }
            let child = if right < self.heap.len() && self.before(right, left) {
                right
            } else {
                left
            };
            if !self.before(child, i) {
                return;
            }
            self.heap.swap(child, i);
            i = child;
        }
    }

    /// Whether heap entry `i` comes before `j`: larger residual, then lexicographically smaller prefix.
    #[inline]
    fn before(&self, i: usize, j: usize) -> bool {
        let ((a, node_a), (b, node_b)) = (&self.heap[i], &self.heap[j]);
        a > b || (a == b && self.prefix_before(*node_a, *node_b))
    }

    /// Lexicographic order of prefixes, a prefix before its extensions.
    fn prefix_before(&self, a: u32, b: u32) -> bool {
        let depths = (self.nodes[a as usize].depth, self.nodes[b as usize].depth);
        let (mut up_a, mut up_b) = (a, b);
        while self.nodes[up_a as usize].depth > depths.1 {
            up_a = self.nodes[up_a as usize].parent;
        }
        while self.nodes[up_b as usize].depth > depths.0 {
            up_b = self.nodes[up_b as usize].parent;
        }
        if up_a == up_b {
            return depths.0 < depths.1;
        }
        loop {
            let (node_a, node_b) = (&self.nodes[up_a as usize], &self.nodes[up_b as usize]);
            if node_a.parent == node_b.parent {
                return node_a.token < node_b.token;
            }
            (up_a, up_b) = (node_a.parent, node_b.parent);
        }
    }

    fn prefix(&self, mut node: u32) -> Vec<Token> {
        let mut tokens = vec![0; self.nodes[node as usize].depth as usize];
        for token in tokens.iter_mut().rev() {
            *token = self.nodes[node as usize].token;
            node = self.nodes[node as usize].parent;
        }
        tokens
    }

    fn response(&self, parent: u32, token: Token) -> Vec<Token> {
        let mut tokens = self.prefix(parent);
        tokens.push(token);
        tokens
    }

    fn step(&self, slot: u32) -> Step<M> {
        let best = self.best.as_ref().expect("a query ends in a leaf");
        let mut query = self.prefix(slot);
        query.extend(&self.suffix);
        let open = (0..self.nodes.len() as u32)
            .filter(|v| self.nodes[*v as usize].opened < self.n_actions);
        let slots = open
            .map(|v| (self.prefix(v), self.left(v)))
            .filter(|(_, left)| !left.is_zero())
            .collect();
        Step {
            query,
            best: self.response(best.parent, best.token),
            best_mass: best.mass.clone(),
            slots,
        }
    }

    fn finish(self, exhausted: bool) -> Found<M> {
        let best = self
            .best
            .as_ref()
            .expect("the first query ended in a leaf or in an error");
        let hidden = |node: &Node<M, P>| {
            node.opened < self.n_actions
                && M::left_at_most(&node.residual, &node.at.mass, self.slack).exceeds(&best.mass)
        };
        let certified = !exhausted && !self.nodes.iter().any(hidden);
        Found {
            response: self.response(best.parent, best.token),
            mass: best.mass.clone(),
            certified,
        }
    }
}
