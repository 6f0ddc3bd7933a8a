//! Generation: the cache, attention over it, draws.

use super::attention::{angles, heads, score, scoring, turned};
use super::harness::{Bench, Verdict, close, single, size, threads};
use half::bf16;
use rand::Rng;
use rto_device::{Angles, Cache, Draw, Element, Heads, Real, Rows, upload_f64, upload_u32};

/// Appends rows to a cache that holds earlier tokens, and attends: against the sum over all tokens of each text.
pub fn decode(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let mut h = heads(&mut rng);
    if case.is_multiple_of(16) {
        // The widest heads that there are.
        h = Heads {
            row: 3 * 256,
            head_dim: 256,
            heads: 1,
            kv_heads: 1,
            step: 256,
            offsets: [0, 256, 512],
            dims: 64,
            neighbours: false,
        };
    }
    let (slots, capacity) = (rng.random_range(1..=4usize), rng.random_range(1..=40usize));
    // Every row another slot, in no order.
    let mut free: Vec<u32> = (0..slots as u32).collect();
    let n = rng.random_range(1..=slots);
    let slots_of: Vec<u32> = (0..n)
        .map(|_| free.swap_remove(rng.random_range(0..free.len())))
        .collect();
    let positions: Vec<u32> = (0..n)
        .map(|_| rng.random_range(0..capacity as u32))
        .collect();
    let table = angles(&mut rng, capacity, h.dims);
    let scoring = scoring(&mut rng);
    let qkv = bench.values(&mut rng, n * h.row);
    let cached = slots * h.kv_heads * capacity * h.head_dim;
    let (mut keys, mut values) = (
        bench.values(&mut rng, cached),
        bench.values(&mut rng, cached),
    );
    let at = |slot: u32, head: usize, position: usize| {
        ((slot as usize * h.kv_heads + head) * capacity + position) * h.head_dim
    };
    // What lies behind a text's end is not read.
    for i in 0..n {
        for head in 0..h.kv_heads {
            for position in positions[i] as usize..capacity {
                let from = at(slots_of[i], head, position);
                keys[from..][..h.head_dim].fill(f32::NAN);
                values[from..][..h.head_dim].fill(f32::NAN);
            }
        }
    }
    let width = h.heads * h.head_dim;
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let (cosines, sines) = (single(device, &table[0])?, single(device, &table[1])?);
        let angles = Angles {
            cosines: &cosines,
            sines: &sines,
        };
        let (keys, values) = (bench.upload(device, &keys)?, bench.upload(device, &values)?);
        let cache = Cache {
            keys: &keys,
            values: &values,
            slots,
            capacity,
        };
        let qkv = bench.upload(device, &qkv)?;
        let (slots, positions) = (
            upload_u32(device, &slots_of)?,
            upload_u32(device, &positions)?,
        );
        let rows = Rows {
            qkv: &qkv,
            slots: &slots,
            positions: &positions,
        };
        let out = bench.fresh(device, n * width)?;
        kernels.cache_append(&rows, &cache, &h, &angles)?;
        kernels.decode_attention(&rows, &cache, &h, &angles, &scoring, &out)?;
        Ok(vec![out, keys, values])
    })?;
    let stored = |x: f64| match bench.real {
        Real::F32 => x,
        Real::Bf16 => bf16::from_f64(x).to_f64(),
    };
    let (mut now_keys, mut now_values) = (keys.clone(), values.clone());
    let mut want = Vec::new();
    for i in 0..n {
        let row = &qkv[i * h.row..][..h.row];
        let (slot, position) = (slots_of[i], positions[i] as usize);
        let part =
            |which: usize, head: usize| &row[h.offsets[which] + head * h.step..][..h.head_dim];
        for head in 0..h.kv_heads {
            let to = at(slot, head, position);
            for (d, k) in turned(&h, part(1, head), &table, position, 1.0)
                .into_iter()
                .enumerate()
            {
                now_keys[to + d] = stored(k) as f32;
            }
            now_values[to..][..h.head_dim].copy_from_slice(part(2, head));
        }
        for head in 0..h.heads {
            let kv = head / (h.heads / h.kv_heads);
            let q: Vec<f64> = turned(&h, part(0, head), &table, position, 1.0)
                .into_iter()
                .map(stored)
                .collect();
            let from = scoring
                .window
                .map_or(0, |w| (position + 1).saturating_sub(w));
            let product = |j: usize| {
                let key = &now_keys[at(slot, kv, j)..][..h.head_dim];
                q.iter()
                    .zip(key)
                    .map(|(q, k)| q * f64::from(*k))
                    .sum::<f64>()
            };
            let scores: Vec<f64> = (from..=position)
                .map(|j| score(&scoring, product(j)).0)
                .collect();
            let top = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for d in 0..h.head_dim {
                let value = |j: usize| f64::from(now_values[at(slot, kv, j) + d]);
                want.push(
                    (from..=position)
                        .map(|j| (scores[j - from] - top).exp() / sum * value(j))
                        .sum(),
                );
            }
        }
    }
    let named = |what| {
        format!(
            "case {case}, {what}, {h:?}, {scoring:?}, slots {slots_of:?} at {positions:?} of {capacity}"
        )
    };
    // A key that rounds the other way in f32 than in f64 is half a unit off: it moves a score by its share.
    close(
        &named("out"),
        &out[0].floats(),
        &want,
        2e-5 + 2.0 * bench.unit(),
    )?;
    for (what, got, want) in [
        ("keys", &out[1], &now_keys),
        ("values", &out[2], &now_values),
    ] {
        let got = got.floats();
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let right = if w.is_nan() {
                g.is_nan()
            } else {
                (g - w).abs() <= (1e-6 + bench.unit() as f32) * (1.0 + w.abs())
            };
            if !right {
                return Err(format!("{} [{i}]: found {g}, expected {w}", named(what)));
            }
        }
    }
    Ok(())
}

