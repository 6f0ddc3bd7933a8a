//! Appendix C.2: policies that fix the whole response before seeing a state.

use super::check_policy;
use crate::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use crate::reward::{RewardFunction, check_reward};
use crate::{Error, Result};

/// The most action sequences that [`best_predetermined`] enumerates.
pub const PREDETERMINED_LIMIT: usize = 1_000_000;

/// Proposition C.2 (errata, B9): The best predetermined policy of an MDP.
#[derive(Debug, Clone, PartialEq)]
pub struct Predetermined {
    /// E_{x∼ρ} of the best value; −∞ when a prompt has no admissible sequence.
    pub value: f64,
    /// For each prompt: its state, the best sequence of H actions, and its value.
    pub per_prompt: Vec<(StateIx, Vec<ActionIx>, f64)>,
}

/// The best predetermined policy of Proposition C.2 at β = 0, by enumeration of all A^H action
/// sequences: for each prompt the sequence y_{1:H} that maximises E\[Σ_h r(s_h, y_h)\]. Mixtures of
/// sequences are no better. Only sequences that π_ref may take in every state they can lead to are
/// admissible, as π_ref(a|s) = 0 forces π(a|s) = 0 at every β.
///
/// # Errors
/// [`Error::Config`] when A^H > [`PREDETERMINED_LIMIT`]; [`Error::Shape`].
pub fn best_predetermined(
    mdp: &TabularMdp,
    reward: &impl RewardFunction,
    reference: &TabularPolicy,
) -> Result<Predetermined> {
    check_reward(mdp, reward)?;
    check_policy(mdp, "reference", reference)?;
    let sequences = (mdp.n_actions() as f64).powi(mdp.horizon() as i32);
    if sequences > PREDETERMINED_LIMIT as f64 {
        return Err(Error::config(
            "A^H",
            format!("{}^{}", mdp.n_actions(), mdp.horizon()),
            format!("at most {PREDETERMINED_LIMIT} to enumerate predetermined policies"),
        ));
    }
    let mut out = Predetermined {
        value: 0.0,
        per_prompt: Vec::new(),
    };
    for (root, p) in mdp.roots() {
        let mut search = Search {
            mdp,
            reward,
            reference,
            prefix: Vec::new(),
            best: (f64::NEG_INFINITY, Vec::new()),
        };
        search.extend(vec![(root, 1.0)], 0.0);
        let (value, actions) = search.best;
        out.value += p * value;
        out.per_prompt.push((root, actions, value));
    }
    Ok(out)
}

struct Search<'a, R> {
    mdp: &'a TabularMdp,
    reward: &'a R,
    reference: &'a TabularPolicy,
    prefix: Vec<ActionIx>,
    best: (f64, Vec<ActionIx>),
}

/// States with the probability of each.
type Mass = Vec<(StateIx, f64)>;

impl<R: RewardFunction> Search<'_, R> {
    /// Depth-first over action sequences, carrying the distribution of the state. Where one action is left to
    /// choose, it is taken without a call, so the calls nest at most log₂ of the number of sequences deep.
    fn extend(&mut self, mut states: Mass, mut value: f64) {
        let depth = self.prefix.len();
        while !states.is_empty() {
            let actions = (0..self.mdp.n_actions() as u32).map(ActionIx);
            let admissible: Vec<ActionIx> = actions.filter(|a| self.admits(&states, *a)).collect();
            let [only] = admissible[..] else {
                for a in admissible {
                    let (next, gained) = self.step(&states, a);
                    self.prefix.push(a);
                    self.extend(next, value + gained);
                    self.prefix.pop();
                }
                self.prefix.truncate(depth);
                return;
            };
            let (next, gained) = self.step(&states, only);
            self.prefix.push(only);
            (states, value) = (next, value + gained);
        }
        if value > self.best.0 {
            self.best = (value, self.prefix.clone());
        }
        self.prefix.truncate(depth);
    }

    fn admits(&self, states: &Mass, a: ActionIx) -> bool {
        let mut rows = states.iter();
        rows.all(|(s, _)| self.reference.log_prob(*s, a) > f64::NEG_INFINITY)
    }

    /// The distribution after action `a`, and E\[r\] of the step.
    fn step(&self, states: &Mass, a: ActionIx) -> (Mass, f64) {
        let mut next: Mass = Vec::new();
        let mut gained = 0.0;
        for &(s, mass) in states {
            gained += mass * self.reward.reward(s, a);
            let (to, prob) = self.mdp.successors(s, a);
            let later = to
                .iter()
                .zip(prob)
                .filter(|(t, p)| **t != StateIx::END && **p > 0.0);
            next.extend(later.map(|(t, p)| (*t, mass * p)));
        }
        next.sort_unstable_by_key(|e| e.0);
        next.dedup_by(|from, into| {
            let same = from.0 == into.0;
            if same {
                into.1 += from.1;
            }
            same
        });
        (next, gained)
    }
}
