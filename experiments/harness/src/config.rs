//! Layered TOML configs: embedded defaults, smoke overlay, the user's file, flags.
//!
//! Every layer is a TOML table; a later layer wins, and nested tables are merged key by key. The
//! defaults hold every key, so each layer is checked against them *before* merging and an error
//! names the layer it came from.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{atomic, cli::Common, run_dir, serde_words::in_users_words};

/// The layers of one config, lowest first. Built with [`Layers::new`], resolved with [`resolve`].
#[derive(Debug, Clone, Default)]
pub struct Layers {
    layers: Vec<Layer>,
    rules: Rules,
}

/// What a binary says of its keys beside their defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Names of keys, at any depth, with one of several forms as their value, of which some are tables (`"cosine"` has parameters,
    /// `"constant"` has none): a later layer replaces them whole.
    pub choices: &'static [&'static str],
    /// Tables at the top whose keys are not listed in the defaults; the config checks them.
    pub free: &'static [&'static str],
    /// Keys of former versions, dotted, and where their value belongs now.
    pub moved: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone)]
struct Layer {
    origin: Origin,
    table: Table,
}

#[derive(Debug, Clone)]
enum Origin {
    /// A named TOML text.
    Text { name: String, text: String },
    /// A named table of another file.
    Table(String),
    /// The command line.
    Flags,
}

impl Layers {
    /// Starts from the embedded defaults, which must hold every key of the config.
    ///
    /// `name` is what errors call the text, usually its path in the repository.
    pub fn new(name: &str, text: &str) -> Result<Self> {
        Self::default().with_text(name, text)
    }

    /// The same layers, with what the binary says of its keys.
    pub fn rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Adds an embedded overlay, such as the smoke setting, when `on` is true.
    pub fn overlay(self, on: bool, name: &str, text: &str) -> Result<Self> {
        if on {
            self.with_text(name, text)
        } else {
            Ok(self)
        }
    }

    /// Adds the user's `--config FILE`, if there is one.
    pub fn user_file(self, path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(self) };
        let text = atomic::read_text(path).context("config")?;
        self.with_text(&path.display().to_string(), &text)
    }

    /// Adds the settings of the run that `out` holds, if it holds one: `--out DIR` of an unfinished run goes on with it.
    /// Settings that are given beside it must then agree, which [`crate::run_dir::RunDir::create_or_resume`] checks.
    ///
    /// # Errors
    /// One line when the run is one of another program than `name`.
    pub fn going_on(self, name: &str, out: Option<&Path>) -> Result<Self> {
        let Some(out) = out.filter(|out| run_dir::is_run(out)) else {
            return Ok(self);
        };
        run_dir::check_program(name, out)?;
        self.user_file(Some(&out.join(run_dir::CONFIG)))
    }

    /// Adds flags: a struct of `Option` fields named like the config keys; `None` is skipped.
    ///
    /// May be called more than once, for example for shared and own flags.
    pub fn flags(mut self, flags: &impl Serialize) -> Result<Self> {
        let table = Table::try_from(flags)
            .map_err(|e| anyhow!("flags: {}", e.to_string().trim().replace('\n', " ")))?;
        let origin = Origin::Flags;
        self.layers.push(Layer { origin, table });
        Ok(self)
    }

    /// Adds a table that another file holds, such as `[settings]` of a plan; errors call it by this name.
    #[must_use]
    pub fn table(mut self, name: &str, table: &Table) -> Self {
        self.layers.push(Layer {
            origin: Origin::Table(name.to_string()),
            table: table.clone(),
        });
        self
    }

    /// Adds what every binary shares, in the right order: the settings of the run that `--out` goes on with, the smoke
    /// overlay if `--smoke`, the `--config` file, `--seed`, then `--set`. Call [`Layers::flags`] after it for the binary's own flags.
    pub fn common(
        self,
        name: &str,
        common: &Common,
        smoke_name: &str,
        smoke_text: &str,
    ) -> Result<Self> {
        self.going_on(name, common.out.as_deref())?
            .given(common, smoke_name, smoke_text)
    }

    /// The part of [`Layers::common`] that this command line gives.
    ///
    /// # Errors
    /// A config file that cannot be read; a `--set` that is not `key=value`.
    pub fn given(self, common: &Common, smoke_name: &str, smoke_text: &str) -> Result<Self> {
        let layers = self
            .overlay(common.smoke, smoke_name, smoke_text)?
            .user_file(common.config.as_deref())?;
        let layers = match common.seed {
            Some(seed) => layers.flags(&SeedFlag { seed })?,
            None => layers,
        };
        common.set.iter().try_fold(layers, |layers, set| {
            let (key, value) = set
                .split_once('=')
                .with_context(|| format!("--set {set}: expected key=value"))?;
            layers.with_text("--set", &line(key.trim(), value.trim()))
        })
    }

    fn with_text(mut self, name: &str, text: &str) -> Result<Self> {
        let table = parse(name, text)?;
        let origin = Origin::Text {
            name: name.to_string(),
            text: text.to_string(),
        };
        self.layers.push(Layer { origin, table });
        Ok(self)
    }
}

