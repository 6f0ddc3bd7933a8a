//! Heads, softmax, activations and embeddings.

use super::harness::{Bench, Verdict, close, same, single, size, threads, within};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto_device::{Activation, Angles, Element, Heads, Scoring, Texts, upload_u32};

/// Heads of every layout: queries, keys and values apart, in turns head by head, with gaps; some dimensions turned, all or none.
pub fn heads(rng: &mut ChaCha8Rng) -> Heads {
    let head_dim = size(rng, 40);
    let kv_heads = rng.random_range(1..=3);
    let share = rng.random_range(1..=2);
    let count = kv_heads * share;
    let dims = match rng.random_range(0..4) {
        0 => 0,
        1 => head_dim / 2 * 2,
        _ => rng.random_range(0..=head_dim / 2) * 2,
    };
    let gap = rng.random_range(0..3);
    // As GPT-NeoX: one head's query, key and value beside each other.
    let together = share == 1 && rng.random_bool(0.5);
    let (step, offsets, row) = if together {
        let step = 3 * head_dim + gap;
        (step, [0, head_dim, 2 * head_dim], count * step)
    } else {
        let (q, k) = (count * head_dim, kv_heads * head_dim);
        (head_dim, [gap, gap + q, gap + q + k], gap + q + 2 * k)
    };
    Heads {
        row,
        head_dim,
        heads: count,
        kv_heads,
        step,
        offsets,
        dims,
        neighbours: rng.random_bool(0.5),
    }
}

/// Where texts begin, and how long the padded ones are.
pub fn texts(rng: &mut ChaCha8Rng, most: usize) -> (Vec<u32>, usize) {
    let mut starts = vec![0u32];
    let mut time = 1;
    for _ in 0..rng.random_range(1..=3) {
        let n = rng.random_range(1..=most);
        time = time.max(n);
        starts.push(starts[starts.len() - 1] + n as u32);
    }
    (starts, time + rng.random_range(0..3))
}

pub fn angles(rng: &mut ChaCha8Rng, positions: usize, dims: usize) -> [Vec<f32>; 2] {
    let turn: f32 = rng.random_range(0.1..2.0);
    let angle = |i: usize| (i / (dims / 2)) as f32 * turn / (1.0 + (i % (dims / 2)) as f32);
    let all: Vec<f32> = (0..positions * dims / 2).map(angle).collect();
    [f32::cos, f32::sin].map(|f| all.iter().map(|a| f(*a)).collect())
}

/// A head after its turn.
pub fn turned<T: Copy + Into<f64>>(
    h: &Heads,
    head: &[T],
    angles: &[Vec<f32>; 2],
    position: usize,
    sign: f64,
) -> Vec<f64> {
    let head: Vec<f64> = head.iter().map(|x| (*x).into()).collect();
    let mut out = head.clone();
    let half = h.dims / 2;
    for i in 0..half {
        let (a, b) = if h.neighbours {
            (2 * i, 2 * i + 1)
        } else {
            (i, i + half)
        };
        let [c, s] = [0, 1].map(|k| f64::from(angles[k][position * half + i]));
        out[a] = head[a] * c - head[b] * sign * s;
        out[b] = head[b] * c + head[a] * sign * s;
    }
    out
}

