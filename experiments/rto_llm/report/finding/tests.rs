use super::*;

fn comparison(won: usize, tied: usize, lost: usize) -> Comparison {
    let w: Vec<f64> = [(1.0, won), (0.5, tied), (0.0, lost)]
        .into_iter()
        .flat_map(|(w, n)| std::iter::repeat_n(w, n))
        .collect();
    Comparison::try_new(&w, &vec![0.0; w.len()]).unwrap()
}

#[test]
fn a_loss_is_called_one_and_a_gain_too() {
    for (won, lost, says) in [
        (
            240,
            160,
            "RTO is ahead of DPPO: RTO has the higher reward on 60.0%",
        ),
        (
            160,
            240,
            "RTO is behind DPPO: RTO has the higher reward on 40.0%",
        ),
        (
            200,
            200,
            "RTO and DPPO are not told apart: RTO has the higher reward on 50.0%",
        ),
        (205, 195, "RTO and DPPO are not told apart"),
        (195, 205, "RTO and DPPO are not told apart"),
        (400, 0, "RTO is ahead of DPPO"),
        (0, 400, "RTO is behind DPPO"),
    ] {
        let c = comparison(won, 0, lost);
        let text = versus("rto", "dppo", &c);
        assert!(text.starts_with(says), "{won}, {lost}: {text}");
        let open = text.contains("not told apart");
        assert_eq!(open, text.contains("(not significant"), "{text}");
        // The other direction says the opposite.
        let back = versus("dppo", "rto", &c.reversed());
        let opposite = match text {
            _ if open => "not told apart",
            _ if text.contains("ahead") => "DPPO is behind RTO",
            _ => "DPPO is ahead of RTO",
        };
        assert!(back.contains(opposite), "{back}");
    }
}

/// A p-value at the level itself, and one a step to either side of it.
#[test]
fn the_level_is_the_threshold() {
    for (p, open) in [
        (ALPHA, false),
        (ALPHA.next_up(), true),
        (ALPHA.next_down(), false),
    ] {
        let c = Comparison {
            p_holm: p,
            ..comparison(240, 0, 160)
        };
        assert_eq!(standing(&c) == Standing::Open, open, "{p}");
    }
}

/// Many prompts won by a little and few lost by much: the test and the mean disagree, and neither is followed.
#[test]
fn a_test_against_its_own_mean_decides_nothing() {
    let w: Vec<f64> = (0..100).map(|i| if i < 70 { 0.51 } else { 0.0 }).collect();
    let c = Comparison::try_new(&w, &[0.0; 100]).unwrap();
    assert!(c.p_holm < ALPHA && c.rate.value < 0.5);
    assert_eq!(standing(&c), Standing::Open);
    assert!(versus("rto", "dppo", &c).contains("not that of the mean"));
}

fn summary(name: &str, value: f64) -> Summary {
    let score = Estimate {
        value,
        low: value - 0.1,
        high: value + 0.1,
    };
    Summary {
        name: name.into(),
        score,
        length: score,
        kl: None,
    }
}

#[test]
fn the_highest_mean_is_not_taken_for_significant() {
    let two = |won, lost| {
        let names = vec!["rto".to_string(), "sft".to_string()];
        Matrix::try_new(names, vec![(0, 1, comparison(won, 0, lost))]).unwrap()
    };
    let methods = [summary("rto", 1.0), summary("sft", 0.5)];
    let says = |won, lost| best(&methods, &two(won, lost)).unwrap();
    assert!(says(300, 100).contains("the other method is significantly behind"));
    for (won, lost) in [(200, 200), (210, 190), (100, 300)] {
        assert!(says(won, lost).contains("the other method is not significantly behind"));
    }
    let equal = [summary("rto", 1.0), summary("sft", 1.0)];
    let text = best(&equal, &two(300, 100)).unwrap();
    assert!(text.contains("<b>RTO</b> and <b>SFT</b> share"), "{text}");
    assert_eq!(best(&[], &two(1, 1)), None);
}

