//! Proposition 3.2: golden values, the paper's algorithm in every order, best-first search on random
//! trees, and both sides of the exact minimax.

use num_bigint::BigUint;
use num_rational::BigRational;
use proptest::prelude::*;
use rand::Rng;
use rto::search::adversary::Adversary;
use rto::search::best_first::{BestFirst, Found, Pick, Step, best_first, best_first_traced};
use rto::search::bounds::{self, instance_bound, minimax, paper_queries};
use rto::search::evaluator::{
    CallbackEvaluator, Chains, DirichletTree, Evaluator, EvaluatorOracle, LeafWeights, NeedleChain,
    SoftmaxTree, Uniform,
};
use rto::search::exhaustive::{Order, exhaustive};
use rto::search::mass::{LogMass, Mass};
use rto::search::oracle::{CountingOracle, Scored, SentenceOracle, TokenOracle};
use rto::search::paper::{PaperSearch, paper_search};
use rto::search::profile::heavy_profile;
use rto::seed::SeedTree;
use rto::{Error, Token};
use serde_json::Value;
use std::collections::HashMap;

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

fn golden() -> Value {
    serde_json::from_str::<Value>(include_str!("golden/prop32.json")).unwrap()["prop32"].take()
}

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

// ---------------------------------------------------------------- golden values

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

// ---------------------------------------------------------------- the paper's algorithm

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

// ---------------------------------------------------------------- best-first on random trees

/// A random tree with many ties, zeros in some.
fn random_tree(seed: u64) -> LeafWeights<u128> {
    let mut rng = SeedTree::new(seed).child("random tree").rng();
    let (a, h) = [
        (2, 1),
        (2, 2),
        (2, 3),
        (2, 4),
        (2, 6),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 4),
        (4, 2),
        (4, 3),
        (5, 2),
        (6, 1),
    ][rng.random_range(0..13)];
    let (least, most) = (
        [0, 1][rng.random_range(0..2)],
        [1, 2, 3, 10, 1000][rng.random_range(0..5)],
    );
    let concentrate = rng.random_range(0..4);
    let n = usize::pow(a, h);
    let mut weights: Vec<u128> = (0..n).map(|_| rng.random_range(least..=most)).collect();
    for _ in 0..concentrate {
        weights[rng.random_range(0..n)] = rng.random_range(1..=most * n as u128);
    }
    if weights.iter().all(|w| *w == 0) {
        weights[0] = 1;
    }
    LeafWeights::new(a, h as usize, weights).unwrap()
}

#[test]
fn best_first_stays_within_its_instance_bound_on_ten_thousand_trees() {
    let (mut tight, mut with_ties) = (0, 0);
    for seed in 0..10_000 {
        let tree = random_tree(seed);
        let (best_code, best) = tree.best();
        let (a, h, best) = (tree.n_actions(), tree.horizon(), *best);
        with_ties += usize::from(tree.level(h).iter().filter(|w| **w == best).count() > 1);
        let profile = heavy_profile(&tree, |m| *m >= best).unwrap();
        let w_total = *tree.total();
        let k = if tree.has_zeros() {
            w_total / best
        } else {
            ((w_total - 1) / best).max(1)
        };
        for options in [LOWEST, HIGHEST, NO_INFERENCE] {
            let (queries, found) = search(&tree, &options);
            let bound = instance_bound(a, &profile, options.infer_last_leaf);
            assert!(
                u128::from(queries) <= bound,
                "seed {seed}: {queries} > {bound}"
            );
            assert_eq!(found.mass, best, "seed {seed}");
            assert!(found.certified);
            assert_eq!(
                *tree.level(h).get(code_of(&found.response, a)).unwrap(),
                best
            );
            tight += usize::from(u128::from(queries) == bound);
            if options.infer_last_leaf {
                assert!(bound <= minimax(a, h, k), "seed {seed}: {bound} above M");
            }
        }
        // The paper's algorithm: the same count in both orders, never fewer than best-first needs at worst.
        let counts = [Pick::Lowest, Pick::Highest].map(|pick| paper(&tree, pick, |m| *m >= best));
        for (queries, found) in counts {
            assert_eq!(
                u128::from(queries),
                paper_queries(a, &profile),
                "seed {seed}"
            );
            assert!(u128::from(queries) >= instance_bound(a, &profile, true));
            assert_eq!(found.response, tree.tokens(best_code, h));
        }
    }
    assert!(
        tight > 1000 && with_ties > 1000,
        "{tight} tight, {with_ties} with ties"
    );
}

