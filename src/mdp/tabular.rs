//! The table every planner works on.

use std::ops::Range;

use super::{ActionIx, StateIx};
use crate::check;
use crate::{Error, Result};

/// Transition kernel 𝒫(·|s, a) of Section 3.1, one row per state–action pair in the order s·A + a.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// The next state of each pair, as in text generation.
    Deterministic(Vec<StateIx>),
    /// The distribution of the next state of each pair (Proposition C.2, Appendix B).
    Stochastic(SparseRows),
}

/// Sparse probability rows, one per state–action pair in the order s·A + a.
///
/// A listed successor of probability 0 is *possible*: the robust planner of Remark B.2 may put mass
/// on it, every other planner ignores it.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseRows {
    offsets: Vec<usize>,
    next: Vec<StateIx>,
    prob: Vec<f64>,
}

impl SparseRows {
    /// Rows of (next state, probability).
    ///
    /// # Errors
    /// [`Error::NotADistribution`] or [`Error::NonFinite`] naming the row, and [`Error::Config`] when
    /// a row lists a state twice.
    pub fn try_new(n_actions: usize, rows: &[Vec<(StateIx, f64)>]) -> Result<Self> {
        let mut out = Self {
            offsets: vec![0],
            next: Vec::new(),
            prob: Vec::new(),
        };
        for (i, row) in rows.iter().enumerate() {
            let name = || {
                format!(
                    "transition[{}][{}]",
                    i / n_actions.max(1),
                    i % n_actions.max(1)
                )
            };
            let start = out.prob.len();
            out.next.extend(row.iter().map(|e| e.0));
            out.prob.extend(row.iter().map(|e| e.1));
            check::distribution(name, &out.prob[start..])?;
            let mut seen: Vec<StateIx> = out.next[start..].to_vec();
            seen.sort_unstable();
            if let Some(twice) = seen.windows(2).find(|w| w[0] == w[1]) {
                return Err(Error::config(
                    name(),
                    format!("state {} twice", twice[0].0),
                    "a list of distinct states",
                ));
            }
            out.offsets.push(out.prob.len());
        }
        Ok(out)
    }

    /// The successors and probabilities of row `row` = s·A + a.
    #[inline]
    pub fn row(&self, row: usize) -> (&[StateIx], &[f64]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.next[range.clone()], &self.prob[range])
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Transition {
    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        match self {
            Self::Deterministic(next) => next.len(),
            Self::Stochastic(rows) => rows.len(),
        }
    }

    /// The successors and probabilities of row `row` = s·A + a.
    #[inline]
    pub fn row(&self, row: usize) -> (&[StateIx], &[f64]) {
        match self {
            Self::Deterministic(next) => (&next[row..row + 1], &[1.0]),
            Self::Stochastic(rows) => rows.row(row),
        }
    }
}

/// (𝒮, 𝒜, 𝒫, ρ, H) of Section 3.1 as a verified table; rewards live in [`crate::reward`].
///
/// States are numbered in topological order: every transition leads to a larger index or to
/// [`StateIx::END`].
#[derive(Debug, Clone, PartialEq)]
pub struct TabularMdp {
    n_states: usize,
    n_actions: usize,
    horizon: usize,
    initial: Vec<f64>,
    transition: Transition,
    block_ends: Vec<usize>,
}

impl TabularMdp {
    /// A table from its parts. `initial` is `[n_states]`; `transition` has n_states · n_actions rows.
    ///
    /// # Errors
    /// [`Error::Shape`] on sizes, [`Error::NotADistribution`] on ρ, [`Error::Config`] naming the pair
    /// whose successor is out of range or not later than its state (a cycle).
    pub fn try_new(n_actions: usize, initial: Vec<f64>, transition: Transition) -> Result<Self> {
        let n_states = initial.len();
        if n_actions == 0 {
            return Err(Error::config("n_actions", 0, "at least 1"));
        }
        if n_states == 0 || n_states >= u32::MAX as usize {
            return Err(Error::config(
                "n_states",
                n_states,
                "between 1 and 2^32 - 2",
            ));
        }
        check::len("transition", n_states * n_actions, transition.n_rows())?;
        check::distribution(|| "initial distribution".into(), &initial)?;
        let mut mdp = Self {
            n_states,
            n_actions,
            horizon: 0,
            initial,
            transition,
            block_ends: Vec::new(),
        };
        mdp.check_order()?;
        mdp.horizon = mdp.longest_path();
        mdp.block_ends = mdp.independent_blocks();
        Ok(mdp)
    }

