//! The three findings of `tests/golden/estimators.json` on the trees they were found on (`tests/golden/estimator_trees.json`).

use rto::algorithm2::KlPlacement;
use rto::audit::{
    Critic, Estimator, FixedPoint, Kl, Problem, Recipe, ResponseTree, Reward, Status, Summary,
    named,
};
use rto::objective::{Ratio, Surrogate};
use rto::token_reward::KlEstimator;
use serde_json::Value;

fn read(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// The trees with seeds in a range, with their logits.
fn trees(first: u64, n: u64, beta: f64) -> Vec<(Problem, Vec<f64>)> {
    let all = read("estimator_trees");
    let inside = |t: &&Value| (first..first + n).contains(&t["seed"].as_u64().unwrap());
    let of = |t: &Value| {
        let tree = match t["tree"].as_str().unwrap() {
            "A2H3eos1" => ResponseTree::try_new(2, 3, Some(1), &[1.0]),
            "A3H2eos2" => ResponseTree::try_new(3, 2, Some(2), &[1.0]),
            _ => ResponseTree::try_new(2, 4, None, &[1.0]),
        };
        let problem =
            Problem::try_new(tree.unwrap(), &numbers(&t["r"]), &numbers(&t["ref_logits"]));
        let problem = problem
            .unwrap()
            .with_dpo(&numbers(&t["dpo_logits"]), beta, 0.15);
        (problem.unwrap(), numbers(&t["theta"]))
    };
    let out: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(inside)
        .map(of)
        .collect();
    assert_eq!(out.len() as u64, n);
    out
}

fn median(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(x.len() - 1) / 2] + sorted[x.len() / 2]) / 2.0
}

#[track_caller]
fn close(what: &str, got: f64, want: &Value, tolerance: f64) {
    let want = want.as_f64().unwrap();
    let gap = (got - want).abs() / want.abs().max(1.0);
    assert!(gap <= tolerance, "{what}: {got}, expected {want}");
}

/// F1: SubOpt where the flow from π_ref ends.
#[test]
fn f1_where_recipes_end() {
    let findings = read("estimators")["findings"].clone();
    for finding in &findings.as_array().unwrap()[..2] {
        let beta = finding["beta"].as_f64().unwrap();
        for (name, want) in finding["table"].as_object().unwrap() {
            let (mut ratios, mut best, mut inside, mut outside) = (vec![], vec![], 0, 0);
            for (problem, _) in trees(1000, 30, beta) {
                let all = named(beta, 4, 4, problem.tree().horizon());
                let recipe = all.into_iter().find(|n| n.name == name).unwrap().recipe;
                let end = FixedPoint::find(&problem, &recipe, None).unwrap();
                inside += u64::from(end.status == Status::Interior);
                outside += u64::from(end.status == Status::Boundary);
                let at = |judged: f64, logits: &[f64]| {
                    let meant = Recipe {
                        meant_beta: Some(judged),
                        ..recipe.clone()
                    };
                    problem.suboptimality(&meant, logits).unwrap()
                };
                let ratio = |b: f64| at(b, &end.theta) / at(b, problem.reference());
                ratios.push(ratio(beta));
                let grid = (0..41).map(|k| ratio(beta * (-2.0 + 0.1 * f64::from(k)).exp()));
                best.push(grid.fold(f64::INFINITY, f64::min));
            }
            let what = format!("beta {beta}, {name}");
            assert_eq!(Value::from(inside), want["interior"], "{what}: interior");
            assert_eq!(Value::from(outside), want["boundary"], "{what}: boundary");
            let worse = ratios.iter().filter(|r| **r > 1.0).count() as u64;
            assert_eq!(
                Value::from(worse),
                want["worse_than_reference"],
                "{what}: worse"
            );
            // A limit at the boundary, or where the field turns without vanishing, is known to about 1e-5.
            let tolerance = if inside == 30 { 1e-8 } else { 1e-5 };
            close(&what, median(&ratios), &want["median"], tolerance);
            close(
                &what,
                median(&best),
                &want["median_at_best_beta"],
                tolerance,
            );
            let most = ratios.iter().copied().fold(0.0, f64::max);
            close(&what, most, &want["max"], tolerance);
        }
    }
}

fn rloo(placement: KlPlacement, estimator: KlEstimator) -> Recipe {
    Recipe {
        advantage: Estimator::LeaveOneOut,
        responses: 4,
        kl: Some(Kl {
            placement,
            estimator,
        }),
        beta: 0.3,
        ..Recipe::default()
    }
}

