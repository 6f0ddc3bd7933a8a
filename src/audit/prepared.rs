//! Everything of a field that does not depend on the unit: policies, rewards, critics, advantages and slopes per response.

use super::problem::Problem;
use super::recipe::{Critic, Estimator, Recipe};
use super::tables::{log_softmax, response_probs, values, visitation};
use super::tree::ResponseTree;
use crate::advantage::kernels::{gae_row, reward_to_go_row};
use crate::dual::Real;
use crate::objective::Surrogate;
use crate::{Error, Result};
use std::slice::{from_mut, from_ref};

/// Per response or per token of a response (all responses end to end), at one θ.
pub(super) struct Prepared<'a, T> {
    pub tree: &'a ResponseTree,
    pub recipe: &'a Recipe,
    /// π(a|s) of θ, `[S·A]`.
    pub pi: Vec<T>,
    /// P(y|x) under the behaviour, times w_x for units of independent prompts.
    pub prob: Vec<T>,
    /// Σ_h of the rewards paid, the KL term included.
    pub returns: Vec<T>,
    /// Σ_h of the rewards paid, without a KL term.
    pub scores: Vec<f64>,
    /// Advantages before whitening and baselines that depend on the unit, per token.
    pub advantage: Vec<T>,
    /// −∂ℒ/∂ℓ_h at weight 1 and Â = 1, and the same at Â = −1: the surrogate is positively homogeneous in Â. It is the same at all
    /// tokens of a response where the response has one ratio, and at all responses through a pair (s, a) otherwise: `[N]` or `[S·A]`.
    pub slope: [Vec<T>; 2],
    /// Whether slopes are those of responses.
    pub slope_per_row: bool,
    /// −β ∂k/∂ℓ_h of a sampled KL term in the loss, `[S·A]`.
    pub kl_slope: Option<Vec<T>>,
    /// β π (d − Σ π d) of an exact KL term in the loss, `[S·A]`.
    pub exact_kl: Option<Vec<T>>,
}

impl<'a, T: Real> Prepared<'a, T> {
    /// At logits θ. `old` are the behaviour's, by default θ itself, so that derivatives go through the behaviour too.
    pub fn new(
        problem: &'a Problem,
        recipe: &'a Recipe,
        theta: &[T],
        old: Option<&[f64]>,
    ) -> Result<Self> {
        let tree = problem.tree();
        let a = tree.n_actions();
        let lp = log_softmax(theta, a);
        let lo = match old {
            None => lp.clone(),
            Some(o) => {
                let o: Vec<T> = o.iter().map(|v| T::constant(*v)).collect();
                log_softmax(&o, a)
            }
        };
        let pi: Vec<T> = lp.iter().map(|l| l.exp()).collect();
        let paid = problem.paid(recipe.reward)?;
        let reward = with_kl(problem, recipe, &lo, &paid);
        let mut prob = response_probs(tree, &lo);
        if recipe.responses == 1 {
            for (p, w) in tree.prompt_weights().iter().enumerate() {
                for y in tree.responses_of(p) {
                    prob[y] = prob[y] * *w;
                }
            }
        }
        let scores = sums(tree, &paid);
        if recipe.drop_equal_groups {
            let varied = |p| {
                let of = &scores[tree.responses_of(p)];
                of.iter().any(|s| *s != of[0])
            };
            if !(0..tree.prompt_weights().len()).any(varied) {
                let must =
                    "false where all responses to a prompt have one score: no group is ever drawn";
                return Err(Error::config("drop_equal_groups", true, must));
            }
        }
        let mut out = Self {
            tree,
            recipe,
            pi,
            prob,
            returns: sums(tree, &reward),
            scores,
            advantage: Vec::new(),
            slope: [Vec::new(), Vec::new()],
            slope_per_row: recipe.surrogate.ratio.of_a_row(),
            kl_slope: None,
            exact_kl: None,
        };
        if !recipe.one_advantage_per_row() {
            out.advantage = advantages(problem, recipe, &lo, &reward, &out.scores);
        }
        out.slope = match out.slope_per_row {
            true => slopes_of_rows(tree, &recipe.surrogate, &lp, &lo),
            false => slopes_of_pairs(&recipe.surrogate, &lp, &lo),
        };
        out.kl(problem, &lp, &lo);
        Ok(out)
    }

