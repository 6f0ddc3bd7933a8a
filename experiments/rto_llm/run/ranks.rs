//! The processes of a run: who this one is among them, and how all of them end where one cannot go on.
//!
//! Every rank takes the same steps in the same order. The first makes folders, saves and speaks; the others read what it has saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rto_bridge::collective::{Collective, Solo, speaks_after};
use rto_harness::{cli, interrupt};

use super::args::{Args, NAME};
use super::choices::CollectiveKind;
#[cfg(feature = "nccl")]
use super::config;

/// What the ranks of a run speak through.
pub type Engine = Arc<dyn Collective>;

/// Where launchers say how many processes they have started: Open MPI's `mpirun`, those of the PMI family, `srun`.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Where they say which of all a process is; the last is that of `torchrun`.
const RANKS: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "RANK"];

/// Where they say which of them, on its host, a process is; the last is that of `torchrun`.
const ON_HOST: [&str; 4] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
    "LOCAL_RANK",
];

/// The first of these that the environment has as a number.
fn number(names: &[&str]) -> Option<usize> {
    let number = |name: &&str| std::env::var(name).ok()?.parse().ok();
    names.iter().find_map(number)
}

fn launched() -> usize {
    number(&SIZES).unwrap_or(1)
}

/// The number of this process among those on its host.
pub fn on_host() -> usize {
    number(&ON_HOST).unwrap_or(0)
}

/// The ranks this process was started among by `mpirun` or `srun`, or itself alone.
///
/// # Errors
/// MPI or NCCL that cannot be begun; several processes of a program without them, each of which would do the whole run in one folder.
pub fn join(args: &Args) -> Result<Engine> {
    let timeout = Duration::from_secs(args.rank_timeout.into());
    match args.collective {
        CollectiveKind::Mpi if args.rendezvous.is_some() => {
            bail!("--rendezvous: is for --collective nccl; MPI's launcher says who meets")
        }
        CollectiveKind::Mpi => by_mpi(timeout),
        CollectiveKind::Nccl => by_nccl(args, timeout),
    }
}

#[cfg(feature = "mpi")]
fn by_mpi(timeout: Duration) -> Result<Engine> {
    // Alone, MPI is not begun, for it takes time and can fail.
    let launched = launched();
    if launched == 1 && std::env::var_os("PMIX_RANK").is_none() {
        return Ok(Arc::new(Solo));
    }
    let all = rto_bridge::collective::Mpi::join(timeout)?;
    if all.size() == 1 && launched > 1 {
        return Err(said_by_the_first(anyhow!(
            "started as one of {launched} processes, but MPI knows of this one alone, so that each would do the whole run; start them with mpirun of the MPI this program was built with, or with srun --mpi=pmix"
        )));
    }
    Ok(Arc::new(all))
}

#[cfg(not(feature = "mpi"))]
fn by_mpi(_: Duration) -> Result<Engine> {
    match launched() {
        1 => Ok(Arc::new(Solo)),
        n => Err(said_by_the_first(anyhow!(
            "started as one of {n} processes, but this program was built without MPI; build it with --features mpi"
        ))),
    }
}

/// An error that every process sees, of which no other knows: the first says it, the others end with its exit status alone, a little
/// later, for a launcher ends all of them with the one that ends first.
fn said_by_the_first(error: anyhow::Error) -> anyhow::Error {
    if let Some(rank @ 1..) = number(&RANKS) {
        // The launcher may end this one by a signal while it waits.
        interrupt::says_nothing();
        std::thread::sleep(speaks_after(rank));
        std::process::exit(1);
    }
    error
}

#[cfg(feature = "nccl")]
fn by_nccl(args: &Args, timeout: Duration) -> Result<Engine> {
    use rto_bridge::collective::Nccl;

    // Bad settings end here what they would end later.
    let device = config::resolve(args)?.device;
    let device = rto_bridge::device::device_of_process(&device, on_host())?;
    let Some(path) = &args.rendezvous else {
        let met = by_mpi(timeout)?;
        return Ok(Arc::new(Nccl::join(&device, met, timeout)?));
    };
    let size = number(&SIZES).or_else(|| number(&["WORLD_SIZE"]));
    let place = number(&RANKS).zip(size).context(
        "--rendezvous: the environment does not say which of how many processes this is; start them with mpirun or srun, or set RANK and WORLD_SIZE",
    )?;
    Ok(Arc::new(Nccl::join_by_file(&device, path, place, timeout)?))
}

#[cfg(not(feature = "nccl"))]
fn by_nccl(_: &Args, _: Duration) -> Result<Engine> {
    bail!("--collective nccl: this program was built without NCCL; build it with --features nccl")
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
        // All ranks see most errors.
        std::thread::sleep(speaks_after(engine.rank()));
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
