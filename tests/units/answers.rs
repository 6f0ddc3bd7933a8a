//! Everything that is reported for a world, in other units and under other names.

use crate::{KINDS, Solved, World, bounded, close, log_uniform, runs, solve};
use rand::Rng;
use rand::seq::SliceRandom;
use rto::algorithm1::{Baseline, ConfidenceSet, MaxMin, algorithm1, maxmin, theorem_4_2};
use rto::estimate::{
    Design, FitOptions, Metric, RadiusInputs, RadiusKind, RowSpace, Separation, fit_bradley_terry,
    radii, separation,
};
use rto::mdp::{ActionIx, Beta, Problem};
use rto::plan::{Truth, soft_value_iteration};
use rto::reward::LinearReward;
use rto::seed::SeedTree;

/// θ of `b`, each entry times c, is θ of `a`.
#[track_caller]
fn same_direction(what: &str, a: &[f64], b: &[f64], c: impl Fn(usize) -> f64, tolerance: f64) {
    let size = a.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        let b = b * c(k);
        assert!(
            (a - b).abs() <= tolerance * size.max(1.0),
            "{what}[{k}]: {a} and {b}"
        );
    }
}

fn compare(what: &str, a: &Solved, b: &Solved, unit: f64) {
    assert_eq!(a.fit.at_bound, b.fit.at_bound, "{what}");
    assert_eq!(a.fit.separable, b.fit.separable, "{what}");
    assert_eq!(a.separation, b.separation, "{what}");
    assert_eq!(a.radii.rank, b.radii.rank, "{what}");
    for ((name, x), (_, y)) in a.same.iter().zip(&b.same) {
        close(&format!("{what}, {name}"), *x, *y, 1e-7);
    }
    same_direction(what, &a.fit.theta, &b.fit.theta, |_| unit, 1e-8);
    let multiplier = b.fit.multiplier / (unit * unit);
    // A multiplier that is itself a difference of numbers of the size of the gradient.
    let size = a.fit.multiplier.max(1e-10);
    assert!(
        (a.fit.multiplier - multiplier).abs() <= 1e-5 * size,
        "{what}: multiplier"
    );
    let d = a.fit.theta.len() as f64;
    same_constraints(&format!("{what}, B.1"), &a.plain, &b.plain, unit);
    same_constraints(&format!("{what}, baselined"), &a.based, &b.based, unit);
    close("log det", a.log_det, b.log_det - 2.0 * d * unit.ln(), 1e-8);
}

/// One world in two units: its solution in the first, and its dimension.
fn in_two_units(seed: u64, i: u64) -> Option<(Solved, usize)> {
    let mut rng = SeedTree::new(seed).child("unit").index(i).rng();
    let world = World::random(&mut rng);
    let (kind, c) = (
        rng.random_range(0..KINDS.len()),
        log_uniform(&mut rng, -6.0, 6.0),
    );
    let what = format!("instance {i}, unit {c:e}");
    let a = solve(&world, kind)?;
    let b = solve(&world.in_unit(c), kind).expect("the radius has no unit");
    compare(&what, &a, &b, c);
    // At the prompts: where a policy never comes, (B.1) does not determine it.
    for root in (0..world.prompts).map(|x| world.tree().root(x)) {
        for (p, q) in a.policies.iter().zip(&b.policies) {
            for (x, y) in p.probs(root).iter().zip(q.probs(root)) {
                close(&what, *x, y, 1e-6);
            }
        }
    }
    Some((a, world.dim))
}

/// Which constraints of (B.1) are active, and their multipliers, wherever both units determine them.
fn same_constraints(what: &str, a: &MaxMin, b: &MaxMin, unit: f64) {
    let flags = |x: &MaxMin| [x.ellipsoid_active, x.ball_active];
    for (x, y) in flags(a).into_iter().zip(flags(b)) {
        assert!(x.is_none() || y.is_none() || x == y, "{what}: {x:?}, {y:?}");
    }
    let multipliers = [
        (a.multipliers.0, b.multipliers.0),
        (a.multipliers.1, b.multipliers.1.map(|m| m / unit / unit)),
    ];
    // A multiplier that is told is a thousand times its rounding.
    for (x, y) in multipliers {
        if let (Some(x), Some(y)) = (x, y) {
            assert!((x - y).abs() <= 2e-3 * x.max(y), "{what}: {x:e}, {y:e}");
        }
    }
}

