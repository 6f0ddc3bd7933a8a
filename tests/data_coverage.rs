//! C_sa, C_τ, χ² and C_lin of the data's law: golden values, brute force over all trajectories, and what attains
//! each maximum; the minimiser of (4.4) on stochastic tables.

use nalgebra::DMatrix;
use ndarray::Array2;
use rand::Rng;
use rto::estimate::{Design, Metric, sample_preferences};
use rto::features::{DenseFeatures, FeatureMap, trajectory_features};
use rto::mdp::{
    ActionIx, Beta, LayeredGraph, PreferencePair, Problem, StateIx, TabularMdp, TabularPolicy,
    TokenTree, Trajectory,
};
use rto::plan::{
    DataLaw, LinearCoverage, PairLaw, chi_square_coverage, pair_coverage, population_dpo,
    response_covariance, soft_value_iteration, suboptimality, trajectory_coverage, visitation,
};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance, random_policy};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/coverage.json")).unwrap()
}

fn close(what: &str, got: f64, want: f64) {
    let most = 1e-9 * want.abs().max(1.0);
    assert!((got - want).abs() <= most, "{what}: got {got}, want {want}");
}

#[test]
fn golden_trees() {
    let golden = golden();
    for name in ["T1", "T2", "T3", "T8"] {
        let t = &golden["instances"][name];
        let number = |x: &Value| x.as_f64().unwrap();
        let (a, h) = (t["A"].as_u64().unwrap() as usize, t["H"].as_u64().unwrap());
        let eos = t["eos"].as_u64().map(|e| ActionIx(e as u32));
        let tree = TokenTree::try_new(1, a, h as usize, eos).unwrap();
        let mdp = tree.compile(&[1.0]).unwrap();
        let tokens = |x: &Value| -> Vec<u32> {
            x.as_str()
                .unwrap()
                .chars()
                .map(|c| c.to_digit(10).unwrap())
                .collect()
        };
        let mut log_ref = Array2::from_elem((mdp.n_states(), a), -(a as f64).ln());
        let mut reward = Array2::zeros((mdp.n_states(), a));
        for (i, prefix) in t["prefixes"].as_array().unwrap().iter().enumerate() {
            let s = tree.state(0, &tokens(prefix)).unwrap().ix();
            for k in 0..a {
                log_ref[[s, k]] = number(&t["ref"][i][k]).ln();
                reward[[s, k]] = number(&t["reward"][i][k]);
            }
        }
        let reference = TabularPolicy::from_log_probs(log_ref).unwrap();
        let reward = TabularReward::try_new(reward).unwrap();
        let beta = Beta::try_new(number(&t["beta"])).unwrap();
        let star = soft_value_iteration(Problem::new(&mdp, &reference, beta), &reward)
            .unwrap()
            .policy;
        // One coordinate for each response, at its last token.
        let responses = t["responses"].as_array().unwrap();
        let mut values = vec![0.0; mdp.n_states() * a * responses.len()];
        for (k, response) in responses.iter().enumerate() {
            let steps = tree.trajectory(0, &tokens(response)).unwrap();
            let (s, last) = *steps.steps().last().unwrap();
            values[(s.ix() * a + last.ix()) * responses.len() + k] = 1.0;
        }
        let features = DenseFeatures::try_new(mdp.n_states(), a, responses.len(), values).unwrap();
        let law = DataLaw::Policy(&reference);
        let want = &golden["coverage"][name];
        let c_sa = pair_coverage(&mdp, &star, law).unwrap();
        close(name, c_sa.value, number(&want["C_sa"]));
        let c_tau = trajectory_coverage(&mdp, &star, law).unwrap();
        close(name, c_tau.value, number(&want["C_tau"]));
        // On a tree the response that attains C_tau ends in the pair that attains C_sa, or has its ratio there.
        assert!(c_tau.at.steps().contains(&c_sa.at), "{name}");
        let chi2 = chi_square_coverage(&mdp, &star, law).unwrap();
        close(name, chi2, number(&want["chi2"]));
        let linear = LinearCoverage::of(&mdp, law, &features).unwrap();
        let mean = |p: &TabularPolicy| visitation(&mdp, p).unwrap().features(&features).unwrap();
        let psi: Vec<f64> = mean(&star)
            .iter()
            .zip(mean(&reference))
            .map(|(a, b)| a - b)
            .collect();
        let c_lin = linear.at(&psi).unwrap();
        close(name, c_lin.value, number(&want["C_lin_onehot"]));
        close(name, c_lin.value, 0.5 * chi2);
        // Not centred, the mean is out of reach of differences: all of them add up to 0.
        let plain = linear.at(&mean(&star)).unwrap();
        assert_eq!(plain.value, f64::INFINITY);
        let n = (responses.len() as f64).sqrt();
        assert!(
            plain.at.iter().all(|w| (w - 1.0 / n).abs() < 1e-9),
            "{:?}",
            plain.at
        );
    }
}

