//! Ragged arrays of one number per response token.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Episode;
use crate::{Error, Result};

/// What a number per token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Channel {
    /// log π(y_h | s_h), natural logarithm.
    LogProb,
    /// V(s_h), a critic on a shared trunk or a network of its own.
    Value,
    /// V(s_{H_i+1}), *one* number per row: the value of the final state, read only where a truncated response is bootstrapped.
    FinalValue,
    /// r_θ(s_h, y_h), or r_φ(x, y) of a sentence-level model at the last token and 0 elsewhere.
    Reward,
    /// Entropy of π(·|s_h) in nats.
    Entropy,
    /// KL(π(·|s_h) ‖ π_ref(·|s_h)) in nats, exact over the vocabulary; the reference is given when the model is built.
    KlToReference,
    /// KL(π_ref(·|s_h) ‖ π(·|s_h)) in nats, exact over the vocabulary (TDPO).
    KlFromReference,
}

impl Channel {
    /// The name used in messages and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogProb => "log_prob",
            Self::Value => "value",
            Self::FinalValue => "final_value",
            Self::Reward => "reward",
            Self::Entropy => "entropy",
            Self::KlToReference => "kl_to_reference",
            Self::KlFromReference => "kl_from_reference",
        }
    }
}

/// One number per token, `[B][H_i]`, without padding.
#[derive(Debug, Clone, PartialEq)]
pub struct Ragged {
    /// Row i is `values[offsets[i]..offsets[i + 1]]`.
    offsets: Arc<[usize]>,
    values: Vec<f64>,
}

impl Ragged {
    /// Zeros with one row per episode.
    pub fn zeros(batch: &[Episode]) -> Self {
        Self::zeros_like_lengths(batch.iter().map(Episode::len))
    }

    /// Zeros with rows of given lengths.
    pub fn zeros_like_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        for n in lengths {
            offsets.push(offsets[offsets.len() - 1] + n);
        }
        let total = offsets[offsets.len() - 1];
        Self {
            offsets: offsets.into(),
            values: vec![0.0; total],
        }
    }

    /// From rows.
    pub fn from_rows<R: AsRef<[f64]>>(rows: impl IntoIterator<Item = R>) -> Self {
        let (mut offsets, mut values) = (vec![0], Vec::new());
        for row in rows {
            values.extend_from_slice(row.as_ref());
            offsets.push(values.len());
        }
        Self {
            offsets: offsets.into(),
            values,
        }
    }

    /// B.
    pub fn n_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Σ H_i.
    pub fn n_tokens(&self) -> usize {
        self.values.len()
    }

    /// Row i, `[H_i]`.
    #[inline]
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Row i, `[H_i]`.
    #[inline]
    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.values[self.offsets[i]..self.offsets[i + 1]]
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.offsets.windows(2).map(|w| &self.values[w[0]..w[1]])
    }

    /// All rows end to end, `[Σ H_i]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// All rows end to end, `[Σ H_i]`.
    pub fn values_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// The row starts, `[B + 1]`.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Whether the rows have the lengths of another array's.
    pub fn same_shape(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.offsets, &other.offsets) || self.offsets == other.offsets
    }

    /// A copy with every number passed through `f`.
    pub fn map(&self, f: impl FnMut(f64) -> f64) -> Self {
        Self {
            offsets: self.offsets.clone(),
            values: self.values.iter().copied().map(f).collect(),
        }
    }

    /// Number by number with another array of the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `what` when the shapes differ.
    pub fn zip(
        &self,
        what: &str,
        other: &Self,
        mut f: impl FnMut(f64, f64) -> f64,
    ) -> Result<Self> {
        self.check_same_shape(what, other)?;
        let values = self.values.iter().zip(&other.values);
        Ok(Self {
            offsets: self.offsets.clone(),
            values: values.map(|(a, b)| f(*a, *b)).collect(),
        })
    }

    /// A copy of some rows, in the order given.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self::from_rows(rows.iter().map(|&i| self.row(i)))
    }

    /// Σ_h over each row, `[B]`.
    pub fn row_sums(&self) -> Vec<f64> {
        self.rows().map(|r| r.iter().sum()).collect()
    }

    /// Refuses an array of another shape, naming the first row that differs.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn check_same_shape(&self, what: &str, other: &Self) -> Result<()> {
        if self.same_shape(other) {
            return Ok(());
        }
        other.check_lengths(what, self.rows().map(<[f64]>::len))
    }

    /// Refuses rows of other lengths than these.
    fn check_lengths(
        &self,
        what: &str,
        expected: impl ExactSizeIterator<Item = usize>,
    ) -> Result<()> {
        if expected.len() != self.n_rows() {
            return Err(shape(
                format!("{what}: rows"),
                expected.len(),
                self.n_rows(),
            ));
        }
        let mut pairs = expected.zip(self.rows().map(<[f64]>::len)).enumerate();
        match pairs.find(|(_, (expected, got))| expected != got) {
            None => Ok(()),
            Some((i, (expected, got))) => {
                Err(shape(format!("{what}: tokens of row {i}"), expected, got))
            }
        }
    }

    /// Refuses an array that does not have one number per response token.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the row.
    pub fn check_fits(&self, what: &str, batch: &[Episode]) -> Result<()> {
        self.check_lengths(what, batch.iter().map(Episode::len))
    }

    /// Refuses NaN and infinities.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming row and token.
    pub fn check_finite(&self, what: &str) -> Result<()> {
        for (i, row) in self.rows().enumerate() {
            if let Some(h) = row.iter().position(|v| !v.is_finite()) {
                return Err(Error::NonFinite {
                    what: format!("{what} of row {i}, token {h}"),
                    value: row[h],
                });
            }
        }
        Ok(())
    }
}

