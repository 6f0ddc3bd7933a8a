//! Trajectories τ = {(s_h, a_h)} and preference pairs (τ^w, τ^l).

use rand::Rng;

use super::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use crate::{Error, Result};

/// τ = {(s_h, a_h)}_{h=1}^{H'} with H' ≤ H: the steps before the end of the episode (footnote 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trajectory {
    steps: Vec<(StateIx, ActionIx)>,
}

impl Trajectory {
    /// A trajectory that the table allows, from any state to the end of the episode.
    ///
    /// # Errors
    /// [`Error::Config`] naming the step that is out of range, does not follow from the one before,
    /// or stops before the episode ends.
    pub fn try_new(mdp: &TabularMdp, steps: Vec<(StateIx, ActionIx)>) -> Result<Self> {
        if steps.is_empty() {
            return Err(Error::config("trajectory", "no steps", "at least one step"));
        }
        for (h, &(s, a)) in steps.iter().enumerate() {
            if s.ix() >= mdp.n_states() || a.ix() >= mdp.n_actions() {
                return Err(Error::config(
                    format!("trajectory step {h}"),
                    format!("state {}, action {}", s.0, a.0),
                    format!(
                        "a state below {} and an action below {}",
                        mdp.n_states(),
                        mdp.n_actions()
                    ),
                ));
            }
            let next = steps.get(h + 1).map_or(StateIx::END, |step| step.0);
            let (states, probs) = mdp.successors(s, a);
            let possible = states
                .iter()
                .zip(probs)
                .any(|(t, p)| *t == next && *p > 0.0);
            if !possible {
                let found = match next {
                    StateIx::END => "the end of the trajectory".into(),
                    next => format!("state {}", next.0),
                };
                return Err(Error::config(
                    format!("trajectory step {}", h + 1),
                    found,
                    format!("a successor of state {} under action {}", s.0, a.0),
                ));
            }
        }
        Ok(Self { steps })
    }

    /// A trajectory known to be possible.
    pub(crate) fn trusted(steps: Vec<(StateIx, ActionIx)>) -> Self {
        Self { steps }
    }

    /// The steps (s_h, a_h).
    pub fn steps(&self) -> &[(StateIx, ActionIx)] {
        &self.steps
    }

    /// s₁.
    pub fn start(&self) -> StateIx {
        self.steps[0].0
    }

    /// Σ_h f(s_h, a_h): with f = r the exponent of (3.1), with f = log π the log-probability of the
    /// actions.
    pub fn sum(&self, mut f: impl FnMut(StateIx, ActionIx) -> f64) -> f64 {
        self.steps.iter().map(|&(s, a)| f(s, a)).sum()
    }

    /// log ∏_h π(a_h|s_h).
    pub fn log_prob(&self, policy: &TabularPolicy) -> f64 {
        self.sum(|s, a| policy.log_prob(s, a))
    }
}

/// (τ^w, τ^l) ∈ 𝒟 of Section 4.1: two trajectories from the same prompt, the first one preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencePair {
    winner: Trajectory,
    loser: Trajectory,
}

impl PreferencePair {
    /// A pair.
    ///
    /// # Errors
    /// [`Error::Config`] unless both start in the same state.
    pub fn try_new(winner: Trajectory, loser: Trajectory) -> Result<Self> {
        if winner.start() == loser.start() {
            return Ok(Self { winner, loser });
        }
        Err(Error::config(
            "preference pair",
            format!("prompts {} and {}", winner.start().0, loser.start().0),
            "two responses to the same prompt",
        ))
    }

    /// τ^w.
    pub fn winner(&self) -> &Trajectory {
        &self.winner
    }

    /// τ^l.
    pub fn loser(&self) -> &Trajectory {
        &self.loser
    }
}

/// Section 3.1: Draws τ from a policy, starting at `start`.
pub fn sample_trajectory(
    mdp: &TabularMdp,
    policy: &TabularPolicy,
    start: StateIx,
    rng: &mut impl Rng,
) -> Trajectory {
    let mut steps = Vec::with_capacity(mdp.horizon());
    let mut s = start;
    while s != StateIx::END {
        let row = policy.row(s.ix());
        let a = ActionIx(pick(row.iter().map(|l| l.exp()), rng) as u32);
        steps.push((s, a));
        let (next, prob) = mdp.successors(s, a);
        s = if next.len() == 1 {
            next[0]
        } else {
            next[pick(prob.iter().copied(), rng)]
        };
    }
    Trajectory { steps }
}

/// Index drawn from a probability vector by inversion; rounding never selects a zero.
pub(crate) fn pick(probs: impl Iterator<Item = f64>, rng: &mut impl Rng) -> usize {
    let mut u: f64 = rng.random();
    let mut last = 0;
    for (i, p) in probs.enumerate() {
        if p > 0.0 {
            last = i;
            u -= p;
            if u < 0.0 {
                return i;
            }
        }
    }
    last
}

/// Calls `visit` with every complete trajectory of a deterministic table from `start`, in
/// lexicographic order of the actions. There are up to A^H of them.
///
/// # Errors
/// [`Error::Assumption`] when the table is stochastic.
pub fn for_each_trajectory(
    mdp: &TabularMdp,
    start: StateIx,
    mut visit: impl FnMut(&[(StateIx, ActionIx)]),
) -> Result<()> {
    if !mdp.is_deterministic() {
        return Err(Error::Assumption {
            assumption: "deterministic transitions (Section 3.1)".into(),
            why: "the table is stochastic".into(),
        });
    }
    let mut path = vec![(start, ActionIx(0))];
    while let Some(&(s, a)) = path.last() {
        if a.ix() == mdp.n_actions() {
            path.pop();
            if let Some(step) = path.last_mut() {
                step.1.0 += 1;
            }
            continue;
        }
        match mdp.next_state(s, a).expect("the table is deterministic") {
            StateIx::END => {
                visit(&path);
                let depth = path.len() - 1;
                path[depth].1.0 += 1;
            }
            next => path.push((next, ActionIx(0))),
        }
    }
    Ok(())
}
