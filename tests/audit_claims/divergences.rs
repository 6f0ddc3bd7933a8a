//! Terms of KL in the loss and in the reward.

use crate::{
    BETA, Differs, World, gae, gap, kl, log_softmax, minus, pg, same, scaled, unclipped, with_kl,
    worlds,
};
use rto::algorithm2::KlPlacement::Reward as InReward;
use rto::algorithm2::KlPlacement::{Both, Loss};
use rto::audit::{Critic, Features, Recipe, ResponseTree, Reward, Rotation, Summary};
use rto::objective::Ratio;
use rto::token_reward::KlEstimator::{self, Exact, K1, K2, K3, K3Corrected};

/// 00, 02: the closed forms that the other claims are stated in.
#[test]
fn gradients_of_objectives_and_of_local_divergences() {
    for w in worlds() {
        let meant = with_kl(InReward, K1, BETA);
        let j = |t: &[f64]| w.problem.objective(&meant, t).unwrap();
        same("00", &w.grad(Reward::Token, BETA), &w.numerically(j), 1e-9);
        let (a, visits) = (w.a(), w.visits(&w.lp()));
        let q = w.problem.reference();
        let local = |t: &[f64], forward: bool| -> f64 {
            let lp = log_softmax(t, a);
            let of = |k: usize| match forward {
                true => q[k].exp() * (q[k] - lp[k]),
                false => lp[k].exp() * (lp[k] - q[k]),
            };
            (0..lp.len()).map(|k| visits[k / a] * of(k)).sum()
        };
        same(
            "02a",
            &w.reverse(&visits),
            &w.numerically(|t| local(t, false)),
            1e-9,
        );
        same(
            "02b",
            &w.forward(&visits, q),
            &w.numerically(|t| local(t, true)),
            1e-9,
        );
    }
}

/// 03: a KL term in the loss, on-policy.
#[test]
fn kl_in_the_loss_is_local() {
    let mut not_sequence = Differs("03f", 0.0);
    let mut no_future = Differs("03g", 0.0);
    for w in worlds() {
        let reward_part = w.on(&pg());
        let penalty = |e| scaled(&minus(&w.on(&with_kl(Loss, e, 1.0)), &reward_part), -1.0);
        let lp = w.lp();
        let visits = w.visits(&lp);
        let (rev, fwd) = (
            w.reverse(&visits),
            w.forward(&visits, w.problem.reference()),
        );
        same("03a", &penalty(K1), &vec![0.0; lp.len()], 1e-12);
        same("03b", &penalty(K2), &rev, 1e-12);
        same("03c", &penalty(Exact), &rev, 1e-12);
        same("03d", &penalty(K3), &fwd, 1e-12);
        same("03e", &penalty(K3Corrected), &rev, 1e-12);
        same("03e, k3+", &penalty(KlEstimator::K3Plus), &rev, 1e-12);
        let by_reference = w.visits(w.problem.reference());
        not_sequence.see(gap(
            &penalty(K3),
            &w.forward(&by_reference, w.problem.reference()),
        ));
        no_future.see(gap(&rev, &w.kl_seq()));
        let (d, q) = (w.d(), w.q(&lp, &w.d()));
        let future = w.score(|s, k| visits[s] * lp[k].exp() * (q[k] - d[k]));
        same("03h", &minus(&w.kl_seq(), &rev), &future, 1e-12);
    }
    not_sequence.hold(1e-3);
    no_future.hold(1e-3);
}

/// 04: a KL term in the loss on stale samples.
#[test]
fn kl_in_the_loss_on_stale_samples() {
    let mut k2_is_not = Differs("04c", 0.0);
    for w in worlds() {
        let recipe = |e: Option<KlEstimator>| Recipe {
            surrogate: unclipped(Ratio::Token),
            kl: e.and_then(|e| kl(Loss, e)),
            beta: if e.is_some() { 1.0 } else { 0.0 },
            ..pg()
        };
        let penalty = |e| {
            scaled(
                &minus(&w.stale(&recipe(Some(e))), &w.stale(&recipe(None))),
                -1.0,
            )
        };
        let lo = log_softmax(&w.old, w.a());
        let visits = w.visits(&lo);
        let away = scaled(&w.forward(&visits, &lo), -1.0);
        same("04a", &penalty(K1), &away, 1e-12);
        same("04b", &penalty(K3Corrected), &w.reverse(&visits), 1e-12);
        k2_is_not.see(gap(&penalty(K2), &w.reverse(&visits)));
    }
    k2_is_not.hold(1e-3);
}

