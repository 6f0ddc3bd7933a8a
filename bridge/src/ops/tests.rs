//! Every kernel against the same operation as a candle expression in `f64`, and its backward pass against central differences of
//! that expression. Shapes lie on either side of the kernels' tiles.

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rto::seed::SeedTree;

use super::buffer::Pool;
use super::gemm::{Products, Update};
use super::linear::{self, Linear};
use super::log_prob_head::{self, Cap, Distribution, HeadGrad, HeadOptions};
use super::rotary::{self, HeadLayout, RotaryTable, Turn};
use super::{activation, attention, composite, gated, layer_norm, rms_norm, scalar_head};
use crate::ops::activation::Activation;

/// Kernels compute in `f32`; sums of hundreds of terms lose a little more.
const FORWARD: f64 = 3e-6;
const BACKWARD: f64 = 1e-5;

fn draw(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = SeedTree::new(seed).child("numbers").rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// `max |a − b| / max |b|`.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().all(|x| x.is_finite()), "not finite");
    let top = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0f64, |m, x| m.max(x.abs()));
    top(&mut a.iter().zip(b).map(|(x, y)| x - y)) / top(&mut b.iter().copied()).max(1e-30)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f64> {
    let t = t.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    t.to_vec1().unwrap()
}

/// `d Σ_i w_i f_i(x) / dx_j` by central differences for every `j` of a stride of them, beside the kernel's.
fn differences(
    x: &[f32],
    w: &[f32],
    stride: usize,
    f: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<(usize, f64)> {
    let step = 1e-5;
    let mut x = wide(x);
    let mut slopes = Vec::new();
    for j in (0..x.len()).step_by(stride) {
        let mut side = |sign: f64| -> f64 {
            let kept = x[j];
            x[j] += sign * step;
            let values = f(&x);
            x[j] = kept;
            assert_eq!(values.len(), w.len());
            values.iter().zip(w).map(|(y, w)| y * f64::from(*w)).sum()
        };
        slopes.push((j, (side(1.0) - side(-1.0)) / (2.0 * step)));
    }
    slopes
}

/// The kernel's gradient `ours` is the derivative of `Σ w f`.
fn derivative(what: &str, x: &[f32], ours: &[f32], w: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) {
    assert_eq!(x.len(), ours.len());
    // A prime stride meets every row and column in turn.
    let stride = [1, 7, 31, 101][(x.len() / 300).min(3)];
    let (at, slopes): (Vec<usize>, Vec<f64>) = differences(x, w, stride, f).into_iter().unzip();
    let ours: Vec<f64> = at.iter().map(|&j| f64::from(ours[j])).collect();
    let distance = distance(&ours, &slopes);
    assert!(distance < BACKWARD, "{what}: {distance:e}");
}

fn same(what: &str, ours: &[f32], theirs: &[f64]) {
    let distance = distance(&wide(ours), theirs);
    assert!(distance < FORWARD, "{what}: {distance:e}");
}

#[test]
fn layer_norm_and_its_gradients() {
    for (rows, width) in [(1, 5), (3, 16), (70, 33)] {
        // A mean that is large against the spread must not cancel.
        let x: Vec<f32> = draw(rows * width, 1).iter().map(|x| x + 3.0).collect();
        let (gain, bias, w) = (draw(width, 2), draw(width, 3), draw(rows * width, 4));
        let f = |x: &[f64], gain: &[f64], bias: &[f64]| {
            let (gain, bias) = (tensor(gain, &[width]), tensor(bias, &[width]));
            flat(&composite::layer_norm(&tensor(x, &[rows, width]), &gain, &bias, 1e-5).unwrap())
        };
        let mut stats = vec![0.0; rows * 2];
        layer_norm::statistics(&x, width, 1e-5, &mut stats);
        let mut y = vec![0.0; x.len()];
        layer_norm::apply(&x, &stats, &gain, &bias, &mut y);
        let (wx, wg, wb) = (wide(&x), wide(&gain), wide(&bias));
        same("layer norm", &y, &f(&wx, &wg, &wb));
        let mut dx = vec![0.0; x.len()];
        layer_norm::backward_input(&x, &stats, &gain, &w, &mut dx);
        derivative("dx", &x, &dx, &w, |x| f(x, &wg, &wb));
        let mut dgain = vec![0.0; width];
        layer_norm::backward_gain(&x, &stats, &w, &mut dgain);
        derivative("dgain", &gain, &dgain, &w, |gain| f(&wx, gain, &wb));
        let mut dbias = vec![0.0; width];
        linear::backward_bias(&w, &mut dbias);
        derivative("dbias", &bias, &dbias, &w, |bias| f(&wx, &wg, bias));
    }
}

#[test]
fn rms_norm_and_its_gradients() {
    for (rows, width) in [(1, 5), (3, 16), (70, 33), (300, 520)] {
        let x: Vec<f32> = draw(rows * width, 1).iter().map(|x| x + 0.5).collect();
        let (gain, w) = (draw(width, 2), draw(rows * width, 4));
        let f = |x: &[f64], gain: &[f64]| {
            let gain = tensor(gain, &[width]);
            flat(&composite::rms_norm(&tensor(x, &[rows, width]), &gain, 1e-5).unwrap())
        };
        let mut stats = vec![0.0; rows];
        rms_norm::statistics(&x, width, 1e-5, &mut stats);
        let mut y = vec![0.0; x.len()];
        rms_norm::apply(&x, &stats, &gain, &mut y);
        let (wx, wg) = (wide(&x), wide(&gain));
        same("RMS norm", &y, &f(&wx, &wg));
        if rows > 100 {
            continue;
        }
        let mut dx = vec![0.0; x.len()];
        rms_norm::backward_input(&x, &stats, &gain, &w, &mut dx);
        derivative("dx", &x, &dx, &w, |x| f(x, &wg));
        let mut dgain = vec![0.0; width];
        rms_norm::backward_gain(&x, &stats, &w, &mut dgain);
        derivative("dgain", &gain, &dgain, &w, |gain| f(&wx, gain));
    }
}

const KINDS: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu];