#[test]
fn every_unit_of_the_features_gives_the_same_answers() {
    let (seed, instances) = runs(700);
    let (mut seen, mut unknown) = ([0usize; 4], 0);
    for i in instances.clone() {
        let Some((a, dim)) = in_two_units(seed, i) else {
            continue;
        };
        seen[match a.separation {
            Separation::None => 0,
            Separation::Quasi { .. } => 1,
            Separation::Complete => 2,
        }] += 1;
        seen[3] += usize::from(a.radii.rank < dim);
        let flags = [&a.plain, &a.based].map(|b1| [b1.ellipsoid_active, b1.ball_active]);
        unknown += flags.iter().flatten().filter(|f| f.is_none()).count();
    }
    let n = instances.end - instances.start;
    assert!(seen.iter().all(|s| *s as u64 > n / 20), "{seen:?}");
    // Without pairs the ellipsoid of several radii is the ball.
    assert!(unknown as u64 <= 4 * n / 25, "{unknown} flags of {}", 4 * n);
}

/// What rounding had decided in one unit alone: the ellipsoid and the ball are the same set, so that either holds the point;
/// an objective that θ does not move; a slope of 7e-12 beside a value of 6, which is still thousands of times its rounding.
#[test]
fn a_constraint_is_active_in_every_unit_or_it_is_not_said() {
    let (no, yes) = (Some(false), Some(true));
    for (seed, i, ellipsoid, ball) in [
        (4711, 842, None, None),
        (4711, 1026, no, no),
        (91, 2862, None, None),
        (91, 6415, no, yes),
    ] {
        let (a, _) = in_two_units(seed, i).expect("a world with a radius");
        let found = (a.plain.ellipsoid_active, a.plain.ball_active);
        assert_eq!(found, (ellipsoid, ball), "seed {seed}, instance {i}");
    }
}

#[test]
fn names_of_actions_prompts_and_pairs_do_not_matter() {
    let (seed, instances) = runs(700);
    for i in instances.clone() {
        let mut rng = SeedTree::new(seed).child("names").index(i).rng();
        let world = World::random(&mut rng);
        let kind = rng.random_range(0..KINDS.len());
        let mut tokens: Vec<u32> = (0..world.actions as u32).collect();
        let mut prompts: Vec<usize> = (0..world.prompts).collect();
        tokens.shuffle(&mut rng);
        prompts.shuffle(&mut rng);
        let what = format!("instance {i}, tokens {tokens:?}");
        let Some(a) = solve(&world, kind) else {
            continue;
        };
        let b = solve(&world.renamed(&tokens, &prompts, &mut rng), kind).expect("no unit");
        compare(&what, &a, &b, 1.0);
        let tree = world.tree();
        for (x, &renamed) in prompts.iter().enumerate() {
            let (from, to) = (tree.root(x), tree.root(renamed));
            for (p, q) in a.policies.iter().zip(&b.policies) {
                for y in 0..world.actions as u32 {
                    let left = p.prob(from, ActionIx(y));
                    close(&what, left, q.prob(to, ActionIx(tokens[y as usize])), 1e-6);
                }
            }
        }
    }
}

