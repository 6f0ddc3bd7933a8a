//! What no admissible policy can meet changes nothing: rows of unreachable states and pairs are filled with
//! junk, huge numbers included, and every quantity of the library keeps its bits.
//!
//! The seed is fixed; `RTO_UNITS=seed,factor` runs `factor` times as many instances from another seed.

use ndarray::Array2;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto::algorithm1::{
    Baseline, ConfidenceSet, KlBalls, algorithm1, maxmin, robust_soft_value_iteration,
};
use rto::estimate::{
    Design, FitOptions, Metric, RadiusInputs, fit_bradley_terry, radii, sample_preferences,
};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{ActionIx, Problem, Reachable, StateIx, TabularPolicy};
use rto::plan::{
    action_covariance, advantage_variance, best_predetermined, concentrability, decompose,
    evaluate, mix_occupancies, natural_policy_gradient, npg_bound, rto_optimum,
    soft_value_iteration, suboptimality, visitation,
};
use rto::reward::{LogRatioReward, RewardFunction, TabularReward};
use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance, random_policy};

const INSTANCES: u64 = 2000;

/// The seed, and how many instances.
fn runs() -> (u64, u64) {
    let Ok(given) = std::env::var("RTO_UNITS") else {
        return (15, INSTANCES);
    };
    let parsed = given.split_once(',').map(|(s, f)| (s.parse(), f.parse()));
    match parsed {
        Some((Ok(seed), Ok::<u64, _>(factor))) => (seed, INSTANCES * factor),
        _ => panic!("RTO_UNITS: expected seed,factor"),
    }
}

fn spec(i: u64) -> RandomSpec {
    let kind = match i % 3 {
        0 => Kind::Tree {
            eos: !i.is_multiple_of(2),
        },
        1 => Kind::Layered { width: 3 },
        _ => Kind::Stochastic { width: 4 },
    };
    RandomSpec {
        kind,
        prompts: 1 + (i / 4 % 2) as usize,
        actions: 2 + (i / 8 % 2) as usize,
        horizon: 1 + (i / 16 % 4) as usize,
        dim: 2 + (i % 3) as usize,
        beta: [0.2, 1.0][(i / 5 % 2) as usize],
        theta_norm: 1.0,
        zeros: 0.3,
    }
}

/// Every quantity that is taken over states or from ρ, as numbers.
fn quantities(
    g: &Instance,
    reward: &TabularReward,
    features: &DenseFeatures,
    policy: &TabularPolicy,
    seeds: &SeedTree,
) -> Vec<f64> {
    let (mdp, reference, beta) = (&g.mdp, &g.reference, g.beta);
    let met = Reachable::new(mdp, reference).unwrap();
    let star = soft_value_iteration(Problem::new(mdp, reference, beta), reward).unwrap();
    let mut out = vec![star.mean_value(mdp)];
    out.push(features.bound_over(&mut met.pairs()));
    let value = evaluate(Problem::new(mdp, reference, beta), reward, policy).unwrap();
    out.push(value.mean_value(mdp));
    out.push(suboptimality(Problem::new(mdp, reference, beta), reward, policy).unwrap());
    let d = visitation(mdp, &star.policy).unwrap();
    out.extend(d.state.iter().chain(&d.pair));
    out.push(d.reward(mdp, reward).unwrap());
    out.push(d.kl(mdp, &star.policy, policy).unwrap());
    out.extend(d.features(features).unwrap());
    out.extend(
        action_covariance(mdp, &star.policy, features)
            .unwrap()
            .iter(),
    );
    out.push(advantage_variance(mdp, &star.policy, reward).unwrap());
    out.push(best_predetermined(mdp, reward, reference).unwrap().value);
    out.push(concentrability(mdp, &star.policy, policy).unwrap());
    let mixed = mix_occupancies(mdp, (&star.policy, policy), 0.3).unwrap();
    out.extend(visitation(mdp, &mixed).unwrap().state);
    let run = natural_policy_gradient(
        Problem::new(mdp, reference, beta),
        reward,
        reference,
        0.5,
        3,
    )
    .unwrap();
    out.extend(run.gap.iter().chain(&run.max_log_error));
    let bound = npg_bound(Problem::new(mdp, reference, beta), reward, reference, 0.5).unwrap();
    out.extend(&bound.constants);
    let implicit = LogRatioReward::within(&met, &star.policy, reference, beta.get()).unwrap();
    out.push(d.expect(|s, a| implicit.reward(s, a)));
    let rto = rto_optimum(mdp, &star.policy, reference, beta, beta).unwrap();
    out.push(rto.mean_value(mdp));
    let parts = decompose(
        Problem::new(mdp, reference, beta),
        reward,
        reward,
        &star.policy,
        policy,
    )
    .unwrap();
    out.push(parts.total());
    // Pairs of the reference never leave the support.
    let pairs = sample_preferences(mdp, reward, (reference, reference), 20, seeds).unwrap();
    let design = Design::from_pairs(mdp, features, &pairs).unwrap();
    let options = FitOptions {
        param_bound: 2.0,
        ..FitOptions::default()
    };
    let fit = fit_bradley_terry(&design, &options).unwrap();
    out.extend(&fit.theta);
    let inputs = RadiusInputs {
        horizon: mdp.horizon(),
        feature_bound: features.bound_over(&mut met.pairs()),
        param_bound: 2.0,
        ridge: 1.0,
        fail_prob: 0.05,
    };
    let all = radii(&design, &fit.theta, &inputs).unwrap();
    out.extend([all.upsilon, all.kappa, all.noise]);
    let metric = Metric::sigma_d(&design, 1.0).unwrap();
    let set = ConfidenceSet::try_new(&fit.theta, &metric, 0.5, 2.0).unwrap();
    let pessimistic = algorithm1(Problem::new(mdp, reference, beta), features, &set, None).unwrap();
    out.push(pessimistic.pessimistic_value(mdp));
    let solved = maxmin(
        Problem::new(mdp, reference, beta),
        features,
        &set,
        Baseline::Reference,
    )
    .unwrap();
    out.extend(&solved.theta);
    let visits = Array2::from_elem((mdp.n_states(), mdp.n_actions()), 3.0);
    let balls = KlBalls::from_counts(&visits, 0.2).unwrap();
    let robust =
        robust_soft_value_iteration(Problem::new(mdp, reference, beta), &balls, reward).unwrap();
    out.push(robust.mean_value(mdp));
    out
}