/// `key = value` in TOML; a word without quotes is text.
fn line(key: &str, value: &str) -> String {
    let plain = format!("{key} = {value}\n");
    match plain.parse::<Table>() {
        Ok(_) => plain,
        Err(_) => format!("{key} = {value:?}\n"),
    }
}

#[derive(Serialize)]
struct SeedFlag {
    seed: u64,
}

/// Merges the layers and reads the result as `C`.
///
/// # Errors
/// One line that names the layer (file and line, or flag), the key, what was found and what was
/// expected: an unknown key, a value of the wrong type, or a variant that does not exist.
pub fn resolve<C: DeserializeOwned + Serialize>(layers: &Layers) -> Result<C> {
    let (rules, layers) = (&layers.rules, &layers.layers);
    let Some((defaults, overlays)) = layers.split_first() else {
        bail!("config: no defaults were given");
    };
    let mut merged = defaults.table.clone();
    let mut config: C = match read(&merged) {
        Ok(config) => config,
        Err(message) => bail!("{}: {message}", defaults.origin.name()),
    };
    for layer in overlays {
        rules.check_keys(layer, &defaults.table, &layer.table, &mut Vec::new())?;
        let before = merged.clone();
        rules.merge(&mut merged, &layer.table);
        config = match read(&merged) {
            Ok(config) => config,
            Err(message) => return Err(rules.blame::<C>(layer, &before, &message)),
        };
    }
    check_complete(defaults, &config)?;
    Ok(config)
}

/// Every key of a TOML text, nested ones dotted (`"dpo.beta"`), sorted.
///
/// A test holds them against the flags of a binary.
pub fn keys_of(text: &str) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let rules = Rules::default();
    rules.leaves(&parse("config", text)?, &mut Vec::new(), &mut |path, _| {
        keys.push(path.join("."))
    });
    keys.sort();
    Ok(keys)
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Origin::Text { name, .. } => format!("config {name}"),
            Origin::Table(name) => name.clone(),
            Origin::Flags => "flags".to_string(),
        }
    }

    /// Names the layer at the place where `path` is set.
    fn at(&self, path: &[String]) -> String {
        match self {
            Origin::Text { name, text } => match line_of_key(text, path) {
                Some(line) => format!("config {name}:{line}"),
                None => format!("config {name}"),
            },
            Origin::Table(name) => name.clone(),
            Origin::Flags => format!("flag --{}", path.join(".").replace('_', "-")),
        }
    }
}

fn parse(name: &str, text: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|e: toml::de::Error| {
        let at = e.span().map_or(String::new(), |span| {
            format!(":{}", line_at(text, span.start))
        });
        let message = e.message().trim().replace('\n', ", ");
        anyhow!("config {name}{at}: not valid TOML: {message}")
    })
}

fn read<C: DeserializeOwned>(table: &Table) -> std::result::Result<C, String> {
    C::deserialize(Value::Table(table.clone()))
        .map_err(|e| in_users_words(&e.message().trim().replace('\n', " ")))
}

impl Rules {
    /// Merges `over` into `base`: nested tables key by key, everything else replaced.
    fn merge(&self, base: &mut Table, over: &Table) {
        for (key, value) in over {
            match (base.get_mut(key), value) {
                (Some(Value::Table(base)), Value::Table(over)) if !self.is_choice(key) => {
                    self.merge(base, over);
                }
                _ => {
                    base.insert(key.clone(), value.clone());
                }
            }
        }
    }

    fn is_choice(&self, key: &str) -> bool {
        self.choices.contains(&key)
    }

    /// Refuses a key the defaults do not have. An empty table in the defaults accepts any keys.
    fn check_keys(
        &self,
        layer: &Layer,
        known: &Table,
        given: &Table,
        path: &mut Vec<String>,
    ) -> Result<()> {
        if known.is_empty() {
            return Ok(());
        }
        for (key, value) in given {
            path.push(key.clone());
            let free = path.len() == 1 && self.free.contains(&key.as_str());
            match (known.get(key), value) {
                _ if free && value.is_table() => {}
                (None, _) => bail!("{}", self.unknown(layer, known, path)),
                (Some(_), _) if self.is_choice(key) => {}
                (Some(Value::Table(known)), Value::Table(given)) => {
                    self.check_keys(layer, known, given, path)?;
                }
                (Some(Value::Table(_)), other) => bail!(
                    "{}: key `{}` is {}, expected a table",
                    layer.origin.at(path),
                    path.join("."),
                    describe(other)
                ),
                _ => {}
            }
            path.pop();
        }
        Ok(())
    }

    fn unknown(&self, layer: &Layer, known: &Table, path: &[String]) -> String {
        let old = path.join(".");
        match self.moved.iter().find(|(key, _)| *key == old) {
            Some((_, new)) => format!(
                "{}: key `{old}` is of a former version, expected `{new}`",
                layer.origin.at(path)
            ),
            None => unknown(layer, known, path),
        }
    }

