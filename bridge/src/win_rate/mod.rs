//! Win rates between methods, as in Table 1 of the paper, with what they are worth.
//!
//! Every method answers the same prompts, once or several times, and each answer has a score. At prompt p the
//! **preference** for method i over j is
//!
//! w_p = mean over the pairs (a of i, b of j) of 1{score a > score b} + ½·1{score a = score b}   ∈ [0, 1],
//!
//! and the win rate is θ̂ = (1/n) Σ_p w_p. Prompts are independent; answers to one prompt are not treated so.
//!
//! | | what it is |
//! |---|---|
//! | interval | Wilson's (1927) score interval at the effective sample size n/D, see [`interval`] |
//! | significance | the exact two-sided sign test on the prompts with w_p ≠ ½, see [`sign_test`]; Holm's (1979) correction over the pairs of a matrix |
//! | length-controlled | the win rate that a logistic regression expects at equal lengths, see [`length_controlled`] |
//!
//! One run's interval is over prompts, for the policies as trained; [`over_seeds`] gives intervals over training runs.
//! No interval leaves the numbers that are possible: win rates lie in [0, 1], lengths and KL divergences at or above 0.
//!
//! A judge that prefers one of two texts gives preferences directly: [`Comparison::try_new`] and [`Matrix::try_new`].
//!
//! ```
//! use rto_bridge::win_rate::{Answer, Contestant, WinRates};
//!
//! // Two methods on forty prompts; the first is better on thirty of them.
//! let answers = |better: fn(usize) -> bool| -> Vec<Vec<Answer>> {
//!     let answer = |p| Answer { score: f64::from(u8::from(better(p))), length: 9.0, kl: None };
//!     (0..40).map(|p| vec![answer(p)]).collect()
//! };
//! let rates = WinRates::try_new(&[
//!     Contestant { name: "rto".into(), prompts: answers(|p| p < 30) },
//!     Contestant { name: "sft".into(), prompts: answers(|p| p >= 30) },
//! ])?;
//! let c = rates.get(0, 1).expect("two methods");
//! assert_eq!((c.rate.value, c.won_tied_lost), (0.75, [30, 0, 10]));
//! assert!(c.rate.low > 0.59 && c.rate.high < 0.87 && c.p_value < 0.01);
//! # Ok::<(), rto_bridge::Error>(())
//! ```

mod length;
mod matrix;
mod seeds;
mod significance;

use crate::{Error, Result};
use statrs::distribution::{ContinuousCDF, StudentsT};

pub use length::length_controlled;
pub use matrix::Matrix;
pub use seeds::{OverSeeds, over_seeds};
pub use significance::{holm, sign_test};

/// The 97.5% point of the normal distribution: all intervals here are at 95%.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// What the oracle gives it; higher is better.
    pub score: f64,
    /// Tokens (or characters, the same for all).
    pub length: f64,
    /// log π − log π_ref of the answer, where known; its mean estimates KL(π‖π_ref).
    pub kl: Option<f64>,
}

/// A method with all its answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Contestant {
    /// The name that tables show.
    pub name: String,
    /// One or more answers per prompt; prompt p is the same for every method.
    pub prompts: Vec<Vec<Answer>>,
}

/// A number with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// The same of a number that cannot be negative: what lies below zero is cut off, which costs no coverage.
    pub fn at_least_zero(self) -> Self {
        // `max` would turn NaN, a number that is not there, into zero.
        let cut = |v: f64| if v < 0.0 { 0.0 } else { v };
        Self {
            value: cut(self.value),
            low: cut(self.low),
            high: cut(self.high),
        }
    }
}

/// One method on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The method.
    pub name: String,
    /// Mean score over prompts, with Student's t interval (no width from a single prompt).
    pub score: Estimate,
    /// Mean length; the interval ends at 0.
    pub length: Estimate,
    /// Mean KL, where every answer has one; the interval ends at 0, and so does an estimate that noise has put below.
    pub kl: Option<Estimate>,
}

/// Row method against column method.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Prompts.
    pub prompts: usize,
    /// Prompts with w_p > ½, = ½, < ½.
    pub won_tied_lost: [usize; 3],
    /// θ̂ with its interval.
    pub rate: Estimate,
    /// The p-value of the exact sign test of θ = ½.
    pub p_value: f64,
    /// The same, corrected for the number of pairs in the matrix; of a single comparison, `p_value`.
    pub p_holm: f64,
    /// The win rate at equal lengths; `None` where lengths decide every prompt, or all go one way, so that nothing can be estimated.
    pub length_controlled: Option<Estimate>,
    /// Mean of length(row) − length(column).
    pub length_difference: f64,
}