/// Two states in each layer, the state is the last action; μ takes action 1 with probability ¼, π* with 1 or 0.9.
#[test]
fn golden_layered_graphs() {
    let golden = golden();
    for (name, good) in [("layered_q0.25", 1.0), ("layered_q0.25_eps0.1", 0.9)] {
        for want in golden["coverage"][name].as_array().unwrap() {
            let h = want["H"].as_u64().unwrap() as usize;
            let sizes: Vec<usize> = (0..h).map(|l| if l == 0 { 1 } else { 2 }).collect();
            let next = |l: usize| {
                let to = |i: usize| (l + 1 < h).then_some((i % 2) as u32);
                (0..sizes[l] * 2).map(to).collect::<Vec<_>>()
            };
            let next: Vec<Vec<Option<u32>>> = (0..h).map(next).collect();
            let graph = LayeredGraph::try_new(&sizes, 2, &next).unwrap();
            let mdp = graph.compile(&[1.0]).unwrap();
            let constant = |p: f64| {
                let rows = Array2::from_shape_fn((mdp.n_states(), 2), |(_, a)| [1.0 - p, p][a]);
                TabularPolicy::from_probs(&rows).unwrap()
            };
            let (mu, star) = (constant(0.25), constant(good));
            let law = DataLaw::Policy(&mu);
            let number = |key: &str| want[key].as_f64().unwrap();
            let c_sa = pair_coverage(&mdp, &star, law).unwrap();
            close(name, c_sa.value, number("C_sa"));
            let c_tau = trajectory_coverage(&mdp, &star, law).unwrap();
            close(name, c_tau.value, number("C_tau"));
            assert!(c_tau.at.steps().iter().all(|step| step.1 == ActionIx(1)));
            let chi2 = (good * good / 0.25 + (1.0 - good).powi(2) / 0.75).powi(h as i32) - 1.0;
            close(name, chi_square_coverage(&mdp, &star, law).unwrap(), chi2);
            let one_hot = DenseFeatures::tabulate(&rto::features::OneHot {
                n_states: mdp.n_states(),
                n_actions: 2,
            });
            let linear = LinearCoverage::of(&mdp, law, &one_hot).unwrap();
            let mean = |p: &TabularPolicy| visitation(&mdp, p).unwrap().features(&one_hot).unwrap();
            let psi: Vec<f64> = mean(&star)
                .iter()
                .zip(mean(&mu))
                .map(|(a, b)| a - b)
                .collect();
            close(name, linear.at(&psi).unwrap().value, number("C_lin"));
        }
    }
}

fn instance(i: u64) -> (Instance, SeedTree) {
    let kinds = [
        Kind::Tree { eos: true },
        Kind::Layered { width: 3 },
        Kind::Stochastic { width: 3 },
    ];
    let spec = RandomSpec {
        kind: kinds[(i % 3) as usize],
        prompts: 1 + (i / 3 % 2) as usize,
        actions: 2,
        horizon: 1 + (i / 6 % 3) as usize,
        dim: 2 + (i % 4) as usize,
        beta: 0.3,
        theta_norm: 2.0,
        zeros: if i.is_multiple_of(4) { 0.3 } else { 0.0 },
    };
    let seeds = SeedTree::new(15).child("data coverage").index(i);
    (random_instance(&spec, &seeds).unwrap(), seeds)
}

