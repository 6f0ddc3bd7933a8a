//! DPOP, losses of one's own and several prompts: what the golden file has no values of, held by convexity and brute force.

use rand::Rng;
use rto::mdp::Beta;
use rto::numerics::{log_sigmoid, sigmoid};
use rto::preference::{
    Compared, DEFAULT_METHODS, LossBend, Method, Outcome, PairRow, PairTable, PreferenceLoss,
    PreferenceProblem, Prompt, PromptOutcome, PromptSet, Responses, SupervisedBase, dpop_fit,
    pair_loss_fit,
};
use rto::seed::SeedTree;

fn bandit(seed: u64) -> (Responses, rand_chacha::ChaCha8Rng) {
    let mut rng = SeedTree::new(21).child("bandit").index(seed).rng();
    let n = rng.random_range(2..7);
    let weights: Vec<f64> = (0..n).map(|_| 0.05 + rng.random::<f64>()).collect();
    let total: f64 = weights.iter().sum();
    let reference: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let rewards: Vec<f64> = (0..n).map(|_| 2.0 * rng.random::<f64>()).collect();
    (Responses::bandit(&reference, &rewards).unwrap(), rng)
}

fn uniform(responses: &Responses) -> PairTable {
    let n = responses.len();
    PairTable::population(responses, &vec![1.0 / n as f64; n]).unwrap()
}

/// The loss is convex in log-ratios, so a policy that no small change improves is the optimum; checked against random changes of
/// every size, with the optimality conditions at the kink.
#[test]
fn dpop_is_minimised_kinks_and_all() {
    let (mut kinks, mut worst) = (0, 0.0f64);
    for seed in 0..200 {
        let (responses, mut rng) = bandit(seed);
        let pairs = uniform(&responses);
        let beta = Beta::try_new(10f64.powf(rng.random_range(-1.5..0.3))).unwrap();
        let lambda = 10f64.powf(rng.random_range(-1.5..1.7));
        let fit = dpop_fit(&responses, &pairs, beta, lambda)
            .unwrap_or_else(|e| panic!("{seed}: beta {beta:?} lambda {lambda}: {e}"));
        kinks += fit.on_kink.len();
        worst = worst.max(fit.kkt_inf);
        assert!(fit.multiplier > 0.0, "{seed}: {fit:?}");
        let loss = PreferenceLoss::Dpop { lambda };
        let zeros = vec![0.0; responses.len()];
        let at = |u: &[f64]| loss.at(&responses, &pairs, beta, u, &zeros).unwrap().value;
        let least = at(&fit.log_policy);
        for _ in 0..200 {
            let size = 10f64.powf(rng.random_range(-6.0..0.0));
            let moved = fit
                .log_policy
                .iter()
                .map(|u| u + size * (rng.random::<f64>() - 0.5));
            let other = at(&rto::preference::normalise(moved.collect()));
            assert!(other >= least - 1e-14, "{seed}: {other} < {least}");
        }
    }
    assert!(
        worst < 1e-11 && kinks > 50,
        "{worst:e}, {kinks} on the kink"
    );
}

/// DPOP has a minimiser exactly if every response wins at least once; separability does not matter.
#[test]
fn dpop_needs_a_win_of_every_response() {
    let bandit = Responses::bandit(&[0.4, 0.4, 0.2], &[0.0, 0.5, 1.0]).unwrap();
    let beta = Beta::try_new(0.3).unwrap();
    let fit = |pairs: &[(usize, usize)]| {
        dpop_fit(
            &bandit,
            &PairTable::from_counts(3, pairs).unwrap(),
            beta,
            2.0,
        )
    };
    // 2 beats 1 and never loses to it, 0 and 1 beat each other, and 2 loses to 0: Ford's condition holds.
    assert!(fit(&[(0, 1), (1, 0), (2, 1), (0, 2)]).is_ok());
    // 2 never loses: separable for Bradley–Terry, but every response wins.
    let pairs = PairTable::from_counts(3, &[(0, 1), (1, 0), (2, 1)]).unwrap();
    assert!(!pairs.has_maximum());
    assert!(dpop_fit(&bandit, &pairs, beta, 2.0).is_ok());
    let error = fit(&[(0, 1), (1, 0), (0, 2)]).unwrap_err().to_string();
    assert!(error.contains("response 2 never wins"), "{error}");
    for lambda in [0.0, -1.0, f64::NAN] {
        assert!(dpop_fit(&bandit, &pairs, beta, lambda).is_err());
    }
}

type Loss<'a> = &'a dyn Fn(&Compared) -> LossBend;

