//! The program (B.1), solved to 1e-9 in any units.

use crate::{bounded, close, log_uniform, runs};
use ndarray::array;
use rand::Rng;
use rto::algorithm1::{Baseline, ConfidenceSet, maxmin};
use rto::estimate::{Design, Metric, RadiusInputs, RadiusKind, fit_bradley_terry, radii};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{
    ActionIx, Beta, PreferencePair, Problem, StateIx, TabularPolicy, TokenTree, Trajectory,
};
use rto::seed::SeedTree;
use rto::zoo::{Kind, RandomSpec, random_instance};

#[test]
fn b1_is_solved_to_nine_digits_on_moderate_instances() {
    let (seed, instances) = runs(5000);
    let (mut actives, mut unknown) = ([[0usize; 2]; 2], 0);
    for i in instances.clone() {
        let seeds = SeedTree::new(seed).child("b1").index(i);
        let mut rng = seeds.child("choices").rng();
        let spec = RandomSpec {
            kind: match rng.random_range(0..3) {
                0 => Kind::Tree { eos: false },
                1 => Kind::Tree { eos: true },
                _ => Kind::Layered { width: 3 },
            },
            prompts: rng.random_range(1..3),
            actions: rng.random_range(2..4),
            horizon: rng.random_range(1..3),
            dim: rng.random_range(1..6),
            beta: log_uniform(&mut rng, -2.5, 2.5),
            theta_norm: 1.0,
            zeros: if rng.random_range(0..3) == 0 {
                0.2
            } else {
                0.0
            },
        };
        let g = random_instance(&spec, &seeds).unwrap();
        let whole = rng.random_range(0..2) == 0;
        let (states, actions) = (g.mdp.n_states(), g.mdp.n_actions());
        let map = DenseFeatures::from_fn(states, actions, spec.dim, |s, a, k| {
            let x = 3.0 * g.features.row(StateIx(s as u32), ActionIx(a as u32))[k];
            if whole { x.round() } else { x }
        })
        .unwrap();
        let rows: Vec<f64> = (0..[0, 1, 5, 40][rng.random_range(0..4)] * spec.dim)
            .map(|_| f64::from(rng.random_range(-3..4i32)))
            .collect();
        let design = Design::try_new(spec.dim, rows).unwrap();
        let bound = log_uniform(&mut rng, -1.0, 2.0);
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let ridge = log_uniform(&mut rng, -3.0, 1.0);
        let metric = match rng.random_range(0..2) {
            0 => Metric::sigma_d(&design, ridge),
            _ => Metric::fisher(&design, &fit.theta, ridge),
        }
        .unwrap();
        let radius = log_uniform(&mut rng, -3.0, 6.0);
        let set = ConfidenceSet::try_new(&fit.theta, &metric, radius, bound).unwrap();
        // The largest |φᵀθ| in the ball, beside which a value that is 0 up to rounding has no digits.
        let size = map.bound() * bound;
        for baseline in [Baseline::None, Baseline::Reference] {
            let solved = maxmin(g.problem(), &map, &set, baseline)
                .unwrap_or_else(|e| panic!("instance {i}, {baseline:?}: {e}"));
            let allowed = 1e-9 * solved.value.abs().max(1e-3 * size);
            assert!(
                (-1e-12 * size.max(1.0)..=allowed).contains(&solved.duality_gap),
                "instance {i}, {baseline:?}: gap {:e}, value {}",
                solved.duality_gap,
                solved.value
            );
            let norm = solved.theta.iter().map(|t| t * t).sum::<f64>().sqrt();
            assert!(norm <= bound * (1.0 + 1e-12), "instance {i}: {norm}");
            let distance = set.distance(&solved.theta);
            assert!(
                distance <= radius * (1.0 + 1e-9) + 1e-12 * bound,
                "instance {i}: {distance}"
            );
            let (e, b) = (solved.ellipsoid_active, solved.ball_active);
            match (e, b) {
                (Some(e), Some(b)) => actives[usize::from(e)][usize::from(b)] += 1,
                _ => unknown += 1,
            }
        }
    }
    assert!(actives.iter().flatten().all(|k| *k > 50), "{actives:?}");
    let known = actives.iter().flatten().sum::<usize>();
    assert!(100 * unknown <= known, "{unknown} unknown beside {known}");
}

