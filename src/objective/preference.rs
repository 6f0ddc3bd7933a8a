//! Losses of pairs: Bradley–Terry with scale and offset, and its near relatives.

use std::ops::Range;

use super::pairs;
use crate::check;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::seq::{Channel, Episode, PerToken, TokenObjective};
use crate::{Error, Result};

/// (2.2), (3.1): How the scores of a response become one number z_i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readout {
    /// Σ_h: log π(y|x) from log-probabilities, Σ_h r_θ(s_h, y_h) from a token reward.
    Sum,
    /// Σ_h / H_i (SimPO).
    Mean,
    /// The last token: a sentence-level reward model.
    Last,
}

impl Readout {
    pub(super) fn read(self, row: &[f64]) -> f64 {
        match self {
            Self::Sum => row.iter().sum(),
            Self::Mean => row.iter().sum::<f64>() / row.len() as f64,
            Self::Last => row[row.len() - 1],
        }
    }

    pub(super) fn pull_back(self, g: f64, row: &mut [f64]) {
        let n = row.len();
        match self {
            Self::Sum => row.iter_mut().for_each(|v| *v += g),
            Self::Mean => row.iter_mut().for_each(|v| *v += g / n as f64),
            Self::Last => row[n - 1] += g,
        }
    }
}

/// The loss of one pair as a function of its margin m.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Link {
    /// −p log σ(m) − (1−p) log σ(−m).
    Logistic,
    /// (m − target)².
    Squared { target: f64 },
}

/// ℒ = Σ_k w_k ℓ(m_k), m_k = β[(z_w − o_w) − (z_l − o_l)] + c_k over pairs of consecutive rows (winner, loser), w_k = 1/K.
///
/// With the logistic ℓ this is the Bradley–Terry likelihood: (4.4)/(C.4) of DPO when z = log π(y|x) and
/// o = log π_ref(y|x), and reward fitting (2.2)/(C.2) when z is a reward, β = 1 and o = 0. It is one objective on purpose.
#[derive(Debug, Clone)]
pub struct BradleyTerry {
    groups: Vec<Range<usize>>,
    channel: [Channel; 1],
    readout: Readout,
    scale: f64,
    /// β(o_l − o_w) + c, one per pair.
    shift: Vec<f64>,
    /// p, the probability that the first row is preferred, one per pair.
    preference: Vec<f64>,
    weight: Vec<f64>,
    link: Link,
}

impl BradleyTerry {
    /// Any scale and row offsets o, `[2K]`.
    ///
    /// # Errors
    /// [`Error::Config`] on an odd number of rows, rows of a pair with different prompts, or β ≤ 0; [`Error::Shape`]
    /// or [`Error::NonFinite`] of the offsets.
    pub fn new(
        batch: &[Episode],
        channel: Channel,
        readout: Readout,
        scale: f64,
        offsets: &[f64],
    ) -> Result<Self> {
        let groups = pairs(batch)?;
        check::positive("beta", scale)?;
        check::rows("offset of the pairs", batch.len(), offsets)?;
        let n = groups.len();
        let shift = offsets.chunks_exact(2).map(|o| scale * (o[1] - o[0]));
        Ok(Self {
            channel: [channel],
            readout,
            scale,
            shift: shift.collect(),
            preference: vec![1.0; n],
            weight: vec![1.0 / n as f64; n],
            link: Link::Logistic,
            groups,
        })
    }

    /// DPO, (4.4)/(C.4). `reference` holds log π_ref(y|x) of every row, `[2K]`.
    ///
    /// # Errors
    /// Those of [`BradleyTerry::new`].
    pub fn dpo(batch: &[Episode], reference: &[f64], beta: f64) -> Result<Self> {
        Self::new(batch, Channel::LogProb, Readout::Sum, beta, reference)
    }

    /// Reward fitting, (2.2).
    ///
    /// # Errors
    /// Those of [`BradleyTerry::new`].
    pub fn reward(batch: &[Episode], readout: Readout) -> Result<Self> {
        let none = vec![0.0; batch.len()];
        Self::new(batch, Channel::Reward, readout, 1.0, &none)
    }

    /// IPO (Azar et al., 2024): (h − 1/(2β))², h the log-ratio margin of the *sums*. Averaging over tokens, as some codes do,
    /// is another objective.
    ///
    /// # Errors
    /// Those of [`BradleyTerry::new`].
    pub fn ipo(batch: &[Episode], reference: &[f64], beta: f64) -> Result<Self> {
        let mut it = Self::new(batch, Channel::LogProb, Readout::Sum, beta, reference)?;
        let target = 0.5 / it.scale;
        it.shift.iter_mut().for_each(|s| *s /= it.scale);
        it.scale = 1.0;
        it.link = Link::Squared { target };
        Ok(it)
    }

