//! A fixed Markov policy as a table of log-probabilities.

use ndarray::Array2;

use super::{ActionIx, SUM_TOLERANCE, StateIx};
use crate::check;
use crate::numerics::log_sum_exp;
use crate::{Error, Result};

/// π: 𝒮 → Δ(𝒜) of Section 3.1. Log-probabilities, natural logarithm, shape `[n_states, n_actions]`,
/// −∞ where π(a|s) = 0.
#[derive(Debug, Clone, PartialEq)]
pub struct TabularPolicy {
    log_prob: Array2<f64>,
}

impl TabularPolicy {
    /// From probabilities, rows summing to 1.
    ///
    /// # Errors
    /// [`Error::NotADistribution`] or [`Error::NonFinite`] naming the state.
    pub fn from_probs(probs: &Array2<f64>) -> Result<Self> {
        for (s, row) in probs.rows().into_iter().enumerate() {
            check::distribution(|| format!("policy[{s}]"), &row.to_vec())?;
        }
        Ok(Self {
            log_prob: probs.mapv(f64::ln),
        })
    }

    /// From logits: π(a|s) ∝ exp(logit). A logit of −∞ means probability 0.
    ///
    /// # Errors
    /// [`Error::NonFinite`] on NaN, +∞ or a row of −∞ only.
    pub fn from_logits(logits: Array2<f64>) -> Result<Self> {
        let mut log_prob = logits;
        for (s, mut row) in log_prob.rows_mut().into_iter().enumerate() {
            let bad = row
                .iter()
                .copied()
                .find(|x| x.is_nan() || *x == f64::INFINITY);
            let norm = log_sum_exp(&row.to_vec());
            if bad.is_some() || !norm.is_finite() {
                return Err(Error::NonFinite {
                    what: format!("logits[{s}]"),
                    value: bad.unwrap_or(norm),
                });
            }
            row -= norm;
        }
        Ok(Self { log_prob })
    }

    /// From log-probabilities that are already normalised.
    ///
    /// # Errors
    /// [`Error::NotADistribution`] naming the state whose probabilities do not sum to 1.
    pub fn from_log_probs(log_prob: Array2<f64>) -> Result<Self> {
        for (s, row) in log_prob.rows().into_iter().enumerate() {
            let sum: f64 = row.iter().map(|l| l.exp()).sum();
            if (sum - 1.0).abs() > SUM_TOLERANCE || row.iter().any(|l| l.is_nan()) {
                return Err(Error::NotADistribution {
                    what: format!("policy[{s}]"),
                    sum,
                });
            }
        }
        Ok(Self { log_prob })
    }

    /// A table whose rows are known to be normalised.
    pub(crate) fn trusted(log_prob: Array2<f64>) -> Self {
        Self { log_prob }
    }

    /// π(a|s) = 1/A.
    pub fn uniform(n_states: usize, n_actions: usize) -> Self {
        let value = -(n_actions as f64).ln();
        Self {
            log_prob: Array2::from_elem((n_states, n_actions), value),
        }
    }

    /// The number of states.
    pub fn n_states(&self) -> usize {
        self.log_prob.nrows()
    }

    /// The number of actions.
    pub fn n_actions(&self) -> usize {
        self.log_prob.ncols()
    }

    /// log π(a|s), `[n_states, n_actions]`.
    pub fn log_probs(&self) -> &Array2<f64> {
        &self.log_prob
    }

    /// log π(a|s), `[n_states, n_actions]`, without a copy.
    pub fn into_log_probs(self) -> Array2<f64> {
        self.log_prob
    }

    /// log π(a|s).
    #[inline]
    pub fn log_prob(&self, s: StateIx, a: ActionIx) -> f64 {
        self.log_prob[[s.ix(), a.ix()]]
    }

    /// π(a|s).
    #[inline]
    pub fn prob(&self, s: StateIx, a: ActionIx) -> f64 {
        self.log_prob(s, a).exp()
    }

    /// log π(·|s) as a slice.
    #[inline]
    pub(crate) fn row(&self, s: usize) -> &[f64] {
        let n = self.n_actions();
        let table = self
            .log_prob
            .as_slice()
            .expect("policies are stored in row order");
        &table[s * n..(s + 1) * n]
    }

    /// π(·|s), `[n_actions]`.
    pub fn probs(&self, s: StateIx) -> Vec<f64> {
        self.row(s.ix()).iter().map(|l| l.exp()).collect()
    }

    /// KL(π(·|s) ‖ other(·|s)) in nats, with 0·log 0 = 0; +∞ outside the support of `other`.
    pub fn kl_at(&self, other: &Self, s: StateIx) -> f64 {
        kl_row(self.row(s.ix()), other.row(s.ix()))
    }

    /// Refuses a policy of the wrong shape.
    pub(crate) fn check_shape(&self, what: &str, n_states: usize, n_actions: usize) -> Result<()> {
        if self.log_prob.dim() == (n_states, n_actions) {
            return Ok(());
        }
        Err(Error::Shape {
            what: format!("{what} ({} x {} values)", self.n_states(), self.n_actions()),
            expected: n_states * n_actions,
            got: self.log_prob.len(),
        })
    }
}

/// Σ p (log p − log q) for log-probability rows, 0·log 0 = 0.
pub(crate) fn kl_row(log_p: &[f64], log_q: &[f64]) -> f64 {
    let pairs = log_p
        .iter()
        .zip(log_q)
        .filter(|(p, _)| **p > f64::NEG_INFINITY);
    pairs.map(|(p, q)| p.exp() * (p - q)).sum()
}
