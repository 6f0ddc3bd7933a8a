//! Tokens per process CPU second of generation with the cache, one thread, at the shapes of a toy model and of
//! Pythia-14m with random weights: batch 16, 32 prompt tokens (16 for the toy), 64 new ones (48), temperature 0.9.
//!
//! `cargo bench -p rto-bridge --bench generate [-- SHAPE]` prints one JSON line per shape and top-p. CPU seconds are
//! counted because a neighbour on the machine spoils wall time.
//!
//! `-- SHAPE --worker` answers every line `ROWS PROMPT NEW` of standard input by writing so many tokens after so many prompts at temperature 0.9, without
//! truncation: a line of JSON with the CPU seconds (`benches/speed.py` asks so). The number of threads is that of `RAYON_NUM_THREADS`. With
//! `--weights bf16` or `--weights int8` the weights of products are stored so.

use candle_core::{Device, Tensor};
use rand::Rng;
use rto::seed::SeedTree;
use rto::seq::{Decoder, StreamKey};
use rto_bridge::family::{Activation, GptNeoXConfig, Head, ModelConfig};
use rto_bridge::generate::{Engine, Sampling, Stored};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::sync::Arc;

#[path = "shapes/smollm2.rs"]
mod shapes;
use shapes::smollm2;

const BATCH: usize = 16;
const REPETITIONS: usize = 5;

struct Shape {
    name: &'static str,
    sizes: [usize; 6],
    prompt: usize,
    new: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "tiny",
        sizes: [64, 64, 2, 4, 256, 64],
        prompt: 16,
        new: 48,
    },
    Shape {
        name: "14m",
        sizes: [50304, 128, 6, 4, 512, 2048],
        prompt: 32,
        new: 64,
    },
    Shape {
        name: "smollm2",
        sizes: [49152, 576, 30, 9, 1536, 2048],
        prompt: 32,
        new: 64,
    },
];

fn config(shape: &Shape) -> ModelConfig {
    if shape.name == "smollm2" {
        return smollm2().into();
    }
    let [
        vocab_size,
        hidden_size,
        n_layers,
        n_heads,
        intermediate_size,
        max_positions,
    ] = shape.sizes;
    ModelConfig::from(GptNeoXConfig {
        vocab_size,
        hidden_size,
        n_layers,
        n_heads,
        intermediate_size,
        rotary_dims: hidden_size / n_heads / 4,
        rotary_base: 1e4,
        max_positions,
        layer_norm_eps: 1e-5,
        parallel_residual: true,
        activation: Activation::Gelu,
        attention_bias: true,
        tied_embeddings: false,
        bos_token: Some(0),
        eos_tokens: 0.into(),
        pad_token: None,
    })
}

/// Weights of the spread a fresh model has (0.02), norms at one.
fn weights(config: &ModelConfig) -> BTreeMap<String, Tensor> {
    let seeds = SeedTree::new(0).child("weights");
    let one = |(name, shape): (String, Vec<usize>)| {
        let mut rng = seeds.child(&name).rng();
        let n: usize = shape.iter().product();
        let spread = 0.02 * 12.0_f32.sqrt();
        let values: Vec<f32> = if name.contains("norm.weight") {
            vec![1.0; n]
        } else {
            (0..n)
                .map(|_| (rng.random::<f32>() - 0.5) * spread)
                .collect()
        };
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)
            .expect("as many values as the shape says");
        (name, tensor)
    };
    config
        .tensors(Head::CausalLm)
        .into_iter()
        .map(one)
        .collect()
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn prompts(rows: usize, length: usize, vocabulary: usize) -> Vec<Arc<[u32]>> {
    let mut rng = SeedTree::new(0).child("prompts").rng();
    let mut prompt = || {
        (0..length)
            .map(|_| rng.random_range(1..vocabulary as u32))
            .collect()
    };
    (0..rows).map(|_| prompt()).collect()
}

/// Answers the lines of standard input.
fn serve(shape: &Shape) {
    let config = config(shape);
    let threads = std::env::var("RAYON_NUM_THREADS").map_or(1, |n| n.parse().expect("a number"));
    let stored = std::env::args().skip_while(|a| a != "--weights").nth(1);
    let stored = match stored.as_deref() {
        None | Some("f32") => Stored::F32,
        Some("bf16") => Stored::Bf16,
        Some("int8") => Stored::Int8,
        Some(other) => panic!("--weights: found {other}, expected f32, bf16 or int8"),
    };
    let engine = Engine::stored(&config, Head::CausalLm, &weights(&config), stored)
        .and_then(|engine| engine.with_threads(threads))
        .expect("weights of this shape");
    let parameters: usize = config
        .tensors(Head::CausalLm)
        .values()
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    println!("{{\"weights\":{parameters}}}");
    for line in std::io::stdin().lines() {
        let line = line.expect("lines of text");
        let asked: Vec<usize> = line
            .split_whitespace()
            .map(|n| n.parse().expect("three numbers"))
            .collect();
        let [rows, length, new] = asked[..] else {
            panic!("expected ROWS PROMPT NEW, found {line}");
        };
        let sampling = Sampling {
            max_new_tokens: new,
            temperature: 0.9,
            decoder: None,
            ends: Default::default(),
            batch: rows,
        };
        let prompts = prompts(rows, length, config.vocab_size());
        let keys = StreamKey::batch(&SeedTree::new(0), rows);
        let (cpu, wall) = (cpu_seconds(), std::time::Instant::now());
        let sampled = engine
            .sample(&prompts, &keys, &sampling)
            .expect("prompts that fit");
        let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
        assert!(sampled.iter().all(|s| s.episode.len() == new));
        println!("{{\"cpu_s\":{cpu},\"wall_s\":{wall}}}");
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for shape in SHAPES
        .iter()
        .filter(|s| wanted.is_empty() || wanted.iter().any(|w| w == s.name))
    {
        if std::env::args().any(|a| a == "--worker") {
            return serve(shape);
        }
        let config = config(shape);
        let engine =
            Engine::new(&config, Head::CausalLm, &weights(&config)).expect("weights of this shape");
        let prompts = prompts(BATCH, shape.prompt, config.vocab_size());
        for top_p in [0.99, 1.0] {
            let decoder = Decoder {
                top_p,
                ..Decoder::default()
            };
            let sampling = Sampling {
                max_new_tokens: shape.new,
                temperature: 0.9,
                decoder: (top_p < 1.0).then_some(decoder),
                ends: Default::default(),
                batch: BATCH,
            };
            let mut seconds: Vec<f64> = (0..=REPETITIONS as u64)
                .map(|i| {
                    let keys = StreamKey::batch(&SeedTree::new(i), BATCH);
                    let start = cpu_seconds();
                    let sampled = engine
                        .sample(&prompts, &keys, &sampling)
                        .expect("prompts that fit");
                    assert!(sampled.iter().all(|s| s.episode.len() == shape.new));
                    cpu_seconds() - start
                })
                .skip(1)
                .collect();
            seconds.sort_by(f64::total_cmp);
            let median = seconds[REPETITIONS / 2];
            let rate = (BATCH * shape.new) as f64 / median;
            println!(
                "{{\"model\":\"{}\",\"top_p\":{top_p},\"batch\":{BATCH},\"new\":{},\"cpu_median_s\":{median:.5},\"tokens_per_cpu_s\":{rate:.0}}}",
                shape.name, shape.new
            );
        }
    }
}
