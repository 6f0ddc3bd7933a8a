//! The estimate (4.1), its metrics and radii, against independent solvers (argmin) and closed forms.

mod likelihood;
mod maxmin;
mod metrics;
mod separation;

use argmin::core::{CostFunction, Executor, Gradient, Hessian, State};
use argmin::solver::trustregion::{Steihaug, TrustRegion};
use nalgebra::DVector;
use rand::Rng;
use rto::estimate::{Design, FitOptions};
use rto::numerics::sigmoid;
use rto::seed::SeedTree;

/// Rows oriented winner − loser with labels drawn from a random θ* of norm `scale`.
fn data(n: usize, d: usize, scale: f64, seed: u64) -> Design {
    let mut rng = SeedTree::new(seed).child("design").rng();
    let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
    let norm = theta.iter().map(|t| t * t).sum::<f64>().sqrt();
    let mut rows = Vec::with_capacity(n * d);
    for _ in 0..n {
        let x: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
        let z: f64 = x
            .iter()
            .zip(&theta)
            .map(|(a, b)| a * b * scale / norm)
            .sum();
        let sign = if rng.random::<f64>() < sigmoid(z) {
            1.0
        } else {
            -1.0
        };
        rows.extend(x.iter().map(|v| sign * v));
    }
    Design::try_new(d, rows).unwrap()
}

fn bounded(param_bound: f64) -> FitOptions {
    FitOptions {
        param_bound,
        ..FitOptions::default()
    }
}

/// −L(θ) + (w/2)·max(0, ‖θ‖² − B² + λ/w)²: an augmented Lagrangian for argmin's trust region.
struct Augmented<F> {
    cost: F,
    constraints: Vec<(nalgebra::DMatrix<f64>, DVector<f64>, f64)>,
    lambda: Vec<f64>,
    weight: f64,
}

impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> Augmented<F> {
    fn slack(&self, i: usize, theta: &DVector<f64>) -> f64 {
        let (q, o, r2) = &self.constraints[i];
        let delta = theta - o;
        delta.dot(&(q * &delta)) - r2
    }
}

impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> CostFunction for &Augmented<F> {
    type Param = DVector<f64>;
    type Output = f64;
    fn cost(&self, theta: &DVector<f64>) -> Result<f64, argmin::core::Error> {
        let mut value = (self.cost)(theta.as_slice()).0;
        for i in 0..self.constraints.len() {
            let push = (self.lambda[i] + self.weight * self.slack(i, theta)).max(0.0);
            value += push * push / (2.0 * self.weight);
        }
        Ok(value)
    }
}

impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> Gradient for &Augmented<F> {
    type Param = DVector<f64>;
    type Gradient = DVector<f64>;
    fn gradient(&self, theta: &DVector<f64>) -> Result<DVector<f64>, argmin::core::Error> {
        let mut g = DVector::from_vec((self.cost)(theta.as_slice()).1);
        for i in 0..self.constraints.len() {
            let push = (self.lambda[i] + self.weight * self.slack(i, theta)).max(0.0);
            let (q, o, _) = &self.constraints[i];
            g += q * (theta - o) * (2.0 * push);
        }
        Ok(g)
    }
}

/// By central differences of the gradient.
impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> Hessian for &Augmented<F> {
    type Param = DVector<f64>;
    type Hessian = nalgebra::DMatrix<f64>;
    fn hessian(&self, theta: &DVector<f64>) -> Result<nalgebra::DMatrix<f64>, argmin::core::Error> {
        let (d, step) = (theta.len(), 1e-5);
        let mut out = nalgebra::DMatrix::zeros(d, d);
        for k in 0..d {
            let mut up = theta.clone();
            let mut down = theta.clone();
            up[k] += step;
            down[k] -= step;
            out.set_column(
                k,
                &((self.gradient(&up)? - self.gradient(&down)?) / (2.0 * step)),
            );
        }
        Ok((&out + out.transpose()) * 0.5)
    }
}

/// Minimises with multiplier updates; returns θ and the multipliers.
fn independent<F: Fn(&[f64]) -> (f64, Vec<f64>)>(
    cost: F,
    constraints: Vec<(nalgebra::DMatrix<f64>, DVector<f64>, f64)>,
    d: usize,
    start: Vec<f64>,
) -> (Vec<f64>, Vec<f64>) {
    let lambda = vec![0.0; constraints.len()];
    let mut problem = Augmented {
        cost,
        constraints,
        lambda,
        weight: 20.0,
    };
    let mut theta = DVector::from_vec(start);
    assert_eq!(theta.len(), d);
    for _ in 0..60 {
        let solver = TrustRegion::new(Steihaug::new().with_max_iters(20));
        let result = Executor::new(&problem, solver)
            .configure(|state| state.param(theta.clone()).max_iters(60))
            .run()
            .unwrap();
        theta = result.state().get_best_param().unwrap().clone();
        for i in 0..problem.lambda.len() {
            let push = problem.lambda[i] + problem.weight * problem.slack(i, &theta);
            problem.lambda[i] = push.max(0.0);
        }
    }
    (theta.as_slice().to_vec(), problem.lambda)
}
