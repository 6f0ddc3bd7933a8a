//! Sweeps that can be stopped, continued and split: every cell of a sweep has an id and a file.
//!
//! A *cell* is the smallest piece of a sweep that is computed and kept: one setting with one
//! replicate, or a block of them. Its id (`demo/a/17`) names what it is, its rows depend on nothing
//! but the config and the id, and they are written to `cells/demo-a-17.csv` of the run folder whole or
//! not at all. A run that was killed therefore goes on with [`RunDir::create_or_resume`] and loses only
//! the cells that were being computed; several processes may work in one folder; and whoever reads the
//! cells back, in the order of the list of tasks, gets the same table.
//!
//! ```
//! use rto_harness::progress::Progress;
//! use rto_harness::run_dir::RunDir;
//! use rto_harness::sweep::{CellStore, Shard, Task};
//!
//! # let temp = std::env::temp_dir().join(format!("rto-harness-sweep-{}", std::process::id()));
//! # let out = temp.join("run");
//! let tasks: Vec<Task> = (0..5u64)
//!     .map(|i| Task::new(format!("demo/squares/{i}"), &["x", "square"], move || {
//!         Ok(vec![vec![i.into(), (i * i).into()]])
//!     }))
//!     .collect();
//! let config = std::collections::BTreeMap::from([("seed", 1)]);
//! let run = RunDir::create_or_resume("demo", Some(&out), &config)?;
//! let store = CellStore::open(&run)?;
//! // One process of two, as in a job array; then another one does the rest.
//! store.run(&tasks, "1/2".parse()?, &Progress::new(true))?;
//! assert_eq!(store.missing(&tasks), ["demo/squares/0", "demo/squares/2", "demo/squares/4"]);
//! store.run(&tasks, Shard::WHOLE, &Progress::new(true))?;
//! let table = store.collect("squares", &tasks)?;
//! assert_eq!(table.to_csv().lines().nth(3), Some("demo/squares/2,2,4"));
//! # std::fs::remove_dir_all(&temp)?;
//! # Ok::<(), anyhow::Error>(())
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use rayon::prelude::*;

use crate::atomic;
use crate::progress::Progress;
use crate::run_dir::RunDir;
use crate::table::{Cell, Table};

/// The folder of the cells inside a run folder.
pub const CELLS: &str = "cells";

type Rows = Vec<Vec<Cell>>;

/// One cell of a sweep: its id, its columns, and how its rows are computed.
///
/// The rows may depend on the config and the id alone: not on time, order, threads or other cells.
pub struct Task<'a> {
    id: String,
    columns: &'static [&'static str],
    group: Option<u64>,
    work: Box<dyn Fn() -> Result<Rows> + Send + Sync + 'a>,
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<'a> Task<'a> {
    /// A task.
    ///
    /// # Panics
    /// When the id has other characters than letters, digits, `_`, `.` and `/`: ids are the program's own,
    /// and become file names.
    pub fn new(
        id: impl Into<String>,
        columns: &'static [&'static str],
        work: impl Fn() -> Result<Rows> + Send + Sync + 'a,
    ) -> Self {
        let id = id.into();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_./".contains(c);
        assert!(
            !id.is_empty() && id.chars().all(plain),
            "id of a cell: {id}"
        );
        Self {
            id,
            columns,
            group: None,
            work: Box::new(work),
        }
    }

    /// The same task, in the share of all tasks of this group: cells that need the same costly thing, which is then made by one process.
    #[must_use]
    pub fn in_group(self, group: u64) -> Self {
        let group = Some(group);
        Self { group, ..self }
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A share `i/n` of the cells: every n-th one. Counting may start at 0 or at 1, as `0/n` and `n/n` are
/// the same share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// All cells.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Share `index` of `count`, counted from 0.
    ///
    /// # Panics
    /// When there is no such share.
    pub fn new(index: u64, count: u64) -> Self {
        assert!(index < count, "share {index} of {count}");
        Self { index, count }
    }

    /// Whether the cell at this place of the list belongs to the share.
    pub fn has(self, position: usize) -> bool {
        self.has_place(position as u64)
    }

    /// The tasks of the share: by their group where they have one, else by their place in the list.
    pub fn of<'t, 'a>(self, tasks: &'t [Task<'a>]) -> impl Iterator<Item = &'t Task<'a>> {
        let place = |i: usize, task: &Task<'_>| task.group.unwrap_or(i as u64);
        let mine = tasks.iter().enumerate();
        mine.filter(move |(i, task)| self.has_place(place(*i, task)))
            .map(|(_, task)| task)
    }

    fn has_place(self, place: u64) -> bool {
        place % self.count == self.index % self.count
    }

    /// Whether this is all cells.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, count)) if count >= 1 && index <= count => Ok(Self { index, count }),
            _ => bail!("found `{text}`, expected i/n with i from 0 to n - 1, or from 1 to n"),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The finished cells of a run, one CSV file each.
#[derive(Debug)]
pub struct CellStore {
    dir: PathBuf,
    /// Whether nobody else works in the run folder meanwhile.
    alone: bool,
}

