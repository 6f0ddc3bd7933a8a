//! The channels of a softmax policy, and their exact gradients.

use super::logits::Logits;
use super::{RowGradient, SoftmaxPolicy, Walk};
use crate::Result;
use crate::mdp::{StateIx, check_len};
use crate::seq::{Channel, Episode, PerToken, Ragged, TokenScorer};

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
        let walk = self.map.walk_all(batch)?;
        let (mut of_logits, mut of_values): (Vec<(Channel, &[f64])>, _) = (Vec::new(), None);
        for &c in &self.channels {
            let grad = score_grad.get(c)?;
            match c {
                Channel::FinalValue => self.pull_back_final(&walk, grad, out)?,
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
        self.pull_back_logits(&walk, &of_logits, out);
        for (&(s, _), &g) in walk.steps.iter().zip(of_values.unwrap_or_default()) {
            if g != 0.0 {
                self.logits.pull_back_value(s, g, out);
            }
        }
        Ok(())
    }

    fn pull_back_logits(&self, walk: &Walk, channels: &[(Channel, &[f64])], out: &mut RowGradient) {
        let na = self.logits.shape().1;
        let (mut log_pi, mut d) = (vec![0.0; na], vec![0.0; na]);
        for (i, &(s, a)) in walk.steps.iter().enumerate() {
            if channels.iter().all(|(_, g)| g[i] == 0.0) {
                continue;
            }
            self.write_log_probs(s, &mut log_pi);
            d.fill(0.0);
            for (c, g) in channels {
                if g[i] != 0.0 {
                    self.add_channel_grad(*c, g[i], (s, a.ix()), &log_pi, &mut d);
                }
            }
            if self.temperature != 1.0 {
                d.iter_mut().for_each(|d| *d /= self.temperature);
            }
            self.logits.pull_back(s, &d, out);
        }
    }

    /// V is 0 where the table has ended, whatever θ.
    fn pull_back_final(&self, walk: &Walk, grad: &Ragged, out: &mut RowGradient) -> Result<()> {
        check_len("final_value", walk.last.len(), grad.n_tokens())?;
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
        let walk = self.map.walk_all(batch)?;
        let mut log_pi = vec![0.0; self.logits.shape().1];
        let per_token = self.channels.iter().copied();
        let per_token = per_token.filter(|c| *c != Channel::FinalValue);
        let mut values: Vec<_> = per_token.map(|c| (c, Ragged::zeros(batch))).collect();
        for (i, &(s, a)) in walk.steps.iter().enumerate() {
            self.write_log_probs(s, &mut log_pi);
            for (c, values) in &mut values {
                values.values_mut()[i] = self.channel(*c, s, a.ix(), &log_pi);
            }
        }
        if self.channels.contains(&Channel::FinalValue) {
            values.push((Channel::FinalValue, self.final_values(&walk)));
        }
        let mut channels = values.into_iter();
        channels.try_fold(PerToken::new(batch), |all, (c, v)| all.with(c, v))
    }
}

/// Σ p (log p − log q), full support.
#[inline]
fn divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    let pairs = log_p.iter().zip(log_q);
    pairs.map(|(p, q)| p.exp() * (p - q)).sum()
}
