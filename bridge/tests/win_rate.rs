//! Win rates: closed forms, brute force over all outcomes, and coverage by simulation.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rto::numerics::{sigmoid, wilson_interval};
use rto::seed::SeedTree;
use rto_bridge::win_rate::{
    Answer, Comparison, Contestant, Estimate, Matrix, WinRates, holm, interval, length_controlled,
    over_seeds, sign_test,
};

const Z: f64 = 1.959963984540054;

fn close(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() <= tolerance, "{a} is not {b}");
}

fn method(name: &str, prompts: &[&[(f64, f64)]]) -> Contestant {
    let answer = |&(score, length): &(f64, f64)| Answer {
        score,
        length,
        kl: Some(score / 2.0),
    };
    Contestant {
        name: name.into(),
        prompts: prompts
            .iter()
            .map(|p| p.iter().map(answer).collect())
            .collect(),
    }
}

/// Bernoulli(p) as a preference.
fn flip(rng: &mut ChaCha8Rng, p: f64) -> f64 {
    f64::from(u8::from(rng.random::<f64>() < p))
}

#[test]
fn without_ties_the_interval_is_wilsons() {
    for (wins, n) in [(0, 5), (1, 3), (7, 12), (244, 400), (400, 400)] {
        let w: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < wins))).collect();
        let found = interval(&w);
        let (low, high) = wilson_interval(wins as u64, n as u64, Z);
        close(found.value, wins as f64 / n as f64, 1e-15);
        close(found.low, low, 1e-12);
        close(found.high, high, 1e-12);
    }
    // RTO against DPPO in Table 1(a), 0.611 of 400: Wilson by hand.
    let w: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i < 244))).collect();
    close(interval(&w).low, 0.5614, 5e-5);
    close(interval(&w).high, 0.6565, 5e-5);
}

#[test]
fn ties_narrow_the_interval_but_never_to_nothing() {
    let width = |w: &[f64]| interval(w).high - interval(w).low;
    let decided: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
    let half_tied: Vec<f64> = (0..100).map(|i| [0.0, 0.5, 1.0, 0.5][i % 4]).collect();
    assert!(width(&half_tied) < width(&decided) && width(&half_tied) > 0.7 * width(&decided));
    // All tied: D = z²/(n + z²) exactly.
    let n = 10.0;
    let m = n * (n + Z * Z) / (Z * Z);
    let half = Z * (0.25 / m + Z * Z / (4.0 * m * m)).sqrt() / (1.0 + Z * Z / m);
    let tied = interval(&[0.5; 10]);
    close(tied.low, 0.5 - half, 1e-12);
    assert!(half > 0.1, "{half}");
}

#[test]
fn the_sign_test_counts_all_outcomes() {
    for m in 0..=12u32 {
        for won in 0..=m {
            // As likely or less likely than what was seen, over all 2^m outcomes.
            let distance = |k: u32| (2 * i64::from(k) - i64::from(m)).abs();
            let extreme = (0..1u32 << m).filter(|o| distance(o.count_ones()) >= distance(won));
            let expected = extreme.count() as f64 / f64::from(1u32 << m);
            close(sign_test(won as usize, (m - won) as usize), expected, 1e-12);
        }
    }
    // scipy.stats.binomtest(222, 400).pvalue and binomtest(4, 600).pvalue, scipy 1.17.1.
    close(sign_test(222, 178), SCIPY[0], 1e-12);
    assert!((sign_test(4, 596) / SCIPY[1] - 1.0).abs() < 1e-9);
}

const SCIPY: [f64; 2] = [0.031426635514430847, 2.5941174393286674e-171];

#[test]
fn holm_steps_down() {
    assert_eq!(holm(&[]), Vec::<f64>::new());
    let found = holm(&[0.04, 0.01, 0.03]);
    for (found, expected) in found.iter().zip([0.06, 0.03, 0.06]) {
        close(*found, expected, 1e-15);
    }
    assert_eq!(holm(&[0.9, 0.8]), vec![1.0, 1.0]);
}

