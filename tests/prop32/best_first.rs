//! Best-first search on random trees, chains and any weights.

use crate::{HIGHEST, LOWEST, NO_INFERENCE, paper, search};
use num_bigint::BigUint;
use num_rational::BigRational;
use proptest::prelude::*;
use rand::Rng;
use rto::search::best_first::{Pick, best_first};
use rto::search::bounds::{self, instance_bound, minimax, paper_queries};
use rto::search::evaluator::{
    Chains, DirichletTree, Evaluator, EvaluatorOracle, LeafWeights, NeedleChain, SoftmaxTree,
    Uniform,
};
use rto::search::exhaustive::{Order, exhaustive};
use rto::search::mass::{LogMass, Mass};
use rto::search::oracle::{CountingOracle, Scored};
use rto::search::profile::heavy_profile;
use rto::seed::SeedTree;
use rto::{Error, Token};

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
