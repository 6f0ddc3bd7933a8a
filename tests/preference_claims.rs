//! Claims that need no sampling, or little: those of `preference_golden.json`, and identities that papers state.

use rand::Rng;
use rto::mdp::Beta;
use rto::numerics::{log_sigmoid, log_sum_exp, sigmoid};
use rto::preference::{
    Child, Method, Outcome, PairRow, PairTable, Penalty, PreferenceProblem, Responses,
    SupervisedBase, bradley_terry_scores, chi_plan, evaluate, penalised_fit, soft_optimum,
    tdpo_plan, tilt,
};
use rto::seed::SeedTree;
use serde_json::Value;

fn claims() -> Value {
    serde_json::from_str(include_str!("golden/preference_claims.json")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn tree(run: u64) -> (Responses, rand_chacha::ChaCha8Rng) {
    let mut rng = SeedTree::new(31).child("tree").index(run).rng();
    let (a, h, eos) =
        [(2, 3, None), (3, 2, Some(0)), (2, 4, Some(1)), (5, 1, None)][rng.random_range(0..4)];
    let branch: usize = a - usize::from(eos.is_some());
    let states: usize = (0..h as u32).map(|k| branch.pow(k)).sum();
    let mut reference = Vec::new();
    for _ in 0..states {
        let row: Vec<f64> = (0..a).map(|_| 0.05 + rng.random::<f64>()).collect();
        let total: f64 = row.iter().sum();
        reference.extend(row.iter().map(|p| p / total));
    }
    let rewards: Vec<f64> = (0..states * a).map(|_| rng.random::<f64>() - 0.5).collect();
    (
        Responses::try_new(a, h, eos, &reference, &rewards).unwrap(),
        rng,
    )
}

fn uniform(responses: &Responses) -> PairTable {
    let n = responses.len();
    PairTable::population(responses, &vec![1.0 / n as f64; n]).unwrap()
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|v| v * factor).collect()
}

/// K1: the regret of both methods at the best of the golden file's four hundred β.
#[test]
fn k1_is_reproduced_to_the_last_digit() {
    for row in claims()["K1_worst_tie"].as_array().unwrap() {
        let (n, gap) = (number(&row["n"]), number(&row["gap"]));
        let bandit =
            Responses::bandit(&[0.5, 0.5 - 1.0 / n, 1.0 / n], &[gap, 0.0, gap - 1.0]).unwrap();
        let scores = [gap, 0.0, 1.0];
        let mut best = [f64::INFINITY; 2];
        for k in 0..400 {
            let b = (3e-3f64.ln() + (30f64.ln() - 3e-3f64.ln()) * f64::from(k) / 399.0).exp();
            let beta = Beta::try_new(b).unwrap();
            let policies = [
                tilt(&bandit, &scaled(&scores, 1.0 / b)).unwrap(),
                chi_plan(&bandit, &scores, beta).unwrap().0,
            ];
            for (best, u) in best.iter_mut().zip(&policies) {
                *best = best.min(evaluate(&bandit, beta, u).unwrap().plain_regret);
            }
        }
        for (got, key) in best.iter().zip(["dpo_best", "chipo_best"]) {
            let want = number(&row[key]);
            assert!((got - want).abs() < 1e-12, "{key} at n = {n}: {got} {want}");
        }
    }
}

/// K8 with the golden file's constrained solution: RPO's reward is the one of least V* − E_base R in the likelihood ball.
#[test]
fn k8_is_the_constrained_problem() {
    let all: Value = serde_json::from_str(include_str!("golden/preference.json")).unwrap();
    let want = &claims()["K8_rpo_is_penalised_b1"];
    let reference = [0.55, 0.25, 0.15, 0.05];
    let bandit = Responses::bandit(&reference, &[0.0, 0.6, 1.0, 1.5]).unwrap();
    let list: Vec<(usize, usize)> = all["data"]["D_T5"]["pairs_winner_loser"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (number(&p[0]) as usize, number(&p[1]) as usize))
        .collect();
    let pairs = PairTable::from_counts(4, &list).unwrap();
    let beta = Beta::try_new(0.3).unwrap();
    let penalty = Penalty::Supervised {
        eta: 0.1,
        base: reference.to_vec(),
    };
    let found = penalised_fit(&bandit, &pairs, beta, &penalty, &[0.0; 4]).unwrap();
    let reward = scaled(&found.exponent, beta.get());
    let likelihood = |r: &[f64]| -> f64 {
        let term = |row: &PairRow| {
            let m = r[row.first] - r[row.second];
            let (p, q) = (row.preference, 1.0 - row.preference);
            -row.weight * (p * log_sigmoid(m) + q * log_sigmoid(-m))
        };
        pairs.rows().iter().map(term).sum()
    };
    let ball = likelihood(&reward) - bradley_terry_scores(&pairs, 0.0).unwrap().certificate.loss;
    assert!((ball - number(&want["ball"])).abs() < 1e-12, "{ball}");
    for (y, r) in reward.iter().enumerate() {
        assert!((r - number(&want["reward_rpo"][y])).abs() < 1e-10);
        // The other solver is SLSQP, at 2e-9.
        assert!((r - number(&want["reward_constrained"][y])).abs() < 5e-9);
    }
}

/// K7: no loss at H = 1, and within sampling error of the golden file's share beyond.
#[test]
fn k7_keeps_the_golden_files_share() {
    let beta = Beta::try_new(0.2).unwrap();
    for row in claims()["K7_tdpo1"]["rows"].as_array().unwrap() {
        let h = number(&row["H"]) as usize;
        let (mut own, mut of_reference) = (Vec::new(), Vec::new());
        for run in 0..200 {
            let mut rng = SeedTree::new(32).child("k7").index(run).rng();
            let states = (1 << h) - 1;
            let mut reference = Vec::new();
            for _ in 0..states {
                let p = (rng.random::<f64>() + 1e-3) / (1.0 + 2e-3);
                reference.extend([p, 1.0 - p]);
            }
            let normal = rand_distr::StandardNormal;
            let rewards: Vec<f64> = (0..2 * states)
                .map(|_| rng.sample::<f64, _>(normal) / (h as f64).sqrt())
                .collect();
            let tree = Responses::try_new(2, h, None, &reference, &rewards).unwrap();
            let u = tdpo_plan(&tree, tree.rewards(), 1.0, beta).unwrap();
            own.push(evaluate(&tree, beta, &u).unwrap().subopt);
            let at = evaluate(&tree, beta, tree.log_reference()).unwrap();
            of_reference.push(at.subopt);
        }
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (m, want) = (mean(&own), number(&row["tdpo1"]));
        if h == 1 {
            assert!(m.abs() < 1e-14, "{m:e}");
            continue;
        }
        let variance = mean(&own.iter().map(|x| (x - m).powi(2)).collect::<Vec<_>>());
        // 200 trees here, 60 there.
        let error = (variance / 200.0 + variance / 60.0).sqrt();
        assert!(
            (m - want).abs() < 4.0 * error,
            "H = {h}: {m}, {want} ± {error}"
        );
        assert!(m / mean(&of_reference) > 0.02);
    }
}

/// β log π*/π_ref = Q* − V* at every token; V* is β log E_ref e^{Z/β} without bootstrapping; the token-wise mix of DPO's policy
/// and π_ref is optimal at one step, or at equal β, and not otherwise.
#[test]
fn identities_of_tokens_hold() {
    let mut apart = 0;
    for run in 0..60 {
        let (tree, mut rng) = tree(run);
        let b = rng.random_range(0.1..1.0);
        let beta = Beta::try_new(b).unwrap();
        let a = tree.n_actions();
        let star = soft_optimum(&tree, beta).0;
        let rows = tree.token_rows(&star);
        let mut value = vec![0.0; tree.prefixes().len()];
        for s in (0..value.len()).rev() {
            let next = |k: usize| match tree.child(s, k) {
                Child::Prefix(t) => value[t],
                Child::Response(y) => tree.rewards()[y],
            };
            let q: Vec<f64> = (0..a).map(next).collect();
            let weights: Vec<f64> = (0..a)
                .map(|k| tree.reference_rows()[s * a + k] + q[k] / b)
                .collect();
            value[s] = b * log_sum_exp(&weights);
            for k in 0..a {
                let implicit = b * (rows[s * a + k] - tree.reference_rows()[s * a + k]);
                assert!((implicit - (q[k] - value[s])).abs() < 1e-11);
            }
            // Over whole completions.
            let prefix = &tree.prefixes()[s];
            let direct: Vec<f64> = (0..tree.len())
                .filter(|&y| tree.responses()[y].starts_with(prefix))
                .map(|y| {
                    let path = &tree.path(y)[prefix.len()..];
                    let u: f64 = path
                        .iter()
                        .map(|&(s, k)| tree.reference_rows()[s * a + k])
                        .sum();
                    u + tree.rewards()[y] / b
                })
                .collect();
            assert!((value[s] - b * log_sum_exp(&direct)).abs() < 1e-11);
        }
        for (kappa, exact) in [(1.0, true), (2.5, tree.horizon() == 1)] {
            let mut cells = Vec::new();
            for (own, reference) in rows.chunks(a).zip(tree.reference_rows().chunks(a)) {
                let mixed = own.iter().zip(reference).map(|(d, r)| r + kappa * (d - r));
                cells.extend(rto::preference::normalise(mixed.collect()));
            }
            let local = tree.response_log_probs(&cells);
            let exponent: Vec<f64> = star
                .iter()
                .zip(tree.log_reference())
                .map(|(u, v)| kappa * (u - v))
                .collect();
            let global = tilt(&tree, &exponent).unwrap();
            let gap = local
                .iter()
                .zip(&global)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            if exact {
                assert!(gap < 1e-11, "{run}: {gap:e}");
            } else {
                apart += usize::from(gap > 1e-3);
            }
        }
    }
    assert!(apart > 30, "{apart}");
}

/// The mean of N·SubOpt over draws tends to tr(Cov_{π*} I⁻¹)/(2β); two responses, where the trace is a number.
#[test]
fn the_fast_rate_has_its_constant() {
    let (gap, b, q) = (0.7, 0.4, 0.3);
    let bandit = Responses::bandit(&[1.0 - q, q], &[0.0, gap]).unwrap();
    let beta = Beta::try_new(b).unwrap();
    let star = soft_optimum(&bandit, beta).0[1].exp();
    let p = sigmoid(gap);
    let limit = star * (1.0 - star) / (p * (1.0 - p)) / (2.0 * b);
    let mut ratios = Vec::new();
    for n in [1_000u64, 10_000, 100_000] {
        let (mut sum, runs) = (0.0, 4000);
        for run in 0..runs {
            let mut rng = SeedTree::new(33).child("rate").index(run).rng();
            let wins: u64 = rng.sample(rand_distr::Binomial::new(n, p).unwrap());
            let frequency = wins as f64 / n as f64;
            let d = (frequency / (1.0 - frequency)).ln();
            let policy = tilt(&bandit, &[0.0, d / b]).unwrap();
            sum += evaluate(&bandit, beta, &policy).unwrap().subopt;
        }
        ratios.push(n as f64 * sum / f64::from(runs as u32) / limit);
    }
    // The mean of a χ²₁ over 4000 draws is known to 2.2 %.
    assert!((ratios[2] - 1.0).abs() < 0.09, "{ratios:?}");
}

/// At the exact optimum of the population the chosen responses are less likely than before in most instances under DPO, and in
/// few under DPOP.
#[test]
fn chosen_responses_fall_under_dpo_and_less_under_dpop() {
    let beta = Beta::try_new(0.2).unwrap();
    let (mut falls, mut sums) = ([0; 2], [0.0; 2]);
    for run in 0..200 {
        let (tree, _) = tree(1000 + run);
        let tree = tree.with_rewards(&scaled(tree.rewards(), 3.0)).unwrap();
        let pairs = uniform(&tree);
        let problem = PreferenceProblem::try_new(&tree, &pairs, beta).unwrap();
        let chosen = pairs.chosen();
        for (k, method) in [Method::Dpo, Method::Dpop { lambda: 5.0 }]
            .iter()
            .enumerate()
        {
            let Outcome::Solved(solved) = problem.solve(method).unwrap() else {
                panic!("{method:?}");
            };
            let change = solved.log_policy.iter().zip(tree.log_reference());
            let moved: f64 = change.zip(&chosen).map(|((u, v), c)| c * (u - v)).sum();
            falls[k] += usize::from(moved < 0.0);
            sums[k] += moved;
        }
    }
    assert!(falls[0] > 100 && falls[1] < 50, "{falls:?}");
    assert!(sums[0] < 0.0 && sums[1] > 0.0, "{sums:?}");
}

/// The gradient of VPO's offline objective in R, written out, is 0 at RPO's minimiser.
#[test]
fn vpo_offline_is_rpo() {
    for run in 0..60 {
        let (tree, mut rng) = tree(2000 + run);
        let (n, pairs) = (tree.len(), uniform(&tree));
        let (b, alpha) = (rng.random_range(0.1..1.0), rng.random_range(0.01..0.5));
        let beta = Beta::try_new(b).unwrap();
        let problem = PreferenceProblem::try_new(&tree, &pairs, beta).unwrap();
        let base = SupervisedBase::Reference;
        let Outcome::Solved(rpo) = problem.solve(&Method::Rpo { eta: alpha, base }).unwrap() else {
            panic!("RPO has a minimiser");
        };
        let reward: Vec<f64> = (0..n)
            .map(|y| b * (rpo.log_policy[y] - tree.log_reference()[y]))
            .collect();
        let planned = soft_optimum(&tree.with_rewards(&reward).unwrap(), beta).0;
        let mut gradient: Vec<f64> = (0..n)
            .map(|y| alpha * (planned[y].exp() - tree.log_reference()[y].exp()))
            .collect();
        for row in pairs.rows() {
            let slope =
                row.weight * (sigmoid(reward[row.first] - reward[row.second]) - row.preference);
            gradient[row.first] += slope;
            gradient[row.second] -= slope;
        }
        assert!(
            gradient.iter().all(|g| g.abs() < 1e-12),
            "{run}: {gradient:?}"
        );
    }
}
