//! Rotary position embedding, half-split: of the first `r` dimensions of a head, `i` and `i + r/2` turn together by
//! the angle `position · base^(−2i/r)`.

use super::simd::{for_each_piece, vectorized};

/// Where the heads lie within one row of a packed projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Elements of a row.
    pub row: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of heads of keys and values, a divisor of `heads`: neighbouring query heads share one.
    pub kv_heads: usize,
    /// Entries from one head's query (key, value) to the next head's.
    pub step: usize,
    /// Where head 0's query, key and value begin within a row.
    pub offsets: [usize; 3],
}

impl HeadLayout {
    /// Where the query (0), key (1) or value (2) of a head begins; a key's and a value's head are counted among `kv_heads`.
    pub fn offset(&self, which: usize, head: usize) -> usize {
        self.offsets[which] + head * self.step
    }

    /// The head whose keys and values a query head reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// `base^(−2i/dims)` for `i < dims/2`, rounded to `f32` as in the models' reference implementation.
pub fn frequencies(dims: usize, base: f64) -> Vec<f32> {
    let frequency = |i: usize| (1.0 / base.powf(2.0 * i as f64 / dims as f64)) as f32;
    (0..dims / 2).map(frequency).collect()
}

/// Cosines and sines of every token of a batch.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    /// `[tokens, r/2]` pairs of cosine and sine, cosines first: row layout `[cos; r/2][sin; r/2]`.
    values: Vec<f32>,
    dims: usize,
}

impl RotaryTable {
    /// Angles `position · base^(−2i/dims)` for tokens at `positions`.
    #[cfg(test)]
    pub fn new(positions: &[u32], dims: usize, base: f64) -> Self {
        Self::with_frequencies(positions, &frequencies(dims, base))
    }

    /// Angles `position · frequency`, rounded to `f32`, as in the models' reference implementation.
    pub fn with_frequencies(positions: &[u32], frequencies: &[f32]) -> Self {
        let dims = 2 * frequencies.len();
        let mut values = Vec::with_capacity(positions.len() * dims);
        for &position in positions {
            let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
            values.extend(angles.clone().map(|a| a.cos() as f32));
            values.extend(angles.map(|a| a.sin() as f32));
        }
        Self { values, dims }
    }

    /// Rotated dimensions.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Cosines and sines `[tokens, r/2]` apart, for candle.
    pub fn split(&self) -> (Vec<f32>, Vec<f32>) {
        let half = self.dims / 2;
        let rows = self.values.chunks_exact(self.dims.max(1));
        let part = |range: std::ops::Range<usize>| {
            rows.clone()
                .flat_map(|r| r[range.clone()].to_vec())
                .collect()
        };
        (part(0..half), part(half..2 * half))
    }
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As in the forward pass.
    Forward,
    /// The inverse, which is the transpose: the backward pass.
    Backward,
}

/// Turns queries and keys of every row of `qkv` in place.
pub fn rotate(qkv: &mut [f32], layout: &HeadLayout, table: &RotaryTable, turn: Turn) {
    let half = table.dims / 2;
    if half == 0 {
        return;
    }
    const PIECE: usize = 64;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    for_each_piece(qkv, PIECE * layout.row, |i, rows| {
        vectorized(
            #[inline(always)]
            || {
                let angles = table.values[i * PIECE * table.dims..].chunks_exact(table.dims);
                for (row, angles) in rows.chunks_exact_mut(layout.row).zip(angles) {
                    let (cos, sin) = angles.split_at(half);
                    for (which, heads) in [layout.heads, layout.kv_heads].into_iter().enumerate() {
                        for head in 0..heads {
                            let start = layout.offset(which, head);
                            turn_head(&mut row[start..start + 2 * half], cos, sin, sign);
                        }
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn turn_head(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (first, second) = head.split_at_mut(half);
    for i in 0..half {
        let (a, b, s) = (first[i], second[i], sign * sin[i]);
        first[i] = a * cos[i] - b * s;
        second[i] = b * cos[i] + a * s;
    }
}
