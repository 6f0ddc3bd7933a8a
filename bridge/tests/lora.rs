//! Low-rank adapters: derivatives, equality with merged weights, one base in memory, files of PEFT's.
#![allow(missing_docs)]

mod common;

#[path = "lora/files.rs"]
mod files;
#[path = "lora/learning.rs"]
mod learning;
#[path = "lora/settings.rs"]
mod settings;
#[path = "lora/sharing.rs"]
mod sharing;

use candle_core::{DType, Device, Tensor};
use common::*;
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::lora::LoraConfig;
use rto_bridge::model::{Heads, Keep, Model, REWARD_WEIGHT, Request, Scores};
use rto_bridge::params::Gradients;
use std::collections::BTreeMap;

const EVERY: [&str; 4] = [
    "query_key_value",
    "attention.dense",
    "dense_h_to_4h",
    "dense_4h_to_h",
];

const TEXT: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};

fn lora(rank: usize, targets: &[&str]) -> LoraConfig {
    LoraConfig {
        rank,
        alpha: 5.0,
        target_modules: targets.iter().map(|t| t.to_string()).collect(),
        use_rslora: false,
    }
}

/// The adapter's weights with a `B` that is not zero.
fn random_factors(model: &Model, config: &LoraConfig, seed: u64) -> BTreeMap<String, Tensor> {
    let fresh = model.snapshot().unwrap();
    let fresh = fresh
        .with_adapter(config.clone(), &SeedTree::new(seed))
        .unwrap();
    let mut weights = fresh.params().tensors();
    weights.retain(|name, _| name.contains(".lora_"));
    let mut rng = SeedTree::new(seed).child("B").rng();
    for (name, tensor) in &mut weights {
        if name.contains("lora_B") {
            let values = (0..tensor.elem_count()).map(|_| rng.random_range(-0.3..0.3));
            let values: Vec<f64> = values.collect();
            let random = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
            *tensor = random.to_dtype(tensor.dtype()).unwrap();
        }
    }
    weights
}

fn adapted(base: &Model, config: &LoraConfig, seed: u64) -> Model {
    let factors = random_factors(base, config, seed);
    let base = base.snapshot().unwrap();
    base.with_adapter_weights(config.clone(), &factors).unwrap()
}

fn everything() -> Request<'static> {
    Request {
        log_probs: true,
        entropy: true,
        reference: None,
        kl_from: false,
        values: true,
        rewards: true,
    }
}

/// Numbers between −1 and 1 in the shape of `scores`.
fn weights_like(scores: &Scores) -> Scores {
    let mut rng = SeedTree::new(8).child("weights").rng();
    let mut draw = |v: &Option<Vec<f64>>| {
        let n = v.as_ref().map(Vec::len)?;
        Some((0..n).map(|_| rng.random_range(-1.0..1.0)).collect())
    };
    Scores {
        log_probs: draw(&scores.log_probs),
        entropy: draw(&scores.entropy),
        kl: None,
        kl_from: None,
        values: draw(&scores.values),
        final_values: draw(&scores.final_values),
        rewards: draw(&scores.rewards),
    }
}

fn channels(scores: &Scores) -> Vec<f64> {
    let parts = [
        &scores.log_probs,
        &scores.entropy,
        &scores.values,
        &scores.final_values,
        &scores.rewards,
    ];
    parts.into_iter().flatten().flatten().copied().collect()
}

fn total(scores: &Scores, weights: &Scores) -> f64 {
    let (scores, weights) = (channels(scores), channels(weights));
    scores.iter().zip(weights).map(|(s, w)| s * w).sum()
}

fn batch() -> Batch {
    texts(37, &[(5, 9), (1, 4), (2, 12)], 3)
}

/// `‖a − b‖ / ‖b‖`.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    let length: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (difference / length).sqrt()
}

/// The same weights in `f64`.
fn widened(weights: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let wide = |(n, w): (&String, &Tensor)| (n.clone(), w.to_dtype(DType::F64).unwrap());
    weights.iter().map(wide).collect()
}

