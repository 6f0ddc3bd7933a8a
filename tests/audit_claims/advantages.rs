//! Advantages: critics, baselines of groups, z-scores and masks.

use crate::{
    BETA, Differs, World, centred, gae, gap, grouped, kl, minus, pg, plus, same, scaled, with_kl,
    worlds, z_score,
};
use rto::advantage::{
    MaskRule, ReturnRule, WhitenStd, gae_masked, group_relative, leave_one_out, reward_to_go_masked,
};
use rto::algorithm2::KlPlacement::Reward as InReward;
use rto::audit::{Critic, Estimator, Problem, Recipe, Reward, Rotation};
use rto::seq::Ragged;
use rto::token_reward::KlEstimator::K1;

/// 06: what GAE loses by a critic that is off.
#[test]
fn gae_is_biased_by_the_error_of_later_states() {
    for w in worlds() {
        let lp = w.lp();
        let (visits, n) = (w.visits(&lp), w.tree().n_states());
        let error = &w.noise[..n];
        let shaped: Vec<f64> = w
            .problem
            .reward()
            .iter()
            .zip(w.d())
            .map(|(r, d)| r - BETA * d)
            .collect();
        let q = w.q(&lp, &shaped);
        let exact: Vec<f64> = q
            .chunks(w.a())
            .zip(lp.chunks(w.a()))
            .map(|(q, l)| q.iter().zip(l).map(|(q, l)| q * l.exp()).sum())
            .collect();
        let target = w.grad(Reward::Token, BETA);
        for lambda in [0.0, 0.5, 0.95, 1.0] {
            let critic: Vec<f64> = exact.iter().zip(error).map(|(v, e)| v + e).collect();
            let recipe = Recipe {
                reward: Reward::Token,
                advantage: gae(lambda, Critic::Given(critic)),
                ..with_kl(InReward, K1, BETA)
            };
            let (mut z, mut after) = (vec![0.0; n], vec![0.0; lp.len()]);
            for s in (0..n).rev() {
                let mut mean = 0.0;
                for k in s * w.a()..(s + 1) * w.a() {
                    after[k] = w.tree().next(k).map_or(0.0, |n| z[n]);
                    mean += lp[k].exp() * after[k];
                }
                z[s] = error[s] + lambda * mean;
            }
            let bias = w.score(|s, k| visits[s] * lp[k].exp() * after[k]);
            let got = minus(&w.on(&recipe), &target);
            same("06a", &got, &scaled(&bias, 1.0 - lambda), 1e-12);
        }
        let exact = Recipe {
            advantage: gae(0.3, Critic::Exact),
            ..with_kl(InReward, K1, BETA)
        };
        same("06c", &w.on(&exact), &target, 1e-12);
    }
}

/// 07, 10, 13: baselines.
#[test]
fn baselines_of_groups() {
    for w in worlds() {
        let target = w.grad(Reward::Token, BETA);
        let k1 = |r: Recipe| Recipe {
            kl: kl(InReward, K1),
            beta: BETA,
            ..r
        };
        let rloo = k1(grouped(Estimator::LeaveOneOut, 3));
        same("07a", &w.on(&rloo), &target, 1e-12);
        same(
            "07b",
            &w.on(&k1(centred(3))),
            &scaled(&target, 2.0 / 3.0),
            1e-12,
        );
        let group = std::slice::from_ref(&(0..5));
        let returns = &w.noise[..5.min(w.noise.len())];
        if returns.len() == 5 {
            let mean = group_relative(returns, group, false).unwrap();
            let other = leave_one_out(returns, group).unwrap();
            same("07c", &mean, &scaled(&other, 0.8), 1e-12);
        }
        let greedy = k1(Recipe {
            advantage: Estimator::Greedy,
            ..pg()
        });
        same("13", &w.on(&greedy), &target, 1e-12);
        if w.tree().eos().is_none() {
            let batch = Recipe {
                prompts: 3,
                whitening: Some(WhitenStd::One),
                ..pg()
            };
            let reward = w.grad(Reward::Token, 0.0);
            same("10", &w.on(&batch), &scaled(&reward, 2.0 / 3.0), 1e-12);
        }
    }
}

