//! Elements, copies, activations and embeddings.

use super::args::{Args, Number, at, put};

/// y += x
pub(super) fn add<R: Number>(a: &Args<'_>) {
    let (y, x) = (a.cells::<R>(0), a.cells::<R>(1));
    for i in 0..a.size(2) {
        put(y, i, at(y, i) + at(x, i));
    }
}

/// y += bias
pub(super) fn add_bias<R: Number>(a: &Args<'_>) {
    let (y, bias) = (a.cells::<R>(0), a.cells::<R>(1));
    let (count, width, stride) = (a.size(2), a.size(3), a.size(4));
    for i in 0..count {
        let to = i / width * stride + i % width;
        put(y, to, at(y, to) + at(bias, i % width));
    }
}

/// y = x in the type of weights
pub(super) fn narrow<R: Number>(a: &Args<'_>) {
    let (x, y) = (a.cells::<f32>(0), a.cells::<R>(1));
    for i in 0..a.size(2) {
        put(y, i, at(x, i));
    }
}

/// x = 0
pub(super) fn clear(a: &Args<'_>) {
    let x = a.cells::<f32>(0);
    x[..a.size(1)].iter().for_each(|x| x.set(0.0));
}

/// x = cap tanh(x / cap)
pub(super) fn cap_all(a: &Args<'_>) {
    let (x, cap) = (a.cells::<f32>(0), a.single(2));
    for x in &x[..a.size(1)] {
        x.set(cap * (x.get() / cap).tanh());
    }
}

/// Rows by index, zeros where there is none.
pub(super) fn gather_rows<R: Number>(a: &Args<'_>) {
    let (from, index, to) = (a.cells::<R>(0), a.cells::<u32>(1), a.cells::<R>(2));
    let width = a.size(3);
    for i in 0..a.grid()[0] {
        let row = index[i].get();
        for j in 0..width {
            to[i * width + j].set(match row == crate::NO_ROW {
                true => R::of(0.0),
                false => from[row as usize * width + j].get(),
            });
        }
    }
}

/// Pieces of rows from one layout to another.
pub(super) fn regroup<R: Number>(a: &Args<'_>) {
    let (from, to) = (a.cells::<R>(0), a.cells::<R>(1));
    let [count, heads, dim, from_row, from_step, to_row, to_step] =
        [2, 3, 4, 5, 6, 7, 8].map(|i| a.size(i));
    for i in 0..count {
        let (d, head, row) = (i % dim, i / dim % heads, i / dim / heads);
        let value = from[row * from_row + head * from_step + d].get();
        to[row * to_row + head * to_step + d].set(value);
    }
}

/// The activation of a kind, and its derivative.
fn activated(x: f32, kind: usize) -> (f32, f32) {
    match kind {
        0 => {
            let cdf = 0.5 * libm::erfcf(x * -std::f32::consts::FRAC_1_SQRT_2);
            let density = x * 0.398_942_3 * (-0.5 * x * x).exp();
            (x * cdf, density + cdf)
        }
        1 => {
            let u = 0.797_884_6 * (0.044_715 * x * x * x + x);
            let e = (-2.0 * u.abs()).exp();
            let (small, large) = (e / (1.0 + e), 1.0 / (1.0 + e));
            let s = if u < 0.0 { small } else { large };
            let du = 0.797_884_6 * (0.134_145 * x * x + 1.0);
            (x * s, x * (2.0 * small * large * du) + s)
        }
        _ => {
            let e = (-x.abs()).exp();
            let s = (if x < 0.0 { e } else { 1.0 }) / (1.0 + e);
            (x * s, s * (x * (1.0 - s) + 1.0))
        }
    }
}

/// y = act(x)
pub(super) fn activation<R: Number>(a: &Args<'_>) {
    let (x, y) = (a.cells::<R>(0), a.cells::<R>(1));
    for i in 0..a.size(2) {
        put(y, i, activated(at(x, i), a.size(3)).0);
    }
}

/// dx = dy act'(x), y = act(x)
pub(super) fn activation_backward<R: Number>(a: &Args<'_>) {
    let (x, dy) = (a.cells::<R>(0), a.cells::<R>(1));
    let (dx, y) = (a.cells::<R>(2), a.cells::<R>(3));
    for i in 0..a.size(4) {
        let (value, slope) = activated(at(x, i), a.size(5));
        put(dx, i, at(dy, i) * slope);
        put(y, i, value);
    }
}

/// y = act(gate) up
pub(super) fn gated<R: Number>(a: &Args<'_>) {
    let (gate, up, y) = (a.cells::<R>(0), a.cells::<R>(1), a.cells::<R>(2));
    let (count, width, stride) = (a.size(3), a.size(4), a.size(5));
    for i in 0..count {
        let from = i / width * stride + i % width;
        put(y, i, activated(at(gate, from), a.size(6)).0 * at(up, from));
    }
}

/// dgate = dy up act'(gate), dup = dy act(gate), y = act(gate) up
pub(super) fn gated_backward<R: Number>(a: &Args<'_>) {
    let (gate, up, dy) = (a.cells::<R>(0), a.cells::<R>(1), a.cells::<R>(2));
    let (dgate, dup, y) = (a.cells::<R>(3), a.cells::<R>(4), a.cells::<R>(5));
    let (count, width, stride) = (a.size(6), a.size(7), a.size(8));
    for i in 0..count {
        let place = i / width * stride + i % width;
        let (value, slope) = activated(at(gate, place), a.size(9));
        let (d, u) = (at(dy, i), at(up, place));
        put(dgate, place, d * u * slope);
        put(dup, place, d * value);
        put(y, i, value * u);
    }
}

/// x = factor table\[token\] (+ places\[position\])
pub(super) fn embed<R: Number>(a: &Args<'_>) {
    let (tokens, positions) = (a.cells::<u32>(0), a.maybe::<u32>(1));
    let (table, places, x) = (a.cells::<R>(2), a.maybe::<R>(3), a.cells::<R>(4));
    let (width, factor) = (a.size(5), a.single(6));
    for i in 0..a.grid()[0] {
        let token = tokens[i].get() as usize;
        for j in 0..width {
            let mut value = factor * at(table, token * width + j);
            if let (Some(places), Some(positions)) = (places, positions) {
                value += at(places, positions[i].get() as usize * width + j);
            }
            put(x, i * width + j, value);
        }
    }
}

/// dtable\[id\] += factor Σ dx over the rows of id
pub(super) fn embed_backward<R: Number>(a: &Args<'_>) {
    let (dx, ids) = (a.cells::<R>(0), a.cells::<u32>(1));
    let (firsts, order) = (a.cells::<u32>(2), a.cells::<u32>(3));
    let (dtable, width, factor) = (a.cells::<f32>(4), a.size(5), a.single(6));
    for i in 0..a.grid()[0] {
        let id = ids[i].get() as usize;
        let rows = &order[firsts[i].get() as usize..firsts[i + 1].get() as usize];
        for j in 0..width {
            let row = |r: &std::cell::Cell<u32>| f64::from(at(dx, r.get() as usize * width + j));
            let sum: f64 = rows.iter().map(row).sum();
            let to = id * width + j;
            put(dtable, to, at(dtable, to) + factor * sum as f32);
        }
    }
}
