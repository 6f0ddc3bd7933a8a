//! Moments in 8 bits, block by block.
//!
//! A tensor of `n` values, row-major, is cut into `⌈n/256⌉` blocks (the last may be shorter). Each block has one `f32` scale
//! `s = max(max_i |x_i| / 1.875, 2⁻¹¹⁰)`, each value one byte, a small float `c` with `x ≈ s c`:
//!
//! | moment | sign | exponent | fraction | value of `E > 0` | value of `E = 0` | largest |
//! |---|---|---|---|---|---|---|
//! | `m` | 1 bit | 4 bits | 3 bits | `± 2^(E−15) (1 + F/8)` | `± 2⁻¹⁷ F` | 1.875 |
//! | `v` | none | 5 bits | 3 bits | `2^(E−31) (1 + F/8)` | `2⁻³³ F` | 1.875 |
//!
//! The fifth exponent bit of `v` does what storing `√v` would: `√v` has the range of `m`. Rounding to the nearest code would
//! freeze a moment whose step is below half a code (`β₂ = 0.999` moves `v` by 0.1%, codes are 6 to 12% apart), so `x` between
//! neighbours `a < b` becomes `b` for a share `(x−a)/(b−a)` of the steps: rounded down after adding `u_{i,t} (b−a)`, with
//! `u_{i,t} = frac(i α + t φ)`, a rotation by the golden ratio in the step `t`. The share is met to `O(log T / T)` over `T` steps,
//! there is no state, and the same step has the same bits. The error of one value is below `b − a`: an eighth of it where `E > 0`.
//!
//! A nonzero `v` never gets code 0, so `m/√v` cannot explode. Moments of a step are decoded, moved and used in `f32`.

use super::Factors;
use crate::ops::simd::{for_each_piece, max, vectorized};

/// Values that share a scale.
pub(super) const BLOCK: usize = 256;
/// Tensors with fewer values keep `f32` moments.
pub(super) const SMALLEST: usize = 4096;

const TOP: f32 = 1.875;
/// `2⁻¹¹⁰`: times the smallest code, `2⁻³³`, still a positive `f32`.
const FLOOR: f32 = f32::from_bits((127 - 110) << 23);
/// Adding it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// One tensor's moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Codes {
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
}

impl Codes {
    pub fn zeros(count: usize) -> Self {
        let scales = vec![0.0; count.div_ceil(BLOCK)];
        Self {
            codes: vec![0; count],
            scales,
        }
    }

    pub fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.scales.len()
    }
}

