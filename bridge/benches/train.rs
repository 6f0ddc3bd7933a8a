//! Tokens (or preference pairs) per CPU second of a training step, and its peak memory, on random weights.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p rto-bridge --bench train -- MODEL TASK [--checkpointing] [--repetitions N] [--hh] [--dtype TYPE]`, where MODEL is
//! `tiny` (2 layers of 64), `14m` (Pythia-14m), `wide` (12 layers of 768, small vocabulary, 4 texts of 512), `smollm2`
//! (SmolLM2-135M, 4 texts of 256) or `pythia-160m` (the same), TASK is `sft`, `dpo` or
//! `ppo`: samples of RTO iterations of 16 prompts, written, scored and learned from.
//! With `--worker` it takes a step for every line of standard input and answers each with one of JSON (`benches/speed.py` asks so); the line
//! `peak` is answered with the GFLOP/s of a product of three square matrices.
//! With `--hh` the texts have the lengths of eight drawn from HH-RLHF; `--dtype` (`f64`, `bf16`) takes the passes on candle tensors;
//! `--products bf16` rounds the factors of products with weights.
//! A line of JSON: medians over the repetitions after one warm-up step; `activations_mb` is the peak without the program itself and
//! without weights, gradients and moments (16 bytes a weight, 4 for a weight of the reference).

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::family::{Activation, GptNeoXConfig, ModelConfig};
use rto_bridge::model::{Heads, Keep, Model, Products, Request, Scores};
use rto_bridge::optimizer::{AdamW, AdamWConfig};
use rto_bridge::params::{Gradients, Init, Params};

#[path = "train/ppo.rs"]
mod ppo;
#[path = "shapes/smollm2.rs"]
mod shapes;
use shapes::smollm2;

struct Shape {
    vocab_size: usize,
    hidden_size: usize,
    n_layers: usize,
    n_heads: usize,
    max_positions: usize,
    batch: usize,
    length: usize,
}

fn shape(name: &str) -> Option<Shape> {
    let (vocab_size, hidden_size, n_layers, n_heads, max_positions, batch, length) = match name {
        "tiny" => (64, 64, 2, 4, 64, 8, 64),
        "14m" => (50304, 128, 6, 4, 2048, 8, 128),
        "wide" => (512, 768, 12, 12, 2048, 4, 512),
        "smollm2" => (49152, 576, 30, 9, 2048, 4, 256),
        "pythia-160m" => (50304, 768, 12, 12, 2048, 4, 256),
        _ => return None,
    };
    Some(Shape {
        vocab_size,
        hidden_size,
        n_layers,
        n_heads,
        max_positions,
        batch,
        length,
    })
}

fn config(s: &Shape) -> ModelConfig {
    let llama = smollm2();
    if s.hidden_size == llama.hidden_size {
        return llama.into();
    }
    ModelConfig::from(GptNeoXConfig {
        vocab_size: s.vocab_size,
        hidden_size: s.hidden_size,
        n_layers: s.n_layers,
        n_heads: s.n_heads,
        intermediate_size: 4 * s.hidden_size,
        rotary_dims: s.hidden_size / s.n_heads / 4,
        rotary_base: 10_000.0,
        max_positions: s.max_positions,
        layer_norm_eps: 1e-5,
        parallel_residual: true,
        activation: Activation::Gelu,
        attention_bias: true,
        tied_embeddings: false,
        bos_token: None,
        eos_tokens: 0.into(),
        pad_token: None,
    })
}

fn model(s: &Shape, seed: u64) -> Result<Model, rto_bridge::Error> {
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    Model::random(
        config(s),
        heads,
        Init::Normal { std: 0.02 },
        &SeedTree::new(seed),
        &Device::Cpu,
    )
}

fn batch(s: &Shape, prompt: usize) -> Result<Batch, rto_bridge::Error> {
    let mut rng = SeedTree::new(0).child("texts").rng();
    let rows: Vec<Vec<u32>> = (0..s.batch)
        .map(|_| {
            (0..s.length)
                .map(|_| rng.random_range(0..s.vocab_size as u32))
                .collect()
        })
        .collect();
    let views: Vec<(&[u32], &[u32])> = rows.iter().map(|r| r.split_at(prompt)).collect();
    Batch::new(&views)
}

/// Prompt and response lengths of eight texts drawn from the harmless test split of HH-RLHF (4.3 characters a token). Padded to one length
/// they would fill 48% of their grid; batches of eight of the whole split fill 51% on average.
const HH: [(usize, usize); 8] = [
    (210, 49),
    (37, 107),
    (9, 12),
    (129, 54),
    (45, 37),
    (49, 40),
    (95, 44),
    (33, 42),
];

