use super::*;
use crate::search::bounds::{sentence_random_order, sentence_worst_case};
use crate::search::evaluator::{EvaluatorOracle, LeafWeights, SoftmaxTree, Uniform};
use crate::search::mass::LogMass;
use crate::search::oracle::CountingOracle;
use num_rational::BigRational;

fn count(weights: &[u128], order: Order<'_>, use_normalisation: bool) -> (u64, Vec<Token>) {
    let horizon = weights.len().ilog2() as usize;
    let tree = LeafWeights::new(2, horizon, weights.to_vec()).unwrap();
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(tree));
    let found = exhaustive(&mut oracle, order, use_normalisation).unwrap();
    assert!(found.certified);
    (oracle.queries(), found.response)
}

#[test]
fn the_worst_case_is_one_less_than_the_paper_says() {
    for h in 1..=8usize {
        let uniform = Uniform::<BigRational>::new(2, h).unwrap();
        for (normalised, expected) in [(true, (1u64 << h) - 1), (false, 1 << h)] {
            let mut oracle = CountingOracle::new(EvaluatorOracle::new(&uniform));
            exhaustive(&mut oracle, Order::Lexicographic, normalised).unwrap();
            assert_eq!(oracle.queries(), expected);
            assert_eq!(sentence_worst_case(2, h, normalised), expected.into());
        }
    }
}

#[test]
fn a_heavy_first_response_ends_it_at_once() {
    assert_eq!(count(&[6, 1, 1, 4], Order::Lexicographic, true).0, 1);
    assert_eq!(count(&[6, 1, 1, 4], Order::Lexicographic, false).0, 4);
}

#[test]
fn the_last_response_is_inferred() {
    assert_eq!(
        count(&[1, 1, 1, 9], Order::Lexicographic, true),
        (3, vec![1, 1])
    );
    assert_eq!(
        count(&[1, 9, 1, 1], Order::Codes(&[0, 2, 3, 1]), true),
        (3, vec![0, 1])
    );
}

#[test]
fn the_mean_over_all_orders_is_the_closed_form() {
    fn permutations(items: &mut Vec<u64>, at: usize, visit: &mut dyn FnMut(&[u64])) {
        if at == items.len() {
            return visit(items);
        }
        for i in at..items.len() {
            items.swap(at, i);
            permutations(items, at + 1, visit);
            items.swap(at, i);
        }
    }
    for (weights, expected) in [
        (vec![5, 1, 1, 1], 9.0 / 4.0),
        (vec![9, 1, 1, 1, 1, 1, 1, 1], 35.0 / 8.0),
    ] {
        let (mut total, mut orders) = (0, 0);
        permutations(&mut (0..weights.len() as u64).collect(), 0, &mut |order| {
            total += count(&weights, Order::Codes(order), true).0;
            orders += 1;
        });
        assert_eq!(total as f64 / f64::from(orders), expected);
        assert_eq!(
            sentence_random_order(2, weights.len().ilog2() as usize),
            expected
        );
    }
}

#[test]
fn floating_masses_find_the_same_response() {
    for key in 0..20 {
        let tree = SoftmaxTree::new(3, 5, 4.0, key).unwrap();
        let run = |normalised| {
            let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
            let found: Found<LogMass> =
                exhaustive(&mut oracle, Order::Lexicographic, normalised).unwrap();
            assert!(found.certified);
            (found.response, oracle.queries())
        };
        let (with, without) = (run(true), run(false));
        assert_eq!(with.0, without.0);
        assert_eq!(without.1, 243);
        assert!(with.1 <= 242);
    }
}
