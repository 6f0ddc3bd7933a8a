//! Which states and pairs an admissible policy can meet at all.

use super::{ActionIx, PreferencePair, StateIx, TabularMdp, TabularPolicy};
use crate::Result;

/// Section 3.1, (3.2): The part of a table that matters under π_ref. A state is *reachable* when some policy with the
/// support of π_ref visits it with positive probability, and so is a pair (s, a) when s is reachable and π_ref(a|s) > 0.
///
/// (3.2) forces π(a|s) = 0 where π_ref(a|s) = 0, so no value, visitation, bonus or bound depends on what a
/// table says elsewhere: rows after the end of a sentence, behind actions that π_ref never takes, behind
/// transitions of probability 0. Every maximum over states has to leave them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    n_actions: usize,
    state: Vec<bool>,
    pair: Vec<bool>,
}

impl Reachable {
    /// From the prompts of ρ.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when π_ref does not fit the table.
    pub fn new(mdp: &TabularMdp, reference: &TabularPolicy) -> Result<Self> {
        Self::from_states(mdp, reference, mdp.roots().map(|(s, _)| s))
    }

    /// From any states, for example prompts of initial probability 0 too.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_states(
        mdp: &TabularMdp,
        reference: &TabularPolicy,
        starts: impl IntoIterator<Item = StateIx>,
    ) -> Result<Self> {
        Self::walk(mdp, reference, starts, |p| p > 0.0)
    }

    /// From the prompts of ρ, where the environment may also move to successors that are listed with
    /// probability 0, as nature may in Remark B.2.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn through_listed(mdp: &TabularMdp, reference: &TabularPolicy) -> Result<Self> {
        Self::walk(mdp, reference, mdp.roots().map(|(s, _)| s), |_| true)
    }

    fn walk(
        mdp: &TabularMdp,
        reference: &TabularPolicy,
        starts: impl IntoIterator<Item = StateIx>,
        leads: impl Fn(f64) -> bool,
    ) -> Result<Self> {
        let (n, na) = (mdp.n_states(), mdp.n_actions());
        reference.check_shape("reference", n, na)?;
        let (mut state, mut pair) = (vec![false; n], vec![false; n * na]);
        for s in starts {
            state[s.ix()] = true;
        }
        // A transition leads to a larger index, so one pass in increasing order meets every path.
        for s in 0..n {
            if !state[s] {
                continue;
            }
            for (a, log_ref) in reference.row(s).iter().enumerate() {
                if *log_ref == f64::NEG_INFINITY {
                    continue;
                }
                pair[s * na + a] = true;
                let (next, prob) = mdp.transition().row(s * na + a);
                for (to, p) in next.iter().zip(prob) {
                    if *to != StateIx::END && leads(*p) {
                        state[to.ix()] = true;
                    }
                }
            }
        }
        Ok(Self {
            n_actions: na,
            state,
            pair,
        })
    }

    /// The same with the steps of preference pairs, which need not keep to the support of π_ref: their margins
    /// are bounded by 2HLB only if L bounds their features too.
    #[must_use]
    pub fn with_pairs(mut self, pairs: &[PreferencePair]) -> Self {
        for pair in pairs {
            for &(s, a) in pair.winner().steps().iter().chain(pair.loser().steps()) {
                self.state[s.ix()] = true;
                self.pair[s.ix() * self.n_actions + a.ix()] = true;
            }
        }
        self
    }

    /// Whether a state is reachable.
    #[inline]
    pub fn state(&self, s: StateIx) -> bool {
        self.state[s.ix()]
    }

    /// Whether a pair is reachable.
    #[inline]
    pub fn pair(&self, s: StateIx, a: ActionIx) -> bool {
        self.pair[s.ix() * self.n_actions + a.ix()]
    }

    /// The reachable states, in increasing order.
    pub fn states(&self) -> impl Iterator<Item = StateIx> + '_ {
        let met = self.state.iter().enumerate().filter(|(_, met)| **met);
        met.map(|(s, _)| StateIx(s as u32))
    }

    /// The reachable pairs, in the order s·A + a.
    pub fn pairs(&self) -> impl Iterator<Item = (StateIx, ActionIx)> + '_ {
        let met = self.pair.iter().enumerate().filter(|(_, met)| **met);
        met.map(|(i, _)| {
            (
                StateIx((i / self.n_actions) as u32),
                ActionIx((i % self.n_actions) as u32),
            )
        })
    }

    /// Whether every reachable pair has one successor of positive probability: the transitions are then
    /// deterministic wherever an episode can go, however the table writes them.
    pub fn is_deterministic(&self, mdp: &TabularMdp) -> bool {
        mdp.is_deterministic()
            || self.pairs().all(|(s, a)| {
                let prob = mdp.successors(s, a).1;
                prob.iter().filter(|p| **p > 0.0).count() == 1
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mdp::{SparseRows, TokenTree, Transition};
    use ndarray::array;

    #[test]
    fn what_no_admissible_policy_meets_is_left_out() {
        // Token 0 ends the response; the reference never takes token 2 first.
        let tree = TokenTree::try_new(1, 3, 2, Some(ActionIx(0))).unwrap();
        let mdp = tree.compile(&[1.0]).unwrap();
        let third = 1.0 / 3.0;
        let reference = TabularPolicy::from_probs(&array![
            [0.5, 0.5, 0.0],
            [third, third, third],
            [third, third, third],
            [third, third, third]
        ])
        .unwrap();
        let met = Reachable::new(&mdp, &reference).unwrap();
        assert_eq!(met.states().map(|s| s.0).collect::<Vec<_>>(), [0, 2]);
        let pairs: Vec<_> = met.pairs().map(|(s, a)| (s.0, a.0)).collect();
        assert_eq!(pairs, [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]);
        // From other states: what can follow them.
        let from = Reachable::from_states(&mdp, &reference, [StateIx(3)]).unwrap();
        assert_eq!(from.states().map(|s| s.0).collect::<Vec<_>>(), [3]);
        let pair = |w: &[u32], l: &[u32]| {
            PreferencePair::try_new(
                tree.trajectory(0, w).unwrap(),
                tree.trajectory(0, l).unwrap(),
            )
            .unwrap()
        };
        let seen = met.with_pairs(&[pair(&[2, 1], &[0])]);
        assert!(seen.pair(StateIx(0), ActionIx(2)) && seen.pair(StateIx(3), ActionIx(1)));
        assert!(!seen.pair(StateIx(3), ActionIx(0)));
    }

    #[test]
    fn a_successor_of_probability_zero_is_listed_and_not_reachable() {
        let rows = [
            vec![(StateIx(1), 1.0), (StateIx(2), 0.0)],
            vec![(StateIx::END, 1.0)],
            vec![(StateIx::END, 1.0)],
        ];
        let sparse = SparseRows::try_new(1, &rows).unwrap();
        let mdp =
            TabularMdp::try_new(1, vec![1.0, 0.0, 0.0], Transition::Stochastic(sparse)).unwrap();
        let reference = TabularPolicy::uniform(3, 1);
        let met = Reachable::new(&mdp, &reference).unwrap();
        assert!(met.state(StateIx(1)) && !met.state(StateIx(2)));
        assert!(met.is_deterministic(&mdp) && !mdp.is_deterministic());
        let listed = Reachable::through_listed(&mdp, &reference).unwrap();
        assert!(listed.state(StateIx(2)));
    }
}
