//! Branch-free exp and ln that the compiler vectorises, and run-time choice of the vector width.
//!
//! [`exp`] and [`ln`] use only plain multiplications and additions in a fixed order (no fused multiply-add, no
//! reassociation), so their results do not depend on the width that was chosen; what fuses them says so.

use pulp::bytemuck::cast;
use pulp::{Arch, Simd, WithSimd};

/// Values handled side by side.
pub(crate) const LANES: usize = 8;

/// A loop to compile for the widest vectors the machine has. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

struct Widest<K>(K);

impl<K: Kernel> WithSimd for Widest<K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> K::Output {
        self.0.run(simd)
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

/// eˣ within 2 ulp for −708 ≤ x ≤ 709; 0 below, e⁷⁰⁹ above, NaN for NaN.
///
/// Polynomial of degree 11: Chebyshev interpolation of eʳ on |r| ≤ 0.3468 (relative error 2e-17).
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let clamped = if x < EXP_MIN { EXP_MIN } else { x };
    let clamped = if clamped > EXP_MAX { EXP_MAX } else { clamped };
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
    if x < EXP_MIN { 0.0 } else { p * scale }
}

/// ln x within 2 ulp for normal positive x, NaN for NaN and infinities (the polynomial of fdlibm's `log`).
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
    let value = k * LN2_HI - ((half - (s * (half + (t1 + t2)) + k * LN2_LO)) - f);
    // NaN and infinities have no exponent to read.
    if x < f64::INFINITY { value } else { f64::NAN }
}

/// Σ xᵢ yᵢ in a fixed lane order, multiply–adds fused where the machine can.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, x: &[f64], y: &[f64]) -> f64 {
    let whole = x.len() / LANES * LANES;
    let (xs, ys) = (
        S::as_simd_f64s(&x[..whole]).0,
        S::as_simd_f64s(&y[..whole]).0,
    );
    let width = LANES / S::F64_LANES;
    let mut acc = [simd.splat_f64s(0.0); LANES];
    for (a, b) in xs.chunks_exact(width).zip(ys.chunks_exact(width)) {
        for i in 0..width {
            acc[i] = simd.mul_add_e_f64s(a[i], b[i], acc[i]);
        }
    }
    let mut half = width / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = simd.add_f64s(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    let tail: f64 = x[whole..].iter().zip(&y[whole..]).map(|(a, b)| a * b).sum();
    tail + simd.reduce_sum_f64s(acc[0])
}

/// out += w·x, entry by entry, for several rows: out[j..] += Σ_r w_r x_r[j..] over `VECTORS`·lanes columns.
#[inline(always)]
pub(crate) fn add_rows<S: Simd, const VECTORS: usize>(
    simd: S,
    rows: &[f64],
    d: usize,
    j: usize,
    w: &[f64],
    out: &mut [f64],
) {
    let mut acc = [simd.splat_f64s(0.0); VECTORS];
    for (x, w) in rows.chunks_exact(d).zip(w) {
        let x = S::as_simd_f64s(&x[j..j + VECTORS * S::F64_LANES]).0;
        let w = simd.splat_f64s(*w);
        for i in 0..VECTORS {
            acc[i] = simd.mul_add_e_f64s(w, x[i], acc[i]);
        }
    }
    let out = S::as_mut_simd_f64s(&mut out[j..j + VECTORS * S::F64_LANES]).0;
    for i in 0..VECTORS {
        out[i] = simd.add_f64s(out[i], acc[i]);
    }
}

/// Pairwise sum of the lanes.
#[inline(always)]
pub(crate) fn tree_sum(acc: &[f64; LANES]) -> f64 {
    ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]))
}

