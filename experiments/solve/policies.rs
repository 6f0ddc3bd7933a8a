//! Policies of the file: π_ref, the policy to judge, and the one that the data come from.

use crate::arrays::{self, Allowed, Array, Axis};
use crate::json::Fields;
use crate::world::{World, check_probabilities};
use anyhow::{Result, bail};
use ndarray::Array2;
use rto::mdp::{ActionIx, Reachable, TabularPolicy};
use std::path::Path;

/// log π over the user's states from probabilities or logits.
fn log_probs(array: &Array, name: &str, logits: bool, world: &World) -> Result<Array2<f64>> {
    let actions = world.n_actions();
    let mut table = Array2::from_elem((world.n_states(), actions), -(actions as f64).ln());
    for (s, row) in array.values.chunks_exact(actions).enumerate() {
        if world.idle[s] {
            continue;
        }
        let place = world.row_place(name, s);
        let norm = if logits {
            rto::numerics::log_sum_exp(row)
        } else {
            check_probabilities(&place, row, |a| format!("{place}[{a}]"))?;
            0.0
        };
        if !norm.is_finite() {
            bail!("{place}: no action has a finite logit");
        }
        for (a, x) in row.iter().enumerate() {
            table[[s, a]] = if logits { x - norm } else { x.ln() };
        }
    }
    Ok(table)
}

pub fn lifted(world: &World, table: &Array2<f64>) -> Result<TabularPolicy> {
    Ok(TabularPolicy::from_log_probs(world.lift(table))?)
}

/// π_ref as it was given.
pub struct RawReference {
    array: Array,
    name: &'static str,
    is_logits: bool,
}

impl RawReference {
    /// log π_ref over the user's states.
    pub fn table(&self, world: &World) -> Result<Array2<f64>> {
        log_probs(&self.array, self.name, self.is_logits, world)
    }

    /// Takes `reference` or `reference_logits`.
    pub fn take(fields: &mut Fields, axes: &[Axis], dir: &Path) -> Result<Self> {
        let (probs, logits) = (fields.take("reference"), fields.take("reference_logits"));
        let (json, name, is_logits) = match (probs, logits) {
            (Some(json), None) => (json, "reference", false),
            (None, Some(json)) => (json, "reference_logits", true),
            (None, None) => bail!("reference: missing, give reference or reference_logits"),
            (Some(_), Some(_)) => {
                bail!("reference_logits: give reference or reference_logits, not both")
            }
        };
        let allowed = if is_logits {
            Allowed::MinusInfinity
        } else {
            Allowed::Finite
        };
        Ok(Self {
            array: arrays::read(&json, name, axes, allowed, dir)?,
            name,
            is_logits,
        })
    }
}

pub fn policy(
    fields: &mut Fields,
    world: &World,
    reference: &TabularPolicy,
    dir: &Path,
) -> Result<Option<TabularPolicy>> {
    let name = "policy_logits";
    let Some(json) = fields.take(name) else {
        return Ok(None);
    };
    let array = arrays::read(&json, name, &world.axes(), Allowed::MinusInfinity, dir)?;
    let policy = lifted(world, &log_probs(&array, name, true, world)?)?;
    let met = Reachable::new(&world.mdp, reference)?;
    for s in met.states() {
        let actions = (0..world.n_actions() as u32).map(ActionIx);
        let outside = |a: &ActionIx| {
            reference.log_prob(s, *a) == f64::NEG_INFINITY
                && policy.log_prob(s, *a) > f64::NEG_INFINITY
        };
        if let Some(a) = actions.into_iter().find(outside) {
            bail!(
                "{}[{}]: must be null (probability 0), as the reference is 0 there",
                world.row_place(name, world.origin[s.ix()]),
                a.0
            );
        }
    }
    Ok(Some(policy))
}

/// `behaviour` or `behaviour_logits`: the policy that both responses of a pair are drawn from.
pub fn behaviour(fields: &mut Fields, world: &World, dir: &Path) -> Result<Option<TabularPolicy>> {
    let (probs, logits) = (fields.take("behaviour"), fields.take("behaviour_logits"));
    let (json, name, allowed) = match (probs, logits) {
        (None, None) => return Ok(None),
        (Some(json), None) => (json, "behaviour", Allowed::Finite),
        (None, Some(json)) => (json, "behaviour_logits", Allowed::MinusInfinity),
        (Some(_), Some(_)) => {
            bail!("behaviour_logits: give behaviour or behaviour_logits, not both")
        }
    };
    let array = arrays::read(&json, name, &world.axes(), allowed, dir)?;
    let table = log_probs(&array, name, allowed == Allowed::MinusInfinity, world)?;
    Ok(Some(lifted(world, &table)?))
}