/// 01, 05, 26: a KL term in the reward, and in both.
#[test]
fn kl_in_the_reward_loses_the_own_token_unless_it_is_k1() {
    for w in worlds() {
        let reward_part = w.on(&pg());
        let penalty = |e| {
            scaled(
                &minus(&w.on(&with_kl(InReward, e, 1.0)), &reward_part),
                -1.0,
            )
        };
        let lp = w.lp();
        let visits = w.visits(&lp);
        let (rev, fwd) = (
            w.reverse(&visits),
            w.forward(&visits, w.problem.reference()),
        );
        let seq = w.kl_seq();
        let values: Vec<f64> = w.noise[..w.tree().n_states()].to_vec();
        let any_critic = Recipe {
            reward: Reward::Token,
            advantage: gae(1.0, Critic::Given(values)),
            ..with_kl(InReward, K1, BETA)
        };
        let target = w.grad(Reward::Token, BETA);
        same("01", &w.on(&any_critic), &target, 1e-12);
        same("05a", &penalty(Exact), &minus(&seq, &rev), 1e-12);
        same("05b", &penalty(K3), &minus(&seq, &fwd), 1e-12);
        let sum_k2 = |t: &[f64]| {
            let (lp, q) = (log_softmax(t, w.a()), w.problem.reference());
            let k2 = |y| -> f64 {
                let pairs = w.tree().response(y).iter();
                pairs
                    .map(|p| (lp[*p as usize] - q[*p as usize]).powi(2) / 2.0)
                    .sum()
            };
            w.mean(t, k2)
        };
        let whole = w.numerically(sum_k2);
        same("05c", &penalty(K2), &minus(&whole, &rev), 1e-8);
        for e in [Exact, K3] {
            let both = w.on(&with_kl(Both, e, BETA));
            same("05d, 26", &both, &target, 1e-12);
        }
        let both = scaled(&minus(&w.on(&with_kl(Both, K2, 1.0)), &reward_part), -1.0);
        same("both halves of k2", &both, &whole, 1e-8);
        let d = w.d();
        let of_state: Vec<f64> = d
            .chunks(w.a())
            .zip(lp.chunks(w.a()))
            .map(|(d, l)| d.iter().zip(l).map(|(d, l)| d * l.exp()).sum())
            .collect();
        let free = w.score(|s, k| visits[s] * lp[k].exp() * of_state[s]);
        same("23d", &free, &vec![0.0; lp.len()], 1e-12);
        let next: Vec<f64> = (0..lp.len())
            .map(|k| w.tree().next(k).map_or(0.0, |n| of_state[n]))
            .collect();
        let later = w.q(&lp, &next);
        let mixed = w.score(|s, k| visits[s] * lp[k].exp() * (d[k] + later[k]));
        same("05e", &mixed, &seq, 1e-12);
    }
}

/// 18: curl.
#[test]
fn a_local_kl_is_no_gradient_beyond_one_step() {
    let (mut loss, mut reward) = (Differs("18a", 0.0), Differs("18b", 0.0));
    let turn = |w: &World, r: &Recipe| {
        Rotation::at(&w.problem, r, &w.theta, None, None)
            .unwrap()
            .curl
    };
    for w in worlds() {
        let (in_loss, in_reward) = (with_kl(Loss, Exact, BETA), with_kl(InReward, Exact, BETA));
        loss.see(turn(&w, &in_loss));
        reward.see(turn(&w, &in_reward));
        assert!(
            (turn(&w, &in_loss) - turn(&w, &in_reward)).abs() < 1e-12,
            "opposite curls"
        );
        assert!(turn(&w, &with_kl(InReward, K1, BETA)) < 1e-12);
    }
    loss.hold(1e-3);
    reward.hold(1e-3);
    for seed in 0..5 {
        let w = World::draw(
            ResponseTree::try_new(4, 1, None, &[1.0]).unwrap(),
            900 + seed,
        );
        let recipe = with_kl(Loss, Exact, BETA);
        assert!(turn(&w, &recipe) < 1e-13, "18c");
        same("18c", &w.on(&recipe), &w.grad(Reward::Token, BETA), 1e-13);
    }
}

/// 19, 25: variance of the KL part, and shared parameters.
#[test]
fn exact_kl_in_the_loss_has_less_variance_on_a_table_than_k2() {
    let mut held = 0;
    for w in worlds() {
        let part = |e, features| {
            let recipe = Recipe {
                reward: Reward::Zero,
                ..with_kl(Loss, e, 1.0)
            };
            Summary::at(&w.problem, &recipe, &w.theta, None, features).unwrap()
        };
        let (exact, k2) = (part(Exact, None), part(K2, None));
        assert!(exact.trace_unit <= k2.trace_unit + 1e-14, "19");
        let n = w.theta.len();
        let phi: Vec<f64> = (0..3 * n)
            .map(|i| (i as f64 * 1.37 + w.noise[0]).sin())
            .collect();
        let shared = Some(Features { phi: &phi, dim: 3 });
        let (pulled, k2) = (part(Exact, shared), part(K2, shared));
        held += usize::from(pulled.trace_unit <= k2.trace_unit + 1e-14);
        let by_hand: Vec<f64> = (0..3)
            .map(|j| (0..n).map(|i| phi[3 * i + j] * exact.field[i]).sum())
            .collect();
        same("25", &pulled.field, &by_hand, 1e-13);
        // 25: curl with shared parameters is that of Φᵀ D Φ, here by differences of the field.
        let recipe = with_kl(Loss, Exact, BETA);
        let turn = Rotation::at(&w.problem, &recipe, &w.theta, None, shared).unwrap();
        let (h, mut d) = (1e-5, vec![0.0; 9]);
        for j in 0..3 {
            let at = |step: f64| {
                let theta: Vec<f64> = (0..n).map(|i| w.theta[i] + step * phi[3 * i + j]).collect();
                Summary::at(&w.problem, &recipe, &theta, None, shared)
                    .unwrap()
                    .field
            };
            let (up, down) = (at(h), at(-h));
            (0..3).for_each(|i| d[3 * i + j] = (up[i] - down[i]) / (2.0 * h));
        }
        let curl = (2.0
            * [(0, 1), (0, 2), (1, 2)]
                .iter()
                .map(|(i, j)| (d[3 * i + j] - d[3 * j + i]).powi(2))
                .sum::<f64>())
        .sqrt()
            / 2.0;
        assert!(
            (curl - turn.curl).abs() < 1e-7,
            "25: {curl} and {}",
            turn.curl
        );
    }
    println!("19b: exact has less variance with shared parameters in {held} of 20");
    assert!(held > 0);
}
