//! Optimistic fits on tables of more than two responses: global on a box, XPO, SELM and VPO as one problem, and the learners' regret.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto::mdp::Beta;
use rto::numerics::sigmoid;
use rto::preference::{
    Learner, OptimisticFit, Responses, Sampler, Trap, normalise, online_regret, xpo_two_responses,
};
use rto::seed::SeedTree;

struct Drawn {
    log_reference: Vec<f64>,
    wins: Vec<f64>,
    calibration: Vec<f64>,
    beta: Beta,
    weight: f64,
    bound: f64,
}

/// Few comparisons of n responses, so that some were never seen.
fn drawn(n: usize, rng: &mut ChaCha8Rng) -> Drawn {
    let mut law = || normalise((0..n).map(|_| rng.random_range(-3.0..0.0)).collect());
    let (log_reference, calibration) = (law(), law());
    let mut wins = vec![0.0; n * n];
    for _ in 0..rng.random_range(0..4 * n) {
        let y = rng.random_range(0..n);
        let z = (y + rng.random_range(1..n)) % n;
        wins[y * n + z] += 1.0;
    }
    Drawn {
        log_reference,
        wins,
        calibration: calibration.iter().map(|u| u.exp()).collect(),
        beta: Beta::try_new(rng.random_range(0.3..1.5)).unwrap(),
        weight: rng.random_range(0.01..0.5),
        bound: rng.random_range(0.5..2.0),
    }
}

impl Drawn {
    fn fit(&self) -> OptimisticFit<'_> {
        OptimisticFit::try_new(
            &self.log_reference,
            self.beta,
            &self.wins,
            &self.calibration,
            self.weight,
            self.bound,
        )
        .unwrap()
    }
}

/// The bound that branch and bound proves meets what the descents reach; no point of a grid or at random is lower.
#[test]
fn the_best_of_many_descents_is_global() {
    let mut certified = 0;
    for case in 0..60u64 {
        let mut rng = SeedTree::new(20).index(case).rng();
        let n = [2, 3, 4, 5][case as usize % 4];
        let d = drawn(n, &mut rng);
        let fit = d.fit();
        let (at, value) = fit.best(&[]);
        assert!(at.iter().all(|r| (0.0..=d.bound).contains(r)), "{case}");
        assert!((fit.value(&at) - value).abs() < 1e-12, "{case}");
        let bound = fit.lower_bound(value, 1e-6, 4000);
        assert!(bound <= value + 1e-9, "{case}: bound {bound} above {value}");
        certified += u32::from(bound >= value - 1.001e-6);
        for _ in 0..200 {
            let point: Vec<f64> = (0..n).map(|_| rng.random_range(0.0..=d.bound)).collect();
            let there = fit.value(&point);
            assert!(there >= value - 1e-9, "{case}: {there} below {value}");
            assert!(
                there >= bound - 1e-9,
                "{case}: {there} below the bound {bound}"
            );
        }
    }
    assert_eq!(certified, 60);
}

/// A box of a thousand β and more, where e^{R/β} is beyond the range of floating point: bounds are numbers, and below all values.
#[test]
fn bounds_hold_at_small_beta() {
    for case in 0..40u64 {
        let mut rng = SeedTree::new(23).index(case).rng();
        let n = [2, 3][case as usize % 2];
        let mut d = drawn(n, &mut rng);
        d.beta = Beta::try_new(10f64.powf(rng.random_range(-4.0..-2.0))).unwrap();
        d.bound = rng.random_range(1.0..8.0);
        let fit = d.fit();
        let (at, value) = fit.best(&[]);
        let bound = fit.lower_bound(value, 1e-6, 1000);
        assert!(bound <= value + 1e-9, "{case}: bound {bound} above {value}");
        // L ≥ 0 and V* − E_cal R ≤ V: a bound that says nothing would be below this.
        assert!(bound >= -d.weight * d.bound - 1e-9, "{case}: {bound}");
        assert!(at.iter().all(|r| (0.0..=d.bound).contains(r)), "{case}");
        for _ in 0..200 {
            let point: Vec<f64> = (0..n).map(|_| rng.random_range(0.0..=d.bound)).collect();
            let there = fit.value(&point);
            assert!(there >= value - 1e-9, "{case}: {there} below {value}");
            assert!(there >= bound - 1e-9, "{case}: {there} below {bound}");
        }
    }
}

