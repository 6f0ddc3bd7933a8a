//! Every reported quantity transforms as it must when features, rewards and β change their units and when actions,
//! prompts and pairs change their names; and (B.1) is solved to 1e-9 whatever the instance.
//!
//! The seeds are fixed; `RTO_UNITS=seed,factor` runs `factor` times as many instances from another seed, and
//! `RTO_UNITS=seed,factor,first` those from number `first` on.

mod answers;
mod estimate;
mod maxmin;

use ndarray::Array2;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rto::algorithm1::{
    Baseline, ConfidenceSet, MaxMin, algorithm1, maxmin, theorem_4_2, theorem_b1,
};
use rto::estimate::{
    BtFit, Curvature, Design, FitOptions, Metric, MetricKind, Radii, RadiusInputs, RadiusKind,
    Separation, fit_bradley_terry, gradient, radii, separation,
};
use rto::features::DenseFeatures;
use rto::mdp::{Beta, PreferencePair, Problem, StateIx, TabularMdp, TabularPolicy, TokenTree};
use rto::plan::{Truth, soft_value_iteration};
use rto::reward::LinearReward;
use std::ops::Range;

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
    based: MaxMin,
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
        based,
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