    fn check_order(&self) -> Result<()> {
        for row in 0..self.transition.n_rows() {
            let s = row / self.n_actions;
            for next in self.transition.row(row).0 {
                if *next == StateIx::END {
                    continue;
                }
                if next.ix() > s && next.ix() < self.n_states {
                    continue;
                }
                let must = if next.ix() >= self.n_states {
                    format!("a state below {} or the end", self.n_states)
                } else {
                    format!("later than state {s} (the table must be acyclic)")
                };
                let field = format!("transition[{s}][{}]", row % self.n_actions);
                return Err(Error::config(field, next.0, must));
            }
        }
        Ok(())
    }

    fn longest_path(&self) -> usize {
        let mut left = vec![1u32; self.n_states];
        for s in (0..self.n_states).rev() {
            for row in s * self.n_actions..(s + 1) * self.n_actions {
                for next in self.transition.row(row).0 {
                    if *next != StateIx::END {
                        left[s] = left[s].max(1 + left[next.ix()]);
                    }
                }
            }
        }
        let reachable = (0..self.n_states).filter(|&s| self.initial[s] > 0.0);
        reachable.map(|s| left[s]).max().unwrap_or(0) as usize
    }

    /// Ends of maximal runs of consecutive states without a transition inside the run, last run first.
    fn independent_blocks(&self) -> Vec<usize> {
        let mut ends = vec![self.n_states];
        let mut end = self.n_states;
        for s in (0..self.n_states).rev() {
            let rows = s * self.n_actions..(s + 1) * self.n_actions;
            let inside = rows
                .flat_map(|row| self.transition.row(row).0)
                .any(|next| *next != StateIx::END && next.ix() < end);
            if inside {
                end = s + 1;
                ends.push(end);
            }
        }
        ends
    }

    /// |𝒮|, without the end of the episode.
    pub fn n_states(&self) -> usize {
        self.n_states
    }

    /// A = |𝒜|.
    pub fn n_actions(&self) -> usize {
        self.n_actions
    }

    /// H: the largest number of actions in an episode.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// ρ of Section 3.1, `[n_states]`.
    pub fn initial(&self) -> &[f64] {
        &self.initial
    }

    /// The transition kernel.
    pub fn transition(&self) -> &Transition {
        &self.transition
    }

    /// Whether every pair has one successor.
    pub fn is_deterministic(&self) -> bool {
        matches!(self.transition, Transition::Deterministic(_))
    }

    /// The prompts: states of positive initial probability.
    pub fn roots(&self) -> impl Iterator<Item = (StateIx, f64)> + '_ {
        let roots = self.initial.iter().enumerate().filter(|(_, p)| **p > 0.0);
        roots.map(|(s, p)| (StateIx(s as u32), *p))
    }

    /// Successors and probabilities of a pair.
    #[inline]
    pub fn successors(&self, s: StateIx, a: ActionIx) -> (&[StateIx], &[f64]) {
        self.transition.row(s.ix() * self.n_actions + a.ix())
    }

    /// The successor of a pair when the table is deterministic, `None` otherwise.
    #[inline]
    pub fn next_state(&self, s: StateIx, a: ActionIx) -> Option<StateIx> {
        match &self.transition {
            Transition::Deterministic(next) => Some(next[s.ix() * self.n_actions + a.ix()]),
            Transition::Stochastic(_) => None,
        }
    }

    /// E_{s'∼𝒫(·|s,a)}\[f(s')\] with f(end) = 0; `later` holds f of the states from index `first` on.
    #[inline]
    pub(crate) fn expect_later(&self, row: usize, first: usize, later: &[f64]) -> f64 {
        match &self.transition {
            Transition::Deterministic(next) => match next[row] {
                StateIx::END => 0.0,
                s => later[s.ix() - first],
            },
            Transition::Stochastic(rows) => {
                let (next, prob) = rows.row(row);
                let pairs = next
                    .iter()
                    .zip(prob)
                    .filter(|(s, p)| **s != StateIx::END && **p > 0.0);
                pairs.map(|(s, p)| p * later[s.ix() - first]).sum()
            }
        }
    }

    /// E_{s'∼𝒫(·|s,a)}\[f(s')\] for f `[n_states]`, with f(end) = 0.
    #[inline]
    pub fn expect(&self, s: StateIx, a: ActionIx, f: &[f64]) -> f64 {
        self.expect_later(s.ix() * self.n_actions + a.ix(), 0, f)
    }

    /// Runs of states that do not reach each other in one step, in decreasing order of the index: a
    /// backward recursion may treat the states of a run in parallel.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.block_ends.len()).map(|i| {
            let start = self.block_ends.get(i + 1).copied().unwrap_or(0);
            start..self.block_ends[i]
        })
    }
}