    /// Where the slope of a token stands.
    #[inline(always)]
    pub fn slope_index(&self, response: usize, pair: usize) -> usize {
        match self.slope_per_row {
            true => response,
            false => pair,
        }
    }

    /// The terms of a KL penalty in the loss.
    fn kl(&mut self, problem: &Problem, lp: &[T], lo: &[T]) {
        let (Some(estimator), beta) = (self.recipe.kl_in_loss(), self.recipe.beta) else {
            return;
        };
        let d = |k: usize| lp[k] - problem.reference()[k];
        let Some(sampled) = estimator.sampled() else {
            let a = self.tree.n_actions();
            let mut table = self.pi.clone();
            for (s, row) in table.chunks_exact_mut(a).enumerate() {
                let mut kl = T::constant(0.0);
                for (k, pi) in row.iter().enumerate() {
                    kl += *pi * d(s * a + k);
                }
                for (k, v) in row.iter_mut().enumerate() {
                    *v = *v * (d(s * a + k) - kl) * beta;
                }
            }
            self.exact_kl = Some(table);
            return;
        };
        let slope = |k: usize| sampled.value_slope(d(k), lp[k] - lo[k]).1 * -beta;
        self.kl_slope = Some((0..lp.len()).map(slope).collect());
    }
}

/// r − β k(log μ − log π_ref), `[S·A]`: detached from the policy that is trained, not from the behaviour μ.
fn with_kl<T: Real>(problem: &Problem, recipe: &Recipe, lo: &[T], paid: &[f64]) -> Vec<T> {
    let paid = paid.iter().map(|r| T::constant(*r));
    let Some(estimator) = recipe.kl_in_reward() else {
        return paid.collect();
    };
    let d = |k: usize| lo[k] - problem.reference()[k];
    let a = problem.tree().n_actions();
    let of = |(k, r): (usize, T)| {
        let kl = match estimator.sampled() {
            Some(sampled) => sampled.value(d(k)),
            None => {
                let row = k / a * a..k / a * a + a;
                row.fold(T::constant(0.0), |sum, j| sum + lo[j].exp() * d(j))
            }
        };
        r - kl * recipe.beta
    };
    paid.enumerate().map(of).collect()
}

/// Advantages per token of every response, before what depends on the unit.
fn advantages<T: Real>(
    problem: &Problem,
    recipe: &Recipe,
    lo: &[T],
    reward: &[T],
    scores: &[f64],
) -> Vec<T> {
    let tree = problem.tree();
    let mut out = gather(tree, reward);
    match &recipe.advantage {
        Estimator::Gae {
            gamma,
            lambda,
            critic,
        } => {
            let v = critic_values(tree, critic, lo, reward, *gamma);
            let a = tree.n_actions();
            let at: Vec<T> = tree.pairs().iter().map(|p| v[*p as usize / a]).collect();
            let r = out.clone();
            for y in 0..tree.n_responses() {
                let t = tree.tokens(y);
                let (r, v, last) = (&r[t.clone()], &at[t.clone()], T::constant(0.0));
                gae_row(r, v, None, last, *gamma, *lambda, &mut out[t]);
            }
        }
        kind => {
            let baseline = match kind {
                Estimator::Greedy => Some(greedy_scores(tree, lo, scores)),
                // The leave-one-out mean of scores, less this response's own, is added unit by unit.
                _ => None,
            };
            for y in 0..tree.n_responses() {
                let row = &mut out[tree.tokens(y)];
                match kind {
                    Estimator::LeaveOneOut | Estimator::Group { .. } => row.fill(T::constant(0.0)),
                    _ => reward_to_go_row(row, None, 1.0),
                }
                if let Some(b) = &baseline {
                    row.iter_mut().for_each(|v| *v = *v - b[tree.prompt_of(y)]);
                }
            }
        }
    }
    out
}