/// F2: bias and variance at θ, and the batch at which they are equal.
#[test]
fn f2_bias_against_variance() {
    let finding = read("estimators")["findings"][2].clone();
    let problems = trees(2000, 40, 0.3);
    let of = |name: &str| -> (Vec<f64>, Vec<f64>) {
        let scaled = problems.iter().map(|(problem, theta)| {
            let recipe = match name {
                "RLOO, k1 in reward" => rloo(KlPlacement::Reward, KlEstimator::K1),
                "RLOO, exact KL in reward and loss" => rloo(KlPlacement::Both, KlEstimator::Exact),
                _ => {
                    let all = named(0.3, 4, 4, problem.tree().horizon());
                    all.into_iter().find(|n| n.name == name).unwrap().recipe
                }
            };
            let at = Summary::at(problem, &recipe, theta, None, None)
                .unwrap()
                .scaled();
            (at.bias2, at.variance)
        });
        scaled.unzip()
    };
    for (name, want) in finding["table"].as_object().unwrap() {
        let (bias, variance) = of(name);
        close(name, median(&bias), &want["median_bias2"], 1e-9);
        close(name, median(&variance), &want["median_var"], 1e-9);
        if !want["median_n_star"].is_null() {
            let star: Vec<f64> = bias.iter().zip(&variance).map(|(b, v)| v / b).collect();
            close(name, median(&star), &want["median_n_star"], 1e-9);
        }
    }
    let (both, k1) = (
        of("RLOO, exact KL in reward and loss").1,
        of("RLOO, k1 in reward").1,
    );
    let ratio: Vec<f64> = both.iter().zip(&k1).map(|(a, b)| a / b).collect();
    close(
        "F2b",
        median(&ratio),
        &finding["var_ratio_exact_both_over_k1"],
        1e-9,
    );
    let fewer = ratio.iter().filter(|r| **r < 1.0).count() as u64;
    assert_eq!(
        Value::from(fewer),
        finding["trees_where_exact_both_has_less_variance"]
    );
}

/// F3: which λ of GAE errs least at π_ref.
#[test]
fn f3_lambda_for_dense_and_sparse_rewards() {
    let finding = read("estimators")["findings"][3].clone();
    let lambdas = numbers(&finding["lambdas"]);
    let problems = trees(3000, 30, 0.3);
    for (critic, by) in [("zero", Critic::Zero), ("offset", Critic::Offset(0.5))] {
        for (name, reward) in [
            ("dense (RTO)", Reward::Dpo),
            ("sparse (DPPO)", Reward::DpoAtEnd),
        ] {
            let parts: Vec<Vec<(f64, f64)>> = problems
                .iter()
                .map(|(problem, _)| {
                    let at = |lambda: &f64| {
                        let recipe = Recipe {
                            reward,
                            advantage: Estimator::Gae {
                                gamma: 1.0,
                                lambda: *lambda,
                                critic: by.clone(),
                            },
                            kl: rloo(KlPlacement::Reward, KlEstimator::K1).kl,
                            beta: 0.3,
                            surrogate: Surrogate {
                                ratio: Ratio::LogProb,
                                ..Surrogate::default()
                            },
                            ..Recipe::default()
                        };
                        let s =
                            Summary::at(problem, &recipe, problem.reference(), None, None).unwrap();
                        let gap = s.field.iter().zip(&s.target).map(|(g, t)| (g - t).powi(2));
                        (gap.sum::<f64>(), s.trace_unit)
                    };
                    lambdas.iter().map(at).collect()
                })
                .collect();
            for n in [16.0, 64.0, 256.0, 4096.0] {
                let key = format!("{critic} critic, {name}, n={n}");
                let want = &finding["table"][&key];
                let (mut best, mut over, mut cost) = (vec![], vec![], vec![]);
                for tree in &parts {
                    let error: Vec<f64> = tree.iter().map(|(b, v)| b + v / n).collect();
                    let least = error.iter().copied().fold(f64::INFINITY, f64::min);
                    best.push(lambdas[error.iter().position(|e| *e == least).unwrap()]);
                    over.push(least / error[6]);
                    cost.push(error[5] / error[6]);
                }
                close(&key, median(&best), &want["median_best_lambda"], 1e-9);
                let ones = best.iter().filter(|b| **b == 1.0).count() as f64 / 30.0;
                close(&key, ones, &want["share_best_is_1"], 1e-9);
                close(&key, median(&over), &want["median_mse_best_over_1"], 1e-9);
                close(&key, median(&cost), &want["median_mse_095_over_1"], 1e-9);
            }
        }
    }
}
