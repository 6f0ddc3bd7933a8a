//! Where V comes from.

use crate::seq::{Channel, Episode, PerToken, StepReport, TokenObjective, TokenScorer, Trainable};
use crate::{Error, Result};

/// Line 7 of Algorithm 2: V(s_h) of every response token in [`Channel::Value`], and its fit to returns.
///
/// A critic of its own is any trainable scorer with that channel (and [`Channel::FinalValue`], where truncated responses
/// are bootstrapped), so there is nothing more to implement. A critic on the policy's trunk is no `Critic` at all: it is a
/// [`PolicyLearner`](crate::seq::PolicyLearner) whose policy has the channel too, see [`CriticSlot::SharedTrunk`].
pub trait Critic: Trainable + TokenScorer {}

impl<T: Trainable + TokenScorer + ?Sized> Critic for T {}

/// Which critic a run of PPO uses.
pub enum CriticSlot<'a> {
    /// A network or table of its own, stepped after the policy with its own learning rate.
    Separate(&'a mut dyn Critic),
    /// The policy's scores have [`Channel::Value`]; one step trains both on the sum of the two losses.
    SharedTrunk,
    /// None: for the critic-free estimators of [`Advantage`](super::Advantage).
    Absent,
}

impl CriticSlot<'_> {
    /// Whether there is a critic.
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

/// V ≡ 0, never trained: with it, GAE at λ = 1 is the reward to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoCritic;

impl TokenScorer for NoCritic {
    fn channels(&self) -> &[Channel] {
        &[Channel::Value, Channel::FinalValue]
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        use crate::seq::Ragged;
        PerToken::new(batch)
            .with(Channel::Value, Ragged::zeros(batch))?
            .with(
                Channel::FinalValue,
                Ragged::zeros_like_lengths(batch.iter().map(|_| 1)),
            )
    }
}

impl Trainable for NoCritic {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let (loss, _) = crate::seq::loss_and_score_grad(objective, &self.scores(batch)?)?;
        Ok(StepReport {
            loss,
            grad_norm: 0.0,
            learning_rate: 0.0,
        })
    }

    fn set_learning_rate(&mut self, _: f64) {}
}

/// The error of a scorer that lacks a channel an algorithm needs, before anything is sampled.
pub(super) fn need(scorer: &str, channels: &[Channel], channel: Channel) -> Result<()> {
    if channels.contains(&channel) {
        return Ok(());
    }
    let given: Vec<_> = channels.iter().map(|c| c.name()).collect();
    Err(Error::config(
        format!("channels of the {scorer}"),
        given.join(", "),
        format!("a list with {}", channel.name()),
    ))
}
