use super::super::{Critic, Kl, Recipe, Reward};
use super::*;
use crate::algorithm2::KlPlacement;
use crate::token_reward::KlEstimator;

fn table(n: usize, f: f64) -> Vec<f64> {
    (0..n).map(|k| (f * k as f64 + f).sin()).collect()
}

fn problem(actions: usize, horizon: usize, eos: Option<usize>, weights: &[f64]) -> Problem {
    let tree = ResponseTree::try_new(actions, horizon, eos, weights).unwrap();
    let n = tree.n_pairs();
    Problem::try_new(tree, &table(n, 1.7), &table(n, 0.4)).unwrap()
}

fn recipe(advantage: Estimator, responses: usize) -> Recipe {
    Recipe {
        reward: Reward::Token,
        kl: Some(Kl {
            placement: KlPlacement::Reward,
            estimator: KlEstimator::K1,
        }),
        beta: 0.3,
        advantage,
        responses,
        ..Recipe::default()
    }
}

fn gae(lambda: f64, states: usize) -> Estimator {
    Estimator::Gae {
        gamma: 1.0,
        lambda,
        critic: Critic::Given(table(states, 2.3)),
    }
}

fn same(found: &Summary, expected: &Summary) {
    assert_eq!(found.responses_per_unit, expected.responses_per_unit);
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{a} {b}");
    for (a, b) in found.field.iter().zip(&expected.field) {
        close(*a, *b);
    }
    close(found.trace_unit, expected.trace_unit);
    close(found.cosine, expected.cosine);
}

/// Without whitening a response of a batch is a response alone, and the moments give what the enumeration of groups gives: prompts that differ, responses
/// that end early.
#[test]
fn moments_are_what_enumeration_gives() {
    for (actions, horizon, eos, weights) in [
        (2, 3, Some(1), &[0.7, 0.3][..]),
        (3, 2, None, &[1.0][..]),
        (2, 3, None, &[0.4, 0.6][..]),
    ] {
        let problem = problem(actions, horizon, eos, weights);
        let theta = table(problem.tree().n_pairs(), 1.3);
        let states = problem.tree().n_states();
        let mut all = vec![
            recipe(gae(0.8, states), 1),
            recipe(Estimator::RewardToGo, 1),
            recipe(Estimator::Greedy, 1),
        ];
        all.extend([2, 3, 4].map(|g| recipe(Estimator::LeaveOneOut, g)));
        let mut means = vec![Aggregation::Constant { length: horizon }];
        if eos.is_none() {
            means.extend([Aggregation::SequenceMean, Aggregation::TokenMean]);
        }
        for aggregation in means {
            all.push(Recipe {
                aggregation,
                ..recipe(Estimator::LeaveOneOut, 3)
            });
        }
        for recipe in all {
            let found = Summary::in_a_large_batch(&problem, &recipe, &theta).unwrap();
            let expected = Summary::at(&problem, &recipe, &theta, None, None).unwrap();
            assert!(expected.trace_unit > 1e-3);
            same(&found, &expected);
            assert!((found.noise() - expected.noise()).abs() < 1e-9 * expected.noise());
        }
    }
}

