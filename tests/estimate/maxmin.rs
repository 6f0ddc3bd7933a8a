//! The program (B.1) over the confidence set.

use crate::{bounded, independent};
use nalgebra::DVector;
use rand::Rng;
use rto::algorithm1::{Baseline, ConfidenceSet, maxmin, worst_case_expectation};
use rto::estimate::{Design, Metric, fit_bradley_terry, sample_preferences};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{ActionIx, StateIx, for_each_trajectory};
use rto::numerics::log_sum_exp;
use rto::seed::SeedTree;
use rto::zoo;
use rto::zoo::{Kind, RandomSpec, random_instance};

/// V*_β(ρ; θ) and its gradient by enumeration of all responses, independent of the planner.
fn brute_force(g: &zoo::Instance, theta: &[f64]) -> (f64, Vec<f64>) {
    let beta = g.beta.get();
    let (mut value, mut grad) = (0.0, vec![0.0; theta.len()]);
    for (root, rho) in g.mdp.roots() {
        let (mut scores, mut features) = (Vec::new(), Vec::new());
        for_each_trajectory(&g.mdp, root, |steps| {
            let mut psi = vec![0.0; theta.len()];
            let mut log_ref = 0.0;
            for &(s, a) in steps {
                g.features.add(s, a, 1.0, &mut psi);
                log_ref += g.reference.log_prob(s, a);
            }
            let total: f64 = psi.iter().zip(theta).map(|(a, b)| a * b).sum();
            scores.push(log_ref + total / beta);
            features.push(psi);
        })
        .unwrap();
        let norm = log_sum_exp(&scores);
        value += rho * beta * norm;
        for (score, psi) in scores.iter().zip(&features) {
            for (g, p) in grad.iter_mut().zip(psi) {
                *g += rho * (score - norm).exp() * p;
            }
        }
    }
    (value, grad)
}

#[test]
fn theorem_b1_program_agrees_with_an_independent_solver_whatever_is_active() {
    let mut seen = std::collections::BTreeSet::new();
    let spec = RandomSpec {
        kind: Kind::Tree { eos: true },
        prompts: 2,
        actions: 3,
        horizon: 2,
        dim: 3,
        beta: 0.4,
        theta_norm: 1.0,
        zeros: 0.0,
    };
    for i in 0..24u64 {
        let seeds = SeedTree::new(9).index(i);
        let g = random_instance(&spec, &seeds).unwrap();
        let pairs = sample_preferences(
            &g.mdp,
            &g.reward(),
            (&g.reference, &g.reference),
            60,
            &seeds.child("data"),
        )
        .unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let bound = [0.3, 1.0, 4.0][(i % 3) as usize];
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let metric = Metric::sigma_d(&design, 1.0).unwrap();
        let radius = [0.3, 1.0, 3.0, 60.0][(i / 3 % 4) as usize];
        let set = ConfidenceSet::try_new(&fit.theta, &metric, radius, bound).unwrap();
        let baseline = if i % 2 == 0 {
            Baseline::None
        } else {
            Baseline::Reference
        };
        let solved = maxmin(g.problem(), &g.features, &set, baseline).unwrap();
        seen.insert((solved.ellipsoid_active, solved.ball_active));
        let cost = |theta: &[f64]| {
            let (v, mut grad) = brute_force(&g, theta);
            let shift: f64 = solved.nu.iter().zip(theta).map(|(n, t)| n * t).sum();
            grad.iter_mut().zip(&solved.nu).for_each(|(g, n)| *g -= n);
            (v - shift, grad)
        };
        // Scaled so that both constraints are of size 1.
        let sets = vec![
            (
                metric.matrix() / (radius * radius),
                DVector::from_column_slice(&fit.theta),
                1.0,
            ),
            (
                nalgebra::DMatrix::identity(3, 3) / (bound * bound),
                DVector::zeros(3),
                1.0,
            ),
        ];
        let (theta, _) = independent(cost, sets, 3, fit.theta.clone());
        let (value, _) = cost(&theta);
        assert!(
            (value - solved.value).abs() < 1e-7,
            "instance {i}: {value} and {} at {theta:?} and {:?}",
            solved.value,
            solved.theta
        );
        assert!((cost(&solved.theta).0 - solved.value).abs() < 1e-10);
        assert!((-1e-10..=1e-8).contains(&solved.duality_gap));
    }
    assert_eq!(
        seen.len(),
        4,
        "both, either and neither constraint active: {seen:?}"
    );
}

