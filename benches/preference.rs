//! Exact preference optimisation: the golden file whole, and fits and planners by size. One core; nothing here is parallel.

#![allow(
    missing_docs,
    reason = "criterion_group! makes an undocumented function"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rto::mdp::Beta;
use rto::preference::{
    DEFAULT_METHODS, Method, PairTable, Penalty, PreferenceProblem, Responses, additive_coverage,
    best_of_n, bradley_terry_scores, chi_plan, kto_fixed_point, penalised_fit, ridge_scores,
    soft_best_of_n, tdpo_plan, tilt,
};
use serde_json::Value;
use std::hint::black_box;

/// A full tree of two actions with n = 2^H responses.
fn tree(horizon: usize) -> Responses {
    let states = (1 << horizon) - 1;
    let reference: Vec<f64> = (0..states)
        .flat_map(|s| {
            let p = 0.5 + 0.4 * (1.3 * s as f64).sin();
            [p, 1.0 - p]
        })
        .collect();
    let rewards: Vec<f64> = (0..2 * states)
        .map(|k| 0.4 * (2.1 * k as f64).cos())
        .collect();
    Responses::try_new(2, horizon, None, &reference, &rewards).expect("a tree")
}

fn uniform(responses: &Responses) -> PairTable {
    let n = responses.len();
    PairTable::population(responses, &vec![1.0 / n as f64; n]).expect("pairs")
}

/// The golden file's problems: eight instances under two laws of pairs, and four sets of thirty pairs.
fn golden() -> Vec<(Responses, PairTable, Beta)> {
    let all: Value = serde_json::from_str(include_str!("../tests/golden/preference.json"))
        .expect("the golden file");
    let flat = |v: &Value| -> Vec<f64> {
        let rows = v.as_array().expect("rows").iter();
        rows.flat_map(|r| {
            r.as_array()
                .expect("a row")
                .iter()
                .filter_map(Value::as_f64)
        })
        .collect()
    };
    let instance = |v: &Value| {
        let size = |key: &str| v[key].as_u64().expect("a size");
        let eos = v["eos"].as_u64().map(|e| e as u32);
        let (a, h) = (size("A") as usize, size("H") as usize);
        let responses = Responses::try_new(a, h, eos, &flat(&v["ref"]), &flat(&v["reward"]));
        let beta = Beta::try_new(v["beta"].as_f64().expect("beta")).expect("beta");
        (responses.expect("an instance"), beta)
    };
    let mut problems = Vec::new();
    for value in all["instances"].as_object().expect("instances").values() {
        let (responses, beta) = instance(value);
        let mu: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
        let pairs = PairTable::population(&responses, &mu).expect("pairs");
        problems.push((responses.clone(), pairs, beta));
        let pairs = uniform(&responses);
        problems.push((responses, pairs, beta));
    }
    for data in all["data"].as_object().expect("data").values() {
        let (responses, beta) = instance(&all["instances"][data["instance"].as_str().expect("T")]);
        let pairs: Vec<(usize, usize)> = data["pairs_winner_loser"]
            .as_array()
            .expect("pairs")
            .iter()
            .map(|p| [0, 1].map(|k| p[k].as_u64().expect("a place") as usize))
            .map(|[w, l]| (w, l))
            .collect();
        let table = PairTable::from_counts(responses.len(), &pairs).expect("pairs");
        problems.push((responses, table, beta));
    }
    problems
}

fn groups(c: &mut Criterion) {
    let problems = golden();
    let mut group = c.benchmark_group("preference");
    group.sample_size(10);
    let id = format!(
        "golden/problems={},methods={}",
        problems.len(),
        DEFAULT_METHODS.len()
    );
    group.bench_function(id, |b| {
        b.iter(|| {
            for (responses, pairs, beta) in &problems {
                let problem = PreferenceProblem::try_new(responses, pairs, *beta).expect("a fit");
                for (_, method) in &DEFAULT_METHODS {
                    black_box(problem.solve(method).expect("a policy"));
                }
            }
        });
    });
    let beta = Beta::try_new(0.2).expect("beta");
    for horizon in [3, 4, 6] {
        let responses = tree(horizon);
        let (n, pairs) = (responses.len(), uniform(&responses));
        let scores = bradley_terry_scores(&pairs, 0.0).expect("a fit").scores;
        let size = |what: &str| BenchmarkId::new(what, format!("n={n}"));
        group.bench_function(size("fit"), |b| {
            b.iter(|| bradley_terry_scores(black_box(&pairs), 0.0));
        });
        group.bench_function(size("ridge"), |b| {
            b.iter(|| ridge_scores(black_box(&pairs), 0.0, 1e-4));
        });
        group.bench_function(size("plan/chi"), |b| {
            b.iter(|| chi_plan(&responses, black_box(&scores), beta));
        });
        group.bench_function(size("plan/tdpo"), |b| {
            b.iter(|| tdpo_plan(&responses, black_box(&scores), 1.0, beta));
        });
        group.bench_function(size("plan/tilt"), |b| {
            b.iter(|| tilt(&responses, black_box(&scores)));
        });
        let base: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
        let rpo = Penalty::Supervised { eta: 0.1, base };
        group.bench_function(size("penalised/rpo"), |b| {
            b.iter(|| penalised_fit(&responses, &pairs, beta, black_box(&rpo), &vec![0.0; n]));
        });
        let net = pairs.net();
        group.bench_function(size("kto"), |b| {
            b.iter(|| kto_fixed_point(&responses, black_box(&net), beta));
        });
        let problem = PreferenceProblem::try_new(&responses, &pairs, beta).expect("a fit");
        for (name, method) in [
            ("caldpo", Method::CalDpo),
            ("dpop", Method::Dpop { lambda: 5.0 }),
            ("hypo", Method::HyPo { lambda: 0.05 }),
        ] {
            group.bench_function(size(name), |b| b.iter(|| problem.solve(black_box(&method))));
        }
        group.bench_function(size("best_of_n"), |b| {
            b.iter(|| best_of_n(responses.log_reference(), black_box(&scores), 16.0));
        });
        group.bench_function(size("soft_best_of_n"), |b| {
            b.iter(|| soft_best_of_n(responses.log_reference(), black_box(&scores), 0.5, 16.0));
        });
        let law = vec![1.0 / n as f64; n];
        let features: Vec<f64> = (0..n * 4 * horizon)
            .map(|k| f64::from(u8::from(k % 3 == 0)))
            .collect();
        group.bench_function(size("additive_coverage"), |b| {
            b.iter(|| additive_coverage(black_box(&features), 4 * horizon, &law, &law));
        });
    }
    group.finish();
}

criterion_group!(preference, groups);
criterion_main!(preference);
