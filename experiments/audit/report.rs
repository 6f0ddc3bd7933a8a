//! One tree, any recipes: everything the audit says, as JSON and as a table.

use anyhow::{Context, Result};
use rayon::prelude::*;
use rto::audit::{FixedPoint, Named, Recipe, Rotation, Status, Summary};
use rto_harness::stats::shown;
use rto_harness::table::{Cell, Table};
use serde_json::{Map, Value, json};

use crate::GoOn;
use crate::problem::Instance;

/// What one recipe does on one tree.
pub struct Audited {
    /// The name of the recipe.
    pub name: String,
    /// What it does with responses of the policy itself.
    pub on_policy: (Summary, Rotation),
    /// What it does with responses of θ_old.
    pub stale: (Summary, Rotation),
    /// The policy that its flow ends at.
    pub fixed_point: FixedPoint,
    /// SubOpt of π_ref for what the recipe means.
    pub at_reference: f64,
}

impl Audited {
    /// The audit of one recipe.
    ///
    /// # Errors
    /// A recipe that the tree is too large for, named; that of `go_on`.
    pub fn new(instance: &Instance, name: &str, recipe: &Recipe, go_on: GoOn<'_>) -> Result<Self> {
        let (problem, theta) = (&instance.problem, &instance.theta);
        let at = |old| -> Result<(Summary, Rotation)> {
            go_on()?;
            let summary = Summary::at(problem, recipe, theta, old, None)?;
            go_on()?;
            Ok((summary, Rotation::at(problem, recipe, theta, old, None)?))
        };
        let work = || -> Result<Self> {
            Ok(Self {
                name: name.into(),
                on_policy: at(None)?,
                stale: at(Some(&instance.old))?,
                fixed_point: FixedPoint::find_while(problem, recipe, None, go_on)?,
                at_reference: problem.suboptimality(recipe, problem.reference())?,
            })
        };
        work().with_context(|| name.to_string())
    }

    /// All named recipes, in their order.
    ///
    /// # Errors
    /// Those of [`Audited::new`].
    pub fn all(instance: &Instance, recipes: &[Named], go_on: GoOn<'_>) -> Result<Vec<Self>> {
        let of = |n: &Named| Self::new(instance, n.name, &n.recipe, go_on);
        recipes.par_iter().map(of).collect()
    }

    /// The report as JSON, with the keys of the golden file.
    pub fn json(&self, actions: usize) -> Value {
        let table = |x: &[f64]| json!(x.chunks(actions).collect::<Vec<_>>());
        let at = |(s, r): &(Summary, Rotation)| {
            json!({
                "E_g": table(&s.field),
                "norm_ratio": s.norm_ratio,
                "cosine": s.cosine,
                "bias_norm_over_norm": s.bias,
                "trace_cov_unit": s.trace_unit,
                "responses_per_unit": s.responses_per_unit,
                "trace_cov_per_response": s.trace_per_response,
                "curl_norm": r.curl,
                "jacobian_norm": r.jacobian,
            })
        };
        let fixed = &self.fixed_point;
        json!({
            "target_gradient": table(&self.on_policy.0.target),
            "on_policy": at(&self.on_policy),
            "stale": at(&self.stale),
            "fixed_point": {
                "status": status(fixed.status),
                "policy": table(&fixed.policy),
                "residual": fixed.residual,
                "max_real_eigenvalue": fixed.largest_eigenvalue,
                "SubOpt": fixed.suboptimality,
            },
        })
    }
}

/// The word of files for where a recipe ends.
pub fn status(s: Status) -> &'static str {
    match s {
        Status::Interior => "interior",
        Status::Boundary => "boundary",
        Status::Singular => "singular",
    }
}

/// `{"recipes": {NAME: {…}}}`.
pub fn json(instance: &Instance, audited: &[Audited]) -> Value {
    let a = instance.problem.tree().n_actions();
    let entries = audited.iter().map(|r| (r.name.clone(), r.json(a)));
    json!({ "recipes": entries.collect::<Map<_, _>>() })
}

/// The columns of the table of recipes.
pub const COLUMNS: &[&str] = &[
    "tree",
    "recipe",
    "norm_ratio",
    "cosine",
    "bias",
    "trace_per_response",
    "n_star",
    "curl",
    "jacobian",
    "stale_norm_ratio",
    "stale_cosine",
    "stale_trace_per_response",
    "stale_curl",
    "status",
    "subopt",
    "subopt_reference",
    "residual",
    "largest_eigenvalue",
    "steps",
];

impl Audited {
    /// A row of [`COLUMNS`].
    pub fn row(&self, tree: &str) -> Vec<Cell> {
        let ((on, turn), (stale, stale_turn)) = (&self.on_policy, &self.stale);
        let end = &self.fixed_point;
        vec![
            tree.into(),
            self.name.as_str().into(),
            on.norm_ratio.into(),
            on.cosine.into(),
            on.bias.into(),
            on.trace_per_response.into(),
            on.scaled().n_star().into(),
            turn.curl.into(),
            turn.jacobian.into(),
            stale.norm_ratio.into(),
            stale.cosine.into(),
            stale.trace_per_response.into(),
            stale_turn.curl.into(),
            status(end.status).into(),
            end.suboptimality.into(),
            self.at_reference.into(),
            end.residual.into(),
            end.largest_eigenvalue.into(),
            (end.steps as u64).into(),
        ]
    }
}

/// A table of [`COLUMNS`] for people.
///
/// # Errors
/// A table without one of them.
pub fn text(rows: &Table, tree: &str) -> Result<String> {
    let rows = rows.filter("tree", tree)?;
    let mut out = Table::new(
        "recipes",
        &[
            "recipe",
            "|E g|/|grad J|",
            "cosine",
            "tr Cov",
            "n*",
            "curl",
            "cosine, stale",
            "ends",
            "SubOpt there",
            "of pi_ref",
        ],
    );
    let numbers = |c: &str| rows.floats(c);
    let columns = [
        "norm_ratio",
        "cosine",
        "trace_per_response",
        "n_star",
        "curl",
        "stale_cosine",
        "subopt",
        "subopt_reference",
    ];
    let values: Vec<Vec<f64>> = columns.iter().map(|c| numbers(c)).collect::<Result<_>>()?;
    let (names, ends) = (rows.texts("recipe")?, rows.texts("status")?);
    for (i, name) in names.iter().enumerate() {
        let cell = |k: usize| match (columns[k], values[k][i]) {
            ("n_star", v) if v.is_nan() => "none".into(),
            ("subopt" | "curl", v) if v.abs() < 1e-12 => "0".into(),
            (_, v) => shown(v),
        };
        out.push([
            name.as_str().into(),
            cell(0),
            cell(1),
            cell(2),
            cell(3),
            cell(4),
            cell(5),
            ends[i].as_str().into(),
            cell(6),
            cell(7),
        ]);
    }
    Ok(out.render())
}
