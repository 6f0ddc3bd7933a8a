//! The critic of the study of length: what was paid on the prefix, times a weight, and a table of states.

use std::sync::Arc;

use rto::Result;
use rto::policy::{StateMap, Walk};
use rto::reward::{RewardFunction, TabularReward};
use rto::seq::{
    Channel, Episode, PerToken, Ragged, StepReport, TokenObjective, TokenScorer, Trainable,
    loss_and_score_grad,
};

/// V(prefix) = w C(prefix) + v(s), with C the sum of a reward over the tokens so far.
///
/// The value of RTO is a function of the state alone (w = 0); that of DPPO, which is paid at the end for all tokens, is C more (w = 1). Where states merge a
/// table of states does not know C, so that w is a parameter of its own. Both follow the gradient: v as the table of [`rto::policy::Regressor::critic`]
/// does, w over its curvature N⁻¹ Σ C² in the batch, since C grows with the length.
pub struct OnPrefix<'a> {
    map: &'a Arc<StateMap>,
    reward: &'a TabularReward,
    values: Vec<f64>,
    weight: f64,
    /// Whether w learns.
    knows: bool,
    learning_rate: f64,
}

impl<'a> OnPrefix<'a> {
    /// A critic of v = 0 and w = 0; one that does not know the prefix keeps w = 0.
    pub fn zero(
        map: &'a Arc<StateMap>,
        reward: &'a TabularReward,
        knows: bool,
        learning_rate: f64,
    ) -> Self {
        Self {
            map,
            reward,
            values: vec![0.0; map.mdp().n_states()],
            weight: 0.0,
            knows,
            learning_rate,
        }
    }

    /// The same with another w.
    pub fn with_weight(self, weight: f64) -> Self {
        Self { weight, ..self }
    }

    /// The same with the least-squares w and v of returns, `[B][H_i]`; a state that no episode meets has v = 0.
    pub fn fitted(mut self, batch: &[Episode], returns: &Ragged) -> Result<Self> {
        let walk = self.map.walk_all(batch)?;
        let prefix = self.prefix(batch, &walk);
        let n = self.values.len();
        let (mut count, mut returned, mut paid) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        for (k, (s, _)) in walk.steps.iter().enumerate() {
            let s = s.ix();
            count[s] += 1.0;
            returned[s] += returns.values()[k];
            paid[s] += prefix.values()[k];
        }
        // Within a state: w by the deviations of C and R from their means there, v by the means.
        let (mut over, mut under) = (0.0, 0.0);
        for (k, (s, _)) in walk.steps.iter().enumerate() {
            let s = s.ix();
            let c = prefix.values()[k] - paid[s] / count[s];
            over += c * (returns.values()[k] - returned[s] / count[s]);
            under += c * c;
        }
        self.weight = if under > 0.0 { over / under } else { 0.0 };
        for s in 0..n {
            self.values[s] = (returned[s] - self.weight * paid[s]) / f64::max(count[s], 1.0);
        }
        Ok(self)
    }

    /// C before each token, `[B][H_i]`.
    fn prefix(&self, batch: &[Episode], walk: &Walk) -> Ragged {
        let mut sums = Ragged::zeros(batch);
        let mut steps = walk.steps.iter();
        for i in 0..batch.len() {
            let mut so_far = 0.0;
            for (c, (s, a)) in sums.row_mut(i).iter_mut().zip(&mut steps) {
                *c = so_far;
                so_far += self.reward.reward(*s, *a);
            }
        }
        sums
    }

    fn scores_from(&self, batch: &[Episode], walk: &Walk, prefix: &Ragged) -> Result<PerToken> {
        let mut values = prefix.map(|c| self.weight * c);
        for (v, (s, _)) in values.values_mut().iter_mut().zip(&walk.steps) {
            *v += self.values[s.ix()];
        }
        PerToken::new(batch).with(Channel::Value, values)
    }
}

impl TokenScorer for OnPrefix<'_> {
    fn channels(&self) -> &[Channel] {
        // Replies of the study end where the table does, and nothing asks for the value after them.
        &[Channel::Value]
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        let walk = self.map.walk_all(batch)?;
        self.scores_from(batch, &walk, &self.prefix(batch, &walk))
    }
}

impl Trainable for OnPrefix<'_> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let walk = self.map.walk_all(batch)?;
        let prefix = self.prefix(batch, &walk);
        let scores = self.scores_from(batch, &walk, &prefix)?;
        let (loss, slopes) = loss_and_score_grad(objective, &scores)?;
        let slopes = slopes.get(Channel::Value)?.values();
        let (mut slope, mut square, mut norm) = (0.0, 0.0, 0.0);
        for ((g, c), (s, _)) in slopes.iter().zip(prefix.values()).zip(&walk.steps) {
            self.values[s.ix()] -= self.learning_rate * g;
            slope += g * c;
            square += c * c / batch.len() as f64;
            norm += g * g;
        }
        if self.knows && square > 0.0 {
            self.weight -= self.learning_rate * slope / square;
        }
        Ok(StepReport {
            loss,
            grad_norm: norm.sqrt(),
            learning_rate: self.learning_rate,
        })
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
    }
}
