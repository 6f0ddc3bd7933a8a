//! A run that stops and goes on is the run that never stopped.

mod common;

use candle_core::{DType, Device};
use common::*;
use rto_bridge::checkpoint::{self, Contents};
use rto_bridge::family::{GptNeoXConfig, Head};
use rto_bridge::model::{Heads, Keep, Model};
use rto_bridge::optimizer::{AdamW, AdamWConfig, Group};
use rto_bridge::params::{Gradients, Params};
use std::collections::BTreeMap;
use std::path::Path;

const LANGUAGE_MODEL: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};

fn settings() -> AdamWConfig {
    AdamWConfig {
        weight_decay: 0.05,
        max_grad_norm: Some(0.7),
        groups: vec![Group {
            pattern: "*.bias".into(),
            rate_factor: 0.5,
            weight_decay: 0.0,
        }],
        ..AdamWConfig::default()
    }
}

/// Steps `from..to` of the run: batch and rate are functions of the step alone.
fn train(model: &mut Model, optimizer: &mut AdamW, from: u64, to: u64) {
    for step in from..to {
        let batch = texts(37, &[(3, 7), (2, 11), (5, 4)], 100 + step);
        let n = batch.targets().len();
        let mut gradients = Gradients::zeros(model.params());
        // Two micro-batches add up.
        for rows in [0..2, 2..3] {
            let part = batch.slice(rows);
            let weights = vec![-1.0 / n as f64; part.targets().len()];
            let request = rto_bridge::model::Request::log_probs();
            let forward = model.forward(&part, &request, Keep::Activations).unwrap();
            let grad = rto_bridge::model::Scores {
                log_probs: Some(weights),
                ..Default::default()
            };
            model
                .backward(&part, &request, forward, &grad, &mut gradients)
                .unwrap();
        }
        let rate = 1e-2 / (1.0 + step as f64);
        optimizer
            .step(model.params_mut(), &gradients, rate)
            .unwrap();
    }
}

fn start(config: &GptNeoXConfig, dtype: DType) -> (Model, AdamW) {
    let drawn = small_model(config, LANGUAGE_MODEL, 1).params().tensors();
    let weights = drawn
        .into_iter()
        .map(|(name, w)| (name, w.to_dtype(dtype).unwrap()))
        .collect();
    let model = Model::try_new(config, Params::new(weights).unwrap()).unwrap();
    let optimizer = AdamW::new(settings(), model.params()).unwrap();
    (model, optimizer)
}

/// Weights, moments and step count, as bytes.
fn state(model: &Model, optimizer: &AdamW, folder: &Path) -> (BTreeMap<String, Vec<u64>>, Vec<u8>) {
    let bits = |w: &candle_core::Tensor| -> Vec<u64> {
        let values: Vec<f64> = w
            .to_dtype(DType::F64)
            .and_then(|w| w.flatten_all()?.to_vec1())
            .unwrap();
        values.into_iter().map(f64::to_bits).collect()
    };
    let weights = model.params().tensors();
    let weights = weights.iter().map(|(name, w)| (name.clone(), bits(w)));
    let file = folder.join("state.safetensors");
    optimizer.save(&file).unwrap();
    (weights.collect(), std::fs::read(file).unwrap())
}

#[test]
fn stopping_halfway_changes_no_bit() {
    const N: u64 = 4;
    for dtype in [DType::F32, DType::BF16] {
        let dir = tempfile::tempdir().unwrap();
        let config = small_config(true);
        let (mut model, mut optimizer) = start(&config, dtype);
        train(&mut model, &mut optimizer, 0, 2 * N);
        let straight = state(&model, &optimizer, dir.path());

        let (mut model, mut optimizer) = start(&config, dtype);
        train(&mut model, &mut optimizer, 0, N);
        let folder = dir.path().join("model");
        let contents = Contents {
            config: &(&config).into(),
            head: Head::CausalLm,
            weights: &model.params().tensors(),
            dtype,
            shard_bytes: 20_000,
            carry: None,
        };
        checkpoint::save(&folder, &contents).unwrap();
        let moments = dir.path().join("optimizer.safetensors");
        optimizer.save(&moments).unwrap();
        let halfway = state(&model, &optimizer, dir.path());
        drop((model, optimizer));

        let loaded = checkpoint::load(&folder, None, &Device::Cpu).unwrap();
        assert_eq!(loaded.stored_dtype, dtype);
        let params = Params::new(loaded.weights).unwrap();
        let mut model = Model::try_new(&loaded.config, params).unwrap();
        let mut optimizer = AdamW::load(settings(), model.params(), &moments).unwrap();
        assert_eq!(optimizer.steps(), N);
        assert!(
            state(&model, &optimizer, dir.path()) == halfway,
            "{dtype:?}"
        );
        train(&mut model, &mut optimizer, N, 2 * N);
        assert!(
            state(&model, &optimizer, dir.path()) == straight,
            "{dtype:?}"
        );
        assert!(straight != halfway);
    }
}

#[test]
fn a_damaged_or_foreign_state_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = small_config(true);
    let (mut model, mut optimizer) = start(&config, DType::F32);
    train(&mut model, &mut optimizer, 0, 1);
    let path = dir.path().join("optimizer.safetensors");
    optimizer.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], params: &Params| {
        std::fs::write(&path, bytes).unwrap();
        let error = AdamW::load(settings(), params, &path).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    };
    for cut in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..cut], model.params());
    }
    let wider = GptNeoXConfig {
        intermediate_size: 48,
        ..small_config(true)
    };
    refused(&whole, start(&wider, DType::F32).0.params());
    // Fewer trained weights than the file has moments for.
    model.params_mut().freeze(&["embed_out.weight"]);
    refused(&whole, model.params());
}