fn code_of(response: &[Token], n_actions: usize) -> usize {
    response
        .iter()
        .fold(0, |code, t| code * n_actions + *t as usize)
}

/// The search in floating point against the exact one, on trees whose masses are dyadic rationals.
#[test]
fn log_space_search_agrees_with_exact_search() {
    for seed in 0..500 {
        let tree = random_tree(seed);
        let total = *tree.total() as f64;
        let float = FloatTree(&tree, total);
        for options in [LOWEST, HIGHEST] {
            let (_, exact) = search(&tree, &options);
            let (_, found) = search(&float, &options);
            assert!(
                (found.mass.0 - (exact.mass as f64 / total).ln()).abs() < 1e-9,
                "seed {seed}"
            );
            assert!(found.certified, "seed {seed}");
        }
    }
}

/// A given tree seen through logarithms.
struct FloatTree<'a>(&'a LeafWeights<u128>, f64);

impl Evaluator for FloatTree<'_> {
    type Mass = LogMass;
    type State = Scored<u128, (u32, usize)>;

    fn n_actions(&self) -> usize {
        self.0.n_actions()
    }

    fn horizon(&self) -> usize {
        self.0.horizon()
    }

    fn root(&self) -> rto::Result<Scored<LogMass, Self::State>> {
        Ok(Scored {
            mass: LogMass(0.0),
            prefix: self.0.root()?,
        })
    }

    fn child(
        &self,
        at: &Scored<LogMass, Self::State>,
        token: Token,
    ) -> rto::Result<Scored<LogMass, Self::State>> {
        let prefix = self.0.child(&at.prefix, token)?;
        Ok(Scored {
            mass: LogMass((prefix.mass as f64 / self.1).ln()),
            prefix,
        })
    }

    fn slack(&self) -> f64 {
        1e-14
    }
}

#[test]
fn random_policies_are_searched_right() {
    for key in 0..40 {
        let softmax = SoftmaxTree::new(3, 5, 5.0, key).unwrap();
        let dirichlet = DirichletTree::new(3, 5, 0.5, SeedTree::new(key)).unwrap();
        check_against_enumeration(&softmax);
        check_against_enumeration(&dirichlet);
    }
}

fn check_against_enumeration<E: Evaluator<Mass = LogMass>>(tree: &E) {
    let mut level = vec![tree.root().unwrap()];
    for _ in 0..tree.horizon() {
        level = level
            .iter()
            .flat_map(|n| (0..tree.n_actions()).map(move |a| tree.child(n, a as Token).unwrap()))
            .collect();
    }
    let best = level
        .iter()
        .map(|leaf| leaf.mass.0)
        .fold(f64::NEG_INFINITY, f64::max);
    let profile = heavy_profile(tree, |m| m.0 >= best).unwrap();
    for options in [LOWEST, HIGHEST] {
        let (queries, found) = search(tree, &options);
        assert!((found.mass.0 - best).abs() < 1e-12 && found.certified);
        assert!(u128::from(queries) <= instance_bound(tree.n_actions(), &profile, true));
    }
}

/// A small residual that the evaluator's own error could explain must not be certified away.
#[test]
fn a_residual_lost_in_rounding_is_not_certified() {
    // Token 0 first: 512 responses of mass 0.995/512. Token 1 first: one response with nearly 0.005.
    let model = |prefix: &[Token]| {
        Ok(match prefix.first() {
            None => vec![0.995f64.ln(), 0.005f64.ln()],
            Some(0) => vec![0.5f64.ln(); 2],
            Some(_) => vec![1e-9f64.ln(), (1.0 - 1e-9f64).ln()],
        })
    };
    let run = |tolerance| {
        search(
            CallbackEvaluator::new(model, 2, 10, tolerance).unwrap(),
            &LOWEST,
        )
        .1
    };
    let exact = run(1e-12);
    assert_eq!((exact.response, exact.certified), (vec![1; 10], true));
    let vague = run(0.01);
    assert!(vague.response[0] == 0 && !vague.certified);
}

/// A last leaf is inferred only where the evaluator's own error leaves it no room.
#[test]
fn a_vague_last_leaf_is_not_inferred() {
    // The conditional sums to 1 + 5e-6: inferring 1 − 0.500001 for token 1 would certify the wrong response.
    let model = |_: &[Token]| Ok(vec![0.500001f64.ln(), 0.500004f64.ln()]);
    let policy = CallbackEvaluator::new(model, 2, 1, 1e-5).unwrap();
    let found = search(&policy, &LOWEST).1;
    assert!(found.response == [1] || !found.certified, "{found:?}");
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(&policy));
    let found = exhaustive(&mut oracle, Order::Lexicographic, true).unwrap();
    assert_eq!(
        (found.response, found.certified, oracle.queries()),
        (vec![1], true, 2)
    );
}

