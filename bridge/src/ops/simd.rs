//! Run-time choice of the vector instructions, sums in a fixed order, and an exponential that vectorises.

use pulp::Arch;
use rayon::prelude::*;

/// Runs `work` compiled for the widest vector instructions of this processor.
///
/// `work` itself and all that it calls must be `#[inline(always)]`: a closure without it is compiled for the oldest
/// processor, where each multiply-add is a call into the C library and a training step takes three times as long.
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(work)
}

/// Runs `work` on a thread of the pool, where there are several: its pieces then start without waking the pool for each of them.
pub(crate) fn among_threads<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if rayon::current_num_threads() == 1 || rayon::current_thread_index().is_some() {
        return work();
    }
    rayon::scope(|_| work())
}

/// Calls `work(index, piece)` on every `size`-element piece of `data`, in parallel where there are threads.
pub(crate) fn for_each_piece<T: Send>(
    data: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    if rayon::current_num_threads() == 1 || data.len() <= size {
        data.chunks_mut(size)
            .enumerate()
            .for_each(|(i, piece)| work(i, piece));
    } else {
        data.par_chunks_mut(size)
            .enumerate()
            .for_each(|(i, piece)| work(i, piece));
    }
}

/// Splits `data` into consecutive parts of the given lengths.
pub(crate) fn split_parts<T>(
    mut data: &mut [T],
    lengths: impl IntoIterator<Item = usize>,
) -> Vec<&mut [T]> {
    let mut parts = Vec::new();
    for length in lengths {
        let (part, rest) = data.split_at_mut(length);
        parts.push(part);
        data = rest;
    }
    parts
}

/// Independent running sums; their number, not that of the processor's lanes, fixes the order of addition.
pub(crate) const LANES: usize = 16;

/// The same feature of sixteen rows side by side.
pub(crate) type Panel = [f32; 16];

/// What a formula is written over once: a number of one row, or a [`Panel`]. The operations are those of `f32`, number by number, so that a
/// row has the same bits either way.
pub(crate) trait Number: Copy {
    fn of(value: f32) -> Self;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// `self · factor + other`, rounded once.
    fn times_plus(self, factor: Self, other: Self) -> Self;
    fn over(self, divisor: f32) -> Self;
    /// `1/√self`.
    fn inverse_root(self) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn times_plus(self, factor: Self, other: Self) -> Self {
        self.mul_add(factor, other)
    }

    #[inline(always)]
    fn over(self, divisor: f32) -> Self {
        self / divisor
    }

    #[inline(always)]
    fn inverse_root(self) -> Self {
        1.0 / self.sqrt()
    }
}

/// Loops and no iterators: what is not inlined would be compiled for the oldest processor.
impl Number for Panel {
    #[inline(always)]
    fn of(value: f32) -> Self {
        [value; 16]
    }

    #[inline(always)]
    fn plus(mut self, other: Self) -> Self {
        for i in 0..16 {
            self[i] = self[i].plus(other[i]);
        }
        self
    }

    #[inline(always)]
    fn minus(mut self, other: Self) -> Self {
        for i in 0..16 {
            self[i] = self[i].minus(other[i]);
        }
        self
    }

    #[inline(always)]
    fn times(mut self, other: Self) -> Self {
        for i in 0..16 {
            self[i] = self[i].times(other[i]);
        }
        self
    }

    #[inline(always)]
    fn times_plus(mut self, factor: Self, other: Self) -> Self {
        for i in 0..16 {
            self[i] = self[i].times_plus(factor[i], other[i]);
        }
        self
    }

    #[inline(always)]
    fn over(mut self, divisor: f32) -> Self {
        for x in &mut self {
            *x = x.over(divisor);
        }
        self
    }

    #[inline(always)]
    fn inverse_root(mut self) -> Self {
        for x in &mut self {
            *x = x.inverse_root();
        }
        self
    }
}

/// `Σ_i f(i)` over `0..n` in [`LANES`] interleaved sums, added up in a fixed tree.
#[inline(always)]
pub(crate) fn lane_sum<T: Number>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::of(0.0); LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum = sum.plus(f(i + lane));
        }
        i += LANES;
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(n - whole) {
        *sum = sum.plus(f(whole + lane));
    }
    fold(lanes)
}

