//! Preferences that no reward explains: the KL-regularised Nash policy (Munos et al., arXiv 2312.00886).

use nalgebra::{DMatrix, DVector};

use super::evaluation::{kl, normalise};
use crate::check;
use crate::mdp::Beta;
use crate::numerics::log_sum_exp;
use crate::{Error, Result};

/// A game of preferences P(y ≻ y′), `[n, n]` row by row, P(y ≻ y′) + P(y′ ≻ y) = 1, with π_ref and β > 0.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceGame {
    preference: DMatrix<f64>,
    log_reference: Vec<f64>,
    beta: f64,
}

impl PreferenceGame {
    /// A checked game.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Config`] naming the entry that is no probability or does not complement its mirror image;
    /// [`Error::NotADistribution`] for π_ref; β = 0.
    pub fn try_new(preference: &[f64], reference: &[f64], beta: Beta) -> Result<Self> {
        let n = reference.len();
        check::len("P", n * n, preference.len())?;
        for i in 0..n {
            for j in 0..=i {
                let (p, q) = (preference[i * n + j], preference[j * n + i]);
                if !((0.0..=1.0).contains(&p) && (p + q - 1.0).abs() <= 1e-12) {
                    let must = format!("a probability that sums to 1 with P[{j}][{i}] = {q}");
                    return Err(Error::config(format!("P[{i}][{j}]"), p, must));
                }
            }
        }
        let sum: f64 = reference.iter().sum();
        if (sum - 1.0).abs() > 1e-9 || reference.iter().any(|&p| p.is_nan() || p <= 0.0) {
            return Err(Error::NotADistribution {
                what: "ref".into(),
                sum,
            });
        }
        if beta.get() <= 0.0 {
            return Err(Error::config("beta", beta.get(), "a positive number"));
        }
        Ok(Self {
            preference: DMatrix::from_row_slice(n, n, preference),
            log_reference: reference.iter().map(|p| p.ln()).collect(),
            beta: beta.get(),
        })
    }

    /// P(y ≻ π) = Σ π(y′) P(y ≻ y′).
    fn wins(&self, log_policy: &[f64]) -> DVector<f64> {
        &self.preference
            * DVector::from_iterator(log_policy.len(), log_policy.iter().map(|u| u.exp()))
    }

    /// The best response to π: ∝ π_ref e^{P(·≻π)/β}. IPO against data from μ is the best response to μ.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn best_response(&self, log_policy: &[f64]) -> Result<Vec<f64>> {
        check::len("policy", self.log_reference.len(), log_policy.len())?;
        let wins = self.wins(log_policy);
        Ok(normalise(
            self.log_reference
                .iter()
                .zip(wins.iter())
                .map(|(u, p)| u + p / self.beta)
                .collect(),
        ))
    }

    /// β log Σ π_ref e^{P(·≻π)/β} − (½ − β KL(π‖π_ref)) ≥ 0: what the best response gains over π; 0 at the Nash policy alone.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn exploitability(&self, log_policy: &[f64]) -> Result<f64> {
        check::len("policy", self.log_reference.len(), log_policy.len())?;
        let wins = self.wins(log_policy);
        let weights: Vec<f64> = self
            .log_reference
            .iter()
            .zip(wins.iter())
            .map(|(u, p)| u + p / self.beta)
            .collect();
        Ok(self.beta * log_sum_exp(&weights)
            - (0.5 - self.beta * kl(log_policy, &self.log_reference)))
    }

    /// log π of the Nash policy, the one π with π ∝ π_ref e^{P(·≻π)/β}: damped best responses, then Newton steps.
    ///
    /// # Errors
    /// [`Error::NotConverged`].
    pub fn nash(&self) -> Result<Vec<f64>> {
        let n = self.log_reference.len();
        let mut u = self.log_reference.clone();
        for _ in 0..2000 {
            let response = self.best_response(&u)?;
            let rate = 0.5 * self.beta.min(1.0);
            u = normalise(
                u.iter()
                    .zip(&response)
                    .map(|(a, b)| (1.0 - rate) * a + rate * b)
                    .collect(),
            );
        }
        let mut residual = f64::INFINITY;
        for _ in 0..50 {
            let response = self.best_response(&u)?;
            let gap = DVector::from_iterator(n, u.iter().zip(&response).map(|(a, b)| a - b));
            residual = gap.amax();
            if residual < 1e-14 {
                break;
            }
            // d best response = (I − 1π'ᵀ) P (diag π − ππᵀ) du/β for normalised u; constants are fixed by + 11ᵀ.
            let pi: Vec<f64> = u.iter().map(|u| u.exp()).collect();
            let moved = &self.preference
                * DMatrix::from_fn(n, n, |i, j| pi[i] * (f64::from(u8::from(i == j)) - pi[j]))
                / self.beta;
            let mean = DMatrix::from_fn(n, n, |_, j| {
                (0..n)
                    .map(|k| response[k].exp() * moved[(k, j)])
                    .sum::<f64>()
            });
            let jacobian = DMatrix::identity(n, n) - moved + mean;
            let Some(step) = jacobian.lu().solve(&gap) else {
                break;
            };
            u = normalise(u.iter().zip(step.iter()).map(|(u, s)| u - s).collect());
        }
        if residual < 1e-12 {
            return Ok(u);
        }
        Err(Error::NotConverged {
            what: "the Nash policy".into(),
            iterations: 50,
            residual,
        })
    }
}
