//! Random token trees with every reward that Algorithm 2 and its baselines may learn from.

use std::sync::Arc;

use anyhow::Result;
use ndarray::Array2;
use rand_distr::{Distribution, StandardNormal};
use rto::algorithm2::{DpoConfig, OnStep, Pair};
use rto::estimate::sample_preferences;
use rto::mdp::{Beta, TabularPolicy, TokenTree};
use rto::policy::{Regressor, StateMap, Table, TabularSoftmax};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::token_reward::DpoReward;

use super::{fit_dpo, fit_reward_model, read_pairs};

/// Sizes of an instance and of its data set.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// A, tokens of the vocabulary.
    pub actions: usize,
    /// H, tokens of a response.
    pub horizon: usize,
    /// |D|, pairs of responses.
    pub pairs: usize,
}

/// How an instance is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// P, the number of prompts, all alike in probability.
    pub prompts: usize,
    /// Standard deviation of r(s, a).
    pub reward_scale: f64,
    /// Standard deviation of the logits of π_ref.
    pub reference_scale: f64,
}

/// An instance: the truth, π_ref, and what was learnt from preferences before PPO starts.
pub struct Setup {
    /// The tree as a table.
    pub map: Arc<StateMap>,
    /// r, unknown to every method.
    pub reward: TabularReward,
    /// π_ref.
    pub reference: TabularPolicy,
    /// π_ref as a member of the seam.
    pub start: TabularSoftmax,
    /// π_dpo of line 2 of Algorithm 2.
    pub dpo: TabularSoftmax,
    /// r_φ of (2.2), fitted to the same pairs.
    pub reward_model: Regressor<Table>,
    /// β of DPO, and β₁.
    pub beta1: Beta,
}

impl Setup {
    /// Draws r and π_ref, then the data set, then fits π_dpo and r_φ.
    ///
    /// r(s, a) is Gaussian, π_ref a softmax of Gaussian logits; both responses of a pair are drawn from π_ref.
    ///
    /// # Errors
    /// Sizes or scales out of range; those of the fits.
    pub fn new(draw: Draw, dpo: &DpoConfig, size: Size, seeds: &SeedTree) -> Result<Self> {
        let tree = TokenTree::try_new(draw.prompts, size.actions, size.horizon, None)?;
        let initial = vec![1.0 / draw.prompts as f64; draw.prompts];
        let map = StateMap::tree(&tree, &initial)?;
        let shape = (map.mdp().n_states(), map.mdp().n_actions());
        let reward = normal(shape, draw.reward_scale, &seeds.child("reward"));
        let logits = normal(shape, draw.reference_scale, &seeds.child("reference"));
        let reference = TabularPolicy::from_logits(logits)?;
        let reward = TabularReward::try_new(reward)?;
        let start = TabularSoftmax::from_policy(map.clone(), &reference)?;
        let pairs = draw_pairs(&map, &reward, &reference, size.pairs, seeds)?;
        let (loss, node) = (dpo.loss, seeds.child("fit"));
        let quietly: OnStep<'_> = &mut |_| Ok(());
        Ok(Self {
            dpo: fit_dpo(&start, &pairs, (loss.loss(), dpo), &node, quietly)?,
            reward_model: fit_reward_model(&map, &pairs, dpo, &node, quietly)?,
            map,
            reward,
            reference,
            start,
            beta1: Beta::try_new(dpo.beta)?,
        })
    }

    /// The token reward (4.5).
    ///
    /// # Errors
    /// None, since β₁ > 0.
    pub fn dpo_reward(&self) -> Result<DpoReward<&TabularSoftmax, &TabularSoftmax>> {
        Ok(DpoReward::try_new(
            &self.dpo,
            &self.start,
            self.beta1.get(),
        )?)
    }
}

fn normal(shape: (usize, usize), scale: f64, seeds: &SeedTree) -> Array2<f64> {
    let mut rng = seeds.rng();
    Array2::from_shape_fn(shape, |_| {
        let z: f64 = StandardNormal.sample(&mut rng);
        scale * z
    })
}

/// n pairs of replies of π_ref, compared by r; the first are the same for every n.
///
/// # Errors
/// A table that does not fit.
pub fn draw_pairs(
    map: &Arc<StateMap>,
    reward: &TabularReward,
    reference: &TabularPolicy,
    n: usize,
    seeds: &SeedTree,
) -> Result<Vec<Pair>> {
    let behaviours = (reference, reference);
    let drawn = sample_preferences(map.mdp(), reward, behaviours, n, &seeds.child("pairs"))?;
    Ok(read_pairs(map, &drawn))
}