#[test]
fn gated_units_and_their_gradients() {
    for (kind, n) in KINDS
        .into_iter()
        .flat_map(|k| [1, 37, 40_000].map(|n| (k, n)))
    {
        let gate: Vec<f32> = draw(n, 1).iter().map(|x| 5.0 * x).collect();
        let (up, w) = (draw(n, 2), draw(n, 3));
        let f = |gate: &[f64], up: &[f64]| {
            let act = composite::activate(&tensor(gate, &[n]), kind).unwrap();
            flat(&(act * tensor(up, &[n])).unwrap())
        };
        let mut y = vec![0.0; n];
        gated::forward(kind, &gate, &up, &mut y);
        let (wg, wu) = (wide(&gate), wide(&up));
        same("gated", &y, &f(&wg, &wu));
        let (mut dgate, mut dup, mut again) = (w.clone(), vec![0.0; n], vec![0.0; n]);
        gated::backward(kind, &gate, &up, &mut dgate, &mut dup, &mut again);
        same("gated again", &again, &wide(&y));
        if n < 1000 {
            derivative("dgate", &gate, &dgate, &w, |gate| f(gate, &wu));
            derivative("dup", &up, &dup, &w, |up| f(&wg, up));
        }
    }
    // Far out nothing overflows.
    let mut y = [0.0; 2];
    gated::forward(Activation::Silu, &[-200.0, 200.0], &[3.0, 3.0], &mut y);
    assert_eq!(y, [-0.0, 600.0]);
    let (mut dgate, mut dup, mut again) = ([1.0; 2], [0.0; 2], [0.0; 2]);
    gated::backward(
        Activation::Silu,
        &[-200.0, 200.0],
        &[3.0, 3.0],
        &mut dgate,
        &mut dup,
        &mut again,
    );
    assert_eq!((dgate, dup), ([0.0, 3.0], [-0.0, 200.0]));
}