/// Splitting, turning, padding and packing, and their transposes.
pub fn split_heads(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let h = heads(&mut rng);
    let (starts, time) = texts(&mut rng, 12);
    let count = starts.len() - 1;
    let tokens = starts[count] as usize;
    let table = angles(&mut rng, time, h.dims);
    let qkv = bench.values(&mut rng, tokens * h.row);
    let dqkv = bench.values(&mut rng, tokens * h.row);
    let padded = |heads: usize| count * time * heads * h.head_dim;
    let sizes = [h.heads, h.kv_heads, h.kv_heads].map(padded);
    let dheads = sizes.map(|n| bench.values(&mut rng, n));
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let starts = upload_u32(device, &starts)?;
        let texts = Texts {
            starts: &starts,
            tokens,
            time,
        };
        let (cosines, sines) = (single(device, &table[0])?, single(device, &table[1])?);
        let angles = Angles {
            cosines: &cosines,
            sines: &sines,
        };
        let qkv = bench.upload(device, &qkv)?;
        let dqkv = bench.upload(device, &dqkv)?;
        let mut all = Vec::new();
        for n in sizes {
            all.push(bench.fresh(device, n)?);
        }
        kernels.heads_split(&texts, &h, &angles, &qkv, [&all[0], &all[1], &all[2]])?;
        let mut grads = Vec::new();
        for values in &dheads {
            grads.push(bench.upload(device, values)?);
        }
        let parts = [&grads[0], &grads[1], &grads[2]];
        kernels.heads_split_backward(&texts, &h, &angles, parts, &dqkv)?;
        let rows = bench.fresh(device, tokens * h.heads * h.head_dim)?;
        kernels.heads_pack(&texts, h.head_dim, &grads[0], &rows)?;
        let again = bench.fresh(device, sizes[0])?;
        kernels.heads_pad(&texts, h.head_dim, &rows, &again)?;
        all.extend([dqkv, rows, again]);
        Ok(all)
    })?;
    let counts = [h.heads, h.kv_heads, h.kv_heads];
    let mut want: Vec<Vec<f64>> = sizes.iter().map(|n| vec![0.0; *n]).collect();
    let mut back: Vec<f64> = dqkv.iter().map(|x| f64::from(*x)).collect();
    let mut rows = vec![0.0; tokens * h.heads * h.head_dim];
    let mut again = vec![0.0; sizes[0]];
    for text in 0..count {
        for t in 0..(starts[text + 1] - starts[text]) as usize {
            let token = starts[text] as usize + t;
            for which in 0..3 {
                for head in 0..counts[which] {
                    let from = token * h.row + h.offsets[which] + head * h.step;
                    let to = ((text * counts[which] + head) * time + t) * h.head_dim;
                    let gradient = &dheads[which][to..][..h.head_dim];
                    let plain = Heads { dims: 0, ..h };
                    let h = if which == 2 { &plain } else { &h };
                    let values = &qkv[from..][..h.head_dim];
                    let one = turned(h, values, &table, t, 1.0);
                    want[which][to..][..h.head_dim].copy_from_slice(&one);
                    let one = turned(h, gradient, &table, t, -1.0);
                    back[from..][..h.head_dim].copy_from_slice(&one);
                    if which == 0 {
                        for (d, g) in gradient.iter().enumerate() {
                            rows[(token * h.heads + head) * h.head_dim + d] = f64::from(*g);
                            again[to + d] = f64::from(*g);
                        }
                    }
                }
            }
        }
    }
    let tolerance = 1e-6 + bench.unit();
    for (i, what) in ["q", "k", "v"].into_iter().enumerate() {
        close(
            &format!("case {case}, {what}, {h:?}"),
            &out[i].floats(),
            &want[i],
            tolerance,
        )?;
    }
    close(
        &format!("case {case}, dqkv, {h:?}"),
        &out[3].floats(),
        &back,
        tolerance,
    )?;
    close(&format!("case {case}, rows"), &out[4].floats(), &rows, 0.0)?;
    close(
        &format!("case {case}, padded"),
        &out[5].floats(),
        &again,
        0.0,
    )
}

pub fn scoring(rng: &mut ChaCha8Rng) -> Scoring {
    Scoring {
        scale: rng.random_range(0.2..1.5),
        cap: rng.random_bool(0.4).then(|| rng.random_range(0.5..4.0)),
        window: rng.random_bool(0.4).then(|| rng.random_range(1..9)),
    }
}

/// A score, its slope in the product, both in f64.
pub fn score(s: &Scoring, product: f64) -> (f64, f64) {
    let scaled = product * f64::from(s.scale);
    match s.cap.map(f64::from) {
        None => (scaled, f64::from(s.scale)),
        Some(cap) => {
            let t = (scaled / cap).tanh();
            (cap * t, f64::from(s.scale) * (1.0 - t * t))
        }
    }
}

