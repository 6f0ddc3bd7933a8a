//! Causal attention of packed texts, one head and one block of queries at a time: the score matrix is never larger
//! than a block by the text's length, and keys after the block are never touched.

use super::buffer::Pool;
use super::gemm::{Mat, MatMut, Update, gemm};
use super::rotary::HeadLayout;
use super::simd::{LANES, exp, fold, for_each_piece, max, split_parts, tanh, vectorized};

/// Queries of a block.
const BLOCK: usize = 64;

/// How queries and keys become scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// How many of the last keys a query sees, itself included; all where `None`.
    pub window: Option<usize>,
    /// Factor on q·k.
    pub scale: f32,
    /// c in `c tanh(s/c)` of scaled scores.
    pub cap: Option<f32>,
}

impl Scoring {
    /// `q·k/√d` over all keys.
    #[cfg(test)]
    pub fn usual(layout: &HeadLayout, window: Option<usize>) -> Self {
        Self {
            window,
            scale: (1.0 / (layout.head_dim as f64).sqrt()) as f32,
            cap: None,
        }
    }
}

/// One query head of one text: views into the packed projection.
#[derive(Clone, Copy)]
struct Head<'a> {
    qkv: &'a [f32],
    layout: &'a HeadLayout,
    scoring: Scoring,
    index: usize,
}

/// Keys that a block of queries may see: `keys` of them from token `first` on; query `i` of the block sees those from
/// `(past + i + 1) − window` (or the first) to `past + i`, counted from `first`.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    keys: usize,
    past: usize,
    window: usize,
}

impl Span {
    fn new(from: usize, rows: usize, window: usize) -> Self {
        let first = (from + 1).saturating_sub(window);
        Self {
            first,
            keys: from + rows - first,
            past: from - first,
            window,
        }
    }

    /// The keys that query `i` sees, as a range of a row of scores.
    #[inline(always)]
    fn seen(self, i: usize) -> std::ops::Range<usize> {
        let end = self.past + i + 1;
        end.saturating_sub(self.window)..end
    }
}

impl<'a> Head<'a> {
    /// Query (0), key (1) or value (2) vectors of tokens `from..from + count`.
    fn part(self, which: usize, from: usize, count: usize) -> Mat<'a> {
        let start = from * self.layout.row + self.offset(which);
        Mat::strided(
            &self.qkv[start..],
            count,
            self.layout.head_dim,
            self.layout.row,
        )
    }

    fn offset(self, which: usize) -> usize {
        let head = match which {
            0 => self.index,
            _ => self.layout.kv_head(self.index),
        };
        self.layout.offset(which, head)
    }

    fn window(self) -> usize {
        self.scoring.window.unwrap_or(usize::MAX)
    }
}

/// `out_i = Σ_{j ≤ i} softmax_j(s_ij) v_j` per head, `s_ij = scale q_i·k_j` with the cap; `lengths` are those of the packed texts. With a
/// window, `j > i − window` too.
///
/// `qkv [tokens, layout.row]` holds rotated queries and keys; `out [tokens, heads·d]`. `log_sum [heads per text, length]`, texts
/// one after the other, receives the logarithms of the softmax denominators for [`backward`].
pub fn forward(
    qkv: &[f32],
    layout: &HeadLayout,
    scoring: Scoring,
    lengths: &[usize],
    out: &mut [f32],
    log_sum: &mut [f32],
    pool: &Pool,
) {
    let width = layout.heads * layout.head_dim;
    let outs = split_parts(out, lengths.iter().map(|n| n * width));
    let sums = split_parts(log_sum, lengths.iter().map(|n| n * layout.heads));
    let mut texts: Vec<_> = outs.into_iter().zip(sums).zip(starts(lengths)).collect();
    for_each_piece(&mut texts, 1, |_, text| {
        let ((out, sums), start) = &mut text[0];
        let n = sums.len() / layout.heads;
        let qkv = &qkv[*start * layout.row..][..n * layout.row];
        let mut scores = pool.take(BLOCK.min(n) * n);
        for index in 0..layout.heads {
            let head = Head {
                qkv,
                layout,
                scoring,
                index,
            };
            forward_head(head, n, out, &mut sums[index * n..][..n], &mut scores);
        }
    });
}

fn starts(lengths: &[usize]) -> impl Iterator<Item = usize> + '_ {
    lengths.iter().scan(0, |next, n| {
        let start = *next;
        *next += n;
        Some(start)
    })
}

