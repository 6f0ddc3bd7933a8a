//! One folder per run: config, versions, results, timings. Nothing in it is ever overwritten with
//! other contents, but for what a continued run adds to its timings. One program works in it at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::cli::note;
use crate::interrupt;
use crate::lock::{self, Hold, LOCK, Sharing};
use crate::machine::{self, Machine};
use crate::slurm::SLURM;
use crate::table::Table;
pub use crate::timings::Timings;

/// The folder of one run.
#[derive(Debug)]
pub struct RunDir {
    name: String,
    root: PathBuf,
    /// Files may be there already, with the same contents.
    resumable: bool,
    /// The lock that keeps others out of the folder meanwhile.
    hold: Option<Hold>,
    /// What is written through this value is written.
    writes: bool,
}

impl RunDir {
    /// Makes the folder: `out` if given, else the next free `runs/<name>-0001` under the current
    /// directory. Two processes never get the same numbered folder.
    ///
    /// # Errors
    /// When `out` is a file or a directory that holds anything, or cannot be made.
    pub fn create(name: &str, out: Option<&Path>) -> Result<Self> {
        let root = match out {
            Some(out) => claim(out)?,
            None => number(Path::new("runs"), name)?,
        };
        let hold = lock::hold(&root, Sharing::Alone)?;
        Ok(Self {
            name: name.to_string(),
            root,
            resumable: false,
            hold: Some(hold),
            writes: true,
        })
    }

    /// Makes the folder as [`RunDir::create`] does, with `config.toml` and `versions.json` in it; or goes on
    /// with the run in `out` when that was made by the same program with the same config. Files then may
    /// be there already with the same contents.
    ///
    /// # Errors
    /// As [`RunDir::create`]; one line naming the first setting, or the version, that differs; one line
    /// when another program works there.
    pub fn create_or_resume(
        name: &str,
        out: Option<&Path>,
        config: &impl Serialize,
    ) -> Result<Self> {
        Self::open(name, out, config, Sharing::Alone)
    }

    /// [`RunDir::create_or_resume`], where other shards of the run may work in the folder too.
    ///
    /// # Errors
    /// As [`RunDir::create_or_resume`].
    pub fn open(
        name: &str,
        out: Option<&Path>,
        config: &impl Serialize,
        sharing: Sharing,
    ) -> Result<Self> {
        let root = match out {
            Some(out) if holds_a_run(out) => out.to_path_buf(),
            // Another process may begin the same run between the two looks.
            Some(out) => claim(out).or_else(|e| match holds_a_run(out) {
                true => Ok(out.to_path_buf()),
                false => Err(e),
            })?,
            None => number(Path::new("runs"), name)?,
        };
        let hold = lock::hold(&root, sharing)?;
        let run = Self {
            name: name.to_string(),
            root,
            resumable: true,
            hold: Some(hold),
            writes: true,
        };
        run.check_config(config)?;
        run.check_versions()?;
        run.write_text(CONFIG, &run.config_text(config)?)?;
        run.write_versions(&BTreeMap::new())?;
        if sharing == Sharing::WithShards {
            Machine::this().record(&run.root)?;
        }
        run.tidy();
        interrupt::works_in(&run.root);
        Ok(run)
    }

    /// The folder of a run that another process of the same job has opened, and in which that one alone writes: what is written through
    /// this value is left to it.
    pub fn of_another(name: &str, root: &Path) -> Self {
        Self {
            name: name.to_string(),
            root: root.to_path_buf(),
            resumable: true,
            hold: None,
            writes: false,
        }
    }

    /// Whether this process writes in the folder.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Refuses a folder that is not a run of this program, in this version, with this config.
    ///
    /// # Errors
    /// One line naming what differs.
    pub fn verify(name: &str, dir: &Path, config: &impl Serialize) -> Result<()> {
        let run = Self {
            name: name.to_string(),
            root: dir.to_path_buf(),
            resumable: true,
            hold: None,
            writes: false,
        };
        atomic::read_text(&run.path(CONFIG))?;
        atomic::read_text(&run.path(VERSIONS))?;
        run.check_config(config)?;
        run.check_versions()
    }

    fn check_config(&self, config: &impl Serialize) -> Result<()> {
        let path = self.path(CONFIG);
        if let Ok(found) = fs::read_to_string(&path)
            && let Some(difference) = difference(&found, &self.config_text(config)?)
        {
            bail!(
                "{}: {difference}; a run continues with the settings it began with, and nothing was overwritten",
                path.display()
            );
        }
        Ok(())
    }

