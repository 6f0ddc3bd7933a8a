//! Time-homogeneous tables with a horizon, and their unrolling into an acyclic table.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::{SparseRows, StateIx, TabularMdp, TabularPolicy, Transition};
use crate::check;
use crate::{Error, Result};

/// (𝒮, 𝒜, 𝒫, ρ, H) as Section 3.1 writes it: one kernel for every step and an explicit horizon. States
/// may be revisited and cycles are allowed.
///
/// With a horizon, V*(s) depends on how many steps are left, so the optimal policy is a function of
/// (step, state) and not of the state alone. Planners therefore never see this type but its
/// [`unroll`](Self::unroll)ed table.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneralMdp {
    n_states: usize,
    n_actions: usize,
    horizon: usize,
    initial: Vec<f64>,
    transition: Transition,
    terminal: Vec<bool>,
}

/// An acyclic table and where its states come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Unrolled {
    /// The table: one state for each (step, state) that can be met.
    pub mdp: TabularMdp,
    /// (step, original state) of each state of the table; the step is 0-based.
    pub origin: Vec<(usize, StateIx)>,
    n_original: usize,
    index: BTreeMap<(usize, StateIx), StateIx>,
}

impl GeneralMdp {
    /// A table from its parts. `initial` is `[S]`, `transition` has S·A rows over 0..S, `terminal`
    /// lists absorbing states (zero reward, features and KL; their rows are ignored), and an episode
    /// has at most `horizon` actions.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotADistribution`] and [`Error::Config`] naming the place: sizes,
    /// successors out of range, a terminal initial state, horizon 0.
    pub fn try_new(
        n_actions: usize,
        horizon: usize,
        initial: Vec<f64>,
        transition: Transition,
        terminal: &[StateIx],
    ) -> Result<Self> {
        let n_states = initial.len();
        for (field, value) in [
            ("n_states", n_states),
            ("n_actions", n_actions),
            ("horizon", horizon),
        ] {
            if value == 0 {
                return Err(Error::config(field, 0, "at least 1"));
            }
        }
        check::len("transition", n_states * n_actions, transition.n_rows())?;
        check::distribution(|| "initial distribution".into(), &initial)?;
        let mut is_terminal = vec![false; n_states];
        for (i, s) in terminal.iter().enumerate() {
            let flag = is_terminal.get_mut(s.ix()).ok_or_else(|| {
                Error::config(
                    format!("terminal[{i}]"),
                    s.0,
                    format!("a state below {n_states}"),
                )
            })?;
            *flag = true;
            if initial[s.ix()] > 0.0 {
                return Err(Error::config(
                    format!("initial[{}]", s.0),
                    initial[s.ix()],
                    "0, as the state is terminal",
                ));
            }
        }
        for row in 0..transition.n_rows() {
            let ends = |s: &&StateIx| **s != StateIx::END && s.ix() >= n_states;
            if let Some(bad) = transition.row(row).0.iter().find(ends) {
                return Err(Error::config(
                    format!("transition[{}][{}]", row / n_actions, row % n_actions),
                    bad.0,
                    format!("a state below {n_states}"),
                ));
            }
        }
        Ok(Self {
            n_states,
            n_actions,
            horizon,
            initial,
            transition,
            terminal: is_terminal,
        })
    }

    /// |𝒮|.
    pub fn n_states(&self) -> usize {
        self.n_states
    }

    /// A.
    pub fn n_actions(&self) -> usize {
        self.n_actions
    }

