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
mod tests;
