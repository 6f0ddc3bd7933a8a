//! The Bradley–Terry estimate (4.1) at the sizes of the acceptance table, to ‖gradient‖ ≤ 1e-8·n.
//! Single thread: `RAYON_NUM_THREADS=1 cargo bench --bench bt_mle`.
#![allow(missing_docs)] // criterion_group! makes an undocumented function

#[path = "common/bt_design.rs"]
mod bt_design;

use bt_design::design;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rto::estimate::{FitOptions, fit_bradley_terry};

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
        let data = design(n, d, cond).expect("finite rows");
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
