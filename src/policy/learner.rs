//! Softmax policies that learn.

use super::logits::{ActorCriticTable, LogLinear, LogitTable, Logits};
use super::{Optimizer, OptimizerConfig, RowGradient, SoftmaxPolicy, exact_policy_gradient};
use crate::Result;
use crate::mdp::{Beta, Problem, StateIx, TabularPolicy};
use crate::reward::RewardFunction;
use crate::seq::{
    Episode, PolicyLearner, StepReport, TokenObjective, Trainable, loss_and_score_grad,
};

/// A softmax policy with an optimiser.
#[derive(Debug, Clone)]
pub struct SoftmaxLearner<L> {
    policy: SoftmaxPolicy<L>,
    optimizer: Optimizer,
    grad: RowGradient,
}

/// [`SoftmaxLearner`] of a [`TabularSoftmax`](super::TabularSoftmax).
pub type TabularLearner = SoftmaxLearner<LogitTable>;
/// [`SoftmaxLearner`] of a [`TabularActorCritic`](super::TabularActorCritic).
pub type TabularActorCriticLearner = SoftmaxLearner<ActorCriticTable>;
/// [`SoftmaxLearner`] of a [`LogLinearSoftmax`](super::LogLinearSoftmax).
pub type LogLinearLearner<F> = SoftmaxLearner<LogLinear<F>>;

impl<L: Logits> SoftmaxLearner<L> {
    /// A learner that starts at `policy`.
    ///
    /// # Errors
    /// As [`OptimizerConfig::check`].
    pub fn try_new(policy: SoftmaxPolicy<L>, config: OptimizerConfig) -> Result<Self> {
        let n = policy.params().len();
        Ok(Self {
            optimizer: Optimizer::try_new(config, n)?,
            grad: RowGradient::zeros(n, policy.logits.row_width()),
            policy,
        })
    }

    /// One step up V^π_β(ρ) of (3.2), with its exact gradient over all responses: no sample is drawn.
    /// The report's loss is −V^π_β(ρ).
    ///
    /// # Errors
    /// As [`exact_policy_gradient`].
    pub fn step_exact(
        &mut self,
        reward: &impl RewardFunction,
        reference: &TabularPolicy,
        beta: Beta,
    ) -> Result<StepReport> {
        let map = self.policy.map().clone();
        let table = self.policy.table()?;
        let (value, gradient) =
            exact_policy_gradient(Problem::new(map.mdp(), reference, beta), reward, &table)?;
        self.grad.clear();
        let scale = -1.0 / self.policy.temperature();
        let mut d = vec![0.0; gradient.ncols()];
        for (s, row) in gradient.rows().into_iter().enumerate() {
            if row.iter().any(|g| *g != 0.0) {
                d.iter_mut().zip(row).for_each(|(d, g)| *d = scale * g);
                let s = StateIx(s as u32);
                self.policy.logits.pull_back(s, &d, &mut self.grad);
            }
        }
        self.descend(-value)
    }

    fn descend(&mut self, loss: f64) -> Result<StepReport> {
        let params = self.policy.logits.params_mut();
        let grad_norm = self.optimizer.step_rows(params, &self.grad)?;
        Ok(StepReport {
            loss,
            grad_norm,
            learning_rate: self.optimizer.learning_rate(),
        })
    }
}

impl<L: Logits> Trainable for SoftmaxLearner<L> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let forward = self.policy.forward(batch)?;
        let scores = self.policy.scores_from(batch, &forward)?;
        let (loss, score_grad) = loss_and_score_grad(objective, &scores)?;
        self.grad.clear();
        self.policy
            .pull_back_from(batch, &forward, &score_grad, &mut self.grad)?;
        self.descend(loss)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }
}

impl<L: Logits> PolicyLearner for SoftmaxLearner<L> {
    type Policy = SoftmaxPolicy<L>;

    fn policy(&self) -> &Self::Policy {
        &self.policy
    }

    fn snapshot(&self) -> Result<Self::Policy> {
        Ok(self.policy.clone())
    }
}