/// Table 1 with what stands beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct WinRates {
    /// The means of each method, in the order given.
    pub methods: Vec<Summary>,
    /// Every method against every other.
    pub matrix: Matrix,
}

impl WinRates {
    /// Compares every method with every other.
    ///
    /// # Errors
    /// [`Error::Request`] naming the method and prompt: no prompts, another number of prompts than the first method, a
    /// prompt without an answer, a number that is not finite, a negative length.
    pub fn try_new(methods: &[Contestant]) -> Result<Self> {
        check(methods)?;
        let mut pairs = Vec::new();
        for (row, a) in methods.iter().enumerate() {
            for (column, b) in methods.iter().enumerate().skip(row + 1) {
                let [w, lengths] = preferences(a, b);
                pairs.push((row, column, Comparison::try_new(&w, &lengths)?));
            }
        }
        let names = methods.iter().map(|m| m.name.clone()).collect();
        Ok(Self {
            methods: methods.iter().map(summary).collect(),
            matrix: Matrix::try_new(names, pairs)?,
        })
    }

    /// Row beats column; `None` on the diagonal.
    ///
    /// # Panics
    /// If there is no such method.
    pub fn get(&self, row: usize, column: usize) -> Option<&Comparison> {
        self.matrix.get(row, column)
    }
}

impl Comparison {
    /// A comparison from preferences w_p ∈ [0, 1] and the length differences of the same prompts.
    ///
    /// # Errors
    /// [`Error::Request`]: no prompt, a preference outside [0, 1], a length difference that is not finite, or not as
    /// many of one as of the other.
    pub fn try_new(preferences: &[f64], length_differences: &[f64]) -> Result<Self> {
        let (n, m) = (preferences.len(), length_differences.len());
        if n == 0 || n != m {
            let why = format!(
                "found {n} preferences and {m} length differences, expected as many of both and at least one"
            );
            return Err(Error::request("win rate", why));
        }
        let outside = |w: &&f64| !(0.0..=1.0).contains(*w);
        if let Some(w) = preferences.iter().find(outside) {
            let why = format!("found a preference of {w}, expected a number in [0, 1]");
            return Err(Error::request("win rate", why));
        }
        if let Some(d) = length_differences.iter().find(|d| !d.is_finite()) {
            let why = format!("found a length difference of {d}, expected a finite number");
            return Err(Error::request("win rate", why));
        }
        let count = |keep: fn(&f64) -> bool| preferences.iter().filter(|w| keep(w)).count();
        let won_tied_lost = [
            count(|w| *w > 0.5),
            count(|w| *w == 0.5),
            count(|w| *w < 0.5),
        ];
        let p_value = sign_test(won_tied_lost[0], won_tied_lost[2]);
        Ok(Self {
            prompts: n,
            won_tied_lost,
            rate: interval(preferences),
            p_value,
            p_holm: p_value,
            length_controlled: length_controlled(preferences, length_differences),
            length_difference: mean(length_differences),
        })
    }

    /// The same comparison of column against row.
    pub fn reversed(&self) -> Self {
        let [won, tied, lost] = self.won_tied_lost;
        let turn = |e: Estimate| Estimate {
            value: 1.0 - e.value,
            low: 1.0 - e.high,
            high: 1.0 - e.low,
        };
        Self {
            won_tied_lost: [lost, tied, won],
            rate: turn(self.rate),
            length_controlled: self.length_controlled.map(turn),
            length_difference: -self.length_difference,
            ..self.clone()
        }
    }
}

/// θ̂ and its 95% interval from preferences w_p ∈ [0, 1] of independent prompts.
///
/// With θ̂ = (1/n) Σ w_p, z the normal quantile and the design effect
///
/// D = (Σ (w_p − θ̂)² + z² θ̂(1−θ̂)) / (n θ̂(1−θ̂) + z² θ̂(1−θ̂))   (1 where θ̂ is 0 or 1),
///
/// it is Wilson's interval at m = n/D: (θ̂ + z²/2m ± z √(θ̂(1−θ̂)/m + z²/4m²)) / (1 + z²/m). Without ties and with one
/// answer per prompt D = 1, the textbook interval. Ties and several answers make D < 1; a score interval at an effective
/// sample size is the usual choice for clustered proportions (Dean and Pagano 2015). The z² terms, ours, keep the interval
/// from collapsing when all prompts tie: they are z² prompts of binomial variance, the weight Wilson's centre gives to ½.
///
/// Empty input gives NaN.
pub fn interval(preferences: &[f64]) -> Estimate {
    let n = preferences.len() as f64;
    let rate = mean(preferences);
    let binomial = rate * (1.0 - rate);
    let spread: f64 = preferences.iter().map(|w| (w - rate).powi(2)).sum();
    let extra = Z * Z * binomial;
    let effect = match binomial > 0.0 {
        true => (spread + extra) / (n * binomial + extra),
        false => 1.0,
    };
    wilson(rate, n / effect)
}