/// Causal softmax forward and backward with window and cap, on texts of unequal length.
pub fn softmax(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let most = if case.is_multiple_of(8) { 70 } else { 12 };
    let (starts, time) = texts(&mut rng, most);
    let count = starts.len() - 1;
    let heads = rng.random_range(1..=2);
    let scoring = scoring(&mut rng);
    let rows = count * heads * time;
    let mut floats = |n: usize| {
        (0..n)
            .map(|_| rng.random_range(-4.0f32..4.0))
            .collect::<Vec<f32>>()
    };
    let (scores, dp) = (floats(rows * time), floats(rows * time));
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let starts = upload_u32(device, &starts)?;
        let texts = Texts {
            starts: &starts,
            tokens: 0,
            time,
        };
        let (scores, dp) = (single(device, &scores)?, single(device, &dp)?);
        let p = bench.fresh(device, rows * time)?;
        let log_sum = device.alloc(Element::F32, rows)?;
        kernels.softmax(&texts, heads, &scoring, &scores, &p, &log_sum)?;
        let again = bench.fresh(device, rows * time)?;
        let ds = bench.fresh(device, rows * time)?;
        let to = [&again, &ds];
        kernels.softmax_backward(&texts, heads, &scoring, &scores, &dp, &log_sum, to)?;
        Ok(vec![p, log_sum, again, ds])
    })?;
    let (mut p, mut ds) = (vec![0.0; rows * time], vec![0.0; rows * time]);
    let (mut sums, mut sizes) = (vec![0.0; rows], vec![0.0; rows * time]);
    for row in 0..rows {
        let (text, i) = (row / time / heads, row % time);
        if i >= (starts[text + 1] - starts[text]) as usize {
            continue;
        }
        let from = scoring.window.map_or(0, |w| (i + 1).saturating_sub(w));
        let at = |j: usize| row * time + j;
        let all: Vec<(f64, f64)> = (from..=i)
            .map(|j| score(&scoring, f64::from(scores[at(j)])))
            .collect();
        let sum: f64 = all.iter().map(|s| s.0.exp()).sum();
        sums[row] = sum.ln();
        let weights = |j: usize| all[j - from].0.exp() / sum;
        let mean: f64 = (from..=i).map(|j| weights(j) * f64::from(dp[at(j)])).sum();
        for j in from..=i {
            p[at(j)] = weights(j);
            ds[at(j)] = weights(j) * (f64::from(dp[at(j)]) - mean) * all[j - from].1;
            sizes[at(j)] = weights(j) * 8.0 * f64::from(scoring.scale);
        }
    }
    let named = |what| format!("case {case}, {what}, {scoring:?}, {starts:?} in {time}");
    let tolerance = 4e-6 + bench.unit();
    within(&named("p"), &out[0].floats(), &p, &p, tolerance)?;
    let ones = vec![8.0; rows];
    within(&named("log_sum"), &out[1].floats(), &sums, &ones, 1e-6)?;
    within(&named("p again"), &out[2].floats(), &p, &p, tolerance)?;
    within(&named("ds"), &out[3].floats(), &ds, &sizes, tolerance)
}

const KINDS: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu];

/// Value and slope by their definitions; erfc by numerical integration of the density.
fn activated(kind: Activation, x: f64) -> (f64, f64) {
    let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
    match kind {
        Activation::Gelu => {
            let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
            // Simpson's rule from 0 to x, 400 pieces.
            let h = x / 400.0;
            let inside: f64 = (1..400)
                .map(|i| density(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 })
                .sum();
            let cdf = 0.5 + (density(0.0) + inside + density(x)) * h / 3.0;
            (x * cdf, cdf + x * density(x))
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let s = sigmoid(2.0 * c * (x + 0.044715 * x.powi(3)));
            let slope = 2.0 * c * (1.0 + 3.0 * 0.044715 * x * x);
            (x * s, s + x * s * (1.0 - s) * slope)
        }
        Activation::Silu => {
            let s = sigmoid(x);
            (x * s, s + x * s * (1.0 - s))
        }
    }
}

/// Activations plain and gated, forward and backward.
pub fn activation(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let (rows, width) = (size(&mut rng, 5), size(&mut rng, 70));
    let n = rows * width;
    let kind = KINDS[case as usize % 3];
    let packed = rng.random_bool(0.5);
    let stride = if packed {
        2 * width
    } else {
        width + rng.random_range(0..3)
    };
    let used = (rows - 1) * stride + width;
    let scale = rng.random_range(0.5f32..3.0);
    let wide = |rng: &mut ChaCha8Rng, n: usize| {
        let values = bench.values(rng, n).into_iter().map(|x| x * scale);
        bench.rounded(values.collect())
    };
    let total = if packed { rows * stride } else { 2 * used };
    let (x, dy) = (wide(&mut rng, total.max(n)), bench.values(&mut rng, n));
    let up_at = if packed { width } else { used };
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let all = bench.upload(device, &x)?;
        let (plain, dy) = (all.part(0, n)?, bench.upload(device, &dy)?);
        let (y, again, dx) = (
            bench.fresh(device, n)?,
            bench.fresh(device, n)?,
            bench.fresh(device, n)?,
        );
        kernels.activation(kind, &plain, &y)?;
        kernels.activation_backward(kind, &plain, &dy, &dx, &again)?;
        let (gate, up) = (all.part(0, used)?, all.part(up_at, used)?);
        let (gated, gated_again) = (bench.fresh(device, n)?, bench.fresh(device, n)?);
        kernels.gated(kind, [&gate, &up], &gated, width, stride)?;
        let grads = bench.upload(device, &x)?;
        let to = [&grads.part(0, used)?, &grads.part(up_at, used)?];
        kernels.gated_backward(kind, [&gate, &up], &dy, to, &gated_again, width, stride)?;
        Ok(vec![y, again, dx, gated, gated_again, grads])
    })?;
    let named = |what| format!("case {case}, {what}, {kind:?}, {rows} by {width} in {stride}");
    same(&named("y again"), &out[0], &out[1])?;
    same(&named("gated again"), &out[3], &out[4])?;
    let at = |i: usize| (i / width) * stride + i % width;
    let one: Vec<(f64, f64)> = (0..n).map(|i| activated(kind, f64::from(x[i]))).collect();
    let d = |i: usize| f64::from(dy[i]);
    let all = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<f64>>();
    let tolerance = 1e-6 + bench.unit();
    close(
        &named("y"),
        &out[0].floats(),
        &all(&|i| one[i].0),
        tolerance,
    )?;
    close(
        &named("dx"),
        &out[2].floats(),
        &all(&|i| d(i) * one[i].1),
        tolerance,
    )?;
    let (gate, up) = (
        |i: usize| activated(kind, f64::from(x[at(i)])),
        |i: usize| f64::from(x[up_at + at(i)]),
    );
    close(
        &named("gated"),
        &out[3].floats(),
        &all(&|i| gate(i).0 * up(i)),
        tolerance,
    )?;
    let mut grads: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    for i in 0..n {
        grads[at(i)] = d(i) * up(i) * gate(i).1;
        grads[up_at + at(i)] = d(i) * gate(i).0;
    }
    close(&named("gradients"), &out[5].floats(), &grads, tolerance)
}

