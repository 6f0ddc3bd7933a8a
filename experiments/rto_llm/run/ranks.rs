//! The processes of a run: who this one is among them, and how all of them end where one cannot go on.
//!
//! Every rank takes the same steps in the same order. The first makes folders, saves and speaks; the others read what it has saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rto_bridge::collective::{Collective, Solo};
use rto_harness::{cli, interrupt};

use super::args::NAME;

/// What the ranks of a run speak through.
pub type Engine = Arc<dyn Collective>;

/// Whoever is not first waits so long before it speaks of its error: all ranks see most errors, and one line is enough.
const SPEAKS_AFTER: Duration = Duration::from_secs(2);

/// Where launchers say how many processes they have started: Open MPI's `mpirun`, those of the PMI family.
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

fn launched() -> usize {
    let size = |name: &&str| std::env::var(name).ok()?.parse().ok();
    SIZES.iter().find_map(size).unwrap_or(1)
}

/// The ranks this process was started among by `mpirun` or `srun`, or itself alone.
///
/// # Errors
/// MPI that cannot be begun; several processes of a program without MPI, each of which would do the whole run in one folder.
#[cfg(feature = "mpi")]
pub fn join(timeout: Duration) -> Result<Engine> {
    // `srun --mpi=pmix` says no size; alone, MPI is not begun, for it takes time and can fail.
    let several = launched() > 1 || std::env::var_os("PMIX_RANK").is_some();
    Ok(match several {
        true => Arc::new(rto_bridge::collective::Mpi::join(timeout)?),
        false => Arc::new(Solo),
    })
}

/// This process alone.
///
/// # Errors
/// Several processes of a program without MPI, each of which would do the whole run in one folder.
#[cfg(not(feature = "mpi"))]
pub fn join(_: Duration) -> Result<Engine> {
    match launched() {
        1 => Ok(Arc::new(Solo)),
        n => bail!(
            "started as one of {n} processes, but this program was built without MPI; build it with --features mpi"
        ),
    }
}

/// Does the work; an error or a panic on one rank ends all of them, with one line that says which.
pub fn all_or_none(engine: &Engine, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if engine.size() == 1 {
        return work();
    }
    // The launcher ends the ranks that are left by a signal, and has said why.
    interrupt::says_nothing();
    // The hook outlives the run, and MPI must be left when the run ends: it holds no rank alive.
    let (before, all) = (std::panic::take_hook(), Arc::downgrade(engine));
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        if let Some(all) = all.upgrade() {
            all.abort();
        }
    }));
    let done = work();
    if let Err(error) = &done {
        if engine.rank() > 0 {
            std::thread::sleep(SPEAKS_AFTER);
        }
        let (line, rank, size) = (cli::error_line(NAME, error), engine.rank(), engine.size());
        cli::note(&format!("{line} (rank {rank} of {size})"));
        engine.abort();
    }
    done
}

/// Refuses ranks that were given other things than the first.
pub fn check_same(engine: &Engine, what: &str, mine: &str) -> Result<()> {
    let all = engine.all_gather(mine.as_bytes())?;
    match all.iter().position(|theirs| *theirs != all[0]) {
        None => Ok(()),
        Some(rank) => bail!(
            "{what}: those of rank {rank} are not those of rank 0; start every rank with the same command"
        ),
    }
}

/// A path that the first rank knows, on every rank.
pub fn of_first(engine: &Engine, path: Option<&Path>) -> Result<PathBuf> {
    let mine = path.map(|p| std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf()));
    let mine = mine.unwrap_or_default();
    let mine = mine.to_str().context("the run folder is no text")?;
    let all = engine.all_gather(mine.as_bytes())?;
    let first = String::from_utf8(all.into_iter().next().unwrap_or_default());
    Ok(PathBuf::from(first.context("the run folder is no text")?))
}