    /// Finds the key of `layer` that made the merged config unreadable, by adding one at a time.
    fn blame<C: DeserializeOwned>(
        &self,
        layer: &Layer,
        before: &Table,
        message: &str,
    ) -> anyhow::Error {
        let mut found = None;
        self.leaves(&layer.table, &mut Vec::new(), &mut |path, value| {
            if found.is_some() {
                return;
            }
            let mut probe = before.clone();
            self.merge(&mut probe, &nest(path, value.clone()));
            if let Err(message) = read::<C>(&probe) {
                let key = path.join(".");
                // The value is told already.
                let wanted = message.strip_prefix("found ");
                let message = match wanted.and_then(|m| m.rsplit_once(", expected ")) {
                    Some((_, wanted)) => format!("expected {wanted}"),
                    None => message,
                };
                found = Some(anyhow!(
                    "{}: key `{key}` is {}: {message}",
                    layer.origin.at(path),
                    describe(value)
                ));
            }
        });
        found.unwrap_or_else(|| anyhow!("{}: {message}", layer.origin.name()))
    }

    fn leaves(
        &self,
        table: &Table,
        path: &mut Vec<String>,
        visit: &mut impl FnMut(&[String], &Value),
    ) {
        for (key, value) in table {
            path.push(key.clone());
            match value {
                Value::Table(inner) if !inner.is_empty() && !self.is_choice(key) => {
                    self.leaves(inner, path, visit);
                }
                _ => visit(path, value),
            }
            path.pop();
        }
    }
}

fn unknown(layer: &Layer, known: &Table, path: &[String]) -> String {
    let Some((key, parent)) = path.split_last() else {
        return layer.origin.name();
    };
    let full = |k: &str| {
        let mut p = parent.to_vec();
        p.push(k.to_string());
        format!("`{}`", p.join("."))
    };
    let close: Vec<_> = known
        .keys()
        .filter(|k| is_close(key, k))
        .map(|k| full(k))
        .collect();
    let expected = if close.is_empty() {
        let all: Vec<_> = known.keys().map(|k| full(k)).collect();
        format!("expected one of {}", all.join(", "))
    } else {
        format!("expected {}", close.join(" or "))
    };
    format!(
        "{}: unknown key {}, {expected}",
        layer.origin.at(path),
        full(key)
    )
}

/// The defaults are the list of keys, so a key of `C` that they lack is our own mistake.
fn check_complete<C: Serialize>(defaults: &Layer, config: &C) -> Result<()> {
    let table = Table::try_from(config).context("config: cannot be written as TOML")?;
    for key in table.keys() {
        if !defaults.table.contains_key(key) {
            bail!(
                "{}: key `{key}` is missing, expected every key of the config",
                defaults.origin.name()
            );
        }
    }
    Ok(())
}

fn nest(path: &[String], value: Value) -> Table {
    let mut value = value;
    for key in path.iter().rev() {
        value = Value::Table(Table::from_iter([(key.clone(), value)]));
    }
    match value {
        Value::Table(table) => table,
        _ => Table::new(),
    }
}

fn describe(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => return "a table".to_string(),
        Value::Array(items) if items.len() > 8 => return format!("an array of {}", items.len()),
        other => other.to_string().replace('\n', " "),
    };
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// Levenshtein distance at most 2 (and less than the word), or one name starts with the other.
pub fn is_close(a: &str, b: &str) -> bool {
    if a.len() >= 3 && (b.starts_with(a) || a.starts_with(b) && b.len() >= 3) {
        return true;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut count = 0;
    for (i, x) in a.chars().enumerate() {
        count = i + 1;
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()] <= 2 && row[b.len()] < count
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

fn line_of_key(text: &str, path: &[String]) -> Option<usize> {
    let root = toml::de::DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut line = None;
    for name in path {
        let (key, value) = table
            .iter()
            .find(|(k, _)| k.get_ref().as_ref() == name.as_str())?;
        line = Some(line_at(text, key.span().start));
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    line
}

/// Refuses a setting outside `least..=most`; NaN is outside.
///
/// # Errors
/// One line that names the key, what was found and what was expected.
pub fn within(key: &str, value: f64, least: f64, most: f64) -> Result<()> {
    if !(least..=most).contains(&value) {
        bail!("{key}: found {value}, expected a value from {least} to {most}");
    }
    Ok(())
}

/// Refuses a list that no curve can be drawn over, or in which a cell would appear twice.
///
/// # Errors
/// One line that names the key: an empty list, a value outside `least..=most`, values that do not increase.
pub fn increasing(key: &str, list: &[f64], least: f64, most: f64) -> Result<()> {
    if list.is_empty() {
        bail!("{key}: found no values, expected at least one");
    }
    for value in list {
        within(key, *value, least, most)?;
    }
    match list.windows(2).find(|w| w[1] <= w[0]) {
        Some(w) => bail!(
            "{key}: found {} after {}, expected increasing values",
            w[1],
            w[0]
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
