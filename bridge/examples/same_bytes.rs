//! Hashes of what the CPU path computes on small networks of every kind: weights after 20 steps, scores, samples. Run at two revisions on one
//! machine, equal lines say that a change moved no bit: `cargo run -p rto-bridge --example same_bytes`.

use candle_core::Device;
use rto::seed::SeedTree;
use rto::seq::StreamKey;
use rto_bridge::batch::Batch;
use rto_bridge::family::{
    Activation, GptNeoXConfig, Head, LlamaConfig, LlamaFamily, ModelConfig, RopeScaling,
};
use rto_bridge::generate::{Engine, Sampling};
use rto_bridge::lora::LoraConfig;
use rto_bridge::model::{Heads, Keep, Model, Request, Scores};
use rto_bridge::optimizer::{AdamW, AdamWConfig};
use rto_bridge::params::{Gradients, Init};
use std::sync::Arc;

fn neox(parallel: bool) -> GptNeoXConfig {
    GptNeoXConfig {
        hidden_size: 48,
        n_layers: 3,
        n_heads: 4,
        intermediate_size: 80,
        rotary_dims: if parallel { 4 } else { 12 },
        max_positions: 128,
        parallel_residual: parallel,
        activation: if parallel {
            Activation::Gelu
        } else {
            Activation::GeluTanh
        },
        attention_bias: parallel,
        ..GptNeoXConfig::tiny(97, 0)
    }
}

fn llama(family: LlamaFamily) -> LlamaConfig {
    let mistral = family == LlamaFamily::Mistral;
    LlamaConfig {
        family,
        vocab_size: 97,
        hidden_size: 48,
        n_layers: 3,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 10,
        intermediate_size: 72,
        rope_base: 10_000.0,
        rope_scaling: (!mistral).then_some(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 32,
        }),
        max_positions: 128,
        rms_norm_eps: 1e-5,
        window: mistral.then_some(7),
        attention_bias: mistral,
        mlp_bias: !mistral,
        tied_embeddings: !mistral,
        bos_token: None,
        eos_tokens: 0.into(),
        pad_token: None,
    }
}

/// FNV-1a.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn numbers(&mut self, values: &[f64]) {
        values
            .iter()
            .for_each(|v| self.add(&v.to_bits().to_le_bytes()));
    }

    fn scores(&mut self, scores: &Scores) {
        let parts = [
            &scores.log_probs,
            &scores.entropy,
            &scores.kl,
            &scores.kl_from,
            &scores.values,
            &scores.final_values,
            &scores.rewards,
        ];
        parts
            .into_iter()
            .flatten()
            .for_each(|part| self.numbers(part));
    }

    fn weights(&mut self, model: &Model) -> Result<(), rto_bridge::Error> {
        for (name, tensor) in model.params().tensors() {
            self.add(name.as_bytes());
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            values
                .iter()
                .for_each(|v| self.add(&v.to_bits().to_le_bytes()));
        }
        Ok(())
    }
}

fn texts() -> Result<Batch, rto_bridge::Error> {
    let text = |i: u32, n: u32| {
        (0..n)
            .map(|t| 1 + (i * 31 + t * t * 7 + t) % 96)
            .collect::<Vec<u32>>()
    };
    let rows: Vec<(Vec<u32>, Vec<u32>)> = [(3, 9), (1, 30), (12, 1), (7, 80), (20, 20)]
        .iter()
        .zip(0..)
        .map(|(&(p, r), i)| (text(i, p), text(i + 7, r)))
        .collect();
    let views: Vec<(&[u32], &[u32])> = rows.iter().map(|(p, r)| (&p[..], &r[..])).collect();
    Batch::new(&views)
}

fn check(name: &str, config: ModelConfig, lora: bool) -> Result<(), rto_bridge::Error> {
    let heads = Heads {
        language_model: true,
        value: true,
        reward: true,
    };
    let seeds = SeedTree::new(7);
    let init = Init::Normal { std: 0.08 };
    let reference = Model::random(
        &config,
        heads,
        init,
        &seeds.child("reference"),
        &Device::Cpu,
    )?;
    let mut model = Model::random(&config, heads, init, &seeds, &Device::Cpu)?;
    if lora {
        model = model.with_adapter(LoraConfig::every_layer(&config, 4, 8.0), &seeds)?;
    }
    model.options_mut().checkpointing = lora;
    let batch = texts()?;
    let request = Request {
        log_probs: true,
        entropy: true,
        reference: Some(&reference),
        kl_from: true,
        values: true,
        rewards: true,
    };
    let mut optimizer = AdamW::new(AdamWConfig::default(), model.params())?;
    let mut grads = Gradients::zeros(model.params());
    let mut hash = Hash::new();
    for _ in 0..20 {
        let forward = model.forward(&batch, &request, Keep::Activations)?;
        hash.scores(&forward.scores);
        let pull = |part: &Option<Vec<f64>>, by: f64| {
            part.as_ref()
                .map(|p| p.iter().map(|x| by * x.cos()).collect())
        };
        let grad = Scores {
            log_probs: pull(&forward.scores.log_probs, -0.1),
            entropy: pull(&forward.scores.entropy, 0.01),
            kl: pull(&forward.scores.kl, 0.02),
            kl_from: pull(&forward.scores.kl_from, 0.03),
            values: pull(&forward.scores.values, 0.1),
            final_values: pull(&forward.scores.final_values, 0.1),
            rewards: pull(&forward.scores.rewards, 0.1),
        };
        grads.reset();
        model.backward(&batch, &request, forward, &grad, &mut grads)?;
        optimizer.step(model.params_mut(), &grads, 1e-3)?;
    }
    println!("{name} scores of 20 steps {:016x}", hash.0);
    let mut hash = Hash::new();
    hash.weights(&model)?;
    println!("{name} weights after 20 steps {:016x}", hash.0);
    let weights = model.merged_weights()?.into_iter();
    let weights = weights
        .filter(|(name, _)| !name.starts_with("v_head") && !name.starts_with("score"))
        .collect();
    let engine = Engine::new(&config, Head::CausalLm, &weights)?;
    let prompts: Vec<Arc<[u32]>> = (1..20u32)
        .map(|i| (0..i).map(|t| 1 + (i * t + 3) % 96).collect())
        .collect();
    let keys = StreamKey::batch(&seeds.child("rollout"), prompts.len());
    let sampling = Sampling {
        max_new_tokens: 40,
        ends: 0.into(),
        ..Sampling::default()
    };
    let mut hash = Hash::new();
    for sampled in engine.sample(&prompts, &keys, &sampling)? {
        sampled
            .episode
            .response
            .iter()
            .for_each(|t| hash.add(&t.to_le_bytes()));
        hash.numbers(&sampled.log_probs);
    }
    println!("{name} samples {:016x}", hash.0);
    Ok(())
}

fn main() -> Result<(), rto_bridge::Error> {
    check("GPT-NeoX parallel", neox(true).into(), false)?;
    check("GPT-NeoX sequential", neox(false).into(), false)?;
    check("GPT-NeoX adapted", neox(true).into(), true)?;
    check("Llama", llama(LlamaFamily::Llama).into(), false)?;
    check("Llama adapted", llama(LlamaFamily::Llama).into(), true)?;
    check("Mistral", llama(LlamaFamily::Mistral).into(), false)
}
