//! Several prompts: independent copies of the problem, weighted, with what couples them.

use super::evaluation::{Evaluation, evaluate};
use super::kto::kto_shared_fixed_point;
use super::method::{Method, Outcome, PreferenceProblem, Solved, SupervisedBase};
use super::pairs::PairTable;
use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::{Error, Result};

/// One prompt with its comparisons.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// ρ(x).
    pub weight: f64,
    /// The share of all pairs that are of this prompt: ρ(x) for a population.
    pub share: f64,
    /// What can be answered.
    pub responses: Responses,
    /// The pairs of this prompt, weighted by their mean within it.
    pub pairs: PairTable,
}

/// (3.2): A law of prompts, each with responses and comparisons of its own.
///
/// The likelihood is a sum over prompts, so every method decouples, with two exceptions that are kept: a penalty that is a mean
/// over prompts weighs ρ(x) against the share of the pairs that x has, and KTO's reference point is a mean over prompts.
#[derive(Debug, Clone)]
pub struct PromptSet(Vec<Prompt>);

/// Means over prompts; the largest ratio is over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Average {
    /// E R.
    pub reward: f64,
    /// E KL(π‖π_ref), in nats.
    pub kl: f64,
    /// E R − β KL.
    pub value: f64,
    /// V* − V.
    pub subopt: f64,
    /// E (max R − E_π R).
    pub plain_regret: f64,
    /// E (Σ π²/π_ref − 1).
    pub chi2: f64,
    /// max π/π_ref.
    pub max_ratio: f64,
}

/// What came of a method on several prompts.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptOutcome {
    /// A policy for each prompt, and its means.
    Solved(Average, Vec<Solved>),
    /// The first prompt without a minimiser, and why.
    NoMinimiser(usize, String),
}

impl PromptSet {
    /// A set of prompts.
    ///
    /// # Errors
    /// [`Error::Config`] naming the prompt whose weight or share is no positive number; [`Error::NotADistribution`] unless both
    /// sum to 1; [`Error::Shape`].
    pub fn try_new(prompts: Vec<Prompt>) -> Result<Self> {
        for (x, prompt) in prompts.iter().enumerate() {
            for (what, value) in [("weight", prompt.weight), ("share", prompt.share)] {
                if !(value > 0.0 && value.is_finite()) {
                    let field = format!("prompts[{x}].{what}");
                    return Err(Error::config(field, value, "a positive number"));
                }
            }
            check::len("pairs", prompt.responses.len(), prompt.pairs.n_responses())?;
        }
        let sums = [
            (
                "prompts.weight",
                prompts.iter().map(|p| p.weight).sum::<f64>(),
            ),
            (
                "prompts.share",
                prompts.iter().map(|p| p.share).sum::<f64>(),
            ),
        ];
        for (what, sum) in sums {
            if (sum - 1.0).abs() > 1e-9 {
                return Err(Error::NotADistribution {
                    what: what.into(),
                    sum,
                });
            }
        }
        Ok(Self(prompts))
    }

    /// The prompts.
    pub fn prompts(&self) -> &[Prompt] {
        &self.0
    }

    /// The fit of each prompt, which all methods share.
    ///
    /// # Errors
    /// Those of [`PreferenceProblem::try_new`].
    pub fn problems(&self, beta: Beta) -> Result<Vec<PreferenceProblem<'_>>> {
        let mut all = Vec::with_capacity(self.0.len());
        for prompt in &self.0 {
            let (responses, pairs) = (&prompt.responses, &prompt.pairs);
            all.push(PreferenceProblem::try_new(responses, pairs, beta)?);
        }
        Ok(all)
    }

    /// The policies of a method; `problems` are those of [`PromptSet::problems`].
    ///
    /// # Errors
    /// Those of [`PreferenceProblem::solve`], and [`Error::Shape`].
    pub fn solve(
        &self,
        problems: &[PreferenceProblem<'_>],
        method: &Method,
        beta: Beta,
    ) -> Result<PromptOutcome> {
        check::len("problems", self.0.len(), problems.len())?;
        let mut solved = Vec::with_capacity(self.0.len());
        if let Method::Kto = method {
            let nets: Vec<Vec<f64>> = self.0.iter().map(|p| p.pairs.net()).collect();
            let parts: Vec<(f64, &Responses, &[f64])> = self
                .0
                .iter()
                .zip(&nets)
                .map(|(p, net)| (p.weight, &p.responses, net.as_slice()))
                .collect();
            let (plans, roots) = kto_shared_fixed_point(&parts, beta)?;
            for (plan, prompt) in plans.into_iter().zip(&self.0) {
                solved.push(Solved {
                    evaluation: evaluate(&prompt.responses, beta, &plan.log_policy)?,
                    certificates: vec![
                        ("z0", plan.reference_point),
                        ("roots", roots.len() as f64),
                        ("slope_spread", plan.slope_spread),
                    ],
                    log_policy: plan.log_policy,
                });
            }
        } else {
            for (x, (prompt, problem)) in self.0.iter().zip(problems).enumerate() {
                let relative = prompt.weight / prompt.share;
                match problem.solve(&scaled(method, relative))? {
                    Outcome::Solved(one) => solved.push(*one),
                    Outcome::NoMinimiser(why) => return Ok(PromptOutcome::NoMinimiser(x, why)),
                }
            }
        }
        let average = self.average(solved.iter().map(|s| &s.evaluation));
        Ok(PromptOutcome::Solved(average, solved))
    }

    /// Means over prompts of what each is judged by.
    pub fn average<'a>(&self, each: impl Iterator<Item = &'a Evaluation>) -> Average {
        let mut out = Average::default();
        for (prompt, e) in self.0.iter().zip(each) {
            let w = prompt.weight;
            out.reward += w * e.reward;
            out.kl += w * e.kl;
            out.value += w * e.value;
            out.subopt += w * e.subopt;
            out.plain_regret += w * e.plain_regret;
            out.chi2 += w * e.chi2;
            out.max_ratio = out.max_ratio.max(e.max_ratio);
        }
        out
    }
}

/// The method with the weight of its penalty times `relative`: the penalty is a mean over ρ, the likelihood one over pairs.
fn scaled(method: &Method, relative: f64) -> Method {
    match *method {
        Method::Rpo {
            eta,
            base: SupervisedBase::Reference,
        } => Method::Rpo {
            eta: eta * relative,
            base: SupervisedBase::Reference,
        },
        Method::Xpo { alpha } => Method::Xpo {
            alpha: alpha * relative,
        },
        Method::HyPo { lambda } => Method::HyPo {
            lambda: lambda * relative,
        },
        other => other,
    }
}
