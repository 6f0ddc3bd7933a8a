//! A constraint of your own on the Bradley–Terry estimate (4.1), with a solver of argmin.
//!
//! `cargo run --example constrained_estimate --features argmin`
//!
//! The features are what a grader counts, and no count may speak against a response: θ ≥ 0. The likelihood comes from this crate, the
//! constraint from this file, the trust region from argmin. Multipliers for the constraint (an augmented Lagrangian) make it exact.

use argmin::core::{CostFunction, Error, Executor, Gradient, Hessian, State};
use argmin::solver::trustregion::{Steihaug, TrustRegion};
use nalgebra::{DMatrix, DVector};
use rand::Rng;
use rto::estimate::{BradleyTerryProblem, Design, FitOptions, fit_bradley_terry};
use rto::numerics::sigmoid;
use rto::seed::SeedTree;

/// f(θ) + Σ_k max(0, m_k − w θ_k)²/(2w): least where θ ≥ 0 once the multipliers m ≥ 0 have settled.
#[derive(Clone)]
struct NotNegative<'a> {
    likelihood: BradleyTerryProblem<'a>,
    multipliers: DVector<f64>,
    weight: f64,
}

impl NotNegative<'_> {
    /// max(0, m_k − w θ_k).
    fn push(&self, theta: &DVector<f64>) -> DVector<f64> {
        (&self.multipliers - theta * self.weight).map(|p| p.max(0.0))
    }
}

impl CostFunction for NotNegative<'_> {
    type Param = DVector<f64>;
    type Output = f64;

    fn cost(&self, theta: &DVector<f64>) -> Result<f64, Error> {
        Ok(self.likelihood.cost(theta)? + self.push(theta).norm_squared() / (2.0 * self.weight))
    }
}

impl Gradient for NotNegative<'_> {
    type Param = DVector<f64>;
    type Gradient = DVector<f64>;

    fn gradient(&self, theta: &DVector<f64>) -> Result<DVector<f64>, Error> {
        Ok(self.likelihood.gradient(theta)? - self.push(theta))
    }
}

impl Hessian for NotNegative<'_> {
    type Param = DVector<f64>;
    type Hessian = DMatrix<f64>;

    fn hessian(&self, theta: &DVector<f64>) -> Result<DMatrix<f64>, Error> {
        let active = self
            .push(theta)
            .map(|p| if p > 0.0 { self.weight } else { 0.0 });
        Ok(self.likelihood.hessian(theta)? + DMatrix::from_diagonal(&active))
    }
}

/// The estimate under θ ≥ 0, and the multipliers: m_k > 0 where the data would rather have θ_k < 0.
fn estimate(design: &Design) -> Result<(DVector<f64>, DVector<f64>), Error> {
    let mut problem = NotNegative {
        likelihood: BradleyTerryProblem::try_new(design, 0.0)?,
        multipliers: DVector::zeros(design.dim()),
        weight: 20.0,
    };
    let mut theta = DVector::zeros(design.dim());
    for _ in 0..40 {
        let solver = TrustRegion::new(Steihaug::new().with_max_iters(20));
        let result = Executor::new(problem.clone(), solver)
            .configure(|state| state.param(theta.clone()).max_iters(60))
            .run()?;
        theta = result
            .state()
            .get_best_param()
            .expect("it has a start")
            .clone();
        problem.multipliers = problem.push(&theta);
    }
    Ok((theta, problem.multipliers))
}

fn main() -> Result<(), Error> {
    // 400 pairs of which the second feature says nothing and the third, by mistake of the labellers, the opposite.
    let (dim, truth) = (4, [1.0, 0.0, -0.8, 0.5]);
    let mut rng = SeedTree::new(3).child("pairs").rng();
    let mut rows = Vec::new();
    for _ in 0..400 {
        let x: Vec<f64> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let margin: f64 = x.iter().zip(truth).map(|(x, t)| x * t).sum();
        let sign = if rng.random::<f64>() < sigmoid(margin) {
            1.0
        } else {
            -1.0
        };
        rows.extend(x.iter().map(|x| sign * x));
    }
    let design = Design::try_new(dim, rows)?;

    let free = fit_bradley_terry(&design, &FitOptions::default())?;
    let (theta, multipliers) = estimate(&design)?;
    println!("without the constraint: {:.4?}", free.theta);
    println!("with theta >= 0:        {:.4?}", theta.as_slice());
    println!("multipliers:            {:.4?}", multipliers.as_slice());

    // It is the free estimate without the features whose weight is 0.
    let kept: Vec<usize> = (0..dim).filter(|&k| multipliers[k] == 0.0).collect();
    assert!(!kept.contains(&2) && free.theta[2] < 0.0);
    let less = (0..design.n()).flat_map(|i| kept.iter().map(move |&k| (i, k)));
    let less: Vec<f64> = less.map(|(i, k)| design.row(i)[k]).collect();
    let without = fit_bradley_terry(&Design::try_new(kept.len(), less)?, &FitOptions::default())?;
    for (k, expected) in kept.iter().zip(&without.theta) {
        assert!((theta[*k] - expected).abs() < 1e-7);
    }
    assert!((0..dim).all(|k| theta[k] > -1e-7));
    Ok(())
}

#[test]
fn the_constraint_holds_and_the_rest_is_the_estimate_without_those_features() {
    main().unwrap();
}