/// A loss of one's own that is DPO's, or IPO's, ends at their policies.
#[test]
fn known_losses_given_as_ones_own_end_at_their_policies() {
    for seed in 0..40 {
        let (responses, _) = bandit(100 + seed);
        let (pairs, beta) = (uniform(&responses), Beta::try_new(0.4).unwrap());
        let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
        let dpo = |at: &Compared| {
            let b = beta.get();
            let m = b * (at.log_ratios[0] - at.log_ratios[1]);
            let (slope, bend) = (-b * sigmoid(-m), b * b * sigmoid(m) * sigmoid(-m));
            LossBend {
                value: -log_sigmoid(m),
                slope: [slope, -slope],
                bend: [bend, -bend, bend],
            }
        };
        let ipo = |at: &Compared| {
            let h = at.log_ratios[0] - at.log_ratios[1] - 0.5 / beta.get();
            LossBend {
                value: h * h,
                slope: [2.0 * h, -2.0 * h],
                bend: [2.0, -2.0, 2.0],
            }
        };
        let start = [vec![0.0; responses.len()]];
        let cases: [(Loss<'_>, Method); 2] = [(&dpo, Method::Dpo), (&ipo, Method::Ipo)];
        for (loss, method) in cases {
            let fit = pair_loss_fit(&responses, &pairs, loss, &start).unwrap();
            let Outcome::Solved(want) = problem.solve(&method).unwrap() else {
                panic!("{method:?}");
            };
            for (got, want) in fit.log_policy.iter().zip(&want.log_policy) {
                assert!((got.exp() - want.exp()).abs() < 1e-11, "{method:?}");
            }
            assert!(fit.kkt_inf < 1e-13 && fit.multiplier.abs() < 1e-12);
        }
    }
}

/// Two prompts in one table: the responses of both as one list, compared within prompts only. The likelihood decouples, and a
/// penalty over ρ weighs ρ against the share of the pairs. Brute force: the stationarity condition on the joint objective.
#[test]
fn several_prompts_are_one_problem() {
    for seed in 0..60 {
        let ((first, mut rng), (second, _)) = (bandit(200 + seed), bandit(300 + seed));
        let (rho, share) = (
            0.1 + 0.8 * rng.random::<f64>(),
            0.1 + 0.8 * rng.random::<f64>(),
        );
        let beta = Beta::try_new(0.1 + rng.random::<f64>() * 0.8).unwrap();
        let set = PromptSet::try_new(vec![
            Prompt {
                weight: rho,
                share,
                pairs: uniform(&first),
                responses: first.clone(),
            },
            Prompt {
                weight: 1.0 - rho,
                share: 1.0 - share,
                pairs: uniform(&second),
                responses: second.clone(),
            },
        ])
        .unwrap();
        let problems = set.problems(beta).unwrap();
        let eta = 0.1;
        let method = Method::Rpo {
            eta,
            base: SupervisedBase::Reference,
        };
        let PromptOutcome::Solved(average, solved) = set.solve(&problems, &method, beta).unwrap()
        else {
            panic!("RPO has a minimiser");
        };
        // η β ρ(x)(π − π_ref)(y) + share(x) Σ w (σ(m) − p) β = 0 at every (x, y).
        for ((prompt, policy), weight) in
            set.prompts().iter().zip(&solved).zip([share, 1.0 - share])
        {
            let l: Vec<f64> = policy
                .log_policy
                .iter()
                .zip(prompt.responses.log_reference())
                .map(|(u, v)| u - v)
                .collect();
            let mut condition: Vec<f64> = policy
                .log_policy
                .iter()
                .zip(prompt.responses.log_reference())
                .map(|(u, v)| eta * beta.get() * prompt.weight * (u.exp() - v.exp()))
                .collect();
            for PairRow {
                first: i,
                second: j,
                weight: w,
                preference: p,
            } in prompt.pairs.rows()
            {
                let slope = beta.get() * weight * w * (sigmoid(beta.get() * (l[*i] - l[*j])) - p);
                condition[*i] += slope;
                condition[*j] -= slope;
            }
            assert!(
                condition.iter().all(|c| c.abs() < 1e-13),
                "{seed}: {condition:?}"
            );
        }
        let subopt: f64 = solved
            .iter()
            .zip([rho, 1.0 - rho])
            .map(|(s, w)| w * s.evaluation.subopt)
            .sum();
        assert!((average.subopt - subopt).abs() < 1e-14);
        // KTO's reference point is one number for both prompts.
        if let PromptOutcome::Solved(average, solved) =
            set.solve(&problems, &Method::Kto, beta).unwrap()
        {
            assert!((solved[0].certificates[0].1 - average.kl).abs() < 1e-10);
            assert_eq!(solved[0].certificates[0], solved[1].certificates[0]);
        }
    }
}

/// A set of one prompt is the problem itself, under every method.
#[test]
fn one_prompt_is_no_other_problem() {
    let (responses, _) = bandit(7);
    let (pairs, beta) = (uniform(&responses), Beta::try_new(0.4).unwrap());
    let prompt = Prompt {
        weight: 1.0,
        share: 1.0,
        responses: responses.clone(),
        pairs: pairs.clone(),
    };
    let set = PromptSet::try_new(vec![prompt]).unwrap();
    let problems = set.problems(beta).unwrap();
    for (name, method) in DEFAULT_METHODS {
        match (
            set.solve(&problems, &method, beta).unwrap(),
            problems[0].solve(&method).unwrap(),
        ) {
            (PromptOutcome::Solved(_, all), Outcome::Solved(one)) => {
                assert_eq!(all[0].log_policy, one.log_policy, "{name}")
            }
            (PromptOutcome::NoMinimiser(0, a), Outcome::NoMinimiser(b)) => {
                assert_eq!(a, b, "{name}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(PromptSet::try_new(Vec::new()).is_err());
}
