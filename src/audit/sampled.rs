//! Beyond enumeration: E\[g\] from sampled units, with intervals.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::field::{Sums, Unit, check_at, kept};
use super::jacobian::norm;
use super::prepared::Prepared;
use super::problem::Problem;
use super::recipe::Recipe;
use crate::seed::SeedTree;
use crate::{Error, Result};

/// An estimate with the half-width of its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Half of the interval's width.
    pub half: f64,
}

/// How many units are drawn: batches of units, whose means the intervals are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// K ≥ 3 batches.
    pub batches: usize,
    /// Units of a batch, ≥ 1.
    pub units: usize,
}

/// E\[g\] beside ∇J from sampled units: for groups too large to enumerate. The responses still have to be.
///
/// Coordinates have t intervals over batch means. Norms and angles have a jackknife over batches, with |mean|² corrected for the tr Cov/K that
/// sampling adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// E\[g\], `[S·A]`.
    pub field: Vec<Estimate>,
    /// ∇J, exact.
    pub target: Vec<f64>,
    /// |E g|/|∇J|.
    pub norm_ratio: Estimate,
    /// cos(E g, ∇J).
    pub cosine: Estimate,
    /// |cE g − ∇J|²/|∇J|² under the best scale c. An interval that covers 0 says that the bias is below resolution.
    pub bias2: Estimate,
    /// tr Cov of a unit.
    pub trace_unit: f64,
}

/// Units that are drawn again before a law without groups of several scores is given up on.
const MOST_REJECTED: usize = 100_000;

impl Sampled {
    /// At logits θ, with responses drawn from the policy of `old`, or from θ itself.
    ///
    /// # Errors
    /// [`Error::Config`] of the recipe or the number of draws; [`Error::Shape`]; [`Error::NonFinite`]; groups that never differ.
    pub fn at(
        problem: &Problem,
        recipe: &Recipe,
        theta: &[f64],
        old: Option<&[f64]>,
        draws: Draws,
        seeds: &SeedTree,
    ) -> Result<Self> {
        check_at(problem, recipe, theta, old)?;
        for (field, n, least) in [("batches", draws.batches, 3), ("units", draws.units, 1)] {
            if n < least {
                return Err(Error::config(field, n, format!("at least {least}")));
            }
        }
        let prepared = Prepared::new(problem, recipe, theta, old)?;
        let law = Law::new(&prepared);
        let batch = |k: usize| law.batch(&prepared, draws.units, &mut seeds.index(k as u64).rng());
        let means = (0..draws.batches).map(batch).collect::<Result<Vec<_>>>()?;
        let target = problem.target(recipe, theta)?;
        Ok(Self::of(&means, target, draws))
    }

    fn of(means: &[Vec<f64>], target: Vec<f64>, draws: Draws) -> Self {
        let k = means.len() as f64;
        let quantile = StudentsT::new(0.0, 1.0, k - 1.0).map_or(f64::NAN, |t| t.inverse_cdf(0.975));
        let whole = Parts::new(means, None, &target);
        let without: Vec<Parts> = (0..means.len())
            .map(|i| Parts::new(means, Some(i), &target))
            .collect();
        let jackknife = |f: &dyn Fn(&Parts) -> f64| {
            let leave: Vec<f64> = without.iter().map(f).collect();
            let centre = leave.iter().sum::<f64>() / k;
            let square: f64 = leave.iter().map(|x| (x - centre).powi(2)).sum();
            Estimate {
                value: f(&whole),
                half: quantile * (square * (k - 1.0) / k).sqrt(),
            }
        };
        let field = (0..target.len()).map(|j| {
            let square: f64 = means.iter().map(|m| (m[j] - whole.mean[j]).powi(2)).sum();
            Estimate {
                value: whole.mean[j],
                half: quantile * (square / (k - 1.0) / k).sqrt(),
            }
        });
        Self {
            field: field.collect(),
            norm_ratio: jackknife(&|p| p.square.max(0.0).sqrt() / p.goal),
            cosine: jackknife(&|p| p.dot / (p.square.max(0.0).sqrt() * p.goal)),
            bias2: jackknife(&|p| {
                // c E g − ∇J has the squared length |∇J|² (|E g|² |∇J|²/(E g · ∇J)² − 1).
                p.square * p.goal * p.goal / (p.dot * p.dot) - 1.0
            }),
            trace_unit: whole.spread * draws.units as f64,
            target,
        }
    }
}

