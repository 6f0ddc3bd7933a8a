//! Behaviour policies of controlled coverage, and preferences drawn from two of them.

use rto::Error;
use rto::estimate::{Design, preference_probability, sample_preferences};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{TabularPolicy, Trajectory, for_each_trajectory};
use rto::plan::{
    Truth, concentrability, covering_behaviour, mix_occupancies, soft_value_iteration, visitation,
};
use rto::reward::{RewardFunction, TabularReward};
use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance, random_policy};

fn instance(i: u64) -> Instance {
    let kinds = [
        Kind::Tree { eos: false },
        Kind::Tree { eos: true },
        Kind::Layered { width: 4 },
        Kind::Stochastic { width: 4 },
    ];
    let spec = RandomSpec {
        kind: kinds[(i % 4) as usize],
        prompts: 2,
        actions: 3,
        horizon: 1 + (i / 4 % 4) as usize,
        dim: 3,
        beta: [0.05, 0.3, 1.0][(i % 3) as usize],
        theta_norm: 2.0,
        zeros: if i.is_multiple_of(5) { 0.3 } else { 0.0 },
    };
    random_instance(&spec, &SeedTree::new(11).child("coverage").index(i)).unwrap()
}

#[test]
fn the_occupancy_is_the_mixture_and_bounds_the_ratio() {
    for i in 0..120 {
        let g = instance(i);
        let star = soft_value_iteration(g.problem(), &g.reward()).unwrap();
        let against = TabularReward::try_new(-g.reward().tabulate().values()).unwrap();
        let worst = soft_value_iteration(g.problem(), &against).unwrap();
        let best = visitation(&g.mdp, &star.policy).unwrap().pair;
        let bad = visitation(&g.mdp, &worst.policy).unwrap().pair;
        for c in [0.0, 0.01, 0.3, 1.0] {
            let mu = covering_behaviour(g.problem(), &g.reward(), c).unwrap();
            let d = visitation(&g.mdp, &mu).unwrap().pair;
            for ((x, p), q) in d.iter().zip(&best).zip(&bad) {
                let want = c * p + (1.0 - c) * q;
                assert!((x - want).abs() < 1e-13, "instance {i}, c = {c}");
            }
            let ratio = concentrability(&g.mdp, &star.policy, &mu).unwrap();
            assert!(ratio <= (1.0 + 1e-12) / c, "instance {i}, c = {c}: {ratio}");
            assert!(
                ratio >= 1.0 - 1e-12,
                "both occupancies have the same prompts"
            );
        }
    }
}

/// E_{d*}[φ] − E_{d^{π_ref}}[φ] as one expectation is the difference of two, within the bounds on their rounding; of features that
/// tell prompts apart and no two actions exactly 0 is left, with nothing for rounding.
#[test]
fn what_prompts_share_leaves_no_rounding_in_a_difference_of_expectations() {
    for i in 0..120 {
        let g = instance(i);
        let truth = Truth::new(g.problem(), g.reward(), None).unwrap();
        let over = truth.expectation_over_reference(&g.features).unwrap();
        let psi = truth.expectation(&g.features).unwrap();
        let reference = visitation(&g.mdp, g.problem().reference).unwrap();
        let nu = reference.features(&g.features).unwrap();
        for (k, nu) in nu.iter().enumerate() {
            let off = over.rounding[k] + psi.rounding[k] + 1e-14 * over.size[k];
            let want = psi.value[k] - nu;
            let got = over.value[k];
            assert!((got - want).abs() <= off, "instance {i}: {got} {want}");
            assert!(over.rounding[k] <= 1e-11 * over.size[k], "instance {i}");
        }
        let (n, na) = (g.mdp.n_states(), g.mdp.n_actions());
        let roots: Vec<usize> = g.mdp.roots().map(|(s, _)| s.ix()).collect();
        let of_root = |s: usize, _, k: usize| {
            let root = roots.iter().position(|r| *r == s);
            root.map_or(0.0, |root| 0.1 * (1 + root + k) as f64)
        };
        let constant = DenseFeatures::from_fn(n, na, 2, of_root).unwrap();
        let over = truth.expectation_over_reference(&constant).unwrap();
        assert_eq!(over.value, [0.0; 2], "instance {i}");
        assert_eq!(over.rounding, [0.0; 2], "instance {i}");
        assert!(over.size.iter().all(|x| *x > 0.1), "instance {i}");
    }
}