#[test]
fn activations_and_their_gradients() {
    for (kind, n) in KINDS
        .into_iter()
        .flat_map(|k| [1, 37, 5000].map(|n| (k, n)))
    {
        let x: Vec<f32> = draw(n, 1).iter().map(|x| 5.0 * x).collect();
        let w = draw(n, 2);
        let f = |x: &[f64]| flat(&composite::activate(&tensor(x, &[n]), kind).unwrap());
        let mut y = vec![0.0; n];
        activation::forward(kind, &x, &mut y);
        same("activation", &y, &f(&wide(&x)));
        let (mut dx, mut again) = (w.clone(), vec![0.0; n]);
        activation::backward(kind, &x, &mut dx, &mut again);
        assert_eq!(y, again);
        derivative("activation", &x, &dx, &w, f);
    }
}

#[test]
fn linear_and_its_gradients() {
    for (rows, inputs, outputs) in [(1, 3, 2), (9, 17, 70), (300, 5, 64)] {
        let (x, weight, bias) = (
            draw(rows * inputs, 1),
            draw(outputs * inputs, 2),
            draw(outputs, 3),
        );
        let w = draw(rows * outputs, 4);
        let f = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let (weight, bias) = (tensor(weight, &[outputs, inputs]), tensor(bias, &[outputs]));
            flat(&composite::linear(&tensor(x, &[rows, inputs]), &weight, Some(&bias)).unwrap())
        };
        let layer = Linear {
            weight: &weight,
            bias: Some(&bias),
            inputs,
            outputs,
            products: Products::F32,
        };
        let mut y = vec![0.0; rows * outputs];
        linear::forward(&layer, &x, &mut y, Update::Set);
        let (wx, ww, wb) = (wide(&x), wide(&weight), wide(&bias));
        same("linear", &y, &f(&wx, &ww, &wb));
        let mut dx = vec![0.0; x.len()];
        linear::backward_input(&layer, &w, &mut dx, Update::Set);
        derivative("dx", &x, &dx, &w, |x| f(x, &ww, &wb));
        let mut dweight = vec![0.0; weight.len()];
        linear::backward_weight(Products::F32, &x, &w, &mut dweight, inputs, outputs);
        derivative("dweight", &weight, &dweight, &w, |weight| {
            f(&wx, weight, &wb)
        });
        let mut dbias = vec![0.0; outputs];
        linear::backward_bias(&w, &mut dbias);
        derivative("dbias", &bias, &dbias, &w, |bias| f(&wx, &ww, bias));
    }
}

/// All queries, then all keys, then all values, as in the Llama family.
fn grouped(heads: usize, kv_heads: usize, head_dim: usize) -> HeadLayout {
    HeadLayout {
        row: (heads + 2 * kv_heads) * head_dim,
        head_dim,
        heads,
        kv_heads,
        step: head_dim,
        offsets: [0, heads * head_dim, (heads + kv_heads) * head_dim],
    }
}

/// GPT-NeoX's: query, key and value of a head beside each other.
fn layout(heads: usize, head_dim: usize) -> HeadLayout {
    HeadLayout {
        row: 3 * heads * head_dim,
        head_dim,
        heads,
        kv_heads: heads,
        step: 3 * head_dim,
        offsets: [0, head_dim, 2 * head_dim],
    }
}

/// Query, key and value `[1, heads, T, d]` of rows `from..from + T` of a packed projection.
fn parts(qkv: &[f64], from: usize, n: usize, layout: &HeadLayout) -> [Tensor; 3] {
    let rows = &qkv[from * layout.row..][..n * layout.row];
    [0, 1, 2].map(|which| {
        let heads = (0..layout.heads).flat_map(|head| {
            let head = if which == 0 {
                head
            } else {
                layout.kv_head(head)
            };
            let at = layout.offset(which, head);
            rows.chunks_exact(layout.row)
                .flat_map(move |row| row[at..at + layout.head_dim].to_vec())
        });
        let values: Vec<f64> = heads.collect();
        tensor(&values, &[1, layout.heads, n, layout.head_dim])
    })
}