#[test]
fn a_matrix_by_hand() {
    let a = method("a", &[&[(1.0, 4.0)], &[(2.0, 4.0)], &[(0.0, 4.0)]]);
    let b = method("b", &[&[(0.0, 2.0)], &[(2.0, 4.0)], &[(-1.0, 6.0)]]);
    // Two answers: prompt by prompt, against a: (1 + ½)/2, (0 + ½)/2, 0.
    let c = method(
        "c",
        &[
            &[(0.0, 1.0), (1.0, 3.0)],
            &[(3.0, 4.0), (2.0, 4.0)],
            &[(5.0, 9.0), (6.0, 7.0)],
        ],
    );
    let rates = WinRates::try_new(&[a, b, c]).unwrap();
    let cell = |i, j| rates.get(i, j).unwrap();
    assert!(rates.get(1, 1).is_none());
    assert_eq!(cell(0, 1).won_tied_lost, [2, 1, 0]);
    close(cell(0, 1).rate.value, 2.5 / 3.0, 1e-15);
    close(cell(0, 1).p_value, 0.5, 1e-15);
    close(cell(0, 2).rate.value, (0.75 + 0.25 + 0.0) / 3.0, 1e-15);
    close(cell(0, 1).length_difference, 0.0, 1e-15);
    close(cell(0, 2).length_difference, (2.0 + 0.0 - 4.0) / 3.0, 1e-15);
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        let (there, back) = (cell(i, j), cell(j, i));
        close(there.rate.value + back.rate.value, 1.0, 1e-15);
        close(there.rate.low + back.rate.high, 1.0, 1e-15);
        assert_eq!(there.p_value, back.p_value);
        assert!(there.p_holm >= there.p_value && there.p_holm == back.p_holm);
    }
    let summary = &rates.methods[0];
    // t(2) at 0.975 is 4.302653, s²/3 = 1/3.
    close(summary.score.value, 1.0, 1e-15);
    close(summary.score.high, 1.0 + 4.302653 / 3f64.sqrt(), 1e-5);
    close(summary.kl.unwrap().value, 0.5, 1e-15);
    close(
        rates.methods[2].length.value,
        (2.0 + 4.0 + 8.0) / 3.0,
        1e-15,
    );
}

#[test]
fn equal_lengths_leave_the_win_rate_alone() {
    for (wins, n) in [(3, 4), (61, 100)] {
        let w: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < wins))).collect();
        let found = length_controlled(&w, &vec![0.0; n]).unwrap();
        let (p, n) = (wins as f64 / n as f64, n as f64);
        close(found.value, p, 1e-10);
        let half = Z / (n * p * (1.0 - p)).sqrt();
        close(found.low, sigmoid((p / (1.0 - p)).ln() - half), 1e-10);
    }
    // Lengths that are balanced over wins and losses change nothing either.
    let w = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
    let found = length_controlled(&w, &[3.0, -3.0, 3.0, -3.0, 3.0, -3.0]).unwrap();
    close(found.value, 2.0 / 3.0, 1e-10);
}

#[test]
fn a_preference_for_length_alone_is_taken_out() {
    let mut rng = SeedTree::new(4).child("length").rng();
    let n = 20_000;
    // The row is longer three times in four, and a win depends on that alone.
    let lengths: Vec<f64> = (0..n).map(|_| 20.0 * flip(&mut rng, 0.75) - 10.0).collect();
    let wins = |d: &f64| sigmoid(1.5 * (d / 10.0).tanh());
    let w: Vec<f64> = lengths.iter().map(|d| flip(&mut rng, wins(d))).collect();
    let plain = interval(&w);
    let fair = length_controlled(&w, &lengths).unwrap();
    assert!(plain.low > 0.6, "{plain:?}");
    assert!(
        fair.low < 0.5 && fair.high > 0.5 && (fair.value - 0.5).abs() < 0.02,
        "{fair:?}"
    );
}

