//! One folder per run: config, versions, results, timings. Nothing in it is ever overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use crate::atomic;
use crate::table::Table;

/// The folder of one run.
#[derive(Debug)]
pub struct RunDir {
    name: String,
    root: PathBuf,
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
        Ok(Self {
            name: name.to_string(),
            root,
        })
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
        let text = toml::to_string(config).map_err(|e| {
            anyhow!(
                "{}: cannot write as TOML: {e}",
                self.path("config.toml").display()
            )
        })?;
        self.write_text("config.toml", &text)
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
        atomic::write_new(&self.path(file), text.as_bytes())
    }

    /// Saves `versions.json`: which program, revision and compiler made the run, plus `extra`.
    pub fn write_versions(&self, extra: &BTreeMap<String, String>) -> Result<()> {
        self.write_json("versions.json", &Versions::new(&self.name, extra.clone()))
    }

    /// Saves `timings.json`, the only file of a run that differs between two runs of one seed.
    pub fn write_timings(&self, timings: &Timings) -> Result<()> {
        self.write_json("timings.json", timings)
    }
}

/// What made a run, as recorded when this package was built.
#[derive(Debug, Clone, Serialize)]
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
}

/// Wall-clock seconds of named phases, in the order they first ran.
#[derive(Debug, Default, Serialize)]
pub struct Timings {
    phases: Vec<Phase>,
}

#[derive(Debug, Serialize)]
struct Phase {
    name: String,
    seconds: f64,
}

impl Timings {
    /// No phases yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `f` and adds its time to the phase `name`.
    pub fn phase<T>(&mut self, name: &str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = f();
        self.add(name, start.elapsed());
        value
    }

    /// Adds a measured time to the phase `name`.
    pub fn add(&mut self, name: &str, time: Duration) {
        let seconds = time.as_secs_f64();
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += seconds,
            None => self.phases.push(Phase {
                name: name.to_string(),
                seconds,
            }),
        }
    }

    /// Seconds spent in the phase `name`, or 0.
    pub fn seconds(&self, name: &str) -> f64 {
        self.phases
            .iter()
            .find(|phase| phase.name == name)
            .map_or(0.0, |phase| phase.seconds)
    }
}

fn claim(out: &Path) -> Result<PathBuf> {
    match fs::read_dir(out) {
        Ok(mut entries) => {
            if entries.next().is_some() {
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

fn number(base: &Path, name: &str) -> Result<PathBuf> {
    let fail = |e: std::io::Error| anyhow!("{}: cannot make a run directory: {e}", base.display());
    fs::create_dir_all(base).map_err(fail)?;
    let mut next = 1;
    for entry in fs::read_dir(base).map_err(fail)? {
        let file = entry.map_err(fail)?.file_name();
        let used = file
            .to_str()
            .and_then(|f| f.strip_prefix(name)?.strip_prefix('-')?.parse::<u32>().ok());
        next = next.max(used.map_or(1, |used| used.saturating_add(1)));
    }
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
mod tests {
    use super::*;

    #[test]
    fn numbers_go_up_and_are_never_shared() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("runs");
        assert_eq!(number(&base, "a").unwrap(), base.join("a-0001"));
        fs::create_dir(base.join("a-0041")).unwrap();
        fs::create_dir(base.join("a-b-0090")).unwrap();
        let mut made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| number(&base, "a").unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        made.sort();
        let expected: Vec<_> = (42..50).map(|n| base.join(format!("a-{n:04}"))).collect();
        assert_eq!(made, expected);
    }

    #[test]
    fn out_must_be_new_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x/y");
        let run = RunDir::create("a", Some(&out)).unwrap();
        RunDir::create("a", Some(&out)).unwrap();
        run.write_text("a.txt", "hello").unwrap();
        let error = RunDir::create("a", Some(&out)).unwrap_err().to_string();
        assert!(
            error.contains("not empty") && error.contains("nothing was overwritten"),
            "{error}"
        );
        let error = RunDir::create("a", Some(&out.join("a.txt")))
            .unwrap_err()
            .to_string();
        assert!(error.contains("is a file"), "{error}");
        assert!(run.write_text("a.txt", "again").is_err());
    }

    #[test]
    fn files_are_written_and_the_config_knows_no_output_path() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let run = RunDir::create("prop32", Some(&out)).unwrap();
        run.write_config(&BTreeMap::from([("seed", 3)])).unwrap();
        run.write_versions(&BTreeMap::from([("checkpoint".into(), "none".into())]))
            .unwrap();
        let mut timings = Timings::new();
        assert_eq!(timings.phase("solve", || 5), 5);
        timings.add("solve", Duration::from_secs(2));
        run.write_timings(&timings).unwrap();
        assert!(timings.seconds("solve") >= 2.0 && timings.seconds("draw") == 0.0);
        assert_eq!(
            fs::read_to_string(run.path("config.toml")).unwrap(),
            "seed = 3\n"
        );
        let versions = fs::read_to_string(run.path("versions.json")).unwrap();
        let versions: serde_json::Value = serde_json::from_str(&versions).unwrap();
        assert_eq!(versions["program"], "prop32");
        assert_ne!(versions["git_revision"], "");
        assert_eq!(versions["extra"]["checkpoint"], "none");
    }
}