/// 08, 27: the z-score.
#[test]
fn a_z_score_is_a_gradient_on_binary_rewards_only() {
    let mut real = Differs("08c", 0.0);
    for w in worlds() {
        let (tree, group, eps) = (w.tree(), 4u32, 1e-4);
        let mut reward = vec![0.0; tree.n_pairs()];
        for p in 0..tree.prompt_weights().len() {
            for (i, y) in tree.responses_of(p).enumerate() {
                let last = *tree.response(y).last().unwrap() as usize;
                // Both outcomes occur for every prompt.
                let right = i == 0 || (i > 1 && w.noise[i] > 0.0);
                reward[last] = f64::from(u8::from(right));
            }
        }
        let reference = w.problem.reference().to_vec();
        let binary = World {
            problem: Problem::try_new(tree.clone(), &reward, &reference).unwrap(),
            theta: w.theta.clone(),
            old: w.old.clone(),
            noise: w.noise.clone(),
        };
        let recipe = z_score(group as usize, eps);
        let (lp, g) = (binary.lp(), f64::from(group));
        let mut want = vec![0.0; lp.len()];
        for (p, weight) in tree.prompt_weights().iter().enumerate() {
            let mut c = vec![0.0; lp.len()];
            let mut right = 0.0;
            for y in tree.responses_of(p) {
                let log: f64 = tree.response(y).iter().map(|k| lp[*k as usize]).sum();
                let mass = log.exp() * binary.score_of(y);
                right += mass;
                tree.response(y).iter().for_each(|k| c[*k as usize] += mass);
            }
            let mut factor = 0.0;
            for k in 1..group {
                let choose: f64 = (0..k)
                    .map(|i| (g - f64::from(i)) / f64::from(i + 1))
                    .product();
                let k = f64::from(k);
                let std = (k * (g - k) / (g * (g - 1.0))).sqrt();
                let chance = choose * right.powf(k) * (1.0 - right).powf(g - k);
                factor += chance * k * (g - k) / (g * g * (std + eps));
            }
            factor /= right * (1.0 - right);
            want = plus(&want, &scaled(&binary.score(|_, k| c[k]), weight * factor));
        }
        same("08a", &binary.on(&recipe), &want, 1e-12);
        let turn =
            |w: &World, r: &Recipe| Rotation::at(&w.problem, r, &w.theta, None, None).unwrap();
        assert!(turn(&binary, &recipe).curl < 1e-12, "08b");
        real.see(turn(&w, &z_score(3, eps)).curl);
        let tenfold: Vec<f64> = w.problem.reward().iter().map(|r| 10.0 * r).collect();
        let large = World {
            problem: Problem::try_new(tree.clone(), &tenfold, &reference).unwrap(),
            theta: w.theta.clone(),
            old: w.old.clone(),
            noise: w.noise.clone(),
        };
        same(
            "27",
            &large.on(&z_score(3, 1e-9)),
            &w.on(&z_score(3, 1e-9)),
            1e-6,
        );
    }
    real.hold(1e-3);
}

/// 21: masks of tool tokens.
#[test]
fn masked_tokens_in_returns_and_advantages() {
    let rows = |x: [f64; 5]| Ragged::from_rows([x]);
    let (r, v, m) = (
        rows([0.0, 0.0, 0.0, 0.0, 1.0]),
        rows([0.3, -0.2, 0.9, 0.4, 0.1]),
        rows([1.0, 1.0, 0.0, 0.0, 1.0]),
    );
    let kept = |x: &Ragged| -> Vec<f64> { [0, 1, 4].iter().map(|h| x.row(0)[*h]).collect() };
    for lambda in [0.9, 1.0] {
        let by = |rule| {
            gae_masked(&r, &v, (&m, rule), &[0.0], 1.0, lambda)
                .unwrap()
                .advantages
        };
        let short = |x: &Ragged| Ragged::from_rows([kept(x)]);
        let without = rto::advantage::gae(&short(&r), &short(&v), &[0.0], 1.0, lambda).unwrap();
        same(
            "21a",
            &kept(&by(MaskRule::PassOver)),
            without.advantages.row(0),
            1e-15,
        );
        for rule in [MaskRule::Step, MaskRule::StepOfValueZero] {
            let off = gap(&kept(&by(MaskRule::PassOver)), &kept(&by(rule)));
            assert!(
                if lambda == 1.0 {
                    off < 1e-15
                } else {
                    off > 1e-3
                },
                "21b, 21d: {off}"
            );
        }
    }
    let reset = reward_to_go_masked(&r, &m, ReturnRule::Reset, 1.0).unwrap();
    assert_eq!(reset.row(0), [0.0, 0.0, 0.0, 0.0, 1.0], "21e");
    let carried = reward_to_go_masked(&r, &m, ReturnRule::Carry, 1.0).unwrap();
    assert_eq!(carried.row(0), [1.0, 1.0, 0.0, 0.0, 1.0]);
    let lost = rows([0.0, 0.0, 1.0, 0.0, 0.0]);
    let zero = v.map(|_| 0.0);
    let got = gae_masked(&lost, &zero, (&m, MaskRule::PassOver), &[0.0], 1.0, 1.0).unwrap();
    assert!(got.advantages.values().iter().all(|a| *a == 0.0), "21c");
}
