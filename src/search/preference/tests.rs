use super::*;
use crate::search::evaluator::{NeedleChain, SoftmaxTree};
use crate::seed::SeedTree;

#[test]
fn labels_follow_the_bradley_terry_model() {
    let tree = SoftmaxTree::new(3, 2, 2.0, 4).unwrap();
    let table = LogMassTable::new(&tree).unwrap();
    let mut annotator = table.annotator(SeedTree::new(1).rng());
    let n = 1_000_000;
    for (a, b) in [(0, 1), (3, 8), (5, 5)] {
        let p = 1.0 / (1.0 + (table.levels[2][b] - table.levels[2][a]).exp());
        let share = annotator.prefer_response(a as u64, b as u64, n).unwrap() as f64 / n as f64;
        assert!(
            (share - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(),
            "{share} against {p}"
        );
    }
    let p = 1.0 / (1.0 + (table.levels[2][4] - table.levels[2][5]).exp());
    let share = annotator.prefer_token(1, 1, 2, 1, n).unwrap() as f64 / n as f64;
    assert!(
        (share - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(),
        "{share} against {p}"
    );
}

#[test]
fn both_learners_are_right_with_enough_labels() {
    for key in 0..20 {
        let table = LogMassTable::new(&SoftmaxTree::new(3, 4, 4.0, key).unwrap()).unwrap();
        let mut oracle = CountingOracle::new(table.annotator(SeedTree::new(key).rng()));
        assert_eq!(
            sentence_knockout(&mut oracle, 10_000_001).unwrap(),
            table.best()
        );
        assert_eq!(oracle.queries(), 80 * 10_000_001);
        assert_eq!(
            token_plug_in(&mut oracle, 10_000_001).unwrap(),
            table.best()
        );
    }
}

/// Without noise the plug-in learner is a best-first search that expands prefixes of mass at least p*.
#[test]
fn without_noise_both_learners_are_right() {
    for key in 0..50 {
        let table = LogMassTable::new(&SoftmaxTree::new(2, 6, 3.0, key).unwrap()).unwrap();
        let best = table.levels[6][table.best() as usize];
        let heavy: usize = table.levels[..6]
            .iter()
            .flatten()
            .filter(|m| **m >= best - 1e-9)
            .count();
        let mut oracle = CountingOracle::new(table.noiseless_annotator());
        assert_eq!(token_plug_in(&mut oracle, 1 << 40).unwrap(), table.best());
        assert!(oracle.queries() >> 40 <= heavy as u64);
        assert_eq!(
            sentence_knockout(&mut oracle, 1 << 40).unwrap(),
            table.best()
        );
    }
}

#[test]
fn token_labels_cost_one_match_per_token_and_level_on_a_needle() {
    let needle = NeedleChain::with_optimum(4, vec![2, 0, 3, 1, 1], 0.6).unwrap();
    let table = LogMassTable::new(&needle).unwrap();
    let mut oracle = CountingOracle::new(table.annotator(SeedTree::new(0).rng()));
    assert_eq!(token_plug_in(&mut oracle, 10_001).unwrap(), table.best());
    assert_eq!(oracle.queries(), 5 * 3 * 10_001);
}