    /// SimPO (Meng et al., 2024): margin β(log π(y_w)/|y_w| − log π(y_l)/|y_l|) − γ, without a reference.
    ///
    /// # Errors
    /// Those of [`BradleyTerry::new`]; a γ that is not finite.
    pub fn simpo(batch: &[Episode], beta: f64, gamma: f64) -> Result<Self> {
        let none = vec![0.0; batch.len()];
        let it = Self::new(batch, Channel::LogProb, Readout::Mean, beta, &none)?;
        let shift = vec![-gamma; it.groups.len()];
        it.shifted(&shift)
    }

    /// R-DPO (Park et al., 2024): DPO's margin + α(|y_w| − |y_l|). With reward r − α|y| the Bradley–Terry margin of r is the
    /// implicit one plus this; a longer winner has thus less left to explain.
    ///
    /// # Errors
    /// Those of [`BradleyTerry::new`]; an α that is not finite.
    pub fn rdpo(batch: &[Episode], reference: &[f64], beta: f64, alpha: f64) -> Result<Self> {
        let longer = |p: &[Episode]| alpha * (p[0].len() as f64 - p[1].len() as f64);
        let shift: Vec<f64> = batch.chunks_exact(2).map(longer).collect();
        Self::dpo(batch, reference, beta)?.shifted(&shift)
    }

    /// Adds c_k to the margins, `[K]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::NonFinite`].
    pub fn shifted(mut self, shift: &[f64]) -> Result<Self> {
        check::rows("margin shift of the pairs", self.groups.len(), shift)?;
        self.shift.iter_mut().zip(shift).for_each(|(s, c)| *s += c);
        Ok(self)
    }

    /// Labels wrong with probability ε (cDPO): p = 1 − ε.
    ///
    /// # Errors
    /// [`Error::Config`] unless 0 ≤ ε < ½.
    pub fn label_smoothing(mut self, epsilon: f64) -> Result<Self> {
        if !(0.0..0.5).contains(&epsilon) {
            return Err(Error::config("label_smoothing", epsilon, "in [0, 0.5)"));
        }
        self.preference.fill(1.0 - epsilon);
        Ok(self)
    }

    /// Soft labels p_k and weights w_k in place of 1 and 1/K, `[K]` each: with all pairs and their
    /// true probabilities this is the population loss. The squared loss of IPO reads the weights only.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Config`] on p ∉ \[0, 1\] or w < 0.
    pub fn population(mut self, preference: Vec<f64>, weight: Vec<f64>) -> Result<Self> {
        check::rows("preference of the pairs", self.groups.len(), &preference)?;
        check::rows("weight of the pairs", self.groups.len(), &weight)?;
        if let Some(p) = preference.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            return Err(Error::config("preference", p, "in [0, 1]"));
        }
        if let Some(w) = weight.iter().find(|w| **w < 0.0) {
            return Err(Error::config("weight", w, ">= 0"));
        }
        (self.preference, self.weight) = (preference, weight);
        Ok(self)
    }

    /// The margins m_k of a batch, `[K]`: their sign is the accuracy, β(z − o) the implicit rewards.
    ///
    /// # Errors
    /// A channel that is missing or another number of rows.
    pub fn margins(&self, scores: &PerToken) -> Result<Vec<f64>> {
        let channel = scores.get(self.channel[0])?;
        check::rows(
            "scores of the pairs",
            2 * self.groups.len(),
            &channel.row_sums(),
        )?;
        Ok((0..self.groups.len())
            .map(|k| self.margin(k, scores))
            .collect())
    }

    fn margin(&self, k: usize, scores: &PerToken) -> f64 {
        let Range { start, .. } = self.groups[k];
        let z = |i| self.readout.read(scores.row(self.channel[0], i));
        self.scale * (z(start) - z(start + 1)) + self.shift[k]
    }
}

impl TokenObjective for BradleyTerry {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &self.channel
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let (m, w) = (self.margin(group, scores), self.weight[group]);
        let (loss, slope) = match self.link {
            Link::Logistic => logistic(m, self.preference[group]),
            Link::Squared { target } => ((m - target).powi(2), 2.0 * (m - target)),
        };
        let g = w * slope * self.scale;
        let start = self.groups[group].start;
        for (i, g) in [(start, g), (start + 1, -g)] {
            self.readout.pull_back(g, grad.row_mut(self.channel[0], i));
        }
        w * loss
    }
}

/// −p log σ(m) − (1−p) log σ(−m) and its derivative in m, σ(m) − p written without cancellation.
pub(super) fn logistic(m: f64, p: f64) -> (f64, f64) {
    let loss = -p * log_sigmoid(m) - (1.0 - p) * log_sigmoid(-m);
    (loss, (1.0 - p) * sigmoid(m) - p * sigmoid(-m))
}
