//! The plan of a sweep: unchecked from TOML, then checked.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rto::seed::SeedTree;
use rto_harness::comparison;
use rto_harness::config::{Rules, increasing, within};
use rto_harness::methods::{self, Method};
use rto_harness::settings::Settings;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::run::config::{self, Config};
use crate::run::data;
use crate::run::models;

/// The resolved plan, saved with the sweep. Every key is documented in `experiments/configs/sweep.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub preset: String,
    pub methods: Vec<&'static Method>,
    pub tuning_seeds: Vec<u64>,
    pub report_seeds: Vec<u64>,
    /// Replies that every method draws from the policy in training.
    pub samples: u64,
    pub evaluations: u64,
    pub tuned_on: String,
    pub temperatures: Vec<f64>,
    pub best_of: Vec<u32>,
    /// Settings of `rto_llm` for every cell.
    pub settings: Table,
    /// Worlds by name, each with the settings that make it.
    pub world: BTreeMap<String, Table>,
    /// What is reported beside the chosen points.
    pub variant: BTreeMap<String, Variant>,
    /// Lists of values of settings, by method.
    pub grid: BTreeMap<String, Table>,
}

/// The chosen point with other settings; of a method that the plan does not tune, the settings alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    pub methods: Vec<&'static Method>,
    /// What `runs.csv` calls it, its name unless said: several may be one curve.
    pub stage: Option<String>,
    /// The worlds it is run in, all unless said.
    pub worlds: Option<Vec<String>>,
    /// Iterations after each of which the policy is measured, beside the times that are equally spaced.
    pub measure_first: Option<u64>,
    pub settings: Table,
}

impl Variant {
    /// Whether it is run in a world.
    pub fn is_in(&self, world: &str) -> bool {
        let worlds = self.worlds.as_ref();
        worlds.is_none_or(|worlds| worlds.iter().any(|w| w == world))
    }
}

/// A point of a method's grid: settings with one value each.
pub type Point = Table;

impl Settings for Plan {
    const NAME: &'static str = "sweep";
    const PROGRAM: &'static str = "rto_llm sweep";
    const DEFAULTS: &'static str = include_str!("../../../configs/sweep.toml");
    const SMOKE: &'static str = include_str!("../../../configs/sweep.smoke.toml");
    const RULES: Rules = Rules {
        choices: &[],
        free: &["settings", "world", "variant", "grid"],
        moved: &[],
    };