/// eˣ on a vector of non-positive numbers, within 2 ulp + |x|·1e-16; below e⁻⁷⁰⁸ for x < −708, NaN for NaN.
/// Multiply–adds are fused where the machine can, so the last bit may differ between kinds of CPU.
///
/// 2ᵏ·2ᶠ with k the integer nearest to x·log₂e. Polynomial of degree 10: Chebyshev interpolation of 2ᶠ on |f| ≤ ½
/// (relative error 3e-16).
#[inline(always)]
pub(crate) fn exp_vector<S: Simd>(simd: S, x: S::f64s) -> S::f64s {
    /// 1.5·2²⁰ moves the integer part into the high word, 1023 is the bias of the exponent, ½ rounds.
    const HIGH: f64 = 1_572_864.0 + 1023.0;
    let lowest = simd.splat_f64s(EXP_MIN);
    // Vector maxima keep a NaN in the second place, the scalar one does not.
    let x = if S::F64_LANES == 1 {
        simd.select_f64s(simd.less_than_f64s(x, lowest), lowest, x)
    } else {
        simd.max_f64s(lowest, x)
    };
    let log2e = simd.splat_f64s(std::f64::consts::LOG2_E);
    let shifted = simd.mul_add_e_f64s(x, log2e, simd.splat_f64s(HIGH + 0.5));
    let floor = simd.and_u64s(
        simd.transmute_u64s_f64s(shifted),
        simd.splat_u64s(0xffff_ffff_0000_0000),
    );
    let k = simd.sub_f64s(simd.splat_f64s(HIGH), simd.transmute_f64s_u64s(floor));
    let f = simd.mul_add_e_f64s(x, log2e, k);
    let p = exp2_polynomial(simd, f);
    // Vectors have no 64-bit shift here; the low words are 0, so shifting both words does it.
    let bits: S::u64s = if S::F64_LANES == 1 {
        cast(cast::<S::u64s, u64>(floor) << 20)
    } else {
        cast(simd.wrapping_dyn_shl_u32s(cast(floor), simd.splat_u32s(20)))
    };
    simd.mul_f64s(p, simd.transmute_f64s_u64s(bits))
}

/// σ(−|z|) and ln(1 + e^{−|z|}), the loss of a margin of size |z|: 0 for infinities, NaN for NaN; each within 4 ulp + |z|·1e-16.
/// Multiply–adds are fused where the machine can.
///
/// With e = e^{−|z|} and s = e/(2 + e), ln(1 + e) = 2 artanh s; one division serves both. Polynomial of degree 9 in s² for
/// 2 artanh(s)/s: Chebyshev interpolation on s² ≤ 1/9 (relative error 5e-17).
#[inline(always)]
pub(crate) fn logistic_tail<S: Simd>(simd: S, z: S::f64s) -> (S::f64s, S::f64s) {
    let (one, two) = (simd.splat_f64s(1.0), simd.splat_f64s(2.0));
    let size = simd.abs_f64s(z);
    let e = exp_vector(simd, simd.sub_f64s(simd.splat_f64s(0.0), size));
    // What lies beyond the range of e^{−|z|} has none.
    let beyond = simd.less_than_f64s(simd.splat_f64s(-EXP_MIN), size);
    let e = simd.select_f64s(beyond, simd.splat_f64s(0.0), e);
    let (a, b) = (simd.add_f64s(one, e), simd.add_f64s(two, e));
    let share = simd.div_f64s(e, simd.mul_f64s(a, b));
    let (tail, s) = (simd.mul_f64s(share, b), simd.mul_f64s(share, a));
    (
        tail,
        simd.mul_f64s(s, artanh_polynomial(simd, simd.mul_f64s(s, s))),
    )
}

/// Coefficients of 2 artanh(√y)/√y.
const ARTANH: [f64; 10] = [
    2.0,
    0.666_666_666_666_825_7,
    0.399_999_999_952_876,
    0.285_714_291_116_571_6,
    0.222_221_908_613_462_84,
    0.181_828_598_004_739_1,
    0.153_636_762_489_162_6,
    0.135_913_054_855_798_4,
    0.098_807_890_487_647_86,
    0.177_807_638_261_133_03,
];

/// 2 artanh(√y)/√y for 0 ≤ y ≤ 1/9.
#[inline(always)]
fn artanh_polynomial<S: Simd>(simd: S, y: S::f64s) -> S::f64s {
    let y2 = simd.mul_f64s(y, y);
    let y4 = simd.mul_f64s(y2, y2);
    let low = simd.mul_add_e_f64s(
        line(simd, ARTANH[4], ARTANH[5], y),
        y2,
        line(simd, ARTANH[2], ARTANH[3], y),
    );
    let high = simd.mul_add_e_f64s(
        line(simd, ARTANH[8], ARTANH[9], y),
        y2,
        line(simd, ARTANH[6], ARTANH[7], y),
    );
    let rest = simd.mul_add_e_f64s(high, y4, low);
    simd.mul_add_e_f64s(rest, y2, line(simd, ARTANH[0], ARTANH[1], y))
}

