//! Products of matrices rounded to bf16, summed in f32, with the dot products of pairs that `avx512_bf16` has.
//!
//! Both factors are rounded to the nearest bf16 (ties to even) while they are packed; what is multiplied is exact in f32, and every element of
//! the product is one running sum over pairs of the inner dimension, in blocks of [`DEPTH`] pairs. Each factor is within 2⁻⁹ of what it was, so that an
//! element is within about `2⁻⁸ Σ_k |a_ik b_kj|` of the exact product. Inputs and sums below the normal numbers count as zero.

use super::{Mat, MatMut, Update};
use std::arch::x86_64::*;

/// Rows of a tile of the product, one broadcast each.
const ROWS: usize = 6;
/// Columns of a tile: four vectors.
const COLUMNS: usize = 64;
/// Pairs of the inner dimension of a block.
const DEPTH: usize = 512;
/// Rows of the left factor that stay in the second cache while the right one's panels pass.
const TALL: usize = 21 * ROWS;

/// Two bf16 neighbours along the inner dimension, the earlier one in the low half.
type Pair = u32;

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// `dst = a b` or `dst += a b`; shapes were compared.
///
/// # Panics
/// Where the processor lacks the instructions.
pub(super) fn gemm(dst: MatMut<'_>, update: Update, a: Mat<'_>, b: Mat<'_>) {
    assert!(
        available(),
        "bf16 products were asked for where there are none"
    );
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    assert!(a.cols > 0, "a product over no inner index");
    // SAFETY: the instructions are there. `pack`, `product` and `tile` stay within the slices as they say.
    unsafe { product(dst, update, a, b) }
}

/// # Safety
/// The instructions of [`available`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn product(dst: MatMut<'_>, update: Update, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (dst.rows, dst.cols, a.cols);
    let pairs = k.div_ceil(2).next_multiple_of(16);
    // Rows of pairs: `left [m, pairs]`; panels of columns: `right [n/64, pairs, 64]`.
    let mut left: Vec<Pair> = vec![0; m * pairs];
    let mut right: Vec<Pair> = vec![0; n.div_ceil(COLUMNS) * COLUMNS * pairs];
    // SAFETY: `left` has m rows of `pairs`, `right` as many panels as hold n columns.
    unsafe {
        pack_rows(a, left.as_mut_ptr(), pairs);
        pack_panels(b, right.as_mut_ptr(), pairs);
    }
    let stride = dst.row_stride;
    let out = dst.data.as_mut_ptr();
    for from in (0..pairs).step_by(DEPTH) {
        let depth = DEPTH.min(pairs - from);
        let add = from > 0 || update == Update::Add;
        for top in (0..m).step_by(TALL) {
            let bottom = (top + TALL).min(m);
            for panel in 0..n.div_ceil(COLUMNS) {
                let column = panel * COLUMNS;
                let width = COLUMNS.min(n - column);
                for row in (top..bottom).step_by(ROWS) {
                    // SAFETY: rows `row..bottom`, at most ROWS of them, of `left` from pair `from`; the panel from the same pair; the
                    // tile of `dst`, which the constructor of `MatMut` checked, with `width` columns.
                    unsafe {
                        let left = left.as_ptr().add(row * pairs + from);
                        let right = right.as_ptr().add((panel * pairs + from) * COLUMNS);
                        let out = out.add(row * stride + column);
                        match bottom - row {
                            1 => tile::<1>(left, pairs, right, depth, out, stride, width, add),
                            2 => tile::<2>(left, pairs, right, depth, out, stride, width, add),
                            3 => tile::<3>(left, pairs, right, depth, out, stride, width, add),
                            4 => tile::<4>(left, pairs, right, depth, out, stride, width, add),
                            5 => tile::<5>(left, pairs, right, depth, out, stride, width, add),
                            _ => tile::<ROWS>(left, pairs, right, depth, out, stride, width, add),
                        }
                    }
                }
            }
        }
    }
}

