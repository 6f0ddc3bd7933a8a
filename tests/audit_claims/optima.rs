//! Where the fields vanish: RTO, distillation and other fixed points.

use crate::{
    BETA, Differs, World, centred, gae, gap, grouped, kl, log_softmax, same, with_kl, worlds,
    z_score,
};
use rand_distr::{Distribution, StandardNormal};
use rto::algorithm2::KlPlacement::Loss;
use rto::algorithm2::KlPlacement::Reward as InReward;
use rto::audit::{
    Critic, Estimator, FixedPoint, Problem, Recipe, Reward, Status, Summary, expected_gradient,
};
use rto::dual::Dual;
use rto::dual::Real;
use rto::objective::{Aggregation, Surrogate};
use rto::seed::SeedTree;
use rto::token_reward::KlEstimator::{Exact, K1, K2, K3, K3Corrected};

/// 14, 15: RTO and the paper's DPPO.
#[test]
fn rto_is_on_policy_distillation_at_equal_betas() {
    let (mut apart, mut cut) = (Differs("14d", 0.0), Differs("15a", 0.0));
    for w in worlds() {
        let by = |reward, lambda, critic| Recipe {
            reward,
            advantage: gae(lambda, critic),
            ..with_kl(InReward, K1, BETA)
        };
        let dpo = Problem::try_new(
            w.tree().clone(),
            w.problem.reward(),
            w.problem.dpo().unwrap(),
        )
        .unwrap();
        let meant = Recipe {
            reward: Reward::Zero,
            meant_beta: Some(BETA),
            ..Recipe::default()
        };
        let distilled = dpo.target(&meant, &w.theta).unwrap();
        same(
            "14a",
            &w.on(&by(Reward::Dpo, 1.0, Critic::Zero)),
            &distilled,
            1e-12,
        );
        let plain = Recipe {
            reward: Reward::Dpo,
            ..with_kl(InReward, K1, BETA)
        };
        let there = Summary::at(&w.problem, &plain, w.problem.dpo().unwrap(), None, None).unwrap();
        assert!(
            gap(&there.field, &vec![0.0; w.theta.len()]) < 1e-14 && there.trace_unit < 1e-14,
            "14b"
        );
        let values = w.noise[..w.tree().n_states()].to_vec();
        let critic = || Critic::Given(values.clone());
        same(
            "14c",
            &w.on(&by(Reward::Dpo, 1.0, critic())),
            &w.on(&by(Reward::DpoAtEnd, 1.0, critic())),
            1e-12,
        );
        let zero = || Critic::Zero;
        apart.see(gap(
            &w.on(&by(Reward::Dpo, 0.95, zero())),
            &w.on(&by(Reward::DpoAtEnd, 0.95, zero())),
        ));
        let (released, whole) = (
            w.problem.paid(Reward::Released).unwrap(),
            w.problem.meant(Reward::Released).unwrap(),
        );
        for y in 0..w.tree().n_responses() {
            let sum = |t: &[f64]| {
                w.tree()
                    .response(y)
                    .iter()
                    .map(|p| t[*p as usize])
                    .sum::<f64>()
            };
            cut.see((sum(&released) - sum(&whole)).abs());
        }
    }
    apart.hold(1e-3);
    cut.hold(1e-2);
}