type Steps = Vec<(StateIx, ActionIx)>;

/// Every trajectory with its probability, by enumeration.
fn all(mdp: &TabularMdp, policy: &TabularPolicy) -> Vec<(Steps, f64)> {
    let mut out = Vec::new();
    let mut open: Vec<(Steps, StateIx, f64)> =
        mdp.roots().map(|(s, p)| (Vec::new(), s, p)).collect();
    while let Some((steps, s, p)) = open.pop() {
        if s == StateIx::END {
            out.push((steps, p));
            continue;
        }
        for a in (0..mdp.n_actions() as u32).map(ActionIx) {
            let (next, prob) = mdp.successors(s, a);
            for (to, q) in next.iter().zip(prob).filter(|(_, q)| **q > 0.0) {
                let mut steps = steps.clone();
                steps.push((s, a));
                open.push((steps, *to, p * policy.prob(s, a) * q));
            }
        }
    }
    out
}

/// The same value, or both infinite.
fn same(what: &str, got: f64, want: f64) {
    assert!(
        got == want || (got - want).abs() <= 1e-9 * want.abs().max(1.0),
        "{what}: {got} and {want}"
    );
}

#[test]
fn brute_force_on_random_tables() {
    let (mut infinite, mut finite) = (0, 0);
    for i in 0..600 {
        let (g, seeds) = instance(i);
        let (mdp, reference) = (&g.mdp, &g.reference);
        let star = soft_value_iteration(Problem::new(mdp, reference, g.beta), &g.reward())
            .unwrap()
            .policy;
        let zeros = if i.is_multiple_of(3) { 0.2 } else { 0.0 };
        let mu = random_policy(mdp.n_states(), mdp.n_actions(), zeros, &seeds.child("mu"));
        let pairs =
            sample_preferences(mdp, &g.reward(), (&mu, &mu), 60, &seeds.child("pairs")).unwrap();
        let target = all(mdp, &star);
        let empirical = |steps: &[(StateIx, ActionIx)]| {
            let both = pairs.iter().flat_map(|p| [p.winner(), p.loser()]);
            both.filter(|t| t.steps() == steps).count() as f64 / (2.0 * pairs.len() as f64)
        };
        let of_mu = all(mdp, &mu);
        for law in [DataLaw::Policy(&mu), DataLaw::Pairs(&pairs)] {
            let p_mu = |k: usize| match law {
                DataLaw::Policy(_) => of_mu[k].1,
                DataLaw::Pairs(_) => empirical(&target[k].0),
            };
            let ratio = |k: usize| {
                if target[k].1 > 0.0 {
                    target[k].1 / p_mu(k)
                } else {
                    0.0
                }
            };
            let want = (0..target.len()).map(ratio).fold(0.0, f64::max);
            let got = trajectory_coverage(mdp, &star, law).unwrap();
            same("C_tau", got.value, want);
            let at = target.iter().position(|t| t.0 == got.at.steps()).unwrap();
            same("its response", ratio(at), want);
            if want == f64::INFINITY {
                infinite += 1;
                if matches!(law, DataLaw::Pairs(_)) {
                    let unseen = (0..target.len()).filter(|k| p_mu(*k) == 0.0);
                    let most = unseen.map(|k| target[k].1).fold(0.0, f64::max);
                    same("the most probable unseen", target[at].1, most);
                }
            } else {
                finite += 1;
            }
            let square = |k: usize| {
                if target[k].1 > 0.0 {
                    target[k].1.powi(2) / p_mu(k)
                } else {
                    0.0
                }
            };
            let chi2 = (0..target.len()).map(square).sum::<f64>() - 1.0;
            same("chi2", chi_square_coverage(mdp, &star, law).unwrap(), chi2);
            // Occupancies by enumeration.
            let occupancy = |probability: &dyn Fn(usize) -> f64| {
                let mut d = Array2::<f64>::zeros((mdp.n_states(), mdp.n_actions()));
                for (k, (steps, _)) in target.iter().enumerate() {
                    for (s, a) in steps {
                        d[[s.ix(), a.ix()]] += probability(k);
                    }
                }
                d
            };
            let (d, d_mu) = (occupancy(&|k| target[k].1), occupancy(&p_mu));
            let ratios = d.iter().zip(&d_mu).filter(|(d, _)| **d > 0.0);
            let want = ratios.map(|(d, m)| d / m).fold(0.0, f64::max);
            let got = pair_coverage(mdp, &star, law).unwrap();
            // Visits that add up to a rounding error of 0 are 0.
            same("C_sa", got.value, want);
            let (s, a) = got.at;
            same(
                "its pair",
                d[[s.ix(), a.ix()]] / d_mu[[s.ix(), a.ix()]],
                want,
            );
        }
        // E[xx'] of a policy, by enumeration over pairs of its trajectories.
        let dim = g.features.dim();
        let psi: Vec<Vec<f64>> = of_mu
            .iter()
            .map(|(steps, _)| {
                trajectory_features(
                    &g.features,
                    &Trajectory::try_new(mdp, steps.clone()).unwrap(),
                )
            })
            .collect();
        let mut want = DMatrix::<f64>::zeros(dim, dim);
        for (root, rho) in mdp.roots() {
            let of: Vec<usize> = (0..of_mu.len())
                .filter(|k| of_mu[*k].0[0].0 == root)
                .collect();
            for &j in &of {
                for &k in &of {
                    let weight = of_mu[j].1 * of_mu[k].1 / rho;
                    let x = DMatrix::from_fn(dim, 1, |r, _| psi[j][r] - psi[k][r]);
                    want += weight * &x * x.transpose();
                }
            }
        }
        let got = 2.0 * response_covariance(mdp, &mu, &g.features).unwrap();
        assert!((&got - &want).amax() < 1e-10, "instance {i}");
    }
    assert!(infinite > 100 && finite > 100, "{infinite} {finite}");
}

