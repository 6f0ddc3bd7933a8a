//! The optimiser: length of a gradient, AdamW in its four forms.

use super::harness::{Bench, Output, Verdict, close, same, single, size, threads, within};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto_device::{Adam, Codes, Device, Eight, Element, Error, Kernels, Weights};

/// Steps that are taken one after the other.
const STEPS: usize = 3;

struct Case {
    n: usize,
    weights: Vec<f32>,
    /// One gradient a step.
    gradients: Vec<Vec<f32>>,
    longest: Option<f32>,
    adam: Vec<Adam>,
}

impl Case {
    fn new(bench: &Bench, case: u64) -> Self {
        let mut rng = bench.rng(case);
        let mut n = size(&mut rng, 700);
        if case.is_multiple_of(32) {
            // More than one block of partial sums.
            n = rng.random_range(16_000..34_000);
        }
        let scale = 10f32.powi(rng.random_range(-4..3));
        // Over decades, so that moments in 8 bits reach their smallest codes; some exactly 0.
        let decades = |rng: &mut ChaCha8Rng, scale: f32| match rng.random_range(0..8) {
            0 => 0.0,
            _ => scale * rng.random_range(-1.0f32..1.0) * 10f32.powf(rng.random_range(-6.0..0.0)),
        };
        let many =
            |rng: &mut ChaCha8Rng, scale| (0..n).map(|_| decades(rng, scale)).collect::<Vec<f32>>();
        let (rate, decay) = (rng.random_range(1e-4..1e-2), rng.random_range(0.0..0.1));
        let adam = |t: usize| Adam {
            decay1: 0.9,
            decay2: 0.95,
            keep: (1.0 - rate * decay) as f32,
            rate: (rate / (1.0 - 0.9f64.powi(t as i32))) as f32,
            root: (1.0 / (1.0 - 0.95f64.powi(t as i32)).sqrt()) as f32,
            epsilon: 1e-8,
        };
        Self {
            n,
            weights: many(&mut rng, 1.0),
            gradients: (0..STEPS).map(|_| many(&mut rng, scale)).collect(),
            longest: rng.random_bool(0.7).then_some(1.0),
            adam: (1..=STEPS).map(adam).collect(),
        }
    }
}

/// The weights and both moments after the steps; before them, split weights are cut from whole ones and afterwards joined again.
/// Moments in 8 bits come as codes and scales.
fn steps(
    c: &Case,
    device: &dyn Device,
    kernels: &Kernels<'_>,
    split: bool,
    eight: bool,
) -> Result<Vec<rto_device::Buffer>, Error> {
    let n = c.n;
    let w = single(device, &c.weights)?;
    let (high, low) = (
        device.alloc(Element::U16, n)?,
        device.alloc(Element::U16, n)?,
    );
    kernels.split(&w, &high, &low)?;
    let weights = match split {
        true => Weights::Split {
            high: &high,
            low: &low,
        },
        false => Weights::Whole(&w),
    };
    let zeros = vec![0.0; n];
    let (m, v) = (single(device, &zeros)?, single(device, &zeros)?);
    let codes = [device.alloc(Element::U8, n)?, device.alloc(Element::U8, n)?];
    let scales = vec![0.0; n.div_ceil(256)];
    let scales = [single(device, &scales)?, single(device, &scales)?];
    for codes in &codes {
        device.upload(codes, &vec![0; n])?;
    }
    let norm = device.alloc(Element::F32, 2)?;
    let partial = device.alloc(Element::F64, Kernels::squares_len(n))?;
    for (step, (g, adam)) in c.gradients.iter().zip(&c.adam).enumerate() {
        let g = single(device, g)?;
        kernels.squares(&g, &partial)?;
        kernels.gradient_norm(&partial, c.longest, &norm)?;
        if eight {
            let [mc, vc] = [0, 1].map(|k| Codes {
                codes: &codes[k],
                scales: &scales[k],
            });
            let moments = Eight {
                m: mc,
                v: vc,
                step: step as u32 + 1,
            };
            kernels.adamw_eight_bit(weights, &moments, &g, &norm, adam)?;
        } else {
            kernels.adamw(weights, [&m, &v], &g, &norm, adam)?;
        }
    }
    let out = single(device, &zeros)?;
    match split {
        true => kernels.join(&high, &low, &out)?,
        false => return Ok(finished(w, [m, v], codes, scales, norm, eight)),
    }
    Ok(finished(out, [m, v], codes, scales, norm, eight))
}

fn finished(
    w: rto_device::Buffer,
    [m, v]: [rto_device::Buffer; 2],
    [mc, vc]: [rto_device::Buffer; 2],
    [ms, vs]: [rto_device::Buffer; 2],
    norm: rto_device::Buffer,
    eight: bool,
) -> Vec<rto_device::Buffer> {
    if eight {
        vec![w, norm, mc, ms, vc, vs]
    } else {
        vec![w, norm, m, v]
    }
}