impl CellStore {
    /// The store of a run folder; makes `cells/` when it is not there.
    pub fn open(run: &RunDir) -> Result<Self> {
        let dir = run.path(CELLS);
        fs::create_dir_all(&dir)
            .map_err(|e| anyhow!("{}: cannot make the directory: {e}", dir.display()))?;
        let alone = run.is_alone();
        Ok(Self { dir, alone })
    }

    /// The file of a cell.
    pub fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{}.csv", id.replace('/', "-")))
    }

    /// Computes the cells of a share that are not there yet, in parallel, and keeps each as it is done.
    /// Returns how many were computed.
    ///
    /// # Errors
    /// The first error of a cell, with its id; what other cells finished stays. A cell that another
    /// process wrote meanwhile with other contents.
    pub fn run(&self, tasks: &[Task<'_>], shard: Shard, progress: &Progress) -> Result<usize> {
        check_ids(tasks);
        let (kept, todo): (Vec<&Task>, Vec<&Task>) = shard
            .of(tasks)
            .partition(|task| self.path(&task.id).is_file());
        let bar = progress.bar((kept.len() + todo.len()) as u64, "computing cells");
        bar.restored(kept.len() as u64);
        // One by one: cells differ in cost, and a long run of them must not wait for one thread.
        todo.par_iter()
            .with_max_len(1)
            .try_for_each(|task| -> Result<()> {
                let rows = (task.work)().with_context(|| task.id.clone())?;
                self.put(task, rows)?;
                bar.inc(1);
                Ok(())
            })?;
        Ok(todo.len())
    }

    fn put(&self, task: &Task<'_>, rows: Rows) -> Result<()> {
        let mut table = Table::new(&task.id, task.columns);
        rows.into_iter().for_each(|row| table.push(row));
        atomic::write_same(&self.path(&task.id), table.to_csv().as_bytes())
    }

    /// The ids of the cells that are not there yet, in order.
    pub fn missing<'t>(&self, tasks: &'t [Task<'_>]) -> Vec<&'t str> {
        let absent = tasks.iter().filter(|task| !self.path(&task.id).is_file());
        absent.map(Task::id).collect()
    }

    /// The ids of the cells that none of these runs has, in order.
    pub fn missing_in<'t>(runs: &[PathBuf], tasks: &'t [Task<'_>]) -> Vec<&'t str> {
        let stores: Vec<Self> = runs.iter().map(|run| Self::inside(run)).collect();
        let has = |task: &&Task| stores.iter().any(|s| s.path(&task.id).is_file());
        let absent = tasks.iter().filter(|task| !has(task));
        absent.map(Task::id).collect()
    }

    fn inside(run: &Path) -> Self {
        Self {
            dir: run.join(CELLS),
            alone: false,
        }
    }

    /// The rows of all tasks in their order, with the cell's `id` before the other columns.
    ///
    /// # Errors
    /// A missing cell, an unreadable one, or one with other columns.
    ///
    /// # Panics
    /// When the tasks have different columns.
    pub fn collect(&self, name: &str, tasks: &[Task<'_>]) -> Result<Table> {
        let columns = tasks.first().map_or(&[][..], |task| task.columns);
        let mut all = Table::new(name, &[&["id"], columns].concat());
        for task in tasks {
            assert_eq!(task.columns, columns, "columns of {}", task.id);
            let path = self.path(&task.id);
            let again = "delete it, and it will be computed again";
            let table = Table::from_csv(&path).with_context(|| format!("cell {}", task.id))?;
            if table.columns() != columns {
                bail!(
                    "{}: found columns {}, expected {}; {again}",
                    path.display(),
                    table.columns().join(","),
                    columns.join(",")
                );
            }
            for row in table.rows() {
                all.push([task.id.as_str().into()].into_iter().chain(row.clone()));
            }
        }
        Ok(all)
    }

    /// Takes over the cells of another run that are in the list; returns how many were new here.
    ///
    /// # Errors
    /// When both have a cell with different contents.
    pub fn copy_from(&self, run: &Path, tasks: &[Task<'_>]) -> Result<usize> {
        let other = Self::inside(run);
        let mut new = 0;
        for task in tasks {
            let (from, to) = (other.path(&task.id), self.path(&task.id));
            if from.is_file() {
                new += usize::from(!to.is_file());
                atomic::write_same(&to, &atomic::read_bytes(&from)?)?;
            }
        }
        Ok(new)
    }

    /// Removes what killed processes left unfinished.
    pub fn tidy(&self) {
        atomic::remove_leftovers(&self.dir, self.alone);
    }
}

fn check_ids(tasks: &[Task<'_>]) {
    let mut files: Vec<String> = tasks.iter().map(|t| t.id.replace('/', "-")).collect();
    files.sort_unstable();
    if let Some(pair) = files.windows(2).find(|pair| pair[0] == pair[1]) {
        panic!("two cells share the file {}", pair[0]);
    }
}

#[cfg(test)]
mod tests;
