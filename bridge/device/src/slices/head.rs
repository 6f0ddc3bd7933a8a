//! The output head by tiles.

use super::args::{Args, Number, at, put};

/// What a raw logit becomes.
fn bent(logit: f32, cap: f32, temperature: f32) -> f32 {
    let capped = if cap > 0.0 {
        cap * (logit / cap).tanh()
    } else {
        logit
    };
    capped / temperature
}

/// Places in the running sums of a row, as the kernels' text names them.
const TOP: usize = 0;
const SUM: usize = 1;
const MOMENT: usize = 2;
const GAP: usize = 3;
const OTHER_TOP: usize = 4;
const OTHER_SUM: usize = 5;
const OTHER_GAP: usize = 6;
const TARGET: usize = 7;

/// Takes a tile of logits into the running sums.
pub(super) fn head_scan(a: &Args<'_>) {
    let (tile, other) = (a.cells::<f32>(0), a.maybe::<f32>(1));
    let (targets, running) = (a.cells::<u32>(2), a.cells::<f32>(3));
    let (columns, first, begin) = (a.size(4), a.size(5), a.flag(10));
    let [cap, temperature, other_cap, other_temperature] = [6, 7, 8, 9].map(|i| a.single(i));
    let sum = |f: &dyn Fn(usize) -> f32| (0..columns).map(|j| f64::from(f(j))).sum::<f64>() as f32;
    let top = |f: &dyn Fn(usize) -> f32| (0..columns).map(f).fold(f32::NEG_INFINITY, f32::max);
    for row in 0..a.grid()[0] {
        let running = &running[row * 8..][..8];
        let z = |j: usize| bent(at(tile, row * columns + j), cap, temperature);
        let old = |place: usize| match begin {
            true => f32::NEG_INFINITY,
            false => at(running, place),
        };
        let (old_top, other_old) = (old(TOP), old(OTHER_TOP));
        let new_top = top(&z).max(old_top);
        let factor = if begin {
            0.0
        } else {
            (old_top - new_top).exp()
        };
        let carry = |place: usize, factor: f32, more: f32| match begin {
            true => put(running, place, more),
            false => put(running, place, at(running, place) * factor + more),
        };
        carry(SUM, factor, sum(&|j| (z(j) - new_top).exp()));
        carry(MOMENT, factor, sum(&|j| (z(j) - new_top).exp() * z(j)));
        let (mut gap, mut other_sum, mut other_gap) = (0.0, 0.0, 0.0);
        let (mut other_top, mut other_factor) = (f32::NEG_INFINITY, 0.0);
        if let Some(other) = other {
            let r = |j: usize| bent(at(other, row * columns + j), other_cap, other_temperature);
            other_top = top(&r).max(other_old);
            if !begin {
                other_factor = (other_old - other_top).exp();
            }
            gap = sum(&|j| (z(j) - new_top).exp() * (z(j) - r(j)));
            other_sum = sum(&|j| (r(j) - other_top).exp());
            other_gap = sum(&|j| (r(j) - other_top).exp() * (r(j) - z(j)));
        }
        carry(GAP, factor, gap);
        carry(OTHER_SUM, other_factor, other_sum);
        carry(OTHER_GAP, other_factor, other_gap);
        put(running, TOP, new_top);
        put(running, OTHER_TOP, other_top);
        let target = (targets[row].get() as usize).checked_sub(first);
        match target.filter(|t| *t < columns) {
            Some(target) => put(running, TARGET, z(target)),
            None if begin => put(running, TARGET, f32::NEG_INFINITY),
            None => {}
        }
    }
}

/// Log-probabilities, entropies and divergences from the running sums.
pub(super) fn head_finish(a: &Args<'_>) {
    let running = a.cells::<f32>(0);
    let (log_prob, entropy) = (a.cells::<f32>(1), a.cells::<f32>(2));
    let [kl, kl_from, other_log_sum] = [3, 4, 6].map(|i| a.maybe::<f32>(i));
    let log_sum = a.cells::<f32>(5);
    for row in 0..a.size(7) {
        let r = |place: usize| at(running, row * 8 + place);
        let whole = r(TOP) + r(SUM).ln();
        put(log_sum, row, whole);
        put(log_prob, row, r(TARGET) - whole);
        put(entropy, row, whole - r(MOMENT) / r(SUM));
        if let (Some(kl), Some(kl_from), Some(other_log_sum)) = (kl, kl_from, other_log_sum) {
            let other = r(OTHER_TOP) + r(OTHER_SUM).ln();
            put(other_log_sum, row, other);
            put(kl, row, r(GAP) / r(SUM) - whole + other);
            put(kl_from, row, r(OTHER_GAP) / r(OTHER_SUM) - other + whole);
        }
    }
}

/// The gradient of a tile's logits.
pub(super) fn head_pull<R: Number>(a: &Args<'_>) {
    let (tile, other, targets) = (a.cells::<f32>(0), a.maybe::<f32>(1), a.cells::<u32>(2));
    let log_sum = a.cells::<f32>(3);
    let [other_log_sum, entropy, kl] = [4, 5, 6].map(|i| a.maybe::<f32>(i));
    let g = a.cells::<f32>(7);
    let [g_entropy, g_kl, g_kl_from] = [8, 9, 10].map(|i| a.maybe::<f32>(i));
    let (dtile, columns, first) = (a.cells::<R>(11), a.size(12), a.size(13));
    let [cap, temperature, other_cap, other_temperature] = [14, 15, 16, 17].map(|i| a.single(i));
    let of = |x: Option<&[std::cell::Cell<f32>]>, row: usize| x.map_or(0.0, |x| at(x, row));
    for (row, target) in targets[..a.grid()[1]].iter().enumerate() {
        for j in 0..columns {
            let z = bent(at(tile, row * columns + j), cap, temperature);
            let log_p = z - at(log_sum, row);
            let p = log_p.exp();
            let mut factor = -at(g, row);
            if let Some(g) = g_entropy {
                factor -= at(g, row) * (log_p + of(entropy, row));
            }
            let mut more = 0.0;
            if let Some(other) = other {
                let r = bent(at(other, row * columns + j), other_cap, other_temperature);
                let log_q = r - of(other_log_sum, row);
                if let Some(g) = g_kl {
                    factor += at(g, row) * (log_p - log_q - of(kl, row));
                }
                if let Some(g) = g_kl_from {
                    more = at(g, row) * (p - log_q.exp());
                }
            }
            let mut d = p * factor + more;
            if first + j == target.get() as usize {
                d += at(g, row);
            }
            let mut slope = 1.0 / temperature;
            if cap > 0.0 {
                let t = z * temperature / cap;
                slope *= 1.0 - t * t;
            }
            put(dtile, row * columns + j, d * slope);
        }
    }
}
