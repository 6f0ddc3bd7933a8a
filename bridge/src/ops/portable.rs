//! The exponential of sampling and generation: multiplications and additions alone, so that a draw does not depend on whether a machine
//! fuses them.

const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first with so few bits that its product with an exponent is exact.
const LN2_HI: f32 = 355.0 / 512.0;
const LN2_LO: f32 = -2.121_944_4e-4;

/// eˣ to 2e-7 relative for −87 ≤ x ≤ 88; 0 below, e⁸⁸ above, NaN for NaN. Polynomial: Chebyshev fit on |r| ≤ 0.3475.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (clamped - k * LN2_HI) - k * LN2_LO;
    let high = 0.041_666_213 + r * (0.008_375_353 + r * 0.001_394_890_1);
    let p = 1.0 + (r + r * r * (0.5 + r * (0.166_664_13 + r * high)));
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_accurate() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({x}): {error}");
        }
        assert_eq!(
            (exp(-90.0), exp(f32::NEG_INFINITY), exp(0.0)),
            (0.0, 0.0, 1.0)
        );
        assert!(exp(f32::NAN).is_nan());
    }
}
