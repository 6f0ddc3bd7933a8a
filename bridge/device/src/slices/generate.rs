//! Cache, attention over it, and draws.

use super::args::{Args, Number, at, put};
use super::attention::{Turns, angles, capped, first_key, turned};
use std::cell::Cell;

/// Keys (turned) and values of rows to their slots and positions.
pub(super) fn cache_append<R: Number>(a: &Args<'_>) {
    let (qkv, slots, positions) = (a.cells::<R>(0), a.cells::<u32>(3), a.cells::<u32>(4));
    let (keys, values) = (a.cells::<R>(5), a.cells::<R>(6));
    let [row, dim, kv_heads, step, key_at, value_at, dims] =
        [7, 8, 9, 10, 11, 12, 13].map(|i| a.size(i));
    let (neighbours, capacity) = (a.flag(14), a.size(15));
    let all: Turns<'_> = (a.cells(1), a.cells(2));
    for r in 0..a.grid()[0] {
        let (slot, position) = (slots[r].get() as usize, positions[r].get() as usize);
        let turns = angles(all, position, dims / 2);
        for (head, d) in (0..kv_heads).flat_map(|h| (0..dim).map(move |d| (h, d))) {
            let to = ((slot * kv_heads + head) * capacity + position) * dim + d;
            let key = &qkv[r * row + key_at + head * step..];
            put(keys, to, turned(key, d, (dims, neighbours), turns, 1.0));
            values[to].set(qkv[r * row + value_at + head * step + d].get());
        }
    }
}

/// Σ softmax(q·k) v over the keys that each row sees.
pub(super) fn decode_attention<R: Number>(a: &Args<'_>) {
    let (qkv, slots, positions) = (a.cells::<R>(0), a.cells::<u32>(3), a.cells::<u32>(4));
    let (keys, values, out) = (a.cells::<R>(5), a.cells::<R>(6), a.cells::<R>(7));
    let [row, dim, heads, kv_heads, step, query_at, dims] =
        [8, 9, 10, 11, 12, 13, 14].map(|i| a.size(i));
    let (neighbours, capacity, window) = (a.flag(15), a.size(16), a.size(19));
    let (scale, cap) = (a.single(17), a.single(18));
    let all: Turns<'_> = (a.cells(1), a.cells(2));
    let [heads_here, rows] = a.grid();
    for (r, head) in (0..rows).flat_map(|r| (0..heads_here).map(move |h| (r, h))) {
        let (slot, position) = (slots[r].get() as usize, positions[r].get() as usize);
        let turns = angles(all, position, dims / 2);
        let source = &qkv[r * row + query_at + head * step..];
        // A query is rounded as it is where it stands in a buffer.
        let query = |d| R::of(turned(source, d, (dims, neighbours), turns, 1.0)).value();
        let query: Vec<f32> = (0..dim).map(query).collect();
        let first = (slot * kv_heads + head / (heads / kv_heads)) * capacity * dim;
        let from = first_key(position, window);
        let score = |j: usize| {
            let key = &keys[first + j * dim..][..dim];
            let product = |(q, k): (&f32, &Cell<R>)| f64::from(q * k.get().value());
            let sum: f64 = query.iter().zip(key).map(product).sum();
            capped(sum as f32, scale, cap)
        };
        let scores: Vec<f32> = (from..=position).map(score).collect();
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
        let whole: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        for d in 0..dim {
            let value =
                |(j, w): (usize, &f32)| f64::from(w * at(values, first + (from + j) * dim + d));
            let sum: f64 = weights.iter().enumerate().map(value).sum();
            put(out, (r * heads + head) * dim + d, (sum / whole) as f32);
        }
    }
}

/// eˣ by multiplications and additions alone, as the kernels and the sampler of the language models have it.
fn portable_exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + 12_582_912.0;
    let k = shifted - 12_582_912.0;
    let r = (clamped - k * (355.0 / 512.0)) - k * -2.121_944_4e-4;
    let high = 0.041_666_213 + r * (0.008_375_353 + r * 0.001_394_789_1);
    let p = 1.0 + (r + r * r * (0.5 + r * (0.166_664_13 + r * high)));
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * scale }
}

/// A token a row by inverse distribution function, or the first most likely.
pub(super) fn draw(a: &Args<'_>) {
    let (logits, uniforms) = (a.cells::<f32>(0), a.maybe::<f64>(1));
    let (tokens, log_probs) = (a.cells::<u32>(2), a.cells::<f32>(3));
    let (vocabulary, inverse, top_k, top_p) = (a.size(4), a.single(5), a.size(6), a.double(7));
    for row in 0..a.grid()[0] {
        let logits = &logits[row * vocabulary..][..vocabulary];
        let logits: Vec<f32> = logits.iter().map(Cell::get).collect();
        let (token, log_prob) = drawn(
            &logits,
            uniforms.map(|u| u[row].get()),
            inverse,
            (top_k, top_p),
        );
        tokens[row].set(token);
        log_probs[row].set(log_prob);
    }
}

fn drawn(
    logits: &[f32],
    uniform: Option<f64>,
    inverse: f32,
    (top_k, top_p): (usize, f64),
) -> (u32, f32) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |i: usize| f64::from(portable_exp((logits[i] - highest) * inverse));
    let total: f64 = (0..logits.len()).map(weight).sum();
    if !(highest < f32::INFINITY && total > 0.0 && total < 1e300) {
        return (u32::MAX, f32::NAN);
    }
    let Some(uniform) = uniform else {
        let first = logits.iter().position(|l| *l == highest);
        return (first.unwrap_or(0) as u32, -total.ln() as f32);
    };
    // From the highest on, ties in their order; then the tokens that are kept, in the vocabulary's.
    let mut kept: Vec<usize> = (0..logits.len()).collect();
    if (top_k > 0 && top_k < logits.len()) || top_p < 1.0 {
        kept.sort_by(|&i, &j| {
            (logits[j] + 0.0)
                .total_cmp(&(logits[i] + 0.0))
                .then(i.cmp(&j))
        });
    }
    if top_k > 0 && top_k < logits.len() {
        let edge = logits[kept[top_k - 1]];
        kept.truncate(kept.partition_point(|&i| logits[i] >= edge));
    }
    if top_p < 1.0 {
        let mass: f64 = kept.iter().map(|&i| weight(i)).sum();
        let (mut sum, mut count) = (0.0, 0);
        while count < kept.len() && (count == 0 || sum < top_p * mass) {
            sum += weight(kept[count]);
            count += 1;
        }
        kept.truncate(count);
    }
    kept.sort_unstable();
    let total: f64 = kept.iter().map(|&i| weight(i)).sum();
    let mut rest = uniform * total;
    // Rounding at the end falls on the last with a weight.
    let mut token = kept.first().copied().unwrap_or(0);
    for &i in kept.iter().filter(|&&i| weight(i) > 0.0) {
        token = i;
        if rest < weight(i) {
            break;
        }
        rest -= weight(i);
    }
    let log_prob = f64::from((logits[token] - highest) * inverse) - total.ln();
    (token as u32, log_prob as f32)
}
