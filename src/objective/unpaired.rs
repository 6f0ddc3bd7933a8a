//! Losses of single responses with a binary label.

use std::ops::Range;

use super::preference::{Readout, logistic};
use super::single_rows;
use crate::check;
use crate::numerics::sigmoid;
use crate::seq::{Channel, Episode, PerToken, TokenObjective, check_batch};
use crate::{Error, Result};

/// A loss of single responses of which each is wanted or not, for [`fit_unpaired`](crate::algorithm2::fit_unpaired).
pub trait UnpairedLoss {
    /// The loss of a batch of rows (x, y), one for each label, then those of [`UnpairedLoss::more_rows`]. `reference` holds
    /// log π_ref(y|x) of every row, β > 0 is that of the fit.
    ///
    /// # Errors
    /// [`Error::Config`] of β, the batch or a parameter of the loss; [`Error::Shape`]; [`Error::NonFinite`].
    fn objective(
        &self,
        batch: &[Episode],
        desirable: &[bool],
        reference: &[f64],
        beta: f64,
    ) -> Result<Box<dyn TokenObjective>>;

    /// Rows behind those with a label, which the loss reads and never trains on: KTO's prompts with replies to other prompts.
    fn more_rows(&self, _labelled: &[Episode]) -> Vec<Episode> {
        Vec::new()
    }

    /// Refuses parameters out of their range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the parameter.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// λ − λ σ(±β(r − z₀)).
    Kto { z0: f64, good: f64, bad: f64 },
    /// −y log σ(βr) − (1−y) log σ(−βr).
    CrossEntropy,
}

/// KTO (Ethayarajh et al., 2024), PRIME (Cui et al., 2025): ℒ = (1/B) Σ_i ℓ(r_i, label_i) with r_i = log π(y_i|x_i) − log
/// π_ref(y_i|x_i), or the reward of [`Unpaired::reward`].
#[derive(Debug, Clone)]
pub struct Unpaired {
    groups: Vec<Range<usize>>,
    channel: [Channel; 1],
    readout: Readout,
    reference: Vec<f64>,
    labels: Vec<f64>,
    beta: f64,
    form: Form,
}

impl Unpaired {
    fn new(
        batch: &[Episode],
        reference: &[f64],
        labels: Vec<f64>,
        beta: f64,
        form: Form,
    ) -> Result<Self> {
        check::positive("beta", beta)?;
        check_batch(batch)?;
        check::rows("log_prob of the reference", batch.len(), reference)?;
        check::rows("labels", batch.len(), &labels)?;
        Ok(Self {
            groups: single_rows(batch.len()),
            channel: [Channel::LogProb],
            readout: Readout::Sum,
            reference: reference.to_vec(),
            labels,
            beta,
            form,
        })
    }

    /// KTO (Ethayarajh et al., 2024): λ_D(1 − σ(β(r − z₀))) for desirable rows and λ_U(1 − σ(β(z₀ − r))) for the others.
    ///
    /// z₀ estimates KL(π ‖ π_ref), see [`kto_reference_point`], and gets no gradient.
    ///
    /// # Errors
    /// [`Error::Config`] on β ≤ 0, z₀ < 0 or negative weights; [`Error::Shape`]; [`Error::NonFinite`].
    pub fn kto(
        batch: &[Episode],
        reference: &[f64],
        desirable: &[bool],
        beta: f64,
        z0: f64,
        weights: (f64, f64),
    ) -> Result<Self> {
        let (good, bad) = weights;
        for (field, v) in [("z0", z0), ("lambda_d", good), ("lambda_u", bad)] {
            check::not_negative(field, v)?;
        }
        let labels = desirable.iter().map(|d| f64::from(u8::from(*d))).collect();
        Self::new(batch, reference, labels, beta, Form::Kto { z0, good, bad })
    }

    /// Cross-entropy of outcomes in [0, 1] under σ(βr): how an implicit process reward is fitted to the
    /// outcomes of current rollouts (PRIME; Cui et al., 2025).
    ///
    /// # Errors
    /// [`Error::Config`] on β ≤ 0 or an outcome outside [0, 1]; [`Error::Shape`]; [`Error::NonFinite`].
    pub fn outcome(
        batch: &[Episode],
        reference: &[f64],
        outcomes: &[f64],
        beta: f64,
    ) -> Result<Self> {
        if let Some(bad) = outcomes.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            return Err(Error::config("outcome", bad, "in [0, 1]"));
        }
        Self::new(
            batch,
            reference,
            outcomes.to_vec(),
            beta,
            Form::CrossEntropy,
        )
    }

    /// A reward model of labels: −y log σ(r(x, y)) − (1−y) log σ(−r(x, y)), the logistic regression of a binary label on a reward. Its r
    /// is the log-odds that a reply is wanted, where (2.2) finds r up to a constant of each prompt.
    ///
    /// # Errors
    /// Those of [`Unpaired::outcome`].
    pub fn reward(batch: &[Episode], readout: Readout, desirable: &[bool]) -> Result<Self> {
        let outcomes: Vec<f64> = desirable.iter().map(|d| f64::from(u8::from(*d))).collect();
        let it = Self::outcome(batch, &vec![0.0; batch.len()], &outcomes, 1.0)?;
        Ok(Self {
            channel: [Channel::Reward],
            readout,
            ..it
        })
    }
}

/// max(0, mean log-ratio): KTO's estimate of KL(π ‖ π_ref) from log-ratios of prompts with *other* prompts' responses.
pub fn kto_reference_point(log_ratios: &[f64]) -> f64 {
    (log_ratios.iter().sum::<f64>() / log_ratios.len().max(1) as f64).max(0.0)
}

impl TokenObjective for Unpaired {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &self.channel
    }

    fn loss_grad(&self, i: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let n = self.groups.len() as f64;
        let [channel] = self.channel;
        let r = self.readout.read(scores.row(channel, i)) - self.reference[i];
        let (loss, slope) = match self.form {
            Form::CrossEntropy => {
                let (loss, slope) = logistic(self.beta * r, self.labels[i]);
                (loss, slope * self.beta)
            }
            Form::Kto { z0, good, bad } => {
                let (sign, weight) = match self.labels[i] > 0.5 {
                    true => (1.0, good),
                    false => (-1.0, bad),
                };
                let t = sign * self.beta * (r - z0);
                let slope = -weight * sign * self.beta * sigmoid(t) * sigmoid(-t);
                (weight * sigmoid(-t), slope)
            }
        };
        self.readout.pull_back(slope / n, grad.row_mut(channel, i));
        loss / n
    }
}
