//! Rows that no episode can meet count for nothing.

use crate::common::*;
use rand::Rng;
use rto::seed::SeedTree;
use serde_json::{Value, json};

/// Features after the end-of-sentence token are larger than any that an episode meets.
#[test]
fn feature_bounds_leave_out_what_follows_the_end_of_sentence() {
    let instance = |estimation: Value| {
        json!({
            "beta": 1, "initial": [1], "n_actions": 2, "horizon": 2, "eos": 0,
            "reference": [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]],
            "features": [[[[1], [0.5]], [[3], [3]], [[1], [0]]]],
            "preferences": [{"winner": [0], "loser": [1, 0]}],
            "estimation": estimation
        })
    };
    let got = solved(&instance(
        json!({"param_bound": 1, "bonus_scale": "theory"}),
    ));
    // 2HLB = 4: Υ = 1/(2 + e⁴ + e⁻⁴).
    let upsilon = 1.0 / (2.0 + 4f64.exp() + (-4f64).exp());
    close(
        "Upsilon",
        &got["radii"]["Upsilon_2HLB"],
        &json!(upsilon),
        1e-12,
    );
    close(
        "radius",
        &got["algorithm1"]["bonus_scale"],
        &json!(78.804),
        1e-5,
    );
    let given =
        |l: f64| instance(json!({"param_bound": 1, "feature_bound": l, "bonus_scale": "theory"}));
    assert_eq!(solved(&given(1.0))["radii"], got["radii"]);
    refused(
        &given(0.99),
        &["estimation.feature_bound: found 0.99", "is 1"],
    );
}

/// Actions of reference probability 0, transitions of probability 0 and prompts of probability 0 neither warn
/// nor overflow.
#[test]
fn nothing_is_told_about_rows_that_cannot_be_met() {
    let got = solved(&json!({
        "beta": 1, "states": 3, "initial": [1, 0, 0], "horizon": 2,
        "transition": [[[[1, 1.0], [2, 0.0]], 2], [null, null], [null, null]],
        "reference": [[1, 0], [0.5, 0.5], [0.5, 0.5]],
        "features": [[[1], [1e200]], [[0.5], [0.25]], [[1e250], [-1e300]]],
        "policy_logits": [[0, null], [0, 1], [0, 0]],
        "theta": [2],
        "preferences": [{"winner": [[0, 0], [1, 0]], "loser": [[0, 0], [1, 1]]}],
        "estimation": {"param_bound": 1, "bonus_scale": "theory"}
    }));
    let upsilon = 1.0 / (2.0 + 4f64.exp() + (-4f64).exp());
    close(
        "Upsilon",
        &got["radii"]["Upsilon_2HLB"],
        &json!(upsilon),
        1e-12,
    );
    assert!(got["dpo"]["suboptimality"].is_number());
}

/// A one-hot reward table: entries that nothing meets are no part of θ*.
#[test]
fn the_norm_of_a_reward_table_is_over_what_can_be_met() {
    let instance = |hidden: f64| {
        json!({
            "beta": 1, "initial": [1], "n_actions": 2, "horizon": 2, "eos": 0,
            "reference": [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]],
            "reward": [[[0.2, 0.1], [hidden, hidden], [0.3, 0]]],
            "preferences": [{"winner": [0], "loser": [1, 0]}, {"winner": [1, 1], "loser": [0]}],
            "estimation": {"param_bound": 1, "bonus_scale": 3}
        })
    };
    let (near, far) = (solved(&instance(0.0)), solved(&instance(1e6)));
    assert_eq!(near["theorem_b1"]["theta_star_in_set"], true);
    assert_eq!(near, far);
}

/// Junk in rows that cannot be met leaves every byte of the report as it is.
#[test]
fn junk_where_no_episode_goes_changes_no_byte() {
    let mut junk = 0;
    for i in 0..150 {
        let mut rng = SeedTree::new(15).child("solve").index(i).rng();
        let (actions, horizon, dim) = (2 + (i % 2) as usize, 2 + (i % 2) as usize, 2usize);
        let states = (0..horizon).fold(0, |n, _| n * actions + 1);
        let eos = (!i.is_multiple_of(3)).then_some(0usize);
        // The prefix of a state, shortest first.
        let mut prefixes: Vec<Vec<usize>> = vec![vec![]];
        for s in 0..states {
            let prefix = prefixes[s].clone();
            let longer = (0..actions).map(|a| [&prefix[..], &[a]].concat());
            prefixes.extend(longer);
        }
        let mut zero = |a: usize| a > 1 || rng.random::<f64>() < 0.25;
        let support: Vec<Vec<bool>> = (0..states)
            .map(|_| (0..actions).map(|a| a == 1 || !zero(a)).collect())
            .collect();
        let met = |s: usize| {
            let prefix = &prefixes[s];
            (0..prefix.len()).all(|h| {
                let before = prefixes.iter().position(|p| *p == prefix[..h]).unwrap();
                Some(prefix[h]) != eos && support[before][prefix[h]]
            })
        };
        let reference: Vec<Vec<f64>> = support
            .iter()
            .map(|row| {
                let n = row.iter().filter(|x| **x).count() as f64;
                row.iter().map(|x| if *x { 1.0 / n } else { 0.0 }).collect()
            })
            .collect();
        let mut build = |fill: f64| {
            let mut hidden = 0;
            let features: Vec<Vec<Vec<f64>>> = (0..states)
                .map(|s| {
                    let value = |a: usize, k: usize| {
                        ((s * 7 + a * 3 + k * 5 + i as usize) % 11) as f64 / 11.0
                    };
                    let cell = |a: usize| {
                        if met(s) && support[s][a] {
                            (0..dim).map(|k| value(a, k)).collect()
                        } else {
                            hidden += 1;
                            vec![fill; dim]
                        }
                    };
                    (0..actions).map(cell).collect()
                })
                .collect();
            junk += hidden;
            // Responses that follow the support: 1 until the end.
            let only_ones = vec![1; horizon];
            let other: Vec<usize> = if support[0][0] && eos == Some(0) {
                vec![0]
            } else {
                only_ones.clone()
            };
            json!({
                "beta": 0.7, "initial": [1], "n_actions": actions, "horizon": horizon, "eos": eos,
                "reference": [reference], "features": [features], "theta": [0.4, -0.3],
                "preferences": [{"winner": only_ones, "loser": other}, {"winner": other, "loser": only_ones}],
                "estimation": {"param_bound": 1, "bonus_scale": "theory_kappa"},
                "rto": {"beta1": 0.1, "beta2": 0.05, "source": "dpo"}
            })
        };
        let (clean, dirty) = (solved(&build(0.0)), solved(&build(1e90)));
        assert_eq!(clean, dirty, "instance {i}");
    }
    assert!(junk > 500, "{junk}");
}