/// C_lin is the maximum of the ratio, w attains it, and Σ_D dominates N E[xx'].
#[test]
fn linear_coverage_is_a_maximum() {
    let mut rng = SeedTree::new(15).child("linear").rng();
    for i in 0..500u64 {
        let (g, seeds) = instance(i);
        let mu = random_policy(g.mdp.n_states(), g.mdp.n_actions(), 0.0, &seeds.child("mu"));
        let n = 1 + (i % 30) as usize;
        let pairs = sample_preferences(&g.mdp, &g.reward(), (&mu, &mu), n, &seeds).unwrap();
        let linear = LinearCoverage::of(&g.mdp, DataLaw::Pairs(&pairs), &g.features).unwrap();
        let matrix = linear.second_moment();
        let dim = g.features.dim();
        let v: Vec<f64> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let inner = |w: &[f64]| w.iter().zip(&v).map(|(a, b)| a * b).sum::<f64>();
        let quadratic = |w: &[f64]| {
            let w = nalgebra::DVector::from_column_slice(w);
            (w.transpose() * matrix * &w)[(0, 0)]
        };
        let got = linear.at(&v).unwrap();
        let length = got.at.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((length - 1.0).abs() < 1e-12);
        if got.value == f64::INFINITY {
            assert!(
                quadratic(&got.at) < 1e-12 && inner(&got.at) > 0.0,
                "instance {i}"
            );
            continue;
        }
        same(
            "attained",
            inner(&got.at).powi(2) / quadratic(&got.at),
            got.value,
        );
        for _ in 0..50 {
            let w: Vec<f64> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
            assert!(inner(&w).powi(2) <= got.value * quadratic(&w) * (1.0 + 1e-9));
        }
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let sigma = Metric::sigma_d(&design, 1e-6).unwrap();
        assert!(sigma.inverse_norm(&v) <= (got.value / n as f64).sqrt() * (1.0 + 1e-9));
        // The unit of a coordinate does not matter.
        let unit = |k: usize| [1e6, 1e-6, 1.0, 1e3, 1e-3][k % 5];
        let scaled = DMatrix::from_fn(dim, dim, |a, b| matrix[(a, b)] * unit(a) * unit(b));
        let far: Vec<f64> = v.iter().enumerate().map(|(k, x)| x * unit(k)).collect();
        same(
            "scaled",
            LinearCoverage::new(scaled).unwrap().at(&far).unwrap().value,
            got.value,
        );
    }
}