/// Texts of those lengths.
fn hh_batch(s: &Shape) -> Result<Batch, rto_bridge::Error> {
    let mut rng = SeedTree::new(0).child("texts").rng();
    let mut text = |n: usize| -> Vec<u32> {
        (0..n)
            .map(|_| rng.random_range(0..s.vocab_size as u32))
            .collect()
    };
    let rows: Vec<(Vec<u32>, Vec<u32>)> = HH.iter().map(|&(p, r)| (text(p), text(r))).collect();
    let views: Vec<(&[u32], &[u32])> = rows.iter().map(|(p, r)| (&p[..], &r[..])).collect();
    Batch::new(&views)
}

/// The same model in another float type.
fn in_dtype(model: Model, dtype: DType) -> Result<Model, rto_bridge::Error> {
    if dtype == DType::F32 {
        return Ok(model);
    }
    let turned = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
    let tensors = model.params().tensors().into_iter().map(turned);
    let params = Params::new(tensors.collect::<Result<_, rto_bridge::Error>>()?)?;
    Model::try_new(model.config(), params)
}

/// CPU seconds of all threads.
fn cpu_seconds() -> f64 {
    let nanoseconds = |task: std::fs::DirEntry| -> Option<f64> {
        std::fs::read_to_string(task.path().join("schedstat"))
            .ok()?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks.filter_map(nanoseconds).sum::<f64>() * 1e-9
}

/// GFLOP/s of a product of square matrices of 1024, the best of thirty, by the crate that multiplies here.
fn peak() -> f64 {
    const N: usize = 1024;
    let draw = |seed: u64| -> Vec<f32> {
        let mut rng = SeedTree::new(seed).rng();
        (0..N * N).map(|_| rng.random::<f32>() - 0.5).collect()
    };
    let tensor = |values| Tensor::from_vec(values, (N, N), &Device::Cpu);
    let (Ok(a), Ok(b)) = (tensor(draw(0)), tensor(draw(1))) else {
        return f64::NAN;
    };
    let seconds = |_| {
        let start = std::time::Instant::now();
        let product = a.matmul(&b);
        let took = start.elapsed().as_secs_f64();
        product.map_or(f64::NAN, |_| took)
    };
    let best = (0..30).map(seconds).fold(f64::INFINITY, f64::min);
    2e-9 * (N * N * N) as f64 / best
}

/// A step, or the peak, for every line of standard input.
fn serve(run: &mut Run) -> Result<(), Box<dyn std::error::Error>> {
    println!("{{\"weights\":{}}}", run.model.params().count());
    for line in std::io::stdin().lines() {
        if line?.trim() == "peak" {
            println!("{{\"gflops\":{}}}", peak());
            continue;
        }
        let (cpu, wall) = (cpu_seconds(), std::time::Instant::now());
        let loss = run.step()?;
        println!(
            "{{\"cpu_s\":{},\"wall_s\":{},\"loss\":{loss}}}",
            cpu_seconds() - cpu,
            wall.elapsed().as_secs_f64(),
        );
    }
    Ok(())
}

fn megabytes(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with(field))
        .and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    line.unwrap_or(f64::NAN) / 1024.0
}

struct Run {
    model: Model,
    reference: Option<Model>,
    batch: Batch,
    optimizer: AdamW,
    gradients: Gradients,
}

impl Run {
    fn step(&mut self) -> Result<f64, rto_bridge::Error> {
        let request = Request::log_probs();
        self.gradients.reset();
        let reference = self
            .reference
            .as_ref()
            .map(|r| r.scores(&self.batch, &request))
            .transpose()?;
        let forward = self
            .model
            .forward(&self.batch, &request, Keep::Activations)?;
        let scores = forward.scores.log_probs.clone().unwrap_or_default();
        let (loss, grad) = match reference.and_then(|r| r.log_probs) {
            Some(reference) => dpo(&self.batch, &scores, &reference),
            None => {
                let n = scores.len() as f64;
                (
                    -scores.iter().sum::<f64>() / n,
                    vec![-1.0 / n; scores.len()],
                )
            }
        };
        let grad = Scores {
            log_probs: Some(grad),
            ..Scores::default()
        };
        self.model
            .backward(&self.batch, &request, forward, &grad, &mut self.gradients)?;
        self.optimizer
            .step(self.model.params_mut(), &self.gradients, 1e-4)?;
        Ok(loss)
    }
}

/// `−log σ(0.1 Δ)` averaged over pairs (first half of the rows against the second), and its gradient per token.
fn dpo(batch: &Batch, policy: &[f64], reference: &[f64]) -> (f64, Vec<f64>) {
    let offsets = batch.offsets();
    let pairs = batch.rows().len() / 2;
    let ratio = |row: usize| {
        (offsets[row]..offsets[row + 1])
            .map(|i| policy[i] - reference[i])
            .sum::<f64>()
    };
    let (mut loss, mut grad) = (0.0, vec![0.0; policy.len()]);
    for pair in 0..pairs {
        let margin = 0.1 * (ratio(pair) - ratio(pair + pairs));
        loss += (-margin).exp().ln_1p() / pairs as f64;
        let slope = -0.1 / (1.0 + margin.exp()) / pairs as f64;
        grad[offsets[pair]..offsets[pair + 1]].fill(slope);
        grad[offsets[pair + pairs]..offsets[pair + pairs + 1]].fill(-slope);
    }
    (loss, grad)
}

