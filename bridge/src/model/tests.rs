//! Every choice that a plan has, in all four passes: on slices and on tensors, training and writing.

use super::{Heads, Keep, Model, Request, Scores};
use crate::batch::Batch;
use crate::family::{
    Activation, Biases, BlockPlan, ConfigKeys, Family, GptNeoXConfig, Head, LLAMA_NAMES, Layers,
    ModelConfig, Names, Norm, NormKind, Packing, QkNorm, Rotary, Window,
};
use crate::generate::{Engine, Sampling, TensorEngine};
use crate::params::{Gradients, Init, Params};
use candle_core::{DType, Device, Tensor};
use rto::seed::SeedTree;
use rto::seq::StreamKey;
use std::collections::BTreeMap;
use std::sync::Arc;

const fn family(names: Names) -> Family {
    Family {
        name: "test",
        model_type: "test",
        classes: ["TestForCausalLM", "TestForSequenceClassification"],
        names,
        lora_targets: &[],
        keys: ConfigKeys {
            vocab_size: ("vocab_size", 1),
            hidden_size: ("hidden_size", 1),
            n_layers: ("n_layers", 1),
            n_heads: ("n_heads", 1),
            n_kv_heads: Some(("n_kv_heads", None)),
            head_dim: Some(("head_dim", None)),
            intermediate_size: ("intermediate_size", 1),
            max_positions: ("max_positions", 1),
            epsilon: ("epsilon", 1e-5),
            activation: ("activation", &["silu"]),
            tied: false,
            tokens: [None; 2],
        },
        read: |_, _| Ok(()),
        write: |_, _| {},
        gguf: None,
    }
}

/// Four norms a block, and norms of queries and keys.
static SANDWICH: Family = family(Names {
    attention_out_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_out_norm: Some("post_feedforward_layernorm"),
    qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
    ..LLAMA_NAMES
});

/// Norms after attention and MLP only.
static AFTER: Family = family(Names {
    attention_norm: None,
    attention_out_norm: Some("post_attention_layernorm"),
    mlp_norm: None,
    mlp_out_norm: Some("post_feedforward_layernorm"),
    qk_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
    ..LLAMA_NAMES
});

/// Projections in one tensor each, learned positions, and no norm of the MLP's own.
static PACKED: Family = family(Names {
    positions: Some("model.positions.weight"),
    mlp_norm: None,
    qkv: &["self_attn.qkv"],
    up: &["mlp.gate_up"],
    ..LLAMA_NAMES
});

fn rotary(dims: usize, base: f64) -> Option<Rotary> {
    Some(Rotary {
        dims,
        base,
        scaling: None,
    })
}

fn network(family: &'static Family, plan: BlockPlan) -> ModelConfig {
    let config = ModelConfig {
        family,
        vocab_size: 29,
        hidden_size: 24,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        intermediate_size: 20,
        max_positions: 40,
        plan,
        tied_embeddings: true,
        bos_token: None,
        eos_tokens: None.into(),
        pad_token: None,
    };
    config.check().unwrap();
    config
}

fn networks() -> Vec<(&'static str, ModelConfig)> {
    let plain = || BlockPlan::new(1e-5);
    let norm = |kind, offset| Norm {
        kind,
        epsilon: 1e-5,
        offset,
    };
    let window = |layers, rotary| {
        Some(Window {
            size: 3,
            layers,
            rotary,
        })
    };
    let capped = BlockPlan {
        norm: norm(NormKind::Rms, 1.0),
        rotary: rotary(8, 1e4),
        window: window(Layers::ExceptEvery(2), None),
        activation: Activation::GeluTanh,
        attention_scale: Some(0.4),
        score_cap: Some(1.1),
        logit_cap: Some(0.9),
        embedding_scale: Some(24f64.sqrt()),
        ..plain()
    };
    let local = BlockPlan {
        norm: norm(NormKind::Rms, 1.0),
        qk_norm: Some(QkNorm::Head),
        rotary: rotary(8, 1e6),
        window: window(Layers::ExceptEvery(3), rotary(8, 1e2)),
        activation: Activation::Gelu,
        biases: Biases {
            qkv: true,
            ..Biases::default()
        },
        ..plain()
    };
    let after = BlockPlan {
        qk_norm: Some(QkNorm::Row),
        rotary: rotary(4, 1e3),
        window: window(Layers::From(1), None),
        logit_scale: Some(0.3),
        ..plain()
    };
    let shared = BlockPlan {
        norm: norm(NormKind::Layer, 0.0),
        parallel: true,
        biases: Biases::of(true, true),
        ..plain()
    };
    let ungated = BlockPlan {
        norm: norm(NormKind::Layer, 0.0),
        gated: false,
        packing: Packing::Heads,
        biases: Biases::of(false, true),
        rotary: rotary(2, 1e4),
        window: window(Layers::Listed(vec![false, true, false]), None),
        ..plain()
    };
    let mut heads = network(&PACKED, ungated);
    heads.n_kv_heads = 4;
    vec![
        ("capped sandwich", network(&SANDWICH, capped)),
        ("local rotation", network(&SANDWICH, local)),
        ("norms after", network(&AFTER, after)),
        ("shared norm, packed", network(&PACKED, shared)),
        ("ungated, head by head", heads),
    ]
}

