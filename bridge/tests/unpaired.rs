//! KTO on a transformer: value, reference point and gradient against PyTorch on the formula of TRL, and labelled files from disk to a step.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

use candle_core::Device;
use rto::algorithm2::{FitConfig, Labelled, fit_steps, fit_unpaired};
use rto::objective::UnpairedLoss;
use rto::objective::pair_loss::{Kto, ReferencePoint};
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, Finish, PerToken, Trainable, loss_and_score_grad};
use rto::token_reward::log_probs;
use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn ids(value: &Value) -> Vec<u32> {
    let all = value.as_array().unwrap().iter();
    all.map(|v| v.as_u64().unwrap() as u32).collect()
}

fn episode(prompt: &Value, reply: &Value) -> Episode {
    Episode::try_new(ids(prompt).into(), ids(reply), Finish::Length).unwrap()
}

fn scorer(folder: &str, part: &str, trainable: bool) -> NeuralScorer {
    let folder = fixtures().join(folder).join(part);
    NeuralScorer::load(&folder, trainable, &Device::Cpu).unwrap()
}

#[test]
fn kto_is_that_of_trl() {
    let text = std::fs::read_to_string(fixtures().join("kto.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| all[key].as_f64().unwrap();
    let loss = Kto {
        desirable: number("desirable"),
        undesirable: number("undesirable"),
        reference_point: ReferencePoint::Mismatched,
    };
    let rows = all["rows"].as_array().unwrap();
    let examples: Vec<Labelled> = rows
        .iter()
        .map(|row| Labelled {
            episode: episode(&row[0], &row[1]),
            desirable: row[2].as_bool().unwrap(),
        })
        .collect();
    let labels: Vec<bool> = examples.iter().map(|e| e.desirable).collect();
    for case in all["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let policy = scorer(name, "policy", true);
        let reference = scorer(name, "ref", false);
        let mut batch: Vec<Episode> = examples.iter().map(|e| e.episode.clone()).collect();
        let mismatched: Vec<Episode> = case["mismatched"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| episode(&row[0], &row[1]))
            .collect();
        if case["order"] == "ours" {
            assert_eq!(loss.more_rows(&batch), mismatched);
        }
        batch.extend(mismatched);
        let offsets = log_probs(&reference, &batch).unwrap().row_sums();
        let objective = loss.objective(&batch, &labels, &offsets, number("beta"));
        let objective = objective.unwrap();
        let scores = PerToken::new(&batch)
            .with(Channel::LogProb, log_probs(&policy, &batch).unwrap())
            .unwrap();
        let (value, _) = loss_and_score_grad(&*objective, &scores).unwrap();
        let near = |a: f64, b: &Value, tolerance: f64| {
            let b = b.as_f64().unwrap();
            assert!((a - b).abs() < tolerance * (1.0 + b), "{name} {a} {b}");
        };
        near(value, &case["loss"], 1e-6);
        // Through the network: the norm of the gradient of all weights, from a step.
        let policy = NeuralPolicy::try_new(policy, 4).unwrap();
        let options = LearnerOptions {
            micro_batch: 3,
            ..LearnerOptions::default()
        };
        let mut learner = NeuralLearner::try_new(policy, options).unwrap();
        let report = match case["order"].as_str() {
            Some("trl") => learner.step(&batch, &*objective).unwrap(),
            _ => {
                let config = FitConfig {
                    learning_rate: 1e-3,
                    batch_size: examples.len(),
                    epochs: 3,
                    ..FitConfig::default()
                };
                let config = config.check().unwrap();
                let mut reports = Vec::new();
                let steps = 0..fit_steps(examples.len(), &config);
                // The order of a batch decides which reply is next: the first epoch's is drawn, so the value is near, not equal.
                fit_unpaired(
                    &mut learner,
                    &reference,
                    &examples,
                    (&loss, number("beta")),
                    &config,
                    &SeedTree::new(1),
                    steps,
                    &mut |step| {
                        reports.push(step.report);
                        Ok(())
                    },
                )
                .unwrap();
                let losses: Vec<f64> = reports.iter().map(|r| r.loss).collect();
                assert!(losses[2] < losses[0], "{losses:?}");
                continue;
            }
        };
        near(report.loss, &case["loss"], 1e-6);
        near(report.grad_norm, &case["grad_norm"], 1e-5);
    }
}
