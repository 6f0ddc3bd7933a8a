//! How well the law of the data covers what a policy does: C_sa, C_τ and χ².

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::{Visitation, check_policy, visitation};
use crate::mdp::{ActionIx, PreferencePair, StateIx, TabularMdp, TabularPolicy, Trajectory};
use crate::{Error, Result};

/// Theorem 4.2, partial coverage: The law μ of one response of the data.
#[derive(Debug, Clone, Copy)]
pub enum DataLaw<'a> {
    /// Prompts from ρ, responses from a policy.
    Policy(&'a TabularPolicy),
    /// The empirical law of the 2n responses of preference pairs, their prompts included.
    Pairs(&'a [PreferencePair]),
}

/// Theorem 4.2, partial coverage: A largest ratio, and what attains it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attained<T> {
    /// The ratio; +∞ where μ is 0 and the policy is not.
    pub value: f64,
    /// The first place that attains it.
    pub at: T,
}

impl DataLaw<'_> {
    /// d^μ of (A.1).
    ///
    /// # Errors
    /// [`Error::Shape`] when the policy does not fit; [`Error::Config`] without pairs.
    pub fn visitation(&self, mdp: &TabularMdp) -> Result<Visitation> {
        match self {
            Self::Policy(policy) => visitation(mdp, policy),
            Self::Pairs(pairs) => {
                let share = 1.0 / (2.0 * some(pairs)? as f64);
                let (n, na) = (mdp.n_states(), mdp.n_actions());
                let mut out = Visitation {
                    state: vec![0.0; n],
                    pair: ndarray::Array2::zeros((n, na)),
                };
                for response in responses(pairs) {
                    for &(s, a) in response.steps() {
                        out.state[s.ix()] += share;
                        out.pair[[s.ix(), a.ix()]] += share;
                    }
                }
                Ok(out)
            }
        }
    }
}

fn some(pairs: &[PreferencePair]) -> Result<usize> {
    match pairs.len() {
        0 => Err(Error::config("preferences", "none", "at least one pair")),
        n => Ok(n),
    }
}

fn responses(pairs: &[PreferencePair]) -> impl Iterator<Item = &Trajectory> {
    pairs.iter().flat_map(|pair| [pair.winner(), pair.loser()])
}

/// Theorem 4.2, partial coverage: C_sa = max_{s,a} d^π(s, a)/d^μ(s, a), 0/0 left out.
///
/// # Errors
/// [`Error::Shape`]; as [`DataLaw::visitation`].
pub fn pair_coverage(
    mdp: &TabularMdp,
    target: &TabularPolicy,
    law: DataLaw<'_>,
) -> Result<Attained<(StateIx, ActionIx)>> {
    let (d, mu) = (visitation(mdp, target)?, law.visitation(mdp)?);
    let mut best = Attained {
        value: 0.0,
        at: (StateIx(0), ActionIx(0)),
    };
    for (((s, a), d), mu) in d.pair.indexed_iter().zip(&mu.pair) {
        if *d > 0.0 && d / mu > best.value {
            best = Attained {
                value: d / mu,
                at: (StateIx(s as u32), ActionIx(a as u32)),
            };
        }
    }
    Ok(best)
}

/// Theorem 4.2, partial coverage: C_τ = max_τ P^π(τ)/P^μ(τ), which on a token tree is C_sa and elsewhere may be exponential in H.
///
/// For a policy μ the transitions cancel and one backward pass finds the maximum; an empirical law covers what
/// it has seen, and the most probable response it has not seen attains +∞.
///
/// # Errors
/// [`Error::Shape`]; as [`DataLaw::visitation`].
pub fn trajectory_coverage(
    mdp: &TabularMdp,
    target: &TabularPolicy,
    law: DataLaw<'_>,
) -> Result<Attained<Trajectory>> {
    check_policy(mdp, "policy", target)?;
    match law {
        DataLaw::Policy(mu) => {
            check_policy(mdp, "behaviour policy", mu)?;
            Ok(largest_ratio(mdp, target, mu))
        }
        DataLaw::Pairs(pairs) => {
            let counts = counted(pairs)?;
            if let Some(at) = most_probable_unseen(mdp, target, &counts) {
                let value = f64::INFINITY;
                return Ok(Attained { value, at });
            }
            let n = 2.0 * pairs.len() as f64;
            let ratio = |t: &Trajectory| probability(mdp, target, t) * n / counts[t.steps()];
            let mut best: Option<Attained<Trajectory>> = None;
            for response in responses(pairs) {
                let value = ratio(response);
                if best.as_ref().is_none_or(|b| value > b.value) {
                    let at = response.clone();
                    best = Some(Attained { value, at });
                }
            }
            Ok(best.expect("there are pairs"))
        }
    }
}