fn texts() -> Batch {
    let text = |i: u32, n: u32| {
        (0..n)
            .map(|t| (i * 11 + t * t + 3 * t) % 29)
            .collect::<Vec<u32>>()
    };
    let rows: Vec<(Vec<u32>, Vec<u32>)> = [(2, 5), (1, 9), (3, 4), (4, 1), (2, 0), (1, 9)]
        .iter()
        .zip(0..)
        .map(|(&(p, r), i)| (text(i, p), text(i + 7, r)))
        .collect();
    let views: Vec<(&[u32], &[u32])> = rows.iter().map(|(p, r)| (&p[..], &r[..])).collect();
    Batch::new(&views).unwrap()
}

fn drawn(config: &ModelConfig, seed: u64) -> BTreeMap<String, Tensor> {
    let heads = Heads {
        language_model: true,
        value: true,
        reward: true,
    };
    let seeds = SeedTree::new(seed);
    let init = Init::Normal { std: 0.2 };
    let model = Model::random(config, heads, init, &seeds, &Device::Cpu).unwrap();
    // Gains and biases that are not all alike.
    let stir = |(i, (name, t)): (usize, (String, Tensor))| {
        let spread = Tensor::arange(0f32, t.elem_count() as f32, &Device::Cpu).unwrap();
        let spread = ((spread * 0.7).unwrap() + i as f64).unwrap().sin().unwrap();
        let spread = (spread * 0.1).unwrap().reshape(t.dims()).unwrap();
        (name, (t + spread).unwrap())
    };
    let tensors = model.params().tensors().into_iter().enumerate();
    tensors.map(stir).collect()
}

fn of(config: &ModelConfig, weights: &BTreeMap<String, Tensor>, dtype: DType) -> Model {
    let wide = |(name, t): (&String, &Tensor)| (name.clone(), t.to_dtype(dtype).unwrap());
    let params = Params::new(weights.iter().map(wide).collect()).unwrap();
    let mut model = Model::try_new(config, params).unwrap();
    model.set_temperature(0.8).unwrap();
    model
}

fn all(scores: &Scores) -> Vec<f64> {
    let parts = [
        &scores.log_probs,
        &scores.entropy,
        &scores.kl,
        &scores.kl_from,
        &scores.values,
        &scores.final_values,
        &scores.rewards,
    ];
    parts.into_iter().flatten().flatten().copied().collect()
}

/// Largest gap over the largest number.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let gap = a
        .iter()
        .zip(b)
        .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    gap / b.iter().fold(1e-3f64, |m, b| m.max(b.abs()))
}

fn scores_and_gradients(model: &Model, reference: &Model) -> (Vec<f64>, Gradients) {
    let batch = texts();
    let request = Request {
        log_probs: true,
        entropy: true,
        reference: Some(reference),
        kl_from: true,
        values: true,
        rewards: true,
    };
    let forward = model.forward(&batch, &request, Keep::Activations).unwrap();
    let pull = |part: &Option<Vec<f64>>, by: f64| {
        let part = part.as_ref().unwrap();
        Some(
            (0..part.len())
                .map(|i| by * (i as f64 + by).sin())
                .collect(),
        )
    };
    let grad = Scores {
        log_probs: pull(&forward.scores.log_probs, 1.0),
        entropy: pull(&forward.scores.entropy, 0.5),
        kl: pull(&forward.scores.kl, 0.7),
        kl_from: pull(&forward.scores.kl_from, 0.3),
        values: pull(&forward.scores.values, 0.9),
        final_values: pull(&forward.scores.final_values, 1.1),
        rewards: pull(&forward.scores.rewards, 1.3),
    };
    let scores = all(&forward.scores);
    let mut gradients = Gradients::zeros(model.params());
    model
        .backward(&batch, &request, forward, &grad, &mut gradients)
        .unwrap();
    (scores, gradients)
}

