//! Exact evaluation of a table, and training on one, in processor time. Sizes are in the ids; single-threaded code.

#![allow(missing_docs)] // criterion_group! makes an undocumented function

mod common;

use std::ops::Range;

use common::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use rand::Rng;
use rto::algorithm2::{CriticSlot, PpoConfig, PpoRun, PpoState};
use rto::mdp::{Beta, TabularPolicy, TokenTree};
use rto::policy::{
    ExactEvaluator, OptimizerConfig, Regressor, StateMap, TabularLearner, TabularSoftmax,
};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{Channel, PerToken, Policy, PolicyLearner, StreamKey, TokenObjective, Trainable};
use rto::token_reward::DpoReward;

fn random(map: &StateMap, name: &str) -> Array2<f64> {
    let mut rng = SeedTree::new(0).child("algorithm2").child(name).rng();
    let shape = (map.mdp().n_states(), map.mdp().n_actions());
    Array2::from_shape_fn(shape, |_| rng.random())
}

/// From logits to SubOpt, reward, KL and entropy.
fn exact(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("exact");
    group.sample_size(10);
    for (actions, horizon) in [(4, 5), (4, 10), (10, 6)] {
        let tree = TokenTree::try_new(1, actions, horizon, None).expect("valid sizes");
        let map = StateMap::tree(&tree, &[1.0]).expect("one prompt");
        let reward = TabularReward::try_new(random(&map, "reward")).expect("finite");
        let reference = TabularPolicy::from_logits(random(&map, "reference")).expect("finite");
        let beta = Beta::try_new(0.1).expect("positive");
        let exact = ExactEvaluator::try_new(map.clone(), &reward, reference, beta);
        let exact = exact.expect("sizes agree");
        let policy = TabularSoftmax::try_new(map.clone(), &random(&map, "policy"));
        let policy = policy.expect("finite");
        let leaves = actions.pow(horizon as u32);
        group.throughput(Throughput::Elements(leaves as u64));
        let id = format!("A{actions}_H{horizon}_leaves{leaves}");
        group.bench_function(BenchmarkId::new("report", id), |b| {
            b.iter(|| {
                exact
                    .report(&policy.table().expect("finite"))
                    .expect("full support")
            });
        });
    }
    group.finish();
}

/// −Σ log π / N: the cheapest loss, so that the time is the backend's.
struct Nll(Vec<Range<usize>>);

impl TokenObjective for Nll {
    fn groups(&self) -> &[Range<usize>] {
        &self.0
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let scale = 1.0 / self.0.len() as f64;
        let row = grad.row_mut(Channel::LogProb, group);
        row.iter_mut().for_each(|g| *g -= scale);
        -scale * scores.row(Channel::LogProb, group).iter().sum::<f64>()
    }
}

fn table(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("table");
    let tree = TokenTree::try_new(1, 4, 5, None).expect("valid sizes");
    let map = StateMap::tree(&tree, &[1.0]).expect("one prompt");
    let policy = TabularSoftmax::try_new(map.clone(), &random(&map, "policy")).expect("finite");
    let (prompts, seeds) = (vec![StateMap::prompt(0); 64], SeedTree::new(1));
    let keys = StreamKey::batch(&seeds, 64);
    group.bench_function("sample/A4_H5_N64", |b| {
        b.iter(|| policy.sample(&prompts, &keys).expect("a known prompt"));
    });
    let batch = policy.sample(&prompts, &keys).expect("a known prompt");
    let objective = Nll((0..64).map(|i| i..i + 1).collect());
    for (name, config) in [
        ("sgd", OptimizerConfig::sgd(1e-3)),
        ("adam", OptimizerConfig::adam(1e-3)),
    ] {
        let mut learner = TabularLearner::try_new(policy.clone(), config).expect("valid");
        group.bench_function(format!("step_{name}/A4_H5_N64"), |b| {
            b.iter(|| learner.step(&batch, &objective).expect("finite"));
        });
        assert!(learner.policy().params().iter().all(|p| p.is_finite()));
    }
    group.finish();
}

/// Rollout, reward, advantages and 4 epochs of 4 minibatches for policy and critic.
fn ppo(c: &mut Criterion<CpuTime>) {
    let tree = TokenTree::try_new(1, 4, 5, None).expect("valid sizes");
    let map = StateMap::tree(&tree, &[1.0]).expect("one prompt");
    let policy = TabularSoftmax::try_new(map.clone(), &random(&map, "policy")).expect("finite");
    let dpo = TabularSoftmax::try_new(map.clone(), &random(&map, "reward")).expect("finite");
    let reward = DpoReward::try_new(&dpo, &policy, 0.5).expect("positive");
    let (prompts, seeds) = ([StateMap::prompt(0)], SeedTree::new(1));
    let adam = OptimizerConfig::adam(1e-3);
    let config = PpoConfig {
        prompts_per_iteration: 64,
        minibatch_size: 16,
        epochs: 4,
        ..PpoConfig::paper()
    };
    let config = config.check().expect("valid");
    let run = PpoRun {
        reference: &policy,
        reward: &reward,
        prompts: &prompts,
        config: &config,
        seeds: &seeds,
    };
    let zeros = vec![0.0; map.mdp().n_states()];
    let mut critic = Regressor::critic(map.clone(), &zeros, adam).expect("valid");
    let mut critic = CriticSlot::Separate(&mut critic);
    let mut learner = TabularLearner::try_new(policy.clone(), adam).expect("valid");
    let mut state = PpoState::new(&config);
    c.bench_function("ppo/iteration/A4_H5_N64_E4_M4", |b| {
        b.iter(|| {
            run.iterate(&mut learner, &mut critic, &mut state)
                .expect("finite")
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = exact, table, ppo
}
criterion_main!(benches);