/// One way to cut a distribution, and where the uniform number falls in it.
fn kept(weights: &[f64], order: &[usize], logits: &[f32], top_k: usize, target: f64) -> Vec<usize> {
    let mut kept: Vec<usize> = order.to_vec();
    if top_k > 0 && top_k < order.len() {
        let least = logits[order[top_k - 1]];
        kept.retain(|&i| logits[i] >= least);
    }
    let whole: f64 = kept.iter().map(|&i| weights[i]).sum();
    let mut mass = 0.0;
    let mut n = 0;
    for &i in &kept {
        mass += weights[i];
        n += 1;
        if mass >= target * whole {
            break;
        }
    }
    if target < 1.0 {
        kept.truncate(n);
    }
    kept.sort_unstable();
    kept
}

/// Draws against the inverse distribution function in f64: the token of a share within rounding of the uniform number's, its
/// log-probability, and rows that do not depend on their batch.
pub fn draw(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let (rows, vocabulary) = (size(&mut rng, 5), size(&mut rng, 300));
    let how = Draw {
        temperature: if rng.random_bool(0.5) {
            1.0
        } else {
            rng.random_range(0.3..2.0)
        },
        top_k: if rng.random_bool(0.4) {
            rng.random_range(1..=vocabulary)
        } else {
            0
        },
        top_p: if rng.random_bool(0.5) {
            1.0
        } else {
            rng.random_range(0.05..1.0)
        },
    };
    let spread = rng.random_range(0.5f32..12.0);
    // On a grid there are ties.
    let grid = rng.random_bool(0.4);
    let logit = |rng: &mut rand_chacha::ChaCha8Rng| {
        let x = rng.random_range(-spread..spread);
        match rng.random_range(0..12) {
            0 if vocabulary > 4 => f32::NEG_INFINITY,
            _ if grid => (x * 2.0).round() / 2.0,
            _ => x,
        }
    };
    let mut logits: Vec<f32> = (0..rows * vocabulary).map(|_| logit(&mut rng)).collect();
    for row in logits.chunks_mut(vocabulary) {
        row[rng.random_range(0..vocabulary)] = spread * 0.5;
    }
    let uniforms: Vec<f64> = (0..rows)
        .map(|_| match rng.random_range(0..8) {
            0 => 0.0,
            1 => 1.0 - 2f64.powi(-53),
            _ => rng.random(),
        })
        .collect();
    let block = threads(&mut rng);
    let out = bench.run(case, block, |device, kernels| {
        let mut all = Vec::new();
        let some = |from: usize, to: usize, uniform: bool, all: &mut Vec<_>| {
            let l = single(device, &logits[from * vocabulary..to * vocabulary])?;
            let u = upload_f64(device, &uniforms[from..to])?;
            let (tokens, probs) = (
                device.alloc(Element::U32, to - from)?,
                device.alloc(Element::F32, to - from)?,
            );
            kernels.draw(&l, uniform.then_some(&u), &how, &tokens, &probs)?;
            all.extend([tokens, probs]);
            Ok(())
        };
        some(0, rows, true, &mut all)?;
        some(rows - 1, rows, true, &mut all)?;
        some(0, rows, false, &mut all)?;
        Ok(all)
    })?;
    let (tokens, probs) = (out[0].words(), out[1].floats());
    let alone = (out[2].words()[0], out[3].words()[0]);
    if alone != (tokens[rows - 1], out[1].words()[rows - 1]) {
        return Err(format!(
            "case {case}: {alone:?} alone, another draw in its batch"
        ));
    }
    for i in 0..rows {
        let row = &logits[i * vocabulary..][..vocabulary];
        let top = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let inverse = f64::from((1.0 / how.temperature) as f32);
        let weights: Vec<f64> = row
            .iter()
            .map(|l| (f64::from(l - top) * inverse).exp())
            .collect();
        let mut order: Vec<usize> = (0..vocabulary).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let token = tokens[i] as usize;
        // A share that one rounding moves over an edge may keep one token more or less.
        let slack = 1e-6;
        let mut right = false;
        for share in [how.top_p, how.top_p - slack, how.top_p + slack] {
            let share = if how.top_p < 1.0 {
                share.clamp(1e-9, 1.0 - 1e-12)
            } else {
                1.0
            };
            let kept = kept(&weights, &order, row, how.top_k, share);
            let whole: f64 = kept.iter().map(|&t| weights[t]).sum();
            let before: f64 = kept
                .iter()
                .filter(|&&t| t < token)
                .map(|&t| weights[t])
                .sum();
            let (low, high) = (
                before / whole - slack,
                (before + weights[token.min(vocabulary - 1)]) / whole + slack,
            );
            let log_prob = (weights[token.min(vocabulary - 1)] / whole).ln();
            right |= kept.contains(&token)
                && (low..=high).contains(&uniforms[i])
                && (f64::from(probs[i]) - log_prob).abs() <= 2e-6 * (1.0 + log_prob.abs());
        }
        if !right {
            let why = format!(
                "token {token}, log-probability {}, for {} of {row:?}, {how:?}",
                probs[i], uniforms[i]
            );
            return Err(format!("case {case}, row {i} of {rows}: {why}"));
        }
        let first = row.iter().position(|l| *l == top);
        let whole: f64 = weights.iter().sum();
        let greedy = f64::from(out[5].floats()[i]);
        if Some(out[4].words()[i] as usize) != first
            || (greedy + whole.ln()).abs() > 1e-6 * (1.0 + whole.ln().abs())
        {
            return Err(format!(
                "case {case}, row {i}: most likely {} at {greedy}, expected {first:?}",
                out[4].words()[i]
            ));
        }
    }
    Ok(())
}