/// Rows of a random policy where no episode goes, so that it leaves the support of the reference there.
fn with_junk_rows(policy: &TabularPolicy, met: &Reachable, rng: &mut ChaCha8Rng) -> TabularPolicy {
    let mut log = policy.log_probs().clone();
    for (s, mut row) in log.rows_mut().into_iter().enumerate() {
        if !met.state(StateIx(s as u32)) {
            row.fill(f64::NEG_INFINITY);
            let n = row.len();
            row[rng.random_range(0..n)] = 0.0;
        }
    }
    TabularPolicy::from_log_probs(log).unwrap()
}

#[test]
fn junk_where_no_episode_goes_changes_nothing() {
    let mut junk = 0;
    let (seed, instances) = runs();
    for i in 0..instances {
        let seeds = SeedTree::new(seed).child("reachable").index(i);
        let g = random_instance(&spec(i), &seeds).unwrap();
        let met = Reachable::new(&g.mdp, &g.reference).unwrap();
        let mut rng = seeds.child("junk").rng();
        let (n, na) = (g.mdp.n_states(), g.mdp.n_actions());
        let clean = g.reward().tabulate();
        let policy = {
            let raw = random_policy(n, na, 0.0, &seeds.child("policy"));
            let mut log = raw.log_probs() + g.reference.log_probs();
            for mut row in log.rows_mut() {
                let norm = rto::numerics::log_sum_exp(&row.to_vec());
                row -= norm;
            }
            TabularPolicy::from_log_probs(log).unwrap()
        };
        let huge = |rng: &mut ChaCha8Rng, top: f64| top * rng.random_range(-1.0..1.0);
        let reward = Array2::from_shape_fn((n, na), |(s, a)| {
            if met.pair(StateIx(s as u32), ActionIx(a as u32)) {
                clean.values()[[s, a]]
            } else {
                junk += 1;
                huge(&mut rng, 1.7e308)
            }
        });
        let reward = TabularReward::try_new(reward).unwrap();
        let features = DenseFeatures::from_fn(n, na, g.features.dim(), |s, a, k| {
            let (state, action) = (StateIx(s as u32), ActionIx(a as u32));
            if met.pair(state, action) {
                g.features.row(state, action)[k]
            } else {
                huge(&mut rng, 1e100)
            }
        })
        .unwrap();
        let other = with_junk_rows(&policy, &met, &mut rng);
        let want = quantities(&g, &clean, &g.features, &policy, &seeds);
        let got = quantities(&g, &reward, &features, &other, &seeds);
        for (k, (a, b)) in want.iter().zip(&got).enumerate() {
            assert_eq!(
                a.to_bits(),
                b.to_bits(),
                "instance {i}, quantity {k}: {a} and {b}"
            );
        }
        assert!(want.iter().all(|x| !x.is_nan()));
    }
    assert!(junk > 10_000, "{junk}");
}
