//! An instance with what is computed once, and what the library's planners say of it.

use crate::instance::{Features, Instance};
use crate::notes::Notes;
use crate::report::Rows;
use crate::world::World;
use anyhow::{Context, Result};
use ndarray::Array2;
use rto::features::DenseFeatures;
use rto::mdp::{Reachable, StateIx, TabularPolicy};
use rto::plan::{PREDETERMINED_LIMIT, Truth, best_predetermined};
use rto::reward::TabularReward;

/// V at s₁ of each prompt; 0 where the episode is over before it starts.
pub fn roots(world: &World, v: &[f64]) -> Vec<f64> {
    let value = |s: &Option<StateIx>| s.map_or(0.0, |s| v[s.ix()]);
    world.roots.iter().map(value).collect()
}

/// One row for each prompt, of its s₁.
pub fn root_rows(world: &World, row: impl Fn(StateIx) -> Vec<f64>) -> Rows {
    world.roots.iter().map(|s| s.map(&row)).collect()
}

/// The instance, with what is computed once.
pub struct Solver<'a> {
    pub instance: &'a Instance,
    pub truth: Option<Truth<'a, TabularReward>>,
    /// φ over the states of the table.
    pub features: Option<DenseFeatures>,
    /// What an episode can meet, and what the preferences show.
    pub met: Reachable,
}

/// The optimum of the true reward as it is reported; null where that is unknown.
#[derive(Default)]
pub struct Known {
    pub soft_value: Option<Vec<f64>>,
    pub soft_value_mean: Option<f64>,
    pub root_policy: Option<Rows>,
    pub feature_expectation: Option<Vec<f64>>,
}

impl<'a> Solver<'a> {
    pub fn new(instance: &'a Instance) -> Result<Self> {
        let world = &instance.world;
        let truth = match &instance.reward {
            None => None,
            Some(table) => {
                let reward = TabularReward::try_new(met_rewards(instance, table)?)?;
                let theta = instance.theta_star.clone();
                Some(Truth::new(instance.problem(), reward, theta).context("reward")?)
            }
        };
        let over = |f: &Features| f.over(&world.origin, world.n_actions());
        Ok(Self {
            features: instance.features.as_ref().map(over).transpose()?,
            met: instance.met()?,
            instance,
            truth,
        })
    }

    pub fn known(&self) -> Result<Known> {
        let world = &self.instance.world;
        let Some(t) = &self.truth else {
            return Ok(Known::default());
        };
        let features = self.features.as_ref();
        Ok(Known {
            soft_value: Some(roots(world, &t.star.v)),
            soft_value_mean: Some(t.star.mean_value(&world.mdp)),
            root_policy: Some(root_rows(world, |s| t.star.policy.probs(s))),
            feature_expectation: features.map(|f| t.visits.features(f)).transpose()?,
        })
    }

    /// What is said of the policy that the instance gives, if it gives one.
    pub fn given_policy<T>(
        &self,
        what: impl Fn(&Self, &TabularPolicy) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        match &self.instance.policy {
            None => Ok(None),
            Some(policy) => what(self, policy),
        }
    }

    /// V^π_β(s₁) for each prompt.
    pub fn root_values(&self, policy: &TabularPolicy) -> Result<Option<Vec<f64>>> {
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let v = truth.values(policy)?;
        Ok(Some(roots(&self.instance.world, &v)))
    }

    /// SubOpt(π) for the true reward at β.
    pub fn gap(&self, policy: &TabularPolicy) -> Result<Option<f64>> {
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        Ok(Some(truth.suboptimality(policy)?))
    }

    pub fn predetermined(&self, notes: &mut Notes) -> Result<Option<f64>> {
        let mdp = &self.instance.world.mdp;
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let key = "predetermined_value";
        let sequences = (mdp.n_actions() as f64).powi(mdp.horizon() as i32);
        if sequences > PREDETERMINED_LIMIT as f64 {
            notes.say(
                key,
                format!("not computed: A^H is above the {PREDETERMINED_LIMIT} responses that are gone through"),
            );
            return Ok(None);
        }
        let best = best_predetermined(mdp, &truth.reward, &self.instance.reference)?;
        let why =
            "no fixed response keeps to the support of the reference in every state it may lead to";
        Ok(notes.finite(key, best.value, why))
    }
}

/// The reward over the states of the table. Sums φᵀθ beyond floating point count only where an episode from
/// some prompt can meet them.
fn met_rewards(instance: &Instance, table: &Array2<f64>) -> Result<Array2<f64>> {
    let world = &instance.world;
    let mut lifted = world.lift(table);
    if lifted.iter().any(|r| !r.is_finite()) {
        let starts = world.roots.iter().flatten().copied();
        let met = Reachable::from_states(&world.mdp, &instance.reference, starts)?;
        for ((s, a), r) in lifted.indexed_iter_mut() {
            let at = (StateIx(s as u32), rto::mdp::ActionIx(a as u32));
            if !r.is_finite() && !met.pair(at.0, at.1) {
                *r = 0.0;
            }
        }
    }
    Ok(lifted)
}
