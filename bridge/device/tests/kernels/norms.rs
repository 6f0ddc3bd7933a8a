//! Norms, column sums and the element-wise kernels.

use super::harness::{Bench, Verdict, close, single, size, threads, within};
use rand::Rng;
use rto_device::{Element, Kernels, NO_ROW, upload_u32};

/// `y += x`, `y += bias` (on rows with others' elements between them), `y = x`, `y = 0`, `y = c tanh(y/c)`.
pub fn elements(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let (rows, width) = (size(&mut rng, 9), size(&mut rng, 140));
    let stride = width + rng.random_range(0..3) * rng.random_range(0..40);
    let (n, spread) = (rows * width, (rows - 1) * stride + width);
    let apart = bench.values(&mut rng, spread);
    let cap = rng.random_range(0.5f32..3.0);
    let [x, y] = [0; 2].map(|_| bench.values(&mut rng, n));
    let bias = bench.values(&mut rng, width);
    let wide_values: Vec<f32> = (0..n).map(|_| rng.random_range(-3.0..3.0)).collect();
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let (x, bias) = (bench.upload(device, &x)?, bench.upload(device, &bias)?);
        let (sum, biased) = (bench.upload(device, &y)?, bench.upload(device, &apart)?);
        let (wide, narrow) = (single(device, &wide_values)?, bench.fresh(device, n)?);
        kernels.add(&sum, &x)?;
        kernels.add_bias(&biased, &bias, stride)?;
        kernels.narrow(&wide, &narrow)?;
        let zero = device.alloc(Element::F32, n)?;
        kernels.clear(&zero)?;
        let capped = single(device, &wide_values)?;
        kernels.cap_all(&capped, cap)?;
        Ok(vec![sum, biased, narrow, zero, capped])
    })?;
    let of = |f: &dyn Fn(usize) -> f32| (0..n).map(|i| f64::from(f(i))).collect::<Vec<_>>();
    // One rounding of a float sum, exactly.
    let exact = |what: &str, got: Vec<f32>, want: Vec<f64>| {
        let want = bench.rounded(want.iter().map(|w| *w as f32).collect());
        (got == want)
            .then_some(())
            .ok_or_else(|| format!("{what}: {got:?}, {want:?}"))
    };
    exact("sum", out[0].floats(), of(&|i| y[i] + x[i]))?;
    let biased = (0..spread).map(|i| match i % stride {
        j if j < width => f64::from(apart[i] + bias[j]),
        _ => f64::from(apart[i]),
    });
    exact("biased", out[1].floats(), biased.collect())?;
    exact("narrow", out[2].floats(), of(&|i| wide_values[i]))?;
    if out[3].floats().iter().any(|x| x.to_bits() != 0) {
        return Err(format!("case {case}: not cleared"));
    }
    let capped: Vec<f64> = wide_values
        .iter()
        .map(|x| f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh())
        .collect();
    close("capped", &out[4].floats(), &capped, 1e-6)
}

/// Rows by index, and pieces of rows from one layout to another; what lies between them is left alone.
pub fn copies(bench: &Bench, case: u64) -> Verdict {
    let mut rng = bench.rng(case);
    let (rows, width) = (size(&mut rng, 9), size(&mut rng, 70));
    let pieces = size(&mut rng, 5);
    let x = bench.values(&mut rng, rows * width);
    let index: Vec<u32> = (0..size(&mut rng, 12))
        .map(|_| match rng.random_range(0..4) {
            0 => NO_ROW,
            _ => rng.random_range(0..rows as u32),
        })
        .collect();
    let mut layout = || {
        let step = width + rng.random_range(0..9);
        let row = (pieces - 1) * step + width + rng.random_range(0..9);
        ([row, step], (rows - 1) * row + (pieces - 1) * step + width)
    };
    let ((from_steps, from_len), (to_steps, to_len)) = (layout(), layout());
    let (from, to) = (
        bench.values(&mut rng, from_len),
        bench.values(&mut rng, to_len),
    );
    let out = bench.run(case, threads(&mut rng), |device, kernels| {
        let picked = bench.fresh(device, index.len() * width)?;
        let index = upload_u32(device, &index)?;
        kernels.gather_rows(&bench.upload(device, &x)?, &index, &picked)?;
        let moved = bench.upload(device, &to)?;
        let from = bench.upload(device, &from)?;
        kernels.regroup(
            rows,
            [pieces, width],
            (&from, from_steps),
            (&moved, to_steps),
        )?;
        Ok(vec![picked, moved])
    })?;
    let picked: Vec<f32> = index
        .iter()
        .flat_map(|&i| match i {
            NO_ROW => vec![0.0; width],
            i => x[i as usize * width..][..width].to_vec(),
        })
        .collect();
    let mut moved = to.clone();
    for (row, piece, d) in
        (0..rows).flat_map(|r| (0..pieces).flat_map(move |p| (0..width).map(move |d| (r, p, d))))
    {
        let at = |[r, s]: [usize; 2]| row * r + piece * s + d;
        moved[at(to_steps)] = from[at(from_steps)];
    }
    for (what, got, want) in [("picked", 0, picked), ("moved", 1, moved)] {
        if out[got].floats() != want {
            return Err(format!("case {case}, {what}: {:?}, {want:?}", out[got]));
        }
    }
    Ok(())
}

