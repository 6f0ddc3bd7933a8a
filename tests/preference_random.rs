//! Exact preference optimisation on random instances: fits converge, and identities between methods hold.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto::mdp::Beta;
use rto::preference::{
    Method, Outcome, PairTable, Penalty, PreferenceProblem, Responses, SupervisedBase,
    bounded_scores, penalised_fit, tilt,
};
use rto::seed::SeedTree;

/// A random tree with rows of π_ref as concentrated as `sharp` says, and rewards of spread `scale`.
fn tree(rng: &mut ChaCha8Rng) -> Responses {
    let (a, h, eos) =
        [(2, 3, None), (4, 2, None), (3, 2, Some(0)), (6, 1, None)][rng.random_range(0..4)];
    let branch = a - usize::from(eos.is_some());
    let states: usize = (0..h as u32).map(|k| branch.pow(k)).sum();
    let sharp = 10f64.powf(rng.random_range(-0.5..1.0));
    let scale = 10f64.powf(rng.random_range(-1.0..0.7));
    let mut reference = Vec::new();
    for _ in 0..states {
        let row: Vec<f64> = (0..a)
            .map(|_| (sharp * rng.random::<f64>()).exp())
            .collect();
        let total: f64 = row.iter().sum();
        reference.extend(row.iter().map(|p| p / total));
    }
    let rewards: Vec<f64> = (0..states * a)
        .map(|_| scale * (rng.random::<f64>() - 0.5))
        .collect();
    Responses::try_new(a, h, eos, &reference, &rewards).unwrap()
}

fn draw(responses: &Responses, n: usize, rng: &mut ChaCha8Rng) -> PairTable {
    let r = responses.rewards();
    let mut pairs = Vec::new();
    while pairs.len() < n {
        let (y, z) = (rng.random_range(0..r.len()), rng.random_range(0..r.len()));
        if y != z {
            let first = rng.random::<f64>() < rto::numerics::sigmoid(r[y] - r[z]);
            pairs.push(if first { (y, z) } else { (z, y) });
        }
    }
    PairTable::from_counts(r.len(), &pairs).unwrap()
}

/// DPO against reward model + planning is a null comparison on tables: 1,000 instances, population and data.
#[test]
fn dpo_is_reward_model_and_planning() {
    let mut worst = 0.0f64;
    let mut met = 0;
    for seed in 0.. {
        if met == 1000 {
            break;
        }
        let mut rng = SeedTree::new(11).child("null").index(seed).rng();
        let responses = tree(&mut rng);
        let beta = Beta::try_new(10f64.powf(rng.random_range(-1.3..0.5))).unwrap();
        let n = rng.random_range(20..400);
        let pairs = if seed % 2 == 0 {
            PairTable::population(
                &responses,
                &vec![1.0 / responses.len() as f64; responses.len()],
            )
            .unwrap()
        } else {
            draw(&responses, n, &mut rng)
        };
        let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
        let Ok(fit) = problem.fit() else { continue };
        let exponent: Vec<f64> = fit.scores.iter().map(|r| r / beta.get()).collect();
        let planned = tilt(&responses, &exponent).unwrap();
        // DPO's own loss, minimised in log-ratios without the detour through a reward.
        let none = Penalty::ReverseKl { lambda: 0.0 };
        let own =
            penalised_fit(&responses, &pairs, beta, &none, &vec![0.0; responses.len()]).unwrap();
        if !pairs.connected() {
            continue;
        }
        met += 1;
        let gap = own
            .log_policy
            .iter()
            .zip(&planned)
            .map(|(a, b)| (a.exp() - b.exp()).abs())
            .fold(0.0, f64::max);
        worst = worst.max(gap);
    }
    assert!(worst < 1e-10, "off by {worst:e}");
}

/// The class |t − t′| ≤ B has a minimiser on every table, separable and unconnected ones included, and the fit finds it: gradients
/// vanish but where a score is at its bound.
#[test]
fn bounded_fits_converge_on_every_table() {
    for seed in 0..3000 {
        let mut rng = SeedTree::new(13).child("bounded").index(seed).rng();
        let responses = tree(&mut rng);
        let n = rng.random_range(1..80);
        let pairs = draw(&responses, n, &mut rng);
        let bound = 10f64.powf(rng.random_range(-1.0..1.3));
        let fit = bounded_scores(&pairs, bound).unwrap_or_else(|e| panic!("{seed}: {e}"));
        let (low, high) = (
            fit.scores.iter().fold(f64::MAX, |m, s| m.min(*s)),
            fit.scores.iter().fold(f64::MIN, |m, s| m.max(*s)),
        );
        assert!(high - low <= bound * (1.0 + 1e-12), "{seed}");
        assert!(fit.kkt_inf <= 1e-9, "{seed}: {}", fit.kkt_inf);
    }
}