/// Logits that are NaN or infinite give no token.
pub fn draw_refuses(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let vocabulary = size(&mut rng, 100);
    let mut logits: Vec<f32> = (0..2 * vocabulary)
        .map(|_| rng.random_range(-3.0..3.0))
        .collect();
    let bad = [f32::NAN, f32::INFINITY][case as usize % 2];
    logits[rng.random_range(0..vocabulary)] = bad;
    if case.is_multiple_of(5) {
        logits[..vocabulary].fill(f32::NEG_INFINITY);
    }
    let how = Draw {
        temperature: 1.0,
        top_k: 0,
        top_p: if case.is_multiple_of(3) { 0.5 } else { 1.0 },
    };
    let out = bench.run(case, 64, |device, kernels| {
        let (l, u) = (single(device, &logits)?, upload_f64(device, &[0.5; 2])?);
        let (tokens, probs) = (
            device.alloc(Element::U32, 2)?,
            device.alloc(Element::F32, 2)?,
        );
        kernels.draw(&l, Some(&u), &how, &tokens, &probs)?;
        Ok(vec![tokens, probs])
    })?;
    let (tokens, probs) = (out[0].words(), out[1].floats());
    if tokens[0] != u32::MAX
        || !probs[0].is_nan()
        || tokens[1] as usize >= vocabulary
        || !probs[1].is_finite()
    {
        return Err(format!(
            "case {case}: {tokens:?}, {probs:?} for {bad} of {vocabulary}"
        ));
    }
    Ok(())
}
