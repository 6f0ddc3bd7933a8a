//! All responses of one prompt, written out.

use crate::check;
use crate::numerics::log_sum_exp;
use crate::{Error, Result, Token};

/// Section 3.1: The set Y of responses of one prompt, with the reference's log-probabilities and the rewards.
///
/// Token policies and distributions on Y are the same thing: π(a|s) is the mass below (s, a) over the mass below s. So every
/// problem of this module is a problem on the simplex over Y. Prefixes are ordered by length, then by tokens (those that
/// contain the end-of-sentence token are no prefixes); responses by tokens.
#[derive(Debug, Clone)]
pub struct Responses {
    n_actions: usize,
    horizon: usize,
    prefixes: Vec<Vec<Token>>,
    responses: Vec<Vec<Token>>,
    /// The (prefix, token) pairs of each response.
    paths: Vec<Vec<(usize, usize)>>,
    lengths: Vec<f64>,
    /// log π_ref(a|s), `[prefixes, A]`.
    reference_rows: Vec<f64>,
    log_reference: Vec<f64>,
    rewards: Vec<f64>,
    /// Where (prefix, token) leads: to another prefix or to a response.
    children: Vec<Child>,
}

/// Where a token leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// To the prefix of that number.
    Prefix(usize),
    /// To the response of that number.
    Response(usize),
}

/// Responses beyond which the dense methods of this module refuse: their matrices are `[n, n]`.
pub const MAX_RESPONSES: usize = 4096;

impl Responses {
    /// The tree of A actions and at most H tokens; `eos` ends a response. `reference` holds π_ref(a|s) and `rewards` r(s, a),
    /// both `[prefixes, A]` row by row, prefixes in the order of [`Responses::prefixes`].
    ///
    /// # Errors
    /// [`Error::Config`] on sizes of 0, an unknown end-of-sentence action or more than [`MAX_RESPONSES`] responses;
    /// [`Error::Shape`]; [`Error::NotADistribution`] unless every row of π_ref is positive and sums to 1;
    /// [`Error::NonFinite`].
    pub fn try_new(
        n_actions: usize,
        horizon: usize,
        eos: Option<Token>,
        reference: &[f64],
        rewards: &[f64],
    ) -> Result<Self> {
        for (field, value) in [("A", n_actions), ("H", horizon)] {
            if value == 0 {
                return Err(Error::config(field, 0, "at least 1"));
            }
        }
        if let Some(eos) = eos.filter(|&e| e as usize >= n_actions) {
            return Err(Error::config(
                "eos",
                eos,
                format!("a token below {n_actions}"),
            ));
        }
        let (prefixes, responses) = enumerate(n_actions, horizon, eos)?;
        let cells = prefixes.len() * n_actions;
        check::len("ref", cells, reference.len())?;
        check::len("reward", cells, rewards.len())?;
        for (s, row) in reference.chunks(n_actions).enumerate() {
            let sum: f64 = row.iter().sum();
            let positive = row.iter().all(|&p| p > 0.0 && p.is_finite());
            if !positive || (sum - 1.0).abs() > 1e-9 {
                let what = format!("ref[{s}] (every probability must be positive)");
                return Err(Error::NotADistribution { what, sum });
            }
        }
        if let Some((i, &value)) = rewards.iter().enumerate().find(|(_, r)| !r.is_finite()) {
            let what = format!("reward[{}][{}]", i / n_actions, i % n_actions);
            return Err(Error::NonFinite { what, value });
        }
        let reference_rows: Vec<f64> = reference.iter().map(|p| p.ln()).collect();
        Ok(Self::assemble(
            n_actions,
            horizon,
            prefixes,
            responses,
            reference_rows,
            rewards,
        ))
    }

    /// A bandit: responses of one token each.
    ///
    /// # Errors
    /// Those of [`Responses::try_new`].
    pub fn bandit(reference: &[f64], rewards: &[f64]) -> Result<Self> {
        Self::try_new(reference.len(), 1, None, reference, rewards)
    }

    fn assemble(
        n_actions: usize,
        horizon: usize,
        prefixes: Vec<Vec<Token>>,
        responses: Vec<Vec<Token>>,
        reference_rows: Vec<f64>,
        rewards: &[f64],
    ) -> Self {
        let place = |p: &[Token]| {
            prefixes
                .binary_search_by(|q| q.len().cmp(&p.len()).then_with(|| q[..].cmp(p)))
                .ok()
        };
        let path = |y: &Vec<Token>| -> Vec<(usize, usize)> {
            let step = |h: usize| {
                (
                    place(&y[..h]).expect("a prefix of a response"),
                    y[h] as usize,
                )
            };
            (0..y.len()).map(step).collect()
        };
        let paths: Vec<_> = responses.iter().map(path).collect();
        let children = (0..prefixes.len() * n_actions)
            .map(|cell| {
                let mut next = prefixes[cell / n_actions].clone();
                next.push((cell % n_actions) as Token);
                match place(&next) {
                    Some(s) => Child::Prefix(s),
                    None => Child::Response(
                        responses
                            .binary_search(&next)
                            .expect("a token leads somewhere"),
                    ),
                }
            })
            .collect();
        let total = |row: &[f64], path: &Vec<(usize, usize)>| -> f64 {
            path.iter().map(|&(s, a)| row[s * n_actions + a]).sum()
        };
        let log_reference = paths.iter().map(|p| total(&reference_rows, p)).collect();
        let rewards = paths.iter().map(|p| total(rewards, p)).collect();
        let lengths = responses.iter().map(|y| y.len() as f64).collect();
        Self {
            n_actions,
            horizon,
            prefixes,
            responses,
            paths,
            lengths,
            reference_rows,
            log_reference,
            rewards,
            children,
        }
    }

