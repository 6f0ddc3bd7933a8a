//! The answers of `audit` and `bench` about one tree.

use crate::arrays::value_error;
use crate::long::{self, Watch};
use anyhow::{Context, Result};
use pyo3::prelude::*;
use rto::audit::{Named, Recipe, named};
use rto::seed::SeedTree;
use rto_audit::problem::Instance;
use rto_audit::{GoOn, explain, input, problem, report, sampled};
use serde_json::{Value, json};
use std::path::Path;

/// What is asked of the audit.
struct Question {
    instance: Instance,
    /// One recipe, or all that have a name.
    one: Option<(String, Recipe)>,
    explain: bool,
    draws: Option<usize>,
    group: usize,
    batch: usize,
    seed: u64,
}

impl Question {
    fn all(&self) -> Vec<Named> {
        let horizon = self.instance.problem.tree().horizon();
        named(self.instance.beta, self.group, self.batch, horizon)
    }

    fn answer(&self, go_on: GoOn<'_>) -> Result<Value> {
        let instance = &self.instance;
        if let (Some((name, recipe)), true) = (&self.one, self.explain) {
            let table = explain::explain(instance, name, recipe, go_on)?;
            return Ok(json!({ "tree": instance.name, "recipe": name, "explain": table }));
        }
        if let Some(units) = self.draws {
            let seeds = SeedTree::new(self.seed).child("audit").child("draws");
            let recipes = match &self.one {
                Some(one) => vec![one.clone()],
                None => {
                    let all = self.all().into_iter();
                    all.map(|n| (n.name.into(), n.recipe)).collect()
                }
            };
            let drawn = recipes
                .iter()
                .map(|(name, recipe)| {
                    go_on()?;
                    sampled::Drawn::new(instance, name, recipe, units, &seeds)
                })
                .collect::<Result<Vec<_>>>()?;
            return Ok(sampled::json(instance, &drawn));
        }
        let audited = match &self.one {
            Some((name, recipe)) => vec![report::Audited::new(instance, name, recipe, go_on)?],
            None => report::Audited::all(instance, &self.all(), go_on)?,
        };
        Ok(report::json(instance, &audited))
    }
}

/// A tree or a recipe: its JSON, or the name or path of one.
type Given = (bool, String);

fn question(
    tree: Option<Given>,
    recipe: Option<Given>,
    beta: f64,
    (group, batch): (usize, usize),
) -> Result<Question> {
    let instance = match tree {
        Some((true, text)) => input::tree_text(&text, "tree").context("tree")?,
        Some((false, path)) => input::tree(Path::new(&path))?,
        None => {
            let mut fixed = problem::fixed(beta)?;
            fixed.pop().context("no fixed tree")?
        }
    };
    let one = match recipe {
        Some((true, text)) => Some((
            "recipe".into(),
            input::recipe_text(&text).context("recipe")?,
        )),
        Some((false, name)) => Some(input::recipe("recipe", &name, &instance, group, batch)?),
        None => None,
    };
    Ok(Question {
        instance,
        one,
        explain: false,
        draws: None,
        group,
        batch,
        seed: 0,
    })
}

fn line(error: &anyhow::Error) -> PyErr {
    value_error(format!("{error:#}"))
}

/// The report of `audit` about one tree, as JSON text; see `audit` of the package.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn audit_text(
    py: Python<'_>,
    tree: Option<Given>,
    recipe: Option<Given>,
    beta: f64,
    group: usize,
    batch: usize,
    explain: bool,
    draws: Option<usize>,
    seed: u64,
) -> PyResult<String> {
    for (name, value, least, most) in [("group", group, 2, 8), ("batch", batch, 1, 6)] {
        if !(least..=most).contains(&value) {
            return Err(value_error(format!(
                "{name}: found {value}, expected a whole number from {least} to {most}"
            )));
        }
    }
    if !(beta.is_finite() && beta > 0.0) {
        return Err(value_error(format!(
            "beta: found {beta}, expected a number above 0"
        )));
    }
    if let Some(units) = draws {
        sampled::check(units)
            .map_err(|e| value_error(format!("{e:#}").replace("--draws", "draws")))?;
    }
    if explain && (recipe.is_none() || draws.is_some()) {
        return Err(value_error(
            "explain: found True, expected it with one recipe and without draws",
        ));
    }
    let question = question(tree, recipe, beta, (group, batch)).map_err(|e| line(&e))?;
    let question = Question {
        explain,
        draws,
        seed,
        ..question
    };
    let work = move |watch: &Watch<'_, ()>| question.answer(&|| watch.check());
    let answer = long::apart(py, work, |()| Ok(()))?;
    serde_json::to_string(&answer.map_err(|e| line(&e))?).map_err(value_error)
}

/// The short names, names and descriptions of the recipes that the audit knows.
#[pyfunction]
pub fn recipes_text() -> Vec<(&'static str, &'static str, &'static str)> {
    let all = named(0.3, 4, 4, 3).into_iter();
    all.map(|n| (n.id, n.name, n.about)).collect()
}

/// The report of `bench --instance`, as JSON text.
#[pyfunction]
pub fn bench_text(py: Python<'_>, instance: Given) -> PyResult<String> {
    let read = match &instance {
        (true, text) => rto_bench::Instance::parse_text(text).context("instance"),
        (false, path) => rto_bench::Instance::read(Path::new(path)),
    };
    let problem = read.map_err(|e| line(&e))?;
    let named = match instance {
        (true, _) => "instance".to_string(),
        (false, path) => path,
    };
    let work = move |watch: &Watch<'_, ()>| problem.solve_while(&|| watch.check()).context(named);
    let answer = long::apart(py, work, |()| Ok(()))?;
    serde_json::to_string(&answer.map_err(|e| line(&e))?).map_err(value_error)
}