/// The score of the response that takes the most probable token at every state, per prompt.
fn greedy_scores<T: Real>(tree: &ResponseTree, lo: &[T], scores: &[f64]) -> Vec<f64> {
    let a = tree.n_actions();
    let of = |p: usize| {
        let (mut s, mut path) = (tree.root(p), Vec::new());
        loop {
            let best = (s * a..(s + 1) * a)
                .reduce(|x, y| if lo[y].value() > lo[x].value() { y } else { x })
                .expect("at least one action");
            path.push(best as u32);
            match tree.next(best) {
                Some(next) => s = next,
                None => break,
            }
        }
        let found = tree.responses_of(p).find(|y| tree.response(*y) == path);
        scores[found.expect("a complete path is a response")]
    };
    (0..tree.prompt_weights().len()).map(of).collect()
}

fn critic_values<T: Real>(
    tree: &ResponseTree,
    critic: &Critic,
    lo: &[T],
    reward: &[T],
    gamma: f64,
) -> Vec<T> {
    match critic {
        Critic::Zero => vec![T::constant(0.0); tree.n_states()],
        Critic::Given(v) => v.iter().map(|v| T::constant(*v)).collect(),
        Critic::Exact => values(tree, lo, reward, gamma),
        Critic::Offset(c) => {
            let v = values(tree, lo, reward, gamma).into_iter();
            v.map(|v| v + *c).collect()
        }
        Critic::Depth => {
            let (v, d) = (values(tree, lo, reward, gamma), visitation(tree, lo));
            let mut sums = vec![[T::constant(0.0); 2]; tree.horizon()];
            for s in 0..tree.n_states() {
                let [weighted, mass] = &mut sums[tree.depth(s)];
                *weighted += d[s] * v[s];
                *mass += d[s];
            }
            let mean = |s: usize| {
                let [weighted, mass] = sums[tree.depth(s)];
                weighted / mass
            };
            (0..tree.n_states()).map(mean).collect()
        }
    }
}

/// −slope at every pair at Â = 1 and at Â = −1, by the training code with weight 1.
fn slopes_of_pairs<T: Real>(surrogate: &Surrogate, lp: &[T], lo: &[T]) -> [Vec<T>; 2] {
    [1.0, -1.0].map(|sign| {
        let mut out = vec![T::constant(0.0); lp.len()];
        for ((l, o), slope) in lp.iter().zip(lo).zip(&mut out) {
            let (l, o, slope) = (from_ref(l), from_ref(o), from_mut(slope));
            surrogate.row(l, o, &[T::constant(sign)], &[1.0], slope);
            slope[0] = -slope[0];
        }
        out
    })
}

/// The same at every response that has one ratio, where all of its tokens have one slope.
fn slopes_of_rows<T: Real>(
    tree: &ResponseTree,
    surrogate: &Surrogate,
    lp: &[T],
    lo: &[T],
) -> [Vec<T>; 2] {
    let (lp, lo) = (gather(tree, lp), gather(tree, lo));
    let (ones, zero) = (vec![1.0; tree.horizon()], T::constant(0.0));
    let mut slopes = vec![zero; tree.horizon()];
    [1.0, -1.0].map(|sign| {
        let advantage = vec![T::constant(sign); tree.horizon()];
        let of = |y| {
            let t = tree.tokens(y);
            let n = t.len();
            slopes.fill(zero);
            let (lp, lo) = (&lp[t.clone()], &lo[t]);
            surrogate.row(lp, lo, &advantage[..n], &ones[..n], &mut slopes[..n]);
            -slopes[0]
        };
        (0..tree.n_responses()).map(of).collect()
    })
}

/// A table at every token of every response.
pub(super) fn gather<T: Copy>(tree: &ResponseTree, table: &[T]) -> Vec<T> {
    tree.pairs().iter().map(|p| table[*p as usize]).collect()
}

/// The sum of a table over every response.
pub(super) fn sums<T: Real>(tree: &ResponseTree, table: &[T]) -> Vec<T> {
    let of = |y| {
        let pairs = tree.response(y).iter();
        pairs.fold(T::constant(0.0), |sum, p| sum + table[*p as usize])
    };
    (0..tree.n_responses()).map(of).collect()
}