/// What norms and angles are made of, from all batches or all but one.
struct Parts {
    mean: Vec<f64>,
    /// tr Cov of a batch mean.
    spread: f64,
    /// |E g|², corrected.
    square: f64,
    /// E g · ∇J, and |∇J|.
    dot: f64,
    goal: f64,
}

impl Parts {
    fn new(means: &[Vec<f64>], without: Option<usize>, target: &[f64]) -> Self {
        let used: Vec<&Vec<f64>> = means
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != without)
            .map(|(_, m)| m)
            .collect();
        let k = used.len() as f64;
        let mean: Vec<f64> = (0..target.len())
            .map(|j| used.iter().map(|m| m[j]).sum::<f64>() / k)
            .collect();
        let off = |m: &&Vec<f64>| {
            m.iter()
                .zip(&mean)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f64>()
        };
        let spread = used.iter().map(off).sum::<f64>() / (k - 1.0);
        Self {
            square: norm(&mean).powi(2) - spread / k,
            dot: mean.iter().zip(target).map(|(a, b)| a * b).sum(),
            goal: norm(target),
            spread,
            mean,
        }
    }
}

/// Cumulative probabilities of responses, prompt after prompt.
struct Law {
    below: Vec<f64>,
}

impl Law {
    fn new(p: &Prepared<'_, f64>) -> Self {
        let mut below = p.prob.clone();
        // Those of independent prompts hold the prompt's weight already.
        if p.recipe.responses > 1 {
            for (prompt, w) in p.tree.prompt_weights().iter().enumerate() {
                p.tree.responses_of(prompt).for_each(|y| below[y] *= w);
            }
        }
        let mut sum = 0.0;
        for v in &mut below {
            sum += *v;
            *v = sum;
        }
        Self { below }
    }

    /// A response among some whose probabilities lie in a row.
    fn draw(&self, among: std::ops::Range<usize>, rng: &mut ChaCha8Rng) -> usize {
        let start = if among.start == 0 {
            0.0
        } else {
            self.below[among.start - 1]
        };
        let end = self.below[among.end - 1];
        let u = start + rng.random::<f64>() * (end - start);
        let at = self.below[among.clone()].partition_point(|b| *b <= u);
        among.start + at.min(among.len() - 1)
    }

    fn unit(&self, p: &Prepared<'_, f64>, unit: &mut Vec<usize>, rng: &mut ChaCha8Rng) {
        let all = 0..p.tree.n_responses();
        unit.clear();
        let first = self.draw(all.clone(), rng);
        unit.push(first);
        let among = match p.recipe.responses {
            1 => all,
            _ => p.tree.responses_of(p.tree.prompt_of(first)),
        };
        for _ in 1..p.recipe.unit() {
            unit.push(self.draw(among.clone(), rng));
        }
    }

    /// The mean of −∂ℒ/∂θ over some units.
    fn batch(&self, p: &Prepared<'_, f64>, units: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f64>> {
        let (mut sums, mut now) = (Sums::new(p), Unit::new());
        let (mut unit, mut scratch) = (Vec::new(), Vec::new());
        for _ in 0..units {
            let mut tries = 0;
            loop {
                self.unit(p, &mut unit, rng);
                if kept(p, &unit, &mut scratch) {
                    break;
                }
                tries += 1;
                if tries == MOST_REJECTED {
                    let must = "false where the responses to a prompt nearly all have one score";
                    return Err(Error::config("drop_equal_groups", true, must));
                }
            }
            now.fill(p, &unit);
            sums.add(p, &unit, &now, 1.0 / units as f64);
        }
        Ok(sums.assemble(p))
    }
}

#[cfg(test)]
mod tests;
