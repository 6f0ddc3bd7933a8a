//! What one response adds to the gradient of a batch that is too large to enumerate, exactly, by moments of single responses.

use super::field::check_at;
use super::prepared::Prepared;
use super::problem::Problem;
use super::recipe::{Estimator, Recipe};
use super::summary::Summary;
use super::tables::scores_to_logits;
use super::tree::ResponseTree;
use crate::advantage::WhitenStd;
use crate::objective::Aggregation;
use crate::{Error, Result};

impl Summary {
    /// On-policy at logits θ, per response of a batch of many: one response where advantages are its own, a group of G where each response is set
    /// against the others of its group ([`Estimator::LeaveOneOut`]), whatever `prompts` says.
    ///
    /// In a batch of B responses whitening subtracts the mean over the batch's tokens, which tends to
    /// ā = E\[Σ_h Â_h\]/E\[L\] of all tokens under π. Since E\[Σ_h ∇ℓ_h\] = 0, its fluctuation adds to the covariance of the batch's gradient nothing that
    /// counts beside 1/B, so that B tr Cov tends to
    ///
    /// ```text
    /// tr Cov(Σ_h (Â_h − ā) ∇ℓ_h).
    /// ```
    ///
    /// With R less its mean per prompt, σ² its variance, S = Σ_h ∇ℓ_h and m = E\[R S\], a group of G has E g = m and
    ///
    /// ```text
    /// E|g|² = E[(R² + σ²/(G−1)) |S|²]/G + (1 − 1/G)(1 + 1/(G−1)²) |m|²,
    /// ```
    ///
    /// the first from a response and itself, the second from two of them: what depends on one of two through S alone has mean 0. Costs O(N H) for N
    /// responses, where [`Summary::at`] needs all units.
    ///
    /// # Errors
    /// Those of [`Summary::at`], but not that of units too many; [`Error::Config`] of what needs more than these moments: whitening that divides
    /// (by a spread of the batch, one factor of the whole step; [`WhitenStd::One`] leaves it out), whitening of groups of unequal lengths, other
    /// groups, several responses to a prompt where advantages are a response's own, groups that are dropped, weights that depend on lengths, a KL term in the loss, ratios that are cut at 1.
    pub fn in_a_large_batch(problem: &Problem, recipe: &Recipe, theta: &[f64]) -> Result<Self> {
        check_at(problem, recipe, theta, None)?;
        check(problem.tree(), recipe)?;
        let p = Prepared::new(problem, recipe, theta, None)?;
        let [up, down] = &p.slope;
        let uncut = |slope: &[f64], one: f64| slope.iter().all(|s| (s - one).abs() < 1e-12);
        if !uncut(up, 1.0) || !uncut(down, -1.0) {
            let must = "one whose slope is 1 where the ratio is 1";
            return Err(Error::config("surrogate", "a cut at a ratio of 1", must));
        }
        let grouped = recipe.advantage == Estimator::LeaveOneOut;
        let n = if grouped { recipe.responses } else { 1 };
        let length = problem.tree().horizon() as f64;
        let weight = (recipe.aggregation).weight(n as f64, n as f64 * length, length);
        let (field, second) = match grouped {
            true => of_groups(&p, weight),
            false => of_responses(&p, weight),
        };
        let trace = second - square(&field);
        let target = problem.target(recipe, theta)?;
        Ok(Self::new(field, target, trace, n))
    }
}