/// With cal = π_ref and a = α/β two responses give what XPO's own solver of two responses gives.
#[test]
fn two_responses_have_the_minimiser_of_xpo() {
    for case in 0..40u64 {
        let mut rng = SeedTree::new(21).index(case).rng();
        let mut d = drawn(2, &mut rng);
        d.calibration = d.log_reference.iter().map(|u| u.exp()).collect();
        let alpha = d.weight * d.beta.get();
        let counts = (d.wins[2], d.wins[1]);
        let total: f64 = (counts.0 + counts.1).max(1.0);
        let want = xpo_two_responses(&d.log_reference, d.beta, counts, alpha, d.bound).unwrap();
        assert!(total >= 1.0);
        let fit = d.fit();
        let (_, value) = fit.best(&[]);
        let point = if want > 0.0 {
            [0.0, want]
        } else {
            [-want, 0.0]
        };
        let there = fit.value(&point);
        assert!((there - value).abs() < 1e-9, "{case}: {there} and {value}");
    }
}

/// Where a set is named, raising it for ever lowers the objective; where none is, every direction goes up in the end.
#[test]
fn a_minimiser_exists_unless_a_set_can_rise_for_ever() {
    let (mut named, mut none) = (0, 0);
    for case in 0..200u64 {
        let mut rng = SeedTree::new(25).index(case).rng();
        let n = 2 + case as usize % 4;
        let mut d = drawn(n, &mut rng);
        if case % 2 == 0 {
            // Everything is compared, and the weight is small.
            d.wins = (0..n * n)
                .map(|k| f64::from(u8::from(k % (n + 1) != 0)))
                .collect();
            d.weight *= 0.2;
        }
        let fit = d.fit();
        match fit.unbounded_along() {
            Some(set) => {
                named += 1;
                let at = |height: f64| {
                    let r = (0..n).map(|y| if set.contains(&y) { height } else { 0.0 });
                    fit.value(&r.collect::<Vec<_>>())
                };
                let (near, far) = (at(200.0), at(400.0));
                assert!(
                    far <= near + 1e-9 * near.abs(),
                    "{case}: {set:?} {near} {far}"
                );
            }
            None => {
                none += 1;
                for _ in 0..50 {
                    let way: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
                    let at = |t: f64| fit.value(&way.iter().map(|w| t * w).collect::<Vec<_>>());
                    assert!(at(4e4) > at(2e4), "{case}: {way:?}");
                }
            }
        }
    }
    assert!(named > 30 && none > 30, "{named} {none}");
}

/// −α[V* − E_cal R] = αβ E_cal log(π/π_ref): VPO's incentive is XPO's bonus and SELM's, up to a constant and the weight.
#[test]
fn value_incentive_and_bonus_are_one() {
    for case in 0..40u64 {
        let mut rng = SeedTree::new(22).index(case).rng();
        let d = drawn(5, &mut rng);
        let fit = d.fit();
        let b = d.beta.get();
        let bonus = |r: &[f64]| -> f64 {
            let tilted = d.log_reference.iter().zip(r).map(|(u, r)| u + r / b);
            let pi = normalise(tilted.collect());
            let ratio = pi.iter().zip(&d.log_reference).map(|(u, v)| u - v);
            d.weight
                * b
                * d.calibration
                    .iter()
                    .zip(ratio)
                    .map(|(m, l)| m * l)
                    .sum::<f64>()
        };
        let total = d.wins.iter().sum::<f64>().max(1.0);
        let r: Vec<f64> = (0..5).map(|_| rng.random_range(0.0..1.0)).collect();
        let mut loss = 0.0;
        for i in 0..5 {
            for j in 0..5 {
                if i != j {
                    loss -= d.wins[i * 5 + j] * sigmoid(r[i] - r[j]).ln() / total;
                }
            }
        }
        assert!((fit.value(&r) - loss - bonus(&r)).abs() < 1e-12, "{case}");
    }
}

