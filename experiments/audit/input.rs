//! Trees and recipes of a user's own.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rto::audit::{Named, Problem, Recipe, ResponseTree, named};
use serde::Deserialize;

use crate::problem::Instance;

/// A tree file: the keys of an entry of `golden` in `tests/golden/estimators.json`, tables `[S][A]` with states ordered by prompt, depth
/// and prefix. Other keys of such an entry are passed over.
#[derive(Debug, Deserialize)]
struct TreeFile {
    tree: Option<String>,
    #[serde(rename = "A")]
    actions: usize,
    #[serde(rename = "H")]
    horizon: usize,
    eos: Option<usize>,
    prompt_weights: Vec<f64>,
    theta: Vec<Vec<f64>>,
    theta_old: Vec<Vec<f64>>,
    ref_logits: Vec<Vec<f64>>,
    dpo_logits: Vec<Vec<f64>>,
    r: Vec<Vec<f64>>,
    beta: f64,
    beta1: f64,
    dpo_clip: f64,
}

/// Reads a tree file.
///
/// # Errors
/// One line with the file, and the line or the field.
pub fn tree(path: &Path) -> Result<Instance> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| file.clone())?;
    let raw: TreeFile = serde_json::from_str(&text)
        .map_err(|e| anyhow!("{file}:{}: {}", e.line(), without_place(&e.to_string())))?;
    raw.instance(&file).with_context(|| file.clone())
}

/// The same of JSON text that stands in no file; `name` is the tree's where the text has none.
///
/// # Errors
/// One line with the field.
pub fn tree_text(text: &str, name: &str) -> Result<Instance> {
    let raw: TreeFile =
        serde_json::from_str(text).map_err(|e| anyhow!("{}", without_place(&e.to_string())))?;
    raw.instance(name)
}

/// serde's text without the line that is named before it.
fn without_place(text: &str) -> &str {
    text.split(" at line ").next().unwrap_or(text)
}

impl TreeFile {
    fn instance(self, file: &str) -> Result<Instance> {
        let tree =
            ResponseTree::try_new(self.actions, self.horizon, self.eos, &self.prompt_weights)?;
        if !(self.beta.is_finite() && self.beta > 0.0) {
            bail!("beta: found {}, expected a number above 0", self.beta);
        }
        let table = |field: &str, rows: &[Vec<f64>]| -> Result<Vec<f64>> {
            if rows.len() != tree.n_states() {
                bail!(
                    "{field}: found {} rows, expected {}, one for each state (A = {}, H = {}, {} prompts)",
                    rows.len(),
                    tree.n_states(),
                    self.actions,
                    self.horizon,
                    self.prompt_weights.len()
                );
            }
            for (s, row) in rows.iter().enumerate() {
                if row.len() != self.actions {
                    bail!(
                        "{field}[{s}]: found {} numbers, expected A = {}",
                        row.len(),
                        self.actions
                    );
                }
            }
            Ok(rows.concat())
        };
        let (theta, old) = (
            table("theta", &self.theta)?,
            table("theta_old", &self.theta_old)?,
        );
        let (reward, reference) = (table("r", &self.r)?, table("ref_logits", &self.ref_logits)?);
        let dpo = table("dpo_logits", &self.dpo_logits)?;
        let problem = Problem::try_new(tree, &reward, &reference)?;
        Ok(Instance {
            name: self.tree.unwrap_or_else(|| file.to_string()),
            problem: problem.with_dpo(&dpo, self.beta1, self.dpo_clip)?,
            theta,
            old,
            beta: self.beta,
        })
    }
}

/// A recipe of one's own as JSON text, with the keys of a TOML file.
///
/// # Errors
/// One line with the key.
pub fn recipe_text(text: &str) -> Result<Recipe> {
    let recipe: Recipe =
        serde_json::from_str(text).map_err(|e| anyhow!("{}", without_place(&e.to_string())))?;
    recipe.check()?;
    Ok(recipe)
}

/// A recipe by its name, its short name, or the path of a TOML file; `argument` is what the user gave it as.
///
/// # Errors
/// No such recipe; one line with the file and its line.
pub fn recipe(
    argument: &str,
    text: &str,
    instance: &Instance,
    group: usize,
    batch: usize,
) -> Result<(String, Recipe)> {
    let all = named(
        instance.beta,
        group,
        batch,
        instance.problem.tree().horizon(),
    );
    if let Some(n) = all.iter().find(|n| n.id == text || n.name == text) {
        return Ok((n.name.into(), n.recipe.clone()));
    }
    if !text.ends_with(".toml") {
        bail!(
            "{argument} {text}: no such recipe, expected {} or a .toml file",
            ids(&all)
        );
    }
    let content = std::fs::read_to_string(text).with_context(|| text.to_string())?;
    let recipe: Recipe = toml::from_str(&content).map_err(|e| {
        let line = e
            .span()
            .map_or(1, |s| content[..s.start].matches('\n').count() + 1);
        anyhow!("{text}:{line}: {}", e.message().trim().replace('\n', ", "))
    })?;
    recipe.check().with_context(|| text.to_string())?;
    Ok((text.into(), recipe))
}

fn ids(all: &[Named]) -> String {
    let ids: Vec<&str> = all.iter().map(|n| n.id).collect();
    ids.join(", ")
}
