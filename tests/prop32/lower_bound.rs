//! The adversary and the minimax number of queries.

use crate::{HIGHEST, LOWEST};
use num_bigint::BigUint;
use rto::Token;
use rto::search::adversary::Adversary;
use rto::search::best_first::best_first;
use rto::search::bounds::{self, minimax};
use rto::search::mass::Mass;
use rto::search::oracle::TokenOracle;
use rto::search::oracle::{CountingOracle, Scored};
use std::collections::HashMap;

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
