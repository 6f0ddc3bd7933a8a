//! The channels of a softmax policy, and their exact gradients.

use super::logits::Logits;
use super::{RowGradient, SoftmaxPolicy, Walk};
use crate::Result;
use crate::check;
use crate::mdp::StateIx;
use crate::seq::{Channel, Episode, PerToken, Ragged, TokenScorer};

/// What a forward pass leaves for the backward one.
pub(super) struct Forward {
    walk: Walk,
    /// log π(·|s_h), `[Σ H_i, A]`.
    log_pi: Vec<f64>,
}

impl<L: Logits> SoftmaxPolicy<L> {
    fn reference_row(&self, s: StateIx) -> &[f64] {
        let reference = self.reference.as_ref();
        reference
            .expect("KL channels come with a reference")
            .row(s.ix())
    }

    fn value(&self, s: StateIx) -> f64 {
        let value = self.logits.value(s);
        value.expect("value channels come with values")
    }

    /// One channel at one pair, from log π(·|s).
    #[inline]
    fn channel(&self, channel: Channel, s: StateIx, a: usize, log_pi: &[f64]) -> f64 {
        match channel {
            Channel::LogProb => log_pi[a],
            Channel::Value => self.value(s),
            Channel::Entropy => -log_pi.iter().map(|l| l.exp() * l).sum::<f64>(),
            Channel::KlToReference => divergence(log_pi, self.reference_row(s)),
            Channel::KlFromReference => divergence(self.reference_row(s), log_pi),
            _ => unreachable!("a policy has no {} channel", channel.name()),
        }
    }

    /// Adds g · ∂channel/∂(z/T) at one pair to `d`, `[A]`.
    #[inline]
    fn add_channel_grad(
        &self,
        channel: Channel,
        g: f64,
        (s, a): (StateIx, usize),
        log_pi: &[f64],
        d: &mut [f64],
    ) {
        match channel {
            Channel::LogProb => {
                d.iter_mut()
                    .zip(log_pi)
                    .for_each(|(d, l)| *d -= g * l.exp());
                d[a] += g;
            }
            Channel::Entropy => {
                let entropy = self.channel(channel, s, a, log_pi);
                for (d, l) in d.iter_mut().zip(log_pi) {
                    *d -= g * l.exp() * (l + entropy);
                }
            }
            Channel::KlToReference => {
                let kl = self.channel(channel, s, a, log_pi);
                for ((d, l), q) in d.iter_mut().zip(log_pi).zip(self.reference_row(s)) {
                    *d += g * l.exp() * (l - q - kl);
                }
            }
            Channel::KlFromReference => {
                for ((d, l), q) in d.iter_mut().zip(log_pi).zip(self.reference_row(s)) {
                    *d += g * (l.exp() - q.exp());
                }
            }
            _ => {}
        }
    }

    /// Adds Σ ∂ℒ/∂score · ∂score/∂θ to `out`.
    ///
    /// # Errors
    /// As [`StateMap::walk`](super::StateMap::walk); [`crate::Error::Shape`] when the gradient belongs to another batch.
    pub fn pull_back(
        &self,
        batch: &[Episode],
        score_grad: &PerToken,
        out: &mut RowGradient,
    ) -> Result<()> {
        let forward = self.forward(batch)?;
        self.pull_back_from(batch, &forward, score_grad, out)
    }

