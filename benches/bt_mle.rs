//! The Bradley–Terry estimate (4.1) at the sizes of the acceptance table, to ‖gradient‖ ≤ 1e-8·n.
//! Single thread: `RAYON_NUM_THREADS=1 cargo bench --bench bt_mle`.
#![allow(missing_docs)] // criterion_group! makes an undocumented function

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use rto::estimate::{Design, FitOptions, fit_bradley_terry};
use rto::numerics::sigmoid;
use rto::seed::SeedTree;

/// Gaussian rows of variance 1/d, column scales from 1 to 1/cond, labels from θ* of norm 3, winners first.
fn design(n: usize, d: usize, cond: f64) -> Design {
    let mut rng = SeedTree::new(0).child("bt_mle").rng();
    let mut normal = |scale: f64| -> f64 {
        let x: f64 = StandardNormal.sample(&mut rng);
        x * scale
    };
    let theta: Vec<f64> = (0..d).map(|_| normal(1.0)).collect();
    let norm = theta.iter().map(|t| t * t).sum::<f64>().sqrt() / 3.0;
    let scales: Vec<f64> = (0..d)
        .map(|k| cond.powf(-(k as f64) / (d.max(2) - 1) as f64) / (d as f64).sqrt())
        .collect();
    let mut rows: Vec<f64> = Vec::with_capacity(n * d);
    for _ in 0..n {
        rows.extend(scales.iter().map(|s| normal(*s)));
    }
    let mut labels = SeedTree::new(0).child("labels").rng();
    for x in rows.chunks_exact_mut(d) {
        let z: f64 = x.iter().zip(&theta).map(|(a, b)| a * b / norm).sum();
        if labels.random::<f64>() >= sigmoid(z) {
            x.iter_mut().for_each(|v| *v = -*v);
        }
    }
    Design::try_new(d, rows).expect("finite rows")
}

fn bt_mle(c: &mut Criterion) {
    let mut group = c.benchmark_group("bt_mle");
    group.sample_size(10);
    let sizes = [
        (100_000, 8, 1.0),
        (100_000, 64, 1.0),
        (100_000, 256, 1.0),
        (100_000, 64, 1000.0),
        (1_000_000, 64, 1.0),
    ];
    for (n, d, cond) in sizes {
        let data = design(n, d, cond);
        let options = FitOptions {
            tolerance: 1e-8,
            penalty: 1e-6,
            ..FitOptions::default()
        };
        let id = format!("n{n}_d{d}_cond{cond}");
        group.bench_function(BenchmarkId::new("fit", id), |b| {
            b.iter(|| fit_bradley_terry(&data, &options).expect("converges"));
        });
    }
    group.finish();
}

criterion_group!(benches, bt_mle);
criterion_main!(benches);
