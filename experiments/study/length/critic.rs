//! Critics of the study of length: a table of values, on top of what is known of a prefix before any training.

use std::cell::OnceCell;
use std::ops::Range;

use rto::Result;
use rto::policy::{Regressor, Table};
use rto::seq::{
    Channel, Episode, PerToken, Ragged, StepReport, TokenObjective, TokenReward, TokenScorer,
    Trainable,
};

/// V(prefix) = C(prefix) + v(s): C is the sum of a token reward over the prefix and never moves, v is a table that learns.
///
/// A network whose critic starts at a reward model starts at that model's score of the prefix; on a table whose states merge the score is no
/// function of the state, so that it is kept apart.
pub struct OnPrefix<'a> {
    table: Regressor<Table>,
    score: Option<&'a dyn TokenReward>,
}

impl<'a> OnPrefix<'a> {
    /// A critic of a table and, where there is one, of the token reward that C sums.
    pub fn new(table: Regressor<Table>, score: Option<&'a dyn TokenReward>) -> Self {
        Self { table, score }
    }

    /// C before each token, `[B][H_i]`.
    fn prefix(&self, batch: &[Episode]) -> Result<Option<Ragged>> {
        let Some(score) = self.score else {
            return Ok(None);
        };
        let mut sums = score.rewards(batch)?;
        for i in 0..sums.n_rows() {
            let mut so_far = 0.0;
            for r in sums.row_mut(i) {
                so_far += std::mem::replace(r, so_far);
            }
        }
        Ok(Some(sums))
    }
}

impl TokenScorer for OnPrefix<'_> {
    fn channels(&self) -> &[Channel] {
        // Replies of the study end where the table does, and nothing asks for the value after them.
        &[Channel::Value]
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        let mut scores = self.table.scores(batch)?;
        if let Some(prefix) = self.prefix(batch)? {
            lift(&mut scores, &prefix);
        }
        Ok(scores)
    }
}

impl Trainable for OnPrefix<'_> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        match self.prefix(batch)? {
            None => self.table.step(batch, objective),
            Some(prefix) => {
                let lifted = Lifted {
                    objective,
                    prefix,
                    scores: OnceCell::new(),
                };
                self.table.step(batch, &lifted)
            }
        }
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.table.set_learning_rate(learning_rate);
    }
}

/// Adds C to the values of a table.
fn lift(scores: &mut PerToken, prefix: &Ragged) {
    for i in 0..prefix.n_rows() {
        let values = scores.row_mut(Channel::Value, i).iter_mut();
        values.zip(prefix.row(i)).for_each(|(v, c)| *v += c);
    }
}

/// An objective of C + v as one of v: ∂/∂v is ∂/∂(C + v).
struct Lifted<'a> {
    objective: &'a dyn TokenObjective,
    prefix: Ragged,
    /// The scores with C, the same for all groups of a step.
    scores: OnceCell<PerToken>,
}

impl TokenObjective for Lifted<'_> {
    fn groups(&self) -> &[Range<usize>] {
        self.objective.groups()
    }

    fn channels(&self) -> &[Channel] {
        self.objective.channels()
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let scores = self.scores.get_or_init(|| {
            let mut scores = scores.clone();
            lift(&mut scores, &self.prefix);
            scores
        });
        self.objective.loss_grad(group, scores, grad)
    }
}
