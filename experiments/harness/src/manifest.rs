//! `figures/manifest.toml`: how every committed figure was made, so that anyone can make it again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::atomic;

/// Where the manifest lies below the repository's root.
pub const MANIFEST: &str = "figures/manifest.toml";

/// One figure. Paths are relative to the repository's root, with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The figure's `.svg` or `.png`; both exist, and naming one covers both.
    pub file: String,
    /// The data it is drawn from.
    pub csv: String,
    /// The binary that made it.
    pub binary: String,
    /// The command that makes it again.
    pub command: String,
    /// The config of the run.
    pub config: String,
    /// The seed of the run.
    pub seed: u64,
}

/// All committed figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The entries, `[[figure]]` in the file.
    #[serde(default, rename = "figure")]
    pub figures: Vec<Entry>,
}

impl Manifest {
    /// Reads the manifest below `root`.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join(MANIFEST);
        let text = atomic::read_text(&path)?;
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            let start = e.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|&b| b == b'\n').count();
            anyhow!(
                "{}:{line}: {}",
                path.display(),
                e.message().replace('\n', " ")
            )
        })
    }

    /// Writes the manifest below `root`, sorted by file, replacing the old one.
    pub fn save(&self, root: &Path) -> Result<()> {
        let path = root.join(MANIFEST);
        let mut sorted = self.clone();
        sorted.figures.sort_by(|a, b| a.file.cmp(&b.file));
        let text = toml::to_string(&sorted)
            .with_context(|| format!("{}: cannot write", path.display()))?;
        fs::create_dir_all(root.join("figures"))
            .map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))?;
        atomic::replace(&path, text.as_bytes())
    }

    /// Adds an entry, replacing the one of the same figure.
    pub fn upsert(&mut self, entry: Entry) {
        self.figures
            .retain(|old| stem(&old.file) != stem(&entry.file));
        self.figures.push(entry);
    }

    /// Checks the manifest below `root` against the files.
    ///
    /// # Errors
    /// One line with everything that is wrong: a figure (SVG or PNG), CSV or config that does not
    /// exist, a figure listed twice, or a figure in `figures/` that no entry names.
    pub fn check(root: &Path) -> Result<()> {
        let manifest = Self::load(root)?;
        let mut problems = Vec::new();
        let mut listed = BTreeSet::new();
        for entry in &manifest.figures {
            let Some(stem) = stem(&entry.file) else {
                problems.push(format!("`{}` is not a .svg or .png file", entry.file));
                continue;
            };
            if !listed.insert(stem.to_string()) {
                problems.push(format!("`{}` is listed twice", entry.file));
            }
            let files = [
                format!("{stem}.svg"),
                format!("{stem}.png"),
                entry.csv.clone(),
                entry.config.clone(),
            ];
            for file in files {
                if !root.join(&file).is_file() {
                    problems.push(format!(
                        "`{file}` of figure `{}` does not exist",
                        entry.file
                    ));
                }
            }
        }
        let mut found = Vec::new();
        walk(&root.join("figures"), "figures", &mut found)?;
        for file in found {
            if stem(&file).is_some_and(|stem| !listed.contains(stem)) {
                problems.push(format!("`{file}` is not listed"));
            }
        }
        if !problems.is_empty() {
            bail!("{}: {}", root.join(MANIFEST).display(), problems.join("; "));
        }
        Ok(())
    }
}

fn stem(file: &str) -> Option<&str> {
    file.strip_suffix(".svg")
        .or_else(|| file.strip_suffix(".png"))
}

fn walk(dir: &Path, name: &str, found: &mut Vec<String>) -> Result<()> {
    let fail = |e: std::io::Error| anyhow!("{}: cannot read: {e}", dir.display());
    let mut entries = fs::read_dir(dir)
        .map_err(fail)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &name, found)?;
        } else {
            found.push(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