/// The prompt is a quarter of what `tiny` can see, and 32 tokens else; responses have 48 or 64.
fn ppo(name: &str, shape: &Shape, repetitions: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (prompt, new) = match shape.max_positions < 96 {
        true => (shape.max_positions / 4, shape.max_positions * 3 / 4),
        false => (32, 64),
    };
    let models = [model(shape, 0)?, model(shape, 1)?, model(shape, 2)?];
    let mut work = ppo::Work::new(models, &config(shape), prompt, new)?;
    let mut objective = work.iterate(cpu_seconds)?;
    work.seconds.clear();
    for _ in 0..repetitions {
        objective = work.iterate(cpu_seconds)?;
    }
    work.seconds.sort_by(|a, b| a[1].total_cmp(&b[1]));
    let [written, all] = work.seconds[work.seconds.len() / 2];
    println!(
        "{{\"model\":\"{name}\",\"task\":\"ppo\",\"unit\":\"samples\",\"per_cpu_second\":{:.2},\"cpu_median_s\":{all:.4},\"generation_s\":{written:.4},\"peak_mb\":{:.0},\"objective\":{objective:.5}}}",
        ppo::BATCH as f64 / all,
        megabytes("VmHWM"),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [name, task, options @ ..] = arguments.as_slice() else {
        println!("name a model (tiny, 14m, wide, smollm2, pythia-160m) and a task (sft, dpo, ppo)");
        return Ok(());
    };
    let shape = shape(name).ok_or("expected tiny, 14m, wide, smollm2 or pythia-160m")?;
    let after = |flag: &str| {
        options
            .iter()
            .position(|o| o == flag)
            .and_then(|i| options.get(i + 1))
    };
    let repetitions: usize = after("--repetitions").map_or(Ok(5), |n| n.parse())?;
    if task == "ppo" {
        return ppo(name, &shape, repetitions);
    }
    let prompt = if task == "dpo" {
        32.min(shape.length / 2)
    } else {
        1
    };
    let dtype = match after("--dtype").map(String::as_str) {
        None => DType::F32,
        Some("bf16") => DType::BF16,
        Some("f64") => DType::F64,
        Some(_) => return Err("expected --dtype f64 or bf16".into()),
    };
    let program = megabytes("VmHWM");
    let mut model = in_dtype(model(&shape, 0)?, dtype)?;
    model.options_mut().checkpointing = options.iter().any(|o| o == "--checkpointing");
    let products = match after("--products").map(String::as_str) {
        None => Products::F32,
        Some("bf16") => Products::Bf16,
        Some(_) => return Err("expected --products bf16".into()),
    };
    model.options_mut().products = products;
    if let Some(floats) = after("--keep-logits") {
        model.options_mut().keep_logits = floats.parse()?;
    }
    let config = AdamWConfig {
        max_grad_norm: None,
        weight_decay: 0.01,
        ..AdamWConfig::default()
    };
    let mut run = Run {
        reference: if task == "dpo" {
            let mut reference = in_dtype(self::model(&shape, 1)?, dtype)?;
            reference.options_mut().products = products;
            Some(reference)
        } else {
            None
        },
        batch: match options.iter().any(|o| o == "--hh") {
            true => hh_batch(&shape)?,
            false => batch(&shape, prompt)?,
        },
        optimizer: AdamW::new(config, model.params())?,
        gradients: Gradients::zeros(model.params()),
        model,
    };
    if options.iter().any(|o| o == "--worker") {
        return serve(&mut run);
    }
    let before = megabytes("VmRSS");
    let mut loss = run.step()?;
    let mut seconds = Vec::new();
    for _ in 0..repetitions {
        let start = cpu_seconds();
        loss = run.step()?;
        seconds.push(cpu_seconds() - start);
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (unit, units) = if task == "dpo" {
        ("pairs", run.batch.rows().len() / 2)
    } else {
        ("tokens", run.batch.tokens().len())
    };
    let bytes = if run.reference.is_some() { 20 } else { 16 };
    let fixed = program + (bytes * run.model.params().count()) as f64 / (1 << 20) as f64;
    println!(
        "{{\"model\":\"{name}\",\"task\":\"{task}\",\"unit\":\"{unit}\",\"per_cpu_second\":{:.2},\"cpu_median_s\":{median:.4},\"peak_mb\":{:.0},\"before_mb\":{before:.0},\"activations_mb\":{:.0},\"loss\":{loss:.5}}}",
        units as f64 / median,
        megabytes("VmHWM"),
        megabytes("VmHWM") - fixed,
    );
    Ok(())
}
