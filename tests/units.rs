//! Every reported quantity transforms as it must when features, rewards and β change their units and when actions,
//! prompts and pairs change their names; and (B.1) is solved to 1e-9 whatever the instance.
//!
//! The seeds are fixed; `RTO_UNITS=seed,factor` runs `factor` times as many instances from another seed, and
//! `RTO_UNITS=seed,factor,first` those from number `first` on.

use std::ops::Range;

use ndarray::{Array2, array};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rto::algorithm1::{
    Baseline, ConfidenceSet, MaxMin, algorithm1, maxmin, theorem_4_2, theorem_b1,
};
use rto::estimate::{
    BtFit, Curvature, Design, FitOptions, Metric, MetricKind, Radii, RadiusInputs, RadiusKind,
    RowSpace, Separation, fit_bradley_terry, gradient, radii, separation,
};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{
    ActionIx, Beta, PreferencePair, Problem, StateIx, TabularMdp, TabularPolicy, TokenTree,
    Trajectory,
};
use rto::plan::{Truth, soft_value_iteration};
use rto::reward::LinearReward;
use rto::seed::SeedTree;
use rto::zoo::{Kind, RandomSpec, random_instance};

/// The seed, and the numbers of the instances of a test that has `n`.
fn runs(n: u64) -> (u64, Range<u64>) {
    let Ok(given) = std::env::var("RTO_UNITS") else {
        return (20, 0..n);
    };
    let parsed: Result<Vec<u64>, _> = given.split(',').map(str::parse).collect();
    match parsed.as_deref() {
        Ok([seed, factor]) => (*seed, 0..n * factor),
        Ok([seed, factor, first]) => (*seed, *first..n * factor),
        _ => panic!("RTO_UNITS: expected seed,factor or seed,factor,first"),
    }
}

fn log_uniform(rng: &mut ChaCha8Rng, from: f64, to: f64) -> f64 {
    10f64.powf(rng.random_range(from..to))
}

/// A token tree with features, preferences and the constants of Section 4.1, by name of prompt and token.
#[derive(Clone)]
struct World {
    prompts: usize,
    actions: usize,
    horizon: usize,
    dim: usize,
    initial: Vec<f64>,
    /// By state and action.
    reference: Vec<Vec<f64>>,
    features: Vec<Vec<Vec<f64>>>,
    pairs: Vec<(usize, Vec<u32>, Vec<u32>)>,
    theta_star: Vec<f64>,
    beta: f64,
    ridge: f64,
    bound: f64,
    feature_bound: f64,
}

impl World {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let (prompts, actions) = (rng.random_range(1..3usize), rng.random_range(2..4usize));
        let (horizon, dim) = (rng.random_range(1..3usize), rng.random_range(1..5usize));
        let tree = TokenTree::try_new(prompts, actions, horizon, None).unwrap();
        let n = tree.n_states();
        let style = rng.random_range(0..4);
        // Integers make ties, separable and rank-deficient data; a repeated column makes the rank deficient always.
        let entry = |rng: &mut ChaCha8Rng| match style {
            0 => f64::from(rng.random_range(-1..2i32)),
            1 => f64::from(rng.random_range(-20..21i32)) / 10.0,
            _ => rng.random_range(-1.5..1.5),
        };
        let mut features: Vec<Vec<Vec<f64>>> = (0..n)
            .map(|_| {
                (0..actions)
                    .map(|_| (0..dim).map(|_| entry(rng)).collect())
                    .collect()
            })
            .collect();
        if dim > 1 && rng.random_range(0..4) == 0 {
            features
                .iter_mut()
                .flatten()
                .for_each(|x| x[dim - 1] = -2.0 * x[0]);
        }
        features[0][0][0] = 1.0;
        let row = |rng: &mut ChaCha8Rng, k: usize| -> Vec<f64> {
            let x: Vec<f64> = (0..k).map(|_| rng.random_range(0.1..1.0)).collect();
            let sum: f64 = x.iter().sum();
            x.iter().map(|x| x / sum).collect()
        };
        let response = |rng: &mut ChaCha8Rng| -> Vec<u32> {
            (0..horizon)
                .map(|_| rng.random_range(0..actions as u32))
                .collect()
        };
        let pairs = (0..rng.random_range(0..13usize))
            .map(|_| (rng.random_range(0..prompts), response(rng), response(rng)))
            .filter(|(_, w, l)| w != l)
            .collect();
        Self {
            initial: row(rng, prompts),
            reference: (0..n).map(|_| row(rng, actions)).collect(),
            features,
            pairs,
            theta_star: (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect(),
            beta: log_uniform(rng, -1.5, 1.5),
            ridge: log_uniform(rng, -2.0, 1.0),
            bound: log_uniform(rng, -0.5, 2.5),
            feature_bound: 4.0,
            prompts,
            actions,
            horizon,
            dim,
        }
    }

