//! The runs, each the same program on every executor.

use crate::shape::{drawn, pythia};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rto_device::network::{
    AdamW, AdamWSettings, Batch, Gradients, Judge, Learner, Network, Options, Program, Rate,
    Request, Schedule, Scores, Writing, Written, iteration,
};
use rto_device::{Device, Draw, Element, Gemm, Kernels, Matrix, Real, Result};
use std::time::Instant;

/// What a run measured.
pub type Findings = Vec<(&'static str, f64)>;

/// Shapes of the runs.
pub struct Sizes {
    network: [usize; 4],
    /// Texts of a pass, tokens of a prompt and of a response.
    texts: usize,
    prompt: usize,
    response: usize,
    slots: usize,
    /// Prompts of text alone, and of an iteration.
    prompts: [usize; 2],
    minibatch: usize,
    /// Steps before those that are timed, and those.
    steps: [usize; 2],
    threads: u32,
    /// Rows, columns and depth of a square product, and bytes of a copy.
    square: usize,
    copy: usize,
}

impl Sizes {
    /// Two layers of width 32.
    pub fn small() -> Self {
        Self {
            network: [2, 32, 2, 67],
            texts: 2,
            prompt: 5,
            response: 6,
            slots: 2,
            prompts: [3, 4],
            minibatch: 2,
            steps: [1, 1],
            threads: 32,
            square: 48,
            copy: 1 << 12,
        }
    }

    /// Pythia-2.8B, texts of 512 tokens.
    pub fn whole() -> Self {
        Self {
            network: [32, 2560, 32, 50_304],
            texts: 16,
            prompt: 256,
            response: 256,
            slots: 64,
            prompts: [128, 64],
            minibatch: 16,
            steps: [2, 5],
            threads: 256,
            square: 8192,
            copy: 1 << 30,
        }
    }

    fn kernels<'d>(&self, device: &'d dyn Device) -> Kernels<'d> {
        Kernels::new(device, Real::Bf16).with_threads(self.threads)
    }

    fn prompts(&self, count: usize) -> Vec<Vec<u32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let vocabulary = self.network[3] as u32;
        (0..count)
            .map(|_| {
                // Prompts of unequal length.
                let n = rng.random_range(self.prompt.div_ceil(2)..=self.prompt);
                (0..n).map(|_| rng.random_range(0..vocabulary)).collect()
            })
            .collect()
    }

    fn batch(&self, texts: usize) -> Result<Batch> {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let vocabulary = self.network[3] as u32;
        let mut draw =
            |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(0..vocabulary)).collect() };
        let rows: Vec<(Vec<u32>, Vec<u32>)> = (0..texts)
            .map(|_| (draw(self.prompt), draw(self.response)))
            .collect();
        let rows: Vec<(&[u32], &[u32])> = rows.iter().map(|(p, r)| (&p[..], &r[..])).collect();
        Batch::new(&rows)
    }
}

const SETTINGS: AdamWSettings = AdamWSettings {
    decay1: 0.9,
    decay2: 0.95,
    epsilon: 1e-8,
    longest: Some(1.0),
    eight_bit_from: None,
};

const OPTIONS: Options = Options {
    checkpointing: true,
    temperature: 1.0,
    columns: 4096,
};

fn rate(_: &str) -> Rate {
    Rate {
        rate: 1e-5,
        decay: 0.0,
    }
}

/// A kernel and a product run at all.
pub fn open(device: &dyn Device, sizes: &Sizes) -> Result<Findings> {
    let kernels = sizes.kernels(device);
    let x = device.alloc(Element::F32, 1000)?;
    kernels.clear(&x)?;
    let bytes = device.download(&x)?;
    Ok(vec![(
        "set",
        bytes.iter().filter(|b| **b != 0).count() as f64,
    )])
}

