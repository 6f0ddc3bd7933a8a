//! The kernels of a device, under the emulator, do what this package does on a processor: the optimiser to the bit, draws token for token.

mod common;

use candle_core::Device;
use common::*;
use rand::Rng;
use rto::seed::SeedTree;
use rto::seq::Decoder;
use rto_bridge::batch::Batch;
use rto_bridge::decoder::Truncated;
use rto_bridge::family::GptNeoXConfig;
use rto_bridge::model::{Heads, Keep, Model};
use rto_bridge::optimizer::{AdamW, AdamWConfig, Moments};
use rto_bridge::params::Init;
use rto_bridge::sampler;
use rto_device::{
    Adam, Buffer, Codes, Device as _, Draw, Eight, Element, Emulated, Error, Kernels, Order, Real,
    Weights, download_f32, upload_f32, upload_f64,
};

/// The emulator, unless this machine has no compiler: then a line says so.
fn emulated(what: &str) -> Option<Emulated> {
    match Emulated::new(Order::Random(1)) {
        Ok(device) => Some(device),
        Err(Error::NoCompiler(why)) => {
            println!("skipped: {what} ({why})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// One weight on the device: halves of its master, and moments as the settings say.
struct OnDevice {
    name: String,
    len: usize,
    high: Buffer,
    low: Buffer,
    moments: [Buffer; 2],
    scales: Option<[Buffer; 2]>,
}

impl OnDevice {
    fn new(device: &Emulated, kernels: &Kernels<'_>, name: &str, w: &[f32], eight: bool) -> Self {
        let n = w.len();
        let halves = || device.alloc(Element::U16, n).unwrap();
        let (high, low) = (halves(), halves());
        let w = upload_f32(device, Real::F32, w).unwrap();
        kernels.split(&w, &high, &low).unwrap();
        let element = if eight { Element::U8 } else { Element::F32 };
        let zeros = |element: Element, n: usize| {
            let buffer = device.alloc(element, n).unwrap();
            device.upload(&buffer, &vec![0; buffer.bytes()]).unwrap();
            buffer
        };
        let scales = || zeros(Element::F32, n.div_ceil(256));
        Self {
            name: name.into(),
            len: n,
            high,
            low,
            moments: [zeros(element, n), zeros(element, n)],
            scales: eight.then(|| [scales(), scales()]),
        }
    }

    fn step(&self, device: &Emulated, kernels: &Kernels<'_>, g: &[f32], adam: &Adam, step: u32) {
        let g = upload_f32(device, Real::F32, g).unwrap();
        // A length that clips nothing.
        let norm = upload_f32(device, Real::F32, &[1.0, 1.0]).unwrap();
        let weights = Weights::Split {
            high: &self.high,
            low: &self.low,
        };
        let [m, v] = &self.moments;
        match &self.scales {
            None => kernels.adamw(weights, [m, v], &g, &norm, adam).unwrap(),
            Some([ms, vs]) => {
                let eight = Eight {
                    m: Codes {
                        codes: m,
                        scales: ms,
                    },
                    v: Codes {
                        codes: v,
                        scales: vs,
                    },
                    step,
                };
                kernels
                    .adamw_eight_bit(weights, &eight, &g, &norm, adam)
                    .unwrap();
            }
        }
    }

    fn master(&self, device: &Emulated, kernels: &Kernels<'_>) -> Vec<u32> {
        let x = device.alloc(Element::F32, self.len).unwrap();
        kernels.join(&self.high, &self.low, &x).unwrap();
        let x = download_f32(device, &x).unwrap();
        x.iter().map(|x| x.to_bits()).collect()
    }
}

/// Four steps of a small network, with weight decay: masters in two halves on the device have the bits of `f32` weights here, with moments
/// of either kind.
#[test]
fn the_optimiser_has_the_same_bits() {
    let Some(device) = emulated("the optimiser") else {
        return;
    };
    let kernels = Kernels::new(&device, Real::Bf16);
    let shape = GptNeoXConfig {
        vocab_size: 96,
        hidden_size: 64,
        intermediate_size: 128,
        n_layers: 1,
        ..small_config(true)
    };
    let heads = Heads {
        language_model: true,
        value: false,
        reward: false,
    };
    for moments in [Moments::F32, Moments::EightBit] {
        let init = Init::Normal { std: 0.02 };
        let seeds = SeedTree::new(1);
        let mut model = Model::random(shape.clone(), heads, init, &seeds, &Device::Cpu).unwrap();
        let config = AdamWConfig {
            moments,
            weight_decay: 0.1,
            max_grad_norm: None,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(config.clone(), model.params()).unwrap();
        let values = |model: &Model, name: &str| -> Vec<f32> {
            let tensor = model.params().get(name).unwrap();
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        let names: Vec<String> = model.params().trained().map(|(n, _)| n.into()).collect();
        let state = |name: &String| {
            let w = values(&model, name);
            // Smaller tensors keep f32 moments.
            let eight = moments == Moments::EightBit && w.len() >= 4096;
            OnDevice::new(&device, &kernels, name, &w, eight)
        };
        let states: Vec<OnDevice> = names.iter().map(state).collect();
        assert_eq!(
            states.iter().any(|s| s.scales.is_some()),
            moments == Moments::EightBit
        );
        for step in 1..=4u32 {
            let mut rng = SeedTree::new(7).index(u64::from(step)).rng();
            let rows: Vec<Vec<u32>> = (0..4)
                .map(|_| (0..12).map(|_| rng.random_range(0..96)).collect())
                .collect();
            let rows: Vec<_> = rows.iter().map(|r| r.split_at(1)).collect();
            let batch = Batch::new(&rows).unwrap();
            let n = log_probs(&model, &batch).len();
            let slope = vec![-1.0 / n as f64; n];
            let gradients = pull(&model, &batch, slope, Keep::Activations);
            let rate = 1e-3;
            let t = f64::from(step);
            let adam = Adam {
                decay1: config.decay1 as f32,
                decay2: config.decay2 as f32,
                keep: (1.0 - rate * config.weight_decay) as f32,
                rate: (rate / (1.0 - config.decay1.powf(t))) as f32,
                root: (1.0 / (1.0 - config.decay2.powf(t)).sqrt()) as f32,
                epsilon: config.epsilon as f32,
            };
            for state in &states {
                let g = gradients.get(&state.name).unwrap().unwrap();
                state.step(&device, &kernels, &g, &adam, step);
            }
            optimizer
                .step(model.params_mut(), &gradients, rate)
                .unwrap();
            for state in &states {
                let here: Vec<u32> = values(&model, &state.name)
                    .iter()
                    .map(|x| x.to_bits())
                    .collect();
                let there = state.master(&device, &kernels);
                assert!(
                    here == there,
                    "{moments:?}, step {step}, {}: other bits",
                    state.name
                );
            }
        }
    }
}

/// 300 draws, all of the distribution or cut by top-k and top-p: the token and the log-probability that the processor's sampler gives (cut,
/// that the token is kept and how likely it is: the two walk through the kept tokens in another order).
#[test]
fn draws_are_those_of_the_sampler() {
    let Some(device) = emulated("draws") else {
        return;
    };
    let kernels = Kernels::new(&device, Real::F32).with_threads(128);
    let mut rng = SeedTree::new(3).rng();
    for case in 0..60 {
        let (rows, vocabulary) = (5, [1, 31, 512, 700, 1031][case % 5]);
        let spread = rng.random_range(1.0f32..12.0);
        let logits: Vec<f32> = (0..rows * vocabulary)
            .map(|_| rng.random_range(-spread..spread))
            .collect();
        let uniforms: Vec<f64> = (0..rows).map(|_| rng.random()).collect();
        let temperature = [1.0, 0.7, 1.3][case % 3];
        let cut = case % 2 == 1;
        let draw = Draw {
            temperature,
            top_k: if cut { 1 + vocabulary / 3 } else { 0 },
            top_p: if cut { 0.9 } else { 1.0 },
        };
        let l = upload_f32(&device, Real::F32, &logits).unwrap();
        let u = upload_f64(&device, &uniforms).unwrap();
        let tokens = device.alloc(Element::U32, rows).unwrap();
        let probs = device.alloc(Element::F32, rows).unwrap();
        kernels.draw(&l, Some(&u), &draw, &tokens, &probs).unwrap();
        let bytes = device.download(&tokens).unwrap();
        let (words, _) = bytes.as_chunks::<4>();
        let probs = download_f32(&device, &probs).unwrap();
        for (i, row) in logits.chunks(vocabulary).enumerate() {
            let token = u32::from_ne_bytes(words[i]);
            let log_prob = if cut {
                let decoder = Decoder {
                    top_k: draw.top_k,
                    top_p: draw.top_p,
                    ..Decoder::default()
                };
                let mut truncated = Truncated::default();
                truncated.set(row, temperature, &decoder, &[]).unwrap();
                let support = truncated.support();
                let kept = support.iter().find(|(t, _)| *t == token);
                kept.expect("a kept token").1.ln()
            } else {
                let (expected, log_prob) = sampler::sample(row, temperature, uniforms[i]).unwrap();
                assert_eq!(token, expected, "case {case}, row {i}");
                log_prob
            };
            let error = (f64::from(probs[i]) - log_prob).abs();
            assert!(
                error <= 1e-6 * (1.0 + log_prob.abs()),
                "case {case}, row {i}: {} and {log_prob}",
                probs[i]
            );
        }
    }
}
