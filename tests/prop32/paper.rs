//! The paper's algorithm.

use rto::search::best_first::Pick;
use rto::search::evaluator::{EvaluatorOracle, LeafWeights};
use rto::search::oracle::CountingOracle;
use rto::search::paper::{PaperSearch, paper_search};
use rto::{Error, Token};

/// Heap's algorithm over the orders of `items`.
fn for_each_order(items: &mut [usize], n: usize, visit: &mut dyn FnMut(&[usize])) {
    if n <= 1 {
        return visit(items);
    }
    for i in 0..n {
        for_each_order(items, n - 1, visit);
        items.swap(if n.is_multiple_of(2) { i } else { 0 }, n - 1);
    }
}

#[test]
fn figure2_takes_four_queries_in_all_40320_orders() {
    let tree = LeafWeights::figure2();
    let responses: Vec<Vec<Token>> = (0..8).map(|code| tree.tokens(code, 3)).collect();
    let mut orders = 0;
    for_each_order(&mut (0..8).collect::<Vec<_>>(), 8, &mut |order| {
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
        let mut learner = PaperSearch::new(&mut oracle).unwrap();
        for code in order {
            if !learner.is_deleted(&responses[*code]) {
                learner
                    .query(&mut oracle, &responses[*code], |m| *m >= 16)
                    .unwrap();
            }
        }
        assert_eq!(oracle.queries(), 4);
        orders += 1;
    });
    assert_eq!(orders, 40_320);
}

#[test]
fn a_threshold_no_response_meets_names_the_assumption() {
    let mut oracle = EvaluatorOracle::new(LeafWeights::figure2());
    let error = paper_search(&mut oracle, |m| *m > 16, Pick::Lowest, |_| {}).unwrap_err();
    assert!(
        matches!(error, Error::Assumption { ref assumption, .. } if assumption == "Assumption 3.1"),
        "{error}"
    );
}
