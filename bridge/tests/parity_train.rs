//! Parity with Hugging Face: logits, log-probabilities under padding, SFT and DPO loss, every gradient norm, one AdamW step.
//!
//! `RTO_FIXTURES=DIR cargo test -p rto-bridge --test parity_train -- --nocapture` also takes every fixture in that folder and
//! prints `max |Δ| / max |reference|` of each quantity.

mod common;

use candle_core::DType;
use common::*;
use rto_bridge::batch::{Batch, Positions};
use rto_bridge::model::{Keep, Model, Request};
use rto_bridge::optimizer::{AdamW, AdamWConfig};
use rto_bridge::params::Gradients;

const TOLERANCE: f64 = 1e-4;

fn close(what: &str, fixture: &Fixture, ours: &[f64], theirs: &[f64]) {
    let distance = distance(ours, theirs);
    println!("{} {what}: {distance:.1e}", fixture.name);
    assert!(
        distance <= TOLERANCE,
        "{} {what}: {distance:e}",
        fixture.name
    );
}

fn for_each_fixture(check: impl Fn(&Fixture, DType)) {
    for folder in fixtures() {
        let fixture = Fixture::load(&folder);
        // Slices, then candle expressions.
        check(&fixture, DType::F32);
        check(&fixture, DType::F64);
    }
}

