//! Heads and the causal softmax.

use super::args::{Args, Number, at, put};
use std::cell::Cell;

/// Where the parts of a row lie, and how queries and keys turn: the numbers that follow `time` in the kernels' parameters.
struct Layout {
    time: usize,
    row: usize,
    dim: usize,
    heads: usize,
    kv_heads: usize,
    step: usize,
    /// Where head 0's query, key and value begin.
    begins: [usize; 3],
    dims: usize,
    neighbours: bool,
}

impl Layout {
    fn new(a: &Args<'_>, first: usize) -> Self {
        let n = |i: usize| a.size(first + i);
        Self {
            time: n(0),
            row: n(1),
            dim: n(2),
            heads: n(3),
            kv_heads: n(4),
            step: n(5),
            begins: [n(6), n(7), n(8)],
            dims: n(9),
            neighbours: a.flag(first + 10),
        }
    }

    /// Every element of a token's row that is a head's: which of query, key and value, head and dimension.
    fn elements(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let heads = [self.heads, self.kv_heads, self.kv_heads];
        (0..3).flat_map(move |part| {
            (0..heads[part]).flat_map(move |head| (0..self.dim).map(move |d| (part, head, d)))
        })
    }

    /// Where a head's dimension 0 is in the padded copy.
    fn padded(&self, part: usize, text: usize, head: usize, t: usize) -> usize {
        let heads = if part == 0 { self.heads } else { self.kv_heads };
        ((text * heads + head) * self.time + t) * self.dim
    }

    /// Where it is in the token's row.
    fn packed(&self, part: usize, token: usize, head: usize) -> usize {
        token * self.row + self.begins[part] + head * self.step
    }
}

/// Element d of a head after a turn by sign times its angles.
pub(super) fn turned<R: Number>(
    head: &[Cell<R>],
    d: usize,
    (dims, neighbours): (usize, bool),
    (cosines, sines): Turns<'_>,
    sign: f32,
) -> f32 {
    if d >= dims {
        return at(head, d);
    }
    let half = dims / 2;
    let pair = if neighbours { d / 2 } else { d % half };
    let (first, second) = match neighbours {
        true => (2 * pair, 2 * pair + 1),
        false => (pair, pair + half),
    };
    let (c, s) = (at(cosines, pair), sign * at(sines, pair));
    let (a, b) = (at(head, first), at(head, second));
    if d == first {
        a * c - b * s
    } else {
        b * c + a * s
    }
}

/// The tokens of a text, and where its first is.
fn text_of(starts: &[Cell<u32>], text: usize) -> (usize, usize) {
    let from = starts[text].get() as usize;
    (from, starts[text + 1].get() as usize - from)
}

/// Cosines and sines.
pub(super) type Turns<'m> = (&'m [Cell<f32>], &'m [Cell<f32>]);

/// Those of a position, `half` of each.
pub(super) fn angles<'m>((cosines, sines): Turns<'m>, position: usize, half: usize) -> Turns<'m> {
    let from = position * half;
    (&cosines[from..from + half], &sines[from..from + half])
}

/// Rows to padded queries, keys and values, the first two turned.
pub(super) fn heads_split<R: Number>(a: &Args<'_>) {
    let (qkv, starts) = (a.cells::<R>(0), a.cells::<u32>(3));
    let turns = (a.cells::<f32>(1), a.cells::<f32>(2));
    let to = [4, 5, 6].map(|i| a.cells::<R>(i));
    let l = Layout::new(a, 7);
    let [times, texts] = a.grid();
    for text in 0..texts {
        let (from, len) = text_of(starts, text);
        for t in 0..times {
            for (part, head, d) in l.elements() {
                let to = &to[part][l.padded(part, text, head, t) + d];
                if t >= len {
                    to.set(R::of(0.0));
                    continue;
                }
                let source = &qkv[l.packed(part, from + t, head)..];
                to.set(match part {
                    2 => source[d].get(),
                    _ => {
                        let angles = angles(turns, t, l.dims / 2);
                        R::of(turned(source, d, (l.dims, l.neighbours), angles, 1.0))
                    }
                });
            }
        }
    }
}

/// The transpose of `heads_split`.
pub(super) fn heads_split_backward<R: Number>(a: &Args<'_>) {
    let from = [0, 1, 2].map(|i| a.cells::<R>(i));
    let turns = (a.cells::<f32>(3), a.cells::<f32>(4));
    let (starts, dqkv) = (a.cells::<u32>(5), a.cells::<R>(6));
    let l = Layout::new(a, 7);
    let [times, texts] = a.grid();
    for text in 0..texts {
        let (first, len) = text_of(starts, text);
        for t in 0..times.min(len) {
            for (part, head, d) in l.elements() {
                let source = &from[part][l.padded(part, text, head, t)..];
                let to = &dqkv[l.packed(part, first + t, head) + d];
                to.set(match part {
                    2 => source[d].get(),
                    _ => {
                        let angles = angles(turns, t, l.dims / 2);
                        R::of(turned(source, d, (l.dims, l.neighbours), angles, -1.0))
                    }
                });
            }
        }
    }
}