/// The lanes of a vector below `count`.
fn lanes(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// `R` rows by `width ≤ 64` columns of the product, over `depth` pairs.
///
/// # Safety
/// The instructions; `R` rows of `depth` pairs, `row` apart, at `left`; `depth` rows of 64 at `right`; `R` rows of `width`, `stride` apart, at `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile<const R: usize>(
    left: *const Pair,
    row: usize,
    right: *const Pair,
    depth: usize,
    out: *mut f32,
    stride: usize,
    width: usize,
    add: bool,
) {
    // The old content of the tile is on its way while the sums are made.
    if add {
        for r in 0..R {
            for part in (0..width).step_by(16) {
                _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(r * stride + part).cast());
            }
        }
    }
    let mut sums = [[_mm512_setzero_ps(); 4]; R];
    for pair in 0..depth {
        // SAFETY: `pair < depth`, and what the caller promised.
        let columns: [__m512bh; 4] = unsafe {
            let at = right.add(pair * COLUMNS);
            [0, 16, 32, 48].map(|column| as_bf16(_mm512_loadu_si512(at.add(column).cast())))
        };
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above, `r < R`.
            let both = unsafe { *left.add(r * row + pair) };
            let both = as_bf16(_mm512_set1_epi32(both.cast_signed()));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbf16_ps(*sum, both, column);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (part, sum) in sums.iter().enumerate() {
            let mask = lanes(width.saturating_sub(16 * part));
            if mask == 0 {
                continue;
            }
            // SAFETY: the mask keeps to the `width` columns of row `r < R`.
            unsafe {
                let at = out.add(r * stride + 16 * part);
                let sum = match add {
                    true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), *sum),
                    false => *sum,
                };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn as_bf16(pairs: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(pairs) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn as_pairs(values: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(values) }
}

/// Sixteen pairs of up to 32 neighbours.
///
/// # Safety
/// The instructions; `count` floats at `from`.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn along(from: *const f32, count: usize) -> __m512i {
    // SAFETY: the masks keep to `count` floats.
    unsafe {
        let low = _mm512_maskz_loadu_ps(lanes(count), from);
        let high = match count > 16 {
            true => _mm512_maskz_loadu_ps(lanes(count - 16), from.add(16)),
            false => _mm512_setzero_ps(),
        };
        as_pairs(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Sixteen pairs of up to 16 places of two rows; zeros where there is no second.
///
/// # Safety
/// The instructions; `count` floats at `first` and, where it is given, at `second`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn across(first: *const f32, second: Option<*const f32>, count: usize) -> __m512i {
    // SAFETY: the mask keeps to `count` floats.
    let (first, second) = unsafe {
        let load = |from| _mm512_maskz_loadu_ps(lanes(count), from);
        (
            load(first),
            second.map_or_else(|| _mm512_setzero_ps(), load),
        )
    };
    #[rustfmt::skip]
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
    );
    _mm512_permutexvar_epi16(order, as_pairs(_mm512_cvtne2ps_pbh(second, first)))
}

/// The transpose of sixteen rows of sixteen pairs.
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; 16]) {
    let old = *rows;
    for i in 0..8 {
        rows[2 * i] = _mm512_unpacklo_epi32(old[2 * i], old[2 * i + 1]);
        rows[2 * i + 1] = _mm512_unpackhi_epi32(old[2 * i], old[2 * i + 1]);
    }
    let old = *rows;
    for i in 0..4 {
        for half in 0..2 {
            let (upper, lower) = (old[4 * i + half], old[4 * i + 2 + half]);
            rows[4 * i + 2 * half] = _mm512_unpacklo_epi64(upper, lower);
            rows[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(upper, lower);
        }
    }
    // Now vector 4i + c has, in its quarter q, column 4q + c of rows 4i to 4i + 3.
    let old = *rows;
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(old[c], old[4 + c]);
        let high = _mm512_shuffle_i32x4::<0xee>(old[c], old[4 + c]);
        let low2 = _mm512_shuffle_i32x4::<0x44>(old[8 + c], old[12 + c]);
        let high2 = _mm512_shuffle_i32x4::<0xee>(old[8 + c], old[12 + c]);
        rows[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        rows[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        rows[8 + c] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        rows[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
}

/// `a [m, k]` into `out [m, pairs]`, rounded.
///
/// # Safety
/// The instructions; `m · pairs` zeros at `out`, `pairs` a multiple of 16 with `2 pairs ≥ k`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_rows(a: Mat<'_>, out: *mut Pair, pairs: usize) {
    let (m, k, from) = (a.rows, a.cols, a.data.as_ptr());
    // SAFETY: every address below is an element of `a`, whose constructor checked its extent, or one of the m rows of `out`.
    unsafe {
        if a.col_stride == 1 {
            for i in 0..m {
                for pair in (0..k.div_ceil(2)).step_by(16) {
                    let values = along(from.add(i * a.row_stride + 2 * pair), k - 2 * pair);
                    _mm512_storeu_si512(out.add(i * pairs + pair).cast(), values);
                }
            }
            return;
        }
        for pair in (0..k.div_ceil(2)).step_by(16) {
            for i in (0..m).step_by(16) {
                let block = block_across(from.add(i), a.col_stride, pair, k, m - i);
                for (r, row) in block.into_iter().enumerate().take(m - i) {
                    _mm512_storeu_si512(out.add((i + r) * pairs + pair).cast(), row);
                }
            }
        }
    }
}

/// Sixteen rows of pairs `pair..pair + 16` of a matrix whose columns are neighbours' rows: `k` of them, `stride` apart, of which the first `count` places
/// (at most 16) are read.
///
/// # Safety
/// The instructions; the elements named lie within their slice.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn block_across(
    from: *const f32,
    stride: usize,
    pair: usize,
    k: usize,
    count: usize,
) -> [__m512i; 16] {
    let mut block = [_mm512_setzero_si512(); 16];
    for (p, row) in block.iter_mut().enumerate() {
        let first = 2 * (pair + p);
        if first < k {
            // SAFETY: inner indices below k.
            *row = unsafe {
                let second = (first + 1 < k).then(|| from.add((first + 1) * stride));
                across(from.add(first * stride), second, count)
            };
        }
    }
    transpose(&mut block);
    block
}

/// `b [k, n]` into panels of 64 columns, `out [n/64, pairs, 64]`, rounded.
///
/// # Safety
/// The instructions; that many zeros at `out`, `pairs` a multiple of 16 with `2 pairs ≥ k`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_panels(b: Mat<'_>, out: *mut Pair, pairs: usize) {
    let (k, n, from) = (b.rows, b.cols, b.data.as_ptr());
    // SAFETY: every address below is an element of `b`, whose constructor checked its extent, or one of the panels of `out`.
    unsafe {
        for j in (0..n).step_by(16) {
            let panel = out.add(j / COLUMNS * COLUMNS * pairs + j % COLUMNS);
            if b.col_stride == 1 {
                for pair in 0..k.div_ceil(2) {
                    let at = |inner: usize| from.add(inner * b.row_stride + j);
                    let second = (2 * pair + 1 < k).then(|| at(2 * pair + 1));
                    let values = across(at(2 * pair), second, n - j);
                    _mm512_storeu_si512(panel.add(pair * COLUMNS).cast(), values);
                }
                continue;
            }
            for pair in (0..k.div_ceil(2)).step_by(16) {
                let mut block = [_mm512_setzero_si512(); 16];
                for (c, column) in block.iter_mut().enumerate().take(n - j) {
                    *column = along(from.add((j + c) * b.col_stride + 2 * pair), k - 2 * pair);
                }
                transpose(&mut block);
                for (p, row) in block.into_iter().enumerate() {
                    _mm512_storeu_si512(panel.add((pair + p) * COLUMNS).cast(), row);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 2_654_435_761 + seed * 97) as f32 * 1e-3).sin())
            .collect()
    }

    /// Every element against a sum in f64 of the products of rounded factors, for views of all four kinds and shapes with remainders.
    #[test]
    fn products_are_those_of_rounded_factors() {
        if !available() {
            return;
        }
        for (m, n, k) in [
            (1, 1, 1),
            (7, 65, 33),
            (13, 130, 1100),
            (300, 70, 31),
            (6, 64, 512),
        ] {
            let (x, y) = (numbers(m * k, 1), numbers(k * n, 2));
            let rounded = |v: f32| f64::from(bf16::from_f32(v).to_f32());
            for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)]
            {
                let a = match a_turned {
                    false => Mat::new(&x, m, k),
                    true => Mat::new(&x, k, m).t(),
                };
                let b = match b_turned {
                    false => Mat::new(&y, k, n),
                    true => Mat::new(&y, n, k).t(),
                };
                let mut out = vec![1.0; m * n];
                gemm(MatMut::new(&mut out, m, n), Update::Add, a, b);
                for i in 0..m {
                    for j in 0..n {
                        let (mut want, mut size) = (1.0, 1.0);
                        for l in 0..k {
                            let a = x[if a_turned { l * m + i } else { i * k + l }];
                            let b = y[if b_turned { j * k + l } else { l * n + j }];
                            want += rounded(a) * rounded(b);
                            size += f64::from((a * b).abs());
                        }
                        let off = (f64::from(out[i * n + j]) - want).abs();
                        assert!(off < 1e-5 * size, "{m} {n} {k}, {i} {j}: off by {off:e}");
                    }
                }
            }
        }
    }
}
