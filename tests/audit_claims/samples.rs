//! Stale samples and the weights of tokens: ratios, clips and aggregation.

use crate::{
    BETA, Differs, World, gae, gap, grouped, log_softmax, minus, pg, plus, same, scaled, unclipped,
    with_kl, worlds, z_score,
};
use rto::algorithm2::KlPlacement::Reward as InReward;
use rto::audit::{Critic, Estimator, Recipe, ResponseTree, Reward, Rotation};
use rto::objective::{Aggregation, Ratio, Surrogate};
use rto::token_reward::KlEstimator::K1;

/// 09, 20: aggregation.
#[test]
fn aggregation_decides_whether_a_baseline_is_free() {
    let mut turns = Differs("09b", 0.0);
    for w in worlds() {
        let tree = w.tree();
        let mean = |aggregation| Recipe {
            aggregation,
            ..grouped(Estimator::LeaveOneOut, 3)
        };
        let recipe = mean(Aggregation::SequenceMean);
        let length = |y: usize| tree.response(y).len() as f64;
        let mut want = vec![0.0; w.theta.len()];
        for (p, weight) in tree.prompt_weights().iter().enumerate() {
            let here = |y: usize| f64::from(u8::from(tree.prompt_of(y) == p));
            let ratio = w.numerically(|t| w.mean(t, |y| here(y) * w.score_of(y) / length(y)));
            let inverse = w.numerically(|t| w.mean(t, |y| here(y) / length(y)));
            let score = w.mean(&w.theta, |y| here(y) * w.score_of(y)) / weight;
            want = plus(&want, &minus(&ratio, &scaled(&inverse, score)));
        }
        same("09a", &w.on(&recipe), &want, 1e-9);
        let one = |aggregation| Recipe {
            aggregation,
            ..pg()
        };
        same(
            "09c",
            &w.on(&one(Aggregation::TokenMean)),
            &w.on(&one(Aggregation::SequenceMean)),
            1e-14,
        );
        if tree.eos().is_none() {
            let three = Recipe {
                prompts: 3,
                ..one(Aggregation::TokenMean)
            };
            let reward = w.grad(Reward::Token, 0.0);
            same(
                "09d",
                &w.on(&three),
                &scaled(&reward, 1.0 / tree.horizon() as f64),
                1e-12,
            );
        } else {
            turns.see(
                Rotation::at(&w.problem, &recipe, &w.theta, None, None)
                    .unwrap()
                    .curl,
            );
        }
    }
    turns.hold(1e-3);
    // 20: E[g] E[L] → ∇J with a bias of about const/B.
    let w = World::draw(ResponseTree::try_new(2, 3, Some(1), &[1.0]).unwrap(), 5);
    let (target, lengths) = (
        w.grad(Reward::Token, BETA),
        w.mean(&w.theta, |y| w.tree().response(y).len() as f64),
    );
    let scaled_bias = |prompts: usize| {
        let recipe = Recipe {
            prompts,
            aggregation: Aggregation::TokenMean,
            ..with_kl(InReward, K1, BETA)
        };
        let off = minus(&scaled(&w.on(&recipe), lengths), &target);
        prompts as f64 * off.iter().map(|v| v * v).sum::<f64>().sqrt()
    };
    assert!((scaled_bias(16) / scaled_bias(8) - 1.0).abs() < 0.2, "20");
}

/// 11, 12: stale samples, ratios and clips.
#[test]
fn ratios_on_stale_samples() {
    let (mut token, mut gspo) = (Differs("11c", 0.0), Differs("12b", 0.0));
    for w in worlds() {
        let reward = w.grad(Reward::Token, 0.0);
        let sequence = Recipe {
            surrogate: unclipped(Ratio::Sequence),
            advantage: Estimator::LeaveOneOut,
            responses: 2,
            ..Recipe::default()
        };
        same("11a", &w.stale(&sequence), &reward, 1e-12);
        let (lp, lo) = (w.lp(), log_softmax(&w.old, w.a()));
        let (visits, a) = (w.visits(&lo), w.a());
        let paid = w.problem.paid(Reward::Sentence).unwrap();
        let q = w.q(&lo, &paid);
        let v: Vec<f64> = q
            .chunks(a)
            .zip(lo.chunks(a))
            .map(|(q, l)| q.iter().zip(l).map(|(q, l)| q * l.exp()).sum())
            .collect();
        let surrogate = Recipe {
            surrogate: unclipped(Ratio::Token),
            advantage: gae(1.0, Critic::Exact),
            ..Recipe::default()
        };
        let want = w.score(|s, k| visits[s] * lp[k].exp() * (q[k] - v[s]));
        same("11b", &w.stale(&surrogate), &want, 1e-12);
        token.see(gap(&w.stale(&surrogate), &reward));
        let clipped = Recipe {
            advantage: gae(0.0, Critic::Exact),
            ..Recipe::default()
        };
        let one_step = |k: usize| paid[k] + w.tree().next(k).map_or(0.0, |n| v[n]) - v[k / a];
        let dead = |k: usize| {
            let ratio = (lp[k] - lo[k]).exp();
            (one_step(k) > 0.0 && ratio > 1.2) || (one_step(k) < 0.0 && ratio < 0.8)
        };
        let want = w.score(|s, k| match dead(k) {
            true => 0.0,
            false => visits[s] * lp[k].exp() * one_step(k),
        });
        same("11d", &w.stale(&clipped), &want, 1e-12);
        let by = |ratio, clip_low, clip_high| Recipe {
            surrogate: Surrogate {
                ratio,
                clip_low,
                clip_high,
                dual_clip: None,
            },
            aggregation: Aggregation::SequenceMean,
            ..z_score(3, 1e-4)
        };
        let (g, t) = (
            by(Ratio::GeometricMean, 3e-4, 4e-4),
            by(Ratio::Token, 0.2, 0.2),
        );
        same("12a", &w.on(&g), &w.on(&t), 1e-14);
        gspo.see(gap(&w.stale(&g), &w.stale(&t)));
        let capped = Recipe {
            surrogate: unclipped(Ratio::Capped {
                low: 0.0,
                high: 0.2,
            }),
            ..z_score(3, 1e-4)
        };
        same(
            "12c",
            &w.on(&capped),
            &scaled(&w.on(&z_score(3, 1e-4)), 0.2),
            1e-14,
        );
    }
    token.hold(1e-3);
    gspo.hold(1e-3);
}

/// 24: a token mean of micro-batches is not that of the batch.
#[test]
fn token_means_do_not_average() {
    let loss = |rows: &[(usize, f64)]| {
        let total: f64 = rows.iter().map(|(n, _)| *n as f64).sum();
        let w = |n: f64| Aggregation::TokenMean.weight(rows.len() as f64, total, n);
        rows.iter()
            .map(|(n, x)| *n as f64 * w(*n as f64) * x)
            .sum::<f64>()
    };
    let (a, b) = ((2, 1.0), (8, 3.0));
    assert!(((loss(&[a]) + loss(&[b])) / 2.0 - 2.0).abs() < 1e-12);
    assert!((loss(&[a, b]) - 2.6).abs() < 1e-12);
}
