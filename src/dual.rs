//! Numbers that a formula can be evaluated on: `f64`, and dual numbers, which carry exact derivatives along.
//!
//! The formulas of [`objective`](crate::objective), [`advantage`](crate::advantage) and [`token_reward`](crate::token_reward) are
//! written once over [`Real`]. Training runs them on `f64`; [`audit`](crate::audit) runs the same code on [`Dual`] numbers to
//! differentiate an expected gradient, advantages and behaviour included.
//!
//! ```
//! use rto::dual::{Dual, Real};
//!
//! let x = Dual::<1>::variable(2.0, 0);
//! let y = (x * x).exp() / x; // dy/dx = e^{x²} (2 − 1/x²)
//! assert!((y.derivative(0) - 4f64.exp() * 1.75).abs() < 1e-12);
//! ```

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

/// A real number, perhaps with derivatives. Comparisons are made on [`Real::value`], so that a formula with cases is differentiated
/// in the case it is in.
pub trait Real:
    Copy
    + Debug
    + Default
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + Mul<f64, Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
{
    /// A number that does not depend on anything.
    fn constant(value: f64) -> Self;
    /// The number without its derivatives.
    fn value(self) -> f64;
    /// e^x.
    fn exp(self) -> Self;
    /// e^x − 1, accurate near 0.
    fn exp_m1(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// 1/x.
    fn recip(self) -> Self;
    /// The same value with all derivatives removed, as a training framework's `detach`.
    fn detached(self) -> Self {
        Self::constant(self.value())
    }
    /// min{max{x, low}, high}.
    fn clamped(self, low: f64, high: f64) -> Self {
        let v = self.value();
        if v < low {
            Self::constant(low)
        } else if v > high {
            Self::constant(high)
        } else {
            self
        }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn constant(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn value(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn exp_m1(self) -> Self {
        f64::exp_m1(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn recip(self) -> Self {
        f64::recip(self)
    }
}

/// x + Σ_k ẋ_k ε_k with ε_j ε_k = 0: a value with its derivatives along L directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dual<const L: usize> {
    value: f64,
    tangent: [f64; L],
}

impl<const L: usize> Dual<L> {
    /// A value and its L derivatives.
    pub fn new(value: f64, tangent: [f64; L]) -> Self {
        Self { value, tangent }
    }

    /// The variable that direction k varies; k ≥ L is a constant.
    pub fn variable(value: f64, k: usize) -> Self {
        let mut tangent = [0.0; L];
        if let Some(t) = tangent.get_mut(k) {
            *t = 1.0;
        }
        Self { value, tangent }
    }

    /// The derivative along direction k < L.
    ///
    /// # Panics
    /// When k ≥ L.
    pub fn derivative(&self, k: usize) -> f64 {
        self.tangent[k]
    }

    /// f(x) with f′(x): the chain rule.
    #[inline(always)]
    fn chain(self, value: f64, slope: f64) -> Self {
        Self {
            value,
            tangent: self.tangent.map(|t| t * slope),
        }
    }

    #[inline(always)]
    fn combine(self, other: Self, value: f64, a: f64, b: f64) -> Self {
        let mut tangent = self.tangent;
        for (t, o) in tangent.iter_mut().zip(other.tangent) {
            *t = a * *t + b * o;
        }
        Self { value, tangent }
    }
}

impl<const L: usize> Default for Dual<L> {
    fn default() -> Self {
        Self::constant(0.0)
    }
}

impl<const L: usize> Real for Dual<L> {
    #[inline(always)]
    fn constant(value: f64) -> Self {
        Self {
            value,
            tangent: [0.0; L],
        }
    }
    #[inline(always)]
    fn value(self) -> f64 {
        self.value
    }
    #[inline(always)]
    fn exp(self) -> Self {
        let e = self.value.exp();
        self.chain(e, e)
    }
    #[inline(always)]
    fn exp_m1(self) -> Self {
        self.chain(self.value.exp_m1(), self.value.exp())
    }
    #[inline(always)]
    fn ln(self) -> Self {
        self.chain(self.value.ln(), self.value.recip())
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        let s = self.value.sqrt();
        self.chain(s, 0.5 / s)
    }
    #[inline(always)]
    fn recip(self) -> Self {
        let r = self.value.recip();
        self.chain(r, -r * r)
    }
}

impl<const L: usize> Add for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        self.combine(o, self.value + o.value, 1.0, 1.0)
    }
}

impl<const L: usize> Sub for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        self.combine(o, self.value - o.value, 1.0, -1.0)
    }
}

impl<const L: usize> Mul for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        self.combine(o, self.value * o.value, o.value, self.value)
    }
}

impl<const L: usize> Div for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        let q = self.value / o.value;
        self.combine(o, q, o.value.recip(), -q / o.value)
    }
}

impl<const L: usize> Neg for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self.chain(-self.value, -1.0)
    }
}

impl<const L: usize> AddAssign for Dual<L> {
    #[inline(always)]
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}

impl<const L: usize> SubAssign for Dual<L> {
    #[inline(always)]
    fn sub_assign(&mut self, o: Self) {
        *self = *self - o;
    }
}

impl<const L: usize> Mul<f64> for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, c: f64) -> Self {
        self.chain(self.value * c, c)
    }
}

impl<const L: usize> Add<f64> for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn add(mut self, c: f64) -> Self {
        self.value += c;
        self
    }
}

impl<const L: usize> Sub<f64> for Dual<L> {
    type Output = Self;
    #[inline(always)]
    fn sub(mut self, c: f64) -> Self {
        self.value -= c;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula<T: Real>(x: T, y: T) -> T {
        let d = (x * y - 0.3).exp_m1() + y.sqrt() / (x + 2.0) - (x * x + 1.0).ln() * 0.7;
        -(d * d.exp()) + (x - y).recip().clamped(-10.0, 10.0)
    }

    /// Every operation against a sixth-order central difference.
    #[test]
    fn derivatives_are_those_of_the_formula() {
        let (x, y, h) = (0.4, 1.3, 1e-2);
        let dual = formula(Dual::<2>::variable(x, 0), Dual::variable(y, 1));
        assert_eq!(dual.value(), formula(x, y));
        let central = |f: &dyn Fn(f64) -> f64| {
            (45.0 * (f(h) - f(-h)) - 9.0 * (f(2.0 * h) - f(-2.0 * h)) + f(3.0 * h) - f(-3.0 * h))
                / (60.0 * h)
        };
        let dx = central(&|t| formula(x + t, y));
        let dy = central(&|t| formula(x, y + t));
        assert!((dual.derivative(0) - dx).abs() < 1e-9, "{dx}");
        assert!((dual.derivative(1) - dy).abs() < 1e-9, "{dy}");
    }

    #[test]
    fn a_clamped_or_detached_number_does_not_move() {
        let x = Dual::<1>::variable(3.0, 0);
        assert_eq!(x.clamped(0.0, 1.0), Dual::constant(1.0));
        assert_eq!(x.clamped(0.0, 5.0).derivative(0), 1.0);
        assert_eq!(x.detached(), Dual::constant(3.0));
    }
}