#[test]
fn slices_and_tensors_train_alike() {
    for (name, config) in networks() {
        let (weights, other) = (drawn(&config, 1), drawn(&config, 2));
        let model = |dtype| (of(&config, &weights, dtype), of(&config, &other, dtype));
        let (slices, reference) = model(DType::F32);
        assert!(slices.params().on_slices());
        let (scores, gradients) = scores_and_gradients(&slices, &reference);
        let (tensors, reference) = model(DType::F64);
        let (exact, exact_gradients) = scores_and_gradients(&tensors, &reference);
        let gap = distance(&scores, &exact);
        assert!(gap < 1e-5, "{name}: scores {gap:e}");
        let names: Vec<String> = gradients.names().map(String::from).collect();
        assert_eq!(names.len(), slices.params().names().count());
        for weight in names {
            let read = |g: &Gradients| -> Vec<f64> {
                let values = g.get(&weight).unwrap().unwrap();
                values.into_iter().map(f64::from).collect()
            };
            let (ours, exact) = (read(&gradients), read(&exact_gradients));
            let gap = distance(&ours, &exact);
            assert!(gap < 5e-5, "{name}: gradient of {weight} {gap:e}");
            assert!(exact.iter().any(|g| g.abs() > 1e-4), "{name}: {weight}");
        }
    }
}

/// The backward pass on slices is that of the scores: a step along the gradient changes them by its square.
#[test]
fn gradients_are_those_of_the_scores() {
    for (name, config) in networks() {
        let (weights, other) = (drawn(&config, 3), drawn(&config, 4));
        let model = of(&config, &weights, DType::F64);
        let reference = of(&config, &other, DType::F64);
        let (_, gradients) = scores_and_gradients(&model, &reference);
        for weight in model.params().names() {
            let direction: Vec<f32> = gradients.get(weight).unwrap().unwrap();
            let t = &weights[weight];
            let direction = Tensor::from_vec(direction, t.dims(), &Device::Cpu).unwrap();
            let slope: f32 = direction
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar()
                .unwrap();
            let step = 1e-4 / f64::from(slope).sqrt();
            let value = |sign: f64| {
                let mut moved = weights.clone();
                let by = (direction.to_dtype(DType::F64).unwrap() * (sign * step)).unwrap();
                let to = (t.to_dtype(DType::F64).unwrap() + by).unwrap();
                moved.insert(weight.into(), to);
                let model = of(&config, &moved, DType::F64);
                weighted(&model, &reference)
            };
            let measured = (value(1.0) - value(-1.0)) / (2.0 * step);
            let gap = (measured / f64::from(slope) - 1.0).abs();
            assert!(gap < 1e-4, "{name}: {weight} {measured} {slope}");
        }
    }
}

/// The scalar that [`scores_and_gradients`] pulls back.
fn weighted(model: &Model, reference: &Model) -> f64 {
    let request = Request {
        log_probs: true,
        entropy: true,
        reference: Some(reference),
        kl_from: true,
        values: true,
        rewards: true,
    };
    let scores = model.scores(&texts(), &request).unwrap();
    let sum = |part: &Option<Vec<f64>>, by: f64| -> f64 {
        let part = part.as_ref().unwrap().iter().enumerate();
        part.map(|(i, x)| x * by * (i as f64 + by).sin()).sum()
    };
    sum(&scores.log_probs, 1.0)
        + sum(&scores.entropy, 0.5)
        + sum(&scores.kl, 0.7)
        + sum(&scores.kl_from, 0.3)
        + sum(&scores.values, 0.9)
        + sum(&scores.final_values, 1.1)
        + sum(&scores.rewards, 1.3)
}

/// Training's pass and the engine compute one logit for one word, bit for bit where products are one sum.
fn same_logits(name: &str, model: &Model, engine: &Engine) {
    let text: Vec<u32> = (0..24u32).map(|t| (t * t + 5 * t + 1) % 29).collect();
    let logits = model.logits(&Batch::new(&[(&text, &[])]).unwrap()).unwrap();
    let trained: Vec<Vec<f32>> = logits.to_vec2().unwrap();
    assert_eq!(trained, engine.logits(&text).unwrap(), "{name}");
}

