//! The data of both benches of the Bradley–Terry estimate.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use rto::Result;
use rto::estimate::Design;
use rto::numerics::sigmoid;
use rto::seed::SeedTree;

/// Gaussian rows of variance 1/d, column scales from 1 to 1/cond, labels from θ* of norm 3, winners first.
pub fn design(n: usize, d: usize, cond: f64) -> Result<Design> {
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
    Design::try_new(d, rows)
}
