//! The output head by tiles, forward and back, with entropy and both exact divergences.

use super::harness::{Bench, Verdict, single, size, threads, within};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto_device::{Bend, Buffer, Device, Element, Error, Head, HeadGrad, Tile, upload_u32};

struct Case {
    rows: usize,
    vocabulary: usize,
    /// Where tiles begin, and the vocabulary's end.
    cuts: Vec<usize>,
    logits: Vec<f32>,
    other: Option<Vec<f32>>,
    bends: [Bend; 2],
    targets: Vec<u32>,
    /// ∂ of log p, entropy, KL and its converse.
    grads: [Vec<f32>; 4],
    /// Which of the last three there are.
    asked: [bool; 3],
}

fn bend(rng: &mut ChaCha8Rng) -> Bend {
    Bend {
        cap: rng.random_bool(0.3).then(|| rng.random_range(2.0..8.0)),
        temperature: if rng.random_bool(0.5) {
            1.0
        } else {
            rng.random_range(0.4..2.0)
        },
    }
}

impl Case {
    fn new(bench: &Bench, case: u64) -> Self {
        let mut rng = bench.rng(case);
        let (rows, vocabulary) = (size(&mut rng, 6), size(&mut rng, 160));
        let mut cuts = vec![0];
        while cuts[cuts.len() - 1] < vocabulary {
            let from = cuts[cuts.len() - 1];
            cuts.push((from + size(&mut rng, 70)).min(vocabulary));
        }
        let spread = rng.random_range(0.5f32..9.0);
        let n = rows * vocabulary;
        let mut floats = |n: usize, s: f32| {
            (0..n)
                .map(|_| rng.random_range(-s..s))
                .collect::<Vec<f32>>()
        };
        let (logits, other) = (floats(n, spread), floats(n, spread));
        let grads = [0; 4].map(|_| floats(rows, 1.0));
        let with_other = rng.random_bool(0.5);
        let asked = [
            rng.random_bool(0.5),
            with_other && rng.random_bool(0.7),
            with_other && rng.random_bool(0.7),
        ];
        Self {
            rows,
            vocabulary,
            cuts,
            logits,
            other: with_other.then_some(other),
            bends: [bend(&mut rng), bend(&mut rng)],
            targets: (0..rows)
                .map(|_| rng.random_range(0..vocabulary as u32))
                .collect(),
            grads,
            asked,
        }
    }

    /// Columns `from..to` of a matrix, as a matmul of a tile leaves them.
    fn tile(&self, all: &[f32], from: usize, to: usize) -> Vec<f32> {
        let rows = all.chunks(self.vocabulary);
        rows.flat_map(|row| row[from..to].to_vec()).collect()
    }

    fn tiles(&self, device: &dyn Device) -> Result<Vec<(usize, Buffer, Option<Buffer>)>, Error> {
        let one = |w: &[usize]| {
            let logits = single(device, &self.tile(&self.logits, w[0], w[1]))?;
            let other = self
                .other
                .as_ref()
                .map(|o| single(device, &self.tile(o, w[0], w[1])));
            Ok((w[0], logits, other.transpose()?))
        };
        self.cuts.windows(2).map(one).collect()
    }
}

/// Bent logits, the slope of the bend, and the logarithm of their sum.
fn row(bend: &Bend, raw: &[f32]) -> (Vec<f64>, Vec<f64>, f64) {
    let t = f64::from(bend.temperature);
    let one = |l: &f32| match bend.cap.map(f64::from) {
        None => (f64::from(*l) / t, 1.0 / t),
        Some(cap) => {
            let h = (f64::from(*l) / cap).tanh();
            (cap * h / t, (1.0 - h * h) / t)
        }
    };
    let (z, slope): (Vec<f64>, Vec<f64>) = raw.iter().map(one).unzip();
    let top = z.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let sum = top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
    (z, slope, sum)
}