/// Five responses, of which the rarest is the best or the worst: regret only grows, and as long as the rarest was never drawn the
/// optimistic fit puts it at the top of the class and all that was drawn, and tied, at the bottom.
#[test]
fn what_was_never_drawn_is_at_the_top() {
    let beta = Beta::try_new(0.125).unwrap();
    let reference = [0.3, 0.3, 0.2, 0.182, 0.018];
    let curve = |learner, rare: f64, run: u64| {
        let responses = Responses::bandit(&reference, &[0.0, 0.0, 0.0, 0.0, rare]).unwrap();
        let mut rng = SeedTree::new(23).index(run).rng();
        let sampler = Sampler::PolicyReference;
        online_regret(&responses, beta, learner, sampler, 200, &mut rng).unwrap()
    };
    for learner in [
        Learner::Xpo {
            alpha: 0.1,
            bound: 2.0,
        },
        Learner::Selm {
            alpha: 0.1,
            bound: 2.0,
        },
    ] {
        for run in 0..12 {
            for rare in [1.0, -1.0] {
                let regret = curve(learner, rare, run);
                assert!(regret.windows(2).all(|w| w[1] >= w[0] - 1e-12));
            }
        }
    }
    // Nothing but the four others was compared, all ties.
    let log_reference: Vec<f64> = reference.iter().map(|p| p.ln()).collect();
    let mut wins = vec![0.0; 25];
    for i in 0..4 {
        for j in (0..4).filter(|j| *j != i) {
            wins[i * 5 + j] = 3.0;
        }
    }
    let drawn = [0.25, 0.25, 0.25, 0.25, 0.0];
    let fit = OptimisticFit::try_new(&log_reference, beta, &wins, &drawn, 0.05, 2.0).unwrap();
    let (r, _) = fit.best(&[]);
    assert!(
        r[4] > 2.0 - 1e-9 && r[..4].iter().all(|r| *r < 1e-9),
        "{r:?}"
    );
}

/// The passive learner's mean regret is at least the exact bound, up to its standard error; the two-stage learner, which does not draw
/// from π_ref, is below it over the first rounds.
#[test]
fn the_lower_bound_is_of_passive_learners() {
    let beta = Beta::try_new(0.1).unwrap();
    let trap = Trap::try_new(beta, 0.5).unwrap();
    let responses = Responses::bandit(&[1.0 - trap.mass, trap.mass], &[0.0, 1.0]).unwrap();
    let greedy = Learner::Greedy {
        bound: 1.0,
        ridge: 1e-2,
    };
    let runs = |sampler| -> Vec<f64> {
        (0..40)
            .map(|run| {
                let mut rng = SeedTree::new(24).index(run).rng();
                online_regret(&responses, beta, greedy, sampler, 300, &mut rng).unwrap()[299]
            })
            .collect()
    };
    let bound = trap.passive_regret(300.0);
    let passive = runs(Sampler::PolicyReference);
    let mean = passive.iter().sum::<f64>() / 40.0;
    let error = (passive.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 39.0 / 40.0).sqrt();
    assert!(
        mean + 3.0 * error > bound,
        "{mean} ± {error}, bound {bound}"
    );
    let explorer = Sampler::PolicyExplorer {
        rho: 0.5,
        lambda: 1.0,
    };
    let two_stage = runs(explorer).iter().sum::<f64>() / 40.0;
    assert!(two_stage < bound, "{two_stage}, bound {bound}");
}

#[test]
fn bad_constants_are_refused() {
    let (u, m) = ([0.5f64.ln(); 2], [0.5; 2]);
    let beta = Beta::try_new(0.5).unwrap();
    let fit =
        |wins: &[f64], weight, bound| OptimisticFit::try_new(&u, beta, wins, &m, weight, bound);
    for (wins, weight, bound, field) in [
        (&[0.0; 3][..], 0.1, 1.0, "wins"),
        (&[0.0; 4], -0.1, 1.0, "weight"),
        (&[0.0; 4], 0.1, 0.0, "bound"),
        (&[0.0; 4], 0.1, f64::NAN, "bound"),
    ] {
        let said = fit(wins, weight, bound).unwrap_err().to_string();
        assert!(said.contains(field), "{said}");
    }
}