/// RPO is convex and has a minimiser on every table of pairs, separable ones included; so every fit converges, to a policy at
/// which its gradient in token logits vanishes.
#[test]
fn rpo_converges_on_every_table() {
    let mut failures = Vec::new();
    for seed in 0..2000 {
        let mut rng = SeedTree::new(12).child("rpo").index(seed).rng();
        let responses = tree(&mut rng);
        let beta = Beta::try_new(10f64.powf(rng.random_range(-1.5..0.5))).unwrap();
        let n = rng.random_range(1..60);
        let pairs = draw(&responses, n, &mut rng);
        let eta = 10f64.powf(rng.random_range(-2.5..0.5));
        let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
        match problem.solve(&Method::Rpo {
            eta,
            base: SupervisedBase::Reference,
        }) {
            Ok(Outcome::Solved(solved)) => {
                let gradient = solved
                    .certificates
                    .iter()
                    .find(|c| c.0 == "token_grad_inf")
                    .unwrap()
                    .1;
                if gradient > 1e-10 {
                    failures.push(format!("{seed}: gradient {gradient:e}"));
                }
            }
            other => failures.push(format!("{seed}: beta {beta:?} eta {eta} n {n}: {other:?}")),
        }
    }
    assert!(
        failures.is_empty(),
        "{} of 2000: {:#?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
}

/// HyPO's loss is not convex; where the pairs are connected and overlap it has a minimiser, and one is found.
#[test]
fn hypo_converges_where_a_minimiser_exists() {
    let (mut failures, mut met) = (Vec::new(), 0);
    for seed in 0..2000 {
        let mut rng = SeedTree::new(13).child("hypo").index(seed).rng();
        let responses = tree(&mut rng);
        let beta = Beta::try_new(10f64.powf(rng.random_range(-1.5..0.5))).unwrap();
        let n = rng.random_range(20..400);
        let pairs = draw(&responses, n, &mut rng);
        if !(pairs.connected() && pairs.has_maximum()) {
            continue;
        }
        met += 1;
        let lambda = 10f64.powf(rng.random_range(-4.0..0.0));
        let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
        match problem.solve(&Method::HyPo { lambda }) {
            Ok(Outcome::Solved(solved)) => {
                let gradient = solved
                    .certificates
                    .iter()
                    .find(|c| c.0 == "token_grad_inf")
                    .unwrap()
                    .1;
                if gradient > 1e-10 {
                    failures.push(format!("{seed}: gradient {gradient:e}"));
                }
            }
            other => {
                let penalty = Penalty::ReverseKl { lambda };
                let raw = penalised_fit(
                    &responses,
                    &pairs,
                    beta,
                    &penalty,
                    &vec![0.0; responses.len()],
                )
                .unwrap();
                failures.push(format!(
                    "{seed}: beta {beta:?} lambda {lambda} n {n}: {other:?} {raw:?}"
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {met}: {:#?}",
        failures.len(),
        &failures[..failures.len().min(3)]
    );
}

/// On separable pairs the boundary attracts HyPO below β = 1 and repels it from there on: no minimiser, or one with all masses positive.
#[test]
fn hypo_on_separable_pairs_has_a_minimiser_from_beta_1_on() {
    let (mut without, mut with) = (0, 0);
    for seed in 0..400 {
        let mut rng = SeedTree::new(14).child("separable").index(seed).rng();
        let responses = tree(&mut rng);
        let n = responses.len();
        // A chain of wins through all responses, and more of the same order.
        let mut list: Vec<(usize, usize)> = (1..n).map(|y| (y, y - 1)).collect();
        for _ in 0..n {
            let (y, z) = (rng.random_range(0..n), rng.random_range(0..n));
            if y != z {
                list.push((y.max(z), y.min(z)));
            }
        }
        let pairs = PairTable::from_counts(n, &list).unwrap();
        assert!(pairs.connected() && !pairs.has_maximum());
        let lambda = 10f64.powf(rng.random_range(-2.0..0.0));
        let b = [rng.random_range(0.1..0.8), rng.random_range(1.0..2.0)][(seed % 2) as usize];
        let beta = Beta::try_new(b).unwrap();
        let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
        match problem.solve(&Method::HyPo { lambda }).unwrap() {
            Outcome::Solved(solved) => {
                with += 1;
                // Where there is one below β = 1 it is no better hidden than this: all masses within reach of the reference's.
                let ratio = |y: usize| solved.log_policy[y] - responses.log_reference()[y];
                let least = (0..n).map(ratio).fold(f64::INFINITY, f64::min);
                let gradient = solved.certificates.iter();
                let gradient = gradient
                    .clone()
                    .find(|c| c.0 == "token_grad_inf")
                    .unwrap()
                    .1;
                assert!(gradient < 1e-10, "{seed}: {gradient:e}");
                assert!(b >= 1.0 || least > -60.0, "{seed}: beta {b}, {least}");
            }
            Outcome::NoMinimiser(why) => {
                without += 1;
                assert!(
                    b < 1.0 && why.contains("separable"),
                    "{seed}: beta {b}, {why}"
                );
            }
        }
    }
    assert!(
        without >= 150 && with >= 200,
        "{without} without, {with} with"
    );
}