/// Measured in other units, φ → cφ and θ → θ/c with λ → c²λ and B → B/c, (B.1) is the same program, and the solver
/// certifies it as well. Radii down to a thousandth put the ellipsoid deep inside the ball.
#[test]
fn theorem_b1_program_is_solved_in_any_unit() {
    let spec = RandomSpec {
        kind: Kind::Tree { eos: false },
        prompts: 1,
        actions: 3,
        horizon: 2,
        dim: 5,
        beta: 0.3,
        theta_norm: 1.0,
        zeros: 0.0,
    };
    for i in 0..12u64 {
        let seeds = SeedTree::new(13).index(i);
        let g = random_instance(&spec, &seeds).unwrap();
        let behaviours = (&g.reference, &g.reference);
        let pairs = sample_preferences(&g.mdp, &g.reward(), behaviours, 50, &seeds).unwrap();
        let baseline = [Baseline::None, Baseline::Reference][(i % 2) as usize];
        let radius = [1e-3, 0.1, 3.0, 1e3][(i / 3 % 4) as usize];
        let bound = [0.2, 1.0, 200.0][(i % 3) as usize];
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let solve = |unit: f64| {
            let phi = |s: usize, a: usize, k: usize| {
                unit * g.features.row(StateIx(s as u32), ActionIx(a as u32))[k]
            };
            let (n, na) = (g.mdp.n_states(), g.mdp.n_actions());
            let features = DenseFeatures::from_fn(n, na, 5, phi).unwrap();
            let design = Design::from_pairs(&g.mdp, &features, &pairs).unwrap();
            let metric = Metric::sigma_d(&design, 0.1 * unit * unit).unwrap();
            let center: Vec<f64> = fit.theta.iter().map(|t| t / unit).collect();
            let set = ConfidenceSet::try_new(&center, &metric, radius, bound / unit).unwrap();
            maxmin(g.problem(), &features, &set, baseline).unwrap()
        };
        let usual = solve(1.0);
        for unit in [1e-8, 1e-5, 1e-3, 30.0, 1e4, 1e8] {
            let solved = solve(unit);
            let gap = solved.duality_gap;
            assert!(
                (-1e-9..=1e-8).contains(&gap),
                "instance {i}, unit {unit}: {gap}"
            );
            let off = (solved.value - usual.value).abs();
            assert!(off <= 1e-9, "instance {i}, unit {unit}: off by {off}");
        }
    }
}

#[test]
fn worst_case_expectation_is_the_minimum_over_the_ball() {
    let mut rng = SeedTree::new(4).rng();
    for case in 0..300usize {
        let n = 2 + case % 2;
        let mut p: Vec<f64> = (0..n).map(|_| rng.random_range(0.01..1.0)).collect();
        if case % 3 == 0 {
            p[0] = 0.0; // possible but never seen
        }
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= sum);
        let v: Vec<f64> = (0..n).map(|_| rng.random_range(-2.0..2.0)).collect();
        let zeta = rng.random_range(0.001..2.0);
        let got = worst_case_expectation(&p, &v, zeta);
        // A grid on the simplex: no member of the ball does better, and the best one comes close.
        let steps = if n == 2 { 20_000 } else { 150 };
        let mut best = f64::INFINITY;
        for i in 0..=steps {
            for j in 0..=if n == 2 { 0 } else { steps - i } {
                let head = [i as f64, j as f64].map(|k| k / steps as f64);
                let q = match n {
                    2 => vec![head[0], 1.0 - head[0]],
                    _ => vec![head[0], head[1], 1.0 - head[0] - head[1]],
                };
                let terms = p.iter().zip(&q).filter(|(p, _)| **p > 0.0);
                let kl: f64 = terms.map(|(p, q)| p * (p / q.max(0.0)).ln()).sum();
                if kl <= zeta {
                    let value: f64 = q.iter().zip(&v).map(|(q, v)| q * v).sum();
                    assert!(got <= value + 1e-9, "{p:?} {v:?} {zeta}: {got} > {value}");
                    best = best.min(value);
                }
            }
        }
        let resolution = if n == 2 { 1e-3 } else { 0.08 };
        assert!(
            best - got < resolution,
            "{p:?} {v:?} {zeta}: {got}, grid {best}"
        );
    }
}