#[test]
fn attention_and_its_gradient() {
    for (layout, window, lengths) in [
        (layout(1, 4), None, vec![1]),
        (layout(2, 5), None, vec![3, 1, 6]),
        // Beyond one block of queries.
        (layout(2, 8), None, vec![130, 65]),
        (grouped(4, 2, 5), None, vec![3, 1, 6]),
        (grouped(3, 1, 4), None, vec![70]),
        (layout(2, 5), Some(1), vec![3, 1, 6]),
        (grouped(4, 2, 5), Some(3), vec![3, 1, 9]),
        // Windows shorter and longer than a block.
        (grouped(2, 1, 4), Some(10), vec![130, 65]),
        (grouped(2, 1, 4), Some(90), vec![200]),
    ] {
        let usual = attention::Scoring::usual(&layout, window);
        // A cap that bends most scores, and another scale.
        let bent = attention::Scoring {
            scale: 0.7,
            cap: Some(1.5),
            ..usual
        };
        for scoring in [usual, bent] {
            let (heads, head_dim) = (layout.heads, layout.head_dim);
            let tokens: usize = lengths.iter().sum();
            let width = heads * head_dim;
            let qkv: Vec<f32> = draw(tokens * layout.row, 1)
                .iter()
                .map(|x| 2.0 * x)
                .collect();
            let w = draw(tokens * width, 2);
            let f = |qkv: &[f64]| {
                let mut from = 0;
                let mut out = Vec::new();
                for &n in &lengths {
                    let [q, k, v] = parts(qkv, from, n, &layout);
                    let mask =
                        composite::causal_mask(n, 0, window, DType::F64, &Device::Cpu).unwrap();
                    let y = composite::attention(
                        &q,
                        &k,
                        &v,
                        Some(&mask),
                        scoring.scale.into(),
                        scoring.cap.map(f64::from),
                    )
                    .unwrap();
                    out.extend(flat(&y.squeeze(0).unwrap().transpose(0, 1).unwrap()));
                    from += n;
                }
                out
            };
            let pool = Pool::default();
            let mut out = vec![0.0; tokens * width];
            let mut log_sum = vec![0.0; tokens * heads];
            attention::forward(
                &qkv,
                &layout,
                scoring,
                &lengths,
                &mut out,
                &mut log_sum,
                &pool,
            );
            same("attention", &out, &f(&wide(&qkv)));
            let mut dqkv = vec![f32::NAN; qkv.len()];
            attention::backward(
                &qkv, &layout, scoring, &lengths, &log_sum, &w, &mut dqkv, &pool,
            );
            derivative("attention", &qkv, &dqkv, &w, f);
        }
    }
}

#[test]
fn rotation_and_its_gradient() {
    for (heads, head_dim, dims) in [(2, 8, 8), (3, 10, 4), (1, 6, 2), (2, 4, 0)] {
        let layout = layout(heads, head_dim);
        let positions: Vec<u32> = (0..70).map(|t| t * 3 % 50).collect();
        let n = positions.len();
        let table = RotaryTable::new(&positions, dims, 10_000.0);
        let x = draw(n * layout.row, 1);
        let w = draw(n * layout.row, 2);
        let (cos, sin) = table.split();
        let angles = |v: &[f32]| tensor(&wide(v), &[1, 1, n, dims / 2]);
        let f = |x: &[f64]| {
            let [q, k, v] = parts(x, 0, n, &layout);
            let turned = |x| match dims {
                0 => x,
                _ => composite::rotate(&x, &angles(&cos), &angles(&sin)).unwrap(),
            };
            let parts = [turned(q), turned(k), v];
            // [n, heads, 3, d] again.
            flat(
                &Tensor::stack(&parts, 3)
                    .unwrap()
                    .squeeze(0)
                    .unwrap()
                    .transpose(0, 1)
                    .unwrap(),
            )
        };
        let mut y = x.clone();
        rotary::rotate(&mut y, &layout, &table, Turn::Forward);
        same("rotate", &y, &f(&wide(&x)));
        let mut dx = w.clone();
        rotary::rotate(&mut dx, &layout, &table, Turn::Backward);
        derivative("rotate", &x, &dx, &w, f);
    }
}