#[test]
fn over_seeds_an_interval_that_holds_a_half_decides_nothing() {
    let cell = |low: f64, high: f64| OverSeeds {
        rate: Estimate {
            value: 0.5 * (low + high),
            low,
            high,
        },
        length_controlled: None,
    };
    for (low, high, says) in [
        (
            0.51,
            0.7,
            "RTO is ahead of SFT: RTO has the higher reward on 60.5%",
        ),
        (
            0.3,
            0.49,
            "RTO is behind SFT: RTO has the higher reward on 39.5%",
        ),
        (0.5, 0.7, "RTO and SFT are not told apart"),
        (0.3, 0.5, "RTO and SFT are not told apart"),
    ] {
        let text = over_seeds("rto", "sft", &cell(low, high));
        assert!(text.starts_with(says), "{text}");
    }
    let cells = |low, high| {
        vec![
            vec![None, Some(cell(low, high))],
            vec![Some(cell(1.0 - high, 1.0 - low)), None],
        ]
    };
    let best =
        |low, high| best_over_seeds(&["rto", "sft"], &[2.0, 1.0], &cells(low, high)).unwrap();
    assert!(best(0.6, 0.7).contains("the other method is significantly behind"));
    for (low, high) in [(0.5, 0.7), (0.3, 0.4)] {
        assert!(best(low, high).contains("not significantly behind"));
    }
}

#[test]
fn the_title_follows_the_numbers() {
    let of = |kl: f64, reward: f64| {
        let rto = Mean {
            name: "rto",
            kl,
            reward: [reward, reward - 0.1, reward + 0.1],
        };
        let dpo = Mean {
            name: "dpo",
            kl: 1.0,
            reward: [1.0, 0.9, 1.1],
        };
        title(&[rto, dpo])
    };
    let dearer = "RTO pays more KL than DPO here, for no more reward";
    assert_eq!(of(2.0, 0.5), dearer);
    assert_eq!(of(2.0, 1.0), dearer);
    for (kl, reward) in [(2.0, 1.01), (2.0, 5.0), (1.0, 0.5), (0.5, 1.15)] {
        assert_eq!(of(kl, reward), NO_FINDING, "{kl} {reward}");
    }
    for kl in [0.5, 1.0] {
        assert_eq!(
            of(kl, 1.25),
            "RTO gets more reward than DPO here, for no more KL"
        );
    }
    assert_eq!(title(&[]), NO_FINDING);
}

#[test]
fn small_runs_are_named() {
    assert_eq!(too_small(Some(FEWEST_STEPS), FEWEST_PROMPTS), None);
    assert_eq!(too_small(None, FEWEST_PROMPTS), None);
    let said = too_small(Some(1), FEWEST_PROMPTS - 1);
    assert_eq!(said.unwrap(), "1 iteration and 49 held-out prompts");
    let said = too_small(Some(FEWEST_STEPS - 1), FEWEST_PROMPTS);
    assert_eq!(said.unwrap(), "9 iterations");
}

#[test]
fn what_pays_lies_above_every_baseline_that_counts() {
    let baselines = |best_of_4: f64| -> Vec<(String, f64)> {
        [
            ("sft", 1.0, 0.5),
            ("greedy", 0.0, -0.25),
            ("sharpened", 0.6, 0.75),
            ("best_of_reward_model", 4.0, best_of_4),
            // More replies than four need not be beaten.
            ("best_of_dpo", 16.0, 9.0),
        ]
        .into_iter()
        .filter_map(|(policy, parameter, value)| Some((baseline(policy, parameter)?, value)))
        .collect()
    };
    let methods = [("sft", 0.5), ("dpo", 0.875), ("rto", 1.5), ("optimum", 2.0)];
    let says = |best_of_4| pays(&methods, &baselines(best_of_4), Some("0.25")).unwrap();
    assert_eq!(
        says(1.0),
        "In exact value at β = 0.25 RTO (1.500) ends above SFT at every temperature and the best of four of its replies, of which the best of 4 replies by the reward model has the most, 1.000."
    );
    assert_eq!(
        says(0.0),
        "In exact value at β = 0.25 DPO (0.875) and RTO (1.500) end above SFT at every temperature and the best of four of its replies, of which SFT at temperature 0.6 has the most, 0.750."
    );
    // Neither SFT itself nor the optimum is a method, and a tie is not above.
    assert_eq!(
        says(1.5),
        "In exact value at β = 0.25 nothing that was trained ends above SFT at every temperature and the best of four of its replies: the best of 4 replies by the reward model has 1.500, RTO ends highest with 1.500."
    );
    assert_eq!(pays(&methods, &[], None), None);
    assert_eq!(pays(&[("sft", 0.5)], &baselines(1.0), None), None);
}
