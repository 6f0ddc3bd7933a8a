//! Values worked out elsewhere (`tests/golden/prop32.json`).

use crate::{HIGHEST, LOWEST, NO_INFERENCE, paper, search};
use num_rational::BigRational;
use rto::Token;
use rto::search::best_first::{Pick, Step, best_first_traced};
use rto::search::bounds::{self, minimax};
use rto::search::evaluator::{EvaluatorOracle, LeafWeights, NeedleChain};
use rto::search::oracle::CountingOracle;
use rto::search::paper::paper_search;
use rto::search::profile::heavy_profile;
use serde_json::Value;
use std::collections::HashMap;

fn golden() -> Value {
    serde_json::from_str::<Value>(include_str!("../golden/prop32.json")).unwrap()["prop32"].take()
}

fn tokens(value: &Value) -> Vec<Token> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_u64().unwrap() as Token)
        .collect()
}

/// "7/8" in thirty-seconds.
fn thirty_seconds(value: &Value) -> u128 {
    let (n, d) = value.as_str().unwrap().split_once('/').unwrap();
    n.parse::<u128>().unwrap() * 32 / d.parse::<u128>().unwrap()
}

fn assert_trace(steps: &[Step<u128>], expected: &Value) {
    let expected = expected["trace"].as_array().unwrap();
    assert_eq!(steps.len(), expected.len());
    for (step, want) in steps.iter().zip(expected) {
        assert_eq!(step.query, tokens(&want["query"]));
        assert_eq!(step.best, tokens(&want["best"]));
        assert_eq!(step.best_mass, thirty_seconds(&want["best_p"]));
        let name = |p: &[Token]| match p {
            [] => "root".to_string(),
            p => p.iter().map(u32::to_string).collect(),
        };
        let slots: HashMap<String, u128> = step.slots.iter().map(|(p, r)| (name(p), *r)).collect();
        let want: HashMap<String, u128> = want["slots"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(p, r)| (p.clone(), thirty_seconds(r)))
            .collect();
        assert_eq!(slots, want);
    }
}

#[test]
fn golden_figure2() {
    let golden = &golden()["fig2"];
    let tree = LeafWeights::figure2();
    for (leaf, p) in golden["leaves"].as_object().unwrap() {
        let code = usize::from_str_radix(leaf, 2).unwrap();
        assert_eq!(tree.level(3)[code], thirty_seconds(p));
    }
    let profile = heavy_profile(&tree, |m| *m >= 16).unwrap();
    assert_eq!(
        serde_json::to_value(&profile).unwrap(),
        golden["heavy_profile"]
    );
    let mut frontier = Vec::new();
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
    paper_search(
        &mut oracle,
        |m| *m >= 16,
        Pick::Highest,
        |d| {
            if d.in_frontier {
                frontier.push(d.deleted.iter().map(u32::to_string).collect::<String>());
            }
        },
    )
    .unwrap();
    frontier.sort();
    assert_eq!(serde_json::to_value(&frontier).unwrap(), golden["N"]);
    for (options, key) in [
        (HIGHEST, "bestfirst_pick_highest_index"),
        (LOWEST, "bestfirst_pick_lowest_index"),
    ] {
        let mut steps = Vec::new();
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
        let found = best_first_traced(&mut oracle, &options, &mut |s| steps.push(s)).unwrap();
        assert_eq!(Some(oracle.queries()), golden[key]["queries"].as_u64());
        assert_eq!(found.response, [0, 0, 0]);
        assert!(found.certified);
        assert_trace(&steps, &golden[key]);
    }
}

#[test]
fn golden_chains() {
    for case in golden()["chain"].as_array().unwrap() {
        let [a, h, main] = ["A", "H", "main_child"].map(|k| case[k].as_u64().unwrap());
        let chain =
            NeedleChain::<BigRational>::new(a as usize, vec![main as Token; h as usize], (1, 1000))
                .unwrap();
        let half = BigRational::whole_half();
        let heavy = |m: &BigRational| *m >= half;
        let profile = heavy_profile(&chain, heavy).unwrap();
        assert_eq!(
            bounds::frontier_size(2, &profile),
            u128::from(case["N"].as_u64().unwrap())
        );
        for pick in [Pick::Lowest, Pick::Highest] {
            assert_eq!(
                Some(paper(&chain, pick, heavy).0),
                case["literal_queries"].as_u64()
            );
        }
        assert_eq!(
            Some(search(&chain, &LOWEST).0),
            case["bestfirst_lowest_index"].as_u64()
        );
        assert_eq!(
            Some(search(&chain, &NO_INFERENCE).0),
            case["bestfirst_noinfer"].as_u64()
        );
        assert_eq!(
            Some(bounds::paper_bound(2, h as usize, 1.0)),
            case["paper_bound_A_pow_min_xi1_H"].as_f64()
        );
        assert_eq!(
            minimax(2, h as usize, 1),
            u128::from(case["M"].as_u64().unwrap())
        );
    }
}

trait Half {
    fn whole_half() -> Self;
}

impl Half for BigRational {
    fn whole_half() -> Self {
        BigRational::new(1.into(), 2.into())
    }
}

#[test]
fn golden_tables() {
    let golden = golden();
    let parse = |key: &str| -> Vec<u64> {
        key.split(',')
            .map(|part| part.split_once('=').unwrap().1.parse().unwrap())
            .collect()
    };
    let mut cells = 0;
    for (table, formula) in [
        ("M_table", minimax as fn(usize, usize, u128) -> u128),
        ("Nmax_table", bounds::frontier_max),
    ] {
        for (key, value) in golden[table].as_object().unwrap() {
            let [a, h, k] = parse(key)[..] else {
                panic!("{key}")
            };
            assert_eq!(
                formula(a as usize, h as usize, k.into()),
                u128::from(value.as_u64().unwrap()),
                "{table} {key}"
            );
            cells += 1;
        }
    }
    assert_eq!(cells, 80);
    assert_eq!(bounds::sentence_random_order(2, 2), 9.0 / 4.0);
    assert_eq!(bounds::sentence_random_order(2, 3), 35.0 / 8.0);
}
