//! Appendix C.2: policies that fix the whole response before seeing a state.

use crate::mdp::{ActionIx, StateIx, TabularMdp};
use crate::reward::{RewardModel, check_reward};
use crate::{Error, Result};

/// The most action sequences that [`best_predetermined`] enumerates.
pub const PREDETERMINED_LIMIT: usize = 1_000_000;

/// The best predetermined policy of an MDP.
#[derive(Debug, Clone, PartialEq)]
pub struct Predetermined {
    /// E_{x∼ρ} of the best value.
    pub value: f64,
    /// For each prompt: its state, the best sequence of H actions, and its value.
    pub per_prompt: Vec<(StateIx, Vec<ActionIx>, f64)>,
}

/// The best predetermined policy of Proposition C.2 at β = 0, by enumeration of all A^H action
/// sequences: for each prompt the sequence y_{1:H} that maximises E\[Σ_h r(s_h, y_h)\]. Mixtures of
/// sequences are no better.
///
/// # Errors
/// [`Error::Config`] when A^H > [`PREDETERMINED_LIMIT`]; [`Error::Shape`].
pub fn best_predetermined(mdp: &TabularMdp, reward: &impl RewardModel) -> Result<Predetermined> {
    check_reward(mdp, reward)?;
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
            prefix: Vec::new(),
            best: (f64::NEG_INFINITY, Vec::new()),
        };
        search.extend(&[(root, 1.0)], 0.0);
        let (value, actions) = search.best;
        out.value += p * value;
        out.per_prompt.push((root, actions, value));
    }
    Ok(out)
}

struct Search<'a, R> {
    mdp: &'a TabularMdp,
    reward: &'a R,
    prefix: Vec<ActionIx>,
    best: (f64, Vec<ActionIx>),
}

impl<R: RewardModel> Search<'_, R> {
    /// Depth-first over action sequences, carrying the distribution of the state.
    fn extend(&mut self, states: &[(StateIx, f64)], value: f64) {
        if states.is_empty() {
            if value > self.best.0 {
                self.best = (value, self.prefix.clone());
            }
            return;
        }
        for a in (0..self.mdp.n_actions() as u32).map(ActionIx) {
            let mut next: Vec<(StateIx, f64)> = Vec::new();
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
            self.prefix.push(a);
            self.extend(&next, value + gained);
            self.prefix.pop();
        }
    }
}