    /// H.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    fn ends(&self, step: usize, next: StateIx) -> bool {
        next == StateIx::END || step + 1 == self.horizon || self.terminal[next.ix()]
    }

    /// The acyclic table over the (step, state) pairs that can be met within the horizon. Listed
    /// successors of probability 0 count as possible (Remark B.2).
    ///
    /// # Errors
    /// As [`TabularMdp::try_new`].
    pub fn unroll(&self) -> Result<Unrolled> {
        let mut origin: Vec<(usize, StateIx)> = Vec::new();
        let mut index = BTreeMap::new();
        let mut frontier: Vec<StateIx> = (0..self.n_states)
            .filter(|&s| self.initial[s] > 0.0)
            .map(|s| StateIx(s as u32))
            .collect();
        for step in 0..self.horizon {
            let mut met = vec![false; self.n_states];
            for &s in &frontier {
                index.insert((step, s), StateIx(origin.len() as u32));
                origin.push((step, s));
                for row in s.ix() * self.n_actions..(s.ix() + 1) * self.n_actions {
                    for &next in self.transition.row(row).0 {
                        if !self.ends(step, next) {
                            met[next.ix()] = true;
                        }
                    }
                }
            }
            frontier = (0..self.n_states as u32)
                .map(StateIx)
                .filter(|s| met[s.ix()])
                .collect();
        }
        let mdp = self.table(&origin, &index)?;
        Ok(Unrolled {
            mdp,
            origin,
            n_original: self.n_states,
            index,
        })
    }

    fn table(
        &self,
        origin: &[(usize, StateIx)],
        index: &BTreeMap<(usize, StateIx), StateIx>,
    ) -> Result<TabularMdp> {
        let to = |step: usize, next: StateIx| {
            if self.ends(step, next) {
                StateIx::END
            } else {
                index[&(step + 1, next)]
            }
        };
        let rows = origin.iter().flat_map(|&(step, s)| {
            (0..self.n_actions).map(move |a| (step, s.ix() * self.n_actions + a))
        });
        let transition = match &self.transition {
            Transition::Deterministic(next) => {
                Transition::Deterministic(rows.map(|(step, row)| to(step, next[row])).collect())
            }
            Transition::Stochastic(sparse) => {
                let merged: Vec<Vec<(StateIx, f64)>> = rows
                    .map(|(step, row)| {
                        let mut sums: BTreeMap<StateIx, f64> = BTreeMap::new();
                        let (next, prob) = sparse.row(row);
                        for (s, p) in next.iter().zip(prob) {
                            *sums.entry(to(step, *s)).or_default() += p;
                        }
                        sums.into_iter().collect()
                    })
                    .collect();
                Transition::Stochastic(SparseRows::try_new(self.n_actions, &merged)?)
            }
        };
        let initial = origin
            .iter()
            .map(|&(step, s)| if step == 0 { self.initial[s.ix()] } else { 0.0 })
            .collect();
        TabularMdp::try_new(self.n_actions, initial, transition)
    }
}

impl Unrolled {
    /// The table's state for an original state met at a (0-based) step; `None` when it cannot be met.
    pub fn state(&self, step: usize, original: StateIx) -> Option<StateIx> {
        self.index.get(&(step, original)).copied()
    }

    /// A table over original states `[S, A]` (a reward, logits) copied to the states they became.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the input has S rows.
    pub fn lift(&self, table: &Array2<f64>) -> Result<Array2<f64>> {
        check::len(
            "table over the original states",
            self.n_original,
            table.nrows(),
        )?;
        Ok(Array2::from_shape_fn(
            (self.origin.len(), table.ncols()),
            |(i, a)| table[[self.origin[i].1.ix(), a]],
        ))
    }

    /// A time-homogeneous policy as a policy of the table.
    ///
    /// # Errors
    /// As [`Self::lift`].
    pub fn lift_policy(&self, policy: &TabularPolicy) -> Result<TabularPolicy> {
        Ok(TabularPolicy::trusted(self.lift(policy.log_probs())?))
    }

    /// Sums a quantity over the steps at which a state is met: `[table states]` → `[S]`.
    pub fn fold(&self, values: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.n_original];
        for ((_, s), v) in self.origin.iter().zip(values) {
            out[s.ix()] += v;
        }
        out
    }
}
