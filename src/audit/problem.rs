//! A tree with its rewards, its reference and the objective that is meant.

use super::recipe::{Recipe, Reward};
use super::tables::{self, log_softmax};
use super::tree::ResponseTree;
use crate::check;
use crate::{Error, Result};

/// What an audit is about: r, π_ref and π_dpo on a tree. Tables are `[S·A]`, row by row.
#[derive(Debug, Clone)]
pub struct Problem {
    tree: ResponseTree,
    reward: Vec<f64>,
    reference: Vec<f64>,
    dpo: Option<Dpo>,
}

/// (4.5): π_dpo, β₁ and the clip of the authors' later code.
#[derive(Debug, Clone)]
struct Dpo {
    log_prob: Vec<f64>,
    beta1: f64,
    clip: f64,
}

impl Problem {
    /// Token rewards r(s, a) and logits of π_ref.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`].
    pub fn try_new(tree: ResponseTree, reward: &[f64], ref_logits: &[f64]) -> Result<Self> {
        check(&tree, "r", reward)?;
        check(&tree, "ref_logits", ref_logits)?;
        let reference = log_softmax(ref_logits, tree.n_actions());
        Ok(Self {
            tree,
            reward: reward.to_vec(),
            reference,
            dpo: None,
        })
    }

    /// Adds π_dpo by its logits, β₁ and the cut ±c of the released token reward, which [`Reward::Dpo`] and its kin need.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`]; [`Error::Config`] of β₁ or c.
    pub fn with_dpo(mut self, logits: &[f64], beta1: f64, clip: f64) -> Result<Self> {
        check(&self.tree, "dpo_logits", logits)?;
        for (field, value) in [("beta1", beta1), ("dpo_clip", clip)] {
            check::positive(field, value)?;
        }
        self.dpo = Some(Dpo {
            log_prob: log_softmax(logits, self.tree.n_actions()),
            beta1,
            clip,
        });
        Ok(self)
    }

    /// The tree.
    pub fn tree(&self) -> &ResponseTree {
        &self.tree
    }

    /// r(s, a).
    pub fn reward(&self) -> &[f64] {
        &self.reward
    }

    /// log π_ref.
    pub fn reference(&self) -> &[f64] {
        &self.reference
    }

    /// log π_dpo.
    pub fn dpo(&self) -> Option<&[f64]> {
        self.dpo.as_ref().map(|d| &d.log_prob[..])
    }

    /// The reward that a recipe pays per token, without its KL term.
    ///
    /// # Errors
    /// [`Error::Config`] when the recipe asks for π_dpo and there is none.
    pub fn paid(&self, reward: Reward) -> Result<Vec<f64>> {
        Ok(match reward {
            Reward::Zero => vec![0.0; self.tree.n_pairs()],
            Reward::Token => self.reward.clone(),
            Reward::Sentence => self.at_end(&self.reward),
            Reward::Dpo => self.log_ratio()?,
            Reward::DpoAtEnd => self.at_end(&self.log_ratio()?),
            Reward::Released => {
                let (c, dense) = (self.need_dpo()?.clip, self.log_ratio()?);
                let sentence = self.at_end(&self.reward);
                let both = dense.iter().zip(&sentence);
                both.map(|(d, s)| d.clamp(-c, c) + s.clamp(-10.0, 10.0))
                    .collect()
            }
        })
    }

    /// The reward that is meant: unclipped and unnormalised.
    ///
    /// # Errors
    /// Those of [`Problem::paid`].
    pub fn meant(&self, reward: Reward) -> Result<Vec<f64>> {
        Ok(match reward {
            Reward::Sentence => self.reward.clone(),
            Reward::DpoAtEnd => self.log_ratio()?,
            Reward::Released => {
                let both = self.log_ratio()?.into_iter().zip(&self.reward);
                both.map(|(d, r)| d + r).collect()
            }
            Reward::Zero | Reward::Token | Reward::Dpo => self.paid(reward)?,
        })
    }

    /// β₁ log(π_dpo/π_ref).
    fn log_ratio(&self) -> Result<Vec<f64>> {
        let dpo = self.need_dpo()?;
        let both = dpo.log_prob.iter().zip(&self.reference);
        Ok(both.map(|(p, q)| dpo.beta1 * (p - q)).collect())
    }

    fn need_dpo(&self) -> Result<&Dpo> {
        self.dpo.as_ref().ok_or_else(|| {
            let must = "a problem with dpo_logits, beta1 and dpo_clip";
            Error::config("reward", "one of pi_dpo", must)
        })
    }

    /// The same sums, paid at the last token.
    fn at_end(&self, table: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; table.len()];
        for y in 0..self.tree.n_responses() {
            let pairs = self.tree.response(y);
            let sum = pairs.iter().map(|p| table[*p as usize]).sum();
            out[pairs[pairs.len() - 1] as usize] = sum;
        }
        out
    }

    /// J(π) = Σ_p w_p E[Σ_h r] − β KL_seq(π ‖ π_ref) of what a recipe means, at logits.
    ///
    /// # Errors
    /// Those of [`Problem::paid`]; [`Error::Shape`].
    pub fn objective(&self, recipe: &Recipe, logits: &[f64]) -> Result<f64> {
        check(&self.tree, "theta", logits)?;
        let lp = log_softmax(logits, self.tree.n_actions());
        let reward = self.meant(recipe.reward)?;
        Ok(tables::objective(self, &lp, &reward, recipe.judged_beta()))
    }

    /// J* = Σ_p w_p β log E_ref e^{R/β}; the largest return at β = 0.
    ///
    /// # Errors
    /// Those of [`Problem::paid`].
    pub fn optimum(&self, recipe: &Recipe) -> Result<f64> {
        let reward = self.meant(recipe.reward)?;
        Ok(tables::optimum(self, &reward, recipe.judged_beta()))
    }

    /// SubOpt = J* − J(π), at logits.
    ///
    /// # Errors
    /// Those of [`Problem::objective`].
    pub fn suboptimality(&self, recipe: &Recipe, logits: &[f64]) -> Result<f64> {
        Ok(self.optimum(recipe)? - self.objective(recipe, logits)?)
    }

    /// ∇J of what a recipe means, `[S·A]`.
    ///
    /// # Errors
    /// Those of [`Problem::objective`].
    pub fn target(&self, recipe: &Recipe, logits: &[f64]) -> Result<Vec<f64>> {
        check(&self.tree, "theta", logits)?;
        let reward = self.meant(recipe.reward)?;
        Ok(tables::objective_gradient(
            self,
            logits,
            &reward,
            recipe.judged_beta(),
        ))
    }
}

/// Refuses a table of another shape or with numbers that are none.
pub(super) fn check(tree: &ResponseTree, what: &str, table: &[f64]) -> Result<()> {
    if table.len() != tree.n_pairs() {
        return Err(Error::Shape {
            what: what.into(),
            expected: tree.n_pairs(),
            got: table.len(),
        });
    }
    match table.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(k) => Err(Error::NonFinite {
            what: format!(
                "{what} of state {}, action {}",
                k / tree.n_actions(),
                k % tree.n_actions()
            ),
            value: table[k],
        }),
    }
}