/// Coefficients of 2ᶠ.
#[allow(clippy::approx_constant)] // a fitted coefficient, close to ln 2 and not it
const EXP2: [f64; 11] = [
    1.0,
    0.693_147_180_559_95,
    0.240_226_506_959_100_97,
    0.055_504_108_664_447_716,
    0.009_618_129_107_606_888,
    0.001_333_355_823_016_507_4,
    0.000_154_035_304_417_361_1,
    1.525_265_726_013_954_7e-5,
    1.321_544_258_788_63e-6,
    1.020_869_031_221_652_3e-7,
    7.072_585_956_347_123e-9,
];

/// 2ᶠ for |f| ≤ ½.
#[inline(always)]
fn exp2_polynomial<S: Simd>(simd: S, f: S::f64s) -> S::f64s {
    let f2 = simd.mul_f64s(f, f);
    let f4 = simd.mul_f64s(f2, f2);
    let p01 = line(simd, EXP2[0], EXP2[1], f);
    let p23 = line(simd, EXP2[2], EXP2[3], f);
    let p45 = line(simd, EXP2[4], EXP2[5], f);
    let p67 = line(simd, EXP2[6], EXP2[7], f);
    let p89 = line(simd, EXP2[8], EXP2[9], f);
    let low = simd.mul_add_e_f64s(p67, f2, p45);
    let high = simd.mul_add_e_f64s(simd.splat_f64s(EXP2[10]), f2, p89);
    let high = simd.mul_add_e_f64s(high, f4, low);
    let rest = simd.mul_add_e_f64s(high, f2, p23);
    simd.mul_add_e_f64s(rest, f2, p01)
}

/// c₀ + c₁y.
#[inline(always)]
fn line<S: Simd>(simd: S, c0: f64, c1: f64, y: S::f64s) -> S::f64s {
    simd.mul_add_e_f64s(simd.splat_f64s(c1), y, simd.splat_f64s(c0))
}

/// tᵢ = (rᵢ + nᵢ)·scale + pᵢ into `out` (n = 0 where `next` is `None`), and into `top` the larger of it and every t of its lane.
/// Every slice has the same length, a multiple of [`LANES`].
#[inline(always)]
pub(crate) fn soft_logits<S: Simd>(
    simd: S,
    reward: &[f64],
    next: Option<&[f64]>,
    log_reference: &[f64],
    scale: f64,
    out: &mut [f64],
    top: &mut S::f64s,
) {
    let scale = simd.splat_f64s(scale);
    let (r, p) = (S::as_simd_f64s(reward).0, S::as_simd_f64s(log_reference).0);
    let t = S::as_mut_simd_f64s(out).0;
    match next {
        Some(next) => {
            let n = S::as_simd_f64s(next).0;
            for (((t, r), p), n) in t.iter_mut().zip(r).zip(p).zip(n) {
                *t = simd.mul_add_e_f64s(simd.add_f64s(*r, *n), scale, *p);
                *top = simd.max_f64s(*top, *t);
            }
        }
        None => {
            for ((t, r), p) in t.iter_mut().zip(r).zip(p) {
                *t = simd.mul_add_e_f64s(*r, scale, *p);
                *top = simd.max_f64s(*top, *t);
            }
        }
    }
}

