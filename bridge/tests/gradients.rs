//! The backward pass of the whole model: nothing is without gradient, checkpointing and frozen weights change none, all are
//! derivatives.

mod common;

use candle_core::{DType, Device};
use common::*;
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::{Batch, Positions};
use rto_bridge::family::{GptNeoXConfig, Head};
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_bridge::model::{Keep, Model, REWARD_WEIGHT, Request, Scores, VALUE_WEIGHT};
use rto_bridge::params::{Gradients, Params};
use std::collections::BTreeMap;

/// Every channel at once, with a reference for the divergence.
fn everything(reference: Option<&Model>) -> Request<'_> {
    Request {
        log_probs: true,
        entropy: true,
        reference,
        kl_from: reference.is_some(),
        values: true,
        rewards: true,
    }
}

/// Some numbers in the shape of `scores`.
fn weights_like(scores: &Scores, seed: u64) -> Scores {
    let mut rng = SeedTree::new(seed).child("weights").rng();
    let mut draw = |v: &Option<Vec<f64>>| {
        let n = v.as_ref().map(Vec::len)?;
        Some((0..n).map(|_| rng.random_range(-1.0..1.0)).collect())
    };
    Scores {
        log_probs: draw(&scores.log_probs),
        entropy: draw(&scores.entropy),
        kl: draw(&scores.kl),
        kl_from: draw(&scores.kl_from),
        values: draw(&scores.values),
        final_values: draw(&scores.final_values),
        rewards: draw(&scores.rewards),
    }
}

fn total(scores: &Scores, weights: &Scores) -> f64 {
    let dot = |a: &Option<Vec<f64>>, b: &Option<Vec<f64>>| match (a, b) {
        (Some(a), Some(b)) => a.iter().zip(b).map(|(a, b)| a * b).sum(),
        _ => 0.0,
    };
    dot(&scores.log_probs, &weights.log_probs)
        + dot(&scores.entropy, &weights.entropy)
        + dot(&scores.kl, &weights.kl)
        + dot(&scores.kl_from, &weights.kl_from)
        + dot(&scores.values, &weights.values)
        + dot(&scores.final_values, &weights.final_values)
        + dot(&scores.rewards, &weights.rewards)
}

/// Packed texts of several lengths, and the same length of text behind padding on either side.
fn batches() -> Vec<(&'static str, Batch)> {
    let mut batches = vec![
        ("packed", texts(37, &[(5, 9), (1, 4), (7, 1), (2, 12)], 3)),
        ("equal", texts(37, &[(4, 6), (4, 6)], 4)),
    ];
    let tokens: Vec<Vec<i64>> = (0..3)
        .map(|i| (0..12).map(|j| (i * 17 + j * 5) % 37).collect())
        .collect();
    for side in ["left", "right"] {
        let rows = [12_usize, 7, 3].map(|n| {
            let real = |j: usize| if side == "left" { j >= 12 - n } else { j < n };
            let first = if side == "left" { 12 - n } else { 0 };
            let mask: Vec<i64> = (0..12).map(|j| i64::from(real(j))).collect();
            let response = (0..12).map(|j| i64::from(real(j) && j > first)).collect();
            (mask, response)
        });
        let (mask, response): (Vec<Vec<i64>>, Vec<Vec<i64>>) = rows.into_iter().unzip();
        batches.push((
            side,
            from_rows(&tokens, &mask, &response, Positions::FromMask),
        ));
    }
    batches
}

fn flat(gradients: &Gradients) -> BTreeMap<String, Vec<f32>> {
    let names: Vec<String> = gradients.names().map(String::from).collect();
    names
        .into_iter()
        .map(|name| {
            let values = gradients.get(&name).unwrap().unwrap();
            (name, values)
        })
        .collect()
}

fn models(parallel: bool) -> Vec<(&'static str, Model)> {
    let config = small_config(parallel);
    let model = small_model(&config, ALL_HEADS, 1);
    let wide = in_f64(&model, &config);
    vec![("slices", model), ("tensors", wide)]
}

#[test]
fn every_parameter_gets_a_finite_gradient_that_is_not_zero() {
    for parallel in [true, false] {
        let reference = small_model(&small_config(parallel), ALL_HEADS, 2);
        for (path, mut model) in models(parallel) {
            for (batch_name, batch) in batches() {
                for checkpointing in [false, true] {
                    model.options_mut().checkpointing = checkpointing;
                    // Each head alone with the language model, and everything at once.
                    let requests = [Request::log_probs(), everything(Some(&reference))];
                    for request in requests {
                        let scores = model.scores(&batch, &request).unwrap();
                        let weights = weights_like(&scores, 5);
                        let got = pull_all(&model, &batch, &request, &weights, Keep::Activations);
                        let got = flat(&got);
                        assert_eq!(got.len(), model.params().names().count());
                        for (name, gradient) in got {
                            let place = format!("{path} {batch_name} {name}");
                            assert!(gradient.iter().all(|g| g.is_finite()), "{place}");
                            let unread = !request.values && name.starts_with("v_head")
                                || !request.rewards && name == REWARD_WEIGHT;
                            assert_eq!(gradient.iter().all(|&g| g == 0.0), unread, "{place}");
                        }
                    }
                }
            }
        }
    }
}