#[test]
fn both_engines_write_what_is_scored() {
    for (name, config) in networks() {
        let mut weights = drawn(&config, 5);
        let scorer = of(&config, &weights, DType::F32);
        weights.retain(|name, _| !name.starts_with("v_head") && !name.starts_with("score"));
        let prompts: Vec<Arc<[u32]>> = (1..6u32)
            .map(|i| (0..i).map(|t| (i * 7 + t) % 29).collect())
            .collect();
        let keys = StreamKey::batch(&SeedTree::new(6), prompts.len());
        let sampling = Sampling {
            max_new_tokens: 20,
            temperature: 0.8,
            batch: 3,
            ..Sampling::default()
        };
        let engine = Engine::new(&config, Head::CausalLm, &weights).unwrap();
        same_logits(name, &scorer, &engine);
        let tensors = TensorEngine::new(&config, &weights).unwrap();
        let written = engine.sample(&prompts, &keys, &sampling).unwrap();
        let again = tensors.sample(&prompts, Some(&keys), &sampling).unwrap();
        let texts: Vec<(&[u32], &[u32])> = written
            .iter()
            .map(|s| (&s.episode.prompt[..], &s.episode.response[..]))
            .collect();
        let scores = scorer.scores(&Batch::new(&texts).unwrap(), &Request::log_probs());
        let scored = scores.unwrap().log_probs.unwrap();
        let drawn: Vec<f64> = written.iter().flat_map(|s| s.log_probs.clone()).collect();
        let gap = distance(&drawn, &scored);
        assert!(gap < 1e-5, "{name}: slices {gap:e}");
        for (a, b) in written.iter().zip(&again) {
            assert_eq!(a.episode.response, b.episode.response, "{name}");
            let gap = distance(&a.log_probs, &b.log_probs);
            assert!(gap < 1e-5, "{name}: tensors {gap:e}");
        }
        let read = engine.log_probs(&texts, 0.8).unwrap().concat();
        assert_eq!(read, drawn, "{name}: read and written");
    }
}

/// A text's numbers do not depend on the texts packed beside it, on either path.
#[test]
fn packed_texts_are_scored_as_alone() {
    let neox = GptNeoXConfig {
        hidden_size: 16,
        n_layers: 2,
        intermediate_size: 32,
        rotary_dims: 4,
        max_positions: 40,
        parallel_residual: false,
        tied_embeddings: true,
        eos_tokens: None.into(),
        ..GptNeoXConfig::tiny(29, 0)
    };
    let mut all = networks();
    all.push(("GPT-NeoX", neox.into()));
    for (name, config) in all {
        let weights = drawn(&config, 7);
        for (dtype, bound) in [(DType::F32, 0.0), (DType::F64, 1e-12)] {
            let model = of(&config, &weights, dtype);
            let batch = texts();
            let together = model.scores(&batch, &Request::log_probs()).unwrap();
            let together = together.log_probs.unwrap();
            let mut alone = Vec::new();
            for i in 0..batch.rows().len() {
                let one = batch.slice(i..i + 1);
                let scores = model.scores(&one, &Request::log_probs()).unwrap();
                alone.extend(scores.log_probs.unwrap());
            }
            let gap = distance(&together, &alone);
            assert!(gap <= bound, "{name} {dtype:?}: {gap:e}");
        }
    }
}

/// In a short type, one order of rounding: what is drawn from is what is scored, to what `f32` sums over the vocabulary leave.
#[test]
fn scores_in_bf16_are_what_was_drawn_from() {
    for (name, config) in networks() {
        let mut weights = drawn(&config, 8);
        weights.retain(|name, _| !name.starts_with("v_head") && !name.starts_with("score"));
        let scorer = of(&config, &weights, DType::BF16);
        let short = |(name, t): (String, Tensor)| (name, t.to_dtype(DType::BF16).unwrap());
        let weights = weights.into_iter().map(short).collect();
        let engine = TensorEngine::new(&config, &weights).unwrap();
        let prompts: Vec<Arc<[u32]>> = (0..12u32)
            .map(|i| (0..1 + i % 5).map(|t| (i * 7 + t) % 29).collect())
            .collect();
        let keys = StreamKey::batch(&SeedTree::new(9), prompts.len());
        let sampling = Sampling {
            max_new_tokens: 20,
            temperature: 0.8,
            ..Sampling::default()
        };
        let written = engine.sample(&prompts, Some(&keys), &sampling).unwrap();
        let texts: Vec<(&[u32], &[u32])> = written
            .iter()
            .map(|s| (&s.episode.prompt[..], &s.episode.response[..]))
            .collect();
        let scores = scorer.scores(&Batch::new(&texts).unwrap(), &Request::log_probs());
        let scored = scores.unwrap().log_probs.unwrap();
        let drawn: Vec<f64> = written.iter().flat_map(|s| s.log_probs.clone()).collect();
        for (drawn, scored) in drawn.iter().zip(&scored) {
            assert!((drawn - scored).abs() < 2e-6, "{name}: {drawn} {scored}");
        }
    }
}