/// Log-probabilities, entropies and divergences, and the gradient of the logits.
pub fn head(bench: &Bench, case: u64) -> Verdict {
    let c = Case::new(bench, case);
    let rows = c.rows;
    let out = bench.run(case, threads(&mut bench.rng(!case)), |device, kernels| {
        let targets = upload_u32(device, &c.targets)?;
        let running = device.alloc(Element::F32, rows * 8)?;
        let tiles = c.tiles(device)?;
        let tile = |(first, logits, other): &(usize, Buffer, Option<Buffer>)| {
            let [bend, other_bend] = c.bends;
            (*first, logits.clone(), other.clone(), bend, other_bend)
        };
        for (i, t) in tiles.iter().map(tile).enumerate() {
            let tile = Tile {
                logits: &t.1,
                other: t.2.as_ref(),
                first: t.0,
                bend: t.3,
                other_bend: t.4,
            };
            kernels.head_scan(&tile, &targets, &running, i == 0)?;
        }
        let mut outs = Vec::new();
        for _ in 0..6 {
            outs.push(device.alloc(Element::F32, rows)?);
        }
        let head = Head {
            log_prob: &outs[0],
            entropy: &outs[1],
            log_sum: &outs[2],
            other: c.other.is_some().then_some([&outs[3], &outs[4], &outs[5]]),
        };
        kernels.head_finish(&running, &head)?;
        let mut grads = Vec::new();
        for g in &c.grads {
            grads.push(single(device, g)?);
        }
        let grad = HeadGrad {
            log_prob: &grads[0],
            entropy: c.asked[0].then_some(&grads[1]),
            kl: c.asked[1].then_some(&grads[2]),
            kl_from: c.asked[2].then_some(&grads[3]),
        };
        let mut pulled = Vec::new();
        for t in tiles.iter().map(tile) {
            let d = bench.fresh(device, t.1.len())?;
            let tile = Tile {
                logits: &t.1,
                other: t.2.as_ref(),
                first: t.0,
                bend: t.3,
                other_bend: t.4,
            };
            kernels.head_pull(&tile, &targets, &head, &grad, &d)?;
            pulled.push(d);
        }
        outs.truncate(if c.other.is_some() { 5 } else { 2 });
        outs.extend(pulled);
        Ok(outs)
    })?;
    let numbers = if c.other.is_some() { 5 } else { 2 };
    let mut want = vec![Vec::new(); 6];
    let mut sizes = Vec::new();
    let mut pulled = vec![(0.0, 0.0); rows * c.vocabulary];
    for i in 0..rows {
        let range = i * c.vocabulary..(i + 1) * c.vocabulary;
        let (z, slope, sum) = row(&c.bends[0], &c.logits[range.clone()]);
        let p: Vec<f64> = z.iter().map(|z| (z - sum).exp()).collect();
        let other = c
            .other
            .as_ref()
            .map(|o| row(&c.bends[1], &o[range.clone()]));
        let target = c.targets[i] as usize;
        let entropy: f64 = p.iter().zip(&z).map(|(p, z)| -p * (z - sum)).sum();
        let log_q = |a: usize| other.as_ref().map_or(0.0, |o| o.0[a] - o.2);
        let all = 0..c.vocabulary;
        let kl: f64 = all.clone().map(|a| p[a] * (z[a] - sum - log_q(a))).sum();
        let from: f64 = all
            .clone()
            .map(|a| log_q(a).exp() * (log_q(a) - z[a] + sum))
            .sum();
        for (to, x) in want
            .iter_mut()
            .zip([z[target] - sum, entropy, sum, kl, from])
        {
            to.push(x);
        }
        let largest = z
            .iter()
            .chain(other.iter().flat_map(|o| &o.0))
            .fold(1.0f64, |t, z| t.max(z.abs()));
        sizes.push(2.0 * largest);
        let g = |k: usize| match k {
            0 => f64::from(c.grads[0][i]),
            k if c.asked[k - 1] => f64::from(c.grads[k][i]),
            _ => 0.0,
        };
        for a in all {
            let log_p = z[a] - sum;
            let parts = [
                if a == target { g(0) } else { 0.0 },
                -g(0) * p[a],
                -g(1) * p[a] * (log_p + entropy),
                g(2) * p[a] * (log_p - log_q(a) - kl),
                if c.other.is_some() {
                    g(3) * (p[a] - log_q(a).exp())
                } else {
                    0.0
                },
            ];
            let size = parts.iter().map(|x| x.abs()).sum::<f64>()
                + (g(1).abs() + g(2).abs() + g(3).abs()) * p[a] * largest;
            pulled[i * c.vocabulary + a] = (
                parts.iter().sum::<f64>() * slope[a],
                size / f64::from(c.bends[0].temperature),
            );
        }
    }
    let named = |what: &str| format!("case {case}, {what}, {rows} by {:?}, {:?}", c.cuts, c.bends);
    let names = ["log p", "entropy", "log sum", "KL", "KL from"];
    for k in 0..numbers {
        within(&named(names[k]), &out[k].floats(), &want[k], &sizes, 2e-6)?;
    }
    for (w, out) in c.cuts.windows(2).zip(&out[numbers..]) {
        let cell = |i: usize| pulled[i / (w[1] - w[0]) * c.vocabulary + w[0] + i % (w[1] - w[0])];
        let (want, sizes): (Vec<f64>, Vec<f64>) = (0..rows * (w[1] - w[0])).map(cell).unzip();
        within(
            &named("gradient"),
            &out.floats(),
            &want,
            &sizes,
            2e-5 + bench.unit(),
        )?;
    }
    Ok(())
}
