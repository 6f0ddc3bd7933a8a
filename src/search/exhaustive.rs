//! The sentence-level learner: scores whole responses one by one (errata, A4).

use super::best_first::Found;
use super::check_size;
use super::mass::Mass;
use super::oracle::SentenceOracle;
use crate::{Error, Result, Token};

/// Errata, A4: The order in which responses are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order<'a> {
    /// 0…0, 0…01, … : each node of the tree is evaluated once.
    Lexicographic,
    /// By code (base-A number of y₁…y_H, y₁ most significant); must list every code once.
    Codes(&'a [u64]),
}

/// Proposition 3.2, sentence part (errata, A4): Scores responses until the best is certain.
///
/// With `use_normalisation`, Σ π\* = 1 is known: stop as soon as the best is at least the mass not yet
/// scored, or when one response is left (its mass is then known). Without, only the last query ends it.
///
/// # Errors
/// [`Error::Config`] for a size out of range (A^H must fit 63 bits) or an order of the wrong length, or
/// whatever the oracle reports; a used-up budget ends the search with `certified: false`.
pub fn exhaustive<O: SentenceOracle>(
    oracle: &mut O,
    order: Order<'_>,
    use_normalisation: bool,
) -> Result<Found<O::Mass>> {
    let (n_actions, horizon) = (oracle.n_actions(), oracle.horizon());
    check_size(n_actions, horizon)?;
    let n_responses = (n_actions as u64)
        .checked_pow(horizon as u32)
        .filter(|n| *n < 1 << 63)
        .ok_or_else(|| Error::config("horizon", horizon, "small enough that A^H is below 2^63"))?;
    if let Order::Codes(codes) = order
        && codes.len() as u64 != n_responses
    {
        return Err(Error::Shape {
            what: "order".into(),
            expected: n_responses as usize,
            got: codes.len(),
        });
    }
    if let Order::Codes(codes) = order {
        check_permutation(codes)?;
    }
    let mut learner = Learner::new(oracle.total()?, oracle.slack(), n_responses);
    let mut response = vec![0 as Token; horizon];
    for i in 0..n_responses {
        if let Order::Codes(codes) = order {
            write_code(codes[i as usize], n_actions as u64, &mut response);
        }
        match oracle.sentence_reward(&response) {
            Ok(mass) => learner.observe(&response, mass),
            Err(Error::BudgetExhausted { .. }) if learner.best.is_some() => {
                return Ok(learner.finish(false));
            }
            Err(other) => return Err(other),
        }
        if use_normalisation
            && learner.decided(n_responses - i - 1, || {
                last_response(order, i + 1, n_actions as u64, &response)
            })
        {
            return Ok(learner.finish(true));
        }
        if order == Order::Lexicographic {
            advance(&mut response, n_actions as Token);
        }
    }
    Ok(learner.finish(true))
}

/// Refuses an order that leaves a response out or names one twice.
fn check_permutation(codes: &[u64]) -> Result<()> {
    let mut seen = vec![false; codes.len()];
    for code in codes {
        match seen.get_mut(*code as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                return Err(Error::config(
                    "order",
                    code,
                    "every code below A^H exactly once",
                ));
            }
        }
    }
    Ok(())
}

struct Learner<M: Mass> {
    total: M,
    left: M::Residual,
    slack: f64,
    best: Option<(Vec<Token>, M)>,
}

impl<M: Mass> Learner<M> {
    fn new(total: M, slack: f64, n_responses: u64) -> Self {
        // In floating point every subtraction from the mass left may err by half an ulp of 1.
        let rounding = if slack == 0.0 {
            0.0
        } else {
            n_responses as f64 * f64::EPSILON / 2.0
        };
        Self {
            left: total.residual(),
            total,
            slack: slack + rounding,
            best: None,
        }
    }

    #[inline]
    fn observe(&mut self, response: &[Token], mass: M) {
        M::subtract(&mut self.left, &self.total, &mass);
        let better = match &self.best {
            None => true,
            Some((known, best)) => mass > *best || (mass == *best && *response < known[..]),
        };
        if better {
            self.best = Some((response.to_vec(), mass));
        }
    }

    /// Whether Σ π\* = 1 settles the optimum, with `unscored` responses left.
    #[inline]
    fn decided(&mut self, unscored: u64, last: impl FnOnce() -> Vec<Token>) -> bool {
        let Some((_, best)) = &self.best else {
            return false;
        };
        if !M::left_at_most(&self.left, &self.total, self.slack).exceeds(best) {
            return true;
        }
        if unscored != 1 {
            return false;
        }
        let inferred = M::left(&self.left, &self.total, self.slack);
        // A vague residual is not a known mass; the last response is then scored.
        let at_most = M::left_at_most(&self.left, &self.total, self.slack);
        let known = !inferred.is_zero() && !at_most.exceeds(&inferred);
        if known && inferred > *best {
            self.best = Some((last(), inferred));
        }
        known
    }

    fn finish(self, certified: bool) -> Found<M> {
        let (response, mass) = self.best.expect("at least one response was scored");
        Found {
            response,
            mass,
            certified,
        }
    }
}

/// The response with a code, base A, most significant token first.
fn write_code(mut code: u64, n_actions: u64, response: &mut [Token]) {
    for token in response.iter_mut().rev() {
        *token = (code % n_actions) as Token;
        code /= n_actions;
    }
}

/// The next response in lexicographic order.
#[inline]
fn advance(response: &mut [Token], n_actions: Token) {
    for token in response.iter_mut().rev() {
        *token += 1;
        if *token < n_actions {
            return;
        }
        *token = 0;
    }
}

fn last_response(order: Order<'_>, index: u64, n_actions: u64, like: &[Token]) -> Vec<Token> {
    let mut response = like.to_vec();
    let code = match order {
        Order::Lexicographic => index,
        Order::Codes(codes) => codes[index as usize],
    };
    write_code(code, n_actions, &mut response);
    response
}

#[cfg(test)]
mod tests {
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
}