fn forward_head(
    head: Head<'_>,
    n: usize,
    out: &mut [f32],
    log_sum: &mut [f32],
    scores: &mut [f32],
) {
    let (d, width) = (
        head.layout.head_dim,
        head.layout.heads * head.layout.head_dim,
    );
    for from in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - from);
        let span = Span::new(from, rows, head.window());
        let keys = span.keys;
        let scores = &mut scores[..rows * keys];
        let product = MatMut::new(scores, rows, keys);
        gemm(
            product,
            Update::Set,
            head.scoring.scale,
            head.part(0, from, rows),
            head.part(1, span.first, keys).t(),
        );
        if let Some(cap) = head.scoring.cap {
            vectorized(
                #[inline(always)]
                || scores.iter_mut().for_each(|s| *s = cap * tanh(*s / cap)),
            );
        }
        vectorized(
            #[inline(always)]
            || softmax_block(scores, span, &mut log_sum[from..from + rows]),
        );
        let out = &mut out[from * width + head.index * d..];
        let product = MatMut::strided(out, rows, d, width);
        gemm(
            product,
            Update::Set,
            1.0,
            Mat::new(scores, rows, keys),
            head.part(2, span.first, keys),
        );
    }
}

/// Causal softmax of each row of a block.
#[inline(always)]
fn softmax_block(scores: &mut [f32], span: Span, log_sum: &mut [f32]) {
    let rows = scores.chunks_exact_mut(span.keys).zip(log_sum);
    for (i, (row, log_sum)) in rows.enumerate() {
        let range = span.seen(i);
        let (before, row) = row.split_at_mut(range.start);
        let (seen, unseen) = row.split_at_mut(range.len());
        before.fill(0.0);
        *log_sum = softmax(seen);
        unseen.fill(0.0);
    }
}

/// Scores to weights that sum to 1, in place; the logarithm of the denominator.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) -> f32 {
    let top = max(scores);
    let sum = exp_shifted(scores, top);
    let scale = 1.0 / sum;
    scores.iter_mut().for_each(|p| *p *= scale);
    top + sum.ln()
}

/// Replaces `x` by `e^{x − shift}` and returns the sum.
#[inline(always)]
pub(crate) fn exp_shifted(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = values.as_chunks_mut::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - shift);
            lanes[lane] += chunk[lane];
        }
    }
    if !rest.is_empty() {
        // Filled up with what has no weight: one vector in place of a loop.
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for lane in 0..LANES {
            last[lane] = exp(last[lane] - shift);
            lanes[lane] += last[lane];
        }
        rest.copy_from_slice(&last[..rest.len()]);
    }
    fold(lanes)
}

/// The gradients of [`forward`]: writes `dqkv` (every element of queries, keys and values) from `dout`.
///
/// With `P` the attention weights, `D = P ∘ (∂out vᵀ)` and `S = D − P ∘ rowsum(D)` (times `1 − tanh²` under a cap): `∂q = scale S k`, `∂k = scale Sᵀ q`, `∂v = Pᵀ ∂out`.
pub fn backward(
    qkv: &[f32],
    layout: &HeadLayout,
    scoring: Scoring,
    lengths: &[usize],
    log_sum: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    pool: &Pool,
) {
    let width = layout.heads * layout.head_dim;
    let parts = split_parts(dqkv, lengths.iter().map(|n| n * layout.row));
    let mut texts: Vec<_> = parts.into_iter().zip(starts(lengths)).collect();
    for_each_piece(&mut texts, 1, |_, text| {
        let (dqkv, start) = &mut text[0];
        let n = dqkv.len() / layout.row;
        let qkv = &qkv[*start * layout.row..][..n * layout.row];
        let dout = &dout[*start * width..][..n * width];
        let log_sum = &log_sum[*start * layout.heads..][..n * layout.heads];
        let parts = if scoring.cap.is_some() { 3 } else { 2 };
        let mut scratch = pool.take(parts * BLOCK.min(n) * n);
        for index in 0..layout.heads {
            let head = Head {
                qkv,
                layout,
                scoring,
                index,
            };
            backward_head(
                head,
                n,
                &log_sum[index * n..][..n],
                dout,
                dqkv,
                &mut scratch,
            );
        }
    });
}