/// Errors of conditionals compound over a response.
#[test]
fn sentence_certificates_allow_for_the_error_of_a_whole_response() {
    let excess = 1.0f64 + 0.9e-5;
    let model = move |prefix: &[Token]| {
        let p = if prefix.is_empty() {
            0.5 - 1e-5
        } else {
            1.0 - 1e-12
        };
        Ok(vec![(p * excess).ln(), ((1.0 - p) * excess).ln()])
    };
    let policy = CallbackEvaluator::new(model, 2, 12, 1e-5).unwrap();
    let run = |normalised| {
        let found = exhaustive(
            &mut EvaluatorOracle::new(&policy),
            Order::Lexicographic,
            normalised,
        )
        .unwrap();
        (found.response[0], found.certified)
    };
    assert_eq!(run(true), run(false));
    let oracle = EvaluatorOracle::new(&policy);
    assert!(SentenceOracle::slack(&oracle) > 12.0 * 1e-5);
}

#[test]
fn an_order_must_name_every_response_once() {
    let mut oracle = EvaluatorOracle::new(LeafWeights::figure2());
    for codes in [[0, 1, 2, 3, 4, 5, 6, 6], [0, 1, 2, 3, 4, 5, 6, 8]] {
        assert!(matches!(
            exhaustive(&mut oracle, Order::Codes(&codes), true),
            Err(Error::Config { .. })
        ));
    }
}

#[test]
fn the_adversary_for_a_given_xi_meets_assumption_3_1() {
    for (a, h) in [(2usize, 6usize), (3, 4), (4, 5)] {
        for step in 1..=40 {
            let xi = h as f64 * f64::from(step) / 40.0;
            let mut oracle = CountingOracle::new(Adversary::for_xi(a, h, xi).unwrap());
            let found = best_first(&mut oracle, &LOWEST).unwrap();
            let k = bounds::chains_for_xi(a, xi, false);
            assert_eq!(
                u128::from(oracle.queries()),
                minimax(a, h, k),
                "A={a} H={h} xi={xi}"
            );
            assert!(
                found.mass.ratio(&oracle.root().unwrap().mass) >= (a as f64).powf(-xi),
                "A={a} H={h} xi={xi}"
            );
        }
    }
    assert!(Adversary::for_xi(2, 3, 0.0).is_err() && Adversary::for_xi(2, 3, f64::NAN).is_err());
}

#[test]
fn a_used_up_budget_keeps_the_best_so_far() {
    let tree = Uniform::<BigRational>::new(2, 6).unwrap();
    let mut oracle = CountingOracle::with_budget(EvaluatorOracle::new(&tree), 5);
    let found = best_first(&mut oracle, &LOWEST).unwrap();
    assert_eq!((oracle.queries(), found.certified), (5, false));
    let mut oracle = CountingOracle::with_budget(EvaluatorOracle::new(&tree), 0);
    assert!(matches!(
        best_first(&mut oracle, &LOWEST),
        Err(Error::BudgetExhausted { budget: 0 })
    ));
}

#[test]
fn needle_chains_take_what_the_closed_form_says() {
    let mut rng = SeedTree::new(3).child("needles").rng();
    for _ in 0..200 {
        let (a, h) = (rng.random_range(2..9usize), rng.random_range(1..7usize));
        let main: Vec<Token> = (0..h).map(|_| rng.random_range(0..a as Token)).collect();
        let exact = NeedleChain::<BigRational>::with_optimum(a, main.clone(), 0.6).unwrap();
        let float = NeedleChain::<LogMass>::with_optimum(a, main.clone(), 0.6).unwrap();
        for options in [LOWEST, HIGHEST] {
            let predicted = bounds::needle_queries(a, &main, options.pick);
            let (queries, found) = search(&exact, &options);
            assert_eq!((queries, &found.response), (predicted, &main));
            let (queries, found) = search(&float, &options);
            assert_eq!(
                (queries, &found.response, found.certified),
                (predicted, &main, true)
            );
        }
    }
}

// ---------------------------------------------------------------- the lower bound