/// Relative distance of two gradients, `‖a − b‖ / ‖b‖`.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    let length: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (difference / length).sqrt()
}

#[test]
fn checkpointing_and_recomputation_change_no_gradient() {
    for parallel in [true, false] {
        for (path, mut model) in models(parallel) {
            for (_, batch) in batches() {
                let request = everything(None);
                let weights = weights_like(&model.scores(&batch, &request).unwrap(), 6);
                model.options_mut().checkpointing = false;
                let plain = pull_all(&model, &batch, &request, &weights, Keep::Activations);
                let again = pull_all(&model, &batch, &request, &weights, Keep::Sums);
                model.options_mut().checkpointing = true;
                let lean = pull_all(&model, &batch, &request, &weights, Keep::Activations);
                let (plain, again, lean) = (flat(&plain), flat(&again), flat(&lean));
                for (name, plain) in &plain {
                    for other in [&again[name], &lean[name]] {
                        let apart = apart(other, plain);
                        assert!(apart < 1e-6, "{path} {name}: {apart:e}");
                    }
                    if path == "slices" {
                        // The same kernels in the same order.
                        assert_eq!(&lean[name], plain, "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn frozen_weights_have_no_gradient_and_change_no_other() {
    let batch = &batches()[0].1;
    for patterns in [
        &["gpt_neox.embed_in*", "gpt_neox.layers.0.*"][..],
        &["*.bias"],
        &["gpt_neox.*"],
        &["embed_out.weight", "*attention*"],
    ] {
        for (path, model) in models(true) {
            let request = everything(None);
            let weights = weights_like(&model.scores(batch, &request).unwrap(), 7);
            let all = flat(&pull_all(
                &model,
                batch,
                &request,
                &weights,
                Keep::Activations,
            ));
            let mut model = model;
            let frozen = model.params_mut().freeze(patterns);
            assert!(frozen > 0);
            let some = flat(&pull_all(
                &model,
                batch,
                &request,
                &weights,
                Keep::Activations,
            ));
            assert_eq!(some.len() + frozen, all.len());
            for (name, gradient) in some {
                assert_eq!(gradient, all[&name], "{path} {patterns:?} {name}");
            }
        }
    }
}

/// `d/dε L(w + ε u)` by central differences, in `f64`.
fn difference(model: &Model, parallel: bool, name: &str, along: &[f64], run: &Run<'_>) -> f64 {
    let step = 1e-5;
    let moved = |sign: f64| {
        let mut weights = model.params().tensors();
        let weight = &weights[name];
        let mut values: Vec<f64> = weight.flatten_all().unwrap().to_vec1().unwrap();
        values
            .iter_mut()
            .zip(along)
            .for_each(|(w, u)| *w += sign * step * u);
        let weight = candle_core::Tensor::from_vec(values, weight.shape(), &Device::Cpu).unwrap();
        weights.insert(name.into(), weight);
        let model = Model::try_new(small_config(parallel), Params::new(weights).unwrap()).unwrap();
        total(&model.scores(run.batch, &run.request).unwrap(), run.weights)
    };
    (moved(1.0) - moved(-1.0)) / (2.0 * step)
}

struct Run<'a> {
    batch: &'a Batch,
    request: Request<'a>,
    weights: &'a Scores,
}

#[test]
fn gradients_are_derivatives() {
    for parallel in [true, false] {
        let config = small_config(parallel);
        let narrow = small_model(&config, ALL_HEADS, 1);
        let narrow_reference = small_model(&config, ALL_HEADS, 2);
        let wide = in_f64(&narrow, &config);
        let wide_reference = in_f64(&narrow_reference, &config);
        let batch = texts(37, &[(5, 9), (1, 4), (2, 12)], 3);
        let request = everything(Some(&wide_reference));
        let scores = wide.scores(&batch, &request).unwrap();
        let weights = weights_like(&scores, 8);
        let run = Run {
            batch: &batch,
            request,
            weights: &weights,
        };
        let expressions = pull_all(&wide, &batch, &request, &weights, Keep::Activations);
        let kernels = pull_all(
            &narrow,
            &batch,
            &everything(Some(&narrow_reference)),
            &weights,
            Keep::Activations,
        );
        let mut rng = SeedTree::new(9).child("directions").rng();
        for name in wide.params().names() {
            let expressions = expressions.get(name).unwrap().unwrap();
            let along: Vec<f64> = (0..expressions.len())
                .map(|_| rng.random_range(-1.0..1.0))
                .collect();
            let dot: f64 = expressions
                .iter()
                .zip(&along)
                .map(|(g, u)| f64::from(*g) * u)
                .sum();
            let slope = difference(&wide, parallel, name, &along, &run);
            // Against the length of the gradient: a direction may happen to be level. Gradients are kept in f32.
            let length: f64 = expressions
                .iter()
                .map(|g| f64::from(g * g))
                .sum::<f64>()
                .sqrt();
            assert!((dot - slope).abs() < 1e-5 * length, "{name}: {dot} {slope}");
            let kernels = kernels.get(name).unwrap().unwrap();
            let apart = apart(&kernels, &expressions);
            assert!(apart < 2e-5, "{name}: kernels differ by {apart:e}");
        }
        assert!(wide.params().contains(VALUE_WEIGHT));
    }
}

/// Bytes of the process at its largest.
#[cfg(target_os = "linux")]
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        * 1024.0
}

#[cfg(target_os = "linux")]
fn twelve_layers() -> GptNeoXConfig {
    GptNeoXConfig {
        hidden_size: 128,
        n_layers: 12,
        n_heads: 2,
        intermediate_size: 512,
        rotary_dims: 16,
        max_positions: 512,
        ..small_config(true)
    }
}

/// The process whose memory `checkpointing_halves_the_memory_of_activations` reads.
#[cfg(target_os = "linux")]
#[test]
fn one_step_prints_its_memory() {
    let Ok(checkpointing) = std::env::var("RTO_TEST_CHECKPOINTING") else {
        return;
    };
    let config = twelve_layers();
    let mut model = small_model(
        &config,
        rto_bridge::model::Heads {
            language_model: true,
            ..Default::default()
        },
        1,
    );
    model.options_mut().checkpointing = checkpointing == "true";
    let batch = texts(37, &[(1, 511); 4], 3);
    let before = peak();
    let gradients = pull(&model, &batch, vec![1.0; 4 * 511], Keep::Activations);
    // The gradients are allocated in between.
    println!(
        "activations: {}",
        peak() - before - 4.0 * model.params().count() as f64
    );
    assert!(gradients.global_norm().unwrap() > 0.0);
}

#[cfg(target_os = "linux")]
#[test]
fn checkpointing_halves_the_memory_of_activations() {
    let run = |checkpointing: bool| -> f64 {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_step_prints_its_memory", "--nocapture"])
            .env("RTO_TEST_CHECKPOINTING", checkpointing.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = text.split_once("activations: ").unwrap();
        rest.lines().next().unwrap().trim().parse().unwrap()
    };
    let (plain, lean) = (run(false), run(true));
    println!(
        "{:.0} MB, with checkpointing {:.0} MB",
        plain / 1e6,
        lean / 1e6
    );
    assert!(lean > 0.0 && lean <= plain / 2.0, "{plain} {lean}");
    // What the plan promises before anything is allocated.
    for (measured, checkpointing) in [(plain, false), (lean, true)] {
        let work = Workload {
            batch: 4,
            sequence: 512,
            training: true,
            checkpointing,
            ..Workload::default()
        };
        let plan = MemoryPlan::new(twelve_layers(), Head::CausalLm, &work).activations as f64;
        assert!((measured / plan - 1.0).abs() < 0.35, "{measured} {plan}");
    }
}

#[test]
fn the_other_float_types_have_gradients_too() {
    let config = small_config(true);
    let model = small_model(&config, ALL_HEADS, 1);
    let batch = texts(37, &[(5, 9), (1, 4)], 3);
    let exact = pull(&model, &batch, vec![1.0; 13], Keep::Activations);
    for (dtype, bound) in [(DType::BF16, 0.1), (DType::F16, 0.02)] {
        let weights = model.params().tensors().into_iter();
        let weights = weights.map(|(name, w)| (name, w.to_dtype(dtype).unwrap()));
        let narrow = Model::try_new(&config, Params::new(weights.collect()).unwrap()).unwrap();
        let got = pull(&narrow, &batch, vec![1.0; 13], Keep::Activations);
        let (got, exact) = (flat(&got), flat(&exact));
        let (got, exact): (Vec<_>, Vec<_>) = exact
            .iter()
            .map(|(name, e)| (got[name].clone(), e.clone()))
            .unzip();
        let apart = apart(&got.concat(), &exact.concat());
        println!("{dtype:?}: gradients deviate by {apart:.1e}");
        assert!(apart < bound, "{dtype:?} {apart:e}");
    }
}