/// Theorem 4.2, partial coverage: χ²(P^π ‖ P^μ) = E_π\[P^π(τ)/P^μ(τ)\] − 1, the single-policy coverage of χ²-regularised methods.
///
/// # Errors
/// [`Error::Shape`]; as [`DataLaw::visitation`].
pub fn chi_square_coverage(
    mdp: &TabularMdp,
    target: &TabularPolicy,
    law: DataLaw<'_>,
) -> Result<f64> {
    check_policy(mdp, "policy", target)?;
    match law {
        DataLaw::Policy(mu) => {
            check_policy(mdp, "behaviour policy", mu)?;
            let (n, na) = (mdp.n_states(), mdp.n_actions());
            let mut second = vec![0.0; n];
            for s in (0..n).rev() {
                let rows = target.row(s).iter().zip(mu.row(s)).enumerate();
                let taken = rows.filter(|(_, (p, _))| p.exp() > 0.0);
                second[s] = taken
                    .map(|(a, (p, q))| {
                        let rest = later(mdp, s * na + a, &second);
                        // π²/μ is positive, though it may be 0 in floating point: what follows may still be infinite.
                        if rest.is_finite() {
                            (2.0 * p - q).exp() * rest
                        } else {
                            rest
                        }
                    })
                    .sum();
            }
            Ok(super::mean_value(mdp, &second) - 1.0)
        }
        DataLaw::Pairs(pairs) => {
            let counts = counted(pairs)?;
            if most_probable_unseen(mdp, target, &counts).is_some() {
                return Ok(f64::INFINITY);
            }
            let n = 2.0 * pairs.len() as f64;
            // Each response once, in the order of the data: the order of a hash map is not that of the next run.
            let mut left = counts.clone();
            let once = responses(pairs).filter_map(|t| Some((t, left.remove(t.steps())?)));
            let square = |(t, count)| probability(mdp, target, t).powi(2) * n / count;
            Ok(once.map(square).sum::<f64>() - 1.0)
        }
    }
}

/// E\[f(s′)\] with f(end) = 1.
fn later(mdp: &TabularMdp, row: usize, f: &[f64]) -> f64 {
    let (next, prob) = mdp.transition().row(row);
    let possible = next.iter().zip(prob).filter(|(_, p)| **p > 0.0);
    possible
        .map(|(to, p)| match *to {
            StateIx::END => *p,
            to => p * f[to.ix()],
        })
        .sum()
}

/// max Σ log(π/μ) over the trajectories of positive probability under π, and its argument.
fn largest_ratio(
    mdp: &TabularMdp,
    target: &TabularPolicy,
    mu: &TabularPolicy,
) -> Attained<Trajectory> {
    let step = |s: usize, a: usize| match target.row(s)[a] {
        p if p.exp() > 0.0 => Some(p - mu.row(s)[a]),
        _ => None,
    };
    let best = best_paths(mdp, step);
    let start = mdp.roots().map(|(s, _)| s);
    let root = first_largest(start.map(|s| (s, best[s.ix()].0)));
    let (mut at, mut steps) = (root, Vec::new());
    while at != StateIx::END {
        let (_, a, next) = best[at.ix()];
        steps.push((at, a));
        at = next;
    }
    Attained {
        value: best[root.ix()].0.exp(),
        at: Trajectory::trusted(steps),
    }
}

/// For each state the largest sum of `step` over the paths from it, the first action of such a path and the state
/// that follows. `None` forbids a pair.
fn best_paths(
    mdp: &TabularMdp,
    step: impl Fn(usize, usize) -> Option<f64>,
) -> Vec<(f64, ActionIx, StateIx)> {
    let (n, na) = (mdp.n_states(), mdp.n_actions());
    let mut best = vec![(f64::NEG_INFINITY, ActionIx(0), StateIx::END); n];
    for s in (0..n).rev() {
        for a in 0..na {
            let Some(gain) = step(s, a) else { continue };
            let (next, prob) = mdp.transition().row(s * na + a);
            for (to, _) in next.iter().zip(prob).filter(|(_, p)| **p > 0.0) {
                let rest = match *to {
                    StateIx::END => 0.0,
                    to => best[to.ix()].0,
                };
                if gain + rest > best[s].0 {
                    best[s] = (gain + rest, ActionIx(a as u32), *to);
                }
            }
        }
    }
    best
}

