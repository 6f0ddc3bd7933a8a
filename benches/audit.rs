//! The auditor: sizes are in the names. One core, unless RAYON_NUM_THREADS says otherwise (nothing here is parallel).

#![allow(
    missing_docs,
    reason = "criterion_group! makes an undocumented function"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use rto::advantage::Spread;
use rto::algorithm2::KlPlacement;
use rto::audit::{
    Critic, Estimator, FixedPoint, Kl, Named, Problem, Recipe, ResponseTree, Reward, Rotation,
    Summary, expected_gradient, named,
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

/// A tree with logits and a behaviour.
struct Instance {
    problem: Problem,
    theta: Vec<f64>,
    old: Vec<f64>,
}

fn fixed_trees() -> Vec<Instance> {
    let trees = [
        ResponseTree::try_new(2, 2, None, &[1.0]),
        ResponseTree::try_new(3, 2, Some(2), &[1.0]),
        ResponseTree::try_new(2, 3, Some(1), &[0.7, 0.3]),
    ];
    let of = |tree: rto::Result<ResponseTree>| {
        let tree = tree.expect("a tree");
        let table = |scale: f64, f: f64, shift: f64| -> Vec<f64> {
            let n = tree.n_pairs();
            (0..n)
                .map(|k| scale * (f * k as f64 + shift).sin())
                .collect()
        };
        let (r, q, dpo) = (
            table(0.8, 1.7, 0.3),
            table(0.4, 0.9, 1.8),
            table(0.9, 0.7, 1.1),
        );
        let (theta, away) = (table(0.8, 1.3, 0.5), table(0.25, 2.1, 1.6));
        let problem = Problem::try_new(tree.clone(), &r, &q).expect("a problem");
        Instance {
            problem: problem.with_dpo(&dpo, 0.45, 0.15).expect("a dpo policy"),
            old: theta.iter().zip(away).map(|(t, a)| t + a).collect(),
            theta,
        }
    };
    trees.into_iter().map(of).collect()
}

/// The trees of the findings with seeds in a range.
fn random_trees(seeds: std::ops::Range<u64>, beta: f64) -> Vec<Instance> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/estimator_trees.json"
    );
    let text = std::fs::read_to_string(path).expect("trees");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |v: &serde_json::Value| -> Vec<f64> {
        let all = v.as_array().expect("a table").iter();
        all.map(|x| x.as_f64().expect("a number")).collect()
    };
    let inside = |t: &&serde_json::Value| t["seed"].as_u64().is_some_and(|s| seeds.contains(&s));
    let of = |t: &serde_json::Value| {
        let tree = match t["tree"].as_str() {
            Some("A2H3eos1") => ResponseTree::try_new(2, 3, Some(1), &[1.0]),
            Some("A3H2eos2") => ResponseTree::try_new(3, 2, Some(2), &[1.0]),
            _ => ResponseTree::try_new(2, 4, None, &[1.0]),
        };
        let (r, q) = (numbers(&t["r"]), numbers(&t["ref_logits"]));
        let problem = Problem::try_new(tree.expect("a tree"), &r, &q).expect("a problem");
        let theta = numbers(&t["theta"]);
        Instance {
            problem: problem
                .with_dpo(&numbers(&t["dpo_logits"]), beta, 0.15)
                .expect("a dpo policy"),
            old: theta.clone(),
            theta,
        }
    };
    all.as_array()
        .expect("trees")
        .iter()
        .filter(inside)
        .map(of)
        .collect()
}

fn of_horizon(beta: f64, problem: &Problem, skipped: &[&str]) -> Vec<Named> {
    let all = named(beta, 4, 4, problem.tree().horizon());
    all.into_iter()
        .filter(|n| !skipped.contains(&n.id))
        .collect()
}

/// Everything about 22 recipes on three trees: fields, covariance and curl on-policy and stale, fixed points.
fn table_of_recipes(trees: &[Instance]) -> f64 {
    let mut sum = 0.0;
    for t in trees {
        for n in of_horizon(0.3, &t.problem, &[]) {
            for old in [None, Some(&t.old[..])] {
                let (p, r) = (&t.problem, &n.recipe);
                sum += Summary::at(p, r, &t.theta, old, None)
                    .expect("a summary")
                    .cosine;
                sum += Rotation::at(p, r, &t.theta, old, None)
                    .expect("a curl")
                    .curl;
            }
            let end = FixedPoint::find(&t.problem, &n.recipe, None);
            sum += end.expect("a fixed point").suboptimality;
        }
    }
    sum
}