/// Calls with every padded element and its packed one, or none behind a text's end.
fn each_element(
    a: &Args<'_>,
    starts: &[Cell<u32>],
    [time, dim, heads]: [usize; 3],
    f: impl Fn(usize, Option<usize>),
) {
    let [times, texts] = a.grid();
    for text in 0..texts {
        let (from, len) = text_of(starts, text);
        for t in 0..times {
            for i in 0..heads * dim {
                let padded = ((text * heads + i / dim) * time + t) * dim + i % dim;
                f(padded, (t < len).then_some((from + t) * heads * dim + i));
            }
        }
    }
}

/// Padded heads to rows.
pub(super) fn heads_pack<R: Number>(a: &Args<'_>) {
    let (padded, starts, rows) = (a.cells::<R>(0), a.cells::<u32>(1), a.cells::<R>(2));
    each_element(a, starts, [3, 4, 5].map(|i| a.size(i)), |from, to| {
        if let Some(to) = to {
            rows[to].set(padded[from].get());
        }
    });
}

/// Rows to padded heads, zeros behind a text's end.
pub(super) fn heads_pad<R: Number>(a: &Args<'_>) {
    let (rows, starts, padded) = (a.cells::<R>(0), a.cells::<u32>(1), a.cells::<R>(2));
    each_element(a, starts, [3, 4, 5].map(|i| a.size(i)), |to, from| {
        padded[to].set(from.map_or(R::of(0.0), |from| rows[from].get()));
    });
}

/// A score as attention uses it.
pub(super) fn capped(score: f32, scale: f32, cap: f32) -> f32 {
    let s = score * scale;
    if cap > 0.0 { cap * (s / cap).tanh() } else { s }
}

/// The first key that a query sees.
pub(super) fn first_key(i: usize, window: usize) -> usize {
    match window {
        0 => 0,
        window => (i + 1).saturating_sub(window),
    }
}

/// The keys that query i of a text sees: none beyond the text.
fn seen(starts: &[Cell<u32>], text: usize, i: usize, window: usize) -> [usize; 2] {
    match i < text_of(starts, text).1 {
        true => [first_key(i, window), i + 1],
        false => [0, 0],
    }
}

/// p = softmax of scores over the keys that each query sees.
pub(super) fn softmax<R: Number>(a: &Args<'_>) {
    let (scores, starts) = (a.cells::<f32>(0), a.cells::<u32>(1));
    let (p, log_sum) = (a.cells::<R>(2), a.cells::<f32>(3));
    let [heads, time, window] = [4, 5, 8].map(|i| a.size(i));
    let (scale, cap) = (a.single(6), a.single(7));
    let [queries, matrices] = a.grid();
    for (matrix, i) in (0..matrices).flat_map(|m| (0..queries).map(move |i| (m, i))) {
        let row = matrix * time + i;
        let [from, end] = seen(starts, matrix / heads, i, window);
        let score = |j: usize| capped(at(scores, row * time + j), scale, cap);
        let top = (from..end).map(score).fold(f32::NEG_INFINITY, f32::max);
        let weight = |j: usize| (score(j) - top).exp();
        let sum = (from..end).map(|j| f64::from(weight(j))).sum::<f64>() as f32;
        for j in 0..time {
            let seen = (from..end).contains(&j);
            put(
                p,
                row * time + j,
                if seen { weight(j) * (1.0 / sum) } else { 0.0 },
            );
        }
        put(log_sum, row, if from < end { top + sum.ln() } else { 0.0 });
    }
}

/// p again, and ds = scale p (dp − Σ p dp), times the slope of the cap.
pub(super) fn softmax_backward<R: Number>(a: &Args<'_>) {
    let (scores, dp) = (a.cells::<f32>(0), a.cells::<f32>(1));
    let (log_sum, starts) = (a.cells::<f32>(2), a.cells::<u32>(3));
    let (p, ds) = (a.cells::<R>(4), a.cells::<R>(5));
    let [heads, time, window] = [6, 7, 10].map(|i| a.size(i));
    let (scale, cap) = (a.single(8), a.single(9));
    let [queries, matrices] = a.grid();
    for (matrix, i) in (0..matrices).flat_map(|m| (0..queries).map(move |i| (m, i))) {
        let row = matrix * time + i;
        let [from, end] = seen(starts, matrix / heads, i, window);
        let score = |j: usize| capped(at(scores, row * time + j), scale, cap);
        let weight = |j: usize| (score(j) - at(log_sum, row)).exp();
        let term = |j: usize| f64::from(weight(j) * at(dp, row * time + j));
        let mean = (from..end).map(term).sum::<f64>() as f32;
        for j in 0..time {
            let (mut value, mut slope) = (0.0, 0.0);
            if (from..end).contains(&j) {
                value = weight(j);
                slope = scale * value * (at(dp, row * time + j) - mean);
                if cap > 0.0 {
                    slope *= 1.0 - (score(j) / cap) * (score(j) / cap);
                }
            }
            put(p, row * time + j, value);
            put(ds, row * time + j, slope);
        }
    }
}
