//! Proposition 3.2: golden values, the paper's algorithm in every order, best-first search on random
//! trees, and both sides of the exact minimax.

mod best_first;
mod golden;
mod lower_bound;
mod paper;
mod rounding;

use rto::search::best_first::{BestFirst, Found, Pick, best_first};
use rto::search::evaluator::{Evaluator, EvaluatorOracle};
use rto::search::oracle::CountingOracle;
use rto::search::paper::paper_search;

const LOWEST: BestFirst = BestFirst {
    pick: Pick::Lowest,
    infer_last_leaf: true,
};

const HIGHEST: BestFirst = BestFirst {
    pick: Pick::Highest,
    infer_last_leaf: true,
};

const NO_INFERENCE: BestFirst = BestFirst {
    pick: Pick::Lowest,
    infer_last_leaf: false,
};

fn search<E: Evaluator>(evaluator: E, options: &BestFirst) -> (u64, Found<E::Mass>) {
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(evaluator));
    let found = best_first(&mut oracle, options).unwrap();
    (oracle.queries(), found)
}

fn paper<E: Evaluator>(
    evaluator: E,
    pick: Pick,
    is_heavy: impl Fn(&E::Mass) -> bool,
) -> (u64, Found<E::Mass>) {
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(evaluator));
    let found = paper_search(&mut oracle, is_heavy, pick, |_| {}).unwrap();
    (oracle.queries(), found)
}
