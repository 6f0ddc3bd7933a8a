//! Means with intervals, quantiles, coverage intervals and slopes.

use crate::table::Cell;
use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

/// The values that a quantity can take, and so its mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Any number: rewards, differences, slopes, right-hand sides of theorems whose premise may be false.
    Real,
    /// Numbers from 0 on: SubOpt, regret, KL divergences, lengths.
    NonNegative,
    /// Numbers in \[0, 1\]: probabilities, shares of runs.
    Share,
}

impl Support {
    /// The value of the support that is nearest; NaN stays.
    pub fn cut(self, value: f64) -> f64 {
        match self {
            Self::Real => value,
            // `max` would turn NaN, a number that is not there, into zero.
            _ if value < 0.0 => 0.0,
            Self::Share if value > 1.0 => 1.0,
            _ => value,
        }
    }
}

/// A sample of independent replicates.
#[derive(Debug, Clone, Default)]
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// How many replicates there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mean; NaN of none.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// Standard error of the mean.
    pub fn error(&self) -> f64 {
        let (n, mean) = (self.0.len() as f64, self.mean());
        let square: f64 = self.0.iter().map(|x| (x - mean).powi(2)).sum();
        (square / (n - 1.0) / n).sqrt()
    }

    /// Mean with its 95% interval; no interval from fewer than two replicates.
    ///
    /// It is Student's, mean ± t s/√n, cut off at the ends of the support. The mean of the quantity lies in the support, so that the cut
    /// interval holds it whenever the whole one does; rounding that leaves the support is cut off the mean too. A mean that is outside by
    /// more is a fault of what made the sample: it is shown as it is, and nothing is cut.
    pub fn interval(&self, support: Support) -> (f64, Option<f64>, Option<f64>) {
        const ROUNDING: f64 = 1e-9;
        let half = t_quantile(self.len()).map(|t| t * self.error());
        let mean = self.mean();
        let support = match (support.cut(mean) - mean).abs() > ROUNDING {
            true => Support::Real,
            false => support,
        };
        let end = |sign: f64| half.map(|h| support.cut(mean + sign * h));
        (support.cut(mean), end(-1.0), end(1.0))
    }

    /// A quantile, linear between order statistics.
    pub fn quantile(&self, p: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = p * (sorted.len() - 1) as f64;
        let (low, share) = (at.floor() as usize, at.fract());
        let high = sorted[(low + 1).min(sorted.len() - 1)];
        sorted[low] + share * (high - sorted[low])
    }
}

/// The exact two-sided sign-flip (permutation) test of paired differences: the share of the 2ⁿ choices of signs whose |mean| is at least the one
/// seen. Its smallest value is 2/2ⁿ. A sum counts as equal when it differs by rounding alone, so that a difference of 0 in every pair gives 1.
///
/// # Panics
/// With more than 24 pairs.
pub fn sign_flip(differences: &[f64]) -> f64 {
    let n = differences.len();
    assert!(n <= 24, "{n} pairs are too many for every choice of signs");
    if differences.iter().any(|d| d.is_nan()) {
        return f64::NAN;
    }
    let size: f64 = differences.iter().map(|d| d.abs()).sum();
    let seen = differences.iter().sum::<f64>().abs();
    let signed = |signs: u32| -> f64 {
        let signed = differences.iter().enumerate();
        signed
            .map(|(i, d)| if signs >> i & 1 == 1 { -d } else { *d })
            .sum()
    };
    let beyond = (0..1u32 << n).filter(|signs| signed(*signs).abs() >= seen - 1e-12 * size);
    beyond.count() as f64 / f64::from(1u32 << n)
}

/// Holm's correction: the i-th smallest of the p-values times (family − i + 1), never below the one before, at most 1. Tests of the family that
/// are not in the list count as p = 1, which makes the correction no weaker than it would be with them.
pub fn holm(p: &[f64], family: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut before = 0.0f64;
    for (i, at) in order.into_iter().enumerate() {
        let times = family.saturating_sub(i).max(1);
        before = before.max((times as f64 * p[at]).min(1.0));
        adjusted[at] = before;
    }
    adjusted
}

fn t_quantile(n: usize) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, n.checked_sub(1)? as f64).ok()?;
    Some(t.inverse_cdf(0.975))
}

/// The exact (Clopper-Pearson) 95% interval of a proportion.
pub fn clopper_pearson(successes: u64, trials: u64) -> (f64, f64) {
    let (k, n) = (successes as f64, trials as f64);
    let quantile = |a: f64, b: f64, p: f64| Beta::new(a, b).map_or(f64::NAN, |d| d.inverse_cdf(p));
    let low = if successes == 0 {
        0.0
    } else {
        quantile(k, n - k + 1.0, 0.025)
    };
    let high = if successes == trials {
        1.0
    } else {
        quantile(k + 1.0, n - k, 0.975)
    };
    (low, high)
}

/// The slope of log mean against log x by least squares, with its 95% interval.
///
/// Samples at different x are independent, so its variance is Σ c_i² (s_i/m_i)² with c_i the weights of
/// least squares and s_i the standard error of the mean m_i (delta method).
pub fn slope(x: &[f64], samples: &[Sample]) -> Option<(f64, f64, f64)> {
    let logs: Vec<f64> = x.iter().map(|x| x.ln()).collect();
    let centre = logs.iter().sum::<f64>() / logs.len() as f64;
    let spread: f64 = logs.iter().map(|l| (l - centre).powi(2)).sum();
    let (mut slope, mut variance) = (0.0, 0.0);
    for (log, sample) in logs.iter().zip(samples) {
        let (weight, mean) = ((log - centre) / spread, sample.mean());
        slope += weight * mean.ln();
        variance += (weight * sample.error() / mean).powi(2);
    }
    let half = t_quantile(samples.iter().map(Sample::len).min()?)? * variance.sqrt();
    (slope.is_finite() && half.is_finite()).then_some((slope, slope - half, slope + half))
}

