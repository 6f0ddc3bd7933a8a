//! Searches on the sizes that `benches/side_by_side.py` times against plain Python.
//!
//! `cargo bench --bench search`; ids name the algorithm and the size.

#![allow(
    missing_docs,
    reason = "criterion_group! makes an undocumented function"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use num_rational::BigRational;
use rto::Token;
use rto::search::adversary::Adversary;
use rto::search::best_first::{BestFirst, best_first};
use rto::search::evaluator::{Chains, Evaluator, EvaluatorOracle, NeedleChain, SoftmaxTree};
use rto::search::exhaustive::{Order, exhaustive};
use rto::search::mass::LogMass;
use rto::search::oracle::CountingOracle;
use rto::seed::SeedTree;

/// As `best_first_python.py` stops.
const BUDGET: u64 = 200_000;

fn queries<E: Evaluator>(evaluator: &E) -> u64 {
    let mut oracle = CountingOracle::with_budget(EvaluatorOracle::new(evaluator), BUDGET);
    best_first(&mut oracle, &BestFirst::default()).expect("searched");
    oracle.queries()
}

fn best_first_on_softmax_trees(c: &mut Criterion) {
    let mut group = c.benchmark_group("best_first/softmax");
    for (a, h) in [(4, 16), (2, 24), (32, 10)] {
        let tree = SoftmaxTree::new(a, h, 6.0, 0).expect("a valid size");
        group.throughput(Throughput::Elements(queries(&tree)));
        group.sample_size(10);
        group.bench_function(
            BenchmarkId::from_parameter(format!("A{a}_H{h}_temp6")),
            |b| b.iter(|| queries(&tree)),
        );
    }
    group.finish();
}

fn best_first_on_a_needle(c: &mut Criterion) {
    use rand::Rng;
    let mut rng = SeedTree::new(0).child("needle").rng();
    let main: Vec<Token> = (0..128).map(|_| rng.random_range(0..64)).collect();
    let tree = NeedleChain::<LogMass>::with_optimum(50_257, main, 0.6).expect("a valid size");
    let mut group = c.benchmark_group("best_first/needle");
    group.throughput(Throughput::Elements(queries(&tree)));
    group.bench_function("A50257_H128", |b| b.iter(|| queries(&tree)));
    group.finish();
}

fn best_first_exact(c: &mut Criterion) {
    let mut group = c.benchmark_group("best_first/exact");
    let chains = Chains::<BigRational>::new(4, 7, 63).expect("a valid size");
    group.throughput(Throughput::Elements(queries(&chains)));
    group.bench_function("chains_A4_H7_K63", |b| b.iter(|| queries(&chains)));
    let adversary = Adversary::new(4, 7, 63).expect("a valid size");
    group.bench_function("adversary_A4_H7_K63", |b| {
        b.iter(|| best_first(&mut adversary.clone(), &BestFirst::default()).expect("searched"));
    });
    group.finish();
}

fn sentence_enumeration(c: &mut Criterion) {
    let mut group = c.benchmark_group("exhaustive/softmax");
    for (a, h) in [(2usize, 16), (4, 8)] {
        let tree = SoftmaxTree::new(a, h, 2.0, 0).expect("a valid size");
        group.throughput(Throughput::Elements(a.pow(h as u32) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("A{a}_H{h}")), |b| {
            b.iter(|| {
                exhaustive(
                    &mut EvaluatorOracle::new(&tree),
                    Order::Lexicographic,
                    false,
                )
                .expect("searched")
            });
        });
    }
    group.finish();
}

criterion_group!(
    benches,
    best_first_on_softmax_trees,
    best_first_on_a_needle,
    best_first_exact,
    sentence_enumeration
);
criterion_main!(benches);