/// π at the zero of a field whose KL term is in the loss, by backward induction: Q_R is of the reward alone.
fn without_future_kl(w: &World, forward: bool, beta: f64) -> Vec<f64> {
    let (tree, a, q) = (w.tree(), w.a(), w.problem.reference());
    let (mut pi, mut v) = (vec![0.0; tree.n_pairs()], vec![0.0; tree.n_states()]);
    let r = w.problem.reward();
    for s in (0..tree.n_states()).rev() {
        let row = s * a..(s + 1) * a;
        let value: Vec<f64> = row
            .clone()
            .map(|k| r[k] + tree.next(k).map_or(0.0, |n| v[n]))
            .collect();
        let most = value.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = if forward {
            // π = β ref/(c − Q) with the c that makes it sum to 1.
            let at = |c: f64| -> Vec<f64> {
                row.clone()
                    .zip(&value)
                    .map(|(k, x)| beta * q[k].exp() / (c - x))
                    .collect()
            };
            let (mut low, mut high) = (most, most + beta + 1e-9);
            for _ in 0..200 {
                let middle = (low + high) / 2.0;
                match at(middle).iter().sum::<f64>() > 1.0 {
                    true => low = middle,
                    false => high = middle,
                }
            }
            at(high)
        } else {
            row.clone()
                .zip(&value)
                .map(|(k, x)| q[k].exp() * ((x - most) / beta).exp())
                .collect()
        };
        let total: f64 = weights.iter().sum();
        for (k, p) in row.zip(&weights) {
            pi[k] = p / total;
            v[s] += pi[k] * value[k - s * a];
        }
    }
    pi
}

/// 16, 17: optima and fixed points.
#[test]
fn fixed_points_in_closed_form() {
    for w in worlds().iter().step_by(2) {
        let end = |r: &Recipe| FixedPoint::find(&w.problem, r, None).unwrap();
        let k1 = Recipe {
            kl: kl(InReward, K1),
            beta: BETA,
            ..grouped(Estimator::LeaveOneOut, 3)
        };
        let best = end(&k1);
        assert!(
            best.suboptimality.abs() < 1e-13,
            "16a: {}",
            best.suboptimality
        );
        let there = Summary::at(&w.problem, &k1, &best.theta, None, None).unwrap();
        assert!(there.trace_unit.abs() < 1e-14, "16a: {}", there.trace_unit);
        let best_lp = log_softmax(&best.theta, w.a());
        let lp = w.lp();
        let kl_to_best = w.mean(&w.theta, |y| {
            let pairs = w.tree().response(y).iter();
            pairs.map(|p| lp[*p as usize] - best_lp[*p as usize]).sum()
        });
        let lost = w.problem.suboptimality(&k1, &w.theta).unwrap();
        assert!((lost - BETA * kl_to_best).abs() < 1e-10, "16b");
        for (e, forward) in [
            (Exact, false),
            (K2, false),
            (K3Corrected, false),
            (K3, true),
        ] {
            let recipe = Recipe {
                kl: kl(Loss, e),
                beta: BETA,
                ..Recipe::default()
            };
            let found = end(&recipe);
            assert_eq!(found.status, Status::Interior);
            same(
                "17",
                &found.policy,
                &without_future_kl(w, forward, BETA),
                1e-9,
            );
        }
        for e in [Exact, K2] {
            let recipe = Recipe {
                kl: kl(Loss, e),
                beta: BETA,
                ..centred(3)
            };
            same(
                "17b",
                &end(&recipe).policy,
                &without_future_kl(w, false, 1.5 * BETA),
                1e-9,
            );
        }
    }
}

/// 22: the plain flow ends where the preconditioned ascent does, in the cases in which it ends within the steps given here: its rates are
/// as small as visits are rare.
#[test]
fn the_plain_flow_ends_at_the_same_point() {
    let mut ended = 0;
    for w in &worlds()[..10] {
        for recipe in [
            with_kl(Loss, K2, BETA),
            Recipe {
                kl: kl(Loss, K3),
                beta: BETA,
                aggregation: Aggregation::SequenceMean,
                surrogate: Surrogate::default(),
                ..z_score(2, 1e-4)
            },
        ] {
            let mut theta = w.problem.reference().to_vec();
            let mut left = 1.0;
            for _ in 0..60_000 {
                let g = expected_gradient(&w.problem, &recipe, &theta, None).unwrap();
                theta.iter_mut().zip(&g).for_each(|(t, g)| *t += 2.0 * g);
                left = g.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
                if left < 1e-13 {
                    break;
                }
            }
            if left < 1e-13 {
                let flow: Vec<f64> = log_softmax(&theta, w.a()).iter().map(|l| l.exp()).collect();
                let end = FixedPoint::find(&w.problem, &recipe, None).unwrap();
                same("22", &flow, &end.policy, 1e-6);
                ended += 1;
            }
        }
    }
    assert!(ended >= 5, "{ended}");
}

