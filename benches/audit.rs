//! The auditor: sizes are in the names. One core, unless RAYON_NUM_THREADS says otherwise (nothing here is parallel).

#![allow(
    missing_docs,
    reason = "criterion_group! makes an undocumented function"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use rto::advantage::Spread;
use rto::algorithm2::KlPlacement;
use rto::audit::{
    Estimator, FixedPoint, Kl, Problem, Recipe, ResponseTree, Rotation, Summary, expected_gradient,
    named,
};
use rto::objective::{Aggregation, Ratio, Surrogate};
use rto::token_reward::KlEstimator;
use std::hint::black_box;

fn problem(actions: usize, horizon: usize, eos: Option<usize>) -> (Problem, Vec<f64>) {
    let tree = ResponseTree::try_new(actions, horizon, eos, &[1.0]).expect("a tree");
    let table =
        |f: &dyn Fn(f64) -> f64| -> Vec<f64> { (0..tree.n_pairs()).map(|k| f(k as f64)).collect() };
    let (r, q) = (
        table(&|k| 0.8 * (1.7 * k).sin()),
        table(&|k| 0.4 * (0.9 * k).cos()),
    );
    let (dpo, theta) = (
        table(&|k| 0.9 * (0.7 * k).sin()),
        table(&|k| 0.8 * (1.3 * k).sin()),
    );
    let problem = Problem::try_new(tree, &r, &q).expect("a problem");
    (
        problem.with_dpo(&dpo, 0.45, 0.15).expect("a dpo policy"),
        theta,
    )
}

fn grpo(responses: usize) -> Recipe {
    Recipe {
        kl: Some(Kl {
            placement: KlPlacement::Loss,
            estimator: KlEstimator::K3,
        }),
        beta: 0.3,
        advantage: Estimator::Group {
            spread: Spread::Group { eps: 1e-4 },
        },
        aggregation: Aggregation::TokenMean,
        responses,
        ..Recipe::default()
    }
}

fn groups(c: &mut Criterion) {
    let (p, theta) = problem(3, 3, None);
    let recipe = grpo(4);
    let mut group = c.benchmark_group("audit");
    group.bench_function("grpo/N=27,G=4,units=27405/field_and_covariance", |b| {
        b.iter(|| Summary::at(&p, &recipe, black_box(&theta), None, None).expect("a summary"));
    });
    group.bench_function("grpo/N=27,G=4,units=27405/field", |b| {
        b.iter(|| expected_gradient(&p, &recipe, black_box(&theta), None).expect("a field"));
    });
    let (small, at) = problem(2, 3, Some(1));
    group.bench_function("grpo/N=4,G=4,units=35/curl,P=6", |b| {
        b.iter(|| Rotation::at(&small, &recipe, black_box(&at), None, None).expect("a curl"));
    });
    group.bench_function("grpo/N=4,G=4,units=35/fixed_point", |b| {
        b.iter(|| FixedPoint::find(black_box(&small), &recipe, None).expect("a fixed point"));
    });
    let ppo = named(0.3, 4, 4, 4)
        .into_iter()
        .find(|n| n.id == "openrlhf.ppo");
    let (long, at) = problem(2, 4, None);
    let ppo = ppo.expect("a name").recipe;
    group.bench_function(
        "openrlhf.ppo/N=16,B=4,units=3876/field_and_covariance",
        |b| {
            b.iter(|| Summary::at(&long, &ppo, black_box(&at), None, None).expect("a summary"));
        },
    );
    group.finish();
}

fn single(c: &mut Criterion) {
    let (p, theta) = problem(4, 10, None);
    let recipe = Recipe {
        kl: Some(Kl {
            placement: KlPlacement::Reward,
            estimator: KlEstimator::K1,
        }),
        beta: 0.3,
        surrogate: Surrogate {
            ratio: Ratio::LogProb,
            ..Surrogate::default()
        },
        ..Recipe::default()
    };
    let mut group = c.benchmark_group("audit");
    group.sample_size(10);
    group.bench_function("reinforce/N=1048576,H=10/field_and_covariance", |b| {
        b.iter(|| Summary::at(&p, &recipe, black_box(&theta), None, None).expect("a summary"));
    });
    group.finish();
}

criterion_group!(benches, groups, single);
criterion_main!(benches);