#[inline(always)]
const fn power(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

/// `code` without sign, of a type whose largest exponent is `last`.
#[inline(always)]
fn decode(code: u32, last: u32) -> f32 {
    let small = code as i32 as f32 * power(-(last as i32) - 2);
    let normal = f32::from_bits(code.wrapping_add((127 - last) << 3) << 20);
    if code < 8 { small } else { normal }
}

/// The inverse for `y ≥ 0`, rounded up for a share of the 20-bit `dither`. Nothing here can overflow; additions wrap, because a check
/// for it would keep the loops around this from running on vectors.
#[inline(always)]
fn encode(y: f32, dither: u32, last: u32) -> u32 {
    let u = dither as i32 as f32 * power(-20) - 0.5;
    let small = (y.mul_add(power(last as i32 + 2), u) + ROUND)
        .to_bits()
        .wrapping_sub(ROUND.to_bits());
    let normal = (y.to_bits().wrapping_add(dither) >> 20).wrapping_sub((127 - last) << 3);
    if y < power(1 - last as i32) {
        small
    } else {
        normal
    }
}

#[inline(always)]
fn dither(index: u32, step: u32) -> u32 {
    index
        .wrapping_mul(0xC13F_A9A9)
        .wrapping_add(step.wrapping_mul(0x9E37_79B9))
        >> 12
}

#[inline(always)]
fn scale_of(largest: f32) -> f32 {
    let s = if largest > f32::MAX {
        f32::MAX
    } else {
        largest
    } / TOP;
    if s > FLOOR { s } else { FLOOR }
}

/// Bytes as words: widened on their own, the loops after it run on vectors of words.
#[inline(always)]
fn widen(codes: &[u8], wide: &mut [u32; BLOCK]) {
    for (w, &c) in wide.iter_mut().zip(codes) {
        *w = u32::from(c);
    }
}

#[inline(always)]
fn narrow(wide: &[u32; BLOCK], codes: &mut [u8]) {
    for (c, &w) in codes.iter_mut().zip(wide) {
        *c = w as u8;
    }
}

#[inline(always)]
fn decode_m(codes: &[u8], scale: f32, out: &mut [f32]) {
    let mut wide = [0; BLOCK];
    widen(codes, &mut wide);
    for (x, &c) in out.iter_mut().zip(&wide) {
        let size = decode(c & 0x7f, 15) * scale;
        *x = f32::from_bits(size.to_bits() | ((c & 0x80) << 24));
    }
}

#[inline(always)]
fn decode_v(codes: &[u8], scale: f32, out: &mut [f32]) {
    let mut wide = [0; BLOCK];
    widen(codes, &mut wide);
    for (x, &c) in out.iter_mut().zip(&wide) {
        *x = decode(c, 31) * scale;
    }
}

#[inline(always)]
fn encode_m(values: &[f32], first: u32, step: u32, codes: &mut [u8]) -> f32 {
    let mut sizes = [0.0; BLOCK];
    let sizes = &mut sizes[..values.len()];
    for (s, x) in sizes.iter_mut().zip(values) {
        *s = x.abs();
    }
    let scale = scale_of(max(sizes));
    let inverse = 1.0 / scale;
    let mut wide = [0; BLOCK];
    let mut index = first;
    for ((w, x), s) in wide.iter_mut().zip(values).zip(sizes.iter()) {
        let code = encode(s * inverse, dither(index, step), 15).min(0x7f);
        *w = code | ((x.to_bits() >> 24) & 0x80);
        index = index.wrapping_add(1);
    }
    narrow(&wide, codes);
    scale
}

#[inline(always)]
fn encode_v(values: &[f32], first: u32, step: u32, codes: &mut [u8]) -> f32 {
    let scale = scale_of(max(values));
    let inverse = 1.0 / scale;
    let mut wide = [0; BLOCK];
    let mut index = first;
    for (w, x) in wide.iter_mut().zip(values) {
        // The other half of the turn: both moments of a weight do not round up together.
        let u = dither(index, step) ^ 0x8_0000;
        let least = u32::from(*x > 0.0);
        *w = encode(x * inverse, u, 31).max(least).min(0xff);
        index = index.wrapping_add(1);
    }
    narrow(&wide, codes);
    scale
}

/// A step on weights of a tensor, of which the one at `start`, a whole number of blocks, is the first: see [`super::AdamW`].
pub(super) fn step(
    w: &mut [f32],
    m: &mut Codes,
    v: &mut Codes,
    (g, start): (&[f32], usize),
    f: &Factors,
) {
    const BLOCKS: usize = 256;
    const PIECE: usize = BLOCK * BLOCKS;
    let codes = m.codes.chunks_mut(PIECE).zip(v.codes.chunks_mut(PIECE));
    let scales = m.scales.chunks_mut(BLOCKS).zip(v.scales.chunks_mut(BLOCKS));
    let mut parts: Vec<_> = w
        .chunks_mut(PIECE)
        .zip(g.chunks(PIECE))
        .zip(codes.zip(scales))
        .collect();
    for_each_piece(&mut parts, 1, |piece, part| {
        let ((w, g), ((mc, vc), (ms, vs))) = &mut part[0];
        vectorized(
            #[inline(always)]
            || {
                let mut first = (start + piece * PIECE) as u32;
                let codes = mc.chunks_mut(BLOCK).zip(vc.chunks_mut(BLOCK));
                let scales = ms.iter_mut().zip(vs.iter_mut());
                let rows = w.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
                for (((mc, vc), (ms, vs)), (w, g)) in codes.zip(scales).zip(rows) {
                    let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
                    let (m, v) = (&mut m[..g.len()], &mut v[..g.len()]);
                    decode_m(mc, *ms, m);
                    decode_v(vc, *vs, v);
                    super::adamw(w, m, v, g, f);
                    *ms = encode_m(m, first, f.step as u32, mc);
                    *vs = encode_v(v, first, f.step as u32, vc);
                    first = first.wrapping_add(BLOCK as u32);
                }
            },
        );
    });
}

#[cfg(test)]
mod tests;