    /// φ_k → c_k φ_k.
    fn scaled(&self, c: &[f64]) -> Self {
        let mut out = self.clone();
        for x in out.features.iter_mut().flatten() {
            x.iter_mut().zip(c).for_each(|(x, c)| *x *= c);
        }
        out.theta_star.iter_mut().zip(c).for_each(|(t, c)| *t /= c);
        out
    }

    /// All features in the unit 1/c, and every constant with them.
    fn in_unit(&self, c: f64) -> Self {
        let mut out = self.scaled(&vec![c; self.dim]);
        out.ridge *= c * c;
        out.bound /= c;
        out.feature_bound *= c;
        out
    }

    /// Token a becomes `tokens[a]` and prompt x `prompts[x]`; states follow; pairs change their order.
    fn renamed(&self, tokens: &[u32], prompts: &[usize], rng: &mut ChaCha8Rng) -> Self {
        let mut out = self.clone();
        let tree = self.tree();
        for s in 0..tree.n_states() {
            let (prompt, prefix) = tree.prefix(StateIx(s as u32));
            let prefix: Vec<u32> = prefix.iter().map(|t| tokens[*t as usize]).collect();
            let to = tree.state(prompts[prompt], &prefix).unwrap().ix();
            for (a, &token) in tokens.iter().enumerate() {
                let b = token as usize;
                out.reference[to][b] = self.reference[s][a];
                out.features[to][b] = self.features[s][a].clone();
            }
        }
        for (x, rho) in self.initial.iter().enumerate() {
            out.initial[prompts[x]] = *rho;
        }
        let over = |y: &[u32]| y.iter().map(|t| tokens[*t as usize]).collect::<Vec<_>>();
        let pairs = self.pairs.iter();
        out.pairs = pairs
            .map(|(x, w, l)| (prompts[*x], over(w), over(l)))
            .collect();
        out.pairs.shuffle(rng);
        out
    }

    fn tree(&self) -> TokenTree {
        TokenTree::try_new(self.prompts, self.actions, self.horizon, None).unwrap()
    }

    fn mdp(&self) -> TabularMdp {
        self.tree().compile(&self.initial).unwrap()
    }

    fn policy(&self) -> TabularPolicy {
        let (n, na) = (self.reference.len(), self.actions);
        TabularPolicy::from_probs(&Array2::from_shape_fn((n, na), |(s, a)| {
            self.reference[s][a]
        }))
        .unwrap()
    }

    fn map(&self) -> DenseFeatures {
        let flat = self.features.iter().flatten().flatten().copied().collect();
        DenseFeatures::try_new(self.features.len(), self.actions, self.dim, flat).unwrap()
    }

    fn design(&self) -> Design {
        let (tree, mdp) = (self.tree(), self.mdp());
        let of = |x: usize, y: &[u32]| tree.trajectory(x, y).unwrap();
        let pairs: Vec<PreferencePair> = self
            .pairs
            .iter()
            .map(|(x, w, l)| PreferencePair::try_new(of(*x, w), of(*x, l)).unwrap())
            .collect();
        Design::from_pairs(&mdp, &self.map(), &pairs).unwrap()
    }
}

