//! Trees: three that are fixed, and families of random ones.

use anyhow::Result;
use rand_distr::{Distribution, StandardNormal};
use rto::audit::{Problem, ResponseTree};
use rto::seed::SeedTree;

/// A problem with the logits at which it is looked at.
pub struct Instance {
    /// The name of the tree.
    pub name: String,
    /// The tree with its rewards and reference.
    pub problem: Problem,
    /// θ, the logits of the policy, `[S·A]`.
    pub theta: Vec<f64>,
    /// θ_old, those of the policy that drew stale responses.
    pub old: Vec<f64>,
    /// β of what is meant.
    pub beta: f64,
}

/// β₁ of the fixed trees, and the cut of the released token reward on every tree.
const FIXED_BETA1: f64 = 0.45;
const CUT: f64 = 0.15;

/// The three trees of `paper-notes/estimators.md`, by formula.
///
/// # Errors
/// β out of range.
pub fn fixed(beta: f64) -> Result<Vec<Instance>> {
    let trees = [
        ("A2H2", ResponseTree::try_new(2, 2, None, &[1.0])?),
        ("A3H2eos2", ResponseTree::try_new(3, 2, Some(2), &[1.0])?),
        (
            "A2H3eos1x2",
            ResponseTree::try_new(2, 3, Some(1), &[0.7, 0.3])?,
        ),
    ];
    let of = |(name, tree)| by_formula(name, tree, beta);
    trees.into_iter().map(of).collect()
}

/// The first prompt of the third.
///
/// # Errors
/// β out of range.
pub fn one_prompt(beta: f64) -> Result<Instance> {
    by_formula(
        "A2H3eos1",
        ResponseTree::try_new(2, 3, Some(1), &[1.0])?,
        beta,
    )
}

fn by_formula(name: &str, tree: ResponseTree, beta: f64) -> Result<Instance> {
    let table =
        |f: &dyn Fn(f64) -> f64| -> Vec<f64> { (0..tree.n_pairs()).map(|k| f(k as f64)).collect() };
    let theta = table(&|k| 0.8 * (1.3 * k + 0.5).sin());
    let old = table(&|k| 0.8 * (1.3 * k + 0.5).sin() + 0.25 * (2.1 * k).cos());
    let reward = table(&|k| 0.8 * (1.7 * k + 0.3).sin());
    let reference = table(&|k| 0.4 * (0.9 * k + 0.2).cos());
    let dpo = table(&|k| 0.9 * (0.7 * k + 1.1).sin());
    let problem = Problem::try_new(tree, &reward, &reference)?;
    Ok(Instance {
        name: name.into(),
        problem: problem.with_dpo(&dpo, FIXED_BETA1, CUT)?,
        theta,
        old,
        beta,
    })
}

/// Sizes of random trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A = 2, H = 3 and A = 3, H = 2 in turn, both with an end-of-sentence token.
    Small,
    /// A = 2, H = 3 with an end-of-sentence token and A = 2, H = 4 without, in turn.
    Long,
    /// A = 4, H = 2 with an end-of-sentence token.
    FourTokens,
    /// A = 2, H = 4 with an end-of-sentence token.
    FourSteps,
    /// Two prompts, A = 2, H = 3 with an end-of-sentence token.
    TwoPrompts,
}

impl Family {
    /// The families that parts (b) and (c) run on, the first with more trees.
    pub const JUDGED: [Self; 4] = [
        Self::Small,
        Self::FourTokens,
        Self::FourSteps,
        Self::TwoPrompts,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Long => "long",
            Self::FourTokens => "A4",
            Self::FourSteps => "H4",
            Self::TwoPrompts => "two_prompts",
        }
    }

    /// What it is, in words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Small => "A = 2, H = 3 and A = 3, H = 2, each with an end token",
            Self::Long => "A = 2, H = 3 with an end token, and A = 2, H = 4",
            Self::FourTokens => "A = 4, H = 2, with an end token",
            Self::FourSteps => "A = 2, H = 4, with an end token",
            Self::TwoPrompts => "two prompts, A = 2, H = 3, with an end token",
        }
    }

    fn tree(self, k: u64) -> rto::Result<ResponseTree> {
        match (self, k % 2) {
            (Self::Small | Self::Long, 1) => ResponseTree::try_new(2, 3, Some(1), &[1.0]),
            (Self::Small, _) => ResponseTree::try_new(3, 2, Some(2), &[1.0]),
            (Self::Long, _) => ResponseTree::try_new(2, 4, None, &[1.0]),
            (Self::FourTokens, _) => ResponseTree::try_new(4, 2, Some(3), &[1.0]),
            (Self::FourSteps, _) => ResponseTree::try_new(2, 4, Some(1), &[1.0]),
            (Self::TwoPrompts, _) => ResponseTree::try_new(2, 3, Some(1), &[0.7, 0.3]),
        }
    }

    /// Tree k: standard normals for r, half of them for the logits of π_ref, then those of π_dpo, θ, and 0.3 of them for the distance of the
    /// behaviour.
    ///
    /// # Errors
    /// β out of range.
    pub fn draw(self, k: u64, beta: f64, seeds: &SeedTree) -> Result<Instance> {
        let tree = self.tree(k)?;
        let mut rng = seeds.child(self.name()).index(k).rng();
        let mut normals = |scale: f64| -> Vec<f64> {
            let draw = |_| {
                let z: f64 = StandardNormal.sample(&mut rng);
                scale * z
            };
            (0..tree.n_pairs()).map(draw).collect()
        };
        let (reward, reference, dpo) = (normals(1.0), normals(0.5), normals(1.0));
        let (theta, away) = (normals(1.0), normals(0.3));
        let problem = Problem::try_new(tree, &reward, &reference)?;
        Ok(Instance {
            name: format!("{}-{k}", self.name()),
            problem: problem.with_dpo(&dpo, beta, CUT)?,
            old: theta.iter().zip(away).map(|(t, a)| t + a).collect(),
            theta,
            beta,
        })
    }
}
