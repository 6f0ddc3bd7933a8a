//! Moments in 8 bits train as those in 32 do, in a quarter of the memory, and go on bit for bit.

mod common;

use candle_core::{DType, Device};
use common::*;
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::family::{GptNeoXConfig, Head};
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_bridge::model::{Heads, Keep, Model};
use rto_bridge::optimizer::{AdamW, AdamWConfig, Moments};
use rto_bridge::params::{Init, Params};

const TEXT: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};

/// Wide enough that most weights are held in 8 bits.
fn shape() -> GptNeoXConfig {
    GptNeoXConfig {
        vocab_size: 96,
        hidden_size: 64,
        intermediate_size: 128,
        n_layers: 2,
        ..small_config(true)
    }
}

fn settings(moments: Moments) -> AdamWConfig {
    AdamWConfig {
        moments,
        ..AdamWConfig::default()
    }
}

fn start(dtype: DType, moments: Moments) -> (Model, AdamW) {
    let init = Init::Normal { std: 0.02 };
    let seeds = SeedTree::new(1);
    let drawn = Model::random(shape(), TEXT, init, &seeds, &Device::Cpu).unwrap();
    let weights = drawn.params().tensors().into_iter();
    let weights = weights.map(|(name, w)| (name, w.to_dtype(dtype).unwrap()));
    let params = Params::new(weights.collect()).unwrap();
    let model = Model::try_new(shape(), params).unwrap();
    let optimizer = AdamW::new(settings(moments), model.params()).unwrap();
    (model, optimizer)
}

/// Texts of a noisy second-order rule, so that there is something to learn; rare tokens are rare.
fn batch(step: u64) -> Batch {
    let mut rng = SeedTree::new(7).child("rule").index(step).rng();
    let rows: Vec<Vec<u32>> = (0..8)
        .map(|_| {
            let mut row = vec![rng.random_range(0..96), rng.random_range(0..96)];
            while row.len() < 24 {
                let n = row.len();
                let next = (row[n - 1] * 5 + row[n - 2] / 8) % 96;
                let noise = rng.random_range(0..96) * rng.random_range(0..96) / 96;
                row.push(if rng.random_bool(0.8) { next } else { noise });
            }
            row
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|r| r.split_at(1)).collect();
    Batch::new(&rows).unwrap()
}

/// Mean negative log-likelihood of each step's batch.
fn train(model: &mut Model, optimizer: &mut AdamW, from: u64, to: u64) -> Vec<f64> {
    let one = |step| {
        let batch = batch(step);
        let lp = log_probs(model, &batch);
        let n = lp.len() as f64;
        let gradients = pull(model, &batch, vec![-1.0 / n; lp.len()], Keep::Activations);
        optimizer
            .step(model.params_mut(), &gradients, 2e-3)
            .unwrap();
        -lp.iter().sum::<f64>() / n
    };
    (from..to).map(one).collect()
}

#[test]
fn the_loss_curve_is_within_one_percent() {
    let curves = [Moments::F32, Moments::EightBit].map(|moments| {
        let (mut model, mut optimizer) = start(DType::F32, moments);
        train(&mut model, &mut optimizer, 0, 500)
    });
    let smooth = |c: &[f64]| -> Vec<f64> {
        c.windows(25)
            .map(|w| w.iter().sum::<f64>() / 25.0)
            .collect()
    };
    let [wide, narrow] = curves.map(|c| smooth(&c));
    let apart = wide.iter().zip(&narrow).map(|(a, b)| (b / a - 1.0).abs());
    let apart = apart.fold(0.0, f64::max);
    println!(
        "{} to {}, largest deviation {:.3}%",
        wide[0],
        wide[475],
        100.0 * apart
    );
    assert!(wide[475] < 0.7 * wide[0], "nothing was learned");
    assert!(apart > 0.0 && apart < 0.01, "{apart}");
}

#[test]
fn stopping_halfway_changes_no_bit_and_the_other_kind_is_refused() {
    for dtype in [DType::F32, DType::BF16] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("optimizer.safetensors");
        let (mut model, mut optimizer) = start(dtype, Moments::EightBit);
        train(&mut model, &mut optimizer, 0, 4);
        optimizer.save(&path).unwrap();
        let halfway = std::fs::read(&path).unwrap();
        let load = |moments| AdamW::load(settings(moments), model.params(), &path);
        let text = load(Moments::F32).unwrap_err().to_string();
        assert!(text.contains("found 8-bit moments, expected f32"), "{text}");
        let mut again = load(Moments::EightBit).unwrap();
        again.save(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == halfway);

        let weights = model.params().tensors().into_iter();
        let weights = weights.map(|(name, w)| (name, w.copy().unwrap())).collect();
        let mut other = Model::try_new(shape(), Params::new(weights).unwrap()).unwrap();
        let losses = train(&mut model, &mut optimizer, 4, 8);
        assert_eq!(losses, train(&mut other, &mut again, 4, 8));
        optimizer.save(&path).unwrap();
        let straight = std::fs::read(&path).unwrap();
        again.save(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == straight && straight != halfway);

        start(dtype, Moments::F32).1.save(&path).unwrap();
        let error = AdamW::load(settings(Moments::EightBit), model.params(), &path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("found f32 moments, expected 8-bit"), "{text}");
    }
}

#[test]
fn memory_is_as_planned() {
    let mut bytes = Vec::new();
    for moments in [Moments::F32, Moments::EightBit] {
        let work = Workload {
            training: true,
            moments,
            ..Workload::default()
        };
        let plan = MemoryPlan::new(shape(), Head::CausalLm, &work);
        let (_, optimizer) = start(DType::F32, moments);
        assert_eq!(plan.moments, optimizer.moment_bytes() as u64);
        bytes.push(plan.moments);
    }
    assert_eq!(Moments::EightBit.bytes(4095), 8 * 4095);
    assert_eq!(Moments::EightBit.bytes(4097), 2 * 4097 + 8 * 17);
    assert!(3 * bytes[1] < bytes[0], "{bytes:?}");
}