/// What is reported for a world and a radius.
struct Solved {
    fit: BtFit,
    separation: Separation,
    radii: Radii,
    log_det: f64,
    plain: MaxMin,
    /// Numbers that keep their value in any unit of the features.
    same: Vec<(&'static str, f64)>,
    /// log π(a|s) of Algorithm 1, (B.1) and its baselined form.
    policies: [TabularPolicy; 3],
}

const KINDS: [RadiusKind; 6] = [
    RadiusKind::Wald { ridge_bias: false },
    RadiusKind::Wald { ridge_bias: true },
    RadiusKind::Theory(Curvature::Data),
    RadiusKind::LikelihoodRatio {
        finite_sample: false,
    },
    RadiusKind::LikelihoodRatio {
        finite_sample: true,
    },
    RadiusKind::SelfConcordant,
];

fn solve(world: &World, kind: usize) -> Option<Solved> {
    let (mdp, map, reference, design) = (world.mdp(), world.map(), world.policy(), world.design());
    let beta = Beta::try_new(world.beta).unwrap();
    let fit = fit_bradley_terry(&design, &bounded(world.bound))
        .unwrap_or_else(|e| panic!("{e}: {:?} in {}", design.rows(), world.bound));
    stationary(&design, &fit);
    let inputs = RadiusInputs {
        horizon: world.horizon,
        feature_bound: world.feature_bound,
        param_bound: world.bound,
        ridge: world.ridge,
        fail_prob: 0.05,
    };
    let all = radii(&design, &fit.theta, &inputs).unwrap();
    let radius = all.radius(KINDS[kind]).unwrap();
    if radius.value > 1e6 {
        return None;
    }
    let metric = match radius.metric {
        MetricKind::SigmaD => Metric::sigma_d(&design, world.ridge),
        MetricKind::Fisher => Metric::fisher(&design, &fit.theta, world.ridge),
    }
    .unwrap();
    let set = ConfidenceSet::try_new(&fit.theta, &metric, radius.value, world.bound).unwrap();
    let one = algorithm1(Problem::new(&mdp, &reference, beta), &map, &set, None).unwrap();
    let star = &world.theta_star;
    let t42 = theorem_4_2(
        &Truth::linear(Problem::new(&mdp, &reference, beta), &map, star).unwrap(),
        &set,
        &one,
    )
    .unwrap();
    let b1 = |baseline| maxmin(Problem::new(&mdp, &reference, beta), &map, &set, baseline).unwrap();
    let (plain, based) = (b1(Baseline::None), b1(Baseline::Reference));
    let tb1 = theorem_b1(
        &Truth::linear(Problem::new(&mdp, &reference, beta), &map, star).unwrap(),
        &map,
        &set,
        &plain,
    )
    .unwrap();
    let truth = LinearReward::try_new(&map, star).unwrap();
    let best = soft_value_iteration(Problem::new(&mdp, &reference, beta), &truth).unwrap();
    let mut same = vec![
        ("log_likelihood", fit.log_likelihood),
        ("d_eff", all.effective_dim),
        ("noise", all.noise),
        ("upsilon", all.upsilon),
        ("kappa", all.kappa),
        ("chi_square", all.chi_square),
        ("lr_threshold", all.lr_threshold),
        ("leverage", all.leverage),
        ("soft_value", best.mean_value(&mdp)),
        ("pessimistic_value", one.pessimistic_value(&mdp)),
        ("suboptimality", t42.suboptimality),
        ("bound 4.2", t42.bound),
        ("kl", t42.kl),
        ("value B.1", plain.value),
        ("value baselined", based.value),
        ("suboptimality B.1", tb1.suboptimality),
        ("bound B.1", tb1.bound),
    ];
    same.extend(
        KINDS
            .iter()
            .map(|k| ("radius", all.radius(*k).unwrap().value)),
    );
    Some(Solved {
        log_det: metric.log_det(),
        separation: separation(&design, &fit.theta).unwrap(),
        policies: [
            one.optimum.policy.clone(),
            plain.optimum.policy.clone(),
            based.optimum.policy.clone(),
        ],
        fit,
        radii: all,
        plain,
        same,
    })
}

/// ∇L(θ) = μθ, beside the weights that cancel in it; computed from the pairs alone, as agreement of two units does not
/// show that either is right.
fn stationary(design: &Design, fit: &BtFit) {
    let slope = gradient(design, &fit.theta).unwrap();
    let pairs = slope.iter().zip(&fit.theta);
    let residual = pairs
        .map(|(g, t)| (g - fit.multiplier * t).powi(2))
        .sum::<f64>()
        .sqrt();
    let margins = design.margins(&fit.theta).unwrap();
    let weights = margins.iter().zip(design.norms());
    let size: f64 = weights.map(|(z, length)| length / (1.0 + z.exp())).sum();
    assert!(
        residual <= 1e-9 * size,
        "{residual:e} beside {size:e} at {fit:?} of {:?}",
        design.rows()
    );
}

fn bounded(param_bound: f64) -> FitOptions {
    FitOptions {
        param_bound,
        ..FitOptions::default()
    }
}

#[track_caller]
fn close(what: &str, a: f64, b: f64, tolerance: f64) {
    let off = (a - b).abs();
    assert!(
        a == b || off <= tolerance * a.abs().max(b.abs()).max(1.0),
        "{what}: {a} and {b}, {off:e} apart"
    );
}

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
    close("log det", a.log_det, b.log_det - 2.0 * d * unit.ln(), 1e-8);
}