/// The table on which the closed form fails: its minimiser, by SciPy from many starts.
fn stochastic() -> (TabularMdp, TabularReward, TabularPolicy) {
    let row = |p: f64| vec![(StateIx(1), p), (StateIx(2), 1.0 - p)];
    let end = || vec![(StateIx::END, 1.0)];
    let rows = [row(0.5), row(0.9), end(), end(), end(), end()];
    let sparse = rto::mdp::SparseRows::try_new(2, &rows).unwrap();
    let transition = rto::mdp::Transition::Stochastic(sparse);
    let mdp = TabularMdp::try_new(2, vec![1.0, 0.0, 0.0], transition).unwrap();
    let reward = ndarray::array![[0.0, 0.0], [2.0, 1.0], [-1.0, -2.0]];
    let reward = TabularReward::try_new(reward).unwrap();
    (mdp, reward, TabularPolicy::uniform(3, 2))
}

#[test]
fn dpo_on_a_stochastic_table_misses_the_optimum() {
    let (mdp, reward, reference) = stochastic();
    let beta = Beta::try_new(0.5).unwrap();
    for (law, first, gap, loss) in [
        (PairLaw::Reference, 0.230_412, 0.092_053, 0.589_211_335_74),
        (PairLaw::Uniform, 0.5, 0.380_187, 33.226_215_130_3 / 56.0),
    ] {
        let got = population_dpo(Problem::new(&mdp, &reference, beta), &reward, law).unwrap();
        let p = got.policy.prob(StateIx(0), ActionIx(0));
        assert!((p - first).abs() < 1e-6, "{law:?}: {p}");
        let lost =
            suboptimality(Problem::new(&mdp, &reference, beta), &reward, &got.policy).unwrap();
        assert!((lost - gap).abs() < 1e-6, "{law:?}: {lost}");
        assert!((got.loss - loss).abs() < 1e-10, "{law:?}: {}", got.loss);
        assert!(got.gradient < 1e-11 && got.starts.0 > 1, "{got:?}");
    }
}

/// With deterministic transitions every law of pairs leads to the soft optimum.
#[test]
fn dpo_on_a_deterministic_table_is_the_soft_optimum() {
    let mut tried = 0;
    for i in 0..90 {
        let (g, _) = instance(i);
        if !g.mdp.is_deterministic() {
            continue;
        }
        tried += 1;
        let star = soft_value_iteration(g.problem(), &g.reward()).unwrap();
        for law in [PairLaw::Reference, PairLaw::Uniform] {
            let got = population_dpo(g.problem(), &g.reward(), law).unwrap();
            let d = visitation(&g.mdp, &star.policy).unwrap();
            let kl = d.kl(&g.mdp, &star.policy, &got.policy).unwrap();
            assert!(kl < 1e-9, "instance {i}, {law:?}: {kl}");
        }
    }
    assert_eq!(tried, 60);
}

#[test]
fn what_cannot_be_told_is_an_error() {
    let (mdp, reward, reference) = stochastic();
    let zero = Beta::try_new(0.0).unwrap();
    assert!(
        population_dpo(
            Problem::new(&mdp, &reference, zero),
            &reward,
            PairLaw::Uniform
        )
        .is_err()
    );
    let none: &[PreferencePair] = &[];
    assert!(pair_coverage(&mdp, &reference, DataLaw::Pairs(none)).is_err());
    let tree = TokenTree::try_new(1, 2, 12, None)
        .unwrap()
        .compile(&[1.0])
        .unwrap();
    let flat = TabularReward::try_new(Array2::zeros((tree.n_states(), 2))).unwrap();
    let uniform = TabularPolicy::uniform(tree.n_states(), 2);
    let beta = Beta::try_new(1.0).unwrap();
    let error = population_dpo(
        Problem::new(&tree, &uniform, beta),
        &flat,
        PairLaw::Reference,
    )
    .unwrap_err();
    assert!(error.to_string().contains("trajectories"), "{error}");
}