/// With whitening, batches that are enumerated approach it as one over their size: what is left without the terms in 1/B and 1/B² is less than a millionth.
#[test]
fn whitened_batches_tend_to_it() {
    // Rewards of one sign, so that advantages have a mean.
    let tree = ResponseTree::try_new(2, 2, None, &[1.0]).unwrap();
    let reward: Vec<f64> = table(6, 1.7).iter().map(|r| r + 1.5).collect();
    let problem = Problem::try_new(tree, &reward, &table(6, 0.4)).unwrap();
    let theta = table(problem.tree().n_pairs(), 1.3);
    for advantage in [gae(0.8, 3), gae(1.0, 3), Estimator::RewardToGo] {
        let of = |prompts: usize| Recipe {
            whitening: Some(WhitenStd::One),
            prompts,
            ..recipe(advantage.clone(), 1)
        };
        let limit = Summary::in_a_large_batch(&problem, &of(1), &theta).unwrap();
        let plain = Recipe {
            whitening: None,
            ..of(1)
        };
        let plain = Summary::in_a_large_batch(&problem, &plain, &theta).unwrap();
        // The mean matters, or nothing is tested.
        let gap = (plain.trace_unit / limit.trace_unit - 1.0).abs();
        assert!(gap > 0.01, "{gap}");
        let trace = |b: usize| {
            let at = Summary::at(&problem, &of(b), &theta, None, None).unwrap();
            at.trace_per_response
        };
        let off = |f: f64| f / limit.trace_per_response - 1.0;
        let [one, two, four] = [10, 20, 40].map(trace);
        assert!(off(four).abs() > 1e-4 && off(four).abs() < 0.6 * off(two).abs());
        // Without the term in 1/B, and without that in 1/B² too.
        let [near, nearer] = [2.0 * two - one, 2.0 * four - two];
        assert!(off(nearer).abs() < 0.3 * off(near).abs());
        let nearest = off((4.0 * nearer - near) / 3.0);
        assert!(nearest.abs() < 1e-6, "{nearest}");
    }
}

/// What needs more than moments of a response is refused by name.
#[test]
fn what_moments_do_not_give_is_refused() {
    let problem = problem(2, 3, Some(1), &[1.0]);
    let theta = table(problem.tree().n_pairs(), 1.3);
    let said = |recipe: Recipe| {
        let found = Summary::in_a_large_batch(&problem, &recipe, &theta);
        found.unwrap_err().to_string()
    };
    let plain = || recipe(Estimator::RewardToGo, 1);
    let whitened = |recipe: Recipe, std| Recipe {
        whitening: Some(std),
        ..recipe
    };
    let spread = crate::advantage::Spread::One;
    for (recipe, field) in [
        (recipe(Estimator::Group { spread }, 2), "advantage"),
        (recipe(Estimator::LeaveOneOutOfScore, 2), "advantage"),
        (whitened(plain(), WhitenStd::Biased), "whitening"),
        (
            whitened(recipe(Estimator::LeaveOneOut, 2), WhitenStd::One),
            "whitening",
        ),
        (
            Recipe {
                aggregation: Aggregation::SequenceMean,
                ..plain()
            },
            "aggregation",
        ),
        (
            Recipe {
                kl: Some(Kl {
                    placement: KlPlacement::Loss,
                    estimator: KlEstimator::K3,
                }),
                ..plain()
            },
            "kl.placement",
        ),
        (
            Recipe {
                drop_equal_groups: true,
                ..recipe(Estimator::LeaveOneOut, 2)
            },
            "drop_equal_groups",
        ),
        (
            Recipe {
                surrogate: crate::objective::Surrogate {
                    ratio: crate::objective::Ratio::Capped {
                        low: 0.0,
                        high: 0.2,
                    },
                    ..Default::default()
                },
                ..plain()
            },
            "surrogate",
        ),
    ] {
        let said = said(recipe);
        assert!(said.starts_with(field), "{field}: {said}");
    }
}

/// Several responses to a prompt share it: where advantages are their own, their mean is noisier than that of as many independent ones, and is refused.
#[test]
fn several_responses_to_a_prompt_are_refused_where_advantages_are_their_own() {
    let problem = problem(2, 3, Some(1), &[0.7, 0.3]);
    let theta = table(problem.tree().n_pairs(), 1.3);
    let states = problem.tree().n_states();
    for advantage in [gae(0.8, states), Estimator::RewardToGo, Estimator::Greedy] {
        let at = |responses: usize| {
            let recipe = recipe(advantage.clone(), responses);
            Summary::at(&problem, &recipe, &theta, None, None).unwrap()
        };
        let [alone, pair] = [at(1), at(2)].map(|s| s.trace_per_response);
        assert!((pair / alone - 1.0).abs() > 1e-3, "{pair} {alone}");
        for responses in [2, 4] {
            let recipe = recipe(advantage.clone(), responses);
            let said = Summary::in_a_large_batch(&problem, &recipe, &theta)
                .unwrap_err()
                .to_string();
            let found = responses.to_string();
            assert!(
                said.starts_with("responses") && said.contains(&found),
                "{said}"
            );
        }
    }
}