#[test]
fn every_unit_of_the_features_gives_the_same_answers() {
    let (seed, instances) = runs(700);
    let mut seen = [0usize; 4];
    for i in instances.clone() {
        let mut rng = SeedTree::new(seed).child("unit").index(i).rng();
        let world = World::random(&mut rng);
        let (kind, c) = (
            rng.random_range(0..KINDS.len()),
            log_uniform(&mut rng, -6.0, 6.0),
        );
        let what = format!("instance {i}, unit {c:e}");
        let Some(a) = solve(&world, kind) else {
            continue;
        };
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
        assert_eq!(a.plain.ball_active, b.plain.ball_active, "{what}");
        seen[match a.separation {
            Separation::None => 0,
            Separation::Quasi { .. } => 1,
            Separation::Complete => 2,
        }] += 1;
        seen[3] += usize::from(a.radii.rank < world.dim);
    }
    let n = instances.end - instances.start;
    assert!(seen.iter().all(|s| *s as u64 > n / 20), "{seen:?}");
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

#[test]
fn b1_is_solved_to_nine_digits_on_moderate_instances() {
    let (seed, instances) = runs(5000);
    let mut actives = [[0usize; 2]; 2];
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
            actives[usize::from(e)][usize::from(b)] += 1;
        }
    }
    assert!(actives.iter().flatten().all(|k| *k > 50), "{actives:?}");
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
    assert!(plain.duality_gap.abs() <= 1e-9 && plain.ball_active && !plain.ellipsoid_active);
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

