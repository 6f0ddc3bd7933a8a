//! Elementary functions that stay accurate where the textbook formula does not.

/// log Σᵢ exp(xᵢ), natural logarithm, without overflow; −∞ for an empty slice or when every entry is −∞.
///
/// ```
/// let x = [1000.0, 1000.0];
/// assert!((rto::numerics::log_sum_exp(&x) - (1000.0 + 2f64.ln())).abs() < 1e-12);
/// ```
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + values.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

/// The logistic function σ(z) = 1/(1+e^{−z}) of (2.1), accurate for large |z|.
pub fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// log σ(z) without overflow or cancellation: −log(1+e^{−z}).
pub fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}

/// Neumaier's compensated sum: the error of n additions is one rounding, not n.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CompensatedSum {
    sum: f64,
    lost: f64,
}

impl CompensatedSum {
    /// Adds a term.
    #[inline]
    pub fn add(&mut self, term: f64) {
        let total = self.sum + term;
        self.lost += if self.sum.abs() >= term.abs() {
            (self.sum - total) + term
        } else {
            (term - total) + self.sum
        };
        self.sum = total;
    }

    /// The sum so far.
    #[inline]
    pub fn value(&self) -> f64 {
        self.sum + self.lost
    }
}

/// Wilson's score interval for a probability, from `successes` of `trials`, at `z` standard normal
/// deviations (1.96 for 95%); \[0, 1\] without trials.
pub fn wilson_interval(successes: u64, trials: u64, z: f64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (
        ((centre - half) / scale).max(0.0),
        ((centre + half) / scale).min(1.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_handles_extremes() {
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert!((log_sum_exp(&[0.1, 0.2, 0.3]) - 1.301942848229244).abs() < 1e-14);
        assert!(
            (log_sum_exp(&[-800.0, -801.0]) + 800.0 - (1.0 + (-1f64).exp()).ln()).abs() < 1e-12
        );
    }

    #[test]
    fn sigmoid_and_its_logarithm_agree_and_stay_finite() {
        for z in [-745.0, -40.0, -1.5, 0.0, 0.3, 40.0, 745.0] {
            assert!((sigmoid(z) + sigmoid(-z) - 1.0).abs() < 1e-15);
            assert!(log_sigmoid(z).is_finite());
            if z > -700.0 {
                assert!(
                    (log_sigmoid(z).exp() - sigmoid(z)).abs()
                        <= 1e-15 * sigmoid(z).max(1e-300) + 1e-15
                );
            }
        }
    }

    #[test]
    fn wilson_interval_solves_its_equation() {
        // The ends are the p with |p̂ − p| = z·√(p(1−p)/n).
        let z = 1.96;
        for (k, n) in [(0, 10), (3, 10), (380, 400), (400, 400)] {
            let (low, high) = wilson_interval(k, n, z);
            let estimate = k as f64 / n as f64;
            for end in [low, high] {
                let distance = z * (end * (1.0 - end) / n as f64).sqrt();
                assert!(
                    ((estimate - end).abs() - distance).abs() < 1e-12,
                    "{k}/{n}: {end}"
                );
            }
        }
    }

    #[test]
    fn compensated_sum_keeps_what_plain_addition_loses() {
        let mut sum = CompensatedSum::default();
        for term in [1.0, 1e100, 1.0, -1e100] {
            sum.add(term);
        }
        assert_eq!(sum.value(), 2.0);
    }
}