fn shape(what: String, expected: usize, got: usize) -> Error {
    Error::Shape {
        what,
        expected,
        got,
    }
}

/// The scores of a batch: one or more channels over the same rows.
///
/// Every channel is `[B][H_i]` but [`Channel::FinalValue`], which is `[B][1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PerToken {
    lengths: Arc<[usize]>,
    channels: BTreeMap<Channel, Ragged>,
}

impl PerToken {
    /// No channel yet, for a batch.
    pub fn new(batch: &[Episode]) -> Self {
        Self {
            lengths: batch.iter().map(Episode::len).collect(),
            channels: BTreeMap::new(),
        }
    }

    /// Zeros in the same channels and shapes: where a gradient is collected.
    pub fn zeros_like(&self) -> Self {
        let zeros = |(c, r): (&Channel, &Ragged)| (*c, r.map(|_| 0.0));
        Self {
            lengths: self.lengths.clone(),
            channels: self.channels.iter().map(zeros).collect(),
        }
    }

    /// Adds (or replaces) a channel.
    ///
    /// # Errors
    /// [`Error::Shape`] when rows do not fit the batch; [`Error::NonFinite`] on NaN or an infinity: nothing
    /// that is not a number crosses the seam.
    pub fn with(mut self, channel: Channel, values: Ragged) -> Result<Self> {
        let one = channel == Channel::FinalValue;
        let lengths = self.lengths.iter().map(|&n| if one { 1 } else { n });
        values.check_lengths(channel.name(), lengths)?;
        values.check_finite(channel.name())?;
        self.channels.insert(channel, values);
        Ok(self)
    }

    /// B.
    pub fn n_rows(&self) -> usize {
        self.lengths.len()
    }

    /// H_i of every row, `[B]`.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The channels present, in a fixed order.
    pub fn channels(&self) -> impl Iterator<Item = Channel> + '_ {
        self.channels.keys().copied()
    }

    /// A channel.
    ///
    /// # Errors
    /// [`Error::Config`] when the scorer did not provide it.
    pub fn get(&self, channel: Channel) -> Result<&Ragged> {
        self.channels.get(&channel).ok_or_else(|| {
            Error::config(
                format!("channel {}", channel.name()),
                "nothing",
                "given by the scorer",
            )
        })
    }

    /// Row i of a channel. For objectives, whose channels were checked by [`TokenObjective::channels`](super::TokenObjective::channels).
    ///
    /// # Panics
    /// If the channel is absent.
    #[inline]
    pub fn row(&self, channel: Channel, i: usize) -> &[f64] {
        self.channels[&channel].row(i)
    }

    /// Row i of a channel, to add a gradient to.
    ///
    /// # Panics
    /// If the channel is absent.
    #[inline]
    pub fn row_mut(&mut self, channel: Channel, i: usize) -> &mut [f64] {
        let values = self.channels.get_mut(&channel);
        values.expect("a channel the objective declared").row_mut(i)
    }

    /// Takes one channel out.
    pub fn take(&mut self, channel: Channel) -> Option<Ragged> {
        self.channels.remove(&channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seq::Finish;

    fn batch(lengths: &[usize]) -> Vec<Episode> {
        let episode = |&n: &usize| Episode::try_new([7].into(), vec![1; n], Finish::Length);
        lengths.iter().map(episode).map(Result::unwrap).collect()
    }

    #[test]
    fn rows_keep_their_place() {
        let r = Ragged::from_rows([vec![1.0, 2.0], vec![3.0], vec![]]);
        assert_eq!((r.n_rows(), r.n_tokens()), (3, 3));
        assert_eq!(r.row(1), [3.0]);
        assert_eq!(r.row_sums(), [3.0, 3.0, 0.0]);
        assert_eq!(r.select(&[1, 0]).values(), [3.0, 1.0, 2.0]);
        assert_eq!(Ragged::from_rows(r.rows()), r);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (b, c) = (batch(&[2, 1]), Channel::LogProb);
        let short = Ragged::from_rows([vec![0.0, 0.0], vec![0.0, 0.0]]);
        let said = PerToken::new(&b).with(c, short).unwrap_err().to_string();
        assert_eq!(said, "log_prob: tokens of row 1: expected 1 values, got 2");
        let nan = Ragged::from_rows([vec![0.0, f64::NAN], vec![0.0]]);
        let said = PerToken::new(&b).with(c, nan).unwrap_err().to_string();
        assert!(
            said.starts_with("log_prob of row 0, token 1 is not finite"),
            "{said}"
        );
        let fewer = Ragged::from_rows([vec![0.0, 0.0]]);
        assert!(PerToken::new(&b).with(c, fewer).is_err());
        assert!(PerToken::new(&b).get(c).is_err());
        let last = Ragged::from_rows([[1.0], [2.0]]);
        assert!(
            PerToken::new(&b)
                .with(Channel::FinalValue, last.clone())
                .is_ok()
        );
        assert!(PerToken::new(&b).with(Channel::Value, last).is_err());
    }

    #[test]
    fn a_response_without_a_token_is_refused() {
        let said = Episode::try_new([1].into(), vec![], Finish::Eos).unwrap_err();
        assert!(said.to_string().contains("at least one token"));
    }
}
