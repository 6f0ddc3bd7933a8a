//! The mass π\*(y₁…y_h | x) of a node, exact or in log space, and what is left of it.
//!
//! Query counts turn on ties and on residuals that are exactly zero, so given trees and golden values
//! use exact masses (unnormalised integers in units of 1/W, or rationals). Policies that are only
//! known in floating point use [`LogMass`]; there a residual can be too small to be told from
//! rounding, and the search then says so instead of guessing.

use num_bigint::BigUint;
use num_rational::BigRational;
use num_traits::{ToPrimitive, Zero};
use std::fmt::Debug;

/// A non-negative mass of a node of the response tree.
pub trait Mass: Clone + PartialOrd + Debug {
    /// What is tracked of a node while its children become known.
    type Residual: Clone + Debug;

    /// The residual of a node none of whose children is known.
    fn residual(&self) -> Self::Residual;

    /// Notes that a child of `node` with mass `child` is known.
    fn subtract(residual: &mut Self::Residual, node: &Self, child: &Self);

    /// R(v): the mass left to the unknown children of `node`, zero where it cannot be told from zero.
    /// `slack` bounds the absolute error of a sum of conditional probabilities.
    fn left(residual: &Self::Residual, node: &Self, slack: f64) -> Self;

    /// An upper bound on the true R(v).
    fn left_at_most(residual: &Self::Residual, node: &Self, slack: f64) -> Self;

    /// Whether the mass is exactly zero.
    fn is_zero(&self) -> bool;

    /// Whether this mass exceeds `best` by more than representation allows
    /// (never for exact masses unless greater; a relative [`LOG_MASS_TOLERANCE`] in log space).
    fn exceeds(&self, best: &Self) -> bool;

    /// log(self / total), natural logarithm; −∞ for zero.
    fn log_ratio(&self, total: &Self) -> f64;

    /// self / total as a probability.
    fn ratio(&self, total: &Self) -> f64 {
        self.log_ratio(total).exp()
    }
}

/// Relative tolerance within which two floating masses count as tied in a certificate.
pub const LOG_MASS_TOLERANCE: f64 = 1e-9;

/// A mass in log space: natural logarithm of a probability, −∞ for zero, never NaN.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct LogMass(pub f64);

impl Mass for LogMass {
    /// The fraction of the node's mass that is left, in \[0, 1\].
    type Residual = f64;

    fn residual(&self) -> f64 {
        1.0
    }

    #[inline]
    fn subtract(residual: &mut f64, node: &Self, child: &Self) {
        if node.0 > f64::NEG_INFINITY {
            *residual -= (child.0 - node.0).exp();
        }
    }

    #[inline]
    fn left(residual: &f64, node: &Self, slack: f64) -> Self {
        if *residual <= total_slack(node, slack) {
            return Self(f64::NEG_INFINITY);
        }
        Self(node.0 + residual.ln())
    }

    #[inline]
    fn left_at_most(residual: &f64, node: &Self, slack: f64) -> Self {
        Self(node.0 + (residual.max(0.0) + total_slack(node, slack)).ln())
    }

    fn is_zero(&self) -> bool {
        self.0 == f64::NEG_INFINITY
    }

    fn exceeds(&self, best: &Self) -> bool {
        self.0 > best.0 + LOG_MASS_TOLERANCE
    }

    fn log_ratio(&self, total: &Self) -> f64 {
        self.0 - total.0
    }
}

/// Error of a residual fraction: the evaluator's own, and that of exp(log p(child) − log p(node)).
#[inline]
fn total_slack(node: &LogMass, slack: f64) -> f64 {
    slack + 4.0 * f64::EPSILON * (1.0 + node.0.abs())
}

/// The trait for types whose arithmetic is exact: residual and mass are one type.
macro_rules! exact_mass {
    ($type:ty, $log_ratio:expr) => {
        impl Mass for $type {
            type Residual = $type;

            fn residual(&self) -> Self {
                self.clone()
            }

            #[inline]
            fn subtract(residual: &mut Self, _node: &Self, child: &Self) {
                *residual -= child;
            }

            #[inline]
            fn left(residual: &Self, _node: &Self, _slack: f64) -> Self {
                residual.clone()
            }

            fn left_at_most(residual: &Self, _node: &Self, _slack: f64) -> Self {
                residual.clone()
            }

            fn is_zero(&self) -> bool {
                Zero::is_zero(self)
            }

            fn exceeds(&self, best: &Self) -> bool {
                self > best
            }

            fn log_ratio(&self, total: &Self) -> f64 {
                let f: fn(&$type, &$type) -> f64 = $log_ratio;
                f(self, total)
            }

            fn ratio(&self, total: &Self) -> f64 {
                exact_ratio(self, total)
            }
        }
    };
}