#[test]
fn separable_data_reach_the_sphere_in_a_ball_of_any_size() {
    // θ by root finding in 60 digits (mpmath): on the sphere, where −∇L is parallel to θ.
    let separable = Design::try_new(2, vec![1.0, 0.5, 1.0, -0.2]).unwrap();
    for (bound, want) in [
        (30.0, [29.983_581_946_139_4, 0.992_377_790_532_1]),
        (40.0, [39.986_095_062_626_9, 1.054_609_711_013_5]),
        (700.0, [699.998_810_249_832, 1.290_600_178_068_3]),
    ] {
        let fit = fit_bradley_terry(&separable, &bounded(bound)).unwrap();
        assert!(fit.at_bound && fit.separable);
        for (got, want) in fit.theta.iter().zip(want) {
            close("theta", *got, want, 1e-12);
        }
    }
    // Beyond floating point of the likelihood, towards the direction of largest margin.
    let far = fit_bradley_terry(&separable, &bounded(1e9)).unwrap();
    assert!(far.at_bound && far.multiplier == 0.0 && far.log_likelihood == 0.0);
    close("theta", far.theta[1], 1.308_97, 1e-4);
    // Three pairs overlap on one direction, the fourth is explained as well as one likes.
    let quasi = vec![1.0, 0.5, -1.0, -0.5, 1.0, 0.5, 0.3, 1.0];
    let quasi = Design::try_new(2, quasi).unwrap();
    for bound in [30.0, 100.0, 700.0, 1e5] {
        let fit = fit_bradley_terry(&quasi, &bounded(bound)).unwrap();
        assert!(fit.at_bound && !fit.separable);
        close("norm", fit.norm, bound, 1e-12);
        // On the pairs that overlap: two wins of three, σ(z) = 2/3.
        close("margin", fit.theta[0] + 0.5 * fit.theta[1], 2f64.ln(), 1e-9);
    }
    // A direction that the overlapping pairs do not see, and columns that depend on each other on them.
    let rows = [
        2, -1, -4, -2, 0, 0, 0, 0, -4, -3, 2, 6, 2, -1, -4, 2, -1, -4, 2, 0, -4, -1, -2, 2,
    ];
    let rows = rows.iter().map(|x| f64::from(*x)).collect();
    let design = Design::try_new(3, rows).unwrap();
    let fit = fit_bradley_terry(&design, &bounded(3.459_173_651_501_826)).unwrap();
    stationary(&design, &fit);
    close(
        "log-likelihood",
        fit.log_likelihood,
        -3.685_781_952_125_5,
        1e-12,
    );
    let free = fit_bradley_terry(&quasi, &FitOptions::default()).unwrap_err();
    assert!(free.to_string().contains("quasi-separable"), "{free}");
}

#[test]
fn features_in_different_units_keep_their_rank() {
    let phi = [[0.0, 3e-6], [1.0, 1e-5], [-1.0, 2e-6]];
    let pairs = [
        (1, 0),
        (0, 1),
        (2, 0),
        (1, 2),
        (0, 2),
        (2, 1),
        (1, 0),
        (1, 0),
    ];
    let rows = pairs
        .iter()
        .flat_map(|&(w, l): &(usize, usize)| (0..2).map(move |k| phi[w][k] - phi[l][k]));
    let design = Design::try_new(2, rows.collect()).unwrap();
    let fit = fit_bradley_terry(&design, &FitOptions::default()).unwrap();
    let inputs = RadiusInputs {
        horizon: 1,
        feature_bound: 1.1,
        param_bound: 1.0,
        ridge: 1e-3,
        fail_prob: 0.05,
    };
    let all = radii(&design, &fit.theta, &inputs).unwrap();
    assert_eq!(all.rank, 2);
    let wald = all.radius(RadiusKind::Wald { ridge_bias: false }).unwrap();
    close("Wald radius", wald.value, 2.447_746_830_680_8, 1e-12);
    // A sum of decimals that is 0 is no direction.
    let tree = TokenTree::try_new(1, 2, 2, None).unwrap();
    let mdp = tree.compile(&[1.0]).unwrap();
    let second = |s: usize, a: usize| [[0.1, 0.3], [0.2, 0.2], [0.0, 0.0]][s][a];
    let map = DenseFeatures::from_fn(
        3,
        2,
        2,
        |s, a, k| if k == 0 { a as f64 } else { second(s, a) },
    );
    let of = |y: &[u32]| tree.trajectory(0, y).unwrap();
    let pair = PreferencePair::try_new(of(&[0, 0]), of(&[1, 0])).unwrap();
    let design = Design::from_pairs(&mdp, &map.unwrap(), &[pair]).unwrap();
    assert_eq!(design.rows()[1], 0.0, "0.1 + 0.2 - 0.3");
}

