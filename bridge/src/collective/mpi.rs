//! Ranks that are processes, through the Message Passing Interface.

use std::fmt::{self, Debug, Formatter};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::request::{LocalScope, Request, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use mpi::{Count, Threading};

use super::{Collective, check_parts, speaks_after};
use crate::{Error, Result};

/// A rank among those that `mpirun` or `srun --mpi=pmix` started.
///
/// MPI waits for ever for a rank that is cut off. Here every call has a time-out; who runs into it gets an error, says it, and calls
/// [`Collective::abort`].
pub struct Mpi {
    rank: usize,
    size: usize,
    /// The longest wait for another rank.
    timeout: Duration,
    /// Messages of several threads must not mix: one call at a time.
    turn: Mutex<()>,
    /// MPI is left when it is dropped.
    _universe: Universe,
}

impl Debug for Mpi {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// Waits this long at full speed; after it, between short sleeps, so that a rank that waits for long leaves its core to others.
const EAGER: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_micros(50);

impl Mpi {
    /// Joins the ranks this process was started among. Once in a process.
    ///
    /// # Errors
    /// [`Error::Setting`] for a time-out of zero; [`Error::Request`] where MPI was begun before, or lets no thread call it.
    pub fn join(timeout: Duration) -> Result<Self> {
        if timeout.is_zero() {
            return Err(Error::Setting {
                field: "timeout",
                found: "0".into(),
                expected: "a time above 0".into(),
            });
        }
        let begun = mpi::initialize_with_threading(Threading::Serialized);
        let Some((universe, threading)) = begun else {
            return Err(Error::request("MPI", "was begun before in this process"));
        };
        if threading < Threading::Serialized {
            let why = format!("lets threads call it as {threading:?}, expected Serialized or more");
            return Err(Error::request("MPI", why));
        }
        let world = universe.world();
        Ok(Self {
            rank: world.rank() as usize,
            size: world.size() as usize,
            timeout,
            turn: Mutex::new(()),
            _universe: universe,
        })
    }

    /// Waits for a request, but not for ever.
    fn wait<'a, D: ?Sized>(&self, mut request: Request<'a, D, &LocalScope<'a>>) -> Result<()> {
        let start = Instant::now();
        loop {
            request = match request.test() {
                Ok(_) => return Ok(()),
                Err(request) => request,
            };
            let waited = start.elapsed();
            if waited > self.timeout {
                let why = format!(
                    "no answer of another rank within {:.0} s; the job is ended",
                    self.timeout.as_secs_f64()
                );
                std::thread::sleep(speaks_after(self.rank));
                eprintln!("error: rank {} of {}: {why}", self.rank, self.size);
                end_launcher();
                // The buffers of an open request cannot be given back, so nobody can go on from here.
                self.abort();
            }
            match waited > EAGER {
                true => std::thread::sleep(NAP),
                false => std::thread::yield_now(),
            }
        }
    }

    fn all_gather_of(&self, mine: &[u8], lengths: &[usize]) -> Result<Vec<u8>> {
        let (counts, starts) = places(lengths)?;
        let (held, mut all) = (Vec::<u8>::with_capacity(1), room(lengths));
        let mine = in_memory(mine, &held);
        let mut into = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
        let world = SimpleCommunicator::world();
        scope(|s| self.wait(world.immediate_all_gather_varcount_into(s, mine, &mut into)))?;
        Ok(all)
    }

    fn exchange_of(&self, out: &[u8], out_lengths: &[usize], lengths: &[usize]) -> Result<Vec<u8>> {
        let (out_counts, out_starts) = places(out_lengths)?;
        let (counts, starts) = places(lengths)?;
        let (held, mut all) = (Vec::<u8>::with_capacity(1), room(lengths));
        let out = in_memory(out, &held);
        let from = Partition::new(out, &out_counts[..], &out_starts[..]);
        let mut into = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
        let world = SimpleCommunicator::world();
        scope(|s| self.wait(world.immediate_all_to_all_varcount_into(s, &from, &mut into)))?;
        Ok(all)
    }
}

/// Ends the launcher of this process a little later, should the end of the job not end it.
///
/// Open MPI's `mpirun` waits for its daemon on a host that is cut off until TCP gives the connection up, a quarter of an hour with
/// Linux's settings, though no process of the job is left. It is killed, for a milder signal at this point makes it say that it has
/// crashed. Slurm's own daemons are left alone: they notice a lost host.
fn end_launcher() {
    const LAUNCHERS: &str = "mpirun mpiexec orterun orted prterun prted";
    const SCRIPT: &str = r#"sleep 3
        name=$(cat "/proc/$1/comm") || exit 0
        for launcher in $2; do [ "$name" = "$launcher" ] && kill -KILL "$1"; done"#;
    let launcher = std::os::unix::process::parent_id().to_string();
    // In a group of its own, for the launcher ends this one's. Without a shell the launcher waits, as it would have without us.
    let _ = Command::new("sh")
        .args(["-c", SCRIPT, "sh", &launcher, LAUNCHERS])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
}

/// Memory for messages of these lengths: a byte at least, for an empty slice may lie at the address by which MPI means `MPI_IN_PLACE`.
fn room(lengths: &[usize]) -> Vec<u8> {
    vec![0; lengths.iter().sum::<usize>().max(1)]
}

/// A message, or where it is empty the empty slice of memory that is held.
fn in_memory<'a>(message: &'a [u8], held: &'a [u8]) -> &'a [u8] {
    match message.is_empty() {
        true => held,
        false => message,
    }
}

/// Counts and starts of parts of these lengths, in the numbers MPI counts with.
fn places(lengths: &[usize]) -> Result<(Vec<Count>, Vec<Count>)> {
    let most = Count::MAX as usize;
    if lengths.iter().sum::<usize>() > most {
        let why = format!(
            "found {} bytes in one message, expected at most {most}",
            lengths.iter().sum::<usize>()
        );
        return Err(Error::request("MPI", why));
    }
    let counts = lengths.iter().map(|n| *n as Count).collect();
    let starts = lengths.iter().scan(0, |start, n| {
        let here = *start;
        *start += *n as Count;
        Some(here)
    });
    Ok((counts, starts.collect()))
}

/// Parts of these lengths.
fn cut(mut all: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let part = |n: &usize| {
        let (part, rest) = all.split_at(*n);
        all = rest;
        part.to_vec()
    };
    lengths.iter().map(part).collect()
}

const WORD: usize = size_of::<u64>();

fn words(bytes: &[u8]) -> Vec<usize> {
    let word = |w: &[u8]| u64::from_ne_bytes(w.try_into().expect("whole words")) as usize;
    bytes.chunks_exact(WORD).map(word).collect()
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        check_parts(parts, self.size)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let out_lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let said: Vec<u8> = out_lengths
            .iter()
            .flat_map(|n| (*n as u64).to_ne_bytes())
            .collect();
        let each = vec![WORD; self.size];
        let lengths = words(&self.exchange_of(&said, &each, &each)?);
        let all = self.exchange_of(&parts.concat(), &out_lengths, &lengths)?;
        Ok(cut(&all, &lengths))
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let said = (mine.len() as u64).to_ne_bytes();
        let lengths = words(&self.all_gather_of(&said, &vec![WORD; self.size])?);
        Ok(cut(&self.all_gather_of(mine, &lengths)?, &lengths))
    }

    fn abort(&self) -> ! {
        SimpleCommunicator::world().abort(1)
    }
}
