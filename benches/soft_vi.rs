//! Soft value iteration on token trees beside the bandwidth floor of its own data.
//!
//! `floor` reads the two input tables and writes one of the same size, which no planner with policy
//! output can avoid; it runs over the same buffers and threads. Sizes are in the ids. Single thread:
//! `RAYON_NUM_THREADS=1 cargo bench --bench soft_vi`.

#![allow(missing_docs)] // criterion_group! makes an undocumented function

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use rto::mdp::{Beta, TokenTree};
use rto::plan::tree_kernel::tree_soft_values;
use rto::seed::SeedTree;

use rand::Rng;

struct Data {
    tree: TokenTree,
    reward: Vec<f64>,
    log_reference: Vec<f64>,
    out: Vec<f64>,
}

fn data(actions: usize, horizon: usize) -> Data {
    let tree = TokenTree::try_new(1, actions, horizon, None).expect("valid sizes");
    let pairs = tree.n_states() * actions;
    let mut rng = SeedTree::new(0).child("soft_vi").rng();
    let reward: Vec<f64> = (0..pairs).map(|_| rng.random()).collect();
    let mut log_reference: Vec<f64> = (0..pairs).map(|_| 2.0 * rng.random::<f64>()).collect();
    for row in log_reference.chunks_exact_mut(actions) {
        let norm = rto::numerics::log_sum_exp(row);
        row.iter_mut().for_each(|l| *l -= norm);
    }
    Data {
        tree,
        reward,
        log_reference,
        out: vec![0.0; pairs],
    }
}

fn floor(d: &mut Data) {
    let run = 1 << 17;
    d.out
        .par_chunks_mut(run)
        .zip(
            d.reward
                .par_chunks(run)
                .zip(d.log_reference.par_chunks(run)),
        )
        .for_each(|(o, (r, p))| {
            for ((o, r), p) in o.iter_mut().zip(r).zip(p) {
                *o = r + p;
            }
        });
}

fn soft_vi(c: &mut Criterion) {
    let mut group = c.benchmark_group("soft_vi");
    group.sample_size(10);
    for (actions, horizon) in [(16, 6), (4, 12), (2, 23)] {
        let mut d = data(actions, horizon);
        let beta = Beta::try_new(0.5).expect("positive");
        let id = format!("A{actions}_H{horizon}");
        group.throughput(Throughput::Elements(d.reward.len() as u64));
        group.bench_function(BenchmarkId::new("floor", &id), |b| b.iter(|| floor(&mut d)));
        group.bench_function(BenchmarkId::new("tree", &id), |b| {
            b.iter(|| {
                tree_soft_values(&d.tree, &d.reward, &d.log_reference, beta, Some(&mut d.out))
                    .expect("valid data")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, soft_vi);
criterion_main!(benches);
