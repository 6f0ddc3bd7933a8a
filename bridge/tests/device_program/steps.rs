//! What a request and a step can hold, against the processor's kernels.

use super::there::*;
use crate::common::*;
use candle_core::DType;
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::model::{Keep, Model, Request, Scores};
use rto_bridge::optimizer::{AdamW, AdamWConfig};
use rto_device::network::{self as net, AdamWSettings, Gradients, Rate};
use rto_device::{Kernels, Real};

/// Numbers in the shape of `scores`.
fn factors(scores: &Scores) -> Scores {
    let mut rng = SeedTree::new(8).rng();
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

/// All scores and all gradients of `model` with divergences from `reference`, on both.
fn same(what: &str, there: &There<'_>, reference: &There<'_>, models: [&Model; 2], batch: &Batch) {
    let [model, other] = models;
    let heads = heads_of(model);
    let request = Request {
        log_probs: true,
        entropy: true,
        reference: Some(other),
        kl_from: true,
        values: heads.value,
        rewards: heads.reward,
    };
    let forward = model.forward(batch, &request, Keep::Sums).unwrap();
    let scores = forward.scores;
    let grad = factors(&scores);
    let gradients = pull_all(model, batch, &request, &grad, Keep::Activations);
    let reference = reference.program(false);
    let request = net::Request {
        log_probs: true,
        entropy: true,
        reference: Some(&reference),
        values: heads.value,
        rewards: heads.reward,
    };
    let forward = there
        .program(true)
        .forward(&laid(batch), &request, false)
        .unwrap();
    let ours = forward.scores;
    let parts = [
        ("log_probs", ours.log_probs, scores.log_probs),
        ("entropy", ours.entropy, scores.entropy),
        ("kl", ours.kl, scores.kl),
        ("kl_from", ours.kl_from, scores.kl_from),
        ("values", ours.values, scores.values),
        ("final_values", ours.final_values, scores.final_values),
        ("rewards", ours.rewards, scores.rewards),
    ];
    for (part, ours, theirs) in parts {
        assert_eq!(ours.is_some(), theirs.is_some());
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            near(&format!("{what} {part}"), &wide(&ours), &theirs, 1e-4);
        }
    }
    for checkpointing in [false, true] {
        let on_device = there.pull_all(batch, &request, &grad, checkpointing);
        for name in gradients.names() {
            let theirs = wide(&gradients.get(name).unwrap().unwrap());
            let ours = there.gradient(&on_device, name);
            near(&format!("{what} {name}"), &ours, &theirs, 1e-4);
        }
    }
}

/// Every channel of the heads at once, policy and critic on one trunk.
#[test]
fn every_score_and_gradient_is_that_of_slices() {
    let Some(device) = executor("scores") else {
        return;
    };
    for parallel in [true, false] {
        let config = small_config(parallel);
        let models = [1, 2].map(|seed| small_model(&config, ALL_HEADS, seed));
        let [there, other] = models
            .each_ref()
            .map(|m| There::new(kernels(&*device, Real::F32), m));
        let batch = texts(37, &[(3, 4), (1, 1), (5, 2)], 4);
        same("all heads", &there, &other, models.each_ref(), &batch);
    }
}

/// Adapters that PEFT trained, on every family that has a fixture of one: the base is frozen.
#[test]
fn adapters_are_those_of_slices() {
    let Some(device) = executor("adapters") else {
        return;
    };
    for folder in fixtures() {
        let fixture = Fixture::load(&folder);
        let lora = folder.join("lora");
        if !lora.is_dir() {
            continue;
        }
        let base = fixture.model("policy", DType::F32);
        let model = fixture
            .model("policy", DType::F32)
            .load_adapter(&lora)
            .unwrap();
        let [there, other] = [&model, &base].map(|m| There::new(kernels(&*device, Real::F32), m));
        assert!(there.parameters.trained().all(|(n, _)| n.contains("lora")));
        same(
            &fixture.name,
            &there,
            &other,
            [&model, &base],
            &fixture.plain(),
        );
    }
}

fn optimizer(kernels: &Kernels<'_>, there: &There<'_>, config: &AdamWConfig) -> net::AdamW {
    let settings = AdamWSettings {
        decay1: config.decay1,
        decay2: config.decay2,
        epsilon: config.epsilon,
        longest: config.max_grad_norm,
        eight_bit_from: None,
    };
    net::AdamW::new(kernels, &there.parameters, settings).unwrap()
}

/// Twenty steps of supervised fine-tuning and of DPO: log-probabilities after every step, beside those of slices in f32.
#[test]
fn twenty_steps_are_those_of_slices() {
    let Some(device) = executor("twenty steps") else {
        return;
    };
    let config = AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let rate = 1e-4;
    // NeoX and, with a gate, shared keys and tied embeddings, Llama.
    for folder in [&fixtures()[0], &fixtures()[2]] {
        let fixture = Fixture::load(folder);
        for preferences in [false, true] {
            let batch = match preferences {
                true => fixture.pairs(),
                false => fixture.plain(),
            };
            let reference = log_probs(&fixture.model("ref", DType::F32), &batch);
            let slope = |scores: &[f64]| match preferences {
                true => dpo(&batch, scores, &reference, fixture.number("beta")).1,
                false => vec![-1.0 / scores.len() as f64; scores.len()],
            };
            for (real, bound) in REALS {
                let mut model = fixture.model("policy", DType::F32);
                let kernels = kernels(&*device, real);
                let there = There::new(kernels, &model);
                let mut here = AdamW::new(config.clone(), model.params()).unwrap();
                let mut steps = optimizer(&kernels, &there, &config);
                let before = log_probs(&model, &batch);
                let mut scores = [before.clone(), there.log_probs(&batch)];
                for step in 0..20 {
                    let [theirs, ours] = scores.each_ref().map(|s| slope(s));
                    let gradients = pull(&model, &batch, theirs, Keep::Sums);
                    let theirs = here.step(model.params_mut(), &gradients, rate).unwrap();
                    let gradients: Gradients = there.pull(&batch, &ours);
                    let of = |_: &str| Rate {
                        rate,
                        decay: config.weight_decay,
                    };
                    let ours = steps
                        .step(&kernels, &there.parameters, &gradients, of)
                        .unwrap();
                    let kind = if preferences { "DPO" } else { "SFT" };
                    let what = format!("{} {kind} {real:?} step {step}", fixture.name);
                    near(&format!("{what} length"), &[ours], &[theirs], bound);
                    scores = [log_probs(&model, &batch), there.log_probs(&batch)];
                    near(&what, &scores[1], &scores[0], bound);
                }
                let moved = distance(&scores[0], &before);
                println!("{} moved by {moved:.1e}", fixture.name);
                assert!(moved > 1e-2, "{}: only {moved:e}", fixture.name);
            }
        }
    }
}