#[inline(always)]
pub(crate) fn fold<T: Number>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = lanes[i].plus(lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ_i a_i b_i`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0.0f32; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(y[lane], lanes[lane]);
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = x.mul_add(*y, lanes[lane]);
    }
    fold(lanes)
}

/// Squared Euclidean norm: of pieces side by side, added up in their order.
pub(crate) fn norm_squared(values: &[f32]) -> f64 {
    const PIECE: usize = 4096;
    const TOGETHER: usize = 16;
    let mut squares = vec![0.0; values.len().div_ceil(PIECE)];
    for_each_piece(&mut squares, TOGETHER, |i, squares| {
        let pieces = values[i * TOGETHER * PIECE..].chunks(PIECE);
        for (square, piece) in squares.iter_mut().zip(pieces) {
            *square = f64::from(vectorized(
                #[inline(always)]
                || dot(piece, piece),
            ));
        }
    });
    squares.iter().sum()
}

/// The largest element, `-inf` of none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    let largest = |a: f32, &b: &f32| if b > a { b } else { a };
    let top = lanes.iter().fold(f32::NEG_INFINITY, largest);
    rest.iter().fold(top, largest)
}

/// `e^x` to 1.5 ulp for `x ≤ 88`; results below the normal numbers are zero, NaN stays NaN.
///
/// `2^f` on `[-½, ½]` is a polynomial of degree 6 with relative error 2e-9 (fitted for the largest error by reweighted least
/// squares); the integer part is put into the exponent. No branch and no conversion, so that a loop of it vectorises.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves the nearest integer in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x < -87.0 { -87.0 } else { x };
    let shifted = bounded.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(-LN2_HIGH, bounded);
    let f = whole.mul_add(-LN2_LOW, rest) * std::f32::consts::LOG2_E;
    let mut p = 1.534_580_7e-4f32;
    p = p.mul_add(f, 1.339_993_5e-3);
    p = p.mul_add(f, 9.618_489e-3);
    p = p.mul_add(f, 5.550_328_8e-2);
    p = p.mul_add(f, 2.402_264_7e-1);
    p = p.mul_add(f, 6.931_472e-1);
    p = p.mul_add(f, 1.0);
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * scale }
}

/// `tanh x` to 4e-7 relative: a polynomial near 0, where the quotient of exponentials would cancel.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -8.863_235_5e-3f32; // −1382/155925, 62/2835, −17/315, 2/15, −1/3
    p = p.mul_add(square, 2.186_948_8e-2);
    p = p.mul_add(square, -5.396_825_4e-2);
    p = p.mul_add(square, 1.333_333_4e-1);
    p = p.mul_add(square, -3.333_333_4e-1);
    let near = x * p.mul_add(square, 1.0);
    let e = exp(-2.0 * x.abs());
    let far = (1.0 - e) / (1.0 + e);
    let far = if x < 0.0 { -far } else { far };
    if square < 0.16 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_ulps() {
        let mut worst = 0.0f64;
        for i in 0..1_750_000 {
            let x = -87.0 + i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            worst = worst.max((got / want - 1.0).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_hyperbolic_tangent_keeps_its_relative_accuracy() {
        let mut worst = 0.0f64;
        for i in 1..200_000 {
            let x = i as f32 * 1e-4;
            for x in [x, -x, x * 1e-3] {
                let want = f64::from(x).tanh();
                worst = worst.max((f64::from(tanh(x)) / want - 1.0).abs());
            }
        }
        assert!(worst < 4e-7, "{worst:e}");
        assert_eq!((tanh(0.0), tanh(100.0), tanh(-100.0)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_of_any_length() {
        for n in 0..70 {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let want: f64 = a.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((f64::from(dot(&a, &a)) - want).abs() < 1e-5);
            assert!((f64::from(lane_sum(n, |i| a[i] * a[i])) - want).abs() < 1e-5);
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