    fn check_versions(&self) -> Result<()> {
        let path = self.path(VERSIONS);
        if !path.is_file() {
            return Ok(());
        }
        let unreadable = |e: serde_json::Error| anyhow!("{}: not valid: {e}", path.display());
        let found: Versions =
            serde_json::from_str(&atomic::read_text(&path)?).map_err(unreadable)?;
        let ours = Versions::new(&self.name, found.extra.clone());
        if found != ours {
            bail!(
                "{}: made by {}, and this is {}; results of different programs are not mixed",
                path.display(),
                found.describe(),
                ours.describe()
            );
        }
        Ok(())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `file` of this run lies.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// Saves the resolved config as `config.toml`; `--config` reads it back.
    pub fn write_config(&self, config: &impl Serialize) -> Result<()> {
        self.write_text(CONFIG, &self.config_text(config)?)
    }

    fn config_text(&self, config: &impl Serialize) -> Result<String> {
        let path = self.path(CONFIG);
        toml::to_string(config)
            .map_err(|e| anyhow!("{}: cannot write as TOML: {e}", path.display()))
    }

    /// Saves a value as pretty JSON. Maps are written in the order the value gives, so use sorted ones.
    pub fn write_json(&self, file: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value)
            .with_context(|| format!("{}: cannot write as JSON", self.path(file).display()))?;
        text.push('\n');
        self.write_text(file, &text)
    }

    /// Saves a table as CSV.
    pub fn write_table(&self, file: &str, table: &Table) -> Result<()> {
        self.write_text(file, &table.to_csv())
    }

    /// Saves text under a new name.
    pub fn write_text(&self, file: &str, text: &str) -> Result<()> {
        if !self.writes {
            return Ok(());
        }
        if self.resumable {
            atomic::write_same(&self.path(file), text.as_bytes())
        } else {
            atomic::write_new(&self.path(file), text.as_bytes())
        }
    }

    /// Whether nobody else works in the folder meanwhile.
    pub(crate) fn is_alone(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::is_alone)
    }

    /// Adds to the timings the kinds of machine that worked on these runs, and says so when they and this one are several: the last digits
    /// may then differ from those of a run on one of them. (Of a run that was killed before it had timings, this machine alone is known.)
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn made_on_machines_of(&self, runs: &[PathBuf], timings: &mut Timings) -> Result<()> {
        timings.made_on(Machine::of_runs(runs)?);
        timings.made_on([Machine::this()]);
        if let Some(warning) = machine::warning(timings.machines()) {
            note(&warning);
        }
        Ok(())
    }

    /// Removes what killed processes left unfinished.
    pub fn tidy(&self) {
        atomic::remove_leftovers(&self.root, self.is_alone());
    }

    /// Saves `versions.json`: which program, revision and compiler made the run, plus `extra`.
    pub fn write_versions(&self, extra: &BTreeMap<String, String>) -> Result<()> {
        self.write_json(VERSIONS, &Versions::new(&self.name, extra.clone()))
    }

    /// Saves `timings.json`, the only file of a run that differs between two runs of one seed.
    ///
    /// A phase that is recorded there keeps its time: a process that goes on with a run adds what it did, and one that
    /// finds a finished run changes nothing.
    pub fn write_timings(&self, timings: &Timings) -> Result<()> {
        if !self.writes {
            return Ok(());
        }
        let path = self.path(TIMINGS);
        let mut all = match path.is_file() {
            true if self.resumable => Timings::read(&path)?,
            _ => Timings::new(),
        };
        let adds = all.add_missing(timings);
        if !adds && path.is_file() {
            return Ok(());
        }
        all.made_on([Machine::this()]);
        match self.resumable {
            true => {
                let text = serde_json::to_string_pretty(&all).context("timings")?;
                atomic::replace(&path, format!("{text}\n").as_bytes())
            }
            false => self.write_json(TIMINGS, &all),
        }
    }
}

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const VERSIONS: &str = "versions.json";
pub(crate) const TIMINGS: &str = "timings.json";

/// What made a run, as recorded when this package was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The binary.
    pub program: String,
    /// Version of the workspace.
    pub version: String,
    /// Git commit at build time, or `unknown`.
    pub git_revision: String,
    /// Whether tracked files differed from that commit when this package was last built: `true`,
    /// `false` or `unknown`. Edits elsewhere in the workspace since then are not seen.
    pub git_dirty: String,
    /// Compiler version.
    pub rustc: String,
    /// Target triple.
    pub target: String,
    /// What the binary adds, for example a checkpoint's hash.
    pub extra: BTreeMap<String, String>,
}

impl Versions {
    /// The versions of this build, for a binary called `program`.
    pub fn new(program: &str, extra: BTreeMap<String, String>) -> Self {
        Self {
            program: program.to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            git_revision: env!("RTO_GIT_REVISION").to_string(),
            git_dirty: env!("RTO_GIT_DIRTY").to_string(),
            rustc: env!("RTO_RUSTC").to_string(),
            target: env!("RTO_TARGET").to_string(),
            extra,
        }
    }

    /// The versions on one line.
    pub fn describe(&self) -> String {
        let changed = if self.git_dirty == "true" {
            " with changes"
        } else {
            ""
        };
        format!(
            "{} {} (revision {}{changed}, {}, {})",
            self.program, self.version, self.git_revision, self.rustc, self.target
        )
    }
}