/// Gather and sorted scatter.
pub fn embedding(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let (n, width, vocabulary) = (size(&mut rng, 40), size(&mut rng, 70), size(&mut rng, 20));
    let places = rng.random_range(1..8usize);
    let with_places = rng.random_bool(0.5);
    let factor = [1.0, 3.5][rng.random_range(0..2)];
    let tokens: Vec<u32> = (0..n)
        .map(|_| rng.random_range(0..vocabulary as u32))
        .collect();
    let positions: Vec<u32> = (0..n).map(|_| rng.random_range(0..places as u32)).collect();
    let table = bench.values(&mut rng, vocabulary * width);
    let place_table = bench.values(&mut rng, places * width);
    let dx = bench.values(&mut rng, n * width);
    let dtable: Vec<f32> = (0..vocabulary * width)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_by_key(|&i| tokens[i as usize]);
    let mut ids: Vec<u32> = tokens.clone();
    ids.sort_unstable();
    ids.dedup();
    let first = |id: u32| {
        order
            .iter()
            .position(|&i| tokens[i as usize] == id)
            .unwrap_or(n) as u32
    };
    let mut firsts: Vec<u32> = ids.iter().map(|id| first(*id)).collect();
    firsts.push(n as u32);
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let (tokens, positions) = (
            upload_u32(device, &tokens)?,
            upload_u32(device, &positions)?,
        );
        let (table, places) = (
            bench.upload(device, &table)?,
            bench.upload(device, &place_table)?,
        );
        let x = bench.fresh(device, n * width)?;
        let places = with_places.then_some((&positions, &places));
        kernels.embed(&tokens, &table, places, &x, factor)?;
        let (dx, dtable) = (bench.upload(device, &dx)?, single(device, &dtable)?);
        let lists = [
            upload_u32(device, &ids)?,
            upload_u32(device, &firsts)?,
            upload_u32(device, &order)?,
        ];
        kernels.embed_backward(&dx, [&lists[0], &lists[1], &lists[2]], &dtable, factor)?;
        Ok(vec![x, dtable])
    })?;
    let f = f64::from(factor);
    let mut x = Vec::new();
    let mut grads: Vec<f64> = dtable.iter().map(|x| f64::from(*x)).collect();
    let mut sizes = vec![1.0; grads.len()];
    for i in 0..n {
        for j in 0..width {
            let (token, place) = (
                tokens[i] as usize * width + j,
                positions[i] as usize * width + j,
            );
            let more = if with_places {
                f64::from(place_table[place])
            } else {
                0.0
            };
            x.push(f * f64::from(table[token]) + more);
            grads[token] += f * f64::from(dx[i * width + j]);
            sizes[token] += f * f64::from(dx[i * width + j]).abs();
        }
    }
    let named = |what| format!("case {case}, {what}, {n} of {vocabulary} by {width}");
    close(&named("x"), &out[0].floats(), &x, 1e-6 + bench.unit())?;
    within(&named("dtable"), &out[1].floats(), &grads, &sizes, 2e-6)
}