/// What is the same for every response has no variance, whatever rounding leaves of it: C_lin of it is infinite.
#[test]
fn a_feature_that_no_response_changes_is_not_covered() {
    let mdp = TokenTree::try_new(1, 3, 1, None)
        .unwrap()
        .compile(&[1.0])
        .unwrap();
    let mu = TabularPolicy::from_probs(&ndarray::array![[7.0 / 11.0, 1.0 / 11.0, 3.0 / 11.0]]);
    let mu = mu.unwrap();
    for c in [0.1, 0.25, 0.3, 1e6, 1e-6] {
        let flat = vec![c, 1.0, c, -2.0, c, 0.5];
        let features = DenseFeatures::try_new(1, 3, 2, flat).unwrap();
        let linear = LinearCoverage::of(&mdp, DataLaw::Policy(&mu), &features).unwrap();
        let at = linear.at(&[c, 0.3]).unwrap();
        assert_eq!(at.value, f64::INFINITY, "{c}");
        assert_eq!(at.at, [1.0, 0.0], "{c}");
        let mean: f64 = (7.0 - 2.0 + 1.5) / 11.0;
        let variance = (7.0 + 4.0 + 0.75) / 11.0 - mean * mean;
        same(
            "beside it",
            linear.at(&[0.0, 0.3]).unwrap().value,
            0.09 / (2.0 * variance),
        );
    }
}

/// The same where features are in different units: what no pair differs in is not small beside another feature.
#[test]
fn a_feature_in_small_units_is_not_covered_by_another() {
    let mdp = TokenTree::try_new(1, 2, 1, None)
        .unwrap()
        .compile(&[1.0])
        .unwrap();
    let features = DenseFeatures::try_new(1, 2, 2, vec![1e-7, 3e3, 1e-7, 1e3]).unwrap();
    let one = |a| Trajectory::try_new(&mdp, vec![(StateIx(0), ActionIx(a))]).unwrap();
    let pairs = [PreferencePair::try_new(one(0), one(1)).unwrap()];
    let uniform = TabularPolicy::uniform(1, 2);
    for law in [DataLaw::Pairs(&pairs), DataLaw::Policy(&uniform)] {
        let linear = LinearCoverage::of(&mdp, law, &features).unwrap();
        assert_eq!(linear.at(&[1e-7, 2e3]).unwrap().value, f64::INFINITY);
        // A difference of two expectations of it is rounding; a number of that size is not.
        let difference = linear.at_sum(&[1e-23, 2e3], &[1e-7, 4e3]).unwrap();
        assert!(difference.value.is_finite());
        assert_eq!(linear.at(&[1e-23, 2e3]).unwrap().value, f64::INFINITY);
    }
}

