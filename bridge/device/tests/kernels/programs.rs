//! Kernels and products together: attention and the output head, gradients against differences of an f64 reference.

use super::attention::{angles, heads, score, scoring, texts, turned};
use super::harness::{Bench, Verdict, close, single, size, threads, within};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto_device::{
    Angles, Attention, Bend, Distribution, Element, Head, HeadGrad, Heads, OutputHead, Real,
    Scoring, Texts, upload_u32,
};

/// What the forward pass computes, in f64.
struct Reference<'a> {
    h: &'a Heads,
    scoring: &'a Scoring,
    table: &'a [Vec<f32>; 2],
    starts: &'a [u32],
}

impl Reference<'_> {
    fn out(&self, qkv: &[f64]) -> Vec<f64> {
        let h = self.h;
        let mut out = Vec::new();
        for pair in self.starts.windows(2) {
            let (first, n) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
            let part = |which: usize, head: usize, t: usize| {
                let at = (first + t) * h.row + h.offsets[which] + head * h.step;
                let values = &qkv[at..][..h.head_dim];
                if which == 2 {
                    values.to_vec()
                } else {
                    turned(h, values, self.table, t, 1.0)
                }
            };
            for i in 0..n {
                for head in 0..h.heads {
                    let kv = head / (h.heads / h.kv_heads);
                    let q = part(0, head, i);
                    let from = self.scoring.window.map_or(0, |w| (i + 1).saturating_sub(w));
                    let product = |j: usize| {
                        part(1, kv, j)
                            .iter()
                            .zip(&q)
                            .map(|(a, b)| a * b)
                            .sum::<f64>()
                    };
                    let weights: Vec<f64> = (from..=i)
                        .map(|j| score(self.scoring, product(j)).0.exp())
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    let values: Vec<Vec<f64>> = (from..=i).map(|j| part(2, kv, j)).collect();
                    let one = |d: usize| {
                        weights
                            .iter()
                            .zip(&values)
                            .map(|(w, v)| w / sum * v[d])
                            .sum::<f64>()
                    };
                    out.extend((0..h.head_dim).map(one));
                }
            }
        }
        out
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

fn root_mean_square(values: &[f32]) -> f64 {
    (wide(values).iter().map(|x| x * x).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// Slopes of `f` at `x` along some of `coordinates`, by central differences, against `found`.
fn slopes(
    what: &str,
    rng: &mut ChaCha8Rng,
    coordinates: &[usize],
    x: &[f64],
    f: impl Fn(&[f64]) -> f64,
    found: &[f32],
    tolerance: f64,
) -> Verdict {
    let size = root_mean_square(found);
    for _ in 0..6 {
        let at = coordinates[rng.random_range(0..coordinates.len())];
        let shifted = |by: f64| {
            let mut x = x.to_vec();
            x[at] += by;
            f(&x)
        };
        let want = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        // Terms of about unit size may cancel altogether.
        let sizes = [want.abs() + size + 1e-2];
        within(
            &format!("{what} at {at}"),
            &[found[at]],
            &[want],
            &sizes,
            tolerance,
        )?;
    }
    Ok(())
}

/// Attention forward and backward on packed texts.
pub fn attention(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let h = heads(&mut rng);
    let (starts, time) = texts(&mut rng, 9);
    let tokens = starts[starts.len() - 1] as usize;
    let table = angles(&mut rng, time, h.dims);
    let mut scoring = scoring(&mut rng);
    scoring.scale /= (h.head_dim as f32).sqrt();
    let qkv = bench.values(&mut rng, tokens * h.row);
    let width = h.heads * h.head_dim;
    let dout = bench.values(&mut rng, tokens * width);
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let starts = upload_u32(device, &starts)?;
        let (cosines, sines) = (single(device, &table[0])?, single(device, &table[1])?);
        let attention = Attention {
            kernels: *kernels,
            texts: Texts {
                starts: &starts,
                tokens,
                time,
            },
            heads: h,
            angles: Angles {
                cosines: &cosines,
                sines: &sines,
            },
            scoring,
        };
        let (rows, dout) = (bench.upload(device, &qkv)?, bench.upload(device, &dout)?);
        let out = bench.fresh(device, tokens * width)?;
        let dqkv = bench.upload(device, &qkv)?;
        let tape = attention.forward(&rows, &out)?;
        attention.backward(&tape, &dout, &dqkv)?;
        Ok(vec![out, dqkv])
    })?;
    let reference = Reference {
        h: &h,
        scoring: &scoring,
        table: &table,
        starts: &starts,
    };
    let x = wide(&qkv);
    let named = |what| format!("case {case}, {what}, {h:?}, {scoring:?}, {starts:?}");
    let [forward, backward] = match bench.real {
        Real::F32 => [2e-5, 1e-4],
        // Queries, keys, weights and their gradients are rounded, each by half a unit, 2⁻⁹.
        Real::Bf16 => [3e-2, 6e-2],
    };
    close(&named("out"), &out[0].floats(), &reference.out(&x), forward)?;
    let counts = [h.heads, h.kv_heads, h.kv_heads];
    let mut coordinates = Vec::new();
    for token in 0..tokens {
        for (which, count) in counts.into_iter().enumerate() {
            for head in 0..count {
                let at = token * h.row + h.offsets[which] + head * h.step;
                coordinates.extend(at..at + h.head_dim);
            }
        }
    }
    let loss = |x: &[f64]| {
        reference
            .out(x)
            .iter()
            .zip(&dout)
            .map(|(o, d)| o * f64::from(*d))
            .sum::<f64>()
    };
    let found = out[1].floats();
    slopes(
        &named("dqkv"),
        &mut rng,
        &coordinates,
        &x,
        loss,
        &found,
        backward,
    )
}

/// Bent logits of one row less the logarithm of their sum.
fn log_probs(bend: &Bend, hidden: &[f64], weight: &[f64]) -> Vec<f64> {
    let t = f64::from(bend.temperature);
    let bent = |w: &[f64]| {
        let l: f64 = w.iter().zip(hidden).map(|(w, h)| w * h).sum();
        bend.cap.map(f64::from).map_or(l, |c| c * (l / c).tanh()) / t
    };
    let z: Vec<f64> = weight.chunks(hidden.len()).map(bent).collect();
    let sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
    z.iter().map(|z| z - sum).collect()
}

/// The output head from hidden states to gradients of hidden states and weights.
pub fn output_head(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let (rows, vocabulary) = (size(&mut rng, 5), size(&mut rng, 60));
    let widths = [size(&mut rng, 20), size(&mut rng, 20)];
    let columns = rng.random_range(1..=vocabulary + 3);
    let bends = [0; 2].map(|_| Bend {
        cap: rng.random_bool(0.3).then(|| rng.random_range(2.0..6.0)),
        temperature: [1.0, 0.7][rng.random_range(0..2)],
    });
    // Logits of about unit size.
    let small = |rng: &mut ChaCha8Rng, n: usize, width: usize| {
        let scale = 1.0 / (width as f32).sqrt();
        let values = bench.values(rng, n).into_iter().map(|x| x * scale);
        bench.rounded(values.collect())
    };
    let hiddens = widths.map(|w| bench.values(&mut rng, rows * w));
    let weights = widths.map(|w| small(&mut rng, vocabulary * w, w));
    let targets: Vec<u32> = (0..rows)
        .map(|_| rng.random_range(0..vocabulary as u32))
        .collect();
    let grads = [0; 4].map(|_| {
        (0..rows)
            .map(|_| rng.random_range(-1.0f32..1.0))
            .collect::<Vec<f32>>()
    });
    let start = [widths[0] * rows, widths[0] * vocabulary].map(|n| vec![0.25f32; n]);
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let mut uploaded = Vec::new();
        for values in hiddens.iter().chain(&weights) {
            uploaded.push(bench.upload(device, values)?);
        }
        let of = |k: usize| Distribution {
            hidden: &uploaded[k],
            weight: &uploaded[2 + k],
            scale: 1.0,
            bend: bends[k],
        };
        let targets = upload_u32(device, &targets)?;
        let head = OutputHead {
            kernels: *kernels,
            policy: of(0),
            other: Some(of(1)),
            targets: &targets,
            columns,
        };
        let mut outs = Vec::new();
        for _ in 0..6 {
            outs.push(device.alloc(Element::F32, rows)?);
        }
        let to = Head {
            log_prob: &outs[0],
            entropy: &outs[1],
            log_sum: &outs[5],
            other: Some([&outs[2], &outs[3], &outs[4]]),
        };
        head.forward(&to)?;
        let mut g = Vec::new();
        for values in &grads {
            g.push(single(device, values)?);
        }
        let grad = HeadGrad {
            log_prob: &g[0],
            entropy: Some(&g[1]),
            kl: Some(&g[2]),
            kl_from: Some(&g[3]),
        };
        let (dhidden, dweight) = (single(device, &start[0])?, single(device, &start[1])?);
        head.backward(&to, &grad, &dhidden, Some(&dweight))?;
        outs.truncate(4);
        outs.extend([dhidden, dweight]);
        Ok(outs)
    })?;
    let (hidden, weight) = (wide(&hiddens[0]), wide(&weights[0]));
    let other: Vec<Vec<f64>> = wide(&hiddens[1])
        .chunks(widths[1])
        .map(|h| log_probs(&bends[1], h, &wide(&weights[1])))
        .collect();
    let numbers = |hidden: &[f64], weight: &[f64]| -> Vec<[f64; 4]> {
        let row = |(i, h): (usize, &[f64])| {
            let (p, q) = (log_probs(&bends[0], h, weight), &other[i]);
            let sum = |f: &dyn Fn(usize) -> f64| (0..vocabulary).map(f).sum::<f64>();
            [
                p[targets[i] as usize],
                sum(&|a| -p[a].exp() * p[a]),
                sum(&|a| p[a].exp() * (p[a] - q[a])),
                sum(&|a| q[a].exp() * (q[a] - p[a])),
            ]
        };
        hidden.chunks(widths[0]).enumerate().map(row).collect()
    };
    let named = |what: &str| {
        format!(
            "case {case}, {what}, {rows} by {vocabulary} by {widths:?} in tiles of {columns}, {bends:?}"
        )
    };
    let exact = numbers(&hidden, &weight);
    for (k, what) in ["log p", "entropy", "KL", "KL from"]
        .into_iter()
        .enumerate()
    {
        let want: Vec<f64> = exact.iter().map(|n| n[k]).collect();
        within(
            &named(what),
            &out[k].floats(),
            &want,
            &vec![8.0; rows],
            2e-6,
        )?;
    }
    let loss = |hidden: &[f64], weight: &[f64]| {
        let of =
            |(i, n): (usize, [f64; 4])| (0..4).map(|k| f64::from(grads[k][i]) * n[k]).sum::<f64>();
        numbers(hidden, weight)
            .into_iter()
            .enumerate()
            .map(of)
            .sum::<f64>()
    };
    let gradient = |k: usize| {
        out[k]
            .floats()
            .iter()
            .map(|x| x - 0.25)
            .collect::<Vec<f32>>()
    };
    let all = |n: usize| (0..n).collect::<Vec<usize>>();
    let tolerance = match bench.real {
        Real::F32 => 1e-4,
        Real::Bf16 => 2e-2,
    };
    let along = |h: &[f64]| loss(h, &weight);
    slopes(
        &named("dhidden"),
        &mut rng,
        &all(hidden.len()),
        &hidden,
        along,
        &gradient(4),
        tolerance,
    )?;
    let along = |w: &[f64]| loss(&hidden, w);
    slopes(
        &named("dweight"),
        &mut rng,
        &all(weight.len()),
        &weight,
        along,
        &gradient(5),
        tolerance,
    )
}