#[test]
fn a_scalar_head_and_its_gradients() {
    let (rows, width) = (300, 7);
    let (h, weight, w) = (draw(rows * width, 1), draw(width, 2), draw(rows, 3));
    let f = |h: &[f64], weight: &[f64]| {
        let (h, weight) = (tensor(h, &[rows, width]), tensor(weight, &[1, width]));
        let bias = tensor(&[0.25], &[1]);
        flat(&composite::linear(&h, &weight, Some(&bias)).unwrap())
    };
    let mut out = vec![0.0; rows];
    scalar_head::forward(&h, &weight, 0.25, &mut out);
    let (wh, ww) = (wide(&h), wide(&weight));
    same("scalar head", &out, &f(&wh, &ww));
    let mut dh = vec![0.0; h.len()];
    scalar_head::backward_input(&weight, &w, &mut dh);
    derivative("dh", &h, &dh, &w, |h| f(h, &ww));
    let mut dweight = vec![0.0; width];
    scalar_head::backward_weight(&h, &w, &mut dweight);
    derivative("dweight", &weight, &dweight, &w, |weight| f(&wh, weight));
}

/// Log-probabilities, entropies and divergences, one after the other.
/// `c tanh(l/c)/T`.
fn bent(logits: Tensor, cap: Option<Cap>) -> Tensor {
    match cap {
        None => logits,
        Some(c) => (composite::capped(&logits, Some(c.cap.into())).unwrap()
            / f64::from(c.temperature))
        .unwrap(),
    }
}

fn head(
    hidden: &[f64],
    weight: &[f64],
    other: &[f64],
    targets: &[u32],
    width: usize,
    cap: Option<Cap>,
) -> Vec<f64> {
    let rows = targets.len();
    let logits = |weight: &[f64]| {
        let (hidden, weight) = (
            tensor(hidden, &[rows, width]),
            tensor(weight, &[weight.len() / width, width]),
        );
        bent(composite::linear(&hidden, &weight, None).unwrap(), cap)
    };
    let log_p = composite::log_softmax(&logits(weight)).unwrap();
    // The reference reads the same numbers, but they are constants to the gradient.
    let log_q = tensor(other, log_p.dims());
    let p = log_p.exp().unwrap();
    let ids = Tensor::new(targets, &Device::Cpu).unwrap();
    let sum = |t: candle_core::Result<Tensor>| flat(&t.unwrap().sum(1).unwrap());
    let mut out = flat(&composite::token_log_probs(&logits(weight), &ids).unwrap());
    out.extend(sum(&p * &log_p).iter().map(|x| -x));
    out.extend(sum((&log_p - &log_q).and_then(|gap| p * gap)));
    out.extend(sum((&log_q - &log_p).and_then(|gap| log_q.exp()? * gap)));
    out
}

#[test]
fn the_head_and_its_gradients() {
    // The vocabulary on either side of one tile, the rows too; logits kept and made again; one thread and two.
    for (rows, width, vocabulary) in [(1, 4, 5), (5, 6, 40), (9, 3, 1500), (150, 4, 33)] {
        for keep in [0, usize::MAX] {
            for threads in [1, 2] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| check_head(rows, width, vocabulary, keep, None));
                let cap = Cap {
                    cap: 1.5,
                    temperature: 0.7,
                };
                pool.install(|| check_head(rows, width, vocabulary, keep, Some(cap)));
            }
        }
    }
}

