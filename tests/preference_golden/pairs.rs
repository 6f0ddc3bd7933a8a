//! Thirty pairs, separable pairs, and pairs that leave two components.

use crate::{check_evaluation, check_methods, close, golden, instance, numbers, scaled, single};
use rto::preference::{
    DEFAULT_METHODS, Method, MinimiserSet, Outcome, PairRow, PairTable, Penalty, PreferenceProblem,
    bounded_scores, bradley_terry_scores, chi_plan, evaluate, ipo_scores, penalised_fit, tilt,
};
use serde_json::Value;

fn pairs_of(value: &Value) -> Vec<(usize, usize)> {
    let pair = |p: &Value| {
        (
            p[0].as_u64().unwrap() as usize,
            p[1].as_u64().unwrap() as usize,
        )
    };
    value.as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn thirty_pairs_agree() {
    let all = golden();
    for (name, value) in all["data"].as_object().unwrap() {
        let (responses, beta) = instance(&all["instances"][value["instance"].as_str().unwrap()]);
        let pairs =
            PairTable::from_counts(responses.len(), &pairs_of(&value["pairs_winner_loser"]))
                .unwrap();
        check_methods(name, &responses, &pairs, beta, &all["finite"][name]);
    }
}

/// Separable pairs: no Bradley–Terry maximum, bounded classes and the methods that have a minimiser all the same.
#[test]
fn separable_pairs_agree() {
    let all = golden();
    let (responses, beta) = instance(&all["instances"]["T2"]);
    let want = &all["finite"]["separable_T2"];
    let pairs = PairTable::from_counts(8, &pairs_of(&want["pairs_winner_loser"])).unwrap();
    assert!(!pairs.has_maximum());
    let top = want["never_loses"].as_u64().unwrap() as usize;
    assert_eq!(
        pairs.vanishing(),
        (0..8).filter(|&y| y != top).collect::<Vec<_>>()
    );
    let problem = PreferenceProblem::try_new(&responses, &pairs, beta).unwrap();
    for method in [Method::Dpo, Method::ChiPo, Method::Tdpo { alpha: 1.0 }] {
        let outcome = problem.solve(&method).unwrap();
        assert!(
            matches!(&outcome, Outcome::NoMinimiser(why) if why.contains("separable")),
            "{outcome:?}"
        );
    }
    for (key, bound) in [("bounded_4", 4.0), ("bounded_8", 8.0), ("bounded_16", 16.0)] {
        let fit = bounded_scores(&pairs, bound).unwrap();
        let want = &want[key];
        assert!(fit.kkt_inf < 1e-13, "{key}: {fit:?}");
        // The loss of the other side is no smaller: it stopped at a gradient of 1e-11.
        assert!(
            (fit.loss - single(&want["loss"])).abs() < 1e-12,
            "{key}: {fit:?} {want}"
        );
        let spread = fit
            .scores
            .iter()
            .fold((f64::MAX, f64::MIN), |(l, h), &s| (l.min(s), h.max(s)));
        assert!((spread.1 - spread.0 - bound).abs() < 1e-12);
        let dpo = tilt(&responses, &scaled(&fit.scores, 1.0 / beta.get())).unwrap();
        check_evaluation(
            key,
            &evaluate(&responses, beta, &dpo).unwrap(),
            &want["dpo"],
            1e-6,
        );
        let (chi, _) = chi_plan(&responses, &fit.scores, beta).unwrap();
        check_evaluation(
            key,
            &evaluate(&responses, beta, &chi).unwrap(),
            &want["chipo"],
            1e-6,
        );
    }
    let ipo = tilt(&responses, &ipo_scores(&pairs, beta).unwrap()).unwrap();
    check_evaluation(
        "ipo",
        &evaluate(&responses, beta, &ipo).unwrap(),
        &want["ipo"],
        1e-9,
    );
    let rpo = problem.solve(&DEFAULT_METHODS[10].1).unwrap();
    let Outcome::Solved(rpo) = rpo else {
        panic!("RPO with base π_ref has a minimiser on every table")
    };
    check_evaluation("rpo", &rpo.evaluation, &want["rpo_base_ref"], 1e-9);
}

/// Pairs that leave two components: the set of minimisers, its ends, and what HyPO picks as λ falls.
#[test]
fn disconnected_pairs_agree() {
    let all = golden();
    let (responses, beta) = instance(&all["instances"]["T5"]);
    let want = &all["sets"]["T5_two_components"];
    let r = responses.rewards();
    let row = |i: usize, j: usize| PairRow {
        first: i,
        second: j,
        weight: 0.5,
        preference: rto::numerics::sigmoid(r[i] - r[j]),
    };
    let pairs = PairTable::try_new(4, vec![row(0, 1), row(2, 3)]).unwrap();
    assert!(!pairs.connected() && pairs.has_maximum());
    let fit = bradley_terry_scores(&pairs, 0.0).unwrap();
    let zero_mean = tilt(&responses, &scaled(&fit.scores, 1.0 / beta.get())).unwrap();
    let judge = |u: &[f64]| evaluate(&responses, beta, u).unwrap();
    check_evaluation(
        "zero mean",
        &judge(&zero_mean),
        &want["zero_mean_dpo"],
        1e-9,
    );
    let set = MinimiserSet::new(&responses, &pairs, &fit.scores, beta).unwrap();
    let minimal = set.policy(&set.log_kl_minimal).unwrap();
    check_evaluation("KL-minimal", &judge(&minimal), &want["kl_minimal"], 1e-9);
    let ends = want["extreme_policies"].as_array().unwrap();
    for (k, end) in ends.iter().enumerate() {
        let masses: Vec<f64> = (0..2)
            .map(|c| if c == k { 0.0 } else { f64::NEG_INFINITY })
            .collect();
        check_evaluation("extreme", &judge(&set.policy(&masses).unwrap()), end, 1e-9);
    }
    let largest = ends
        .iter()
        .map(|e| single(&e["subopt"]))
        .fold(0.0, f64::max);
    close(
        "interval",
        &[set.subopt.0, set.subopt.1],
        &[0.0, largest],
        1e-9,
    );
    for (lambda, law) in want["hypo"].as_object().unwrap() {
        let lambda: f64 = lambda.parse().unwrap();
        let penalty = Penalty::ReverseKl { lambda };
        let found = penalised_fit(&responses, &pairs, beta, &penalty, &[0.0; 4]).unwrap();
        // The other side stopped at a gradient of 1e-10, which λ multiplies in the direction that the pairs do not see.
        close(
            "hypo",
            &judge(&found.log_policy).policy,
            &numbers(law),
            1e-6,
        );
    }
}