/// Overlapping pairs in large units beside separated ones in small units: the estimate by 50-digit arithmetic (`tests/reference/`).
#[test]
fn separated_pairs_in_small_units_do_not_move_the_overlapping_ones() {
    let first = [
        [2e6, 1.3e6, -2e-5],
        [-2e6, 2e5, -2e-5],
        [-2e6, 2e5, -2e-5],
        [1.5e7, 9e5, -9e-5],
        [1.5e7, 9e5, -9e-5],
        [2e6, -2e5, 2e-5],
        [2e6, -2e5, 2e-5],
        [-1.3e7, -1.1e6, 1.1e-4],
        [4e6, 8e5, 7e-5],
    ];
    let second = [
        ([-1.25e-6, -0.2], 5),
        ([-1.75e-6, -0.3125], 3),
        ([-1.625e-6, -0.175], 2),
        ([3.75e-7, -0.025], 2),
        ([-1.25e-7, -0.1375], 3),
        ([-3.75e-7, 0.025], 1),
        ([0.0, 0.0], 1),
    ];
    let second = second.iter().flat_map(|(x, n)| x.repeat(*n)).collect();
    let third = [
        [-2000.0, -0.5, -1e-5, -0.00875],
        [-1000.0, -0.125, 6.25e-6, 0.0],
        [-875.0, -0.875, 1.25e-6, 0.00375],
        [-2625.0, 0.125, -8.75e-6, -0.00625],
        [2500.0, 3.25, -4.375e-5, -0.0025],
        [1000.0, 0.125, -6.25e-6, 0.0],
        [-1000.0, -1.75, -3.75e-6, 0.015],
        [-1000.0, -1.75, -3.75e-6, 0.015],
        [0.0, 0.0, 0.0, 0.0],
        [1000.0, -2.0, 1.375e-5, 0.01875],
        [-4750.0, -0.875, 1.5e-5, -0.00625],
        [-750.0, -1.5, 0.0, -0.0125],
        [750.0, 1.5, 0.0, 0.0125],
        [125.0, -0.125, -2.875e-5, 0.0125],
        [-375.0, 1.625, -1.75e-5, 0.0025],
        [1875.0, 0.0, -2.875e-5, 0.0],
        [-1250.0, -1.5, -1.25e-6, 0.00625],
        [-1000.0, -1.75, -3.75e-6, 0.015],
        [-1000.0, -1.75, -3.75e-6, 0.015],
    ];
    let cases: [(f64, Vec<f64>, &[f64], f64); 3] = [
        (
            67_900.0,
            first.concat(),
            &[
                1.472_020_735_553_496_3e-7,
                5.339_444_381_001_298e-6,
                67_900.0,
            ],
            -4.489_493_841_986_744,
        ),
        (
            903_000.0,
            second,
            &[-902_999.998_943_271_5, -43.685_829_017_401_54],
            -2.610_967_521_756_085_5,
        ),
        (
            118_000.0,
            third.concat(),
            &[
                -9.347_958_889_727_911e-4,
                -0.495_988_538_326_755_4,
                -117_999.900_533_774_6,
                153.211_531_209_562_85,
            ],
            -5.034_048_512_568_13,
        ),
    ];
    for (bound, rows, theta, log_likelihood) in cases {
        let design = Design::try_new(theta.len(), rows).unwrap();
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        assert!(fit.at_bound, "{fit:?}");
        close("likelihood", fit.log_likelihood, log_likelihood, 1e-13);
        for (got, want) in fit.theta.iter().zip(theta) {
            assert!((got / want - 1.0).abs() < 1e-9, "{fit:?}");
        }
    }
}

