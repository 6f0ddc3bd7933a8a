//! The audit from units drawn at random, with intervals, where they are too many to enumerate.

use anyhow::{Context, Result, bail};
use rto::audit::{Draws, Estimate, Recipe, Sampled};
use rto::seed::SeedTree;
use rto_harness::stats::shown;
use rto_harness::table::{Cell, Table};
use serde_json::{Map, Value, json};

use crate::problem::Instance;

/// Batches of units: what intervals are made of.
const BATCHES: usize = 32;

/// A recipe on-policy and stale, from drawn units.
pub struct Drawn {
    name: String,
    responses: usize,
    on_policy: Sampled,
    stale: Sampled,
}

impl Drawn {
    /// An audit of `units` units, rounded up to whole batches.
    ///
    /// # Errors
    /// Those of [`Sampled::at`], with the recipe's name.
    pub fn new(
        instance: &Instance,
        name: &str,
        recipe: &Recipe,
        units: usize,
        seeds: &SeedTree,
    ) -> Result<Self> {
        let draws = Draws {
            batches: BATCHES,
            units: units.div_ceil(BATCHES),
        };
        let at = |old, node: &str| {
            let seeds = seeds.child(name).child(node);
            let (problem, theta) = (&instance.problem, &instance.theta);
            Sampled::at(problem, recipe, theta, old, draws, &seeds).context(name.to_string())
        };
        Ok(Self {
            name: name.into(),
            responses: recipe.unit(),
            on_policy: at(None, "on_policy")?,
            stale: at(Some(&instance.old), "stale")?,
        })
    }

    fn json(&self, actions: usize) -> Value {
        let number = |e: &Estimate| json!({ "value": e.value, "half": e.half });
        let at = |s: &Sampled| {
            let rows = s.field.chunks(actions);
            let field: Vec<Vec<Value>> = rows.map(|r| r.iter().map(number).collect()).collect();
            json!({
                "E_g": field,
                "norm_ratio": number(&s.norm_ratio),
                "cosine": number(&s.cosine),
                "bias2": number(&s.bias2),
                "trace_cov_unit": s.trace_unit,
                "trace_cov_per_response": s.trace_unit * self.responses as f64,
            })
        };
        json!({ "on_policy": at(&self.on_policy), "stale": at(&self.stale) })
    }
}

/// `{"recipes": {NAME: {…}}}`, every estimate with the half of its 95% interval.
pub fn json(instance: &Instance, drawn: &[Drawn]) -> Value {
    let a = instance.problem.tree().n_actions();
    let entries = drawn.iter().map(|r| (r.name.clone(), r.json(a)));
    json!({ "recipes": entries.collect::<Map<_, _>>() })
}

/// A table for people.
pub fn text(drawn: &[Drawn]) -> String {
    let mut out = Table::new(
        "drawn",
        &[
            "recipe",
            "responses drawn from",
            "|E g|/|grad J|",
            "cosine",
            "squared bias",
            "tr Cov",
        ],
    );
    let interval = |e: &Estimate| -> Cell { format!("{:.4} +- {:.4}", e.value, e.half).into() };
    for d in drawn {
        for (from, s) in [("the policy", &d.on_policy), ("the behaviour", &d.stale)] {
            let below = s.bias2.value - s.bias2.half <= 0.0;
            let bias = if below {
                format!("below resolution ({})", short(s.bias2.value + s.bias2.half)).into()
            } else {
                interval(&s.bias2)
            };
            out.push([
                d.name.as_str().into(),
                from.into(),
                interval(&s.norm_ratio),
                interval(&s.cosine),
                bias,
                shown(s.trace_unit * d.responses as f64),
            ]);
        }
    }
    format!(
        "Estimates with 95% intervals. Squared bias: |c E g - grad J|^2/|grad J|^2 under the best scale c; below resolution where its\n\
         interval covers 0, with the upper end. tr Cov: per response.\n{}",
        out.render()
    )
}

fn short(v: f64) -> String {
    format!("at most {v:.1e}")
}

/// Units enough for the intervals.
///
/// # Errors
/// Too few.
pub fn check(units: usize) -> Result<()> {
    if units < BATCHES {
        bail!("--draws: found {units}, expected at least {BATCHES}, one for each batch");
    }
    Ok(())
}