/// f32 AdamW by its definition in f64, given the factor of clipping that the device found.
pub fn adamw(bench: &Bench, case: u64) -> Verdict {
    let c = Case::new(bench, case);
    let block = threads(&mut bench.rng(!case));
    let out = bench.run(case, block, |device, kernels| {
        steps(&c, device, kernels, false, false)
    })?;
    let mut w: Vec<f64> = c.weights.iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = (vec![0.0; c.n], vec![0.0; c.n]);
    let (mut sizes, mut last) = (vec![0.0; c.n], [0.0; 2]);
    for (g, a) in c.gradients.iter().zip(&c.adam) {
        let length = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let clip = c
            .longest
            .map_or(1.0, |l| (f64::from(l) / (length + 1e-6)).min(1.0));
        last = [length, clip];
        let [decay1, decay2, keep, rate, root, epsilon] =
            [a.decay1, a.decay2, a.keep, a.rate, a.root, a.epsilon].map(f64::from);
        for i in 0..c.n {
            let g = f64::from(g[i]) * clip;
            m[i] = decay1 * m[i] + (1.0 - decay1) * g;
            v[i] = decay2 * v[i] + (1.0 - decay2) * g * g;
            let change = rate * m[i] / (v[i].sqrt() * root + epsilon);
            w[i] = w[i] * keep - change;
            sizes[i] += w[i].abs() + rate;
        }
    }
    let named = |what| format!("case {case}, {what}, {} weights", c.n);
    within(&named("norm"), &out[1].floats(), &last, &last, 1e-6)?;
    within(&named("w"), &out[0].floats(), &w, &sizes, 4e-6)?;
    close(&named("m"), &out[2].floats(), &m, 4e-6)?;
    close(&named("v"), &out[3].floats(), &v, 4e-6)
}

/// Weights in bfloat16 with their low halves take the steps of f32 weights, to the bit.
pub fn split(bench: &Bench, case: u64) -> Verdict {
    let c = Case::new(bench, case);
    let block = threads(&mut bench.rng(!case));
    let run = |split, eight| {
        bench.run(case, block, |device, kernels| {
            steps(&c, device, kernels, split, eight)
        })
    };
    for eight in [false, true] {
        let (whole, halves) = (run(false, eight)?, run(true, eight)?);
        for (i, (a, b)) in whole.iter().zip(&halves).enumerate() {
            same(
                &format!("case {case}, 8 bits {eight}, output {i}, split"),
                a,
                b,
            )?;
        }
    }
    Ok(())
}