/// Rows of any length span the same space, and the estimate of least norm lies in it: a basis that lost a share of a short row to
/// the rounding of a long one leaves θ outside by as much, which is a rounding of ‖θ‖ and not of the share.
#[test]
fn rows_of_any_length_span_the_same_space() {
    // θ by root finding in 60 digits (mpmath): θ = a x₁ + b x₂ with a/b the ratio of the weights.
    let (short, long) = ([0.0, 1.25e-7, 0.0, -1.25], [125e3, -2.5e-7, -125e3, 0.0]);
    let design = Design::try_new(4, [short, short, long].concat()).unwrap();
    let fit = fit_bradley_terry(&design, &bounded(2.33e6)).unwrap();
    let first = 11.650_092_103_081_133;
    let want = [
        first,
        0.232_999_999_970_873_55,
        -first,
        -2_329_999.999_941_737_4,
    ];
    for (got, want) in fit.theta.iter().zip(want) {
        close("theta", *got, want, 2e-15 * 2.33e6);
    }
    for i in 0..300 {
        let mut rng = SeedTree::new(435).child("rows").index(i).rng();
        let rows: Vec<[f64; 5]> = (0..3)
            .map(|_| std::array::from_fn(|_| rng.random_range(-3i32..=3).into()))
            .collect();
        let plain = RowSpace::of(&Design::try_new(5, rows.concat()).unwrap()).unwrap();
        let scaled: Vec<f64> = rows
            .iter()
            .flat_map(|x| {
                let unit = log_uniform(&mut rng, -4.0, 4.0);
                x.map(|x| unit * x)
            })
            .collect();
        let scaled = RowSpace::of(&Design::try_new(5, scaled).unwrap()).unwrap();
        assert_eq!(plain.rank(), scaled.rank(), "{i}");
        let v: Vec<f64> = (0..5).map(|_| rng.random_range(-1.0..1.0)).collect();
        for (a, b) in plain.project(&v).iter().zip(scaled.project(&v)) {
            close("projection", *a, b, 1e-13);
        }
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

/// M = w x xᵀ + λI: across x the metric is λ, however large the features are.
#[test]
fn the_ridge_is_not_lost_beside_large_features() {
    for unit in [1.0, 1e3, 1e6, 1e8] {
        for ridge in [1e-3, 1.0] {
            let (x, y, length) = (3.0 * unit, 4.0 * unit, 5.0 * unit);
            let design = Design::try_new(3, vec![x, y, 0.0, -x, -y, 0.0]).unwrap();
            let metrics = [
                (2.0, Metric::sigma_d(&design, ridge).unwrap()),
                (0.5, Metric::fisher(&design, &[0.0; 3], ridge).unwrap()),
            ];
            for (weight, metric) in metrics {
                let what = format!("unit {unit}, ridge {ridge}, {:?}", metric.kind());
                let along = weight * length * length + ridge;
                close(
                    &what,
                    metric.log_det(),
                    along.ln() + 2.0 * ridge.ln(),
                    1e-12,
                );
                let across = metric.inverse_norm(&[4.0, -3.0, 0.0]);
                close(&what, across, 5.0 / ridge.sqrt(), 1e-7);
                close(
                    &what,
                    metric.inverse_norm(&[x, y, 0.0]),
                    length / along.sqrt(),
                    1e-12,
                );
                close(
                    &what,
                    metric.norm(&[0.0, 0.0, 2.0]),
                    2.0 * ridge.sqrt(),
                    1e-12,
                );
            }
        }
    }
}

#[test]
fn radii_without_data_are_those_of_the_prior() {
    let design = Design::try_new(1, Vec::new()).unwrap();
    for ridge in [0.001, 0.02, 0.05, 3.0] {
        let inputs = RadiusInputs {
            horizon: 1,
            feature_bound: 1.0,
            param_bound: 1.0,
            ridge,
            fail_prob: 0.05,
        };
        let all = radii(&design, &[0.0], &inputs).unwrap();
        // G = √(t/2), t = log 20, and κ = ¼.
        let noise = (0.5 * 20f64.ln()).sqrt();
        close("G", all.noise, noise, 1e-14);
        let radius = all.radius(RadiusKind::Theory(Curvature::Data)).unwrap();
        let want = 0.5 * (4.0 * noise + (16.0 * noise * noise + 16.0 * ridge).sqrt());
        close("radius", radius.value, want, 1e-14);
        if ridge == 3.0 {
            close("G", all.noise, 1.223_87, 1e-5);
            close("radius", radius.value, 6.689_4, 1e-5);
        }
    }
}