/// Where the adversary never does what the optimum does, 1/c is attained.
#[test]
fn the_ratio_is_attained_when_the_policies_part() {
    let g = instance(0);
    let first = TabularPolicy::from_logits(one_action(&g, 0)).unwrap();
    let second = TabularPolicy::from_logits(one_action(&g, 1)).unwrap();
    let mu = mix_occupancies(&g.mdp, (&first, &second), 0.25).unwrap();
    let ratio = concentrability(&g.mdp, &first, &mu).unwrap();
    assert!((ratio - 4.0).abs() < 1e-12, "{ratio}");
    assert_eq!(
        concentrability(&g.mdp, &first, &second).unwrap(),
        f64::INFINITY
    );
    for c in [-0.1, 1.1, f64::NAN] {
        let refused = mix_occupancies(&g.mdp, (&first, &second), c);
        assert!(matches!(refused, Err(Error::Config { .. })), "{c}");
    }
}

fn one_action(g: &Instance, action: usize) -> ndarray::Array2<f64> {
    ndarray::Array2::from_shape_fn((g.mdp.n_states(), g.mdp.n_actions()), |(_, a)| {
        if a == action { 0.0 } else { f64::NEG_INFINITY }
    })
}

/// Every trajectory from each prompt, with ρ.
fn responses(g: &Instance) -> Vec<(f64, Vec<Trajectory>)> {
    let mut out = Vec::new();
    for (root, rho) in g.mdp.roots() {
        let mut all = Vec::new();
        for_each_trajectory(&g.mdp, root, |steps| {
            all.push(Trajectory::try_new(&g.mdp, steps.to_vec()).unwrap());
        })
        .unwrap();
        out.push((rho, all));
    }
    out
}

/// τ¹ ∼ μ₁, τ² ∼ μ₂ and the label of (3.1): the mean of ψ(τ^w) − ψ(τ^l), and how often the winner has a given
/// trait of one side, against sums over all pairs of responses. Swapping or sharing the policies moves both.
#[test]
fn two_behaviour_policies_give_the_expected_pairs() {
    const N: usize = 40_000;
    for i in [8, 9, 13] {
        let g = instance(i);
        let seeds = SeedTree::new(5).child("two policies").index(i);
        let shape = (g.mdp.n_states(), g.mdp.n_actions());
        let mu = covering_behaviour(g.problem(), &g.reward(), 0.2).unwrap();
        let other = random_policy(shape.0, shape.1, 0.0, &seeds.child("other"));
        let mut moments = Moments::new(g.features.dim());
        for (rho, all) in responses(&g) {
            for first in &all {
                for second in &all {
                    let p = rho * (first.log_prob(&mu) + second.log_prob(&other)).exp();
                    let wins = preference_probability(&g.reward(), first, second);
                    moments.add(p * wins, &difference(&g, first, second), first == second);
                    moments.add(
                        p * (1.0 - wins),
                        &difference(&g, second, first),
                        first == second,
                    );
                }
            }
        }
        assert!((moments.mass - 1.0).abs() < 1e-12);
        let pairs = sample_preferences(&g.mdp, &g.reward(), (&mu, &other), N, &seeds.child("draw"))
            .unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        for k in 0..g.features.dim() {
            let mean = (0..N).map(|j| design.row(j)[k]).sum::<f64>() / N as f64;
            z_bound(i, mean, moments.first[k], moments.second[k], N);
        }
        let same = pairs.iter().filter(|p| p.winner() == p.loser()).count() as f64 / N as f64;
        z_bound(i, same, moments.same, moments.same, N);
    }
}

/// |mean − E| ≤ 4.5 standard errors, from exact first and second moments.
fn z_bound(i: u64, mean: f64, first: f64, second: f64, n: usize) {
    let error = ((second - first * first) / n as f64).sqrt();
    assert!(
        (mean - first).abs() <= 4.5 * error,
        "instance {i}: mean {mean}, expected {first}, standard error {error}"
    );
}

fn difference(g: &Instance, winner: &Trajectory, loser: &Trajectory) -> Vec<f64> {
    let mut out = vec![0.0; g.features.dim()];
    for &(s, a) in winner.steps() {
        g.features.add(s, a, 1.0, &mut out);
    }
    for &(s, a) in loser.steps() {
        g.features.add(s, a, -1.0, &mut out);
    }
    out
}

/// Exact moments of ψ(τ^w) − ψ(τ^l), and the probability that both responses are the same.
struct Moments {
    mass: f64,
    first: Vec<f64>,
    second: Vec<f64>,
    same: f64,
}

impl Moments {
    fn new(dim: usize) -> Self {
        Self {
            mass: 0.0,
            first: vec![0.0; dim],
            second: vec![0.0; dim],
            same: 0.0,
        }
    }

    fn add(&mut self, p: f64, x: &[f64], same: bool) {
        self.mass += p;
        self.same += if same { p } else { 0.0 };
        for (k, x) in x.iter().enumerate() {
            self.first[k] += p * x;
            self.second[k] += p * x * x;
        }
    }
}