struct Norm {
    rows: usize,
    width: usize,
    x: Vec<f32>,
    gain: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
    dx: Vec<f32>,
    dgain: Vec<f32>,
    more: bool,
}

impl Norm {
    fn new(bench: &Bench, case: u64) -> Self {
        let mut rng = bench.rng(case);
        let (mut rows, mut width) = (size(&mut rng, 9), size(&mut rng, 200));
        if case.is_multiple_of(16) {
            // More rows than one chunk.
            (rows, width) = (rng.random_range(250..700), rng.random_range(1..6));
        }
        let n = rows * width;
        let shift = rng.random_range(-2.0f32..2.0);
        let x = bench.values(&mut rng, n).into_iter().map(|x| x + shift);
        Self {
            rows,
            width,
            x: bench.rounded(x.collect()),
            gain: bench.values(&mut rng, width),
            bias: bench.values(&mut rng, width),
            dy: bench.values(&mut rng, n),
            dx: bench.values(&mut rng, n),
            dgain: (0..width).map(|_| rng.random_range(-1.0..1.0)).collect(),
            more: rng.random_bool(0.5),
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

const EPSILON: f32 = 1e-5;

/// Layer norm forward and backward.
pub fn layer_norm(bench: &Bench, case: u64) -> Verdict {
    let norm = Norm::new(bench, case);
    check(bench, case, &norm, None)
}

/// RMS norm forward and backward, with the offsets 0 and 1.
pub fn rms_norm(bench: &Bench, case: u64) -> Verdict {
    let norm = Norm::new(bench, case);
    check(bench, case, &norm, Some((case % 2) as f32))
}

fn check(bench: &Bench, case: u64, norm: &Norm, offset: Option<f32>) -> Verdict {
    let (rows, width) = (norm.rows, norm.width);
    let n = rows * width;
    let block = [32, 64, 128][case as usize % 3];
    let out = bench.run(case, block, |device, kernels| {
        let x = bench.upload(device, &norm.x)?;
        let gain = bench.upload(device, &norm.gain)?;
        let bias = bench.upload(device, &norm.bias)?;
        let dy = bench.upload(device, &norm.dy)?;
        let dx = match norm.more {
            true => bench.upload(device, &norm.dx)?,
            false => bench.fresh(device, n)?,
        };
        let y = bench.fresh(device, n)?;
        let stats = rows * if offset.is_some() { 1 } else { 2 };
        let stats = device.alloc(Element::F32, stats)?;
        match offset {
            Some(offset) => {
                kernels.rms_norm(&x, &gain, &y, &stats, EPSILON, offset)?;
                kernels.rms_norm_backward(&x, &stats, &gain, &dy, &dx, offset, norm.more)?;
            }
            None => {
                kernels.layer_norm(&x, &gain, &bias, &y, &stats, EPSILON)?;
                kernels.layer_norm_backward(&x, &stats, &gain, &dy, &dx, norm.more)?;
            }
        }
        let scratch = device.alloc(Element::F32, Kernels::column_scratch(rows, width))?;
        let (dgain, dbias) = (single(device, &norm.dgain)?, single(device, &norm.dgain)?);
        kernels.norm_gain(&x, &stats, &dy, &dgain, &scratch)?;
        kernels.column_sums(&dy, width, &dbias, &scratch)?;
        Ok(vec![y, stats, dx, dgain, dbias])
    })?;
    let want = reference(norm, offset);
    let unit = bench.unit();
    let named = |what| format!("case {case}, {rows} by {width}, {what}");
    let floats: Vec<Vec<f32>> = out.iter().map(|o| o.floats()).collect();
    within(&named("y"), &floats[0], &want.y.0, &want.y.1, 4e-6 + unit)?;
    close(&named("stats"), &floats[1], &want.stats, 2e-6)?;
    within(
        &named("dx"),
        &floats[2],
        &want.dx.0,
        &want.dx.1,
        4e-6 + unit,
    )?;
    within(
        &named("dgain"),
        &floats[3],
        &want.dgain.0,
        &want.dgain.1,
        4e-6,
    )?;
    within(
        &named("dbias"),
        &floats[4],
        &want.dbias.0,
        &want.dbias.1,
        4e-6,
    )
}

/// Values, and the sizes of what was added up for each.
type Sized = (Vec<f64>, Vec<f64>);

struct Want {
    y: Sized,
    stats: Vec<f64>,
    dx: Sized,
    dgain: Sized,
    dbias: Sized,
}

fn reference(norm: &Norm, offset: Option<f32>) -> Want {
    let (rows, width) = (norm.rows, norm.width);
    let (x, dy) = (wide(&norm.x), wide(&norm.dy));
    let gain: Vec<f64> = norm
        .gain
        .iter()
        .map(|g| f64::from(*g) + f64::from(offset.unwrap_or(0.0)))
        .collect();
    let epsilon = f64::from(EPSILON);
    let mut out = Want {
        y: Sized::default(),
        stats: Vec::new(),
        dx: Sized::default(),
        dgain: (wide(&norm.dgain), vec![1.0; width]),
        dbias: (wide(&norm.dgain), vec![1.0; width]),
    };
    for i in 0..rows {
        let (x, dy) = (&x[i * width..][..width], &dy[i * width..][..width]);
        let average = |f: &dyn Fn(usize) -> f64| (0..width).map(f).sum::<f64>() / width as f64;
        let mean = if offset.is_some() {
            0.0
        } else {
            average(&|j| x[j])
        };
        let r = 1.0 / (average(&|j| (x[j] - mean).powi(2)) + epsilon).sqrt();
        let largest = x.iter().fold(0.0f64, |top, x| top.max(x.abs()));
        // What rounding of x − mean makes of x̂.
        let blur = 1.0 + largest * r * 0.05;
        if offset.is_none() {
            out.stats.push(mean);
        }
        out.stats.push(r);
        let unit = |j: usize| (x[j] - mean) * r;
        let g = |j: usize| dy[j] * gain[j];
        let g_mean = if offset.is_some() { 0.0 } else { average(&g) };
        let gx_mean = average(&|j| g(j) * unit(j));
        let g_size = average(&|j| g(j).abs());
        let gx_size = average(&|j| (g(j) * unit(j)).abs());
        for j in 0..width {
            let bias = if offset.is_some() {
                0.0
            } else {
                f64::from(norm.bias[j])
            };
            out.y.0.push(unit(j) * gain[j] + bias);
            out.y
                .1
                .push((unit(j).abs() + blur) * gain[j].abs() + bias.abs());
            let old = if norm.more {
                f64::from(norm.dx[i * width + j])
            } else {
                0.0
            };
            out.dx.0.push(old + r * (g(j) - g_mean - unit(j) * gx_mean));
            let size = g(j).abs() + g_size + (unit(j).abs() + 1.0) * (gx_size + g_size);
            out.dx.1.push(old.abs() + r * size * blur);
            out.dgain.0[j] += dy[j] * unit(j);
            out.dgain.1[j] += dy[j].abs() * (unit(j).abs() + blur);
            out.dbias.0[j] += dy[j];
            out.dbias.1[j] += dy[j].abs();
        }
    }
    out
}
