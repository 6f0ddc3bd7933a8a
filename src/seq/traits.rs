//! What a model and an objective must offer each other.

use std::ops::Range;
use std::sync::Arc;

use super::{Channel, Episode, PerToken, Ragged, StreamKey};
use crate::{Result, Token};

/// A model that gives every response token of a batch its numbers.
pub trait TokenScorer {
    /// The channels of [`TokenScorer::scores`], in any order.
    fn channels(&self) -> &[Channel];

    /// The scores of a batch. Row i belongs to episode i whatever the batch it stands in.
    ///
    /// # Errors
    /// An unknown prompt or token, a response longer than the model's context, a number that is not finite.
    fn scores(&self, batch: &[Episode]) -> Result<PerToken>;
}

/// A stochastic policy π(·|s) with full support.
///
/// [`TokenScorer::scores`] gives, in [`Channel::LogProb`], the log-probabilities of *exactly* the distribution
/// that [`Policy::sample`] draws from, unless [`Policy::draw`] says otherwise. A policy may own a temperature; it is then part of π in both.
pub trait Policy: TokenScorer {
    /// One response per prompt, drawn with that prompt's key; `prompts.len() == keys.len()`. Neither the order of the
    /// batch nor the number of threads changes a response.
    ///
    /// # Errors
    /// An unknown prompt, a prompt that leaves no room for a response, lists of different lengths.
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>>;

    /// The responses of [`Policy::sample`] and, where they are drawn from another distribution q than the π that is scored (from a copy with its weights
    /// rounded, say), log q of each of their tokens, `[B][H_i]`. None, the default: they are drawn from π.
    ///
    /// Training takes π for the distribution they come from all the same, and reports how far that is off
    /// ([`SamplerGap`](crate::algorithm2::SamplerGap)).
    ///
    /// # Errors
    /// As [`Policy::sample`].
    fn draw(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
    ) -> Result<(Vec<Episode>, Option<Ragged>)> {
        Ok((self.sample(prompts, keys)?, None))
    }

    /// The response to each prompt that takes the most probable token at every step, the first of several.
    ///
    /// The baseline of ReMax (`advantage = greedy`); other training does not ask for it.
    ///
    /// # Errors
    /// As [`Policy::sample`]; the default, [`Error::Config`](crate::Error::Config): a policy that does not decode greedily.
    fn greedy(&self, _prompts: &[Arc<[Token]>]) -> Result<Vec<Episode>> {
        let must = "another one with a policy that does not decode greedily";
        Err(crate::Error::config("advantage", "greedy", must))
    }

    /// Which tokens of its own responses the policy chose, `[B][H_i]`: 1, or 0 for a token that was forced on it, such as an
    /// end-of-sentence token written at the longest length. None, the default, where all of them were chosen.
    ///
    /// A forced token is drawn from a point mass, so that its log-probability is 0 and so is the reward (4.5) on it; it may still
    /// carry a sentence's reward. Training leaves it out of the policy's loss and its normalisers, of the KL term and of the
    /// whitening of advantages.
    /// The value of the state before it stays in the loss: that state was reached by choice, and earlier tokens bootstrap from its value.
    ///
    /// # Errors
    /// An episode the policy cannot have drawn.
    fn chosen(&self, _batch: &[Episode]) -> Result<Option<Ragged>> {
        Ok(None)
    }
}

/// A loss ℒ of the scores of a batch, with its gradient.
///
/// ℒ = Σ_g ℓ_g over groups of consecutive rows. Every normaliser (1/N, 1/Σ H_i) is fixed when the objective is
/// built from the whole batch, so that micro-batching and gradient accumulation do not change ℒ.
pub trait TokenObjective {
    /// The rows evaluated together: one row, a (winner, loser) pair, a GRPO group. Disjoint, covering the batch in order.
    fn groups(&self) -> &[Range<usize>];

    /// The channels ℒ reads, which are those it has a gradient in.
    fn channels(&self) -> &[Channel];

    /// ℓ_g; *adds* ∂ℓ_g/∂score to `grad`. Only rows of group g are read and written; `scores` and `grad` hold the
    /// whole batch.
    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64;
}

/// What a gradient step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// ℒ before the step.
    pub loss: f64,
    /// ‖∇ℒ‖₂ over all parameters, before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub learning_rate: f64,
}

/// A model whose parameters can follow a gradient.
pub trait Trainable {
    /// One optimiser step on ℒ: scores of all rows, ∂ℒ/∂score, pull-back (in micro-batches where memory asks for it).
    ///
    /// # Errors
    /// Those of scoring; a loss or gradient that is not finite, in which case no parameter has changed.
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport>;

    /// Sets the learning rate of the steps to come (schedules live in the algorithms).
    fn set_learning_rate(&mut self, learning_rate: f64);
}

/// A trainable policy.
pub trait PolicyLearner: Trainable {
    /// A policy with these parameters.
    type Policy: Policy;

    /// The policy as it is now.
    fn policy(&self) -> &Self::Policy;

    /// A copy that later steps do not change: π_ref, π_{t−1}, π_dpo.
    ///
    /// # Errors
    /// When the copy does not fit in memory.
    fn snapshot(&self) -> Result<Self::Policy>;
}

/// (2.3), (4.6), (5.1): A reward per response token, r(s_h, y_h).
pub trait TokenReward {
    /// `[B][H_i]`.
    ///
    /// # Errors
    /// Those of the scorers behind it.
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged>;

    /// The named terms whose sum is [`TokenReward::rewards`], for logs.
    ///
    /// # Errors
    /// Those of [`TokenReward::rewards`].
    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        Ok(vec![("reward", self.rewards(batch)?)])
    }
}

impl<T: TokenScorer + ?Sized> TokenScorer for &T {
    fn channels(&self) -> &[Channel] {
        (**self).channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        (**self).scores(batch)
    }
}

impl<T: TokenScorer + ?Sized> TokenScorer for Arc<T> {
    fn channels(&self) -> &[Channel] {
        (**self).channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        (**self).scores(batch)
    }
}

impl<T: TokenReward + ?Sized> TokenReward for Box<T> {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        (**self).rewards(batch)
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        (**self).components(batch)
    }
}

impl<T: TokenReward + ?Sized> TokenReward for &T {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        (**self).rewards(batch)
    }

    fn components(&self, batch: &[Episode]) -> Result<Vec<(&'static str, Ragged)>> {
        (**self).components(batch)
    }
}

/// ℒ and ∂ℒ/∂score of a whole batch: phase (b) of a step, for any backend.
///
/// # Errors
/// A channel the scorer does not provide; a loss or gradient that is not finite.
pub fn loss_and_score_grad(
    objective: &dyn TokenObjective,
    scores: &PerToken,
) -> Result<(f64, PerToken)> {
    for &channel in objective.channels() {
        scores.get(channel)?;
    }
    let mut grad = scores.zeros_like();
    let mut loss = crate::numerics::CompensatedSum::default();
    for group in 0..objective.groups().len() {
        loss.add(objective.loss_grad(group, scores, &mut grad));
    }
    let loss = loss.value();
    if !loss.is_finite() {
        return Err(crate::Error::NonFinite {
            what: "the loss".into(),
            value: loss,
        });
    }
    for &channel in objective.channels() {
        let name = format!("the gradient of the loss in {}", channel.name());
        grad.get(channel)?.check_finite(&name)?;
    }
    Ok((loss, grad))
}
