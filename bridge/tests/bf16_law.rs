//! Scores of sampled responses in bf16, on candle tensors, are the log-probabilities that they were drawn with.

use candle_core::{DType, Device, Tensor};
use rto::seed::SeedTree;
use rto::seq::StreamKey;
use rto_bridge::batch::Batch;
use rto_bridge::family::{Activation, GptNeoXConfig, LlamaConfig, LlamaFamily, ModelConfig};
use rto_bridge::generate::{Sampling, TensorEngine};
use rto_bridge::model::{Heads, Model, Request};
use rto_bridge::params::{Init, Params};
use std::collections::BTreeMap;
use std::sync::Arc;

fn neox(parallel: bool) -> ModelConfig {
    GptNeoXConfig {
        hidden_size: 64,
        n_layers: 3,
        n_heads: 4,
        intermediate_size: 128,
        rotary_dims: 4,
        max_positions: 64,
        parallel_residual: parallel,
        activation: if parallel {
            Activation::Gelu
        } else {
            Activation::GeluTanh
        },
        ..GptNeoXConfig::tiny(97, 0)
    }
    .into()
}

fn mistral() -> ModelConfig {
    LlamaConfig {
        family: LlamaFamily::Mistral,
        vocab_size: 97,
        hidden_size: 64,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        intermediate_size: 96,
        rope_base: 10_000.0,
        rope_scaling: None,
        max_positions: 64,
        rms_norm_eps: 1e-5,
        window: Some(9),
        attention_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        bos_token: None,
        eos_tokens: 0.into(),
        pad_token: None,
    }
    .into()
}

/// Gaps between what was drawn from and what is scored, and how many numbers are equal to the last bit.
fn gaps(config: &ModelConfig, temperature: f64) -> (Vec<f64>, usize) {
    let seeds = SeedTree::new(11);
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let init = Init::Normal { std: 0.15 };
    let drawn = Model::random(config, heads, init, &seeds, &Device::Cpu).unwrap();
    let short = |(name, t): (String, Tensor)| (name, t.to_dtype(DType::BF16).unwrap());
    let weights: BTreeMap<String, Tensor> =
        drawn.params().tensors().into_iter().map(short).collect();
    let engine = TensorEngine::new(config, &weights).unwrap();
    let mut model = Model::try_new(config, Params::frozen(weights).unwrap()).unwrap();
    model.set_temperature(temperature).unwrap();
    let prompts: Vec<Arc<[u32]>> = (0..24u32)
        .map(|i| (0..1 + i % 7).map(|t| 1 + (i * 13 + t * 5) % 96).collect())
        .collect();
    let keys = StreamKey::batch(&seeds.child("rollout"), prompts.len());
    let sampling = Sampling {
        max_new_tokens: 24,
        temperature,
        ends: 0.into(),
        ..Sampling::default()
    };
    let sampled = engine.sample(&prompts, Some(&keys), &sampling).unwrap();
    let texts: Vec<(&[u32], &[u32])> = sampled
        .iter()
        .map(|s| (&s.episode.prompt[..], &s.episode.response[..]))
        .collect();
    let batch = Batch::new(&texts).unwrap();
    let scores = model.scores(&batch, &Request::log_probs()).unwrap();
    let scored = scores.log_probs.unwrap();
    let drawn: Vec<f64> = sampled.iter().flat_map(|s| s.log_probs.clone()).collect();
    assert_eq!(drawn.len(), scored.len());
    let gaps: Vec<f64> = drawn
        .iter()
        .zip(&scored)
        .map(|(a, b)| (a - b).abs())
        .collect();
    let equal = gaps.iter().filter(|g| **g < 1e-6).count();
    (gaps, equal)
}

#[test]
fn scores_in_bf16_are_what_was_drawn_from() {
    for config in [neox(true), neox(false), mistral()] {
        for temperature in [1.0, 0.7] {
            let (gaps, equal) = gaps(&config, temperature);
            let worst = gaps.iter().fold(0.0f64, |m, g| m.max(*g));
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            println!(
                "{} T {temperature}: {equal} of {} equal, mean {mean:.1e}, worst {worst:.1e}",
                config.family(),
                gaps.len()
            );
            assert_eq!(equal, gaps.len(), "worst {worst:e}");
        }
    }
}