/// Fewest queries after which some learner can be certain against this adversary, found by trying
/// every slot at every step. A learner's choice among unopened children of one prefix is immaterial:
/// the adversary answers by order, not by token.
fn fewest_queries(
    adversary: &Adversary,
    known: &mut HashMap<String, u64>,
    every_slot: bool,
) -> u64 {
    let key = adversary.canonical_form();
    if let Some(queries) = known.get(&key) {
        return *queries;
    }
    let (slots, best) = slots_of(adversary);
    let mut fewest = if slots.iter().any(|s| s.residual > best) {
        u64::MAX
    } else {
        0
    };
    for slot in slots {
        if fewest == 0 || !(every_slot || slot.residual > best) {
            continue;
        }
        let mut after = adversary.clone();
        let mut suffix = vec![slot.unopened];
        suffix.resize(after.horizon() - slot.depth, 0);
        after
            .token_rewards(&slot.at, &suffix, &mut Vec::new())
            .unwrap();
        fewest = fewest.min(1 + fewest_queries(&after, known, every_slot));
    }
    known.insert(key, fewest);
    fewest
}

struct Slot {
    at: Scored<BigUint, usize>,
    depth: usize,
    unopened: Token,
    residual: BigUint,
}

/// Prefixes with an unopened child, and the best leaf known (the last leaf of a prefix is inferred).
fn slots_of(adversary: &Adversary) -> (Vec<Slot>, BigUint) {
    let (a, h) = (adversary.n_actions(), adversary.horizon());
    let (mut slots, mut best) = (Vec::new(), BigUint::from(0u8));
    let mut stack = vec![(adversary.clone().root().unwrap(), 0)];
    while let Some((at, depth)) = stack.pop() {
        let children = adversary.opened(&at);
        let mut residual = at.mass.clone();
        for (_, child) in &children {
            residual -= &child.mass;
            match depth + 1 == h {
                true => best = best.max(child.mass.clone()),
                false => stack.push((child.clone(), depth + 1)),
            }
        }
        if depth + 1 == h && children.len() + 1 == a {
            best = best.max(residual);
        } else if children.len() < a {
            let unopened = (0..a as Token)
                .find(|t| children.iter().all(|(c, _)| c != t))
                .unwrap();
            slots.push(Slot {
                at,
                depth,
                unopened,
                residual,
            });
        }
    }
    (slots, best)
}

