//! Random instances: Dirichlet policies and transitions, Gaussian features.

use ndarray::Array2;
use rand::Rng;
use rand_distr::{Distribution, Gamma, StandardNormal};

use super::Instance;
use crate::features::DenseFeatures;
use crate::mdp::{
    ActionIx, Beta, LayeredGraph, SparseRows, StateIx, TabularMdp, TabularPolicy, TokenTree,
    Transition,
};
use crate::seed::SeedTree;
use crate::{Error, Result};

/// The kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A token tree, possibly with an end-of-sentence action (action 0).
    Tree {
        /// Whether action 0 ends the response.
        eos: bool,
    },
    /// A deterministic layered graph with this many states a layer, some transitions ending early.
    Layered {
        /// States in each layer.
        width: usize,
    },
    /// Sparse Dirichlet transitions in layers, some mass ending early.
    Stochastic {
        /// States in each layer.
        width: usize,
    },
}

/// A family of random instances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomSpec {
    /// The kind of table.
    pub kind: Kind,
    /// P: prompts of a tree, or initial states of a layered table (at most its width).
    pub prompts: usize,
    /// A.
    pub actions: usize,
    /// H.
    pub horizon: usize,
    /// d.
    pub dim: usize,
    /// β.
    pub beta: f64,
    /// ‖θ*‖₂.
    pub theta_norm: f64,
    /// Probability that π_ref(a|s) = 0 (one action always keeps its mass).
    pub zeros: f64,
}

/// Draws an instance. Features have ‖φ‖ ≤ 1 and θ* is uniform on the sphere of radius `theta_norm`.
///
/// # Errors
/// [`Error::Config`] when the sizes are not possible.
pub fn random_instance(spec: &RandomSpec, seeds: &SeedTree) -> Result<Instance> {
    let initial = dirichlet(spec.prompts, &mut seeds.child("initial").rng());
    let mdp = match spec.kind {
        Kind::Tree { eos } => {
            let eos = eos.then_some(ActionIx(0));
            TokenTree::try_new(spec.prompts, spec.actions, spec.horizon, eos)?.compile(&initial)?
        }
        Kind::Layered { width } => layered(spec, width, &initial, seeds)?,
        Kind::Stochastic { width } => stochastic(spec, width, &initial, seeds)?,
    };
    let (n_states, n_actions) = (mdp.n_states(), mdp.n_actions());
    let mut rng = seeds.child("features").rng();
    let mut values = Vec::with_capacity(n_states * n_actions * spec.dim);
    for _ in 0..n_states * n_actions {
        let length: f64 = rng.random();
        values.extend(direction(spec.dim, &mut rng).iter().map(|x| x * length));
    }
    let theta = direction(spec.dim, &mut seeds.child("theta").rng());
    Ok(Instance {
        reference: random_policy(n_states, n_actions, spec.zeros, &seeds.child("reference")),
        mdp,
        beta: Beta::try_new(spec.beta)?,
        features: DenseFeatures::try_new(n_states, n_actions, spec.dim, values)?,
        theta_star: theta.iter().map(|x| x * spec.theta_norm).collect(),
    })
}

/// A policy with Dirichlet(1, …, 1) rows in which each entry is zeroed with probability `zeros`.
pub fn random_policy(
    n_states: usize,
    n_actions: usize,
    zeros: f64,
    seeds: &SeedTree,
) -> TabularPolicy {
    let mut rng = seeds.rng();
    let mut log_prob = Array2::zeros((n_states, n_actions));
    for mut row in log_prob.rows_mut() {
        let kept = rng.random_range(0..n_actions);
        let mut p = dirichlet(n_actions, &mut rng);
        for (a, p) in p.iter_mut().enumerate() {
            if rng.random::<f64>() < zeros && a != kept {
                *p = 0.0;
            }
        }
        let sum: f64 = p.iter().sum();
        for (l, p) in row.iter_mut().zip(&p) {
            *l = (p / sum).ln();
        }
    }
    TabularPolicy::trusted(log_prob)
}

/// Dirichlet(1, …, 1), bounded away from 0 so that logarithms stay moderate.
fn dirichlet(n: usize, rng: &mut impl Rng) -> Vec<f64> {
    let gamma = Gamma::new(1.0, 1.0).expect("a shape and a scale of 1");
    let draws: Vec<f64> = (0..n).map(|_| gamma.sample(rng) + 1e-3).collect();
    let sum: f64 = draws.iter().sum();
    draws.iter().map(|x: &f64| x / sum).collect()
}

fn direction(dim: usize, rng: &mut impl Rng) -> Vec<f64> {
    let draws: Vec<f64> = (0..dim).map(|_| StandardNormal.sample(rng)).collect();
    let norm = draws
        .iter()
        .map(|x: &f64| x * x)
        .sum::<f64>()
        .sqrt()
        .max(1e-12);
    draws.iter().map(|x| x / norm).collect()
}

fn widths(spec: &RandomSpec, width: usize) -> Result<Vec<usize>> {
    if spec.horizon == 0 || width == 0 || spec.prompts == 0 {
        return Err(Error::config(
            "horizon, width and prompts",
            format!("{}, {width}, {}", spec.horizon, spec.prompts),
            "at least 1",
        ));
    }
    let mut sizes = vec![width; spec.horizon];
    sizes[0] = spec.prompts;
    Ok(sizes)
}

fn layered(
    spec: &RandomSpec,
    width: usize,
    initial: &[f64],
    seeds: &SeedTree,
) -> Result<TabularMdp> {
    let sizes = widths(spec, width)?;
    let mut rng = seeds.child("transition").rng();
    let mut next = Vec::new();
    for h in 0..sizes.len() {
        let mut rows = Vec::new();
        for _ in 0..sizes[h] * spec.actions {
            let ends = rng.random::<f64>() < 0.1;
            let to = rng.random_range(0..width as u32);
            rows.push((h + 1 < sizes.len() && !ends).then_some(to));
        }
        next.push(rows);
    }
    LayeredGraph::try_new(&sizes, spec.actions, &next)?.compile(initial)
}

fn stochastic(
    spec: &RandomSpec,
    width: usize,
    initial: &[f64],
    seeds: &SeedTree,
) -> Result<TabularMdp> {
    let sizes = widths(spec, width)?;
    let mut rng = seeds.child("transition").rng();
    let mut rows = Vec::new();
    let mut start = 0;
    for h in 0..sizes.len() {
        start += sizes[h];
        for _ in 0..sizes[h] * spec.actions {
            if h + 1 == sizes.len() {
                rows.push(vec![(StateIx::END, 1.0)]);
                continue;
            }
            let mut states: Vec<StateIx> = (0..width)
                .filter(|_| rng.random::<f64>() < 0.6)
                .map(|i| StateIx((start + i) as u32))
                .collect();
            if states.is_empty() || rng.random::<f64>() < 0.2 {
                states.push(StateIx::END);
            }
            let probs = dirichlet(states.len(), &mut rng);
            rows.push(states.into_iter().zip(probs).collect());
        }
    }
    let mut rho = vec![0.0; start];
    rho[..initial.len()].copy_from_slice(initial);
    let rows = SparseRows::try_new(spec.actions, &rows)?;
    TabularMdp::try_new(spec.actions, rho, Transition::Stochastic(rows))
}