#[test]
fn the_length_controlled_fit_is_the_maximum() {
    let mut rng = SeedTree::new(5).rng();
    let lengths: Vec<f64> = (0..60).map(|_| 40.0 * rng.random::<f64>() - 15.0).collect();
    let choose = |_: &f64| f64::from(rng.random_range(0..3u8)) / 2.0;
    let w: Vec<f64> = lengths.iter().map(choose).collect();
    let alpha = {
        let p = length_controlled(&w, &lengths).unwrap().value;
        (p / (1.0 - p)).ln()
    };
    let s = (lengths.iter().map(|d| d * d).sum::<f64>() / 60.0).sqrt();
    let profile = |alpha: f64| {
        let value = |gamma: f64| {
            let term = |(w, d): (&f64, &f64)| {
                let p = 1.0 / (1.0 + (-(alpha + gamma * (d / s).tanh())).exp());
                w * p.ln() + (1.0 - w) * (1.0 - p).ln()
            };
            w.iter().zip(&lengths).map(term).sum::<f64>()
        };
        // Golden-section search over γ.
        let (mut low, mut high) = (-8.0, 8.0);
        for _ in 0..100 {
            let (a, b) = (
                low + 0.381966 * (high - low),
                high - 0.381966 * (high - low),
            );
            if value(a) < value(b) {
                low = a
            } else {
                high = b
            }
        }
        value(low)
    };
    let best = profile(alpha);
    for step in [1e-3, 1e-2, 0.1, 1.0] {
        assert!(profile(alpha + step) < best && profile(alpha - step) < best);
    }
    // The other direction of the pair is the complement.
    let turned: Vec<f64> = w.iter().map(|w| 1.0 - w).collect();
    let back: Vec<f64> = lengths.iter().map(|d| -d).collect();
    let sum = length_controlled(&turned, &back).unwrap().value + sigmoid(alpha);
    close(sum, 1.0, 1e-9);
}

#[test]
fn nothing_is_made_up_where_nothing_can_be_estimated() {
    assert!(length_controlled(&[1.0; 20], &[1.0; 20]).is_none());
    assert!(length_controlled(&[1.0, 1.0, 0.0], &[5.0, 3.0, -4.0]).is_none());
    assert!(length_controlled(&[1.0, 1.0, 0.0], &[5.0, 5.0, 5.0]).is_none());
    let found = Comparison::try_new(&[1.0; 5], &[0.0; 5]).unwrap();
    assert!(found.length_controlled.is_none() && found.rate.low > 0.5);
}

/// How often an interval holds the truth, over `runs` data sets.
fn coverage(runs: u64, label: &str, holds: impl Fn(&mut ChaCha8Rng) -> bool) -> f64 {
    let seeds = SeedTree::new(11).child(label);
    let held = (0..runs)
        .filter(|run| holds(&mut seeds.index(*run).rng()))
        .count();
    held as f64 / runs as f64
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let holds = |w: &[f64], truth: f64| {
        let e = interval(w);
        e.low <= truth && truth <= e.high
    };
    let runs = 4000;
    // Three standard errors of a coverage of 0.95 over 4000 runs are 0.0103; Wilson itself oscillates by about 0.01.
    let within = |label: &str, found: f64| {
        println!("{label}: {found:.4}");
        assert!((0.93..=0.98).contains(&found), "{label}: {found}");
    };
    for (n, p) in [(400, 0.611), (100, 0.51), (30, 0.9)] {
        let found = coverage(runs, "plain", |rng| {
            let w: Vec<f64> = (0..n).map(|_| flip(rng, p)).collect();
            holds(&w, p)
        });
        within(&format!("{n} prompts at {p}"), found);
    }
    // Two in three tie; of the rest 60% are won.
    let found = coverage(runs, "ties", |rng| {
        let mut draw = || match flip(rng, 2.0 / 3.0) == 1.0 {
            true => 0.5,
            false => flip(rng, 0.6),
        };
        let w: Vec<f64> = (0..100).map(|_| draw()).collect();
        holds(&w, 1.0 / 3.0 + 0.6 / 3.0)
    });
    within("ties", found);
    // Four answers of each, and prompts that differ in how hard they are: treating the 16 pairs as independent would fail.
    let found = coverage(runs, "clusters", |rng| {
        let mut prompt = |_| {
            let p = rng.random::<f64>();
            (0..4).map(|_| flip(rng, p)).sum::<f64>() / 4.0
        };
        let w: Vec<f64> = (0..100).map(&mut prompt).collect();
        holds(&w, 0.5)
    });
    within("clusters", found);
}