#[test]
fn the_adversary_forces_exactly_the_minimax_on_every_learner() {
    let mut cells = 0;
    for (a, max_h, max_k) in [(2usize, 5usize, 5u64), (3, 3, 3), (4, 2, 4)] {
        for h in 1..=max_h {
            for k in 1..=max_k.min((a as u64).pow(h as u32 - 1)) {
                let adversary = Adversary::new(a, h, k).unwrap();
                let fewest = fewest_queries(&adversary, &mut HashMap::new(), false);
                assert_eq!(
                    u128::from(fewest),
                    minimax(a, h, k.into()),
                    "A={a} H={h} K={k}"
                );
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 29);
    // Also when learners may waste queries on prefixes that cannot hold the optimum.
    for (a, h, k) in [(2, 3, 1), (2, 3, 2), (2, 3, 4), (3, 2, 2), (3, 2, 3)] {
        let fewest = fewest_queries(&Adversary::new(a, h, k).unwrap(), &mut HashMap::new(), true);
        assert_eq!(
            u128::from(fewest),
            minimax(a, h, k.into()),
            "A={a} H={h} K={k}"
        );
    }
}

#[test]
fn best_first_meets_the_adversary_at_exactly_the_minimax() {
    for (a, h) in [
        (2usize, 8usize),
        (3, 5),
        (4, 4),
        (7, 3),
        (32, 2),
        (2, 1),
        (5, 1),
    ] {
        for k in 1..=(a as u64).pow(h as u32 - 1).min(40) {
            for options in [LOWEST, HIGHEST] {
                let mut oracle = CountingOracle::new(Adversary::new(a, h, k).unwrap());
                let found = best_first(&mut oracle, &options).unwrap();
                assert_eq!(
                    u128::from(oracle.queries()),
                    minimax(a, h, k.into()),
                    "A={a} H={h} K={k}"
                );
                // The tree it built is one that Assumption 3.1 allows with this K, strictly positive.
                let total = oracle.root().unwrap().mass;
                assert!(&found.mass * k < total && &found.mass * (k + 1) >= total);
                // It also meets a threshold that is fixed before the game, (16K+11)/(16K(K+1)): a
                // learner that is told xi learns nothing from it.
                assert!(&found.mass * (16 * k * (k + 1)) >= total * (16 * k + 11));
            }
        }
    }
}

/// Full game tree for A = 2 and integer masses with zeros: the adversary may choose any masses that
/// leave a leaf of mass at least `threshold` possible. A state is a multiset of unexplored subtrees (mass, depth).
struct Game {
    threshold: u32,
    known: HashMap<(Vec<(u32, u32)>, u32), u32>,
}

impl Game {
    fn value(&mut self, mut open: Vec<(u32, u32)>, best: u32) -> u32 {
        open.retain(|(mass, _)| *mass > best && *mass >= self.threshold);
        open.sort_unstable();
        if open.is_empty() {
            return 0;
        }
        if let Some(value) = self.known.get(&(open.clone(), best)) {
            return *value;
        }
        let mut value = u32::MAX;
        for i in 0..open.len() {
            if i > 0 && open[i] == open[i - 1] {
                continue;
            }
            let mut rest = open.clone();
            let (mass, depth) = rest.remove(i);
            value = value.min(1 + self.worst_answer(mass, depth, rest, best));
        }
        self.known.insert((open, best), value);
        value
    }

    /// The adversary's best masses for the rest of a path through a subtree of known mass.
    fn worst_answer(&mut self, mass: u32, depth: u32, open: Vec<(u32, u32)>, best: u32) -> u32 {
        if depth == 0 {
            let best = best.max(mass);
            let possible = best >= self.threshold || open.iter().any(|(m, _)| *m >= self.threshold);
            return if possible { self.value(open, best) } else { 0 };
        }
        let mut worst = 0;
        for child in 0..=mass {
            let (mut open, mut best) = (open.clone(), best);
            match depth {
                1 => best = best.max(mass - child),
                _ => open.push((mass - child, depth - 1)),
            }
            worst = worst.max(self.worst_answer(child, depth - 1, open, best));
        }
        worst
    }
}

#[test]
fn the_minimax_is_the_value_of_the_full_game_with_zeros() {
    for (h, n, t, audited) in [
        (3, 8, 4, 4),
        (4, 8, 4, 6),
        (4, 10, 4, 6),
        (4, 12, 4, 7),
        (4, 12, 3, 8),
        (5, 8, 4, 8),
    ] {
        let mut game = Game {
            threshold: t,
            known: HashMap::new(),
        };
        let value = game.value(vec![(n, h)], 0);
        assert_eq!(value, audited, "H={h} N={n} T={t}");
        assert_eq!(
            u128::from(value),
            minimax(2, h as usize, (n / t).into()),
            "H={h} N={n} T={t}"
        );
    }
}

// ---------------------------------------------------------------- properties

proptest! {
    /// Exact search on arbitrary weights finds the maximum, never asks for more than the worst case, and never panics.
    #[test]
    fn any_weights_are_searched_exactly(a in 2usize..5, h in 1usize..4, seed in any::<u64>(), most in 1u64..1_000_000) {
        let mut rng = SeedTree::new(seed).rng();
        let weights: Vec<BigUint> = (0..a.pow(h as u32)).map(|_| rng.random_range(0..=most).into()).collect();
        prop_assume!(weights.iter().any(|w| *w > BigUint::from(0u8)));
        let tree = LeafWeights::new(a, h, weights.clone()).unwrap();
        for options in [LOWEST, HIGHEST, NO_INFERENCE] {
            let (queries, found) = search(&tree, &options);
            prop_assert_eq!(&found.mass, weights.iter().max().unwrap());
            prop_assert!(queries <= (a as u64).pow(h as u32));
        }
    }

    /// Chain trees: best-first needs at most M(A, H, K), the paper's algorithm at most its own maximum.
    #[test]
    fn chain_trees_respect_the_bounds(a in 2usize..6, h in 1usize..5, k in 1u64..30) {
        let k = k.min((a as u64).pow(h as u32 - 1));
        let tree = Chains::<BigRational>::new(a, h, k).unwrap();
        let (queries, found) = search(&tree, &LOWEST);
        prop_assert!(u128::from(queries) <= minimax(a, h, k.into()));
        let best = found.mass;
        let (queries, _) = paper(&tree, Pick::Highest, |m| *m >= best);
        prop_assert_eq!(u128::from(queries), bounds::paper_queries_max(a, h, k.into()));
        prop_assert!(best.ratio(&BigRational::from_integer(1.into())) > 0.0);
    }
}