fn check_head(rows: usize, width: usize, vocabulary: usize, keep: usize, cap: Option<Cap>) {
    let hidden = draw(rows * width, 1);
    let weight: Vec<f32> = draw(vocabulary * width, 2)
        .iter()
        .map(|x| 2.0 * x)
        .collect();
    let other = draw(vocabulary * width, 3);
    let targets: Vec<u32> = (0..rows).map(|i| (i * 7 % vocabulary) as u32).collect();
    let w = draw(4 * rows, 4);
    let reference = Distribution {
        hidden: &hidden,
        weight: &other,
        width,
        cap,
        products: Products::F32,
    };
    let policy = Distribution {
        hidden: &hidden,
        weight: &weight,
        width,
        cap,
        products: Products::F32,
    };
    let log_q = {
        let (h, o) = (
            tensor(&wide(&hidden), &[rows, width]),
            tensor(&wide(&other), &[vocabulary, width]),
        );
        flat(&composite::log_softmax(&bent(composite::linear(&h, &o, None).unwrap(), cap)).unwrap())
    };
    let options = HeadOptions {
        entropy: true,
        reference: Some(reference),
        kl_from: true,
        keep,
    };
    let pool = Pool::default();
    let output = log_prob_head::forward(&policy, &targets, &options, &pool);
    let (wh, ww) = (wide(&hidden), wide(&weight));
    let exact = head(&wh, &ww, &log_q, &targets, width, cap);
    same("log p", &output.log_prob, &exact[..rows]);
    same(
        "entropy",
        output.entropy.as_ref().unwrap(),
        &exact[rows..2 * rows],
    );
    // A divergence is a difference of sums; its error is measured on their scale.
    let mut kl = wide(output.kl.as_ref().unwrap());
    kl.extend(wide(output.kl_from.as_ref().unwrap()));
    let scale = exact[rows..2 * rows]
        .iter()
        .fold(1.0, |m: f64, x| m.max(x.abs()));
    for (ours, exact) in kl.iter().zip(&exact[2 * rows..]) {
        assert!((ours - exact).abs() < FORWARD * scale, "{ours} {exact}");
    }
    let grad = HeadGrad {
        log_prob: &w[..rows],
        entropy: Some(&w[rows..2 * rows]),
        kl: Some(&w[2 * rows..3 * rows]),
        kl_from: Some(&w[3 * rows..]),
    };
    let (mut dhidden, mut dweight) = (vec![0.0; hidden.len()], vec![0.0; weight.len()]);
    log_prob_head::backward(
        &policy,
        &targets,
        Some(reference),
        output,
        &grad,
        &mut dhidden,
        Some(&mut dweight),
        &pool,
    );
    derivative("dhidden", &hidden, &dhidden, &w, |h| {
        head(h, &ww, &log_q, &targets, width, cap)
    });
    derivative("dweight", &weight, &dweight, &w, |weight| {
        head(&wh, weight, &log_q, &targets, width, cap)
    });
}

/// A norm of sixteen rows side by side is the norm of each, bit for bit.
#[test]
fn norms_side_by_side_are_those_of_rows() {
    for width in (1..40).chain([64, 100, 768]) {
        let value = |i: usize| ((i * 37 % 101) as f32 * 0.7).sin() * 3.0 + 0.3;
        let rows: Vec<f32> = (0..16 * width).map(value).collect();
        let gain: Vec<f32> = (0..width).map(|i| 1.0 + 0.1 * value(i + 5)).collect();
        let bias: Vec<f32> = (0..width).map(|i| 0.1 * value(i + 9)).collect();
        let panel = |rows: &[f32]| -> Vec<[f32; 16]> {
            let lane = |j: usize, row: usize| rows[row * width + j];
            (0..width)
                .map(|j| std::array::from_fn(|row| lane(j, row)))
                .collect()
        };
        let (x, mut y) = (panel(&rows), vec![[f32::NAN; 16]; width]);
        let (mut stats, mut out) = (vec![0.0; 32], vec![0.0; 16 * width]);
        layer_norm::statistics(&rows, width, 1e-5, &mut stats);
        layer_norm::apply(&rows, &stats, &gain, &bias, &mut out);
        layer_norm::panel(&x, 1e-5, &gain, &bias, &mut y);
        assert_eq!(y, panel(&out), "layer norm of {width}");
        rms_norm::statistics(&rows, width, 1e-5, &mut stats[..16]);
        rms_norm::apply(&rows, &stats[..16], &gain, &mut out);
        rms_norm::panel(&x, 1e-5, &gain, &mut y);
        assert_eq!(y, panel(&out), "RMS norm of {width}");
    }
}
