//! Learning rates over the steps of a run.

use crate::{Error, Result};

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// Nothing.
    Constant,
    /// Falls linearly to `final_ratio` of the peak at the last step, and stays.
    Linear {
        /// Of the peak, in `[0, 1]`.
        final_ratio: f64,
    },
    /// Falls along half a cosine to `final_ratio` of the peak at the last step, and stays.
    Cosine {
        /// Of the peak, in `[0, 1]`.
        final_ratio: f64,
    },
}

/// `lr(t)`: linear warm-up `peak (t+1)/warmup` for `t < warmup`, then decay over the rest of `total` steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    total: u64,
    decay: Decay,
}

impl Schedule {
    /// The same rate at every step.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn constant(rate: f64) -> Result<Self> {
        Self::new(rate, 0, 0, Decay::Constant)
    }

    /// # Errors
    /// [`Error::Setting`] for a rate that is negative or not finite, a ratio outside `[0, 1]`, or a decay without steps.
    pub fn new(peak: f64, warmup: u64, total: u64, decay: Decay) -> Result<Self> {
        let refuse = |field, found: String, expected: &str| {
            Err(Error::Setting {
                field,
                found,
                expected: expected.into(),
            })
        };
        if !peak.is_finite() || peak < 0.0 {
            return refuse(
                "learning rate",
                peak.to_string(),
                "a finite number, at least 0",
            );
        }
        if let Decay::Linear { final_ratio } | Decay::Cosine { final_ratio } = decay {
            if !(0.0..=1.0).contains(&final_ratio) {
                return refuse("final_ratio", final_ratio.to_string(), "a number in [0, 1]");
            }
            if total <= warmup {
                return refuse(
                    "total steps",
                    total.to_string(),
                    &format!("more than the {warmup} of the warm-up"),
                );
            }
        }
        Ok(Self {
            peak,
            warmup,
            total,
            decay,
        })
    }

    /// The learning rate of step `t`, 0-based.
    pub fn at(&self, t: u64) -> f64 {
        if t < self.warmup {
            return self.peak * (t + 1) as f64 / self.warmup as f64;
        }
        let done = || ((t - self.warmup) as f64 / (self.total - self.warmup) as f64).min(1.0);
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear { final_ratio } => 1.0 - (1.0 - final_ratio) * done(),
                Decay::Cosine { final_ratio } => {
                    final_ratio
                        + (1.0 - final_ratio) * 0.5 * (1.0 + (std::f64::consts::PI * done()).cos())
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_at_the_corners() {
        let linear = Schedule::new(2.0, 4, 14, Decay::Linear { final_ratio: 0.1 }).unwrap();
        let rates: Vec<f64> = [0, 3, 4, 9, 14, 99].map(|t| linear.at(t)).to_vec();
        for (rate, want) in rates.iter().zip([0.5, 2.0, 2.0, 1.1, 0.2, 0.2]) {
            assert!((rate - want).abs() < 1e-12, "{rates:?}");
        }
        let cosine = Schedule::new(1.0, 0, 10, Decay::Cosine { final_ratio: 0.5 }).unwrap();
        assert!((cosine.at(5) - 0.75).abs() < 1e-12);
        assert!((cosine.at(10) - 0.5).abs() < 1e-12);
        assert_eq!(Schedule::constant(0.3).unwrap().at(1_000_000), 0.3);
    }

    #[test]
    fn impossible_schedules_are_refused() {
        assert!(Schedule::constant(f64::NAN).is_err());
        assert!(Schedule::constant(-1.0).is_err());
        assert!(Schedule::new(1.0, 5, 5, Decay::Linear { final_ratio: 0.0 }).is_err());
        assert!(Schedule::new(1.0, 0, 5, Decay::Cosine { final_ratio: 1.5 }).is_err());
    }
}