#[test]
fn gradients_of_both_factors_are_derivatives() {
    for parallel in [true, false] {
        let network = small_config(parallel);
        let base = small_model(&network, ALL_HEADS, 1);
        for (rank, targets) in [
            (4, &EVERY[..]),
            (1, &["query_key_value"][..]),
            (30, &["mlp.dense_4h_to_h"]),
        ] {
            let config = lora(rank, targets);
            let factors = random_factors(&base, &config, 2);
            let wide_base = in_f64(&base, &network).snapshot().unwrap();
            let wide = |factors: &BTreeMap<String, Tensor>| {
                let base = wide_base.snapshot().unwrap();
                base.with_adapter_weights(config.clone(), factors).unwrap()
            };
            let wide_factors = widened(&factors);
            let (narrow, model) = (adapted(&base, &config, 2), wide(&wide_factors));
            let (batch, request) = (batch(), everything());
            let weights = weights_like(&model.scores(&batch, &request).unwrap());
            let pull =
                |model: &Model| pull_all(model, &batch, &request, &weights, Keep::Activations);
            let (expressions, kernels) = (pull(&model), pull(&narrow));
            let mut rng = SeedTree::new(9).child("directions").rng();
            for name in factors.keys() {
                let gradient = expressions.get(name).unwrap().unwrap();
                let along: Vec<f64> = gradient
                    .iter()
                    .map(|_| rng.random_range(-1.0..1.0))
                    .collect();
                let moved = |sign: f64| {
                    let mut factors = wide_factors.clone();
                    let factor = &factors[name];
                    let u = Tensor::from_vec(along.clone(), factor.shape(), &Device::Cpu).unwrap();
                    let moved = (factor + (u * (sign * 1e-5)).unwrap()).unwrap();
                    factors.insert(name.clone(), moved);
                    total(&wide(&factors).scores(&batch, &request).unwrap(), &weights)
                };
                let slope = (moved(1.0) - moved(-1.0)) / 2e-5;
                let dot: f64 = gradient
                    .iter()
                    .zip(&along)
                    .map(|(g, u)| f64::from(*g) * u)
                    .sum();
                let length = gradient
                    .iter()
                    .map(|g| f64::from(g * g))
                    .sum::<f64>()
                    .sqrt();
                assert!(length.is_finite() && length > 0.0, "{name}");
                assert!((dot - slope).abs() < 1e-5 * length, "{name}: {dot} {slope}");
                let kernels = kernels.get(name).unwrap().unwrap();
                let apart = apart(&kernels, &gradient);
                assert!(apart < 2e-5, "{name}: kernels differ by {apart:e}");
            }
        }
    }
}

#[test]
fn checkpointing_changes_no_bit_of_an_adapters_gradient() {
    let base = small_model(&small_config(true), TEXT, 1);
    let mut model = adapted(&base, &lora(4, &EVERY), 2);
    let batch = batch();
    let grad = vec![1.0; batch.targets().len()];
    let plain = pull(&model, &batch, grad.clone(), Keep::Activations);
    model.options_mut().checkpointing = true;
    let lean = pull(&model, &batch, grad, Keep::Activations);
    for name in plain.names() {
        assert_eq!(plain.get(name).unwrap(), lean.get(name).unwrap(), "{name}");
    }
}