/// Four significant digits for a table on the terminal.
pub fn shown(value: f64) -> Cell {
    if !value.is_finite() {
        return Cell::Empty;
    }
    if value == 0.0 {
        return "0".into();
    }
    let digits = 3 - value.abs().max(1e-300).log10().floor() as i32;
    match digits {
        0..=7 => format!("{value:.*}", digits as usize),
        ..0 => format!("{value:.0}"),
        _ => format!("{value:.2e}"),
    }
    .into()
}

/// `-0.500 [-0.501, -0.499]`.
pub fn with_interval(value: f64, low: f64, high: f64) -> Cell {
    if !value.is_finite() {
        return Cell::Empty;
    }
    format!("{value:.3} [{low:.3}, {high:.3}]").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_flip_test_counts_all_signs() {
        // Of 2³ sums of ±1 ±2 ±3 only ±6 are as far as 6; as far as 4 are ±6 and ±4.
        assert_eq!(sign_flip(&[1.0, 2.0, 3.0]), 2.0 / 8.0);
        assert_eq!(sign_flip(&[-1.0, 2.0, 3.0]), 4.0 / 8.0);
        assert_eq!(sign_flip(&[0.0, 0.0]), 1.0);
        assert_eq!(sign_flip(&[0.1; 10]), 2.0 / 1024.0);
        // Scale-free, and rounding does not undo a tie.
        assert_eq!(sign_flip(&[0.1, 0.2, -0.3]), sign_flip(&[1e9, 2e9, -3e9]));
        assert!(sign_flip(&[f64::NAN, 1.0]).is_nan());
    }

    #[test]
    fn holm_is_the_textbook_one() {
        // The example of Holm (1979) in form: 0.01, 0.02, 0.03, 0.04 of four.
        assert_eq!(holm(&[0.04, 0.01, 0.03, 0.02], 4), [0.06, 0.04, 0.06, 0.06]);
        // Tests that were not made count as 1.
        assert_eq!(holm(&[0.25, 0.002], 24), [1.0, 0.048]);
    }

    #[test]
    fn intervals_are_the_textbook_ones() {
        let sample = Sample(vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        let (mean, low, high) = sample.interval(Support::Real);
        // t(4) at 0.975 is 2.776445, and s²/5 = 1/2.
        let half = 2.776445 * 0.5f64.sqrt();
        assert!(mean == 3.0 && (low.unwrap() - (3.0 - half)).abs() < 1e-6);
        assert!((high.unwrap() - (3.0 + half)).abs() < 1e-6);
        assert!((sample.quantile(0.25), sample.quantile(1.0)) == (2.0, 5.0));
        let (low, high) = clopper_pearson(8, 10);
        assert!((low - 0.443905).abs() < 1e-5 && (high - 0.974789).abs() < 1e-5);
        assert_eq!(clopper_pearson(5, 5).1, 1.0);
        assert!((clopper_pearson(40, 40).0 - 0.025f64.powf(1.0 / 40.0)).abs() < 1e-9);
    }

    #[test]
    fn intervals_stay_where_the_quantity_can_be() {
        // s/√3 = 1, and t(2) at 0.975 is 4.302653.
        let gaps = Sample(vec![0.0, 0.0, 3.0]);
        let (mean, low, high) = gaps.interval(Support::Real);
        assert!(mean == 1.0 && (low.unwrap() + 3.302653).abs() < 1e-6);
        assert_eq!(gaps.interval(Support::NonNegative), (mean, Some(0.0), high));
        // Nothing moves where nothing is cut, and an interval that ends outside is not moved inside.
        let far = Sample(vec![10.0, 11.0, 12.0]);
        assert_eq!(
            far.interval(Support::NonNegative),
            far.interval(Support::Real)
        );
        let shares = Sample(vec![1.0, 1.0, 1.0, 0.8]);
        let (mean, low, high) = shares.interval(Support::Share);
        assert!((mean - 0.95).abs() < 1e-15 && (0.7..0.8).contains(&low.unwrap()));
        assert_eq!(high, Some(1.0));
        // Rounding below zero, no interval from one run, and a number that is not there.
        let rounding = Sample(vec![-1e-17, -2e-17]).interval(Support::NonNegative);
        assert_eq!((rounding.0, rounding.1), (0.0, Some(0.0)));
        assert_eq!(
            Sample(vec![-1.0]).interval(Support::Real),
            (-1.0, None, None)
        );
        assert!(Sample(vec![]).interval(Support::NonNegative).0.is_nan());
        let wrong = Sample(vec![-1.0, -2.0]);
        assert_eq!(
            wrong.interval(Support::NonNegative),
            wrong.interval(Support::Real)
        );
    }

    #[test]
    fn a_power_law_has_its_exponent() {
        let x = [10.0, 100.0, 1000.0];
        let samples = x.map(|x: f64| Sample(vec![2.0 / x, 4.0 / x]));
        let (slope, low, high) = slope(&x, &samples).unwrap();
        assert!((slope + 1.0).abs() < 1e-12 && low < -1.0 && high > -1.0);
    }

    #[test]
    fn numbers_are_short() {
        let text = |x: f64| shown(x).text();
        assert_eq!(text(7213.6), "7214");
        assert_eq!(text(0.0012346), "0.001235");
        assert_eq!(text(3.4e-10), "3.40e-10");
        assert_eq!(text(123456.0), "123456");
    }
}