/// Seconds of `run` once, after a first time.
fn timed(device: &dyn Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    device.sync()?;
    let begun = Instant::now();
    run()?;
    device.sync()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// A copy, a square product in bf16, and the six products of a block's forward pass.
pub fn ceilings(device: &dyn Device, sizes: &Sizes) -> Result<Findings> {
    let kernels = sizes.kernels(device);
    let mut found = Vec::new();
    let n = sizes.copy / 2;
    let (from, to) = (
        device.alloc(Element::Bf16, n)?,
        device.alloc(Element::Bf16, n)?,
    );
    kernels.clear(&from.of(Element::F32)?)?;
    let row = n / 1024;
    let copy = || {
        let steps = [row, row];
        kernels.regroup(1024, [1, row], (&from, steps), (&to, steps))
    };
    let seconds = timed(device, copy)?;
    found.push(("copy_bytes_per_second", 2.0 * sizes.copy as f64 / seconds));
    drop((from, to));
    let product = |m: usize, n: usize, k: usize| -> Result<f64> {
        let alloc = |len: usize| -> Result<_> {
            let buffer = device.alloc(Element::Bf16, len.next_multiple_of(2))?;
            kernels.clear(&buffer.of(Element::F32)?)?;
            Ok(buffer)
        };
        let (a, b, c) = (alloc(m * k)?, alloc(n * k)?, alloc(m * n)?);
        let gemm = Gemm {
            m,
            n,
            k,
            batch: 1,
            alpha: 1.0,
            beta: 0.0,
            a: Matrix::rows(&a, k),
            b: Matrix::rows(&b, k).t(),
            c: Matrix::rows(&c, n),
        };
        let seconds = timed(device, || device.gemm(&gemm))?;
        Ok(gemm.flops() as f64 / seconds)
    };
    let (s, w) = (sizes.square, sizes.network[1]);
    let rows = sizes.texts * (sizes.prompt + sizes.response);
    for (name, [m, n, k]) in [
        ("square_flops_per_second", [s, s, s]),
        ("qkv_flops_per_second", [rows, 3 * w, w]),
        ("out_flops_per_second", [rows, w, w]),
        ("up_flops_per_second", [rows, 4 * w, w]),
        ("down_flops_per_second", [rows, w, 4 * w]),
        ("dw_flops_per_second", [4 * w, w, rows]),
        (
            "tile_flops_per_second",
            [rows / 2, OPTIONS.columns.min(8 * w), w],
        ),
    ] {
        found.push((name, product(m, n, k)?));
    }
    Ok(found)
}

/// Steps on texts of equal length: seconds a step, and the length of the last gradient.
fn steps(
    device: &dyn Device,
    sizes: &Sizes,
    texts: usize,
    reference: Option<&Program<'_>>,
    network: &Network,
) -> Result<Findings> {
    let kernels = sizes.kernels(device);
    let parameters = drawn(&kernels, network, true, 1)?;
    let program = Program::new(kernels, network, &parameters, OPTIONS)?;
    let mut optimizer = AdamW::new(&kernels, &parameters, SETTINGS)?;
    let gradients = Gradients::zeros(&kernels, &parameters)?;
    let batch = sizes.batch(texts)?;
    let request = Request::log_probs();
    let n = batch.responses();
    let [warm, count] = sizes.steps;
    let (mut begun, mut norm, mut loss) = (Instant::now(), 0.0, 0.0);
    for step in 0..warm + count {
        if step == warm {
            device.sync()?;
            begun = Instant::now();
        }
        if let Some(reference) = reference {
            reference.forward(&batch, &request, false)?;
        }
        let forward = program.forward(&batch, &request, true)?;
        let log_probs = forward.scores.log_probs.clone().unwrap_or_default();
        loss = -log_probs.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        // Of a pair's chosen and rejected text in DPO the gradients have opposite signs.
        let sign = |i: usize| match (reference, i < n / 2) {
            (Some(_), false) => 1.0,
            _ => -1.0,
        };
        let slope = (0..n).map(|i| sign(i) / n as f32).collect();
        let grad = Scores {
            log_probs: Some(slope),
            ..Scores::default()
        };
        program.backward(&batch, &request, forward, &grad, &gradients)?;
        norm = optimizer.step(&kernels, &parameters, &gradients, rate)?;
        gradients.clear(&kernels)?;
    }
    device.sync()?;
    let seconds = begun.elapsed().as_secs_f64() / count as f64;
    let tokens = (texts * (sizes.prompt + sizes.response)) as f64;
    Ok(vec![
        ("seconds_a_step", seconds),
        ("tokens_per_second", tokens / seconds),
        ("gradient_length", norm),
        ("loss", loss),
    ])
}

/// Supervised fine-tuning.
pub fn sft(device: &dyn Device, sizes: &Sizes) -> Result<Findings> {
    steps(
        device,
        sizes,
        sizes.texts,
        None,
        &pythia(sizes.network, false),
    )
}

/// DPO on half as many pairs.
pub fn dpo(device: &dyn Device, sizes: &Sizes) -> Result<Findings> {
    let (kernels, network) = (sizes.kernels(device), pythia(sizes.network, false));
    let frozen = drawn(&kernels, &network, false, 2)?;
    let reference = Program::new(kernels, &network, &frozen, OPTIONS)?;
    steps(device, sizes, sizes.texts, Some(&reference), &network)
}

fn uniform(prompt: usize, step: usize) -> f64 {
    ChaCha8Rng::seed_from_u64((prompt << 20 | step) as u64).random()
}

fn writing(sizes: &Sizes) -> Writing {
    Writing {
        slots: sizes.slots,
        longest: sizes.response.div_ceil(2),
        ends: Vec::new(),
        draw: Some(Draw {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
        }),
        read_at_once: 1 << 13,
    }
}

/// Text, and the largest difference between what was drawn and what is scored.
pub fn write(device: &dyn Device, sizes: &Sizes) -> Result<Findings> {
    let (kernels, network) = (sizes.kernels(device), pythia(sizes.network, false));
    let parameters = drawn(&kernels, &network, false, 1)?;
    let program = Program::new(kernels, &network, &parameters, OPTIONS)?;
    let prompts = sizes.prompts(sizes.prompts[0]);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let begun = Instant::now();
    let written = program.write(&prompts, &writing(sizes), &mut uniform)?;
    device.sync()?;
    let seconds = begun.elapsed().as_secs_f64();
    let tokens: usize = written.iter().map(|w| w.tokens.len()).sum();
    let mut deviation = 0.0f64;
    let texts: Vec<(&[u32], &Written)> = prompts.into_iter().zip(&written).collect();
    for some in texts.chunks(sizes.texts) {
        let rows: Vec<(&[u32], &[u32])> = some.iter().map(|(p, w)| (*p, &w.tokens[..])).collect();
        let forward = program.forward(&Batch::new(&rows)?, &Request::log_probs(), false)?;
        let drawn = some.iter().flat_map(|(_, w)| &w.log_probs);
        let scored = forward.scores.log_probs.unwrap_or_default();
        for (a, b) in drawn.zip(&scored) {
            deviation = deviation.max(f64::from(a - b).abs());
        }
    }
    Ok(vec![
        ("tokens_per_second", tokens as f64 / seconds),
        ("deviation", deviation),
    ])
}

/// Advantages that alternate, a clipped loss, values of zero.
#[derive(Default)]
struct Clipped {
    old: Vec<Vec<f32>>,
    /// The largest |log π − log π_old| before the first step.
    deviation: f64,
    pulls: usize,
}

impl Judge for Clipped {
    fn judge(&mut self, texts: &[Written], _: &[Vec<Scores>]) {
        self.old = texts.iter().map(|t| t.log_probs.clone()).collect();
    }

    fn pull(&mut self, _: usize, texts: &[usize], scores: &Scores) -> Scores {
        let old = texts.iter().flat_map(|&t| &self.old[t]);
        let now = scores.log_probs.iter().flatten();
        let mut slope = Vec::new();
        for (i, (now, old)) in now.zip(old).enumerate() {
            let apart = f64::from(now - old);
            if self.pulls == 0 {
                self.deviation = self.deviation.max(apart.abs());
            }
            let advantage = if i % 2 == 0 { 1.0 } else { -1.0 };
            slope.push((-advantage * apart.clamp(-0.2, 0.2).exp() / 1e3) as f32);
        }
        self.pulls += 1;
        let values = scores.values.as_ref();
        Scores {
            log_probs: Some(slope),
            values: values.map(|v| v.iter().map(|v| v / 1e3).collect()),
            ..Scores::default()
        }
    }
}

/// One iteration with a critic on the policy's trunk, a reference and a DPO policy.
pub fn rto(device: &dyn Device, sizes: &Sizes) -> Result<Findings> {
    let kernels = sizes.kernels(device);
    let (network, plain) = (pythia(sizes.network, true), pythia(sizes.network, false));
    let parameters = drawn(&kernels, &network, true, 1)?;
    let frozen = [
        drawn(&kernels, &plain, false, 1)?,
        drawn(&kernels, &plain, false, 2)?,
    ];
    let program = Program::new(kernels, &network, &parameters, OPTIONS)?;
    let [reference, dpo] = &frozen;
    let reference = Program::new(kernels, &plain, reference, OPTIONS)?;
    let dpo = Program::new(kernels, &plain, dpo, OPTIONS)?;
    let mut optimizer = AdamW::new(&kernels, &parameters, SETTINGS)?;
    let request = Request {
        log_probs: true,
        values: true,
        ..Request::default()
    };
    let mut learners = [Learner {
        program: &program,
        request,
        optimizer: &mut optimizer,
        rate: rate(""),
    }];
    let prompts = sizes.prompts(sizes.prompts[1]);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let schedule = Schedule {
        micro_batch: sizes.texts.min(sizes.minibatch),
        minibatch: sizes.minibatch,
        epochs: 2,
    };
    let mut judge = Clipped::default();
    let begun = Instant::now();
    let written = iteration(
        &mut learners,
        &[&reference, &dpo],
        &prompts,
        &writing(sizes),
        &schedule,
        &mut uniform,
        &mut judge,
    )?;
    device.sync()?;
    let texts = prompts.iter().zip(&written);
    let tokens: usize = texts.map(|(p, w)| p.len() + w.tokens.len()).sum();
    Ok(vec![
        ("seconds_an_iteration", begun.elapsed().as_secs_f64()),
        ("tokens", tokens as f64),
        ("ratio_deviation", judge.deviation),
    ])
}
