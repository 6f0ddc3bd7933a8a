//! Instances that the experiments share.

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};
use rto::numerics::sigmoid;
use rto::preference::{PairTable, Responses};

use crate::offline::{Family, random_tree};

/// A full tree of two actions.
pub fn binary(horizon: usize, rng: &mut ChaCha8Rng) -> Result<Responses> {
    let family = Family {
        name: "binary",
        actions: 2,
        horizon,
        eos: None,
    };
    random_tree(&family, rng)
}

/// One of several families of trees, full ones and ones with an end of sentence.
pub fn mixed(rng: &mut ChaCha8Rng) -> Result<Responses> {
    let all = [(2, 3, None), (4, 2, None), (2, 4, Some(0)), (5, 1, None)];
    let (actions, horizon, eos) = all[rng.random_range(0..all.len())];
    let family = Family {
        name: "mixed",
        actions,
        horizon,
        eos,
    };
    random_tree(&family, rng)
}

/// A draw of Dirichlet(1, …, 1).
pub fn dirichlet(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let weights: Vec<f64> = (0..n).map(|_| Exp1.sample(rng)).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

pub fn law(log_policy: &[f64]) -> Vec<f64> {
    log_policy.iter().map(|u| u.exp()).collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|v| v * factor).collect()
}

/// The population of pairs from π_ref × π_ref, or of uniform ones.
pub fn population(responses: &Responses, uniform: bool) -> Result<PairTable> {
    let n = responses.len();
    let mu = if uniform {
        vec![1.0 / n as f64; n]
    } else {
        law(responses.log_reference())
    };
    Ok(PairTable::population(responses, &mu)?)
}

/// A draw of a law.
pub fn pick(law: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut left: f64 = rng.random();
    for (y, p) in law.iter().enumerate() {
        left -= p;
        if left < 0.0 {
            return y;
        }
    }
    law.len() - 1
}

/// Pairs of different responses from μ × μ, labelled by (2.1).
pub fn draw_pairs(
    responses: &Responses,
    mu: &[f64],
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Result<PairTable> {
    let r = responses.rewards();
    let mut pairs = Vec::with_capacity(n);
    while pairs.len() < n {
        let (y, z) = (pick(mu, rng), pick(mu, rng));
        if y != z {
            let first = rng.random::<f64>() < sigmoid(r[y] - r[z]);
            pairs.push(if first { (y, z) } else { (z, y) });
        }
    }
    Ok(PairTable::from_counts(responses.len(), &pairs)?)
}

/// The slope of y on x by least squares.
pub fn slope(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let cov: f64 = x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)).sum();
    cov / x.iter().map(|a| (a - mx).powi(2)).sum::<f64>()
}