/// Refuses what needs more than moments of a response.
fn check(tree: &ResponseTree, recipe: &Recipe) -> Result<()> {
    let refused = |field: &str, found: String, must: &str| Err(Error::config(field, found, must));
    let grouped = match recipe.advantage {
        Estimator::LeaveOneOut => true,
        Estimator::RewardToGo | Estimator::Gae { .. } | Estimator::Greedy => false,
        Estimator::LeaveOneOutOfScore | Estimator::Group { .. } => {
            let must = "reward_to_go, gae, greedy or leave_one_out; sample other groups";
            return refused("advantage", format!("{:?}", recipe.advantage), must);
        }
    };
    let lengths = (0..tree.n_responses()).map(|y| tree.tokens(y).len());
    let equal = lengths.clone().min() == lengths.max();
    match recipe.aggregation {
        Aggregation::SequenceSum | Aggregation::Constant { .. } => {}
        Aggregation::SequenceMean | Aggregation::TokenMean if equal => {}
        other => {
            let must = "sequence_sum or constant where lengths differ, or a mean where they do not";
            return refused("aggregation", format!("{other:?}"), must);
        }
    }
    if let Some(std) = recipe.whitening.filter(|std| *std != WhitenStd::One) {
        let must = "one, or none: the spread of a batch is a factor of the whole step";
        return refused("whitening", format!("{std:?}"), must);
    }
    if grouped && recipe.whitening.is_some() && !equal {
        let must = "none where groups have responses of unequal lengths";
        return refused("whitening", format!("{:?}", WhitenStd::One), must);
    }
    // The prompt of such a unit is shared, and adds to its covariance what moments of single responses do not have.
    if !grouped && recipe.responses != 1 {
        let must =
            "1 where a response's advantages are its own: several to a prompt are not independent";
        return refused("responses", recipe.responses.to_string(), must);
    }
    if recipe.kl_in_loss().is_some() {
        return refused("kl.placement", "loss".into(), "reward");
    }
    match recipe.drop_equal_groups {
        true => refused("drop_equal_groups", "true".into(), "false"),
        false => Ok(()),
    }
}

/// E\[g\] and E|g|² of one response.
fn of_responses(p: &Prepared<'_, f64>, weight: f64) -> (Vec<f64>, f64) {
    let (tree, spread) = (p.tree, spreads(p));
    let mean = match p.recipe.whitening {
        None => 0.0,
        Some(_) => {
            let (mut sum, mut tokens) = (0.0, 0.0);
            for (y, prob) in p.prob.iter().enumerate() {
                let of = &p.advantage[tree.tokens(y)];
                sum += prob * of.iter().sum::<f64>();
                tokens += prob * of.len() as f64;
            }
            sum / tokens
        }
    };
    let (mut c, mut second) = (vec![0.0; tree.n_pairs()], 0.0);
    for (y, prob) in p.prob.iter().enumerate() {
        let advantages = &p.advantage[tree.tokens(y)];
        for (pair, advantage) in tree.response(y).iter().zip(advantages) {
            let (pair, one) = (*pair as usize, weight * (advantage - mean));
            c[pair] += prob * one;
            second += prob * one * one * spread[pair];
        }
    }
    scores_to_logits(&mut c, &p.pi, tree.n_actions());
    (c, second)
}

/// E\[g\] and E|g|² of a group, each response less the mean of the others. Whitening changes nothing: the advantages of a group sum to 0.
fn of_groups(p: &Prepared<'_, f64>, weight: f64) -> (Vec<f64>, f64) {
    let (tree, spread) = (p.tree, spreads(p));
    let size = p.recipe.responses as f64;
    let others = size - 1.0;
    let (mut field, mut second) = (vec![0.0; tree.n_pairs()], 0.0);
    for (prompt, share) in tree.prompt_weights().iter().enumerate() {
        let of = tree.responses_of(prompt);
        let expected = |f: &dyn Fn(usize) -> f64| of.clone().map(|y| p.prob[y] * f(y)).sum::<f64>();
        let mean = expected(&|y| p.returns[y]);
        let variance = expected(&|y| (p.returns[y] - mean).powi(2));
        let own = expected(&|y| {
            let scores: f64 = tree.response(y).iter().map(|k| spread[*k as usize]).sum();
            ((p.returns[y] - mean).powi(2) + variance / others) * scores
        });
        let mut m = vec![0.0; tree.n_pairs()];
        for y in of.clone() {
            let one = p.prob[y] * (p.returns[y] - mean);
            tree.response(y).iter().for_each(|k| m[*k as usize] += one);
        }
        scores_to_logits(&mut m, &p.pi, tree.n_actions());
        let two = square(&m) * (1.0 + 1.0 / (others * others));
        second += share * weight * weight * size * (own + others * two);
        for (field, m) in field.iter_mut().zip(&m) {
            *field += share * weight * size * m;
        }
    }
    (field, second)
}

/// |∇ log π(a|s)|² = 1 − 2π(a|s) + Σ_a′ π(a′|s)², `[S·A]`: a response meets no state twice.
fn spreads(p: &Prepared<'_, f64>) -> Vec<f64> {
    let rows = p.pi.chunks_exact(p.tree.n_actions());
    rows.flat_map(|row| {
        let all = square(row);
        row.iter().map(move |pi| 1.0 - 2.0 * pi + all)
    })
    .collect()
}

fn square(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum()
}

#[cfg(test)]
mod tests;