/// Each coordinate in a unit of its own: what the ball and λ have no part in keeps its value.
#[test]
fn every_coordinate_may_have_its_own_unit() {
    let (seed, instances) = runs(800);
    let mut fitted = 0;
    for i in instances.clone() {
        let mut rng = SeedTree::new(seed).child("diagonal").index(i).rng();
        let world = World::random(&mut rng);
        let c: Vec<f64> = (0..world.dim)
            .map(|_| log_uniform(&mut rng, -6.0, 6.0))
            .collect();
        let what = format!("instance {i}, units {c:?}");
        let (a, b) = (world.design(), world.scaled(&c).design());
        let rank = |x: &Design| RowSpace::of(x).unwrap().rank();
        assert_eq!(rank(&a), rank(&b), "{what}");
        let zero = vec![0.0; world.dim];
        let how = separation(&a, &zero).unwrap();
        assert_eq!(how, separation(&b, &zero).unwrap(), "{what}");
        let free = FitOptions::default();
        let (x, y) = (fit_bradley_terry(&a, &free), fit_bradley_terry(&b, &free));
        if how != Separation::None {
            assert!(x.is_err() && y.is_err(), "{what}");
            continue;
        }
        let (x, y) = (x.unwrap(), y.unwrap());
        fitted += 1;
        close(&what, x.log_likelihood, y.log_likelihood, 1e-12);
        for (p, q) in a
            .margins(&x.theta)
            .unwrap()
            .iter()
            .zip(b.margins(&y.theta).unwrap())
        {
            close(&what, *p, q, 1e-7);
        }
        if rank(&a) == world.dim {
            for (k, c) in c.iter().enumerate() {
                close(&what, x.theta[k], y.theta[k] * c, 1e-7);
            }
        }
        // The rank decides the Wald radius, which has no ball and, in itself, no λ.
        let wald = |x: &Design, theta: &[f64]| {
            let inputs = RadiusInputs {
                horizon: 1,
                feature_bound: 1.0,
                param_bound: 1.0,
                ridge: 1.0,
                fail_prob: 0.05,
            };
            let all = radii(x, theta, &inputs).unwrap();
            all.radius(RadiusKind::Wald { ridge_bias: false })
                .unwrap()
                .value
        };
        assert_eq!(wald(&a, &x.theta), wald(&b, &y.theta), "{what}");
    }
    let n = instances.end - instances.start;
    assert!(fitted as u64 > n / 10, "{fitted}");
}

/// Rewards, β, θ_MLE, ϱ and B times c: values times c, the same policies.
#[test]
fn rewards_and_beta_may_be_measured_in_anything() {
    let (seed, instances) = runs(500);
    for i in instances.clone() {
        let mut rng = SeedTree::new(seed).child("reward").index(i).rng();
        let world = World::random(&mut rng);
        let c = log_uniform(&mut rng, -6.0, 6.0);
        let what = format!("instance {i}, unit {c:e}");
        let (mdp, map, reference, design) =
            (world.mdp(), world.map(), world.policy(), world.design());
        let fit = fit_bradley_terry(&design, &bounded(world.bound))
            .unwrap_or_else(|e| panic!("{e}: {:?} in {}", design.rows(), world.bound));
        let metric = Metric::sigma_d(&design, world.ridge).unwrap();
        let radius = log_uniform(&mut rng, -2.0, 2.0);
        let solve = |c: f64| {
            let times = |x: &[f64]| x.iter().map(|x| x * c).collect::<Vec<f64>>();
            let (center, star) = (times(&fit.theta), times(&world.theta_star));
            let beta = Beta::try_new(c * world.beta).unwrap();
            let set =
                ConfidenceSet::try_new(&center, &metric, c * radius, c * world.bound).unwrap();
            let truth = LinearReward::try_new(&map, &star).unwrap();
            let best = soft_value_iteration(Problem::new(&mdp, &reference, beta), &truth).unwrap();
            let one = algorithm1(Problem::new(&mdp, &reference, beta), &map, &set, None).unwrap();
            let t = theorem_4_2(
                &Truth::linear(Problem::new(&mdp, &reference, beta), &map, &star).unwrap(),
                &set,
                &one,
            )
            .unwrap();
            let b1 = |b| maxmin(Problem::new(&mdp, &reference, beta), &map, &set, b).unwrap();
            let (plain, based) = (b1(Baseline::None), b1(Baseline::Reference));
            let values = [
                best.mean_value(&mdp),
                one.pessimistic_value(&mdp),
                t.suboptimality,
                t.bound,
                plain.value,
                based.value,
            ];
            let policies = [
                best.policy,
                one.optimum.policy,
                plain.optimum.policy,
                based.optimum.policy,
            ];
            (values, policies)
        };
        let ((a, p), (b, q)) = (solve(1.0), solve(c));
        for (a, b) in a.iter().zip(&b) {
            close(&what, *a, b / c, 1e-8);
        }
        for root in (0..world.prompts).map(|x| world.tree().root(x)) {
            for (p, q) in p.iter().zip(&q) {
                for (x, y) in p.probs(root).iter().zip(q.probs(root)) {
                    close(&what, *x, y, 1e-6);
                }
            }
        }
    }
}
