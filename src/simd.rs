//! Branch-free exp and ln that the compiler vectorises, and run-time choice of the vector width.
//!
//! Only plain multiplications and additions in a fixed order are used (no fused multiply-add, no
//! reassociation), so a result does not depend on the width that was chosen.

use pulp::{Arch, Simd, WithSimd};

/// Values handled side by side.
pub(crate) const LANES: usize = 8;

/// A loop to compile for the widest vectors the machine has. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run(self) -> Self::Output;
}

struct Widest<K>(K);

impl<K: Kernel> WithSimd for Widest<K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> K::Output {
        self.0.run()
    }
}

/// Runs a kernel with the widest vectors of this machine.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    Arch::new().dispatch(Widest(kernel))
}

const LN2_HI: f64 = 0.693_147_180_369_123_8;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
/// 1.5·2⁵²: adding it leaves the nearest integer in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;
const EXP_MIN: f64 = -708.0;
const EXP_MAX: f64 = 709.0;

/// eˣ within 2 ulp for −708 ≤ x ≤ 709; 0 below, e⁷⁰⁹ above.
///
/// Polynomial of degree 11: Chebyshev interpolation of eʳ on |r| ≤ 0.3468 (relative error 2e-17).
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let clamped = if x > EXP_MIN { x } else { EXP_MIN };
    let clamped = if clamped < EXP_MAX { clamped } else { EXP_MAX };
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (clamped - k * LN2_HI) - k * LN2_LO;
    let r2 = r * r;
    let r4 = r2 * r2;
    let p01 = 1.0 + r;
    let p23 = 0.500_000_000_000_001_9 + 0.166_666_666_666_666_8 * r;
    let p45 = 0.041_666_666_666_487_38 + 0.008_333_333_333_319_546 * r;
    let p67 = 0.001_388_888_895_250_540_6 + 0.000_198_412_698_901_937_05 * r;
    let p89 = 2.480_148_527_837_006_2e-5 + 2.755_724_076_173_925_7e-6 * r;
    let p1011 = 2.763_271_507_163_225_5e-7 + 2.511_009_561_188_623_8e-8 * r;
    let high = (p45 + p67 * r2) + (p89 + p1011 * r2) * r4;
    // The large terms are added last so that their rounding dominates.
    let p = p01 + (p23 * r2 + high * r4);
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x >= EXP_MIN { p * scale } else { 0.0 }
}

/// ln x within 2 ulp for normal positive x (the polynomial of fdlibm's `log`).
#[inline(always)]
pub(crate) fn ln(x: f64) -> f64 {
    /// Bits of √½ rounded down, so that the mantissa lies in [√½, √2).
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    let shifted = x.to_bits().wrapping_add(ONE.wrapping_sub(SQRT_HALF));
    let m = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff).wrapping_add(SQRT_HALF));
    // 2⁵² + biased exponent, as a double, without an integer conversion.
    let k = f64::from_bits((shifted >> 52) | 0x4330_0000_0000_0000)
        - (4_503_599_627_370_496.0 + 1023.0);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let t1 = w
        * (0.399_999_999_994_094_2 + w * (0.222_221_984_321_497_84 + w * 0.153_138_376_992_093_73));
    let t2 = z
        * (0.666_666_666_666_673_5
            + w * (0.285_714_287_436_623_9
                + w * (0.181_835_721_616_180_5 + w * 0.147_981_986_051_165_86)));
    let half = 0.5 * f * f;
    k * LN2_HI - ((half - (s * (half + (t1 + t2)) + k * LN2_LO)) - f)
}

/// ln(1 + e) for 0 ≤ e ≤ 1, accurate for small e.
#[inline(always)]
pub(crate) fn ln_1p(e: f64) -> f64 {
    let u = 1.0 + e;
    ln(u) + (e - (u - 1.0)) / u
}

/// Σ xᵢ yᵢ in a fixed lane order.
#[inline(always)]
pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut acc = [0.0; LANES];
    let (xc, yc) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail: f64 = xc
        .remainder()
        .iter()
        .zip(yc.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in xc.zip(yc) {
        for i in 0..LANES {
            acc[i] += a[i] * b[i];
        }
    }
    tail + tree_sum(&acc)
}

/// Pairwise sum of the lanes.
#[inline(always)]
pub(crate) fn tree_sum(acc: &[f64; LANES]) -> f64 {
    ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(a: f64, b: f64) -> u64 {
        a.to_bits().abs_diff(b.to_bits())
    }

    #[test]
    fn exp_and_ln_are_within_two_units_in_the_last_place() {
        let mut x = -707.9f64;
        while x < 708.9 {
            assert!(ulps(exp(x), x.exp()) <= 2, "exp({x})");
            x += 0.013_7;
        }
        let mut y = 1e-300f64;
        while y < 1e300 {
            assert!(ulps(ln(y), y.ln()) <= 2, "ln({y})");
            y *= 1.37;
        }
        for i in 1..4000 {
            let y = 0.5 + f64::from(i) * 0.000_7;
            assert!(ulps(ln(y), y.ln()) <= 2, "ln({y})");
            let e = f64::from(i) / 4000.0;
            assert!((ln_1p(e * e * e) - (e * e * e).ln_1p()).abs() <= 4e-16 * (e * e * e).ln_1p());
        }
    }

    #[test]
    fn exp_of_minus_infinity_is_zero_and_one_is_exact() {
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e5), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln_1p(0.0), 0.0);
    }
}