fn backward_head(
    head: Head<'_>,
    n: usize,
    log_sum: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    scratch: &mut [f32],
) {
    let (d, row) = (head.layout.head_dim, head.layout.row);
    let width = head.layout.heads * d;
    for from in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - from);
        let span = Span::new(from, rows, head.window());
        let keys = span.keys;
        let (p, rest) = scratch.split_at_mut(rows * keys);
        let (s, rest) = rest.split_at_mut(rows * keys);
        // One slope a score where scores have a cap, else none.
        let slopes = &mut rest[..if head.scoring.cap.is_some() {
            rows * keys
        } else {
            0
        }];
        let q = head.part(0, from, rows);
        let k = head.part(1, span.first, keys);
        let dout = Mat::strided(&dout[from * width + head.index * d..], rows, d, width);
        gemm(
            MatMut::new(p, rows, keys),
            Update::Set,
            head.scoring.scale,
            q,
            k.t(),
        );
        gemm(
            MatMut::new(s, rows, keys),
            Update::Set,
            1.0,
            dout,
            head.part(2, span.first, keys).t(),
        );
        if let Some(cap) = head.scoring.cap {
            vectorized(
                #[inline(always)]
                || bend(p, slopes, cap),
            );
        }
        vectorized(
            #[inline(always)]
            || softmax_backward(p, s, span, &log_sum[from..from + rows], head.scoring.scale),
        );
        s.iter_mut()
            .zip(&*slopes)
            .for_each(|(s, slope)| *s *= slope);
        // Keys before this block already hold a sum; its own are met for the first time, unless an earlier head shares them.
        let own = match head
            .index
            .is_multiple_of(head.layout.heads / head.layout.kv_heads)
        {
            true => Update::Set,
            false => Update::Add,
        };
        let past = span.past;
        let (p, s) = (&*p, &*s);
        let mut part = |which: usize, first: usize, count: usize, update, a, b| {
            let start = first * row + head.offset(which);
            gemm(
                MatMut::strided(&mut dqkv[start..], count, d, row),
                update,
                1.0,
                a,
                b,
            );
        };
        part(0, from, rows, Update::Set, Mat::new(s, rows, keys), k);
        if past > 0 {
            part(
                1,
                span.first,
                past,
                Update::Add,
                transposed(s, rows, keys, 0, past),
                q,
            );
            part(
                2,
                span.first,
                past,
                Update::Add,
                transposed(p, rows, keys, 0, past),
                dout,
            );
        }
        part(1, from, rows, own, transposed(s, rows, keys, past, rows), q);
        part(
            2,
            from,
            rows,
            own,
            transposed(p, rows, keys, past, rows),
            dout,
        );
    }
}

/// Columns `first..first + count` of a block, as rows.
fn transposed(block: &[f32], rows: usize, keys: usize, first: usize, count: usize) -> Mat<'_> {
    Mat::strided(&block[first..], rows, count, keys).t()
}

/// `s ↦ c tanh(s/c)`, and its derivative into `slopes`.
#[inline(always)]
fn bend(scores: &mut [f32], slopes: &mut [f32], cap: f32) {
    for (s, slope) in scores.iter_mut().zip(slopes) {
        let t = tanh(*s / cap);
        (*s, *slope) = (cap * t, 1.0 - t * t);
    }
}

/// Scores to weights in `p`, and `∂P` to `scale · ∂scores` in `s`.
#[inline(always)]
fn softmax_backward(p: &mut [f32], s: &mut [f32], span: Span, log_sum: &[f32], scale: f32) {
    let rows = p
        .chunks_exact_mut(span.keys)
        .zip(s.chunks_exact_mut(span.keys))
        .zip(log_sum);
    for (i, ((p, s), &log_sum)) in rows.enumerate() {
        let range = span.seen(i);
        let (p_before, p) = p.split_at_mut(range.start);
        let (s_before, s) = s.split_at_mut(range.start);
        let (p, p_unseen) = p.split_at_mut(range.len());
        let (s, s_unseen) = s.split_at_mut(range.len());
        p.iter_mut().for_each(|p| *p = exp(*p - log_sum));
        let mean = super::simd::dot(p, s);
        for (s, p) in s.iter_mut().zip(p) {
            *s = (*s - mean) * *p * scale;
        }
        for unseen in [p_before, s_before, p_unseen, s_unseen] {
            unseen.fill(0.0);
        }
    }
}