#[test]
fn length_controlled_intervals_hold_the_truth() {
    let lengths: Vec<f64> = (0..200).map(|i| f64::from(i % 20) - 7.0).collect();
    let s = (lengths.iter().map(|d| d * d).sum::<f64>() / 200.0).sqrt();
    let found = coverage(2000, "lc", |rng| {
        let wins = |d: &f64| sigmoid(0.4 + 1.2 * (d / s).tanh());
        let w: Vec<f64> = lengths.iter().map(|d| flip(rng, wins(d))).collect();
        let e = length_controlled(&w, &lengths).unwrap();
        e.low <= sigmoid(0.4) && sigmoid(0.4) <= e.high
    });
    println!("length-controlled: {found:.4}");
    assert!((0.93..=0.975).contains(&found), "{found}");
}

#[test]
fn the_sign_test_rejects_no_more_often_than_it_says() {
    let rejected = 1.0
        - coverage(4000, "sign", |rng| {
            let wins = (0..400).filter(|_| flip(rng, 0.5) == 1.0).count();
            sign_test(wins, 400 - wins) > 0.05
        });
    println!("false rejections: {rejected:.4}");
    // Exact and discrete: below 0.05, and not far below.
    assert!((0.025..=0.055).contains(&rejected), "{rejected}");
}

#[test]
fn bad_scores_are_named() {
    let good = method("sft", &[&[(1.0, 2.0)], &[(1.0, 2.0)]]);
    let said = |other: Contestant| {
        WinRates::try_new(&[good.clone(), other])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        said(method("rto", &[&[(1.0, 2.0)]])),
        "method rto: answers 1 prompts, expected as many as sft (2) and at least one"
    );
    assert_eq!(
        said(method("rto", &[&[(1.0, 2.0)], &[]])),
        "method rto, prompt 1: no answer"
    );
    assert_eq!(
        said(method("rto", &[&[(1.0, 2.0)], &[(f64::NAN, 1.0)]])),
        "method rto, prompt 1: score: found NaN, expected a finite number"
    );
    assert_eq!(
        said(method("rto", &[&[(1.0, -2.0)], &[(0.0, 1.0)]])),
        "method rto, prompt 0: length: found -2, expected a finite number >= 0"
    );
    assert!(WinRates::try_new(&[]).is_err());
    assert!(Comparison::try_new(&[1.5], &[0.0]).is_err());
    assert!(Comparison::try_new(&[f64::NAN], &[0.0]).is_err());
    assert!(Comparison::try_new(&[1.0], &[]).is_err());
}