/// Rows x_i that are linearly independent and v = Σ c_i x_i: C_lin(v) = n Σ c_i²/w_i, whatever the weights w_i are, in whatever
/// units, and beside a feature that is a copy.
#[test]
fn pairs_that_weigh_next_to_nothing_cover_as_little_as_they_weigh() {
    let mut rng = SeedTree::new(15).child("weights").rng();
    let mut largest = 0.0f64;
    for i in 0..2000 {
        let (n, d) = (1 + i % 3, 4);
        let units = [2f64.powi(20), 1.0, 2f64.powi(-20), 1024.0];
        // θ gives the margins: row i is the only one with a part along its own coordinate of θ.
        let margins: Vec<f64> = (0..n)
            .map(|_| {
                if rng.random_bool(0.5) {
                    rng.random_range(0.0..1400.0)
                } else {
                    0.0
                }
            })
            .collect();
        let mut rows = vec![0.0; n * d];
        for (k, row) in rows.chunks_exact_mut(d).enumerate() {
            row[k] = [1.0, 2.0, 0.5][rng.random_range(0..3)];
        }
        let theta: Vec<f64> = (0..d)
            .map(|k| {
                if k < n {
                    margins[k] / rows[k * d + k]
                } else {
                    0.0
                }
            })
            .collect();
        // A triangular change of coordinates with small integers, which is exact, and its inverse transpose for θ.
        let mut theta = theta;
        for _ in 0..4 {
            let (a, b) = (rng.random_range(0..d - 1), rng.random_range(0..d - 1));
            if a != b {
                rows.chunks_exact_mut(d).for_each(|x| x[b] += x[a]);
                theta[a] -= theta[b];
            }
        }
        // The last feature is the sum of the first two.
        rows.chunks_exact_mut(d).for_each(|x| x[3] = x[0] + x[1]);
        for x in rows.chunks_exact_mut(d) {
            x.iter_mut().zip(units).for_each(|(x, u)| *x *= u);
        }
        theta.iter_mut().zip(units).for_each(|(t, u)| *t /= u);
        let design = Design::try_new(d, rows.clone()).unwrap();
        let z = design.margins(&theta).unwrap();
        let linear = LinearCoverage::of_design(&design, Some(&theta)).unwrap();
        let c: Vec<f64> = (0..n)
            .map(|_| f64::from(rng.random_range(-2..=2)))
            .collect();
        let mut v = vec![0.0; d];
        for (x, c) in rows.chunks_exact(d).zip(&c) {
            v.iter_mut().zip(x).for_each(|(v, x)| *v += c * x);
        }
        // 1/√σ′(z) = 2 cosh(z/2).
        let root = |i: usize| (n as f64).sqrt() * c[i].abs() * 2.0 * (0.5 * z[i]).cosh();
        let want = (0..n).map(root).fold(0.0, f64::hypot);
        let size: Vec<f64> = v.iter().map(|x| x.abs()).collect();
        let got = linear.root(&v, &size, &[0.0; 4]).unwrap().value;
        assert!(
            (got - want).abs() <= 1e-9 * want,
            "instance {i}: {got} {want}"
        );
        largest = largest.max(got);
        let at = linear.at(&v).unwrap();
        if want > 0.0 && want < 1e150 {
            same("squared", at.value, want * want);
            let length = at.at.iter().map(|x| x * x).sum::<f64>();
            assert!((length - 1.0).abs() < 1e-12, "instance {i}: {at:?}");
        }
        // Off the range: the last feature alone.
        assert_eq!(
            linear.at(&[0.0, 0.0, 0.0, 1.0]).unwrap().value,
            f64::INFINITY
        );
    }
    assert!(largest > 1e250, "{largest}");
}

/// π²/μ may be 0 in floating point where what follows is infinite: the product is infinite, not undefined.
#[test]
fn chi_square_is_infinite_where_a_rare_step_leads_to_what_was_never_seen() {
    let mdp = TokenTree::try_new(1, 2, 2, None)
        .unwrap()
        .compile(&[1.0])
        .unwrap();
    let rare = ndarray::array![[0.0, -500.0], [0.0, 0.0], [0.0, 0.0]];
    let target = TabularPolicy::from_logits(rare).unwrap();
    let mu = ndarray::array![[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]];
    let mu = TabularPolicy::from_probs(&mu).unwrap();
    let value = chi_square_coverage(&mdp, &target, DataLaw::Policy(&mu)).unwrap();
    assert_eq!(value, f64::INFINITY);
}

/// Pairs that weigh 0 in floating point cover nothing, beside a pair of a response with itself too, which has no direction.
#[test]
fn pairs_that_weigh_nothing_cover_nothing() {
    let design = Design::try_new(3, vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.5]).unwrap();
    let v = [0.0, 2.0, 1.0];
    let root = |theta: [f64; 3]| {
        let linear = LinearCoverage::of_design(&design, Some(&theta)).unwrap();
        linear.root(&v, &v, &[0.0; 3]).unwrap().value
    };
    assert_eq!(root([0.0, -1e7, 0.0]), f64::INFINITY);
    // v = 2x, and x weighs 1/4 in one pair of two.
    assert!((root([0.0; 3]) - 32f64.sqrt()).abs() < 1e-14);
}
