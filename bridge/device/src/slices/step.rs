//! The length of a gradient and AdamW, operation for operation as the kernels have it: the same bits.

use super::args::{Args, at, put};
use std::cell::Cell;

/// Σ g² of each block's elements.
pub(super) fn squares_partial(a: &Args<'_>) {
    let (g, partial) = (a.cells::<f32>(0), a.cells::<f64>(1));
    let (count, chunk) = (a.size(2), a.size(3));
    for (block, sum) in partial[..a.grid()[0]].iter().enumerate() {
        let part = &g[block * chunk..count.min((block + 1) * chunk)];
        sum.set(part.iter().map(|g| f64::from(g.get()).powi(2)).sum());
    }
}

/// The length, and the factor that clipping gives.
pub(super) fn gradient_norm(a: &Args<'_>) {
    let (partial, norm) = (a.cells::<f64>(0), a.cells::<f32>(1));
    let (count, longest) = (a.size(2), a.single(3));
    let length = partial[..count].iter().map(Cell::get).sum::<f64>().sqrt();
    put(norm, 0, length as f32);
    let clip = match longest > 0.0 {
        true => f64::from(longest) / (length + 1e-6),
        false => 1.0,
    };
    let finite = length <= f64::from(f32::MAX);
    put(norm, 1, if finite { clip.min(1.0) as f32 } else { -1.0 });
}

fn joined(high: u16, low: u16) -> f32 {
    let bits = u32::from(high) << 16 | u32::from(low);
    f32::from_bits(bits.wrapping_sub(if low & 0x8000 != 0 { 0x10000 } else { 0 }))
}

fn halves(x: f32) -> (u16, u16) {
    let bits = x.to_bits();
    ((bits.wrapping_add(0x8000) >> 16) as u16, bits as u16)
}

/// x to its nearest bfloat16 and its low 16 bits.
pub(super) fn split(a: &Args<'_>) {
    let (x, high, low) = (a.cells::<f32>(0), a.cells::<u16>(1), a.cells::<u16>(2));
    for i in 0..a.size(3) {
        let (h, l) = halves(at(x, i));
        high[i].set(h);
        low[i].set(l);
    }
}

/// The float of both halves.
pub(super) fn join(a: &Args<'_>) {
    let (high, low, x) = (a.cells::<u16>(0), a.cells::<u16>(1), a.cells::<f32>(2));
    for i in 0..a.size(3) {
        put(x, i, joined(high[i].get(), low[i].get()));
    }
}

/// Numbers that all weights share.
struct Adam {
    decay1: f32,
    decay2: f32,
    keep: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
}

impl Adam {
    fn new(a: &Args<'_>, first: usize) -> Self {
        let n = |i: usize| a.single(first + i);
        Self {
            decay1: n(0),
            decay2: n(1),
            keep: n(2),
            rate: n(3),
            root: n(4),
            epsilon: n(5),
        }
    }

    /// The weight after a step; both moments are changed.
    fn weight(&self, w: f32, m: &mut f32, v: &mut f32, g: f32) -> f32 {
        *m = self.decay1.mul_add(*m, (1.0 - self.decay1) * g);
        *v = self.decay2.mul_add(*v, (1.0 - self.decay2) * (g * g));
        w * self.keep - self.rate * *m / v.sqrt().mul_add(self.root, self.epsilon)
    }
}

/// Where a weight is kept.
enum Weights<'m> {
    Whole(&'m [Cell<f32>]),
    Split(&'m [Cell<u16>], &'m [Cell<u16>]),
}

impl Weights<'_> {
    fn get(&self, i: usize) -> f32 {
        match self {
            Self::Whole(w) => at(w, i),
            Self::Split(high, low) => joined(high[i].get(), low[i].get()),
        }
    }

    fn set(&self, i: usize, value: f32) {
        match self {
            Self::Whole(w) => put(w, i, value),
            Self::Split(high, low) => {
                let (h, l) = halves(value);
                high[i].set(h);
                low[i].set(l);
            }
        }
    }
}