#[test]
fn runs_are_averaged_with_an_interval_over_runs() {
    let a: Vec<(f64, f64)> = vec![(1.0, 2.0); 4];
    let run = |wins: usize| {
        let b: Vec<f64> = (0..4).map(|i| if i < wins { 0.0 } else { 2.0 }).collect();
        let a: Vec<&[(f64, f64)]> = a.iter().map(std::slice::from_ref).collect();
        let b: Vec<[(f64, f64); 1]> = b.into_iter().map(|s| [(s, 2.0)]).collect();
        let b: Vec<&[(f64, f64)]> = b.iter().map(|s| s.as_slice()).collect();
        WinRates::try_new(&[method("a", &a), method("b", &b)]).unwrap()
    };
    // Rates ¼, ½, ¾: mean ½, s² = 1/16, t(2) at 0.975 = 4.302653; on log-odds divided by ½·½.
    let cells = over_seeds(&[run(1), run(2), run(3)]).unwrap();
    assert!(cells[0][0].is_none());
    let (there, back) = (cells[0][1].unwrap().rate, cells[1][0].unwrap().rate);
    close(there.value, 0.5, 1e-15);
    let half: f64 = 4.302653 * 0.25 / 3f64.sqrt() / 0.25;
    close(there.high, 1.0 / (1.0 + (-half).exp()), 1e-6);
    close(there.low + back.high, 1.0, 1e-12);
    // All lengths agree here, so the rate at equal length is the rate itself.
    let equal = cells[0][1].unwrap().length_controlled.unwrap();
    close(equal.value, 0.5, 1e-9);
    // Few runs with rates as far apart as they can be: still a share, where Student's t on the rates ends at −5.9 and 6.9.
    let apart = over_seeds(&[run(0), run(4)]).unwrap()[0][1].unwrap();
    assert!(apart.length_controlled.is_none());
    let Estimate { value, low, high } = apart.rate;
    assert!(value == 0.5 && (0.0..0.01).contains(&low) && high > 0.99 && high <= 1.0);
    // Runs that agree say nothing of their spread; eight prompts do.
    let agreed = over_seeds(&[run(4), run(4)]).unwrap()[0][1].unwrap().rate;
    let wilson = interval(&[1.0; 8]);
    assert_eq!((agreed.value, agreed.high), (1.0, 1.0));
    close(agreed.low, wilson.low, 1e-12);
    assert!(agreed.low < 0.7);
    assert!(over_seeds(&[run(1)]).is_err());
    let other = WinRates::try_new(&[method("a", &[&[(1.0, 1.0)]])]).unwrap();
    let said = over_seeds(&[run(1), other]).unwrap_err().to_string();
    assert_eq!(
        said,
        "win rates over seeds: run 1 has the methods a, expected a, b"
    );
}

/// A divergence and a length are not negative, whatever a few noisy answers say.
#[test]
fn what_cannot_be_negative_has_no_negative_end() {
    let answers = |kls: [f64; 3]| Contestant {
        name: "a".into(),
        prompts: kls
            .iter()
            .map(|kl| {
                vec![Answer {
                    score: -1.0,
                    length: kl.abs(),
                    kl: Some(*kl),
                }]
            })
            .collect(),
    };
    for kls in [[0.0, 0.0, 3.0], [-1.0, 0.2, 0.1], [-1.0, -2.0, -3.0]] {
        let rates = WinRates::try_new(&[answers(kls)]).unwrap();
        let summary = &rates.methods[0];
        for e in [summary.kl.unwrap(), summary.length] {
            assert!(
                e.low >= 0.0 && e.low <= e.value && e.value <= e.high,
                "{e:?}"
            );
        }
        // Scores may be.
        assert!(summary.score.low < 0.0);
    }
}

#[test]
fn verdicts_of_a_judge_make_a_matrix() {
    let compared = |w: &[f64]| Comparison::try_new(w, &vec![0.0; w.len()]).unwrap();
    let names: Vec<String> = ["a", "b", "c"].map(String::from).into();
    let wins = compared(&[1.0; 8]);
    let even = compared(&[1.0, 0.0, 0.5]);
    let matrix = Matrix::try_new(names.clone(), vec![(2, 0, wins.clone()), (0, 1, even)]).unwrap();
    // 2/2^8 twice, of two pairs.
    close(matrix.get(0, 2).unwrap().p_holm, 4.0 / 256.0, 1e-15);
    close(matrix.get(0, 2).unwrap().rate.value, 0.0, 1e-15);
    close(matrix.get(2, 0).unwrap().rate.value, 1.0, 1e-15);
    assert!(matrix.get(1, 2).is_none() && matrix.get(1, 1).is_none());
    let pairs: Vec<(usize, usize)> = matrix.pairs().map(|(i, j, _)| (i, j)).collect();
    assert_eq!(pairs, [(0, 1), (0, 2)]);
    for bad in [(0, 0), (0, 3)] {
        let pairs = vec![(bad.0, bad.1, wins.clone())];
        assert!(Matrix::try_new(names.clone(), pairs).is_err());
    }
    let twice = vec![(0, 1, wins.clone()), (1, 0, wins)];
    assert!(
        Matrix::try_new(names, twice)
            .unwrap_err()
            .to_string()
            .contains("found twice")
    );
}