    /// [`SoftmaxPolicy::pull_back`] of a forward pass with the same parameters.
    pub(super) fn pull_back_from(
        &self,
        batch: &[Episode],
        forward: &Forward,
        score_grad: &PerToken,
        out: &mut RowGradient,
    ) -> Result<()> {
        let walk = &forward.walk;
        let (mut of_logits, mut of_values): (Vec<(Channel, &[f64])>, _) = (Vec::new(), None);
        for &c in &self.channels {
            let grad = score_grad.get(c)?;
            match c {
                Channel::FinalValue => self.pull_back_final(walk, grad, out)?,
                Channel::Value => {
                    grad.check_fits(c.name(), batch)?;
                    of_values = Some(grad.values());
                }
                _ => {
                    grad.check_fits(c.name(), batch)?;
                    of_logits.push((c, grad.values()));
                }
            }
        }
        self.pull_back_logits(forward, &of_logits, out);
        for (&(s, _), &g) in walk.steps.iter().zip(of_values.unwrap_or_default()) {
            if g != 0.0 {
                self.logits.pull_back_value(s, g, out);
            }
        }
        Ok(())
    }

    fn pull_back_logits(
        &self,
        forward: &Forward,
        channels: &[(Channel, &[f64])],
        out: &mut RowGradient,
    ) {
        let na = self.logits.shape().1;
        let mut d = vec![0.0; na];
        let rows = forward.log_pi.chunks_exact(na);
        for (i, (&(s, a), log_pi)) in forward.walk.steps.iter().zip(rows).enumerate() {
            if channels.iter().all(|(_, g)| g[i] == 0.0) {
                continue;
            }
            d.fill(0.0);
            for (c, g) in channels {
                if g[i] != 0.0 {
                    self.add_channel_grad(*c, g[i], (s, a.ix()), log_pi, &mut d);
                }
            }
            if self.temperature != 1.0 {
                d.iter_mut().for_each(|d| *d /= self.temperature);
            }
            self.logits.pull_back(s, &d, out);
        }
    }

    /// log π(·|s_h) of all tokens, once for scores and gradient of a step.
    pub(super) fn forward(&self, batch: &[Episode]) -> Result<Forward> {
        let walk = self.map.walk_all(batch)?;
        let na = self.logits.shape().1;
        let mut log_pi = vec![0.0; walk.steps.len() * na];
        for (&(s, _), row) in walk.steps.iter().zip(log_pi.chunks_exact_mut(na)) {
            self.write_log_probs(s, row);
        }
        Ok(Forward { walk, log_pi })
    }

    /// The scores of a forward pass.
    pub(super) fn scores_from(&self, batch: &[Episode], forward: &Forward) -> Result<PerToken> {
        let na = self.logits.shape().1;
        let mut channels = self.channels.iter();
        channels.try_fold(PerToken::new(batch), |all, &c| {
            if c == Channel::FinalValue {
                return all.with(c, self.final_values(&forward.walk));
            }
            let mut values = Ragged::zeros(batch);
            let rows = forward
                .walk
                .steps
                .iter()
                .zip(forward.log_pi.chunks_exact(na));
            for (v, (&(s, a), log_pi)) in values.values_mut().iter_mut().zip(rows) {
                *v = self.channel(c, s, a.ix(), log_pi);
            }
            all.with(c, values)
        })
    }

    /// V is 0 where the table has ended, whatever θ.
    fn pull_back_final(&self, walk: &Walk, grad: &Ragged, out: &mut RowGradient) -> Result<()> {
        check::len("final_value", walk.last.len(), grad.n_tokens())?;
        for (&s, &g) in walk.last.iter().zip(grad.values()) {
            if s != StateIx::END && g != 0.0 {
                self.logits.pull_back_value(s, g, out);
            }
        }
        Ok(())
    }

    fn final_values(&self, walk: &Walk) -> Ragged {
        let value = |s: &StateIx| match *s {
            StateIx::END => [0.0],
            s => [self.value(s)],
        };
        Ragged::from_rows(walk.last.iter().map(value))
    }
}

impl<L: Logits> TokenScorer for SoftmaxPolicy<L> {
    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scores_from(batch, &self.forward(batch)?)
    }
}

/// Σ p (log p − log q), full support.
#[inline]
fn divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    let pairs = log_p.iter().zip(log_q);
    pairs.map(|(p, q)| p.exp() * (p - q)).sum()
}