/// [`soft_logits`] of one block and [`exp_shifted`] of another as large, vector by vector in turn: the loads of the one overlap with the
/// arithmetic of the other.
#[inline(always)]
pub(crate) fn soft_logits_beside_exp<S: Simd>(
    simd: S,
    (reward, next, log_reference): (&[f64], Option<&[f64]>, &[f64]),
    scale: f64,
    (logits, top): (&mut [f64], &mut S::f64s),
    (t, shift, weights): (&[f64], f64, &mut [f64]),
) {
    let (scale, shift) = (simd.splat_f64s(scale), simd.splat_f64s(shift));
    let inputs = S::as_simd_f64s(reward)
        .0
        .iter()
        .zip(S::as_simd_f64s(log_reference).0);
    let outputs = S::as_mut_simd_f64s(logits).0.iter_mut();
    let exponentials = S::as_mut_simd_f64s(weights)
        .0
        .iter_mut()
        .zip(S::as_simd_f64s(t).0);
    let all = inputs.zip(outputs).zip(exponentials);
    match next {
        Some(next) => {
            for ((((r, p), l), (w, t)), n) in all.zip(S::as_simd_f64s(next).0) {
                *l = simd.mul_add_e_f64s(simd.add_f64s(*r, *n), scale, *p);
                *top = simd.max_f64s(*top, *l);
                *w = exp_vector(simd, simd.sub_f64s(*t, shift));
            }
        }
        None => {
            for (((r, p), l), (w, t)) in all {
                *l = simd.mul_add_e_f64s(*r, scale, *p);
                *top = simd.max_f64s(*top, *l);
                *w = exp_vector(simd, simd.sub_f64s(*t, shift));
            }
        }
    }
}

/// exp(tᵢ − shift), shift ≥ every entry; both slices have the same length, a multiple of [`LANES`].
#[inline(always)]
pub(crate) fn exp_shifted<S: Simd>(simd: S, t: &[f64], shift: f64, out: &mut [f64]) {
    let shift = simd.splat_f64s(shift);
    let out = S::as_mut_simd_f64s(out).0;
    for (o, t) in out.iter_mut().zip(S::as_simd_f64s(t).0) {
        *o = exp_vector(simd, simd.sub_f64s(*t, shift));
    }
}

/// Σ exp(row − shift), shift ≥ every entry; the row's length is a positive multiple of [`LANES`].
#[inline(always)]
pub(crate) fn total_exp<S: Simd>(simd: S, row: &[f64], shift: f64) -> f64 {
    let shift = simd.splat_f64s(shift);
    fold::<S>(
        row,
        #[inline(always)]
        |x| exp_vector(simd, simd.sub_f64s(x, shift)),
        #[inline(always)]
        |a, b| simd.add_f64s(a, b),
        #[inline(always)]
        |a| simd.reduce_sum_f64s(a),
    )
}

/// Combines a row whose length is a positive multiple of [`LANES`] into [`LANES`] running values, chunk by chunk, and
/// those by halving: the same order at every vector width up to [`LANES`].
///
/// Written with explicit vectors: left to itself the compiler turns a loop over such reductions into gathers.
#[inline(always)]
fn fold<S: Simd>(
    row: &[f64],
    map: impl Fn(S::f64s) -> S::f64s,
    join: impl Fn(S::f64s, S::f64s) -> S::f64s,
    last: impl Fn(S::f64s) -> f64,
) -> f64 {
    let (vectors, _) = S::as_simd_f64s(row);
    let width = LANES / S::F64_LANES;
    let mut acc = [vectors[0]; LANES];
    for i in 0..width {
        acc[i] = map(vectors[i]);
    }
    for chunk in vectors[width..].chunks_exact(width) {
        for i in 0..width {
            acc[i] = join(acc[i], map(chunk[i]));
        }
    }
    let mut half = width / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = join(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    last(acc[0])
}

/// The largest entry of a row without NaN.
#[inline(always)]
pub(crate) fn largest<S: Simd>(simd: S, row: &[f64]) -> f64 {
    if !row.len().is_multiple_of(LANES) || row.is_empty() {
        let larger = |a: f64, b: f64| if a > b { a } else { b };
        return row.iter().copied().fold(f64::NEG_INFINITY, larger);
    }
    fold::<S>(
        row,
        #[inline(always)]
        |x| x,
        #[inline(always)]
        |a, b| simd.max_f64s(a, b),
        #[inline(always)]
        |a| simd.reduce_max_f64s(a),
    )
}

/// out = row − shift.
#[inline(always)]
pub(crate) fn subtract<S: Simd>(simd: S, row: &[f64], shift: f64, out: &mut [f64]) {
    let (rows, tail) = S::as_simd_f64s(row);
    let (outs, out_tail) = S::as_mut_simd_f64s(out);
    let wide = simd.splat_f64s(shift);
    for (o, x) in outs.iter_mut().zip(rows) {
        *o = simd.sub_f64s(*x, wide);
    }
    for (o, x) in out_tail.iter_mut().zip(tail) {
        *o = x - shift;
    }
}

#[cfg(test)]
mod tests;