/// (B.1) of a table whose likelihood-ratio radius is 1e50: the ellipsoid is beyond the ball, and β is large.
#[test]
fn b1_with_a_radius_far_beyond_the_ball() {
    let initial = [0.581_580_740_119_117_5, 0.418_419_259_880_882_5];
    let mdp = TokenTree::try_new(2, 3, 1, None)
        .unwrap()
        .compile(&initial)
        .unwrap();
    let logits = array![[-0.6, 3.0, 0.2], [-0.7, -2.7, 1.8]];
    let reference = TabularPolicy::from_logits(logits).unwrap();
    let phi = [
        [-1, 1, 1, 0],
        [1, 2, 1, 3],
        [-1, 0, 1, -1],
        [0, 0, 1, 0],
        [0, 0, 1, 0],
        [1, 0, 1, 1],
    ];
    let flat = phi.iter().flatten().map(|x| f64::from(*x)).collect();
    let map = DenseFeatures::try_new(2, 3, 4, flat).unwrap();
    let one = |a| Trajectory::try_new(&mdp, vec![(StateIx(0), ActionIx(a))]).unwrap();
    let pair = PreferencePair::try_new(one(1), one(0)).unwrap();
    let design = Design::from_pairs(&mdp, &map, &[pair]).unwrap();
    let fit = fit_bradley_terry(&design, &bounded(80.0)).unwrap();
    let inputs = RadiusInputs {
        horizon: 1,
        feature_bound: map.bound(),
        param_bound: 80.0,
        ridge: 0.03,
        fail_prob: 0.05,
    };
    let kind = RadiusKind::LikelihoodRatio {
        finite_sample: false,
    };
    let radius = radii(&design, &fit.theta, &inputs)
        .unwrap()
        .radius(kind)
        .unwrap()
        .value;
    let metric = Metric::sigma_d(&design, 0.03).unwrap();
    let set = ConfidenceSet::try_new(&fit.theta, &metric, radius, 80.0).unwrap();
    let solve = |beta: f64, baseline| {
        maxmin(
            Problem::new(&mdp, &reference, Beta::try_new(beta).unwrap()),
            &map,
            &set,
            baseline,
        )
    };
    let plain = solve(122.203_151_577_195_57, Baseline::None).unwrap();
    close("value", plain.value, -172.303_461_017_512, 1e-12);
    assert!(plain.duality_gap.abs() <= 1e-9 && plain.ball_active == Some(true));
    assert_eq!(plain.ellipsoid_active, Some(false));
    let based = solve(122.203_151_577_195_57, Baseline::Reference).unwrap();
    assert!(based.value.abs() <= 1e-9 && based.duality_gap.abs() <= 1e-9);
    // At a β below rounding of every value the program is not solved, and says so.
    let tiny = solve(1e-320, Baseline::None);
    match tiny {
        Ok(solved) => assert!(
            solved.duality_gap <= 1e-9 * solved.value.abs(),
            "{solved:?}"
        ),
        Err(e) => assert!(e.to_string().contains("beta"), "{e}"),
    }
}

/// (B.1) where one feature is up to 1e14 times another: the set is as long in the direction of the small one, and the objective
/// where it is least is that much smaller than it is elsewhere in the set.
#[test]
fn b1_is_solved_in_every_coordinate_of_any_unit() {
    let mdp = TokenTree::try_new(1, 3, 1, None).unwrap();
    let mdp = mdp.compile(&[1.0]).unwrap();
    let reference = TabularPolicy::uniform(1, 3);
    let design = Design::try_new(2, Vec::new()).unwrap();
    for (large, small) in [
        (1.0, 1.0),
        (1e3, 1e-3),
        (1e4, 1e-5),
        (1e6, 1e-6),
        (1e6, 1e-8),
    ] {
        let flat = vec![large, small, -0.5 * large, 2.0 * small, 0.3 * large, small];
        let map = DenseFeatures::try_new(1, 3, 2, flat).unwrap();
        for (ridge, radius, bound) in [(0.058, 0.3, 1e6), (0.01, 2.0, 5.0), (1.0, 40.0, 60.0)] {
            let metric = Metric::sigma_d(&design, ridge).unwrap();
            let set = ConfidenceSet::try_new(&[0.0; 2], &metric, radius, bound).unwrap();
            for beta in [0.1, 1.35, 20.0] {
                let beta = Beta::try_new(beta).unwrap();
                let solved = maxmin(
                    Problem::new(&mdp, &reference, beta),
                    &map,
                    &set,
                    Baseline::None,
                )
                .unwrap();
                // The gradient in the large feature vanishes, up to rounding, which counts by the length of the set.
                let rounding = 2e-15 * large * bound.min(radius / ridge.sqrt());
                assert!(
                    solved.duality_gap <= 1e-9 * solved.scale + rounding,
                    "{large} {small} {ridge} {radius} {bound} {}: gap {:e}, value {:e}",
                    beta.get(),
                    solved.duality_gap,
                    solved.value
                );
            }
        }
    }
}