#[test]
fn a_frozen_base_costs_no_gradient_memory() {
    let config = small_config(true);
    for (heads, extra) in [(TEXT, 0), (ALL_HEADS, 24 + 24 + 1)] {
        let model = small_model(&config, heads, 1);
        let plain = Gradients::zeros(model.params()).count();
        assert_eq!(plain, model.params().count());
        let model = adapted(&model, &lora(3, &["query_key_value", "dense_4h_to_h"]), 2);
        // Three blocks of A [3, 24], B [72, 3] and A [3, 40], B [24, 3]; value and reward head stay trained.
        let adapter = 3 * 3 * ((24 + 72) + (40 + 24));
        assert_eq!(model.params().trained_count(), adapter + extra);
        let gradients = pull(&model, &batch(), vec![1.0; 25], Keep::Activations);
        assert_eq!(gradients.count(), adapter + extra);
        for name in gradients.names() {
            let head = name.starts_with("v_head.") || name == REWARD_WEIGHT;
            assert!(name.contains(".lora_") || head, "{name}");
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_moves_b_first() {
    let base = small_model(&small_config(true), TEXT, 1);
    let batch = batch();
    let expected = log_probs(&base, &batch);
    let model = base
        .with_adapter(lora(4, &EVERY), &SeedTree::new(2))
        .unwrap();
    assert_eq!(log_probs(&model, &batch), expected);
    for (name, tensor) in model.params().tensors() {
        let values: Vec<f32> = match name.contains(".lora_") {
            true => tensor.flatten_all().unwrap().to_vec1().unwrap(),
            false => continue,
        };
        if name.contains("lora_B") {
            assert!(values.iter().all(|&b| b == 0.0));
            continue;
        }
        // Uniform on ±1/√in: variance 1/(3 in).
        let inputs = tensor.dim(1).unwrap() as f32;
        let n = values.len() as f32;
        let bound = 1.0 / inputs.sqrt();
        assert!(values.iter().all(|a| a.abs() <= bound));
        let square = values.iter().map(|a| a * a).sum::<f32>() / n;
        // The mean of n squares of variance 4/45 in²: five deviations.
        let deviation = (4.0 / 45.0 / n).sqrt() / inputs;
        assert!(
            (square - 1.0 / (3.0 * inputs)).abs() < 5.0 * deviation,
            "{name}"
        );
    }
    // ∂A = s Bᵀ… is zero where B is.
    let gradients = pull(&model, &batch, vec![1.0; 25], Keep::Activations);
    for name in gradients.names() {
        assert_eq!(
            gradients.norm(name).unwrap() == 0.0,
            name.contains("lora_A"),
            "{name}"
        );
    }
}

#[test]
fn an_adapter_beside_its_base_is_the_merged_network() {
    for parallel in [true, false] {
        let network = small_config(parallel);
        let narrow = small_model(&network, ALL_HEADS, 1);
        for (base, tolerance) in [(in_f64(&narrow, &network), 1e-12), (narrow, 2e-5)] {
            for use_rslora in [false, true] {
                let config = LoraConfig {
                    use_rslora,
                    ..lora(4, &EVERY)
                };
                let scale = if use_rslora { 2.5 } else { 1.25 };
                assert_eq!(config.scale(), scale);
                let model = adapted(&base, &config, 2);
                let (batch, request) = (batch(), everything());
                let scores = |model: &Model| channels(&model.scores(&batch, &request).unwrap());
                let beside = scores(&model);
                assert!(distance(&beside, &scores(&base)) > 0.01);
                let before = model.params().tensors();
                let merged = model.merge().unwrap();
                assert!(merged.adapter().is_none());
                assert_eq!(merged.params().trained_count(), 0);
                let apart = distance(&scores(&merged), &beside);
                assert!(apart < tolerance, "{apart:e}");
                assert_eq!(
                    merged.params().names().collect::<Vec<_>>(),
                    base.params().names().collect::<Vec<_>>()
                );

                let again = merged.unmerge().unwrap();
                assert_eq!(scores(&again), beside);
                assert_eq!(again.adapter(), Some(&config));
                for (name, tensor) in again.params().tensors() {
                    let base = base.params().get(&name).unwrap_or(&before[&name]);
                    assert!(same_bits(&tensor, base), "{name}");
                    let head = name.starts_with("v_head.") || name == REWARD_WEIGHT;
                    let trained = name.contains(".lora_") || head;
                    assert_eq!(again.params().is_trained(&name), trained, "{name}");
                }
                assert!(again.unmerge().is_err());
                assert!(base.snapshot().unwrap().merge().is_err());
            }
        }
    }
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |t: &Tensor| -> Vec<u64> {
        let flat = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        flat.to_vec1::<f64>()
            .unwrap()
            .into_iter()
            .map(f64::to_bits)
            .collect()
    };
    a.dtype() == b.dtype() && bits(a) == bits(b)
}

#[test]
fn a_text_scores_the_same_whatever_stands_beside_it() {
    let base = small_model(&small_config(true), TEXT, 1);
    let model = adapted(&base, &lora(5, &EVERY), 2);
    let batch = batch();
    let together = log_probs(&model, &batch);
    let offsets = batch.offsets();
    for row in 0..batch.rows().len() {
        let alone = log_probs(&model, &batch.slice(row..row + 1));
        assert_eq!(alone, together[offsets[row]..offsets[row + 1]]);
    }
}

#[test]
fn a_narrow_base_has_a_wide_adapter() {
    let config = small_config(true);
    let exact = small_model(&config, TEXT, 1);
    let weights = exact.params().tensors().into_iter();
    let weights = weights.map(|(name, w)| (name, w.to_dtype(DType::BF16).unwrap()));
    let params = rto_bridge::params::Params::frozen(weights.collect()).unwrap();
    let narrow = Model::try_new(&config, params).unwrap();
    let settings = lora(4, &EVERY);
    let model = adapted(&narrow, &settings, 2);
    let (batch, n) = (batch(), 25);
    let got = pull(&model, &batch, vec![1.0; n], Keep::Activations);
    let reference = adapted(&exact, &settings, 2);
    let expected = pull(&reference, &batch, vec![1.0; n], Keep::Activations);
    let flat = |gradients: &Gradients| -> Vec<f32> {
        let names = gradients.names();
        names
            .flat_map(|name| gradients.get(name).unwrap().unwrap())
            .collect()
    };
    for (name, var) in model.params().trained() {
        assert_eq!(var.dtype(), DType::F32, "{name}");
    }
    // The bound of the other float types' gradients in `gradients.rs`.
    let apart = apart(&flat(&got), &flat(&expected));
    assert!(apart < 0.1, "{apart:e}");
    for tensor in model.merged_weights().unwrap().values() {
        assert_eq!(tensor.dtype(), DType::BF16);
    }
}