    fn check(&self) -> Result<()> {
        self.check_lists()?;
        self.check_names()?;
        let mut points = None;
        for &method in &self.methods {
            let found = self.points(method)?;
            match points {
                None => points = Some((method, found.len())),
                Some((first, n)) if n != found.len() => bail!(
                    "grid.{}: found {} points, expected {n}, as many as {} has: every method is tuned equally",
                    method.name,
                    found.len(),
                    first.name
                ),
                Some(_) => {}
            }
            for world in self.worlds().keys() {
                for point in &found {
                    self.check_cell(world, method, point)?;
                }
            }
        }
        let on_world = self
            .config(&self.tuned_on, self.methods[0], &Point::new(), 0)?
            .on_world();
        for world in self.worlds().keys() {
            let config = self.config(world, self.methods[0], &Point::new(), 0)?;
            let in_world = || format!("world.{world}");
            if config.on_world() != on_world {
                bail!(
                    "world.{world}.data: found {}, expected as in world.{}: the synthetic world in all or files in all",
                    config.data.join(", "),
                    self.tuned_on
                );
            }
            if on_world {
                data::world(&config).with_context(in_world)?;
                continue;
            }
            // What is wrong with files is found here, before there is a folder.
            let seeds = SeedTree::new(0);
            for tuned in [true, false] {
                if !tuned || !self.tuned().is_empty() {
                    let data = data::for_tuning(&config, &seeds, tuned).with_context(in_world)?;
                    models::check_adapters(&config, &data).with_context(in_world)?;
                }
            }
            if !config.oracle.is_empty() {
                models::check_oracle(&config.oracle).with_context(in_world)?;
            }
        }
        for (name, variant) in &self.variant {
            for &method in &variant.methods {
                let settings = self.upon(&self.points(method)?[0], name, method)?;
                for world in self.worlds().keys().filter(|w| variant.is_in(w)) {
                    self.config(world, method, &settings, 0)
                        .with_context(|| format!("variant.{name}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Plan {
    /// The worlds by name: the settings alone where no other is named.
    pub fn worlds(&self) -> BTreeMap<String, Table> {
        match self.world.is_empty() {
            true => BTreeMap::from([("default".to_string(), Table::new())]),
            false => self.world.clone(),
        }
    }

    /// The grid of a method: every combination of its lists.
    pub fn points(&self, method: &Method) -> Result<Vec<Point>> {
        let mut all = vec![Point::new()];
        let Some(grid) = self.grid.get(method.name) else {
            return Ok(all);
        };
        for (path, values) in lists(grid, &format!("grid.{}", method.name))? {
            let with = |point: &Point, value: &Value| {
                let mut point = point.clone();
                put(&mut point, &path, value.clone());
                point
            };
            all = all
                .iter()
                .flat_map(|point| values.iter().map(|value| with(point, value)))
                .collect();
        }
        Ok(all)
    }

    /// A point with the settings of a variant.
    pub fn upon(&self, point: &Point, variant: &str, method: &Method) -> Result<Point> {
        let found = self
            .variant
            .get(variant)
            .filter(|v| v.methods.contains(&method));
        let found =
            found.with_context(|| format!("variant.{variant}: is not one of {}", method.name))?;
        let mut point = point.clone();
        for (path, value) in leaves(&found.settings) {
            put(&mut point, &path, value);
        }
        Ok(point)
    }

    /// The settings of `rto_llm` for a method at a point in a world. Its iterations are those of the plan's samples.
    pub fn config(
        &self,
        world: &str,
        method: &'static Method,
        point: &Point,
        seed: u64,
    ) -> Result<Config> {
        let mut own = Table::new();
        own.insert("seed".into(), Value::try_from(seed)?);
        own.insert("methods".into(), Value::try_from([method])?);
        // A cell that is killed begins again: its checkpoints would be for nothing.
        own.insert("save_every".into(), Value::Integer(1_000_000));
        let tables = [
            ("[settings]".to_string(), self.settings.clone()),
            (format!("[world.{world}]"), self.worlds()[world].clone()),
            (
                format!("{} at {}", method.name, shown(point)),
                point.clone(),
            ),
            ("sweep".to_string(), own),
        ];
        let mut config = config::of_tables(&self.preset, &tables)?;
        let drawn = config.ppo(method)?.responses() as u64;
        if !self.samples.is_multiple_of(drawn) {
            bail!(
                "samples: found {}, of which {} at {} draws {drawn} an iteration, expected a multiple: every method draws as many",
                self.samples,
                method.name,
                shown(point)
            );
        }
        config.ppo.iterations = self.samples / drawn;
        if !config.ppo.iterations.is_multiple_of(self.evaluations) {
            bail!(
                "evaluations: found {}, expected a divisor of {}, the iterations of {}",
                self.evaluations,
                config.ppo.iterations,
                method.name
            );
        }
        Ok(config)
    }

    /// Iterations of a method between two measurements.
    pub fn every(&self, method: &'static Method) -> Result<u64> {
        let config = self.config(&self.tuned_on, method, &Point::new(), 0)?;
        Ok(config.ppo.iterations / self.evaluations)
    }

    /// β₂ of the objective.
    pub fn beta2(&self) -> Result<f64> {
        let method = self.methods[0];
        Ok(self
            .config(&self.tuned_on, method, &Point::new(), 0)?
            .ppo
            .beta2)
    }

    /// Runs of PPO: the grid on the tuning seeds, what is reported on the others.
    pub fn runs(&self) -> Result<usize> {
        let mut tuned = 0;
        for method in &self.methods {
            tuned += self.points(method)?.len() * self.tuned().len();
        }
        let mut reported = 0;
        for world in self.worlds().keys() {
            let here = self.variant.values().filter(|v| v.is_in(world));
            reported += self.methods.len() + here.map(|v| v.methods.len()).sum::<usize>();
        }
        Ok(tuned + reported * self.report_seeds.len())
    }

    /// Seeds that are tuned on: none where every method has one point.
    pub fn tuned(&self) -> &[u64] {
        match self.grid.is_empty() {
            true => &[],
            false => &self.tuning_seeds,
        }
    }

    fn check_cell(&self, world: &str, method: &'static Method, point: &Point) -> Result<()> {
        let config = self.config(world, method, point, 0)?;
        let (own, all) = (config.ppo(method)?.beta2, config.ppo.beta2);
        if own != all {
            bail!(
                "method.{}.beta2: found {own}, expected {all}, that of the objective; another one is a variant",
                method.name
            );
        }
        if config.ppo.beta2 != self.beta2()? {
            bail!("world.{world}.ppo.beta2: found {all}, expected that of the other worlds");
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<()> {
        within("samples", self.samples as f64, 1.0, 1e9)?;
        within("evaluations", self.evaluations as f64, 1.0, 1e4)?;
        increasing("temperatures", &self.temperatures, 1e-2, 0.999)?;
        let best_of: Vec<f64> = self.best_of.iter().map(|n| f64::from(*n)).collect();
        increasing("best_of", &best_of, 2.0, 1e6)?;
        comparison::check_seeds(&self.tuning_seeds, &self.report_seeds)
    }

    fn check_names(&self) -> Result<()> {
        comparison::check_methods(&self.methods)?;
        let plain = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let named = [
            ("world", self.world.keys().collect::<Vec<_>>()),
            ("variant", self.variant.keys().collect()),
        ];
        for (table, names) in named {
            if let Some(name) = names.into_iter().find(|name| !plain(name)) {
                bail!("{table}: found the name {name:?}, expected letters, digits and _");
            }
        }
        let worlds = self.worlds();
        if !worlds.contains_key(&self.tuned_on) {
            let names: Vec<&str> = worlds.keys().map(String::as_str).collect();
            bail!(
                "tuned_on: found {:?}, expected a table [world.{}]; there is {}",
                self.tuned_on,
                self.tuned_on,
                names.join(", ")
            );
        }
        if let Some(name) = self
            .variant
            .keys()
            .find(|name| ["tune", "report"].contains(&name.as_str()))
        {
            bail!("variant.{name}: is the name of a stage, expected another");
        }
        for name in self.grid.keys() {
            let found = methods::find(name).filter(|m| self.methods.contains(m));
            found.with_context(|| {
                format!(
                    "grid.{name}: no method of this plan, expected one of {}",
                    names(&self.methods)
                )
            })?;
        }
        for (name, variant) in &self.variant {
            if variant.methods.is_empty() {
                bail!("variant.{name}.methods: found none, expected at least one");
            }
            let known = self.worlds();
            let unknown = |w: &&String| !known.contains_key(*w);
            if let Some(world) = variant.worlds.iter().flatten().find(unknown) {
                let known: Vec<&str> = known.keys().map(String::as_str).collect();
                bail!(
                    "variant.{name}.worlds: found {world:?}, expected some of {}",
                    known.join(", ")
                );
            }
        }
        let tables = [("settings".to_string(), &self.settings)]
            .into_iter()
            .chain(self.world.iter().map(|(n, t)| (format!("world.{n}"), t)))
            .chain(self.grid.iter().map(|(n, t)| (format!("grid.{n}"), t)))
            .chain(
                self.variant
                    .iter()
                    .map(|(n, v)| (format!("variant.{n}.settings"), &v.settings)),
            );
        for (table, keys) in tables {
            for (path, value) in leaves(keys) {
                let key = path.join(".");
                match key.as_str() {
                    "ppo.iterations" => bail!(
                        "{table}.{key}: found {value}, expected none: `samples` says how long every method trains"
                    ),
                    "token_rewards" => bail!(
                        "{table}.{key}: found {value}, expected none: a sweep fits no rewards of a file"
                    ),
                    "seed" | "methods" | "preset" | "save_every" => {
                        bail!("{table}.{key}: found {value}, expected none: the plan says it")
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn names(methods: &[&'static Method]) -> String {
    let names: Vec<&str> = methods.iter().map(|m| m.name).collect();
    names.join(", ")
}

/// A point for people: `ppo.lambda=0.9 ppo.learning_rate=0.001`.
pub fn shown(point: &Point) -> String {
    let all: Vec<String> = leaves(point)
        .into_iter()
        .map(|(path, value)| format!("{}={value}", path.join(".")))
        .collect();
    match all.is_empty() {
        true => "the settings".into(),
        false => all.join(" "),
    }
}

/// Dotted keys with their values.
fn leaves(table: &Table) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                found.extend(leaves(inner).into_iter().map(|(mut path, value)| {
                    path.insert(0, key.clone());
                    (path, value)
                }))
            }
            value => found.push((vec![key.clone()], value.clone())),
        }
    }
    found
}

/// Dotted keys with their lists.
fn lists(table: &Table, name: &str) -> Result<Vec<(Vec<String>, Vec<Value>)>> {
    let list = |(path, value): (Vec<String>, Value)| {
        let key = path.join(".");
        match value {
            Value::Array(values) if values.is_empty() => {
                bail!("{name}.{key}: found no values, expected at least one")
            }
            Value::Array(values) => {
                let again = values
                    .iter()
                    .enumerate()
                    .find(|(i, v)| values[..*i].contains(v));
                match again {
                    Some((_, value)) => bail!("{name}.{key}: found {value} twice"),
                    None => Ok((path, values)),
                }
            }
            value => bail!("{name}.{key}: found {value}, expected a list of values"),
        }
    };
    leaves(table).into_iter().map(list).collect()
}

fn put(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => drop(table.insert(key.clone(), value)),
        [key, rest @ ..] => {
            let inner = table
                .entry(key.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}