/// F1: where recipes end, judged at 41 weights.
fn ends(trees: &[Instance], beta: f64) -> f64 {
    let mut sum = 0.0;
    let skipped = [
        "openrlhf.rloo",
        "verl.grpo",
        "verl.remax",
        "centred.k2",
        "trl.rloo",
    ];
    for t in trees {
        for n in of_horizon(beta, &t.problem, &skipped) {
            if n.recipe.kl.is_none() || n.recipe.reward != Reward::Sentence {
                continue;
            }
            let end = FixedPoint::find(&t.problem, &n.recipe, None).expect("a fixed point");
            let mut meant = n.recipe.clone();
            let mut best = f64::INFINITY;
            for k in 0..41 {
                meant.meant_beta = Some(beta * (-2.0 + 0.1 * f64::from(k)).exp());
                let at = |logits: &[f64]| t.problem.suboptimality(&meant, logits);
                let ratio = at(&end.theta).expect("a number")
                    / at(t.problem.reference()).expect("a number");
                best = best.min(ratio);
            }
            sum += best;
        }
    }
    sum
}

/// F2: bias and variance of 15 recipes.
fn noise(trees: &[Instance]) -> f64 {
    let mut sum = 0.0;
    for t in trees {
        for n in of_horizon(0.3, &t.problem, &["verl.grpo"]) {
            if n.recipe.kl.is_some() && n.recipe.reward == Reward::Sentence {
                let at = Summary::at(&t.problem, &n.recipe, &t.theta, None, None);
                sum += at.expect("a summary").scaled().bias2;
            }
        }
    }
    sum
}

/// F3: two critics, two rewards, seven λ at π_ref.
fn lambdas(trees: &[Instance]) -> f64 {
    let mut sum = 0.0;
    for t in trees {
        for critic in [Critic::Zero, Critic::Offset(0.5)] {
            for reward in [Reward::Dpo, Reward::DpoAtEnd] {
                for lambda in [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0] {
                    let recipe = Recipe {
                        reward,
                        kl: Some(Kl {
                            placement: KlPlacement::Reward,
                            estimator: KlEstimator::K1,
                        }),
                        beta: 0.3,
                        advantage: Estimator::Gae {
                            gamma: 1.0,
                            lambda,
                            critic: critic.clone(),
                        },
                        surrogate: Surrogate {
                            ratio: Ratio::LogProb,
                            ..Surrogate::default()
                        },
                        ..Recipe::default()
                    };
                    let at = Summary::at(&t.problem, &recipe, t.problem.reference(), None, None);
                    sum += at.expect("a summary").trace_unit;
                }
            }
        }
    }
    sum
}

/// The tables of `tests/golden/estimators.json`, the values of the recipes and the findings: what its numpy generator takes 23.5 s of a core for.
fn tables(c: &mut Criterion) {
    let fixed = fixed_trees();
    let (f1, f1_at_1) = (random_trees(1000..1030, 0.3), random_trees(1000..1030, 1.0));
    let (f2, f3) = (random_trees(2000..2040, 0.3), random_trees(3000..3030, 0.3));
    assert_eq!((f1.len(), f2.len(), f3.len()), (30, 40, 30));
    let mut group = c.benchmark_group("audit");
    group.sample_size(10);
    group.bench_function("table/trees=3,recipes=22", |b| {
        b.iter(|| table_of_recipes(black_box(&fixed)));
    });
    group.bench_function("table/trees=3+100,recipes=22,findings=3", |b| {
        b.iter(|| {
            table_of_recipes(black_box(&fixed))
                + ends(black_box(&f1), 0.3)
                + ends(black_box(&f1_at_1), 1.0)
                + noise(black_box(&f2))
                + lambdas(black_box(&f3))
        });
    });
    group.finish();
}

criterion_group!(benches, groups, single, tables);
criterion_main!(benches);