/// Any bits of a float come back from its halves, and the upper one is its nearest bfloat16.
pub fn halves(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let n = size(&mut rng, 300);
    let value = |rng: &mut ChaCha8Rng| match rng.random_range(0..4) {
        0 => f32::from_bits(rng.random::<u32>() & 0xffff_0000 | 0x8000),
        1 => rng.random_range(-1.0..1.0),
        _ => f32::from_bits(rng.random()),
    };
    let x: Vec<f32> = (0..n).map(|_| value(&mut rng)).collect();
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let (x, back) = (single(device, &x)?, device.alloc(Element::F32, n)?);
        let (high, low) = (
            device.alloc(Element::U16, n)?,
            device.alloc(Element::U16, n)?,
        );
        kernels.split(&x, &high, &low)?;
        kernels.join(&high, &low, &back)?;
        Ok(vec![x, back, high])
    })?;
    same(&format!("case {case}, joined"), &out[0], &out[1])?;
    let (highs, _) = out[2].bytes.as_chunks::<2>();
    for (x, high) in x.iter().zip(highs) {
        let high = f32::from_bits(u32::from(u16::from_ne_bytes(*high)) << 16);
        let cut = f32::from_bits(x.to_bits() & 0xffff_0000);
        let next = f32::from_bits((x.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
        let far = |y: f32| (f64::from(y) - f64::from(*x)).abs();
        if x.is_finite() && next.is_finite() && far(high) > far(cut).min(far(next)) {
            return Err(format!("case {case}: {high} for {x}"));
        }
    }
    Ok(())
}

/// The 8-bit optimiser against the same arithmetic in Rust, to the bit.
pub fn eight_bit(bench: &Bench, case: u64) -> Verdict {
    let c = Case::new(bench, case);
    let out = bench.run(case, 64, |device, kernels| {
        steps(&c, device, kernels, false, true)
    })?;
    let norm_of = |g: &[f32]| -> Result<Vec<Output>, String> {
        bench.run(case, 64, |device, kernels| {
            let g = single(device, g)?;
            let norm = device.alloc(Element::F32, 2)?;
            let partial = device.alloc(Element::F64, Kernels::squares_len(c.n))?;
            kernels.squares(&g, &partial)?;
            kernels.gradient_norm(&partial, c.longest, &norm)?;
            Ok(vec![norm])
        })
    };
    let mut w = c.weights.clone();
    let blocks = c.n.div_ceil(256);
    let (mut codes, mut scales) = (
        [vec![0u8; c.n], vec![0u8; c.n]],
        [vec![0f32; blocks], vec![0f32; blocks]],
    );
    for (step, (g, a)) in c.gradients.iter().zip(&c.adam).enumerate() {
        let clip = norm_of(g)?[0].floats()[1];
        for block in 0..blocks {
            let range = block * 256..c.n.min(block * 256 + 256);
            let (mut ms, mut vs) = (Vec::new(), Vec::new());
            for i in range.clone() {
                let size = decoded(u32::from(codes[0][i]) & 0x7f, 15) * scales[0][block];
                let m = if codes[0][i] & 0x80 != 0 { -size } else { size };
                let v = decoded(u32::from(codes[1][i]), 31) * scales[1][block];
                let g = g[i] * clip;
                let m = a.decay1.mul_add(m, (1.0 - a.decay1) * g);
                let v = a.decay2.mul_add(v, (1.0 - a.decay2) * (g * g));
                w[i] = w[i] * a.keep - a.rate * m / v.sqrt().mul_add(a.root, a.epsilon);
                ms.push(m);
                vs.push(v);
            }
            for (k, values) in [&ms, &vs].into_iter().enumerate() {
                let largest = values.iter().fold(0.0f32, |t, x| t.max(x.abs()));
                let scale = (largest.min(f32::MAX) / 1.875).max(2f32.powi(-110));
                scales[k][block] = scale;
                for (x, i) in values.iter().zip(range.clone()) {
                    let turn = (i as u32).wrapping_mul(0xC13F_A9A9);
                    let dither =
                        turn.wrapping_add((step as u32 + 1).wrapping_mul(0x9E37_79B9)) >> 12;
                    codes[k][i] = if k == 0 {
                        encoded(x.abs() * (1.0 / scale), dither, 15).min(0x7f) as u8
                            | if x.is_sign_negative() { 0x80 } else { 0 }
                    } else {
                        encoded(x * (1.0 / scale), dither ^ 0x8_0000, 31)
                            .max(u32::from(*x > 0.0))
                            .min(0xff) as u8
                    };
                }
            }
        }
    }
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let all = [
        ("w", out[0].words() == bits(&w)),
        ("codes of m", out[2].bytes == codes[0]),
        ("scales of m", out[3].words() == bits(&scales[0])),
        ("codes of v", out[4].bytes == codes[1]),
        ("scales of v", out[5].words() == bits(&scales[1])),
    ];
    match all.iter().find(|(_, equal)| !equal) {
        Some((what, _)) => Err(format!("case {case}, {} weights: {what} differ", c.n)),
        None => Ok(()),
    }
}

fn power(exponent: i32) -> f32 {
    2f32.powi(exponent)
}

/// A small float of three bits of fraction, the largest exponent `last`, after the table in the bridge's `optimizer::eight_bit`.
fn decoded(code: u32, last: i32) -> f32 {
    let (exponent, fraction) = ((code >> 3) as i32, (code & 7) as f32);
    match exponent {
        0 => fraction * power(-last - 2),
        e => power(e - last) * (1.0 + fraction / 8.0),
    }
}

/// Rounded up for a share of the 20-bit dither.
fn encoded(y: f32, dither: u32, last: i32) -> u32 {
    if y < power(1 - last) {
        let u = dither as f32 * power(-20) - 0.5;
        return y.mul_add(power(last + 2), u).round_ties_even() as i32 as u32;
    }
    ((y.to_bits() + dither) >> 20) - (((127 - last) as u32) << 3)
}

/// A gradient that is not finite changes nothing, and the norm says so.
pub fn infinite(bench: &Bench, case: u64) -> Verdict {
    let mut c = Case::new(bench, case);
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][case as usize % 3];
    for g in &mut c.gradients {
        let at = case as usize * 7 % g.len();
        g[at] = bad;
    }
    for (split, eight) in [(false, false), (true, false), (false, true), (true, true)] {
        let out = bench.run(case, 64, |device, kernels| {
            steps(&c, device, kernels, split, eight)
        })?;
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let norm = out[1].floats();
        let still = out[2..].iter().all(|o| o.bytes.iter().all(|b| *b == 0));
        if out[0].words() != bits(&c.weights) || !still || norm[0].is_finite() || norm[1] != -1.0 {
            return Err(format!("case {case}: norm {norm:?}, moments still {still}"));
        }
    }
    Ok(())
}