/// Distillation at one state with five tokens, the student's logits as variables.
struct Distilled {
    teacher: Vec<f64>,
    student: Vec<f64>,
}

impl Distilled {
    fn draw(k: u64) -> Self {
        let mut rng = SeedTree::new(23).child("distilled").index(k).rng();
        let mut logits =
            || -> Vec<f64> { (0..5).map(|_| StandardNormal.sample(&mut rng)).collect() };
        Self {
            teacher: log_softmax(&logits(), 5),
            student: logits(),
        }
    }

    /// The teacher's k likeliest tokens.
    fn top(&self, k: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..5).collect();
        order.sort_by(|a, b| self.teacher[*b].total_cmp(&self.teacher[*a]));
        order.truncate(k);
        order
    }
}

/// ∂f/∂z of a function of log π = log softmax z, by dual numbers.
fn slope(z: &[f64], f: impl Fn(&[Dual<5>]) -> Dual<5>) -> [f64; 5] {
    let z = z.iter().enumerate().map(|(k, v)| Dual::variable(*v, k));
    let z: Vec<Dual<5>> = z.collect();
    let sum = z.iter().fold(Dual::constant(0.0), |sum, v| sum + v.exp());
    let lp: Vec<Dual<5>> = z.iter().map(|v| *v - sum.ln()).collect();
    let out = f(&lp);
    std::array::from_fn(|k| out.derivative(k))
}

/// 23a to 23c: a distillation loss over the teacher's top k tokens, KL(π ‖ π_teacher) cut to them.
#[test]
fn distillation_to_the_top_tokens_moves_what_it_should_not() {
    let kl_over = |lp: &[Dual<5>], teacher: &[f64], top: &[usize], renormalised: bool| {
        let zero = Dual::constant(0.0);
        let (mut log_mass, mut teachers) = (zero, 0.0);
        if renormalised {
            log_mass = top.iter().fold(zero, |s, a| s + lp[*a].exp()).ln();
            teachers = top.iter().map(|a| teacher[*a].exp()).sum::<f64>().ln();
        }
        top.iter().fold(zero, |sum, a| {
            let l = lp[*a] - log_mass;
            sum + l.exp() * (l - (teacher[*a] - teachers))
        })
    };
    for k in 0..20 {
        let w = Distilled::draw(k);
        // 23a: one token, renormalised, has probability 1 whatever the logits are.
        let top = w.top(1);
        let g = slope(&w.student, |lp| kl_over(lp, &w.teacher, &top, true));
        assert!(g.iter().all(|v| v.abs() < 1e-15), "{g:?}");
        for k in 1..5 {
            let top = w.top(k);
            // 23b: without renormalising, what is left at π = π_teacher is the gradient of the top mass.
            let g = slope(&w.teacher, |lp| kl_over(lp, &w.teacher, &top, false));
            let mass = slope(&w.teacher, |lp| {
                top.iter()
                    .fold(Dual::constant(0.0), |s, a| s + lp[*a].exp())
            });
            for (x, y) in g.iter().zip(&mass) {
                assert!((x - y).abs() < 1e-14, "{x} and {y}");
            }
            // 23c: which is not 0, so that the teacher is left. Renormalised, it is a stationary point.
            assert!(g.iter().any(|v| v.abs() > 1e-3), "{g:?}");
            let at_rest = slope(&w.teacher, |lp| kl_over(lp, &w.teacher, &top, true));
            assert!(at_rest.iter().all(|v| v.abs() < 1e-14), "{at_rest:?}");
        }
    }
}