/// Wilson's interval of a rate seen on m trials.
fn wilson(rate: f64, m: f64) -> Estimate {
    let binomial = rate * (1.0 - rate);
    let scale = 1.0 + Z * Z / m;
    let centre = (rate + Z * Z / (2.0 * m)) / scale;
    let half = Z * (binomial / m + Z * Z / (4.0 * m * m)).sqrt() / scale;
    Estimate {
        value: rate,
        // Rounding must not put the estimate outside its own interval.
        low: (centre - half).clamp(0.0, rate),
        high: (centre + half).clamp(rate, 1.0),
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// (w_p) and (mean length of row − mean length of column).
fn preferences(row: &Contestant, column: &Contestant) -> [Vec<f64>; 2] {
    let length =
        |answers: &[Answer]| answers.iter().map(|a| a.length).sum::<f64>() / answers.len() as f64;
    let pairs = || row.prompts.iter().zip(&column.prompts);
    [
        pairs().map(|(a, b)| preference(a, b)).collect(),
        pairs().map(|(a, b)| length(a) - length(b)).collect(),
    ]
}

fn preference(row: &[Answer], column: &[Answer]) -> f64 {
    let twice = |a: &Answer, b: &Answer| match a.score.total_cmp(&b.score) {
        _ if a.score == b.score => 1,
        std::cmp::Ordering::Greater => 2,
        _ => 0u64,
    };
    // Counted in whole numbers, so that a tie is exactly ½ and the reversed cell exactly the complement.
    let all: u64 = row
        .iter()
        .map(|a| column.iter().map(|b| twice(a, b)).sum::<u64>())
        .sum();
    all as f64 / (2 * row.len() * column.len()) as f64
}

fn summary(method: &Contestant) -> Summary {
    let per_prompt = |value: &dyn Fn(&Answer) -> f64| -> Estimate {
        let of =
            |answers: &Vec<Answer>| answers.iter().map(value).sum::<f64>() / answers.len() as f64;
        mean_interval(&method.prompts.iter().map(of).collect::<Vec<_>>())
    };
    let known = method.prompts.iter().flatten().all(|a| a.kl.is_some());
    Summary {
        name: method.name.clone(),
        score: per_prompt(&|a| a.score),
        length: per_prompt(&|a| a.length).at_least_zero(),
        kl: known.then(|| per_prompt(&|a| a.kl.unwrap_or(f64::NAN)).at_least_zero()),
    }
}

/// Mean ± t_{n−1} s/√n.
fn mean_interval(values: &[f64]) -> Estimate {
    let (value, half) = (mean(values), half_width(values));
    Estimate {
        value,
        low: value - half,
        high: value + half,
    }
}

/// t_{n−1} s/√n at 97.5%; 0 of a single value.
fn half_width(values: &[f64]) -> f64 {
    let (n, centre) = (values.len() as f64, mean(values));
    let square: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    match StudentsT::new(0.0, 1.0, n - 1.0) {
        Ok(t) if n > 1.0 => t.inverse_cdf(0.975) * (square / (n - 1.0) / n).sqrt(),
        _ => 0.0,
    }
}

fn check(methods: &[Contestant]) -> Result<()> {
    let Some(first) = methods.first() else {
        return Err(Error::request("win rates", "found no methods"));
    };
    let expected = first.prompts.len();
    for method in methods {
        let n = method.prompts.len();
        if n == 0 || n != expected {
            let why = format!(
                "answers {n} prompts, expected as many as {} ({expected}) and at least one",
                first.name
            );
            return Err(Error::request(format!("method {}", method.name), why));
        }
        for (p, answers) in method.prompts.iter().enumerate() {
            let what = || format!("method {}, prompt {p}", method.name);
            if answers.is_empty() {
                return Err(Error::request(what(), "no answer"));
            }
            for answer in answers {
                check_answer(answer).map_err(|why| Error::request(what(), why))?;
            }
        }
    }
    Ok(())
}

fn check_answer(answer: &Answer) -> std::result::Result<(), String> {
    let Answer { score, length, kl } = *answer;
    if !score.is_finite() {
        return Err(format!("score: found {score}, expected a finite number"));
    }
    if !(length.is_finite() && length >= 0.0) {
        return Err(format!(
            "length: found {length}, expected a finite number >= 0"
        ));
    }
    match kl {
        Some(kl) if !kl.is_finite() => Err(format!("kl: found {kl}, expected a finite number")),
        _ => Ok(()),
    }
}