    /// The same tree and reference under another reward per response, for example a proxy.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_rewards(&self, rewards: &[f64]) -> Result<Self> {
        check::len("rewards", self.len(), rewards.len())?;
        if let Some((i, &value)) = rewards.iter().enumerate().find(|(_, r)| !r.is_finite()) {
            let what = format!("reward of response {i}");
            return Err(Error::NonFinite { what, value });
        }
        let mut other = self.clone();
        other.rewards = rewards.to_vec();
        Ok(other)
    }

    /// n = |Y|.
    #[allow(clippy::len_without_is_empty)] // there is always a response
    pub fn len(&self) -> usize {
        self.responses.len()
    }

    /// A.
    pub fn n_actions(&self) -> usize {
        self.n_actions
    }

    /// H.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// The unfinished prefixes, shortest first.
    pub fn prefixes(&self) -> &[Vec<Token>] {
        &self.prefixes
    }

    /// The responses, in the order of their tokens.
    pub fn responses(&self) -> &[Vec<Token>] {
        &self.responses
    }

    /// The (prefix, token) pairs that response y goes through.
    pub fn path(&self, y: usize) -> &[(usize, usize)] {
        &self.paths[y]
    }

    /// |y| of each response.
    pub fn lengths(&self) -> &[f64] {
        &self.lengths
    }

    /// log π_ref(y) of each response.
    pub fn log_reference(&self) -> &[f64] {
        &self.log_reference
    }

    /// log π_ref(a|s), `[prefixes, A]`.
    pub fn reference_rows(&self) -> &[f64] {
        &self.reference_rows
    }

    /// R(y) of each response.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// Where token `a` leads from prefix `s`.
    pub fn child(&self, s: usize, a: usize) -> Child {
        self.children[s * self.n_actions + a]
    }

    /// Sums of a number per response over all responses below each (prefix, token), `[prefixes, A]`.
    pub fn below(&self, per_response: &[f64]) -> Vec<f64> {
        let mut cells = vec![0.0; self.children.len()];
        for (path, value) in self.paths.iter().zip(per_response) {
            for &(s, a) in path {
                cells[s * self.n_actions + a] += value;
            }
        }
        cells
    }

    /// log π(a|s) of a distribution over responses, `[prefixes, A]`; the reference's rows where π never goes.
    pub fn token_rows(&self, log_policy: &[f64]) -> Vec<f64> {
        let a = self.n_actions;
        let mut rows = self.reference_rows.clone();
        let mut mass = vec![f64::NEG_INFINITY; self.prefixes.len()];
        for s in (0..self.prefixes.len()).rev() {
            let cells: Vec<f64> = (0..a)
                .map(|b| match self.child(s, b) {
                    Child::Prefix(next) => mass[next],
                    Child::Response(y) => log_policy[y],
                })
                .collect();
            mass[s] = log_sum_exp(&cells);
            if mass[s] > f64::NEG_INFINITY {
                for (row, cell) in rows[s * a..(s + 1) * a].iter_mut().zip(&cells) {
                    *row = cell - mass[s];
                }
            }
        }
        rows
    }

    /// log π(y) from token rows log π(a|s), `[prefixes, A]`.
    pub fn response_log_probs(&self, rows: &[f64]) -> Vec<f64> {
        let total = |path: &Vec<(usize, usize)>| {
            path.iter()
                .map(|&(s, a)| rows[s * self.n_actions + a])
                .sum()
        };
        self.paths.iter().map(total).collect()
    }
}

type Texts = Vec<Vec<Token>>;

/// Prefixes by length and then tokens, responses by tokens.
fn enumerate(n_actions: usize, horizon: usize, eos: Option<Token>) -> Result<(Texts, Texts)> {
    let (mut prefixes, mut responses): (Texts, Texts) = (vec![vec![]], vec![]);
    let mut first = 0;
    for h in 1..=horizon {
        let last = prefixes.len();
        for s in first..last {
            for a in 0..n_actions as Token {
                let mut next = prefixes[s].clone();
                next.push(a);
                if h == horizon || Some(a) == eos {
                    responses.push(next);
                } else {
                    prefixes.push(next);
                }
            }
            if responses.len().max(prefixes.len()) > MAX_RESPONSES {
                let must = format!("small enough for at most {MAX_RESPONSES} responses");
                return Err(Error::config("H", horizon, must));
            }
        }
        first = last;
    }
    responses.sort();
    Ok((prefixes, responses))
}