exact_mass!(u128, |m, total| exact_ratio(m, total).ln());
exact_mass!(BigUint, |m, total| match exact_ratio(m, total) {
    // The quotient keeps digits that a difference of large logarithms loses.
    ratio if ratio.is_normal() => ratio.ln(),
    _ => log_big(m) - log_big(total),
});
exact_mass!(BigRational, |m, total| {
    let quotient = m / total;
    quotient
        .numer()
        .magnitude()
        .log_ratio(quotient.denom().magnitude())
});

/// Ratios of exact masses to full `f64` precision, whatever their size.
trait ExactRatio {
    fn exact_ratio(&self, total: &Self) -> f64;
}

fn exact_ratio<M: ExactRatio>(mass: &M, total: &M) -> f64 {
    mass.exact_ratio(total)
}

impl ExactRatio for u128 {
    fn exact_ratio(&self, total: &Self) -> f64 {
        *self as f64 / *total as f64
    }
}

impl ExactRatio for BigUint {
    fn exact_ratio(&self, total: &Self) -> f64 {
        // Keep 1000 bits of the total: far more than f64 has, and no overflow.
        let shift = total.bits().saturating_sub(1000);
        let part = |m: &BigUint| (m >> shift).to_f64().unwrap_or(0.0);
        part(self) / part(total)
    }
}

impl ExactRatio for BigRational {
    fn exact_ratio(&self, total: &Self) -> f64 {
        let quotient = self / total;
        quotient
            .numer()
            .magnitude()
            .exact_ratio(quotient.denom().magnitude())
    }
}

/// Natural logarithm of a big integer, −∞ for zero.
fn log_big(value: &BigUint) -> f64 {
    let shift = value.bits().saturating_sub(1000);
    (value >> shift).to_f64().unwrap_or(0.0).ln() + shift as f64 * std::f64::consts::LN_2
}

/// Masses that a policy with rational conditional probabilities can build.
pub trait FractionMass: Mass {
    /// The mass of the root, π\*(empty | x) = 1.
    fn whole() -> Self;

    /// This mass times `numerator / denominator`.
    fn times(&self, numerator: u64, denominator: u64) -> Self;
}

impl FractionMass for LogMass {
    fn whole() -> Self {
        Self(0.0)
    }

    #[inline]
    fn times(&self, numerator: u64, denominator: u64) -> Self {
        Self(self.0 + log_fraction(numerator, denominator))
    }
}

/// log(n/d), accurate also when n/d is close to one.
fn log_fraction(numerator: u64, denominator: u64) -> f64 {
    if numerator > denominator / 2 && numerator <= denominator {
        (-((denominator - numerator) as f64) / denominator as f64).ln_1p()
    } else {
        (numerator as f64 / denominator as f64).ln()
    }
}

impl FractionMass for BigRational {
    fn whole() -> Self {
        num_traits::One::one()
    }

    fn times(&self, numerator: u64, denominator: u64) -> Self {
        self * BigRational::new(numerator.into(), denominator.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_mass_follows_exact_arithmetic() {
        let mut exact = BigRational::whole();
        let mut float = LogMass::whole();
        for (n, d) in [(1, 3), (999, 1000), (1, 1 << 60), ((1 << 60) - 5, 1 << 60)] {
            exact = exact.times(n, d);
            float = float.times(n, d);
            assert!(
                (exact.log_ratio(&BigRational::whole()) - float.0).abs() <= 1e-14 * float.0.abs()
            );
        }
    }

    #[test]
    fn exact_ratios_survive_huge_numbers() {
        let huge = BigUint::from(3u8) << 5000u32;
        let third = BigUint::from(1u8) << 5000u32;
        assert_eq!(third.ratio(&huge), 1.0 / 3.0);
        assert!((third.log_ratio(&huge) + 3f64.ln()).abs() < 1e-12);
        assert_eq!(BigUint::from(0u8).log_ratio(&huge), f64::NEG_INFINITY);
    }

    #[test]
    fn a_residual_that_rounding_could_explain_is_zero_but_bounded() {
        let node = LogMass(-1.0);
        let mut residual = node.residual();
        for child in [0.1f64, 0.2, 0.7] {
            LogMass::subtract(&mut residual, &node, &LogMass(-1.0 + child.ln()));
        }
        assert!(LogMass::left(&residual, &node, 1e-15).is_zero());
        assert!(LogMass::left_at_most(&residual, &node, 1e-15) > LogMass(-40.0));
    }
}