fn first_largest(of: impl Iterator<Item = (StateIx, f64)>) -> StateIx {
    let first = |best: (StateIx, f64), x: (StateIx, f64)| if x.1 > best.1 { x } else { best };
    of.reduce(first).expect("a table has a prompt").0
}

type Steps = [(StateIx, ActionIx)];
type Counts<'a> = HashMap<&'a Steps, f64>;

fn counted(pairs: &[PreferencePair]) -> Result<Counts<'_>> {
    some(pairs)?;
    let mut counts = Counts::new();
    for response in responses(pairs) {
        *counts.entry(response.steps()).or_default() += 1.0;
    }
    Ok(counts)
}

/// ρ(s₁) ∏ π(a|s) 𝒫(s′|s, a).
fn probability(mdp: &TabularMdp, policy: &TabularPolicy, t: &Trajectory) -> f64 {
    let steps = t.steps();
    let moves = steps.iter().enumerate().map(|(h, &(s, a))| {
        let to = steps.get(h + 1).map_or(StateIx::END, |step| step.0);
        let (next, prob) = mdp.successors(s, a);
        let at = next.iter().position(|n| *n == to);
        policy.prob(s, a) * at.map_or(0.0, |i| prob[i])
    });
    mdp.initial()[t.start().ix()] * moves.product::<f64>()
}

/// A prefix with an upper bound on the log-probability of its completions, which the best of them attains.
struct Prefix {
    bound: f64,
    log_prob: f64,
    steps: Vec<(StateIx, ActionIx)>,
    next: StateIx,
}

impl PartialEq for Prefix {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Prefix {}
impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        // Of equal bounds the lexicographically first comes out first.
        let order = self.bound.total_cmp(&other.bound);
        order.then_with(|| other.steps.cmp(&self.steps))
    }
}

/// The most probable trajectory under π that was not counted; `None` when all that have positive probability
/// were. Trajectories come out in decreasing probability, so at most one more than was counted.
fn most_probable_unseen(
    mdp: &TabularMdp,
    target: &TabularPolicy,
    seen: &Counts<'_>,
) -> Option<Trajectory> {
    let na = mdp.n_actions();
    // The best log-probability from each state, over actions and moves.
    let mut best = vec![f64::NEG_INFINITY; mdp.n_states()];
    let moves = |s: usize, a: usize| {
        let (next, prob) = mdp.transition().row(s * na + a);
        let action = target.row(s)[a];
        let possible = next
            .iter()
            .zip(prob)
            .filter(move |(_, p)| **p > 0.0 && action.exp() > 0.0);
        possible.map(move |(to, p)| (*to, action + p.ln()))
    };
    for s in (0..mdp.n_states()).rev() {
        for (to, log) in (0..na).flat_map(|a| moves(s, a)) {
            let rest = if to == StateIx::END {
                0.0
            } else {
                best[to.ix()]
            };
            best[s] = best[s].max(log + rest);
        }
    }
    let mut open: BinaryHeap<Prefix> = mdp
        .roots()
        .map(|(next, rho)| Prefix {
            bound: rho.ln() + best[next.ix()],
            log_prob: rho.ln(),
            steps: Vec::new(),
            next,
        })
        .collect();
    while let Some(prefix) = open.pop() {
        if prefix.next == StateIx::END {
            if !seen.contains_key(&prefix.steps[..]) {
                return Some(Trajectory::trusted(prefix.steps));
            }
            continue;
        }
        for a in 0..na {
            for (to, log) in moves(prefix.next.ix(), a) {
                let rest = if to == StateIx::END {
                    0.0
                } else {
                    best[to.ix()]
                };
                let mut steps = prefix.steps.clone();
                steps.push((prefix.next, ActionIx(a as u32)));
                let log_prob = prefix.log_prob + log;
                open.push(Prefix {
                    bound: log_prob + rest,
                    log_prob,
                    steps,
                    next: to,
                });
            }
        }
    }
    None
}