/// A step with moments in f32, whose arguments begin at `first`.
fn plain(a: &Args<'_>, weights: &Weights<'_>, first: usize) {
    let [m, v, g, norm] = [0, 1, 2, 3].map(|i| a.cells::<f32>(first + i));
    let (count, adam, clip) = (a.size(first + 4), Adam::new(a, first + 5), at(norm, 1));
    // Of a gradient that is not finite.
    if clip.is_nan() || clip < 0.0 {
        return;
    }
    for i in 0..count {
        let (mut m1, mut v1) = (at(m, i), at(v, i));
        weights.set(
            i,
            adam.weight(weights.get(i), &mut m1, &mut v1, at(g, i) * clip),
        );
        put(m, i, m1);
        put(v, i, v1);
    }
}

pub(super) fn adamw(a: &Args<'_>) {
    plain(a, &Weights::Whole(a.cells(0)), 1);
}

pub(super) fn adamw_split(a: &Args<'_>) {
    plain(a, &Weights::Split(a.cells(0), a.cells(1)), 2);
}

/// Values of a block of codes.
const CODES: usize = 256;

fn power(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

fn decoded(code: u32, last: i32) -> f32 {
    match code < 8 {
        true => code as f32 * power(-last - 2),
        false => f32::from_bits((code + (((127 - last) as u32) << 3)) << 20),
    }
}

fn encoded(y: f32, dither: u32, last: i32) -> u32 {
    if y < power(1 - last) {
        let u = dither as f32 * power(-20) - 0.5;
        let shifted = y.mul_add(power(last + 2), u) + 12_582_912.0;
        return shifted.to_bits().wrapping_sub(12_582_912f32.to_bits());
    }
    (y.to_bits().wrapping_add(dither) >> 20).wrapping_sub(((127 - last) as u32) << 3)
}

fn scale_of(largest: f32) -> f32 {
    (largest.min(f32::MAX) / 1.875).max(power(-110))
}

/// A step with moments in 8 bits, whose arguments begin at `first`.
fn eight_bit(a: &Args<'_>, weights: &Weights<'_>, first: usize) {
    let [m_codes, v_codes] = [0, 2].map(|i| a.cells::<u8>(first + i));
    let [m_scales, v_scales, g, norm] = [1, 3, 4, 5].map(|i| a.cells::<f32>(first + i));
    let (count, adam) = (a.size(first + 6), Adam::new(a, first + 7));
    let (step, clip) = (a.size(first + 13) as u32, at(norm, 1));
    // Of a gradient that is not finite.
    if clip.is_nan() || clip < 0.0 {
        return;
    }
    for block in 0..count.div_ceil(CODES) {
        let mut moments = [(0.0f32, 0.0f32); CODES];
        let range = block * CODES..count.min((block + 1) * CODES);
        for (i, (m, v)) in range.clone().zip(&mut moments) {
            let code = m_codes[i].get();
            let size = decoded(u32::from(code & 0x7f), 15) * at(m_scales, block);
            *m = if code & 0x80 != 0 { -size } else { size };
            *v = decoded(v_codes[i].get().into(), 31) * at(v_scales, block);
            weights.set(i, adam.weight(weights.get(i), m, v, at(g, i) * clip));
        }
        let largest = |f: fn(&(f32, f32)) -> f32| moments.iter().map(f).fold(0.0, f32::max);
        let (m_scale, v_scale) = (scale_of(largest(|x| x.0.abs())), scale_of(largest(|x| x.1)));
        for (i, (m, v)) in range.zip(moments) {
            let turn = (i as u32).wrapping_mul(0xC13F_A9A9);
            let dither = turn.wrapping_add(step.wrapping_mul(0x9E37_79B9)) >> 12;
            let m_code = encoded(m.abs() * (1.0 / m_scale), dither, 15).min(0x7f);
            let sign = (m.to_bits() >> 24) & 0x80;
            m_codes[i].set((m_code | sign) as u8);
            let v_code = match encoded(v * (1.0 / v_scale), dither ^ 0x80000, 31) {
                0 if v > 0.0 => 1,
                code => code.min(0xff),
            };
            v_codes[i].set(v_code as u8);
        }
        put(m_scales, block, m_scale);
        put(v_scales, block, v_scale);
    }
}

pub(super) fn adamw_eight_bit(a: &Args<'_>) {
    eight_bit(a, &Weights::Whole(a.cells(0)), 1);
}

pub(super) fn adamw_eight_bit_split(a: &Args<'_>) {
    eight_bit(a, &Weights::Split(a.cells(0), a.cells(1)), 2);
}