fn logits(model: &Model, batch: &Batch) -> Vec<f64> {
    let logits = model.logits(batch).unwrap().to_dtype(DType::F64).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The entries of a padded array that belong to real tokens.
fn real(fixture: &Fixture, values: &str, mask: &str, first: usize) -> Vec<f64> {
    let mask = fixture.rows(mask);
    let values = fixture.flat(values);
    let width = values.len() / mask.iter().map(|r| r.len() - first).sum::<usize>();
    let flags = mask
        .iter()
        .flat_map(|r| (first..r.len()).map(|t| r[t] == 1 && (first == 0 || r[t - 1] == 1)));
    values
        .chunks(width)
        .zip(flags)
        .filter(|(_, real)| *real)
        .flat_map(|(v, _)| v.to_vec())
        .collect()
}

#[test]
fn logits_and_log_probs_without_padding() {
    for_each_fixture(|fixture, dtype| {
        let batch = fixture.plain();
        for (part, key) in [
            ("policy", "plain.token_logprobs"),
            ("ref", "plain.ref_token_logprobs"),
        ] {
            let model = fixture.model(part, dtype);
            close(key, fixture, &log_probs(&model, &batch), &fixture.flat(key));
            if part == "policy" {
                close(
                    "logits",
                    fixture,
                    &logits(&model, &batch),
                    &fixture.flat("plain.logits"),
                );
            }
        }
    });
}

#[test]
fn logits_and_log_probs_under_padding() {
    for_each_fixture(|fixture, dtype| {
        let model = fixture.model("policy", dtype);
        for side in ["left", "right"] {
            let mask = format!("{side}.attention_mask");
            let batch = fixture.padded(side, Positions::FromMask);
            let want = real(fixture, &format!("{side}.logits_mask_pos"), &mask, 0);
            close(side, fixture, &logits(&model, &batch), &want);
            let want = real(
                fixture,
                &format!("{side}.token_logprobs_mask_pos"),
                &mask,
                1,
            );
            close(side, fixture, &log_probs(&model, &batch), &want);
            let batch = fixture.padded(side, Positions::FromColumn);
            let want = real(fixture, &format!("{side}.logits_default_pos"), &mask, 0);
            close(side, fixture, &logits(&model, &batch), &want);
        }
    });
}

fn same_norms(fixture: &Fixture, key: &str, gradients: &Gradients) {
    let norms = fixture.numbers[key].as_object().unwrap();
    assert_eq!(norms.len(), gradients.names().count());
    for (name, norm) in norms {
        // In memory, some versions of the reference implementation name the head so.
        let name = if name == "lm_head.weight" && gradients.names().all(|n| n != name) {
            "embed_out.weight"
        } else {
            name
        };
        close(
            &format!("{key} {name}"),
            fixture,
            &[gradients.norm(name).unwrap()],
            &[norm.as_f64().unwrap()],
        );
    }
}

#[test]
fn supervised_loss_and_gradients() {
    for_each_fixture(|fixture, dtype| {
        let (model, batch) = (fixture.model("policy", dtype), fixture.plain());
        let scores = log_probs(&model, &batch);
        let n = scores.len() as f64;
        close(
            "loss",
            fixture,
            &[-scores.iter().sum::<f64>() / n],
            &[fixture.number("plain.hf_loss")],
        );
        for keep in [Keep::Sums, Keep::Activations] {
            same_norms(
                fixture,
                "plain.sft_grad_norms",
                &pull(&model, &batch, vec![-1.0 / n; scores.len()], keep),
            );
        }
    });
}

/// Log-probabilities of whole responses and the token rewards (4.5), where the fixture has them.
fn sums_and_rewards(fixture: &Fixture, batch: &Batch, policy: &[f64], reference: &[f64]) {
    let offsets = batch.offsets();
    let pairs = batch.rows().len() / 2;
    for (part, scores) in [("policy", policy), ("ref", reference)] {
        for (side, first) in [("chosen", 0), ("rejected", pairs)] {
            let key = format!("dpo.{part}_{side}_logps");
            if !fixture.tensors.contains_key(&key) {
                continue;
            }
            let sums: Vec<f64> = (first..first + pairs)
                .map(|row| scores[offsets[row]..offsets[row + 1]].iter().sum())
                .collect();
            close(&key, fixture, &sums, &fixture.flat(&key));
        }
    }
    let key = "rto.chosen_token_rewards";
    if fixture.tensors.contains_key(key) {
        let beta = fixture.number("beta");
        let rewards: Vec<f64> = (0..offsets[pairs])
            .map(|i| beta * (policy[i] - reference[i]))
            .collect();
        let responses = fixture.rows("dpo.chosen.response_mask");
        let flags = responses.iter().flat_map(|row| row[1..].to_vec());
        let theirs = fixture.flat(key).into_iter().zip(flags);
        let theirs: Vec<f64> = theirs.filter(|(_, m)| *m == 1).map(|(r, _)| r).collect();
        close(key, fixture, &rewards, &theirs);
    }
}

#[test]
fn preference_loss_gradients_and_a_step_of_adamw() {
    for_each_fixture(|fixture, dtype| {
        let (mut model, batch) = (fixture.model("policy", dtype), fixture.pairs());
        let reference = log_probs(&fixture.model("ref", dtype), &batch);
        let policy = log_probs(&model, &batch);
        sums_and_rewards(fixture, &batch, &policy, &reference);
        let (loss, grad) = dpo(&batch, &policy, &reference, fixture.number("beta"));
        close("dpo loss", fixture, &[loss], &[fixture.number("dpo.loss")]);
        let gradients = pull(&model, &batch, grad, Keep::Sums);
        same_norms(fixture, "dpo.grad_norms", &gradients);
        for key in fixture
            .tensors
            .keys()
            .filter(|k| k.starts_with("dpo.grad."))
        {
            let ours = wide(&gradients.get(&key["dpo.grad.".len()..]).unwrap().unwrap());
            close(key, fixture, &ours, &fixture.flat(key));
        }
        let config = AdamWConfig {
            weight_decay: 0.1,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(config, model.params()).unwrap();
        optimizer
            .step(model.params_mut(), &gradients, 1e-3)
            .unwrap();
        let (loss, _) = dpo(
            &batch,
            &log_probs(&model, &batch),
            &reference,
            fixture.number("beta"),
        );
        close(
            "dpo loss after a step",
            fixture,
            &[loss],
            &[fixture.number("dpo.loss_after_adamw_step")],
        );
    });
}

/// bf16 has 8 bits of a number: log-probabilities and gradient norms (of the largest) within 2%. Logits are not held to it: those of
/// transformers 5.24 itself in bf16 are up to 7.6% off its own in f32 on these networks, whose weights are large.
#[test]
fn in_bf16_all_is_near() {
    let near = |what: &str, fixture: &Fixture, ours: &[f64], theirs: &[f64]| {
        let distance = distance(ours, theirs);
        println!("{} {what} in bf16: {distance:.1e}", fixture.name);
        assert!(distance <= 2e-2, "{} {what}: {distance:e}", fixture.name);
    };
    for folder in fixtures() {
        let fixture = Fixture::load(&folder);
        let (model, batch) = (fixture.model("policy", DType::BF16), fixture.plain());
        let scores = log_probs(&model, &batch);
        near(
            "log-probs",
            &fixture,
            &scores,
            &fixture.flat("plain.token_logprobs"),
        );
        let slope = vec![-1.0 / scores.len() as f64; scores.len()];
        let gradients = pull(&model, &batch, slope, Keep::Activations);
        let norms = fixture.numbers["plain.sft_grad_norms"].as_object().unwrap();
        let named = norms
            .iter()
            .filter(|(name, _)| gradients.names().any(|n| n == *name));
        let (ours, theirs): (Vec<f64>, Vec<f64>) = named
            .map(|(name, norm)| (gradients.norm(name).unwrap(), norm.as_f64().unwrap()))
            .unzip();
        near("gradient norms", &fixture, &ours, &theirs);
    }
}

#[test]
fn a_request_without_its_head_is_refused() {
    let fixture = Fixture::load(&fixtures()[0]);
    let model = fixture.model("policy", DType::F32);
    let request = Request {
        values: true,
        ..Request::default()
    };
    let error = model
        .scores(&fixture.plain(), &request)
        .unwrap_err()
        .to_string();
    assert!(error.contains("v_head.weight"), "{error}");
}