/// Whether a folder holds a run whose settings and program are known.
pub(crate) fn is_run(dir: &Path) -> bool {
    dir.join(CONFIG).is_file() && dir.join(VERSIONS).is_file()
}

/// Refuses the run of another program.
///
/// # Errors
/// One line that names both programs.
pub fn check_program(name: &str, dir: &Path) -> Result<()> {
    let path = dir.join(VERSIONS);
    let text = atomic::read_text(&path)?;
    let found: Option<Versions> = serde_json::from_str(&text).ok();
    match found {
        Some(found) if found.program != name => bail!(
            "{}: holds a run of {}, expected one of {name}; nothing was overwritten",
            dir.display(),
            found.program
        ),
        // What is damaged is said where it is read.
        _ => Ok(()),
    }
}

/// Whether a run was begun here: its config is there, or a process is just writing it.
fn holds_a_run(dir: &Path) -> bool {
    if dir.join(CONFIG).is_file() {
        return true;
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    let mut names = entries.flatten().map(|entry| entry.file_name()).peekable();
    names.peek().is_some() && names.all(|name| name == CONFIG || is_plumbing(&name))
}

/// Whether a file says nothing about what a folder is for. A run that is submitted as one job has its scripts there before it begins.
fn is_plumbing(name: &OsStr) -> bool {
    name == LOCK || name == SLURM || name.to_str().is_some_and(atomic::is_temporary)
}

/// The first setting in which two configs differ, in words.
fn difference(found: &str, expected: &str) -> Option<String> {
    if found == expected {
        return None;
    }
    let parse = |text: &str| text.parse::<toml::Table>().ok();
    let (Some(found), Some(expected)) = (parse(found), parse(expected)) else {
        return Some("not a config of this program".to_string());
    };
    let show = |value: Option<&toml::Value>| value.map_or("absent".into(), |v| v.to_string());
    match first_difference(&found, &expected) {
        None => Some("written by another version of this program".to_string()),
        Some((key, found, expected)) => Some(format!(
            "`{key}` is {} there and {} now",
            show(found),
            show(expected)
        )),
    }
}

/// The first key, dotted in tables, whose values differ, with both.
type Differing<'a> = (String, Option<&'a toml::Value>, Option<&'a toml::Value>);

fn first_difference<'a>(
    found: &'a toml::Table,
    expected: &'a toml::Table,
) -> Option<Differing<'a>> {
    let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    for key in keys {
        match (found.get(key), expected.get(key)) {
            (Some(toml::Value::Table(found)), Some(toml::Value::Table(expected))) => {
                if let Some((inner, a, b)) = first_difference(found, expected) {
                    return Some((format!("{key}.{inner}"), a, b));
                }
            }
            (a, b) if a != b => return Some((key.clone(), a, b)),
            _ => {}
        }
    }
    None
}

fn claim(out: &Path) -> Result<PathBuf> {
    match fs::read_dir(out) {
        Ok(entries) => {
            if !entries.flatten().all(|e| is_plumbing(&e.file_name())) {
                bail!(
                    "--out {}: not empty, expected a new or empty directory; nothing was overwritten",
                    out.display()
                );
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => fs::create_dir_all(out)
            .map_err(|e| anyhow!("--out {}: cannot make the directory: {e}", out.display()))?,
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            bail!(
                "--out {}: is a file, expected a new or empty directory; nothing was overwritten",
                out.display()
            );
        }
        Err(e) => bail!("--out {}: cannot read the directory: {e}", out.display()),
    }
    Ok(out.to_path_buf())
}

/// The folder that a run would be made in now.
pub(crate) fn planned(name: &str, out: Option<&Path>) -> PathBuf {
    let base = Path::new("runs");
    out.map_or_else(
        || base.join(format!("{name}-{:04}", next_number(base, name))),
        Path::to_path_buf,
    )
}

/// The number after the highest that is in use; 1 where there is no folder yet.
fn next_number(base: &Path, name: &str) -> u32 {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let used = entries.filter_map(|entry| {
        let file = entry.file_name();
        let number = file.to_str()?.strip_prefix(name)?.strip_prefix('-')?;
        number.parse::<u32>().ok()
    });
    used.max().map_or(1, |used| used.saturating_add(1)).max(1)
}

fn number(base: &Path, name: &str) -> Result<PathBuf> {
    let fail = |e: std::io::Error| anyhow!("{}: cannot make a run directory: {e}", base.display());
    fs::create_dir_all(base).map_err(fail)?;
    let mut next = next_number(base, name);
    loop {
        let root = base.join(format!("{name}-{next:04}"));
        match fs::create_dir(&root) {
            Ok(()) => return Ok(root),
            // Another process took the number between our look and our step.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && next < u32::MAX => next += 1,
            Err(e) => return Err(fail(e)),
        }
    }
}

#[cfg(test)]
mod tests;
